//! P-tuning: a frozen language model, a small prompt encoder before it, and the loss on the
//! answer alone. Only the encoder's parameters (and a classifier's, where there is one) are
//! trained and shared.
//!
//! Read in this order: [`backbone`] (the frozen model), [`encoder`] (what is trained),
//! [`head`] (pooling and the classifier), [`parameters`] (all of it as one vector).

pub mod backbone;
mod error;

pub use error::{Error, Result};
