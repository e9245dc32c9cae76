//! Ed25519 verification, and the trait of whoever signs.

use std::fmt;

use ring::signature::{ED25519, UnparsedPublicKey};

use crate::{
    digest::{Digest, Fingerprint},
    error::{Error, Result, malformed},
};

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct VerifyingKey([u8; 32]);

impl VerifyingKey {
    /// Parses 32 bytes. Whether they are a point is found out by the first verification.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let bytes = <[u8; 32]>::try_from(bytes)
            .map_err(|_| malformed("public key", format!("{} bytes, not 32", bytes.len())))?;
        Ok(Self(bytes))
    }

    /// The bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// SHA-256 of the bytes.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::from_digest(Digest::sha256(&self.0))
    }

    /// Verifies an Ed25519 signature (RFC 8032) over `message`.
    pub fn verify(&self, message: &[u8], signature: &[u8; 64]) -> Result<()> {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(message, signature)
            .map_err(|_| Error::Signature("message"))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyingKey({})", self.fingerprint())
    }
}

/// Whoever holds an Ed25519 private key.
pub trait Signer: Send + Sync {
    /// The public half.
    fn verifying_key(&self) -> VerifyingKey;

    /// An Ed25519 signature over `message`.
    fn sign(&self, message: &[u8]) -> [u8; 64];
}
