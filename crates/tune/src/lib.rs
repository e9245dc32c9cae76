//! P-tuning: a frozen language model, a small prompt encoder before it, and the loss on the
//! answer alone. Only the encoder's parameters (and a classifier's, where there is one) are
//! trained and shared.
//!
//! Read in this order: [`backbone`] (the frozen model), [`encoder`] (what is trained),
//! [`head`] (pooling and the classifier), [`mod@device`] (where it runs), [`parameters`] (all of it as one vector); then
//! [`data`], [`template`], [`tokenizer`] and [`task`] (records to tokens), [`batch`],
//! [`optimiser`], [`aggregation`], [`spec`] (every choice), and [`trainer`] (one member's local work; with record-level
//! privacy, its records' own gradients and the step along what is released). On one machine alone: [`session`] (a run that
//! can be killed and go on), [`predict`] and [`generate`] (what a tuned model is for); last [`adapter`] (what was tuned, as
//! PEFT saves it).

pub mod adapter;
pub mod aggregation;
pub mod backbone;
pub mod batch;
mod checkpoint;
pub mod data;
pub mod device;
pub mod encoder;
mod error;
pub mod evaluate;
pub mod file;
pub mod generate;
pub mod head;
mod model;
pub mod optimiser;
pub mod parameters;
mod part;
pub mod predict;
pub mod random;
mod record;
pub mod session;
mod shuffle;
pub mod spec;
pub mod task;
pub mod template;
mod tensors;
pub mod tokenizer;
#[cfg(test)]
mod toy;
pub mod trainer;
pub mod verbalizer;

pub use error::{Error, Result};
pub use model::RecordGradient;
