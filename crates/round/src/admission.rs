//! A member's answer to a job.

use prost::Message as _;

use crate::{
    digest::Digest,
    envelope::Envelope,
    error::{Result, malformed},
    label::{self, Label},
    message,
    signed::{Object, decode, text},
};

/// Yes, or no with the reason in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Digest of the job.
    pub job: Digest,
    /// Why not; `None` when the member takes part.
    pub refusal: Option<String>,
    /// Digest of the federation's policy document, as the member holds it.
    pub federation_policy: Digest,
    /// The site's own policy, signed by an officer; `None` when it has none beyond the federation's.
    pub site_policy: Option<Envelope>,
}

impl Object for Admission {
    const LABEL: Label = label::ADMISSION;

    fn parse(payload: &[u8]) -> Result<Self> {
        const NAME: &str = "admission";
        let raw: message::Admission = decode(NAME, payload)?;
        let reason = text(NAME, "reason", raw.reason, 8 << 10)?;
        if raw.accepted != reason.is_empty() {
            return Err(malformed(
                NAME,
                "a refusal has a reason, an acceptance has none",
            ));
        }
        Ok(Self {
            job: Digest::parse(&raw.job)?,
            refusal: (!raw.accepted).then_some(reason),
            federation_policy: Digest::parse(&raw.federation_policy)?,
            site_policy: match raw.site_policy.as_slice() {
                [] => None,
                bytes => Some(Envelope::decode(bytes)?),
            },
        })
    }

    fn serialise(&self) -> Vec<u8> {
        message::Admission {
            job: self.job.as_bytes().to_vec(),
            accepted: self.refusal.is_none(),
            reason: self.refusal.clone().unwrap_or_default(),
            federation_policy: self.federation_policy.as_bytes().to_vec(),
            site_policy: self
                .site_policy
                .as_ref()
                .map(Envelope::encode)
                .unwrap_or_default(),
        }
        .encode_to_vec()
    }
}
