//! The discrete Gaussian, for privacy noise and for lattice errors alike, and the entropy it is drawn from.
//!
//! Read in this order: [`Variance`] (σ² as an exact rational), [`DiscreteGaussian`] (the sampler), `alias` (one table
//! of 128-bit probabilities), `fixed` (the arithmetic those probabilities are computed in), [`Entropy`].
//!
//! Nothing here uses floating point to decide a probability: tables are rounded from 192-bit fixed point, and a test
//! recomputes the distance of the sampler to the ideal distribution with big integers.

mod alias;
mod entropy;
#[cfg(test)]
mod exact;
mod fixed;
mod gaussian;
pub mod insecure;
mod variance;

pub use entropy::Entropy;
pub use gaussian::{DiscreteGaussian, STATISTICAL_DISTANCE_LOG2};
pub use variance::Variance;

/// Why a sampler or its entropy could not be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller asked for a distribution outside the supported range.
    #[error("misuse: {0}")]
    Misuse(String),
    /// The operating system gave no entropy.
    #[error("fault: {0}")]
    Fault(String),
}

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
