//! Who takes part: the federation's parties and where its server is.

use std::{
    collections::HashSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ciphertune_round::{
    Envelope, Fingerprint, Keyring, Object, Signed, VerifyingKey,
    label::{self, Label},
    message,
};
use prost::Message as _;

use crate::{
    certificate::AuthorityCertificate,
    endpoint::Endpoint,
    error::{Error, Result, malformed},
    name::{Name, Role},
};

/// One party: who it is, what it does, which key it signs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// Name.
    pub name: Name,
    /// Role.
    pub role: Role,
    /// Ed25519 public key.
    pub key: VerifyingKey,
}

impl Party {
    /// SHA-256 of the public key's bytes.
    pub fn fingerprint(&self) -> Fingerprint {
        self.key.fingerprint()
    }
}

/// The list of a federation's parties. However it came about, no name and no key is in it twice, it has exactly one
/// server and at least one member, at most [`Manifest::MAX_PARTIES`] parties.
///
/// A [`Signed<Manifest>`](Signed) was moreover signed by the authority: [`Manifest::verify`]. A manifest also is the
/// [`Keyring`] that everything of a round is verified with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    federation: Name,
    serial: u64,
    issued_at: u64,
    parties: Vec<Party>,
    endpoint: Endpoint,
}

const OBJECT: &str = "manifest";

impl Manifest {
    /// The most parties in one federation: a thousand members, and some to spare.
    pub const MAX_PARTIES: usize = 1200;

    /// The manifest of these parties, in this order; cohorts keep it.
    ///
    /// # Errors
    /// [`Error::Refused`], with the name, for what the type excludes.
    pub fn new(
        federation: Name,
        serial: u64,
        issued_at: SystemTime,
        parties: Vec<Party>,
        endpoint: Endpoint,
    ) -> Result<Self> {
        let issued_at = issued_at
            .duration_since(UNIX_EPOCH)
            .map_err(|_| Error::Misuse("a manifest issued before 1970".into()))?
            .as_secs();
        Self::of(federation, serial, issued_at, parties, endpoint)
    }

    fn of(
        federation: Name,
        serial: u64,
        issued_at: u64,
        parties: Vec<Party>,
        endpoint: Endpoint,
    ) -> Result<Self> {
        let refused = |reason: String| Err(Error::Refused(format!("{OBJECT}: {reason}")));
        if parties.len() > Self::MAX_PARTIES {
            return refused(format!("more than {} parties", Self::MAX_PARTIES));
        }
        let (mut names, mut keys) = (HashSet::new(), HashSet::new());
        for party in &parties {
            if !names.insert(&party.name) {
                return refused(format!("{} is in it twice", party.name));
            }
            if !keys.insert(party.key) {
                return refused(format!("the key of {} is in it twice", party.name));
            }
        }
        let count = |role| parties.iter().filter(|party| party.role == role).count();
        match count(Role::Server) {
            0 => return refused("no server".into()),
            1 => {}
            more => return refused(format!("{more} servers")),
        }
        if count(Role::Member) == 0 {
            return refused("no member".into());
        }
        Ok(Self {
            federation,
            serial,
            issued_at,
            parties,
            endpoint,
        })
    }

    /// Verifies the authority's signature, parses, checks.
    ///
    /// # Errors
    /// [`Error::Refused`] if another key signed it, if it is another federation's, if the authority's own key is among
    /// the parties', or for what the type excludes; [`Error::Malformed`] if it is no manifest.
    pub fn verify(envelope: Envelope, authority: &AuthorityCertificate) -> Result<Signed<Self>> {
        let key = *authority.key();
        let own = key.fingerprint();
        let keyring = move |signer: &Fingerprint| (*signer == own).then_some(key);
        let manifest = Signed::<Self>::verify(envelope, &keyring)?;
        if manifest.federation() != authority.federation() {
            return Err(Error::Refused(format!(
                "a manifest of {}, signed by the authority of {}",
                manifest.federation(),
                authority.federation()
            )));
        }
        if manifest.party(&own).is_some() {
            return Err(Error::Refused(
                "manifest: the authority's own key is a party's".into(),
            ));
        }
        Ok(manifest)
    }

    /// Whether this manifest may take the place of an `older` one: same federation, greater serial.
    pub fn check_succeeds(&self, older: &Self) -> Result<()> {
        if self.federation != older.federation || self.serial <= older.serial {
            return Err(Error::Refused(format!(
                "manifest {} of {} does not succeed manifest {} of {}",
                self.serial, self.federation, older.serial, older.federation
            )));
        }
        Ok(())
    }

    /// Federation.
    pub fn federation(&self) -> &Name {
        &self.federation
    }

    /// Grows with each manifest of a federation.
    pub fn serial(&self) -> u64 {
        self.serial
    }

    /// When the authority made it.
    pub fn issued_at(&self) -> SystemTime {
        UNIX_EPOCH
            .checked_add(Duration::from_secs(self.issued_at))
            .unwrap_or(UNIX_EPOCH)
    }

    /// Where the server listens.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// All parties, in order.
    pub fn parties(&self) -> &[Party] {
        &self.parties
    }

    /// The members, in order.
    pub fn members(&self) -> impl Iterator<Item = &Party> {
        self.with_role(Role::Member)
    }

    /// The parties with a role, in order.
    pub fn with_role(&self, role: Role) -> impl Iterator<Item = &Party> {
        self.parties.iter().filter(move |party| party.role == role)
    }

    /// The server. Every manifest has one; `Option` spares a panic.
    pub fn server(&self) -> Option<&Party> {
        self.with_role(Role::Server).next()
    }

    /// The party with this key, or `None` for a stranger.
    pub fn party(&self, fingerprint: &Fingerprint) -> Option<&Party> {
        self.parties
            .iter()
            .find(|party| party.fingerprint() == *fingerprint)
    }

    /// The party with this key, if it has this role.
    pub fn party_as(&self, fingerprint: &Fingerprint, role: Role) -> Option<&Party> {
        self.party(fingerprint).filter(|party| party.role == role)
    }

    /// The party with this name.
    pub fn party_named(&self, name: &Name) -> Option<&Party> {
        self.parties.iter().find(|party| party.name == *name)
    }

    fn parse_message(payload: &[u8]) -> Result<Self> {
        let raw = message::Manifest::decode(payload).map_err(|error| malformed(OBJECT, error))?;
        if raw.parties.len() > Self::MAX_PARTIES {
            return Err(Error::Refused(format!(
                "{OBJECT}: more than {} parties",
                Self::MAX_PARTIES
            )));
        }
        let party = |raw: &message::Party| -> Result<Party> {
            Ok(Party {
                name: Name::new(&raw.name)?,
                role: Role::of_message(raw.role)?,
                key: VerifyingKey::from_bytes(&raw.public_key)?,
            })
        };
        Self::of(
            Name::new(&raw.federation)?,
            raw.serial,
            raw.issued_at,
            raw.parties.iter().map(party).collect::<Result<_>>()?,
            raw.endpoint.parse()?,
        )
    }
}

impl Object for Manifest {
    const LABEL: Label = label::MANIFEST;

    fn parse(payload: &[u8]) -> ciphertune_round::Result<Self> {
        Self::parse_message(payload).map_err(|error| match error {
            Error::Refused(reason) => ciphertune_round::Error::Refused(reason),
            other => ciphertune_round::Error::Malformed {
                object: OBJECT,
                detail: other.to_string(),
            },
        })
    }

    fn serialise(&self) -> Vec<u8> {
        let party = |party: &Party| message::Party {
            name: party.name.to_string(),
            role: party.role.to_message().into(),
            public_key: party.key.as_bytes().to_vec(),
        };
        message::Manifest {
            federation: self.federation.to_string(),
            serial: self.serial,
            issued_at: self.issued_at,
            parties: self.parties.iter().map(party).collect(),
            endpoint: self.endpoint.to_string(),
        }
        .encode_to_vec()
    }
}

impl Keyring for Manifest {
    fn key(&self, fingerprint: &Fingerprint) -> Option<VerifyingKey> {
        self.party(fingerprint).map(|party| party.key)
    }
}

#[cfg(test)]
mod tests {
    use ciphertune_round::Signer;

    use super::*;
    use crate::{Authority, SigningKey, Validity};

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn party(text: &str, role: Role) -> Party {
        Party {
            name: name(text),
            role,
            key: SigningKey::generate().unwrap().verifying_key(),
        }
    }

    fn parties() -> Vec<Party> {
        vec![
            party("hub", Role::Server),
            party("north", Role::Member),
            party("anna", Role::Officer),
            party("east", Role::Member),
        ]
    }

    fn manifest(parties: Vec<Party>) -> Result<Manifest> {
        let issued_at = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let endpoint = "localhost:4711".parse().unwrap();
        Manifest::new(name("lab"), 7, issued_at, parties, endpoint)
    }

    fn authority() -> Authority {
        Authority::create(&name("lab"), Validity::days(UNIX_EPOCH, 9).unwrap()).unwrap()
    }

    fn reason<T: std::fmt::Debug>(result: Result<T>) -> String {
        match result {
            Err(Error::Refused(reason)) => reason,
            other => panic!("not refused: {other:?}"),
        }
    }

    #[test]
    fn a_manifest_survives_its_bytes_and_its_order() {
        let authority = authority();
        let signed = authority
            .sign_manifest(manifest(parties()).unwrap())
            .unwrap();
        let envelope = Envelope::decode(&signed.encode()).unwrap();
        let verified = Manifest::verify(envelope, authority.certificate()).unwrap();
        assert_eq!(verified, signed);
        let members: Vec<&str> = verified.members().map(|m| m.name.as_str()).collect();
        assert_eq!(members, ["north", "east"]);
        assert_eq!(verified.server().unwrap().name, name("hub"));
        let north = verified.party_named(&name("north")).unwrap();
        assert_eq!(verified.party(&north.fingerprint()), Some(north));
        assert!(
            verified
                .party_as(&north.fingerprint(), Role::Server)
                .is_none()
        );
        let stranger = SigningKey::generate()
            .unwrap()
            .verifying_key()
            .fingerprint();
        assert_eq!(verified.key(&stranger), None);
    }

    #[test]
    fn a_manifest_with_a_member_twice_is_refused() {
        let mut twice = parties();
        twice.push(party("north", Role::Member));
        assert!(reason(manifest(twice)).contains("north is in it twice"));
        let mut twice = parties();
        let key = twice[1].key;
        twice.push(Party {
            key,
            ..party("west", Role::Member)
        });
        assert!(reason(manifest(twice)).contains("key of west is in it twice"));
    }

    #[test]
    fn a_manifest_with_a_member_twice_is_refused_even_if_the_authority_signed_it() {
        let authority = authority();
        let good = manifest(parties()).unwrap();
        let mut raw = message::Manifest::decode(good.serialise().as_slice()).unwrap();
        raw.parties.push(raw.parties[1].clone());
        let signed = authority.sign_bytes(raw.encode_to_vec());
        let verified = Manifest::verify(signed, authority.certificate());
        assert!(reason(verified).contains("twice"));
    }

    #[test]
    fn a_manifest_without_a_server_or_with_two_or_without_a_member_is_refused() {
        let mut none = parties();
        none.remove(0);
        assert!(reason(manifest(none)).contains("no server"));
        let mut two = parties();
        two.push(party("hub-2", Role::Server));
        assert!(reason(manifest(two)).contains("2 servers"));
        let mut empty = parties();
        empty.retain(|party| party.role != Role::Member);
        assert!(reason(manifest(empty)).contains("no member"));
    }

    #[test]
    fn a_manifest_signed_by_another_authority_is_refused() {
        let (authority, other) = (authority(), authority());
        let signed = other.sign_manifest(manifest(parties()).unwrap()).unwrap();
        let verified = Manifest::verify(signed.envelope().clone(), authority.certificate());
        assert!(reason(verified).contains("signature"));
    }

    #[test]
    fn a_manifest_of_another_federation_is_refused() {
        let other = Authority::create(&name("ward"), Validity::days(UNIX_EPOCH, 9).unwrap());
        let other = other.unwrap();
        let manifest = manifest(parties()).unwrap();
        assert!(other.sign_manifest(manifest.clone()).is_err());
        let signed = other.sign_bytes(manifest.serialise());
        let verified = Manifest::verify(signed, other.certificate());
        assert!(reason(verified).contains("signed by the authority of ward"));
    }

    #[test]
    fn a_manifest_changed_by_one_bit_or_with_an_unknown_role_is_refused() {
        let authority = authority();
        let good = manifest(parties()).unwrap();
        let signed = authority.sign_manifest(good.clone()).unwrap();
        let bytes = signed.encode();
        for at in [5, bytes.len() / 2, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let verified = Envelope::decode(&changed)
                .map_err(Error::from)
                .and_then(|envelope| Manifest::verify(envelope, authority.certificate()));
            assert!(verified.is_err(), "byte {at}");
        }
        let mut raw = message::Manifest::decode(good.serialise().as_slice()).unwrap();
        raw.parties[3].role = 99;
        let signed = authority.sign_bytes(raw.encode_to_vec());
        let verified = Manifest::verify(signed, authority.certificate());
        assert!(matches!(verified, Err(Error::Malformed(_))));
    }

    #[test]
    fn only_a_later_manifest_succeeds() {
        let older = manifest(parties()).unwrap();
        let mut newer = older.clone();
        assert!(newer.check_succeeds(&older).is_err());
        newer.serial += 1;
        assert!(newer.check_succeeds(&older).is_ok());
        assert!(older.check_succeeds(&newer).is_err());
    }
}
