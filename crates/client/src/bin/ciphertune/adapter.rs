//! `ciphertune export` and `ciphertune import`: tuned folders from jobs and from PEFT, and PEFT's files from both.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use ciphertune_client::{
    Error, Result,
    tuned::{Opened, Tuned},
};
use ciphertune_round::Digest;
use ciphertune_tune::backbone::Options;
use clap::Args;
use serde_json::json;

use crate::{Common, backbone::BackboneFlags, output};

/// Flags of `ciphertune export`.
#[derive(Args)]
pub struct Export {
    /// A tuned folder.
    #[arg(
        long,
        value_name = "DIR",
        required_unless_present = "job",
        conflicts_with = "job"
    )]
    adapter: Option<PathBuf>,
    /// A federation's job, by its digest: the model that this member and its fellows agreed on last.
    #[arg(long, value_name = "DIGEST")]
    job: Option<String>,
    #[command(flatten)]
    backbone: BackboneFlags,
    /// The folder to write: a tuned folder that PEFT loads, too.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Flags of `ciphertune import`.
#[derive(Args)]
pub struct Import {
    /// The folder with PEFT's adapter_config.json and adapter_model.safetensors.
    #[arg(value_name = "DIR")]
    peft: PathBuf,
    #[command(flatten)]
    backbone: BackboneFlags,
    /// The folder to write.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How a record becomes text; PEFT's files do not say.
    #[arg(long, value_name = "TEXT")]
    template: String,
    /// The labels in the order that the adapter was tuned with, separated by commas; none: answers are in words.
    #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
    labels: Vec<String>,
}

impl Export {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        let opened = self.backbone.open(Options::default())?;
        let tuned = match (&self.adapter, &self.job) {
            (Some(folder), _) => Tuned::read(folder, &opened)?.0,
            (None, Some(job)) => Tuned::of_job(&common.home.job(&Digest::from_hex(job)?), &opened)?,
            (None, None) => return Err(Error::Misuse("--adapter or --job says what".into())),
        };
        keep(&tuned, &self.out, &opened, common)
    }
}

impl Import {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        let opened = self.backbone.open(Options::default())?;
        let tuned = Tuned::import(&self.peft, &opened, self.template, self.labels)?;
        keep(&tuned, &self.out, &opened, common)
    }
}

fn keep(tuned: &Tuned, out: &Path, opened: &Opened, common: &Common) -> Result<ExitCode> {
    tuned.would_replace_another(out)?;
    let without_peft = tuned.write(out, opened)?.map(|reason| reason.to_string());
    if common.json {
        output::json(&json!({
            "folder": out,
            "digest": tuned.about.digest,
            "origin": tuned.about.origin,
            "without_peft": without_peft,
        }))?;
    } else {
        output::say(&format!(
            "θ {}\nsaved in {}",
            tuned.about.digest,
            out.display()
        ))?;
        if let Some(reason) = without_peft {
            output::say(&format!("no PEFT adapter beside it: {reason}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
