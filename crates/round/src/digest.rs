//! SHA-256 digests and the identifiers that are digests.

use std::fmt;

use sha2::{Digest as _, Sha256};

use crate::{
    error::{Result, malformed},
    label::{self, Label},
};

/// A SHA-256 digest. Public: printing it is harmless.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest with these bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Parses 32 bytes from a peer.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let bytes = <[u8; 32]>::try_from(bytes)
            .map_err(|_| malformed("digest", format!("{} bytes, not 32", bytes.len())))?;
        Ok(Self(bytes))
    }

    /// Parses 64 hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self> {
        let malformed = || malformed("digest", format!("{text:?} is not 64 hexadecimal digits"));
        // from_str_radix would take a sign for a digit.
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(malformed());
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| malformed())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| malformed())?;
        }
        Ok(Self(bytes))
    }

    /// SHA-256(bytes).
    pub fn sha256(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// SHA-256(label ‖ 0x00 ‖ bytes), without a copy of the bytes: they may be secret.
    pub fn labelled(label: Label, bytes: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        for part in [label.as_bytes(), &[0], bytes] {
            hasher.update(part);
        }
        hasher.finish()
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first eight hexadecimal digits: for people, never for a decision.
    pub fn short(&self) -> String {
        self.to_string().chars().take(8).collect()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// SHA-256 of a body, a share or a sum as it is streamed.
#[derive(Clone, Default)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

/// What one attempt of one round is bound to: SHA-256(`ciphertune/1/context` ‖ 0x00 ‖ plan bytes).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Context(Digest);

impl Context {
    /// The context of a plan, from its bytes as received.
    pub fn of_plan(plan: &[u8]) -> Self {
        Self(Digest::labelled(label::CONTEXT, plan))
    }

    /// The context with this digest, as another object names it.
    pub const fn from_digest(digest: Digest) -> Self {
        Self(digest)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// The digest.
    pub const fn digest(&self) -> Digest {
        self.0
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Who: SHA-256 of the 32 bytes of an Ed25519 public key. Renewing a certificate keeps it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Fingerprint(Digest);

impl Fingerprint {
    /// The fingerprint with this digest, as another object names it.
    pub const fn from_digest(digest: Digest) -> Self {
        Self(digest)
    }

    /// Parses 32 bytes from a peer.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Digest::parse(bytes).map(Self)
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_its_text() {
        let digest = Digest::sha256(b"abc");
        assert_eq!(
            digest.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(Digest::from_hex(&digest.to_string()), Ok(digest));
    }

    #[test]
    fn a_digest_of_the_wrong_length_is_refused() {
        assert!(Digest::parse(&[0; 31]).is_err());
        assert!(Digest::from_hex("ab").is_err());
        assert!(Digest::from_hex(&"é".repeat(32)).is_err());
        assert!(Digest::from_hex(&"g".repeat(64)).is_err());
        assert!(Digest::from_hex(&"+a".repeat(32)).is_err());
    }

    #[test]
    fn a_label_and_a_zero_stand_before_what_is_hashed() {
        let labelled = Digest::labelled(label::MODEL, b"abc");
        assert_eq!(labelled, Digest::sha256(b"ciphertune/1/model\0abc"));
        assert_eq!(
            labelled,
            Digest::sha256(&label::labelled(label::MODEL, b"abc"))
        );
    }

    #[test]
    fn streaming_gives_the_same_digest() {
        let mut hasher = Hasher::default();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.finish(), Digest::sha256(b"abc"));
    }
}
