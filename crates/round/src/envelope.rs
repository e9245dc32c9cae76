//! A signed object as it travels and is stored.

use prost::Message as _;

use crate::{
    digest::{Digest, Fingerprint},
    error::{Error, Result, malformed},
    key::{Signer, VerifyingKey},
    label::{Label, labelled},
    message,
};

/// Payload bytes as their author serialised them, who signed, and the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    payload: Vec<u8>,
    signer: Fingerprint,
    signature: [u8; 64],
}

impl Envelope {
    /// The largest envelope that is parsed: a plan of a thousand seats fits.
    pub const MAX_BYTES: usize = 4 << 20;

    /// Signs `label ‖ 0x00 ‖ payload`.
    pub fn sign(label: Label, payload: Vec<u8>, signer: &dyn Signer) -> Self {
        Self {
            signature: signer.sign(&labelled(label, &payload)),
            signer: signer.verifying_key().fingerprint(),
            payload,
        }
    }

    /// Parses what a peer sent.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        const NAME: &str = "envelope";
        if bytes.len() > Self::MAX_BYTES {
            return Err(malformed(NAME, format!("{} bytes", bytes.len())));
        }
        let raw =
            message::Envelope::decode(bytes).map_err(|error| malformed(NAME, error.to_string()))?;
        Ok(Self {
            payload: raw.payload,
            signer: Fingerprint::parse(&raw.signer)?,
            signature: <[u8; 64]>::try_from(raw.signature.as_slice())
                .map_err(|_| malformed(NAME, "a signature is 64 bytes"))?,
        })
    }

    /// The bytes that travel.
    pub fn encode(&self) -> Vec<u8> {
        message::Envelope {
            payload: self.payload.clone(),
            signer: self.signer.as_bytes().to_vec(),
            signature: self.signature.to_vec(),
        }
        .encode_to_vec()
    }

    /// Verifies the signature with the key that the envelope names.
    ///
    /// # Errors
    /// [`Error::Signature`] if the key is another's or the signature does not hold.
    pub fn verify(&self, label: Label, key: &VerifyingKey) -> Result<()> {
        let name = label.rsplit('/').next().unwrap_or(label);
        if key.fingerprint() != self.signer {
            return Err(Error::Signature(name));
        }
        key.verify(&labelled(label, &self.payload), &self.signature)
            .map_err(|_| Error::Signature(name))
    }

    /// SHA-256(label ‖ 0x00 ‖ payload).
    pub fn digest(&self, label: Label) -> Digest {
        Digest::labelled(label, &self.payload)
    }

    /// The payload as its author serialised it.
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// Who says to have signed.
    pub fn signer(&self) -> Fingerprint {
        self.signer
    }
}

/// Who can verify for a fingerprint: the manifest, in practice.
pub trait Keyring {
    /// The key with this fingerprint, or `None` for a stranger.
    fn key(&self, fingerprint: &Fingerprint) -> Option<VerifyingKey>;

    /// Verifies `envelope` with its signer's key.
    fn verify(&self, label: Label, envelope: &Envelope) -> Result<()> {
        let name = label.rsplit('/').next().unwrap_or(label);
        let key = self.key(&envelope.signer()).ok_or(Error::Signature(name))?;
        envelope.verify(label, &key)
    }
}

impl<F: Fn(&Fingerprint) -> Option<VerifyingKey>> Keyring for F {
    fn key(&self, fingerprint: &Fingerprint) -> Option<VerifyingKey> {
        self(fingerprint)
    }
}
