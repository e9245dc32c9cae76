//! `ciphertune predict`: labels for texts.

use std::{path::PathBuf, process::ExitCode};

use ciphertune_client::{Error, Result, tuned::Tuned};
use ciphertune_tune::{backbone::Options, data::Record, task::Route, trainer::Trainer};
use clap::Args;
use serde_json::json;

use crate::{Common, backbone::BackboneFlags, output, question};

/// Flags of `ciphertune predict`.
#[derive(Args)]
pub struct Predict {
    /// The tuned folder.
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    #[command(flatten)]
    backbone: BackboneFlags,
    /// Texts; none: standard input, one a line. A line that is a JSON object gives the template's columns by name; an empty one
    /// has an empty answer.
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// Lines of standard input that are read before they are answered.
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch: usize,
}

/// Questions that wait for their answers.
struct Batch<'a, 'b> {
    trainer: &'a mut Trainer<'b>,
    tuned: &'a Tuned,
    common: &'a Common,
    /// Each with its number; none of an empty line.
    waiting: Vec<(usize, Option<Record>)>,
}

impl Predict {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        let opened = self.backbone.open(Options::default())?;
        let (tuned, mut trainer) = Tuned::read(&self.adapter, &opened)?;
        if trainer.task().route() == Route::Generation {
            return Err(Error::Misuse(format!(
                "{} answers in words, and has no labels to predict: `ciphertune generate` writes them",
                self.adapter.display()
            )));
        }
        let template = trainer.task().template().clone();
        let mut batch = Batch {
            trainer: &mut trainer,
            tuned: &tuned,
            common,
            waiting: Vec::new(),
        };
        let numbered = (1..).zip(self.texts.iter().cloned()).map(Ok);
        let questions: Box<dyn Iterator<Item = Result<(usize, String)>>> =
            match self.texts.is_empty() {
                true => Box::new(question::lines()),
                false => Box::new(numbered),
            };
        for question in questions {
            let asked = question.and_then(|(number, text)| {
                let record = match text.is_empty() {
                    true => None,
                    false => Some(question::parse(&text, &template, number)?),
                };
                Ok((number, record))
            });
            match asked {
                Ok(asked) => batch.waiting.push(asked),
                // What was asked before it is answered first.
                Err(error) => return batch.answer().and(Err(error)),
            }
            if batch.waiting.len() >= self.batch.max(1) {
                batch.answer()?;
            }
        }
        batch.answer()?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Batch<'_, '_> {
    fn answer(&mut self) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let records: Vec<Record> = waiting.iter().filter_map(|(_, it)| it.clone()).collect();
        let found = self.trainer.predict(&self.tuned.parameters, &records);
        let first = waiting.first().map_or(0, |(number, _)| *number);
        let found = found.map_err(|error| match Error::from(error) {
            Error::Malformed { what, detail } => Error::Malformed {
                what: format!("{what}, texts from {first}"),
                detail,
            },
            other => other,
        })?;
        let mut found = found.into_iter();
        let labels = &self.tuned.about.tuning.labels;
        for (number, record) in waiting {
            let found = record.and_then(|_| found.next());
            let Some(found) = found else {
                match self.common.json {
                    true => output::json(&json!({"number": number, "label": null}))?,
                    false => output::say("")?,
                }
                continue;
            };
            let label = &labels[found.label];
            if self.common.json {
                let each = labels.iter().zip(&found.probabilities);
                let probabilities: serde_json::Map<_, _> =
                    each.map(|(label, p)| (label.clone(), json!(p))).collect();
                output::json(&json!({
                    "number": number,
                    "label": label,
                    "probabilities": probabilities,
                    "truncated": found.truncated,
                }))?;
            } else {
                let cut = if found.truncated {
                    "  (cut to the context)"
                } else {
                    ""
                };
                let likely = found.probabilities[found.label];
                output::say(&format!("{label}  {likely:.3}{cut}"))?;
            }
        }
        Ok(())
    }
}
