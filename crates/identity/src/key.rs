//! A party's one private key, and the encrypted file it lives in.

use std::{io::ErrorKind, path::Path};

use ciphertune_round::{Signer, VerifyingKey};
use pkcs8::{
    EncryptedPrivateKeyInfoRef, LineEnding, SecretDocument,
    der::asn1::OctetStringRef,
    pkcs5::{
        EncryptionScheme,
        pbes2::{Kdf, Parameters},
        scrypt,
    },
};
use ring::{
    rand::{SecureRandom, SystemRandom},
    signature::{Ed25519KeyPair, KeyPair},
};
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result, fault},
    file,
    passphrase::Passphrase,
};

/// An Ed25519 key pair (RFC 8032): signs TLS handshakes and every object of a round.
///
/// No `Clone`, `Debug` or `PartialEq`. The seed is wiped on drop; ring's expanded copy of it is not, for ring offers
/// no way to.
pub struct SigningKey {
    seed: Zeroizing<[u8; 32]>,
    pair: Ed25519KeyPair,
    public: VerifyingKey,
}

/// scrypt with N = 2^14, r = 8, p = 5, one of OWASP's equivalent recommendations (Password Storage Cheat Sheet,
/// "scrypt"). N = 2^17 with p = 1 would be another, but OpenSSL refuses scrypt beyond 32 MiB, and these files must
/// open with `openssl pkey`.
const SCRYPT: (u8, u32, u32) = (14, 8, 5);

/// The most that reading a key file may cost: 128·r·N bytes, and N·r·p block mixes as those of N = 2^17, r = 8, p = 5.
const MAX_SCRYPT_BYTES: u64 = 1 << 28;
const MAX_SCRYPT_WORK: u64 = 5 << 20;
const MAX_PBKDF2_ITERATIONS: u32 = 10_000_000;

/// PKCS#8 version 1 of an Ed25519 key, up to its 32-byte seed (RFC 8410 §7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

const PEM_LABEL: &str = "ENCRYPTED PRIVATE KEY";
const MAX_FILE_BYTES: u64 = 16 << 10;

impl SigningKey {
    /// A new key from the operating system's randomness.
    pub fn generate() -> Result<Self> {
        let mut seed = Zeroizing::new([0; 32]);
        fill(seed.as_mut_slice())?;
        Self::from_seed(seed)
    }

    /// Writes the key to `path`, encrypted (PBES2: scrypt, AES-256-CBC; RFC 8018), mode 0600, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Misuse`] if something is at `path` already: who overwrites a key loses an identity.
    pub fn save(&self, path: &Path, passphrase: &Passphrase) -> Result<()> {
        let written = file::write_new(path, self.encrypt(passphrase)?.as_bytes(), 0o600);
        written.map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => Error::Misuse(format!(
                "{} exists already; move it away first if that key is really to go",
                path.display()
            )),
            _ => fault(&format!("writing {}", path.display()), error),
        })
    }

    /// Reads what [`save`](Self::save) wrote, or what `openssl genpkey -algorithm ed25519 -aes-256-cbc` did.
    ///
    /// # Errors
    /// [`Error::Refused`] if others may read the file, if the key in it is not encrypted, if the pass-phrase is
    /// wrong; [`Error::Malformed`] if it is no encrypted Ed25519 key or would take absurd work to open.
    pub fn load(path: &Path, passphrase: &Passphrase) -> Result<Self> {
        let text = Zeroizing::new(file::read_private(path, MAX_FILE_BYTES)?);
        let malformed = |what: &str| Error::Malformed(format!("{}: {what}", path.display()));
        let text = std::str::from_utf8(&text).map_err(|_| malformed("not a key file in PEM"))?;
        let (label, document) =
            SecretDocument::from_pem(text).map_err(|_| malformed("not a key file in PEM"))?;
        if label == "PRIVATE KEY" {
            return Err(Error::Refused(format!(
                "the key in {path} is not encrypted; run: openssl pkcs8 -topk8 -v2 aes-256-cbc -in {path} -out NEW",
                path = path.display(),
            )));
        }
        if label != PEM_LABEL {
            return Err(malformed("not an encrypted private key"));
        }
        let info = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
            .map_err(|_| malformed("not an encrypted private key"))?;
        if !affordable(&info.encryption_algorithm) {
            return Err(malformed("not PBES2, or with absurd cost parameters"));
        }
        let mut buffer = Zeroizing::new(info.encrypted_data.as_bytes().to_vec());
        let wrong = || Error::Refused(format!("the pass-phrase does not open {}", path.display()));
        let opened = info
            .encryption_algorithm
            .decrypt_in_place(passphrase.as_bytes(), buffer.as_mut_slice())
            .map_err(|_| wrong())?;
        // CBC does not authenticate: a wrong pass-phrase passes the padding once in 256 times, and fails here.
        let seed = opened
            .strip_prefix(PKCS8_PREFIX.as_slice())
            .and_then(|seed| <[u8; 32]>::try_from(seed).ok())
            .map(Zeroizing::new)
            .ok_or_else(wrong)?;
        Self::from_seed(seed)
    }

    /// PKCS#8 version 1, in clear: for handing to libraries inside this process.
    pub(crate) fn pkcs8(&self) -> Zeroizing<Vec<u8>> {
        let mut der = Zeroizing::new(Vec::with_capacity(PKCS8_PREFIX.len() + self.seed.len()));
        der.extend_from_slice(&PKCS8_PREFIX);
        der.extend_from_slice(self.seed.as_slice());
        der
    }

    fn from_seed(seed: Zeroizing<[u8; 32]>) -> Result<Self> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_slice())
            .map_err(|error| fault("making an Ed25519 key", error))?;
        let public = VerifyingKey::from_bytes(pair.public_key().as_ref())?;
        Ok(Self { seed, pair, public })
    }

    fn encrypt(&self, passphrase: &Passphrase) -> Result<Zeroizing<String>> {
        const DOING: &str = "encrypting a key";
        let (mut salt, mut iv) = ([0; 16], [0; 16]);
        fill(&mut salt)?;
        fill(&mut iv)?;
        let (log_n, r, p) = SCRYPT;
        let cost = scrypt::Params::new(log_n, r, p).map_err(|error| fault(DOING, error))?;
        let parameters = Parameters::generate_scrypt_aes256cbc(cost, &salt, iv)
            .map_err(|error| fault(DOING, error))?;
        let encrypted = parameters
            .encrypt(passphrase.as_bytes(), self.pkcs8().as_slice())
            .map_err(|error| fault(DOING, error))?;
        let info = EncryptedPrivateKeyInfoRef {
            encryption_algorithm: parameters.into(),
            encrypted_data: OctetStringRef::new(&encrypted).map_err(|error| fault(DOING, error))?,
        };
        SecretDocument::try_from(info)
            .map_err(|error| fault(DOING, error))?
            .to_pem(PEM_LABEL, LineEnding::LF)
            .map_err(|error| fault(DOING, error))
    }
}

impl Signer for SigningKey {
    fn verifying_key(&self) -> VerifyingKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        signature
    }
}

/// The key as rcgen takes one: it signs requests, certificates and revocation lists without leaving its type.
pub(crate) struct CertificateSigner<'a>(pub(crate) &'a SigningKey);

impl rcgen::PublicKeyData for CertificateSigner<'_> {
    fn der_bytes(&self) -> &[u8] {
        self.0.public.as_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for CertificateSigner<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(Signer::sign(self.0, message).to_vec())
    }
}

/// Random bytes from the operating system.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<()> {
    SystemRandom::new()
        .fill(bytes)
        .map_err(|_| Error::Fault("the operating system gave no randomness".into()))
}

/// Whether opening a file under this scheme stays inside the limits above.
fn affordable(scheme: &EncryptionScheme) -> bool {
    match scheme.pbes2().map(|parameters| &parameters.kdf) {
        Some(Kdf::Scrypt(scrypt)) => {
            let (n, r, p) = (
                scrypt.cost_parameter,
                u64::from(scrypt.block_size),
                u64::from(scrypt.parallelization),
            );
            let within = |factors: &[u64], most: u64| {
                factors
                    .iter()
                    .try_fold(1, |product: u64, factor| product.checked_mul(*factor))
                    .is_some_and(|product| (1..=most).contains(&product))
            };
            within(&[128, n, r], MAX_SCRYPT_BYTES) && within(&[n, r, p], MAX_SCRYPT_WORK)
        }
        Some(Kdf::Pbkdf2(pbkdf2)) => pbkdf2.iteration_count <= MAX_PBKDF2_ITERATIONS,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    static_assertions::assert_not_impl_any!(
        SigningKey: Clone, Copy, std::fmt::Debug, std::fmt::Display, PartialEq, serde::Serialize
    );

    fn passphrase() -> Passphrase {
        Passphrase::new("correct horse battery staple").unwrap()
    }

    #[test]
    fn a_key_signs_the_vector_of_rfc_8032() {
        // RFC 8032 §7.1, test 1.
        let seed = [
            0x9d, 0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec,
            0x2c, 0xc4, 0x44, 0x49, 0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03,
            0x1c, 0xae, 0x7f, 0x60,
        ];
        let key = SigningKey::from_seed(Zeroizing::new(seed)).unwrap();
        assert_eq!(
            key.verifying_key().as_bytes()[..4],
            [0xd7, 0x5a, 0x98, 0x01]
        );
        assert_eq!(Signer::sign(&key, b"")[..4], [0xe5, 0x56, 0x43, 0x00]);
    }

    #[test]
    fn two_keys_are_two_keys() {
        let (a, b) = (
            SigningKey::generate().unwrap(),
            SigningKey::generate().unwrap(),
        );
        assert_ne!(a.verifying_key(), b.verifying_key());
        let signature = Signer::sign(&a, b"message");
        assert!(a.verifying_key().verify(b"message", &signature).is_ok());
        assert!(a.verifying_key().verify(b"massage", &signature).is_err());
        assert!(b.verifying_key().verify(b"message", &signature).is_err());
    }

    #[test]
    fn a_key_survives_its_file_which_does_not_hold_the_seed_and_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let key = SigningKey::generate().unwrap();
        key.save(&path, &passphrase()).unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----\n"));
        let (_, document) = SecretDocument::from_pem(&text).unwrap();
        assert!(
            !document
                .as_bytes()
                .windows(32)
                .any(|w| w == key.seed.as_slice())
        );
        let loaded = SigningKey::load(&path, &passphrase()).unwrap();
        assert_eq!(loaded.verifying_key(), key.verifying_key());
        assert_eq!(Signer::sign(&loaded, b"m"), Signer::sign(&key, b"m"));
    }

    #[test]
    fn a_wrong_passphrase_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        SigningKey::generate()
            .unwrap()
            .save(&path, &passphrase())
            .unwrap();
        let wrong = Passphrase::new("correct horse battery stable").unwrap();
        let Err(Error::Refused(reason)) = SigningKey::load(&path, &wrong) else {
            panic!("a wrong pass-phrase opened the key");
        };
        assert!(reason.contains("pass-phrase"));
    }

    #[test]
    fn a_key_file_that_others_may_read_is_refused_with_the_command_that_mends_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        SigningKey::generate()
            .unwrap()
            .save(&path, &passphrase())
            .unwrap();
        for mode in [0o644, 0o640, 0o604, 0o660, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let Err(Error::Refused(reason)) = SigningKey::load(&path, &passphrase()) else {
                panic!("a key file of mode {mode:o} was read");
            };
            assert!(
                reason.contains(&format!("chmod 600 {}", path.display())),
                "{reason}"
            );
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(SigningKey::load(&path, &passphrase()).is_ok());
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let key = SigningKey::generate().unwrap();
        key.save(&path, &passphrase()).unwrap();
        let other = SigningKey::generate().unwrap();
        assert!(matches!(
            other.save(&path, &passphrase()),
            Err(Error::Misuse(_))
        ));
        let loaded = SigningKey::load(&path, &passphrase()).unwrap();
        assert_eq!(loaded.verifying_key(), key.verifying_key());
    }

    #[test]
    fn a_key_in_clear_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let key = SigningKey::generate().unwrap();
        let clear = SecretDocument::try_from(key.pkcs8().as_slice()).unwrap();
        let pem = clear.to_pem("PRIVATE KEY", LineEnding::LF).unwrap();
        file::write(&path, pem.as_bytes(), 0o600).unwrap();
        let Err(Error::Refused(reason)) = SigningKey::load(&path, &passphrase()) else {
            panic!("a key in clear was read");
        };
        assert!(reason.contains("not encrypted"));
    }

    #[test]
    fn a_key_file_with_absurd_cost_or_of_other_bytes_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let cost = scrypt::Params::new(30, 8, 1).unwrap();
        let parameters = Parameters::generate_scrypt_aes256cbc(cost, &[7; 16], [7; 16]).unwrap();
        let info = EncryptedPrivateKeyInfoRef {
            encryption_algorithm: parameters.into(),
            encrypted_data: OctetStringRef::new(&[0; 64]).unwrap(),
        };
        let absurd = SecretDocument::try_from(info).unwrap();
        let absurd = absurd.to_pem(PEM_LABEL, LineEnding::LF).unwrap();
        for text in [
            absurd.as_str(),
            "",
            "-----BEGIN",
            &absurd[..absurd.len() / 2],
        ] {
            file::write(&path, text.as_bytes(), 0o600).unwrap();
            let loaded = SigningKey::load(&path, &passphrase());
            assert!(matches!(loaded, Err(Error::Malformed(_))));
        }
    }
}
