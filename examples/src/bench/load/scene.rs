//! A federation for a load: a server with a home, as any has, and members that are keys in memory. (Founding homes would take a
//! third of a second a member: a key's file is slow to open on purpose.)

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use ciphertune_identity::{
    AUTHORITY_DAYS, Authority, Certificate, Credentials, Endpoint, Home, Kit, LEAF_DAYS, Manifest,
    Name, Party, Passphrase, Request, RevocationList, Role, SigningKey, Validity, tls,
};
use ciphertune_policy::{Adjacency, Placement, Unit};
use ciphertune_round::{Deadlines, Digest, Job, Mechanism, PolicyDocument, Signed, Signer as _};
use rustls::ClientConfig;

use super::{PATIENCE, shape::Shape};
use crate::{
    Error, Result,
    federation::{KIT, folder, new_passphrase},
    setup::free_port,
};

const NAME: &str = "load";

/// Everybody who takes part.
pub struct Scene {
    /// The server's home; its data lie below it.
    pub server: Home,
    /// The file with the pass-phrase of the server's key.
    pub passphrase: PathBuf,
    /// Where it listens.
    pub address: Endpoint,
    /// Who is who.
    pub manifest: Signed<Manifest>,
    /// What is allowed.
    pub policy: Signed<PolicyDocument>,
    /// Who submits jobs.
    pub researcher: Holder,
    /// The members, in the manifest's order.
    pub members: Vec<Holder>,
}

/// A party that keeps its key in memory.
pub struct Holder {
    /// Its key.
    pub key: SigningKey,
    /// How it connects.
    pub tls: Arc<ClientConfig>,
}

impl Scene {
    /// Founds it under `root`.
    pub fn found(root: &Path, shape: &Shape) -> Result<Self> {
        let now = SystemTime::now();
        let name = Name::new(NAME)?;
        let authority = Authority::create(&name, Validity::days(now, AUTHORITY_DAYS)?)?;
        let leaf = Validity::days(now, LEAF_DAYS)?;
        let list = authority.revoke(&BTreeMap::new(), 1, leaf)?;
        let made = |name: &str, role| Made::new(&authority, leaf, name, role);
        let server = made("server", Role::Server)?;
        let officer = made("officer", Role::Officer)?;
        let researcher = made("researcher", Role::Researcher)?;
        let members = (1..=shape.members)
            .map(|number| made(&format!("member-{number}"), Role::Member))
            .collect::<Result<Vec<_>>>()?;
        let address: Endpoint = format!("127.0.0.1:{}", free_port()?).parse()?;
        let parties = [&server, &officer, &researcher]
            .into_iter()
            .chain(&members)
            .map(Made::party)
            .collect();
        let manifest = Manifest::new(name, 1, now, parties, address.clone())?;
        let manifest = authority.sign_manifest(manifest)?;
        let document = PolicyDocument {
            federation: NAME.into(),
            toml: shape.policy(),
        };
        let policy = Signed::sign(document, &officer.key);

        let home = Home::new(root.join("server"));
        folder(root)?;
        home.create()?;
        let passphrase = new_passphrase(root, "server")?;
        server
            .key
            .save(&home.key(), &Passphrase::read(&passphrase)?)?;
        let kit = Kit {
            credentials: server.credentials(&authority, &list)?,
            manifest: manifest.envelope().clone(),
            policy: policy.envelope().clone(),
            address: address.clone(),
        };
        kit.write(&home.root().join(KIT))?;
        Ok(Self {
            server: home,
            passphrase,
            address,
            manifest,
            policy,
            researcher: researcher.holder(&authority, &list)?,
            members: members
                .into_iter()
                .map(|member| member.holder(&authority, &list))
                .collect::<Result<_>>()?,
        })
    }

    /// Where the server keeps its data.
    pub fn data(&self) -> PathBuf {
        self.server.root().join("data")
    }

    /// A job of one round, as the researcher signs it.
    pub fn job(&self, shape: &Shape, number: usize) -> Result<Signed<Job>> {
        let decimal = |text: &str| {
            text.parse()
                .map_err(|error| Error::fault("a number of the job", error))
        };
        let job = Job {
            federation: NAME.into(),
            name: format!("load {number}"),
            backbone: Digest::sha256(b"no backbone: a load"),
            tuning: "{}".into(),
            task: "classification".into(),
            encoder: "embedding".into(),
            mechanism: Mechanism {
                unit: Unit::None,
                adjacency: Adjacency::ZeroOut,
                placement: Placement::Distributed,
                clip_norm: decimal("1")?,
                noise_multiplier: decimal("0")?,
                epsilon: None,
                delta: None,
                value_bits: shape.value_bits,
                batches: None,
            },
            dimension: shape.length as u64,
            state: shape.length as u64,
            value_bound: shape.value_bound(),
            rounds: 1,
            max_attempts: 1,
            min_contributors: shape.min_contributors(),
            colluders: shape.colluders,
            threshold: None,
            committee: shape.committee,
            deadlines: Deadlines {
                contribute: PATIENCE,
                open: PATIENCE,
                agree: PATIENCE,
            },
            initial_model: Digest::sha256(b"no model: a load"),
            expected_members: shape.members,
            nonce: *Digest::sha256(&number.to_le_bytes()).as_bytes(),
        };
        Ok(Signed::sign(job, &self.researcher.key))
    }
}

/// A party whose certificate was issued.
struct Made {
    name: Name,
    role: Role,
    key: SigningKey,
    certificate: Certificate,
}

impl Made {
    fn new(authority: &Authority, leaf: Validity, name: &str, role: Role) -> Result<Self> {
        let (name, key) = (Name::new(name)?, SigningKey::generate()?);
        let request = Request::new(&name, &key)?;
        Ok(Self {
            certificate: authority.issue(&request, role, &[], leaf)?,
            name,
            role,
            key,
        })
    }

    fn party(&self) -> Party {
        Party {
            name: self.name.clone(),
            role: self.role,
            key: self.key.verifying_key(),
        }
    }

    fn credentials(&self, authority: &Authority, list: &RevocationList) -> Result<Credentials> {
        let ca = authority.certificate().clone();
        Ok(Credentials::new(
            ca,
            self.certificate.clone(),
            list.clone(),
        )?)
    }

    fn holder(self, authority: &Authority, list: &RevocationList) -> Result<Holder> {
        let credentials = self.credentials(authority, list)?;
        Ok(Holder {
            tls: tls::client_config(&credentials, &self.key)?,
            key: self.key,
        })
    }
}
