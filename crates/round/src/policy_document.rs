//! A policy as an officer signs it.

use prost::Message as _;

use crate::{
    error::{Result, malformed},
    label::{self, Label},
    message,
    signed::{Object, decode, text},
};

/// The text of a policy and the federation that it is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyDocument {
    /// The federation.
    pub federation: String,
    /// The policy, as written; parsed by `ciphertune-policy`.
    pub toml: String,
}

impl Object for PolicyDocument {
    const LABEL: Label = label::POLICY;

    fn parse(payload: &[u8]) -> Result<Self> {
        const NAME: &str = "policy document";
        const MOST: usize = 64 << 10;
        let raw: message::PolicyDocument = decode(NAME, payload)?;
        if raw.toml.len() > MOST {
            return Err(malformed(NAME, format!("longer than {MOST} bytes")));
        }
        Ok(Self {
            federation: text(NAME, "federation", raw.federation, 64)?,
            toml: raw.toml,
        })
    }

    fn serialise(&self) -> Vec<u8> {
        message::PolicyDocument {
            federation: self.federation.clone(),
            toml: self.toml.clone(),
        }
        .encode_to_vec()
    }
}
