//! What a member contributes, in digests.

use prost::Message as _;

use crate::{
    digest::{Context, Digest},
    error::{Result, malformed},
    label::{self, Label},
    message,
    seat::MAX_SEATS,
    signed::{Object, decode},
};

/// Binds a body and its sealed shares to a context; the sender is the signer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The attempt.
    pub context: Context,
    /// SHA-256 of the body.
    pub body: Digest,
    /// SHA-256 of the sealed share for each seat that holds one, in order.
    pub shares: Vec<Digest>,
}

impl Object for Header {
    const LABEL: Label = label::HEADER;

    fn parse(payload: &[u8]) -> Result<Self> {
        let raw: message::Header = decode("header", payload)?;
        Ok(Self {
            context: Context::from_digest(Digest::parse(&raw.context)?),
            body: Digest::parse(&raw.body)?,
            shares: digests("header", &raw.shares)?,
        })
    }

    fn serialise(&self) -> Vec<u8> {
        message::Header {
            context: self.context.as_bytes().to_vec(),
            body: self.body.as_bytes().to_vec(),
            shares: bytes_of(&self.shares),
        }
        .encode_to_vec()
    }
}

pub(crate) fn digests(name: &'static str, raw: &[Vec<u8>]) -> Result<Vec<Digest>> {
    if raw.len() > MAX_SEATS {
        return Err(malformed(name, format!("{} shares", raw.len())));
    }
    raw.iter().map(|bytes| Digest::parse(bytes)).collect()
}

pub(crate) fn bytes_of(digests: &[Digest]) -> Vec<Vec<u8>> {
    digests
        .iter()
        .map(|digest| digest.as_bytes().to_vec())
        .collect()
}
