//! What happened: an append-only log, its Merkle tree, the signed objects that it rests on, checkpoints, and proofs that a line is in it.

mod checkpoint;
mod error;
mod evidence;
mod frontier;
mod log;
mod note;
mod proof;
mod reader;
mod record;

pub use checkpoint::Checkpoint;
pub use error::{Error, Result};
pub use evidence::Evidence;
pub use log::{Entry, Log, verify_extends, verify_file};
pub use note::Note;
pub use proof::Proof;
pub use reader::{Reader, glance};
pub use record::{Record, in_words};
