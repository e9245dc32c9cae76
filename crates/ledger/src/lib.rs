//! What was spent: the durable privacy budget of one member.
//!
//! A dataset's budget is fixed at its first use, and with it the one order of Rényi privacy at which it is kept; each
//! contribution is charged its whole curve, on the disk, before its first byte leaves ([`Ledger::charge`] gives the proof
//! that sending demands). Nothing is ever refunded; a charge is lowered once, on a certificate ([`Ledger::settle`]). A [`Book`] is the
//! file as auditors and commands read it.

mod account;
mod book;
mod cost;
mod entry;
mod error;
mod file;
mod hides;
mod ledger;
mod limit;
mod work;

pub use book::Book;
pub use cost::{Cost, UNITS};
pub use entry::{Data, Entry, Kind};
pub use error::{Error, Result};
pub use hides::Hides;
pub use ledger::{Budget, Charged, Ledger, Settlement, Standing};
pub use limit::Limit;
