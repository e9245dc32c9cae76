//! "This is the one roster that I will release in this context": from a member that holds shares.

use prost::Message as _;

use crate::{
    digest::{Context, Digest},
    error::Result,
    label::{self, Label},
    message,
    signed::{Object, decode},
};

/// An echo of a roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// The attempt.
    pub context: Context,
    /// Digest of the roster.
    pub roster: Digest,
}

impl Object for Echo {
    const LABEL: Label = label::ECHO;

    fn parse(payload: &[u8]) -> Result<Self> {
        let raw: message::Echo = decode("echo", payload)?;
        Ok(Self {
            context: Context::from_digest(Digest::parse(&raw.context)?),
            roster: Digest::parse(&raw.roster)?,
        })
    }

    fn serialise(&self) -> Vec<u8> {
        message::Echo {
            context: self.context.as_bytes().to_vec(),
            roster: self.roster.as_bytes().to_vec(),
        }
        .encode_to_vec()
    }
}
