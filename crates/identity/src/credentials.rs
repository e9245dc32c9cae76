//! What a party shows, and what it holds others to.

use std::{
    fs,
    path::Path,
    time::{Duration, SystemTime},
};

use crate::{
    certificate::{AuthorityCertificate, Certificate},
    error::{Error, Result, fault},
    file,
    peer::Peer,
    revocation_list::RevocationList,
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

    /// Whether these may take the place of `older` ones: of the same authority, name, role and key, and a list that succeeds.
    ///
    /// # Errors
    /// [`Error::Refused`] with what differs.
    pub fn check_succeed(&self, older: &Self) -> Result<()> {
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
        self.revocations.check_succeeds(&older.revocations)
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
        let ends = |validity: &crate::Validity| match validity.contains(soon) {
            true => None,
            false if validity.contains(now) => Some("ends"),
            false => Some("does not hold: it ended"),
        };
        let (own, list) = (self.certificate.validity(), self.revocations.validity());
        if let Some(verb) = ends(own) {
            said.push(format!(
                "the certificate of {role} {name} {verb} at {}: have the authority renew it (ciphertune identity renew {name}) \
                 and install the kit",
                own.end()
            ));
        }
        if self.revocations.names(serial) {
            said.push(format!(
                "the certificate of {role} {name} is revoked: ask the authority for another"
            ));
        }
        if let Some(verb) = ends(list) {
            said.push(format!(
                "revocation list {} {verb} at {}: have the authority issue the next (ciphertune identity crl)",
                self.revocations.number(),
                list.end()
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
        assert!(credentials.warnings(day(91))[0].contains("north does not hold"));
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
        later.check_succeed(&credentials).unwrap();
        assert!(credentials.check_succeed(&later).is_err());
        let (_, other) = self::credentials(false);
        let refused = other.check_succeed(&credentials).unwrap_err().to_string();
        assert!(
            refused.contains("member north is another party's"),
            "{refused}"
        );
    }
}
