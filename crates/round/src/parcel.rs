//! How a member that missed a round gets its model: it asks, the server calls on one that has the model, and that one
//! seals it to a one-time key of the asker's. The server carries bytes that it cannot open.

use prost::Message as _;

use crate::{
    digest::{Context, Digest, Fingerprint},
    envelope::Envelope,
    error::Result,
    label::{self, Label},
    message,
    one_time_key::checked_key,
    signed::{Object, decode},
};

/// Bytes of the agreement's key, which stands before the state in a parcel.
pub const AGREEMENT_KEY_BYTES: usize = 32;

/// Bytes that sealing adds: X-Wing's encapsulated key and the authentication tag.
const SEAL_BYTES: usize = 1_120 + 16;

/// "I have a seat in this attempt and miss the model that it starts from"; signed by a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParcelRequest {
    /// Who asks; inside the bytes, so that nobody else can sign them as a request of its own.
    pub member: Fingerprint,
    /// The attempt that the member has a seat in.
    pub context: Context,
    /// The keyed digest that was agreed on in the round before: what the plan names as its model.
    pub model: Digest,
    /// X-Wing public key to seal to; its private half is erased with the attempt.
    pub public_key: Vec<u8>,
}

impl Object for ParcelRequest {
    const LABEL: Label = label::PARCEL_REQUEST;

    fn parse(payload: &[u8]) -> Result<Self> {
        const NAME: &str = "parcel request";
        let raw: message::ParcelRequest = decode(NAME, payload)?;
        Ok(Self {
            member: Fingerprint::parse(&raw.member)?,
            context: Context::from_digest(Digest::parse(&raw.context)?),
            model: Digest::parse(&raw.model)?,
            public_key: checked_key(NAME, raw.public_key)?,
        })
    }

    fn serialise(&self) -> Vec<u8> {
        message::ParcelRequest {
            member: self.member.as_bytes().to_vec(),
            context: self.context.as_bytes().to_vec(),
            model: self.model.as_bytes().to_vec(),
            public_key: self.public_key.clone(),
        }
        .encode_to_vec()
    }
}

/// "You have the model: seal it to this member"; signed by the server. Whom it calls on decides nothing but who does
/// the work: the asker holds what comes to what was agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParcelCall {
    /// The request, as its member signed it.
    pub request: Envelope,
    /// Who is called on.
    pub sender: Fingerprint,
}

impl Object for ParcelCall {
    const LABEL: Label = label::PARCEL_CALL;

    fn parse(payload: &[u8]) -> Result<Self> {
        let raw: message::ParcelCall = decode("parcel call", payload)?;
        Ok(Self {
            request: Envelope::decode(&raw.request)?,
            sender: Fingerprint::parse(&raw.sender)?,
        })
    }

    fn serialise(&self) -> Vec<u8> {
        message::ParcelCall {
            request: self.request.encode(),
            sender: self.sender.as_bytes().to_vec(),
        }
        .encode_to_vec()
    }
}

/// What travels with the sealed bytes; signed by the member that sealed them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parcel {
    /// The attempt that the request is of.
    pub context: Context,
    /// Digest of the request.
    pub request: Digest,
    /// SHA-256 of the sealed bytes.
    pub sealed: Digest,
}

impl Parcel {
    /// Bytes of a sealed parcel with a state of `length` numbers.
    pub fn sealed_bytes(length: u64) -> u64 {
        length
            .saturating_mul(size_of::<f32>() as u64)
            .saturating_add((SEAL_BYTES + AGREEMENT_KEY_BYTES) as u64)
    }
}

impl Object for Parcel {
    const LABEL: Label = label::PARCEL;

    fn parse(payload: &[u8]) -> Result<Self> {
        let raw: message::Parcel = decode("parcel", payload)?;
        Ok(Self {
            context: Context::from_digest(Digest::parse(&raw.context)?),
            request: Digest::parse(&raw.request)?,
            sealed: Digest::parse(&raw.sealed)?,
        })
    }

    fn serialise(&self) -> Vec<u8> {
        message::Parcel {
            context: self.context.as_bytes().to_vec(),
            request: self.request.as_bytes().to_vec(),
            sealed: self.sealed.as_bytes().to_vec(),
        }
        .encode_to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PUBLIC_KEY_BYTES;

    #[test]
    fn a_request_survives_its_bytes_and_one_with_another_key_length_is_refused() {
        let request = ParcelRequest {
            member: Fingerprint::from_digest(Digest::sha256(b"member")),
            context: Context::of_plan(b"plan"),
            model: Digest::sha256(b"model"),
            public_key: vec![7; PUBLIC_KEY_BYTES],
        };
        assert_eq!(ParcelRequest::parse(&request.serialise()).unwrap(), request);
        let short = ParcelRequest {
            public_key: vec![7; PUBLIC_KEY_BYTES - 1],
            ..request
        };
        assert!(ParcelRequest::parse(&short.serialise()).is_err());
    }

    #[test]
    fn the_size_of_a_parcel_never_overflows() {
        assert_eq!(Parcel::sealed_bytes(1), 1_172);
        assert_eq!(Parcel::sealed_bytes(u64::MAX), u64::MAX);
    }
}
