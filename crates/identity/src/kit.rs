//! What a party carries home from the authority: no secrets.

use std::path::Path;

use ciphertune_round::{Envelope, Signed, VerifyingKey};

use crate::{
    credentials::Credentials,
    endpoint::Endpoint,
    error::{Error, Result, malformed},
    file,
    manifest::Manifest,
};

const MANIFEST: &str = "manifest.bin";
const POLICY: &str = "policy.bin";
const ADDRESS: &str = "address.txt";
const MAX_ADDRESS_BYTES: u64 = 512;

/// The authority's certificate, the party's own, the revocation list, the manifest, the federation's policy, the server's
/// address: one folder with `ca.pem`, `cert.pem`, `crl.pem`, `manifest.bin`, `policy.bin`, `address.txt`.
///
/// What a kit says is believed after [`Kit::verify`], and its authority only once people compared the fingerprint of
/// its key by another way than the one that the kit came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kit {
    /// The authority's certificate, the party's, and the revocation list.
    pub credentials: Credentials,
    /// The manifest as the authority signed it.
    pub manifest: Envelope,
    /// The federation's policy as an officer signed it: who, `policy` and `round` know.
    pub policy: Envelope,
    /// Where the server listens.
    pub address: Endpoint,
}

impl Kit {
    /// Writes the kit into a folder, which is created if missing.
    pub fn write(&self, folder: &Path) -> Result<()> {
        self.credentials.write(folder)?;
        let address = format!("{}\n", self.address);
        for (name, bytes) in [
            (MANIFEST, self.manifest.encode().as_slice()),
            (POLICY, self.policy.encode().as_slice()),
            (ADDRESS, address.as_bytes()),
        ] {
            file::write(&folder.join(name), bytes, 0o644)?;
        }
        Ok(())
    }

    /// Whether a folder holds more than credentials: an officer's first kit does not, before there is a policy.
    pub fn is_whole(folder: &Path) -> bool {
        [MANIFEST, POLICY, ADDRESS]
            .iter()
            .any(|name| folder.join(name).exists())
    }

    /// Reads a kit. Each part is parsed; whether they belong together is asked by [`verify`](Self::verify).
    pub fn read(folder: &Path) -> Result<Self> {
        let envelope = |name: &str| -> Result<Envelope> {
            let path = folder.join(name);
            let bytes = file::read(&path, Envelope::MAX_BYTES as u64)?;
            Envelope::decode(&bytes).map_err(|error| malformed(&path.display().to_string(), error))
        };
        Ok(Self {
            credentials: Credentials::read(folder)?,
            manifest: envelope(MANIFEST)?,
            policy: envelope(POLICY)?,
            address: file::read_text(&folder.join(ADDRESS), MAX_ADDRESS_BYTES)?
                .trim_end()
                .parse()?,
        })
    }

    /// Verifies that the kit is for `own` key and of one piece, and returns its manifest: the authority signed the
    /// certificate, the list and the manifest; the list does not name the certificate; the manifest lists this very party; the
    /// address is the manifest's.
    pub fn verify(&self, own: &VerifyingKey) -> Result<Signed<Manifest>> {
        let peer = self.credentials.certificate().peer();
        self.credentials.check_key(own)?;
        if self.credentials.revocations().names(&peer.serial) {
            return Err(Error::Refused(format!(
                "the certificate of {} {} is revoked",
                peer.role, peer.name
            )));
        }
        let manifest = Manifest::verify(self.manifest.clone(), self.credentials.authority())?;
        match manifest.party(&peer.fingerprint) {
            Some(party) if party.name == peer.name && party.role == peer.role => {}
            Some(party) => {
                return Err(Error::Refused(format!(
                    "the certificate says {} {}, the manifest {} {}",
                    peer.role, peer.name, party.role, party.name
                )));
            }
            None => {
                return Err(Error::Refused(format!(
                    "the manifest does not list {} {}",
                    peer.role, peer.name
                )));
            }
        }
        if self.address != *manifest.endpoint() {
            return Err(Error::Refused(format!(
                "the kit's address is {}, the manifest's {}",
                self.address,
                manifest.endpoint()
            )));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeMap,
        fs,
        time::{Duration, UNIX_EPOCH},
    };

    use ciphertune_round::{Signer, label};

    use super::*;
    use crate::{
        Authority, Certificate, Name, Party, Reason, Request, Revocation, Role, SigningKey,
        Validity,
    };

    struct Fixture {
        authority: Authority,
        key: SigningKey,
        kit: Kit,
    }

    fn fixture() -> Fixture {
        let name = |text| Name::new(text).unwrap();
        let start = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let validity = Validity::days(start, 90).unwrap();
        let authority = Authority::create(&name("lab"), validity).unwrap();
        let (key, hub) = (
            SigningKey::generate().unwrap(),
            SigningKey::generate().unwrap(),
        );
        let request = Request::new(&name("north"), &key).unwrap();
        let certificate = authority
            .issue(&request, Role::Member, &[], validity)
            .unwrap();
        let party = |text, role, key: &SigningKey| Party {
            name: name(text),
            role,
            key: key.verifying_key(),
        };
        let parties = vec![
            party("hub", Role::Server, &hub),
            party("north", Role::Member, &key),
        ];
        let address: Endpoint = "localhost:4711".parse().unwrap();
        let manifest = Manifest::new(name("lab"), 1, start, parties, address.clone()).unwrap();
        let manifest = authority.sign_manifest(manifest).unwrap();
        let kit = Kit {
            credentials: credentials(&authority, certificate, false),
            manifest: manifest.envelope().clone(),
            policy: Envelope::sign(label::POLICY, b"unit".to_vec(), &hub),
            address,
        };
        Fixture {
            authority,
            key,
            kit,
        }
    }

    fn credentials(authority: &Authority, certificate: Certificate, revoked: bool) -> Credentials {
        let entry = Revocation {
            at: 1_800_000_000,
            reason: Reason::Superseded,
        };
        let serial = certificate.peer().serial.clone();
        let names: BTreeMap<_, _> = revoked.then_some((serial, entry)).into_iter().collect();
        let list = authority.revoke(&names, 1, *certificate.validity());
        let ca = authority.certificate().clone();
        Credentials::new(ca, certificate, list.unwrap()).unwrap()
    }

    #[test]
    fn a_kit_survives_its_folder_and_holds_no_secret() {
        let Fixture { key, kit, .. } = fixture();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kit");
        kit.write(&path).unwrap();
        let read = Kit::read(&path).unwrap();
        assert_eq!(read, kit);
        read.verify(&key.verifying_key()).unwrap();
        for entry in fs::read_dir(&path).unwrap() {
            let bytes = fs::read(entry.unwrap().path()).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains("PRIVATE"));
        }
    }

    #[test]
    fn a_kit_for_another_key_or_of_another_authority_is_refused() {
        let (north, other) = (fixture(), fixture());
        let refused = |kit: &Kit, key: &SigningKey| {
            matches!(kit.verify(&key.verifying_key()), Err(Error::Refused(_)))
        };
        assert!(!refused(&north.kit, &north.key));
        assert!(refused(&north.kit, &other.key));
        let mixed = Credentials::new(
            other.authority.certificate().clone(),
            north.kit.credentials.certificate().clone(),
            other.kit.credentials.revocations().clone(),
        );
        assert!(matches!(mixed, Err(Error::Refused(_))));
        let mut mixed = north.kit.clone();
        mixed.manifest = other.kit.manifest.clone();
        assert!(refused(&mixed, &north.key));
        let mut mixed = north.kit.clone();
        mixed.address = "localhost:4712".parse().unwrap();
        assert!(refused(&mixed, &north.key));
    }

    #[test]
    fn a_kit_whose_manifest_gives_another_role_is_refused() {
        let Fixture {
            authority,
            key,
            mut kit,
        } = fixture();
        let request = Request::new(&Name::new("north").unwrap(), &key).unwrap();
        let validity = *kit.credentials.certificate().validity();
        let certificate = authority
            .issue(&request, Role::Officer, &[], validity)
            .unwrap();
        kit.credentials = credentials(&authority, certificate, false);
        let Err(Error::Refused(reason)) = kit.verify(&key.verifying_key()) else {
            panic!("a member posed as an officer");
        };
        assert!(reason.contains("officer"), "{reason}");
    }

    #[test]
    fn a_kit_with_a_revoked_certificate_is_refused() {
        let Fixture {
            authority,
            key,
            mut kit,
        } = fixture();
        let certificate = kit.credentials.certificate().clone();
        kit.credentials = credentials(&authority, certificate, true);
        let refused = kit.verify(&key.verifying_key()).unwrap_err().to_string();
        assert!(refused.contains("member north is revoked"), "{refused}");
    }

    #[test]
    fn a_kit_with_a_part_missing_names_it() {
        let Fixture { kit, .. } = fixture();
        let folder = tempfile::tempdir().unwrap();
        for name in [MANIFEST, crate::credentials::REVOCATIONS] {
            kit.write(folder.path()).unwrap();
            assert!(Kit::is_whole(folder.path()));
            fs::remove_file(folder.path().join(name)).unwrap();
            let Err(Error::Fault(reason)) = Kit::read(folder.path()) else {
                panic!("a kit without {name} was read");
            };
            assert!(reason.contains(name));
        }
    }
}
