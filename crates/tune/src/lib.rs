//! P-tuning: a frozen language model, a small prompt encoder before it, and the loss on the
//! answer alone. Only the encoder's parameters (and a classifier's, where there is one) are
//! trained and shared.
//!
//! Read in this order: [`backbone`] (the frozen model), [`encoder`] (what is trained),
//! [`head`] (pooling and the classifier), [`parameters`] (all of it as one vector); then
//! [`data`], [`template`], [`tokenizer`] and [`task`] (records to tokens), [`batch`],
//! [`optimiser`], [`spec`] (every choice), and [`trainer`] (one member's local work).

pub mod backbone;
pub mod encoder;
mod error;
#[cfg(test)]
mod toy;
mod model;
pub mod verbalizer;
pub mod trainer;
pub mod tokenizer;
pub mod template;
pub mod task;
pub mod spec;
mod shuffle;
pub mod optimiser;
pub mod evaluate;
pub mod data;
pub mod batch;
pub mod head;
pub mod parameters;
pub mod random;

pub use error::{Error, Result};
