//! A member's part in opening one roster's sum: its share of the sum of the keys, if it holds shares; its check value, if
//! it contributed.

use prost::Message as _;

use crate::{
    digest::{Context, Digest},
    error::{Result, malformed},
    header::{bytes_of, digests},
    label::{self, Label},
    message,
    signed::{Object, decode},
};

/// A release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// The attempt.
    pub context: Context,
    /// Digest of the roster.
    pub roster: Digest,
    /// SHA-256 of the key-sum share sealed for each seat; none from a seat that holds no shares.
    pub shares: Vec<Digest>,
    /// Check value of the member's own body, two words mod q; `None` from a member outside the roster.
    pub check: Option<[u64; 2]>,
    /// Head of the member's privacy ledger.
    pub ledger_head: Digest,
}

impl Object for Release {
    const LABEL: Label = label::RELEASE;

    fn parse(payload: &[u8]) -> Result<Self> {
        let raw: message::Release = decode("release", payload)?;
        let check = match raw.check.as_slice() {
            [] => None,
            bytes => {
                let wrong = || malformed("release", "a check value is two words mod q");
                let bytes = <[u8; 16]>::try_from(bytes).map_err(|_| wrong())?;
                let (low, high) = bytes.split_at(8);
                let word = |half: &[u8]| {
                    let word = u64::from_le_bytes(half.try_into().map_err(|_| wrong())?);
                    if word < ciphertune_sum::Q {
                        Ok(word)
                    } else {
                        Err(wrong())
                    }
                };
                Some([word(low)?, word(high)?])
            }
        };
        Ok(Self {
            context: Context::from_digest(Digest::parse(&raw.context)?),
            roster: Digest::parse(&raw.roster)?,
            shares: digests("release", &raw.shares)?,
            check,
            ledger_head: Digest::parse(&raw.ledger_head)?,
        })
    }

    fn serialise(&self) -> Vec<u8> {
        message::Release {
            context: self.context.as_bytes().to_vec(),
            roster: self.roster.as_bytes().to_vec(),
            shares: bytes_of(&self.shares),
            check: self
                .check
                .map(|words| words.iter().flat_map(|word| word.to_le_bytes()).collect())
                .unwrap_or_default(),
            ledger_head: self.ledger_head.as_bytes().to_vec(),
        }
        .encode_to_vec()
    }
}
