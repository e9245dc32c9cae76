//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::level::Level;
use crate::options::{Party, members};

/// Many runs of the demonstration, compared.
///
/// Every run is a cell, a folder in --out. A cell that is finished is kept and never run again: after Ctrl-C, or a crash,
/// the same command goes on with the next.
#[derive(Debug, Parser)]
#[command(name = "experiment", version)]
pub struct Arguments {
    /// What to compare.
    #[command(subcommand)]
    pub command: Command,
}

/// The comparisons.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Accuracy against epsilon, at record level.
    Privacy(PrivacyOptions),
    /// What a trained prompt shows of its own epsilon: canaries that enter the data by coins are guessed from the model
    /// (Steinke, Nasr, Jagielski 2023). A lower bound above the epsilon that was spent refutes the claim; without noise
    /// it should be above 0, or the guesses are worth nothing: both are exit code 1.
    Canaries(CanaryOptions),
    /// Plays one party; started by the experiment itself.
    #[command(hide = true)]
    Party {
        /// Which.
        #[command(subcommand)]
        party: Party,
    },
}

/// What every cell is run with.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Labelled sentences: `sentence@label` lines, JSON Lines or CSV with a column `label`.
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// A backbone in Hugging Face's layout: config.json, model.safetensors, tokenizer.json.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// A folder for the cells: new, or one of an earlier run with the same options.
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// The policy, of which every cell replaces epsilon. [default: record-epsilon-8]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// Rounds.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: u32,
    /// Members.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = members)]
    pub members: usize,
    /// The table as one JSON object on standard output.
    #[arg(long)]
    pub json: bool,
}

/// `experiment privacy`.
#[derive(Args, Clone, Debug)]
pub struct PrivacyOptions {
    /// What every cell is run with.
    #[command(flatten)]
    pub common: Common,
    /// Values of epsilon; inf is the same steps without noise.
    #[arg(
        long,
        value_name = "E",
        value_delimiter = ',',
        default_value = "1,2,4,8,inf"
    )]
    pub epsilon: Vec<Level>,
    /// Runs of each: seeds 1, 2, …
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// Sentences a member; those left over validate. [default: 600 with --data, else all that there are but a sixth]
    #[arg(long, value_name = "N")]
    pub per_member: Option<usize>,
}

/// `experiment canaries`.
#[derive(Args, Clone, Debug)]
pub struct CanaryOptions {
    /// What every cell is run with.
    #[command(flatten)]
    pub common: Common,
    /// Values of epsilon; inf is the same without noise, where the bound should be well above 0.
    #[arg(
        long,
        value_name = "E",
        value_delimiter = ',',
        default_value = "1,4,8,inf"
    )]
    pub epsilon: Vec<Level>,
    /// Canaries, of which about half enter the data.
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(12..=10_000))]
    pub canaries: u32,
    /// Sentences a member beside its canaries. [default: 200 with --data, else all that there are but a sixth]
    #[arg(long, value_name = "N")]
    pub per_member: Option<usize>,
    /// Decides the split, the first model, and the canaries' words and labels; their coins are never seeded.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}
