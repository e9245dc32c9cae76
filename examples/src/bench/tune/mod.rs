//! What one p-tuning step takes, by production's code, beside PyTorch + PEFT on the same model, tokens and answers.
//!
//! Read [`shape`] (which models), [`case`](mod@case) (what both sides are given), [`worker`] (our side, a process of its own),
//! [`steps`] (the two in turn) and [`report`].

pub mod case;
pub mod report;
pub mod shape;
pub mod steps;
pub mod worker;

use super::options::TuneOptions;
use crate::{Error, Result};
use case::Case;
use report::Tuned;

/// Measures every shape at every number of threads.
pub fn measure(options: &TuneOptions) -> Result<Tuned> {
    let mut rows = Vec::new();
    let mut skipped = Vec::new();
    for &shape in &options.shapes {
        let folder =
            tempfile::tempdir().map_err(|error| Error::fault("a temporary folder", error))?;
        let Some(case) = Case::write(shape, options, folder.path())? else {
            skipped.push(shape);
            continue;
        };
        for &threads in &options.threads {
            rows.push(steps::measure(&case, threads, options)?);
        }
    }
    Ok(Tuned {
        encoder: options.encoder,
        rows,
        skipped,
    })
}
