//! A parsed object together with the bytes that were signed: proof that somebody said it.

use crate::{
    digest::{Digest, Fingerprint},
    envelope::{Envelope, Keyring},
    error::{Error, Result, malformed},
    key::Signer,
    label::Label,
};

/// A kind of signed object: its label, and how its bytes become a checked value.
pub trait Object: Sized {
    /// The label under which it is signed.
    const LABEL: Label;

    /// Parses and checks a payload. Whatever this returns is well-formed.
    fn parse(payload: &[u8]) -> Result<Self>;

    /// Serialises once, for signing.
    fn serialise(&self) -> Vec<u8>;
}

/// A checked value and the envelope whose signature over it was verified (or made).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed<T> {
    value: T,
    envelope: Envelope,
}

impl<T: Object> Signed<T> {
    /// Signs a value.
    pub fn sign(value: T, signer: &dyn Signer) -> Self {
        let envelope = Envelope::sign(T::LABEL, value.serialise(), signer);
        Self { value, envelope }
    }

    /// Verifies the signature with the signer's key from `keyring`, then parses.
    pub fn verify(envelope: Envelope, keyring: &dyn Keyring) -> Result<Self> {
        keyring.verify(T::LABEL, &envelope)?;
        let value = T::parse(envelope.payload())?;
        Ok(Self { value, envelope })
    }

    /// Decodes an envelope, verifies and parses it.
    pub fn decode(bytes: &[u8], keyring: &dyn Keyring) -> Result<Self> {
        Self::verify(Envelope::decode(bytes)?, keyring)
    }

    /// SHA-256(label ‖ 0x00 ‖ payload as received).
    pub fn digest(&self) -> Digest {
        self.envelope.digest(T::LABEL)
    }
}

impl<T> Signed<T> {
    /// What was said.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Who said it.
    pub fn signer(&self) -> Fingerprint {
        self.envelope.signer()
    }

    /// The bytes that were signed, with the signature.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The envelope as it travels.
    pub fn encode(&self) -> Vec<u8> {
        self.envelope.encode()
    }
}

impl<T> std::ops::Deref for Signed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Decodes protobuf bytes, naming the object in the error.
pub(crate) fn decode<M: prost::Message + Default>(name: &'static str, bytes: &[u8]) -> Result<M> {
    M::decode(bytes).map_err(|error| malformed(name, error.to_string()))
}

/// A short text from a peer: no control characters, bounded.
pub(crate) fn text(name: &'static str, field: &str, value: String, most: usize) -> Result<String> {
    if value.len() > most {
        return Err(malformed(
            name,
            format!("{field} is longer than {most} bytes"),
        ));
    }
    if value.chars().any(|c| c.is_control() && c != '\n') {
        return Err(malformed(name, format!("{field} holds control characters")));
    }
    Ok(value)
}

/// Refuses unless `holds`.
pub(crate) fn require(holds: bool, reason: impl FnOnce() -> String) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::Refused(reason()))
    }
}
