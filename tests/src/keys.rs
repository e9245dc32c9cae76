//! Keys, certificates and homes of a federation's parties.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ciphertune_identity::{
    Authority, AuthorityCertificate, Certificate, Credentials, Home, Name, Party, Passphrase,
    Request, RevocationList, Role, SigningKey, Validity, tls,
};
use ciphertune_round::Signer as _;
use pkcs8::{
    EncryptedPrivateKeyInfoRef, LineEnding, SecretDocument,
    der::asn1::OctetStringRef,
    pkcs5::{pbes2::Parameters, scrypt},
};
use rustls::{ClientConfig, RootCertStore, pki_types::PrivatePkcs8KeyDer};
use zeroize::Zeroizing;

/// The pass-phrase of every key here.
pub fn passphrase() -> Passphrase {
    Passphrase::new("correct horse battery").unwrap()
}

/// A party: its home with its key in it, and its certificate.
pub struct Holder {
    /// Its home.
    pub home: Home,
    /// Its entry in the manifest.
    pub party: Party,
    /// What the authority issued.
    pub certificate: Certificate,
}

impl Holder {
    /// A party with a new key, certified by `authority`.
    pub fn new(authority: &Authority, folder: &Path, name: &str, role: Role) -> Self {
        let home = Home::new(folder.join(name));
        home.create().unwrap();
        write_key(&home.key());
        let key = SigningKey::load(&home.key(), &passphrase()).unwrap();
        let name = Name::new(name).unwrap();
        let request = Request::new(&name, &key).unwrap();
        let certificate = authority.issue(&request, role, &[], validity(90)).unwrap();
        Self {
            party: Party {
                name,
                role,
                key: key.verifying_key(),
            },
            home,
            certificate,
        }
    }

    /// Its certificate with `authority`'s and this list.
    pub fn credentials(&self, authority: &Authority, list: &RevocationList) -> Credentials {
        let ca = authority.certificate().clone();
        Credentials::new(ca, self.certificate.clone(), list.clone()).unwrap()
    }

    /// Its key, read from its file once more: keys are not cloned.
    pub fn key(&self) -> SigningKey {
        SigningKey::load(&self.home.key(), &passphrase()).unwrap()
    }
}

impl Holder {
    /// A TLS configuration that the product would not make: it trusts the authority in `ca`, and offers this holder's
    /// certificate, whoever issued it.
    pub fn careless_config(&self, ca: &AuthorityCertificate) -> Arc<ClientConfig> {
        let text = fs::read_to_string(self.home.key()).unwrap();
        let (_, document) = SecretDocument::from_pem(&text).unwrap();
        let info = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes()).unwrap();
        let key = info.decrypt("correct horse battery").unwrap();
        let key = PrivatePkcs8KeyDer::from(key.as_bytes().to_vec());
        let mut roots = RootCertStore::empty();
        roots.add(ca.der().clone()).unwrap();
        let provider = rustls::crypto::ring::default_provider();
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![self.certificate.der().clone()], key.into())
            .unwrap();
        config.alpn_protocols = vec![tls::ALPN.to_vec()];
        Arc::new(config)
    }
}

/// A new authority.
pub fn authority(federation: &str) -> Authority {
    Authority::create(&Name::new(federation).unwrap(), validity(365)).unwrap()
}

/// A list that names nobody.
pub fn empty_list(authority: &Authority, number: u64) -> RevocationList {
    authority
        .revoke(&BTreeMap::new(), number, validity(90))
        .unwrap()
}

/// From an hour ago, for so many days.
pub fn validity(days: u64) -> Validity {
    let start = SystemTime::now() - Duration::from_secs(3_600);
    let end = start + Duration::from_secs(days * 86_400);
    Validity::between(start, end).unwrap()
}

/// An Ed25519 key file as `openssl genpkey -algorithm ed25519 -aes-256-cbc` writes it, with few iterations: opening
/// a file of the product's own takes a third of a second on purpose.
fn write_key(path: &Path) {
    let (mut salt, mut iv) = ([0; 16], [0; 16]);
    getrandom::fill(&mut salt).unwrap();
    getrandom::fill(&mut iv).unwrap();
    let pem = new_key(&Parameters::generate_pbkdf2_sha256_aes256cbc(2_048, &salt, iv).unwrap());
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    file.write_all(pem.as_bytes()).unwrap();
}

/// An Ed25519 key file of the product's own kind (scrypt), at next to no cost.
pub fn cheap_scrypt_key() -> String {
    let cost = scrypt::Params::new(4, 1, 1).unwrap();
    new_key(&Parameters::generate_scrypt_aes256cbc(cost, &[7; 16], [8; 16]).unwrap()).to_string()
}

/// A new key, encrypted so, in PEM.
fn new_key(parameters: &Parameters) -> Zeroizing<String> {
    const PREFIX: [u8; 16] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04,
        0x20,
    ];
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).unwrap();
    let encrypted = parameters
        .encrypt("correct horse battery", &[&PREFIX[..], &seed].concat())
        .unwrap();
    let info = EncryptedPrivateKeyInfoRef {
        encryption_algorithm: parameters.clone().into(),
        encrypted_data: OctetStringRef::new(&encrypted).unwrap(),
    };
    SecretDocument::try_from(info)
        .unwrap()
        .to_pem("ENCRYPTED PRIVATE KEY", LineEnding::LF)
        .unwrap()
}
