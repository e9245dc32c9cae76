//! A federation founded in a folder: an authority, a key for every party, the signed policy and manifest, and a home
//! with its kit for each.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt},
    path::{Path, PathBuf},
    time::SystemTime,
};

use ciphertune_client::site::Site;
use ciphertune_gauss::Entropy;
use ciphertune_identity::{
    AUTHORITY_DAYS, Authority, Credentials, Endpoint, Home, Kit, LEAF_DAYS, Manifest, Name, Party,
    Passphrase, Request, RevocationList, Role, SigningKey, Validity,
};
use ciphertune_round::{Envelope, PolicyDocument, Signed, Signer as _};
use rand_core::Rng as _;

use crate::error::{Error, Result};

/// The federation's name.
pub const NAME: &str = "demo";
/// Where the server keeps its kit, in its home.
pub const KIT: &str = "kit";

const OFFICER: &str = "officer";
const RESEARCHER: &str = "researcher";
const SERVER: &str = "server";

/// A founded federation.
pub struct Federation {
    /// The server.
    pub server: Resident,
    /// The members, in the manifest's order.
    pub members: Vec<Resident>,
    /// Who submits the job.
    pub researcher: Resident,
}

/// A party and where it lives.
#[derive(Clone, Debug)]
pub struct Resident {
    /// Its name.
    pub name: String,
    /// Its home.
    pub home: Home,
    /// The file with its key's pass-phrase, for its owner alone.
    pub passphrase: PathBuf,
}

/// A party whose key was made and whose certificate is still to come.
struct Applicant {
    resident: Resident,
    role: Role,
    key: SigningKey,
    passphrase: Passphrase,
}

impl Federation {
    /// Founds a federation of `members` under `root`, whose server listens on a port of this machine.
    pub fn found(root: &Path, members: usize, port: u16, policy: &str) -> Result<Self> {
        let name = Name::new(NAME)?;
        let now = SystemTime::now();
        let authority = Authority::create(&name, Validity::days(now, AUTHORITY_DAYS)?)?;
        folder(&root.join("authority"))?;
        let passphrase = new_passphrase(root, "authority")?;
        authority.save(&root.join("authority"), &Passphrase::read(&passphrase)?)?;

        let mut applicants = vec![
            Applicant::new(root, SERVER, Role::Server)?,
            Applicant::new(root, OFFICER, Role::Officer)?,
            Applicant::new(root, RESEARCHER, Role::Researcher)?,
        ];
        for member in 1..=members {
            let name = format!("member-{member}");
            applicants.push(Applicant::new(root, &name, Role::Member)?);
        }
        let endpoint: Endpoint = format!("127.0.0.1:{port}").parse()?;
        let parties = applicants
            .iter()
            .map(Applicant::party)
            .collect::<Result<Vec<_>>>()?;
        let manifest = Manifest::new(name, 1, now, parties, endpoint.clone())?;
        let manifest = authority.sign_manifest(manifest)?;
        let officer = applicants
            .iter()
            .find(|applicant| applicant.role == Role::Officer)
            .ok_or_else(|| Error::Fault("no officer".into()))?;
        let document = PolicyDocument {
            federation: NAME.into(),
            toml: policy.to_owned(),
        };
        let policy = Signed::sign(document, &officer.key).envelope().clone();

        let leaf = Validity::days(now, LEAF_DAYS)?;
        let revocations = authority.revoke(&BTreeMap::new(), 1, leaf)?;
        let (mut server, mut researcher, mut residents) = (None, None, Vec::new());
        for applicant in applicants {
            let kit = applicant.kit(
                &authority,
                (leaf, &revocations),
                manifest.envelope(),
                &policy,
                &endpoint,
            )?;
            match applicant.role {
                Role::Server => {
                    kit.write(&applicant.resident.home.root().join(KIT))?;
                    server = Some(applicant.resident);
                    continue;
                }
                Role::Researcher => researcher = Some(applicant.resident.clone()),
                Role::Member => residents.push(applicant.resident.clone()),
                _ => {}
            }
            Site::install(&applicant.resident.home, &applicant.passphrase, &kit, None)?;
        }
        match (server, researcher) {
            (Some(server), Some(researcher)) => Ok(Self {
                server,
                members: residents,
                researcher,
            }),
            _ => Err(Error::Fault("a party is missing".into())),
        }
    }
}

impl Resident {
    /// Opens the home.
    pub fn site(&self) -> Result<Site> {
        let passphrase = Passphrase::read(&self.passphrase)?;
        Ok(Site::open(self.home.clone(), &passphrase)?)
    }
}

impl Applicant {
    fn new(root: &Path, name: &str, role: Role) -> Result<Self> {
        let home = Home::new(root.join("parties").join(name));
        home.create()?;
        let path = new_passphrase(root, name)?;
        let passphrase = Passphrase::read(&path)?;
        let key = SigningKey::generate()?;
        key.save(&home.key(), &passphrase)?;
        Ok(Self {
            resident: Resident {
                name: name.to_owned(),
                home,
                passphrase: path,
            },
            role,
            key,
            passphrase,
        })
    }

    fn party(&self) -> Result<Party> {
        Ok(Party {
            name: Name::new(&self.resident.name)?,
            role: self.role,
            key: self.key.verifying_key(),
        })
    }

    /// Asks for a certificate as any party does, and packs the kit.
    fn kit(
        &self,
        authority: &Authority,
        (validity, revocations): (Validity, &RevocationList),
        manifest: &Envelope,
        policy: &Envelope,
        address: &Endpoint,
    ) -> Result<Kit> {
        let request = Request::new(&Name::new(&self.resident.name)?, &self.key)?;
        let request = Request::from_pem(request.pem())?;
        Ok(Kit {
            credentials: Credentials::new(
                authority.certificate().clone(),
                authority.issue(&request, self.role, &[], validity)?,
                revocations.clone(),
            )?,
            manifest: manifest.clone(),
            policy: policy.clone(),
            address: address.clone(),
        })
    }
}

/// Creates a folder for its owner alone.
pub fn folder(path: &Path) -> Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| Error::fault(format_args!("creating {}", path.display()), error))
}

/// 256 random bits in hexadecimal, in a file for its owner alone.
pub(crate) fn new_passphrase(root: &Path, name: &str) -> Result<PathBuf> {
    let passphrases = root.join("passphrases");
    folder(&passphrases)?;
    let mut bytes = [0; 32];
    Entropy::from_os()
        .map_err(|error| Error::fault("entropy", error))?
        .fill_bytes(&mut bytes);
    let path = passphrases.join(name);
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{}", hex::encode(bytes)))
        .map_err(|error| Error::fault(format_args!("writing {}", path.display()), error))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = include_str!("../../policies/laboratory-no-privacy.toml");

    #[test]
    fn every_party_of_a_founded_federation_opens_its_home_and_nobody_elses() {
        let root = tempfile::tempdir().unwrap();
        let founded = Federation::found(root.path(), 2, 4711, POLICY).unwrap();
        let site = founded.members[0].site().unwrap();
        assert_eq!(site.manifest().members().count(), 2);
        assert_eq!(site.manifest().endpoint().to_string(), "127.0.0.1:4711");
        assert_eq!(site.federation_policy().toml, POLICY);
        founded.researcher.site().unwrap();
        Kit::read(&founded.server.home.root().join(KIT)).unwrap();
        let foreign = Resident {
            passphrase: founded.members[1].passphrase.clone(),
            ..founded.members[0].clone()
        };
        assert!(foreign.site().is_err());
    }
}
