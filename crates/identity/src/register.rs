//! What an authority has issued: the files that it works from.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::ErrorKind,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use ciphertune_round::{Envelope, Signed};

use crate::{
    authority::Authority,
    certificate::{AuthorityCertificate, Certificate},
    endpoint::Endpoint,
    error::{Error, Result, fault},
    file,
    home::Home,
    manifest::{Manifest, Party},
    name::{Name, Role},
    peer::Serial,
    request::Request,
    revocation_list::{Reason, Revocation, RevocationList},
    validity::Validity,
};

const ISSUED: &str = "issued";
const REVOCATIONS: &str = "crl.pem";
const MANIFEST: &str = "manifest.bin";
const POLICY: &str = "policy.bin";
const LOCK: &str = "lock";

/// How long a revocation list is the newest, by default: a month.
pub const LIST_DAYS: u32 = 30;

/// And at most: with a longer one, nobody would notice for a quarter that the authority's lists no longer come.
pub const MAX_LIST_DAYS: u32 = 90;

/// An authority's folder, beside its key:
///
/// ```text
/// register/  issued/NUMBER-NAME-SERIAL.pem  crl.pem  manifest.bin  policy.bin
/// ```
///
/// Everything in it is public and was signed by the authority (the policy: by an officer), so nothing in it is believed
/// without a signature. Whoever has one open holds its lock: two commands never number two lists, or manifests, alike.
pub struct Register {
    folder: PathBuf,
    authority: AuthorityCertificate,
    /// In the order in which they were issued, whatever the clock said.
    issued: Vec<Certificate>,
    /// The number of the last of them: not how many there are, since a file may have been taken away.
    last: u64,
    revocations: RevocationList,
    manifest: Option<Signed<Manifest>>,
    _lock: File,
}

impl Register {
    /// A new authority's: nothing issued, an empty list that holds from `now`.
    ///
    /// # Errors
    /// [`Error::Misuse`] where there is one already.
    pub fn create(home: &Home, authority: &Authority, now: SystemTime) -> Result<Self> {
        let folder = home.register();
        if folder.join(REVOCATIONS).exists() {
            let said = format!("{} is an authority's register already", folder.display());
            return Err(Error::Misuse(said));
        }
        let issued = folder.join(ISSUED);
        fs::create_dir_all(&issued)
            .map_err(|error| fault(&format!("creating {}", issued.display()), error))?;
        let lock = lock(&folder)?;
        let list = authority.revoke(
            &BTreeMap::new(),
            1,
            list_validity(authority, now, LIST_DAYS)?,
        )?;
        file::write(&folder.join(REVOCATIONS), list.pem().as_bytes(), 0o644)?;
        Ok(Self {
            folder,
            authority: authority.certificate().clone(),
            issued: Vec::new(),
            last: 0,
            revocations: list,
            manifest: None,
            _lock: lock,
        })
    }

    /// Reads all of it and verifies every signature of the authority's.
    ///
    /// # Errors
    /// [`Error::Refused`] where a file is not the authority's, or another command has the register open;
    /// [`Error::Fault`] where there is no register.
    pub fn open(home: &Home) -> Result<Self> {
        let folder = home.register();
        if !folder.exists() {
            return Err(Error::Refused(format!(
                "{} is no authority's home: ciphertune identity init --authority FEDERATION makes one",
                home.root().display()
            )));
        }
        let lock = lock(&folder)?;
        let authority = AuthorityCertificate::read(&home.authority())?;
        let revocations = RevocationList::read(&folder.join(REVOCATIONS))?;
        revocations.verify(&authority)?;
        let manifest = match read_if_there(&folder.join(MANIFEST))? {
            Some(bytes) => Some(Manifest::verify(Envelope::decode(&bytes)?, &authority)?),
            None => None,
        };
        let issued = issued(&folder.join(ISSUED), &authority)?;
        Ok(Self {
            last: issued.last_key_value().map_or(0, |(number, _)| *number),
            issued: issued.into_values().collect(),
            folder,
            authority,
            revocations,
            manifest,
            _lock: lock,
        })
    }

    /// Whether a request may be approved in a role: its key and name are new, or are those of a certificate in that same
    /// role (a renewal).
    ///
    /// # Errors
    /// [`Error::Refused`] with what stands against it, and what to do.
    pub fn check(&self, request: &Request, role: Role) -> Result<Approval> {
        let name = request.name();
        let refused = |said: String| Err(Error::Refused(said));
        if self.is_compromised(request) {
            return refused(
                "this key was revoked as compromised: make another one (ciphertune identity init in an empty home)".into(),
            );
        }
        let others = self.issued.iter().filter(|it| it.peer().name != *name);
        let holder = others
            .filter(|it| it.peer().key == *request.key())
            .find(|it| {
                self.held_by(&it.peer().name)
                    .is_some_and(|held| held == *it)
            });
        if let Some(holder) = holder {
            return refused(format!(
                "the key of this request is {}'s: a party has a key of its own",
                holder.peer().name
            ));
        }
        let Some(held) = self.held_by(name) else {
            return Ok(self
                .revocation_of(request)
                .map_or(Approval::New, Approval::Again));
        };
        if held.peer().key != *request.key() {
            return refused(format!(
                "{name} has a certificate for another key ({}); if that key is lost or stolen: ciphertune identity revoke \
                 {name} --reason key-compromise, then approve this request",
                held.peer().fingerprint
            ));
        }
        if held.peer().role != role {
            return refused(format!(
                "{name} is {} already; if it is to be {}: ciphertune identity revoke {name} --reason affiliation-changed, then \
                 approve this request",
                held.peer().role.with_article(),
                role.with_article()
            ));
        }
        Ok(Approval::Renewal)
    }

    /// Why earlier certificates for a request's key were revoked, oldest first.
    fn revocations_of(&self, request: &Request) -> impl Iterator<Item = Reason> {
        let revoked = self.revocations.revoked();
        let key = *request.key();
        (self.issued.iter())
            .filter(move |it| it.peer().key == key)
            .filter_map(|it| Some(revoked.get(&it.peer().serial)?.reason))
    }

    fn revocation_of(&self, request: &Request) -> Option<Reason> {
        self.revocations_of(request).last()
    }

    fn is_compromised(&self, request: &Request) -> bool {
        (self.revocations_of(request)).any(|reason| reason == Reason::KeyCompromise)
    }

    /// Keeps a certificate that was just issued.
    pub fn keep_certificate(&mut self, certificate: Certificate) -> Result<PathBuf> {
        certificate.verify(&self.authority)?;
        let peer = certificate.peer();
        let path = self.folder.join(ISSUED);
        let number = self.last + 1;
        let path = path.join(format!("{number:06}-{}-{}.pem", peer.name, peer.serial));
        file::write(&path, certificate.pem().as_bytes(), 0o644)?;
        self.last = number;
        self.issued.push(certificate);
        Ok(path)
    }

    /// Revokes every certificate of a name, those that have ended too: the name has none then, and is in no further
    /// manifest. Returns the serial numbers that were not in the list, or are there for another reason now: a key that turns out
    /// to be compromised is worse than any other reason.
    ///
    /// # Errors
    /// [`Error::Refused`] if there is none.
    pub fn revoke(
        &mut self,
        authority: &Authority,
        name: &Name,
        reason: Reason,
        now: SystemTime,
    ) -> Result<Vec<Serial>> {
        let at = seconds(now);
        let mut revoked = self.revocations.revoked().clone();
        let mut changed = Vec::new();
        for certificate in self.issued.iter().filter(|it| it.peer().name == *name) {
            let serial = &certificate.peer().serial;
            let worse = |before: &Revocation| {
                reason == Reason::KeyCompromise && before.reason != Reason::KeyCompromise
            };
            match revoked.get_mut(serial) {
                None => drop(revoked.insert(serial.clone(), Revocation { at, reason })),
                // Since when it holds no longer stays as it was.
                Some(before) if worse(before) => before.reason = reason,
                Some(_) => continue,
            }
            changed.push(serial.clone());
        }
        if changed.is_empty() {
            return Err(Error::Refused(format!(
                "{name} has no certificate that could be revoked: it was never approved, or all are in the list"
            )));
        }
        self.next_list(authority, revoked, now, LIST_DAYS)?;
        Ok(changed)
    }

    /// Issues the next list, of the same certificates, for so many days.
    pub fn renew_list(
        &mut self,
        authority: &Authority,
        now: SystemTime,
        days: u32,
    ) -> Result<&RevocationList> {
        if days > MAX_LIST_DAYS {
            return Err(Error::Misuse(format!(
                "a revocation list holds for at most {MAX_LIST_DAYS} days: past its end nobody is let in until the next one is there, \
                 and that is what it is for"
            )));
        }
        let revoked = self.revocations.revoked().clone();
        self.next_list(authority, revoked, now, days)?;
        Ok(&self.revocations)
    }

    fn next_list(
        &mut self,
        authority: &Authority,
        revoked: BTreeMap<Serial, Revocation>,
        now: SystemTime,
        days: u32,
    ) -> Result<()> {
        let validity = list_validity(authority, now, days)?;
        let list = authority.revoke(&revoked, self.revocations.number() + 1, validity)?;
        file::write(&self.folder.join(REVOCATIONS), list.pem().as_bytes(), 0o644)?;
        self.revocations = list;
        Ok(())
    }

    /// Signs the next manifest: everybody with a certificate that was not revoked. Who was in the last one keeps the
    /// place; who is new follows, oldest first.
    ///
    /// # Errors
    /// As [`Manifest::new`].
    pub fn issue_manifest(
        &mut self,
        authority: &Authority,
        endpoint: Endpoint,
        now: SystemTime,
    ) -> Result<&Signed<Manifest>> {
        let before: Vec<Name> = (self.manifest.iter())
            .flat_map(|manifest| manifest.parties())
            .map(|party| party.name.clone())
            .collect();
        let mut names: Vec<Name> = Vec::new();
        for name in before
            .iter()
            .chain(self.issued.iter().map(|c| &c.peer().name))
        {
            if !names.contains(name) {
                names.push(name.clone());
            }
        }
        let parties = (names.iter().filter_map(|name| self.held_by(name)))
            .map(|certificate| Party {
                name: certificate.peer().name.clone(),
                role: certificate.peer().role,
                key: certificate.peer().key,
            })
            .collect();
        let serial = self.manifest.as_ref().map_or(0, |it| it.serial()) + 1;
        let federation = self.authority.federation().clone();
        let manifest = Manifest::new(federation, serial, now, parties, endpoint)?;
        let manifest = authority.sign_manifest(manifest)?;
        file::write(&self.folder.join(MANIFEST), &manifest.encode(), 0o644)?;
        Ok(self.manifest.insert(manifest))
    }

    /// The federation's policy that kits carry, as an officer signed it.
    pub fn policy(&self) -> Result<Option<Envelope>> {
        let bytes = read_if_there(&self.folder.join(POLICY))?;
        let envelope = bytes.map(|bytes| Envelope::decode(&bytes)).transpose()?;
        Ok(envelope)
    }

    /// Keeps it for the kits to come. Who signed it is for the caller to ask.
    pub fn keep_policy(&self, policy: &Envelope) -> Result<()> {
        file::write(&self.folder.join(POLICY), &policy.encode(), 0o644)
    }

    /// The certificate of a name that was issued last, unless it was revoked.
    pub fn held_by(&self, name: &Name) -> Option<&Certificate> {
        let last = self.issued.iter().rfind(|it| it.peer().name == *name)?;
        (!self.revocations.names(&last.peer().serial)).then_some(last)
    }

    /// Everything issued, oldest first.
    pub fn issued(&self) -> &[Certificate] {
        &self.issued
    }

    /// The list in force.
    pub fn revocations(&self) -> &RevocationList {
        &self.revocations
    }

    /// The last manifest.
    pub fn manifest(&self) -> Option<&Signed<Manifest>> {
        self.manifest.as_ref()
    }

    /// The authority's certificate.
    pub fn authority(&self) -> &AuthorityCertificate {
        &self.authority
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// What approving a request comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// A party that the authority does not know.
    New,
    /// A later certificate for the same name, key and role.
    Renewal,
    /// A certificate for a key whose earlier ones were revoked, for this reason.
    Again(Reason),
}

/// So many days, or what is left of the authority.
fn list_validity(authority: &Authority, now: SystemTime, days: u32) -> Result<Validity> {
    let validity = Validity::issued(now, days)?;
    let end = authority.certificate().validity().not_after();
    Validity::of_seconds(validity.not_before(), validity.not_after().min(end))
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

fn lock(folder: &Path) -> Result<File> {
    let path = folder.join(LOCK);
    let doing = format!("locking {}", path.display());
    let file = File::create(&path).map_err(|error| fault(&doing, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::Refused(format!(
            "another command has {} open: wait for it to end",
            folder.display()
        ))),
        Err(fs::TryLockError::Error(error)) => Err(fault(&doing, error)),
    }
}

/// By number.
fn issued(folder: &Path, authority: &AuthorityCertificate) -> Result<BTreeMap<u64, Certificate>> {
    let doing = || format!("reading {}", folder.display());
    let mut issued: BTreeMap<u64, Certificate> = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(|error| fault(&doing(), error))? {
        let path = entry.map_err(|error| fault(&doing(), error))?.path();
        if path.extension().is_some_and(|extension| extension == "pem") {
            let certificate = Certificate::read(&path)?;
            certificate.verify(authority)?;
            // Not by the time in them: two may be of one second, and a clock may have been wrong.
            let number = path.file_name().and_then(|name| name.to_str());
            let number = number.and_then(|name| name.split('-').next()?.parse().ok());
            let number = number.ok_or_else(|| {
                Error::Malformed(format!("{}: its name has no number", path.display()))
            })?;
            if issued.insert(number, certificate).is_some() {
                return Err(Error::Malformed(format!(
                    "{}: two certificates have the number {number}",
                    path.display()
                )));
            }
        }
    }
    Ok(issued)
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::metadata(path) {
        Ok(_) => file::read(path, Envelope::MAX_BYTES as u64).map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault(&format!("reading {}", path.display()), error)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ciphertune_round::Signer as _;

    use super::*;
    use crate::SigningKey;

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn day(day: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + day * 86_400)
    }

    struct Office {
        folder: tempfile::TempDir,
        authority: Authority,
        register: Option<Register>,
    }

    impl Office {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let home = Home::new(folder.path());
            let validity = Validity::days(day(0), 365).unwrap();
            let authority = Authority::create(&name("lab"), validity).unwrap();
            home.create().unwrap();
            file::write(
                &home.authority(),
                authority.certificate_pem().as_bytes(),
                0o644,
            )
            .unwrap();
            let register = Some(Register::create(&home, &authority, day(0)).unwrap());
            Self {
                folder,
                authority,
                register,
            }
        }

        fn home(&self) -> Home {
            Home::new(self.folder.path())
        }

        fn register(&mut self) -> &mut Register {
            self.register.as_mut().unwrap()
        }

        fn again(&mut self) -> &mut Register {
            self.register = None;
            self.register = Some(Register::open(&self.home()).unwrap());
            self.register()
        }

        fn approve(
            &mut self,
            who: &str,
            role: Role,
            key: &SigningKey,
            at: u64,
        ) -> Result<Approval> {
            let request = Request::new(&name(who), key).unwrap();
            let approval = self.register().check(&request, role)?;
            let validity = Validity::days(day(at), 90).unwrap();
            let certificate = self.authority.issue(&request, role, &[], validity)?;
            self.register().keep_certificate(certificate)?;
            Ok(approval)
        }

        fn manifest(&mut self) -> Vec<String> {
            let Self {
                register,
                authority,
                ..
            } = self;
            let register = register.as_mut().unwrap();
            let endpoint = "localhost:4711".parse().unwrap();
            let manifest = register
                .issue_manifest(authority, endpoint, day(1))
                .unwrap();
            let names = manifest.parties().iter();
            names.map(|party| party.name.to_string()).collect()
        }
    }

    fn key() -> SigningKey {
        SigningKey::generate().unwrap()
    }

    #[test]
    fn what_was_issued_and_revoked_is_there_again_and_makes_the_manifest() {
        let mut office = Office::new();
        let (hub, north, east) = (key(), key(), key());
        office.approve("hub", Role::Server, &hub, 0).unwrap();
        office.approve("north", Role::Member, &north, 1).unwrap();
        assert_eq!(office.manifest(), ["hub", "north"]);
        office.approve("east", Role::Member, &east, 2).unwrap();
        let renewed = office.approve("north", Role::Member, &north, 80).unwrap();
        assert_eq!(renewed, Approval::Renewal);
        assert_eq!(office.again().issued().len(), 4);
        assert_eq!(office.manifest(), ["hub", "north", "east"]);
        assert_eq!(office.register().manifest().unwrap().serial(), 2);

        let Office {
            register,
            authority,
            ..
        } = &mut office;
        let register = register.as_mut().unwrap();
        let revoked = register
            .revoke(
                authority,
                &name("north"),
                Reason::CessationOfOperation,
                day(85),
            )
            .unwrap();
        assert_eq!(revoked.len(), 2, "both of north's still hold");
        let again = register.revoke(authority, &name("north"), Reason::Superseded, day(85));
        assert!(matches!(again, Err(Error::Refused(_))));
        assert!(register.renew_list(authority, day(90), 91).is_err());
        let register = office.again();
        assert_eq!(register.revocations().number(), 2);
        assert!(revoked.iter().all(|it| register.revocations().names(it)));
        assert!(register.held_by(&name("north")).is_none());
        assert_eq!(office.manifest(), ["hub", "east"]);
        let Office {
            register,
            authority,
            ..
        } = &mut office;
        let register = register.as_mut().unwrap();
        let list = register.renew_list(authority, day(90), 7).unwrap();
        assert_eq!((list.number(), list.revoked().len()), (3, 2));
    }

    #[test]
    fn a_name_keeps_its_key_and_role_until_it_is_revoked() {
        let mut office = Office::new();
        let (north, other) = (key(), key());
        office.approve("north", Role::Member, &north, 0).unwrap();
        for (who, role, key, said) in [
            ("north", Role::Member, &other, "another key"),
            ("north", Role::Officer, &north, "is a member already"),
            ("east", Role::Member, &north, "is north's"),
        ] {
            let refused = office.approve(who, role, key, 1).unwrap_err().to_string();
            assert!(refused.contains(said), "{refused}");
        }
        let Office {
            register,
            authority,
            ..
        } = &mut office;
        let register = register.as_mut().unwrap();
        register
            .revoke(authority, &name("north"), Reason::KeyCompromise, day(1))
            .unwrap();
        let again = office.approve("north", Role::Member, &north, 2);
        assert!(again.unwrap_err().to_string().contains("compromised"));
        let approved = office.approve("north", Role::Member, &other, 2).unwrap();
        assert_eq!(approved, Approval::New);
    }

    #[test]
    fn who_was_renewed_past_a_first_certificate_is_gone_when_revoked() {
        let mut office = Office::new();
        let (hub, north, west, other) = (key(), key(), key(), key());
        office.approve("hub", Role::Server, &hub, 0).unwrap();
        office.approve("north", Role::Member, &north, 0).unwrap();
        office.approve("west", Role::Member, &west, 0).unwrap();
        office.approve("west", Role::Member, &west, 80).unwrap();
        let Office {
            register,
            authority,
            ..
        } = &mut office;
        let register = register.as_mut().unwrap();
        // Day 100: the first certificate has ended. Both go, and a worse reason later reaches both.
        for (reason, at) in [
            (Reason::CessationOfOperation, 100),
            (Reason::KeyCompromise, 101),
        ] {
            let revoked = register.revoke(authority, &name("west"), reason, day(at));
            assert_eq!(revoked.unwrap().len(), 2);
            assert!(register.held_by(&name("west")).is_none());
        }
        let since = register.revocations().revoked().values();
        assert!(since.clone().all(|it| it.reason == Reason::KeyCompromise));
        assert!(since.map(|it| it.at).all(|at| at == seconds(day(100))));
        assert_eq!(office.manifest(), ["hub", "north"]);
        assert!(office.approve("west", Role::Member, &west, 102).is_err());
        let approved = office.approve("west", Role::Member, &other, 102).unwrap();
        assert_eq!(approved, Approval::New);
        assert_eq!(
            office.again().held_by(&name("west")).unwrap().peer().key,
            other.verifying_key()
        );
    }

    #[test]
    fn the_certificate_that_was_issued_last_counts_whatever_the_clock_said() {
        let mut office = Office::new();
        let north = key();
        for at in [200, 5, 5] {
            office.approve("north", Role::Member, &north, at).unwrap();
        }
        let last = office.register().issued()[2].clone();
        assert_eq!(office.again().held_by(&name("north")), Some(&last));
        // A file that was taken away leaves a gap, and no number twice.
        let first = fs::read_dir(office.home().register().join(ISSUED)).unwrap();
        let first = first.map(|entry| entry.unwrap().path()).min().unwrap();
        fs::remove_file(first).unwrap();
        office.again();
        office.approve("north", Role::Member, &north, 6).unwrap();
        assert_eq!(office.again().issued().len(), 3);
    }

    #[test]
    fn a_key_that_left_may_come_back_and_it_is_said() {
        let mut office = Office::new();
        let north = key();
        office.approve("north", Role::Member, &north, 0).unwrap();
        let Office {
            register,
            authority,
            ..
        } = &mut office;
        let reason = Reason::CessationOfOperation;
        let register = register.as_mut().unwrap();
        register
            .revoke(authority, &name("north"), reason, day(1))
            .unwrap();
        let approved = office.approve("north", Role::Member, &north, 2).unwrap();
        assert_eq!(approved, Approval::Again(reason));
    }

    #[test]
    fn a_register_is_open_once_and_believes_no_file_that_the_authority_did_not_sign() {
        let mut office = Office::new();
        let Err(Error::Refused(said)) = Register::open(&office.home()) else {
            panic!("open twice");
        };
        assert!(said.contains("another command"), "{said}");
        let foreign =
            Authority::create(&name("lab"), Validity::days(day(0), 365).unwrap()).unwrap();
        let request = Request::new(&name("mole"), &key()).unwrap();
        let validity = Validity::days(day(0), 90).unwrap();
        let mole = foreign
            .issue(&request, Role::Member, &[], validity)
            .unwrap();
        let kept = office.register().keep_certificate(mole.clone());
        assert!(matches!(kept, Err(Error::Refused(_))));
        office.register = None;
        let place = office.home().register().join("issued/000009-mole-1.pem");
        fs::write(place, mole.pem()).unwrap();
        let opened = Register::open(&office.home());
        assert!(matches!(opened.err(), Some(Error::Refused(_))));
    }
}
