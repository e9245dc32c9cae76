//! `ciphertune eval`: how good a tuned prompt is on labelled records.

use std::{path::PathBuf, process::ExitCode};

use ciphertune_client::{Result, tuned::Tuned};
use ciphertune_tune::{backbone::Options, data::Dataset};
use clap::Args;
use serde_json::json;

use crate::{
    Common,
    backbone::BackboneFlags,
    output,
    tune::{summary, table},
};

/// Flags of `ciphertune eval`.
#[derive(Args)]
pub struct Eval {
    /// The tuned folder.
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    #[command(flatten)]
    backbone: BackboneFlags,
    /// Labelled records: `sentence@label`, JSON Lines or CSV. Duplicates count once.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
}

impl Eval {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        let opened = self.backbone.open(Options::default())?;
        let (tuned, mut trainer) = Tuned::read(&self.adapter, &opened)?;
        let data = Dataset::read(&self.data, &trainer.task().schema())?;
        let encoded = trainer.encode(data.records())?;
        let found = trainer.evaluate(&tuned.parameters, &encoded)?;
        if common.json {
            output::json(&json!({
                "evaluation": found,
                "labels": tuned.about.tuning.labels,
                "duplicates": data.duplicates(),
                "truncated": encoded.truncated(),
            }))?;
        } else {
            output::say(&summary(&found))?;
            output::say(&table(&found, &tuned.about.tuning.labels))?;
            output::say(&format!(
                "{} duplicates left out; {} records cut to the backbone's context",
                data.duplicates(),
                encoded.truncated()
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
