//! That one line is in a log, for somebody who has not got the log.

use std::path::Path;

use ct_merkle::{InclusionProof, RootHash};
use serde::{Deserialize, Serialize};
use sha2::{Sha256, digest::Output};

use crate::error::{Error, Result};
use crate::log::read_file;
use crate::{line, log};

/// No log is longer: beyond, the tree's arithmetic would overflow.
const MOST_ENTRIES: u64 = 1 << 62;

/// A line of a log, and the hashes that lead from it to the root of the log's Merkle tree (RFC 6962, section 2.1.1): JSON that says
/// all that is needed to check it, in a few hundred bytes.
///
/// It proves that whoever stands for the root had this line there, and nothing of who that is: hold the root to one that was
/// signed, or heard of by another way. (A root does not commit to how many entries it is of; a signed checkpoint says both.)
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The line's place, from 0.
    pub sequence: u64,
    /// Entries of the log that the root is of.
    pub size: u64,
    /// The line, without its newline.
    pub line: String,
    /// From the line's sibling up, in hexadecimal.
    pub path: Vec<String>,
    /// The root, in hexadecimal.
    pub root: String,
}

impl Proof {
    /// Proves that a log's line is in it, as the log stands.
    ///
    /// # Errors
    /// `Malformed` for a log that is none; `Misuse` for a line that it has not; `Fault` from the disk.
    pub fn of(path: impl AsRef<Path>, sequence: u64) -> Result<Self> {
        let tree = read_file(path.as_ref())?;
        let size = tree.len();
        let place = usize::try_from(sequence).unwrap_or(usize::MAX);
        let Some(line) = tree.get(place) else {
            return Err(Error::Misuse(format!(
                "{}: there is no entry {sequence}: it has {size}, counted from 0",
                path.as_ref().display()
            )));
        };
        let proof = tree.prove_inclusion(place);
        Ok(Self {
            sequence,
            size,
            line: String::from_utf8_lossy(line).into_owned(),
            path: proof
                .as_bytes()
                .chunks(HASH_BYTES)
                .map(hex::encode)
                .collect(),
            root: hex::encode(log::root(&tree)),
        })
    }

    /// Reads a proof's JSON.
    ///
    /// # Errors
    /// `Malformed` for anything else.
    pub fn parse(json: &str) -> Result<Self> {
        serde_json::from_str(json)
            .map_err(|error| Error::Malformed(format!("not a proof of inclusion: {error}")))
    }

    /// Its JSON, on one line.
    ///
    /// # Errors
    /// `Fault` if memory cannot be had.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self).map_err(|error| Error::Fault(format!("a proof: {error}")))
    }

    /// Checks that the line, at its place in a log of that size, leads to the root; returns the root.
    ///
    /// # Errors
    /// `Malformed` when it does not, or the line is none of a log.
    pub fn verify(&self) -> Result<[u8; 32]> {
        let wrong = |what: &str| Error::Malformed(format!("the proof does not hold: {what}"));
        if self.size > MOST_ENTRIES || self.sequence >= self.size {
            return Err(wrong("no log has that entry"));
        }
        line::check(self.line.as_bytes(), self.sequence).map_err(|what| wrong(&what))?;
        let hash = |text: &String| -> Result<[u8; 32]> {
            let bytes = hex::decode(text).ok();
            let bytes = bytes.and_then(|bytes| bytes.try_into().ok());
            bytes.ok_or_else(|| wrong("a hash is not 32 bytes in hexadecimal"))
        };
        let path: Vec<[u8; 32]> = self.path.iter().map(hash).collect::<Result<_>>()?;
        let root = hash(&self.root)?;
        let proof = InclusionProof::<Sha256>::try_from_bytes(path.concat())
            .map_err(|error| wrong(&error.to_string()))?;
        RootHash::<Sha256>::new(Output::<Sha256>::from(root), self.size)
            .verify_inclusion(&self.line.as_bytes().to_vec(), self.sequence, &proof)
            .map_err(|error| wrong(&error.to_string()))?;
        Ok(root)
    }
}

const HASH_BYTES: usize = 32;
