//! What a party shows, and what it holds others to.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use ciphertune_round::VerifyingKey;

use crate::{
    certificate::{AuthorityCertificate, Certificate},
    error::{Error, Result, fault},
    file,
    peer::Peer,
    revocation_list::RevocationList,
    validity::Validity,
};

pub(crate) const AUTHORITY: &str = "ca.pem";
pub(crate) const CERTIFICATE: &str = "cert.pem";
pub(crate) const REVOCATIONS: &str = "crl.pem";

/// A party's certificate, its authority's, and the authority's revocation list: all of one piece. What changes when a
/// certificate is renewed or another one revoked; the key stays. In a kit, and in a home's `identity/`, they are `cert.pem`,
/// `ca.pem` and `crl.pem`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    authority: AuthorityCertificate,
    certificate: Certificate,
    revocations: RevocationList,
}

/// How long before its end a certificate or a revocation list is warned of: a week.
pub const NOTICE: Duration = Duration::from_secs(7 * 86_400);

impl Credentials {
    /// Verifies that the authority signed certificate and list.
    ///
    /// # Errors
    /// As [`Certificate::verify`] and [`RevocationList::verify`].
    pub fn new(
        authority: AuthorityCertificate,
        certificate: Certificate,
        revocations: RevocationList,
    ) -> Result<Self> {
        certificate.verify(&authority)?;
        revocations.verify(&authority)?;
        Ok(Self {
            authority,
            certificate,
            revocations,
        })
    }

    /// Reads a folder's three files, and verifies them.
    ///
    /// # Errors
    /// As [`Credentials::new`], and for files that are missing or no such objects.
    pub fn read(folder: &Path) -> Result<Self> {
        Self::new(
            AuthorityCertificate::read(&folder.join(AUTHORITY))?,
            Certificate::read(&folder.join(CERTIFICATE))?,
            RevocationList::read(&folder.join(REVOCATIONS))?,
        )
    }

    /// Writes the three files into a folder, which is created if missing.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder)
            .map_err(|error| fault(&format!("creating {}", folder.display()), error))?;
        for (name, pem) in [
            (AUTHORITY, self.authority.pem()),
            (CERTIFICATE, self.certificate.pem()),
            (REVOCATIONS, self.revocations.pem()),
        ] {
            file::write(&folder.join(name), pem.as_bytes(), 0o644)?;
        }
        Ok(())
    }

    /// Whether the certificate is for `own` key.
    ///
    /// # Errors
    /// [`Error::Refused`] with whose it is.
    pub fn check_key(&self, own: &VerifyingKey) -> Result<()> {
        let peer = self.certificate.peer();
        if peer.key == *own {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "the kit is for another key: it is {} {}'s",
            peer.role, peer.name
        )))
    }

    /// These in the place of `older` ones, with the later of the two lists.
    ///
    /// # Errors
    /// [`Error::Refused`] for another authority, name, role or key, and as [`Credentials::with_newer`].
    pub fn after(&self, older: &Self) -> Result<Self> {
        let who = |it: &Self| {
            let peer = it.certificate.peer();
            (*it.authority.key(), peer.key, peer.role, peer.name.clone())
        };
        if who(self) != who(older) {
            let peer = self.certificate.peer();
            return Err(Error::Refused(format!(
                "the certificate of {} {} is another party's, another authority's or for another key",
                peer.role, peer.name
            )));
        }
        self.with_newer(&older.revocations)
    }

    /// The same with another list of the authority's, if that is later than its own: lists come by more than one way.
    ///
    /// # Errors
    /// As [`RevocationList::verify`]; [`Error::Refused`] for two lists with one number.
    pub fn with_newer(&self, list: &RevocationList) -> Result<Self> {
        match list.number() > self.revocations.number() {
            true => self.with_revocations(list.clone()),
            false if *list == self.revocations || list.number() < self.revocations.number() => {
                list.verify(&self.authority)?;
                Ok(self.clone())
            }
            false => Err(Error::Refused(format!(
                "there are two different revocation lists with the number {}: was the authority's home restored from a backup? \
                 Have it issue further ones (ciphertune identity crl) until the number is greater",
                list.number()
            ))),
        }
    }

    /// The same with a later list.
    ///
    /// # Errors
    /// As [`RevocationList::verify`] and [`RevocationList::check_succeeds`].
    pub fn with_revocations(&self, revocations: RevocationList) -> Result<Self> {
        revocations.check_succeeds(&self.revocations)?;
        let (authority, certificate) = (self.authority.clone(), self.certificate.clone());
        Self::new(authority, certificate, revocations)
    }

    /// What is to be said at `now` of what ended, ends within [`NOTICE`], or is revoked; each a sentence.
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        let mut said = Vec::new();
        let Peer {
            name, role, serial, ..
        } = self.certificate.peer();
        let soon = now.checked_add(NOTICE).unwrap_or(now);
        let wrong = |validity: &Validity| match (validity.contains(now), validity.contains(soon)) {
            (true, true) => None,
            (true, false) => Some(format!("ends at {}", validity.end())),
            (false, _) if validity.has_begun(now) => {
                Some(format!("does not hold: it ended at {}", validity.end()))
            }
            (false, _) => Some(format!(
                "does not hold yet: it begins at {} (is a clock wrong?)",
                validity.start()
            )),
        };
        if let Some(what) = wrong(self.authority.validity()) {
            said.push(format!(
                "the authority's certificate {what}: the federation needs another authority"
            ));
        }
        if let Some(what) = wrong(self.certificate.validity()) {
            said.push(format!(
                "the certificate of {role} {name} {what}: have the authority renew it (ciphertune identity renew {name}) and \
                 install the kit"
            ));
        }
        if self.revocations.names(serial) {
            said.push(format!(
                "the certificate of {role} {name} is revoked: ask the authority for another"
            ));
        }
        if let Some(what) = wrong(self.revocations.validity()) {
            said.push(format!(
                "revocation list {} {what}: have the authority issue the next (ciphertune identity crl)",
                self.revocations.number()
            ));
        }
        said
    }

    /// The authority's certificate.
    pub fn authority(&self) -> &AuthorityCertificate {
        &self.authority
    }

    /// The party's own.
    pub fn certificate(&self) -> &Certificate {
        &self.certificate
    }

    /// The authority's newest list, as far as this party knows.
    pub fn revocations(&self) -> &RevocationList {
        &self.revocations
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::UNIX_EPOCH};

    use super::*;
    use crate::{Authority, Name, Reason, Request, Revocation, Role, SigningKey, Validity};

    const DAY: u64 = 86_400;

    fn day(day: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + day * DAY)
    }

    fn days(days: u32) -> Validity {
        Validity::days(day(0), days).unwrap()
    }

    fn credentials(revoked: bool) -> (Authority, Credentials) {
        let authority = Authority::create(&Name::new("lab").unwrap(), days(365)).unwrap();
        let key = SigningKey::generate().unwrap();
        let request = Request::new(&Name::new("north").unwrap(), &key).unwrap();
        let certificate = authority
            .issue(&request, Role::Member, &[], days(90))
            .unwrap();
        let entry = Revocation {
            at: 1_800_000_000,
            reason: Reason::KeyCompromise,
        };
        let serial = certificate.peer().serial.clone();
        let revoked = revoked.then_some((serial, entry)).into_iter().collect();
        let list = authority.revoke(&revoked, 1, days(30)).unwrap();
        let ca = authority.certificate().clone();
        let credentials = Credentials::new(ca, certificate, list).unwrap();
        (authority, credentials)
    }

    #[test]
    fn an_end_is_warned_of_a_week_ahead() {
        let (_, credentials) = credentials(false);
        assert_eq!(credentials.warnings(day(22)), Vec::<String>::new());
        let said = credentials.warnings(day(24));
        assert_eq!(said.len(), 1);
        assert!(
            said[0].starts_with("revocation list 1 ends at 2027-"),
            "{said:?}"
        );
        let said = credentials.warnings(day(84)).join("\n");
        assert!(said.contains("member north ends at"), "{said}");
        assert!(said.contains("list 1 does not hold: it ended at"), "{said}");
        let ended = credentials.warnings(day(91));
        assert!(
            ended[0].contains("north does not hold: it ended"),
            "{ended:?}"
        );
        let early = day(0) - Duration::from_secs(60);
        let said = credentials.warnings(early).join("\n");
        assert!(said.contains("list 1 does not hold yet"), "{said}");
    }

    #[test]
    fn a_revoked_certificate_is_said_to_be() {
        let said = credentials(true).1.warnings(day(1));
        assert!(said[0].contains("is revoked"), "{said:?}");
    }

    #[test]
    fn an_older_list_or_another_authoritys_takes_no_place() {
        let (authority, credentials) = credentials(false);
        let list = |authority: &Authority, number| {
            let none = BTreeMap::new();
            authority.revoke(&none, number, days(30)).unwrap()
        };
        let later = credentials.with_revocations(list(&authority, 2)).unwrap();
        assert_eq!(later.revocations().number(), 2);
        assert!(later.with_revocations(list(&authority, 1)).is_err());
        let foreign = Authority::create(&Name::new("lab").unwrap(), days(365)).unwrap();
        assert!(credentials.with_revocations(list(&foreign, 3)).is_err());
        // The later list stays, whichever comes second.
        assert_eq!(later.after(&credentials).unwrap(), later);
        assert_eq!(credentials.after(&later).unwrap(), later);
        let twin = authority.revoke(&BTreeMap::new(), 2, days(31)).unwrap();
        let refused = later.with_newer(&twin).unwrap_err().to_string();
        assert!(refused.contains("two different"), "{refused}");
        let (_, other) = self::credentials(false);
        let refused = other.after(&credentials).unwrap_err().to_string();
        assert!(
            refused.contains("member north is another party's"),
            "{refused}"
        );
    }
}
