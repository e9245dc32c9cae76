//! How attempts and jobs end without, or after, a model; and the request to stop one.

use prost::Message as _;

use crate::{
    digest::{Context, Digest},
    error::Result,
    label::{self, Label},
    message,
    signed::{Object, decode, text},
};

const REASON_BYTES: usize = 4 << 10;

/// An attempt ended without a model; signed by the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Void {
    /// The attempt.
    pub context: Context,
    /// Why, in words.
    pub reason: String,
}

impl Object for Void {
    const LABEL: Label = label::VOID;

    fn parse(payload: &[u8]) -> Result<Self> {
        let raw: message::Void = decode("void", payload)?;
        Ok(Self {
            context: Context::from_digest(Digest::parse(&raw.context)?),
            reason: text("void", "reason", raw.reason, REASON_BYTES)?,
        })
    }

    fn serialise(&self) -> Vec<u8> {
        message::Void {
            context: self.context.as_bytes().to_vec(),
            reason: self.reason.clone(),
        }
        .encode_to_vec()
    }
}

/// A job ended; signed by the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Digest of the job.
    pub job: Digest,
    /// Whether every round ended with a model.
    pub completed: bool,
    /// Rounds that did.
    pub rounds: u32,
    /// Why it ended, in words.
    pub reason: String,
}

impl Object for Ended {
    const LABEL: Label = label::ENDED;

    fn parse(payload: &[u8]) -> Result<Self> {
        let raw: message::Ended = decode("ended", payload)?;
        Ok(Self {
            job: Digest::parse(&raw.job)?,
            completed: raw.completed,
            rounds: raw.rounds,
            reason: text("ended", "reason", raw.reason, REASON_BYTES)?,
        })
    }

    fn serialise(&self) -> Vec<u8> {
        message::Ended {
            job: self.job.as_bytes().to_vec(),
            completed: self.completed,
            rounds: self.rounds,
            reason: self.reason.clone(),
        }
        .encode_to_vec()
    }
}

/// A request to stop a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abort {
    /// Digest of the job.
    pub job: Digest,
    /// Why, in words.
    pub reason: String,
}

impl Object for Abort {
    const LABEL: Label = label::ABORT;

    fn parse(payload: &[u8]) -> Result<Self> {
        let raw: message::Abort = decode("abort", payload)?;
        Ok(Self {
            job: Digest::parse(&raw.job)?,
            reason: text("abort", "reason", raw.reason, REASON_BYTES)?,
        })
    }

    fn serialise(&self) -> Vec<u8> {
        message::Abort {
            job: self.job.as_bytes().to_vec(),
            reason: self.reason.clone(),
        }
        .encode_to_vec()
    }
}
