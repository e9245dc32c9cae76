//! The public half of sealed aggregation: words modulo q, the parameter sets, and the adding of
//! bodies that nobody here can open.
//!
//! A *body* is b_j = a_j·s + e_j + Δ·m_j, one block of [`N`] words below [`Q`] for each j, in the
//! ring R_q = Z_q\[X\]/(X^N + 1). Bodies of one context share the masks a_j, so the sum of bodies is
//! a body under the sum of the keys s. Whoever adds needs neither a mask nor a key: this crate has
//! no code for either.
//!
//! Read in this order: [`modular`], [`Parameters`], [`codec`], [`add_bodies`]; for reports, [`DecodingFailure`] and
//! [`security`].

mod accumulate;
pub mod codec;
mod decoding;
mod error;
pub mod modular;
mod parameters;
pub mod security;
mod vectorised;

pub use accumulate::{add_assign, add_bodies, add_encoded, expect_end, read_bytes};
pub use decoding::DecodingFailure;
pub use error::Error;
pub use parameters::{CohortSize, Overflow, Parameters, SIGMA_SQUARED, ValueBound};
pub use vectorised::vectorised;

/// The modulus q = 2^64 − 2^32 + 1, a prime ("Goldilocks").
///
/// One machine word; 2^32 divides q − 1, so negacyclic NTTs of size [`N`] exist.
pub const Q: u64 = 0xFFFF_FFFF_0000_0001;

/// The degree N of the ring R_q = Z_q\[X\]/(X^N + 1): the number of words in a block.
pub const N: usize = 4096;

/// Bytes of one block on the wire: N little-endian u64.
pub const BLOCK_BYTES: usize = N * 8;
