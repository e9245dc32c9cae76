//! What was spent: the durable privacy budget of one member.
//!
//! A dataset's budget is fixed at its first use; each contribution is charged, on the disk, before its first
//! byte leaves ([`Ledger::charge`] gives the proof that sending demands); nothing is ever refunded.

mod account;
mod entry;
mod error;
mod ledger;
mod rho;

pub use error::{Error, Result};
pub use ledger::{Budget, Charged, Ledger, Standing};
pub use rho::Rho;
