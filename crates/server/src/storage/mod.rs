//! What survives a restart: a database for all that is small, a folder of files for bodies, shares and sums.

mod database;
mod files;
mod journal;

pub use database::{Batch, Database, StoredJob};
pub use files::Files;
pub use journal::Entry;
