//! That one line is in a log, for somebody who has not got the log.

use std::{ops::Range, path::Path};

use ct_merkle::{InclusionProof, RootHash};
use serde::{Deserialize, Serialize};
use sha2::{Sha256, digest::Output};

use crate::{
    error::{Error, Result},
    frontier::Frontier,
    log::verify_file,
    reader::Reader,
    record::Record,
};

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
        let path = path.as_ref();
        let (size, root) = verify_file(path)?;
        if sequence >= size {
            return Err(Error::Misuse(format!(
                "{}: there is no entry {sequence}: it has {size}, counted from 0",
                path.display()
            )));
        }
        let siblings = siblings(sequence, 0..size);
        let mut subtrees = vec![Frontier::default(); siblings.len()];
        let mut reader = Reader::open(path)?;
        let mut line = String::new();
        for _ in 0..size {
            let Some(record) = reader.next()? else { break };
            if record.sequence == sequence {
                line = String::from_utf8_lossy(reader.line()).into_owned();
            }
            let of = siblings
                .iter()
                .position(|range| range.contains(&record.sequence));
            if let Some(subtree) = of.and_then(|of| subtrees.get_mut(of)) {
                subtree.push(record.leaf);
            }
        }
        Ok(Self {
            sequence,
            size,
            line,
            path: subtrees
                .iter()
                .map(|subtree| hex::encode(subtree.root()))
                .collect(),
            root: hex::encode(root),
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
        let record =
            Record::parse(self.line.as_bytes()).map_err(|what| wrong(&what.to_string()))?;
        if record.sequence != self.sequence {
            return Err(wrong("its line has another sequence number"));
        }
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

/// The subtrees whose roots make the audit path of a leaf, from its sibling up (RFC 6962, section 2.1.1).
fn siblings(leaf: u64, mut tree: Range<u64>) -> Vec<Range<u64>> {
    let mut downwards = Vec::new();
    while tree.end - tree.start > 1 {
        // The largest power of two below the tree's size.
        let left = 1 << (u64::BITS - 1 - (tree.end - tree.start - 1).leading_zeros());
        let middle = tree.start + left;
        if leaf < middle {
            downwards.push(middle..tree.end);
            tree.end = middle;
        } else {
            downwards.push(tree.start..middle);
            tree.start = middle;
        }
    }
    downwards.reverse();
    downwards
}
