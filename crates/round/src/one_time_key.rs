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

/// ML-KEM's q (FIPS 203, section 2.4).
const KEM_Q: u16 = 3_329;
/// Bytes of t̂ in an ML-KEM-768 public key, which comes first: 3 · 256 coefficients of 12 bits.
const KEM_VECTOR_BYTES: usize = 3 * 384;

impl Object for OneTimeKeyOffer {
    const LABEL: Label = label::ONE_TIME_KEY;

    fn parse(payload: &[u8]) -> Result<Self> {
        const NAME: &str = "one-time key";
        let raw: message::OneTimeKey = decode(NAME, payload)?;
        Ok(Self {
            member: Fingerprint::parse(&raw.member)?,
            serial: raw.serial,
            public_key: checked_key(NAME, raw.public_key)?,
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

/// An X-Wing public key of a peer, as far as it can be checked without the code that seals to it.
pub(crate) fn checked_key(object: &'static str, public_key: Vec<u8>) -> Result<Vec<u8>> {
    if public_key.len() != PUBLIC_KEY_BYTES {
        return Err(malformed(
            object,
            format!(
                "a key of {} bytes, not {PUBLIC_KEY_BYTES}",
                public_key.len()
            ),
        ));
    }
    if !is_reduced(&public_key) {
        return Err(malformed(object, "not an X-Wing public key"));
    }
    Ok(public_key)
}

/// ML-KEM's check of an encapsulation key (FIPS 203, section 7.2): every coefficient of t̂ is below q. The rest of an
/// X-Wing key, a seed and an X25519 point, may be any bytes. A server that may hold no sealing code can check this
/// much, which is all: a key that fails would have every member refuse each plan that names it.
fn is_reduced(public_key: &[u8]) -> bool {
    let vector = public_key.get(..KEM_VECTOR_BYTES).unwrap_or_default();
    vector.as_chunks::<3>().0.iter().all(|[low, middle, high]| {
        let first = u16::from(*low) | u16::from(middle & 0x0F) << 8;
        let second = u16::from(middle >> 4) | u16::from(*high) << 4;
        first < KEM_Q && second < KEM_Q
    })
}
