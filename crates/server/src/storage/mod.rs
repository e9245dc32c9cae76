//! What survives a restart: a database for all that is small, an object store for bodies, shares, parcels and sums.

mod bulk;
mod database;
mod journal;

pub(crate) use bulk::SEGMENT_BYTES;
pub use bulk::{Bulk, Item, Writer};
pub use database::{Batch, Database, LogEntry, StoredJob};
pub use journal::Entry;
