//! Differential privacy: from a float update to noised integers, and what that costs.
//!
//! ```text
//! update: [f32; d] ──► Clipped (‖v‖₂² ≤ D2sq, on integers) ──► Noised (v + N_ℤ(0, σ_i²)^d) ──► …sealed, summed, opened… ──► Release
//! ```
//!
//! At record level the update is a sum: a [`PoissonBatch`] of records, each one's gradient clipped on its own in an
//! [`ExampleSum`].
//!
//! Each arrow is a type only the step before it can make. Everything a guarantee rests on ([`Mechanism`]: the scale,
//! D2sq, σ_i², B) is an integer or an exact rational; floats propose a vector and integers decide whether it is inside
//! the bound. Only accounting is floating point, rounded against us, with a bound on its error.
//!
//! Three accountants: [`zcdp`] and [`rdp`] compose whatever the schedule does and are what a budget is kept in; [`pld`] is
//! tighter and speaks of a [`FrozenSchedule`] alone. [`accounting`] asks any of them for the ε of a frozen schedule, or
//! for the noise that an ε needs. [`canary`] goes the other way: what a run shows of its own ε.

pub mod accounting;
mod batch;
mod calibration;
pub mod canary;
mod clip;
mod example_sum;
mod mechanism;
mod noise;
pub mod pld;
mod rational;
pub mod rdp;
mod release;
mod schedule;
pub mod zcdp;

pub use batch::PoissonBatch;
pub use clip::{ClipReport, Clipped};
pub use example_sum::ExampleSum;
pub use mechanism::{Mechanism, MechanismSpec};
pub use noise::Noised;
pub use release::Release;
pub use schedule::{FrozenSchedule, MOST_STEPS, SamplingRate, Standing};

/// Why a mechanism, an update or an account was not made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The numbers asked for give no sound mechanism, or a value is outside what was agreed: says the rule.
    #[error("refused: {0}")]
    Refused(String),
    /// The calling code broke this crate's contract.
    #[error("misuse: {0}")]
    Misuse(String),
    /// Something that should not happen happened here.
    #[error("fault: {0}")]
    Fault(String),
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

fn refused<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Refused(why.into()))
}

fn misuse<T>(why: impl Into<String>) -> Result<T> {
    Err(Error::Misuse(why.into()))
}
