//! "This is the model that I opened", in a form that tells the server nothing.

use prost::Message as _;

use crate::{
    digest::{Context, Digest},
    error::{Result, malformed},
    label::{self, Label},
    message,
    signed::{Object, decode},
};

/// An agreement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreement {
    /// The attempt.
    pub context: Context,
    /// SHA-256(label ‖ context ‖ HKDF(S, "agree") ‖ new model): keyed by the sum of the keys.
    pub model: Digest,
    /// Root of the member's audit log, as it was.
    pub log_head: Digest,
    /// How many entries that has.
    pub log_size: u64,
    /// The server's last signed checkpoint that the member has seen: so no log is rewritten that others do not know.
    pub server_checkpoint: Vec<u8>,
}

impl Object for Agreement {
    const LABEL: Label = label::AGREEMENT;

    fn parse(payload: &[u8]) -> Result<Self> {
        let raw: message::Agreement = decode("agreement", payload)?;
        if raw.server_checkpoint.len() > 1 << 10 {
            return Err(malformed(
                "agreement",
                "the checkpoint is longer than 1 KiB",
            ));
        }
        Ok(Self {
            context: Context::from_digest(Digest::parse(&raw.context)?),
            model: Digest::parse(&raw.model)?,
            log_head: Digest::parse(&raw.log_head)?,
            log_size: raw.log_size,
            server_checkpoint: raw.server_checkpoint,
        })
    }

    fn serialise(&self) -> Vec<u8> {
        message::Agreement {
            context: self.context.as_bytes().to_vec(),
            model: self.model.as_bytes().to_vec(),
            log_head: self.log_head.as_bytes().to_vec(),
            log_size: self.log_size,
            server_checkpoint: self.server_checkpoint.clone(),
        }
        .encode_to_vec()
    }
}
