//! The secret half of sealed aggregation: masks, keys, errors, packing, sharing, sealing, check
//! values and opening.
//!
//! The way through a round, each step demanding what the one before it made:
//!
//! 1. [`contribute`]: b_j = a_j·s + e_j + Δ·m_j block by block, Shamir shares of s sealed to the
//!    [`SealingKey`] of each member that holds shares: all of the cohort, or a committee;
//! 2. [`sum_shares`]: such a member adds the shares sealed to it into its [`KeySumShare`] and
//!    [seals](KeySumShare::seal_to) that to every member, bound to one roster;
//! 3. [`check_value`]: a contributor's fingerprint of its own body under keys that nobody knew
//!    before the roster was fixed;
//! 4. [`KeySum::rebuild`]: S = Σ s_i from t key-sum shares, recognised by its size;
//! 5. [`open`]: the sum of the bodies, checked in five ways, into an [`OpenedSum`].
//!
//! Beside it, [`seal_parcel`] and [`open_parcel`] carry a model, with the [`AgreementKey`] that it
//! was agreed on with, to a member that missed the round.
//!
//! Bodies are worked on block by block as they stream by. [`contribute_on`] and [`open_on`] spread
//! the blocks over threads; SHA-256 of what is written or read stays on the one that calls, in order, and is what bounds
//! many of them. A block costs a mask (ChaCha12), a product (two transforms of 4096 words), errors, packing and
//! hashing; `bench seal` tells how much of each.
//!
//! Only the sum of the keys is ever rebuilt, so no single update is ever opened (Stevens et al.,
//! "Efficient Differentially Private Secure Aggregation for Federated Learning via Hardness of
//! Learning with Errors", USENIX Security 2022).
//!
//! Secrets are neither cloned, printed, serialised nor compared in variable time, and are wiped when dropped
//! (`tests/wiped` looks through freed memory for them). What is public may be all of that:
//!
//! ```
//! use std::fmt::Debug;
//! use ciphertune_seal::{CheckValue, KeySum, OneTimeKey, SealingKey};
//!
//! fn may_be_seen<T: Clone + Debug + PartialEq>() {}
//! may_be_seen::<SealingKey>();
//! may_be_seen::<CheckValue>();
//! static_assertions::assert_not_impl_any!(KeySum: Clone, Debug, PartialEq);
//! static_assertions::assert_not_impl_any!(OneTimeKey: Clone, Debug, PartialEq);
//! ```
//!
//! The same lines about the other half do not compile:
//!
//! ```compile_fail,E0277
//! fn may_be_printed<T: std::fmt::Debug>() {}
//! may_be_printed::<ciphertune_seal::KeySum>();
//! ```
//! ```compile_fail,E0277
//! fn may_be_copied<T: Clone>() {}
//! may_be_copied::<ciphertune_seal::OneTimeKey>();
//! ```
//! ```compile_fail,E0283
//! use std::fmt::Debug;
//! static_assertions::assert_not_impl_any!(ciphertune_seal::SealingKey: Clone, Debug, PartialEq);
//! ```

mod agreement_key;
mod body;
mod check;
mod contribute;
mod error;
#[doc(hidden)]
pub mod kernels;
mod key_sum;
mod key_sum_share;
mod keystream;
mod ntt;
mod one_time_key;
mod open;
mod packing;
mod parcel;
mod ring;
mod second;
mod secret;
mod shamir;
mod threads;
#[cfg(test)]
mod thresholds;
#[cfg(test)]
mod vectors;
mod words;

pub use agreement_key::AgreementKey;
pub use check::{CheckValue, check_value};
pub use contribute::{SealedContribution, contribute, contribute_on, every_seat};
pub use error::{Check, Error, Result};
pub use key_sum::KeySum;
pub use key_sum_share::{KeySumShare, sum_shares};
pub use one_time_key::{OneTimeKey, SEALED_SHARE_BYTES, SealingKey};
pub use open::{OpenedSum, SecondOpening, open, open_on};
pub use parcel::{open_parcel, seal_parcel};
