//! The public half of a key that opens what is sealed to one member in one context.

use prost::Message as _;

use crate::{
    digest::Fingerprint,
    error::{Result, malformed},
    label::{self, Label},
    message,
    signed::{Object, decode},
};

/// A one-time sealing key as its owner offers it at the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OneTimeKeyOffer {
    /// Whose.
    pub member: Fingerprint,
    /// Tells the owner's keys apart.
    pub serial: u64,
    /// X-Wing public key.
    pub public_key: Vec<u8>,
}

/// Bytes of an X-Wing public key (draft-connolly-cfrg-xwing-kem, ML-KEM-768 + X25519).
pub const PUBLIC_KEY_BYTES: usize = 1_216;

impl Object for OneTimeKeyOffer {
    const LABEL: Label = label::ONE_TIME_KEY;

    fn parse(payload: &[u8]) -> Result<Self> {
        const NAME: &str = "one-time key";
        let raw: message::OneTimeKey = decode(NAME, payload)?;
        if raw.public_key.len() != PUBLIC_KEY_BYTES {
            return Err(malformed(
                NAME,
                format!("{} bytes, not {PUBLIC_KEY_BYTES}", raw.public_key.len()),
            ));
        }
        Ok(Self {
            member: Fingerprint::parse(&raw.member)?,
            serial: raw.serial,
            public_key: raw.public_key,
        })
    }

    fn serialise(&self) -> Vec<u8> {
        message::OneTimeKey {
            member: self.member.as_bytes().to_vec(),
            serial: self.serial,
            public_key: self.public_key.clone(),
        }
        .encode_to_vec()
    }
}
