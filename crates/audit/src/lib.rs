//! What happened: an append-only log, its Merkle tree, proofs that a line is in it, and checkpoints to sign.

mod checkpoint;
mod error;
mod line;
mod log;
mod proof;

pub use checkpoint::Checkpoint;
pub use error::{Error, Result};
pub use log::{Entry, Log, entries, lines, verify_extends, verify_file};
pub use proof::Proof;
