//! `ciphertune predict`: labels for texts.

use std::{io::BufRead as _, path::PathBuf, process::ExitCode};

use ciphertune_client::{
    Result,
    tuned::{Opened, Tuned},
};
use ciphertune_tune::{backbone::Options, data::Record, trainer::Trainer};
use clap::Args;
use serde_json::json;

use crate::{Common, output, question};

/// Flags of `ciphertune predict`.
#[derive(Args)]
pub struct Predict {
    /// The tuned folder.
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    /// The frozen backbone that it was tuned before.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Texts; none: standard input, one a line. A line that is a JSON object gives the template's columns by name.
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// Lines of standard input that are read before they are answered.
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch: usize,
}

impl Predict {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        let opened = Opened::open(&self.model, Options::default())?;
        let (tuned, mut trainer) = Tuned::read(&self.adapter, &opened)?;
        let mut answer = |records: &mut Vec<Record>| -> Result<()> {
            tell(&mut trainer, &tuned, records, common)?;
            records.clear();
            Ok(())
        };
        let template = tuned.about.tuning.task()?.template().clone();
        let mut records = Vec::new();
        if !self.texts.is_empty() {
            for (at, text) in self.texts.iter().enumerate() {
                records.push(question::parse(text, &template, at + 1)?);
            }
            answer(&mut records)?;
            return Ok(ExitCode::SUCCESS);
        }
        for (at, line) in std::io::stdin().lock().lines().enumerate() {
            let line = line.map_err(question::unreadable)?;
            if line.trim().is_empty() {
                continue;
            }
            records.push(question::parse(&line, &template, at + 1)?);
            if records.len() >= self.batch.max(1) {
                answer(&mut records)?;
            }
        }
        answer(&mut records)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn tell(
    trainer: &mut Trainer<'_>,
    tuned: &Tuned,
    records: &[Record],
    common: &Common,
) -> Result<()> {
    let labels = &tuned.about.tuning.labels;
    for found in trainer.predict(&tuned.parameters, records)? {
        let label = &labels[found.label];
        if common.json {
            let each = labels.iter().zip(&found.probabilities);
            let probabilities: serde_json::Map<_, _> =
                each.map(|(label, p)| (label.clone(), json!(p))).collect();
            output::json(
                &json!({"label": label, "probabilities": probabilities, "truncated": found.truncated}),
            )?;
        } else {
            let cut = if found.truncated {
                "  (cut to the context)"
            } else {
                ""
            };
            println!("{label}  {:.3}{cut}", found.probabilities[found.label]);
        }
    }
    Ok(())
}
