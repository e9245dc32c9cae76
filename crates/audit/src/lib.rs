//! What happened: an append-only log, its Merkle tree, and checkpoints to sign.

mod checkpoint;
mod error;
mod line;
mod log;

pub use checkpoint::Checkpoint;
pub use error::{Error, Result};
pub use log::{Entry, Log, entries, verify_extends, verify_file};
