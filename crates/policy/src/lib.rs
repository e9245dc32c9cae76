//! What is allowed: policies, the strictest of several, and the admission of a plan.
//!
//! Pure: no input or output, no clock, no randomness.

mod decimal;
mod error;
mod setting;

pub use decimal::Decimal;
pub use error::Error;
pub use setting::{Adjacency, Placement, Unit};
