//! The command line.

use std::{
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
};

use ciphertune_policy::{Decimal, Metric};
use ciphertune_tune::aggregation::Aggregation;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// A whole federation on this machine: an authority, a server, members with their own processes, keys, data and
/// ledgers, and a job that p-tunes a frozen language model through sealed sums.
///
/// Without --data and --model it is a smoke run on sentences written for it and a small model made from a seed.
#[derive(Debug, Parser)]
#[command(name = "demo", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// What a child process plays.
    #[command(subcommand)]
    pub child: Option<Child>,
    /// Everything else.
    #[command(flatten)]
    pub options: Options,
}

/// Seconds that a round waits unless the command line says otherwise.
pub const DEADLINE: u64 = 1800;

/// What to demonstrate.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Labelled sentences: `sentence@label` lines, JSON Lines or CSV with a column `label`.
    #[arg(long, value_name = "FILE")]
    pub data: Option<PathBuf>,
    /// A backbone in Hugging Face's layout: config.json, model.safetensors, tokenizer.json.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// Rounds. [default: 10; 100 with a sampling rate, when a round is one step]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub rounds: Option<u32>,
    /// Members.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = members)]
    pub members: usize,
    /// Sentences a member; those left over are the common validation set. [default: 600 with --data, else all that
    /// there are but a sixth]
    #[arg(long, value_name = "N")]
    pub per_member: Option<usize>,
    /// The federation's policy. [default: laboratory-no-privacy, WITHOUT differential privacy]
    #[arg(long, value_name = "FILE")]
    pub policy: Option<PathBuf>,
    /// The probability with which each record enters a round's batch. [default: 0.1 where the policy hides single records,
    /// and none where it hides nothing: members then train on all that they have]
    #[arg(long, value_name = "Q")]
    pub sampling_rate: Option<Decimal>,
    /// What is released of each round's batches beside the model, noised in the sealed sum, where the policy allows it:
    /// training-loss, training-accuracy.
    #[arg(long, value_name = "METRICS", value_delimiter = ',')]
    pub metrics: Vec<Metric>,
    /// How the mean of the members' updates moves the model.
    #[arg(long, value_enum, default_value_t = Average::FedAvg)]
    pub aggregation: Average,
    /// Measure the model after every Nth round, and after the last. [default: 1; 5 where a round is one step]
    #[arg(long, value_name = "N")]
    pub measure_every: Option<NonZeroU32>,
    /// A new or empty folder for everything that the run leaves. [default: a temporary one, named at the end]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Decides the split, the first model and the order of examples. Keys and noise are never seeded.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub seed: u64,
    /// One JSON object a line on standard output: what happens, and the summary at the end.
    #[arg(long)]
    pub json: bool,
    /// Seconds that a round waits for its contributions.
    #[arg(long, value_name = "SECONDS", default_value_t = DEADLINE, value_parser = clap::value_parser!(u64).range(1..))]
    pub deadline: u64,
}

/// Aggregations, with constants that serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Average {
    /// The mean is added.
    #[default]
    #[value(name = "fedavg")]
    FedAvg,
    /// With a momentum of a half, at half the rate.
    #[value(name = "fedavgm")]
    FedAvgM,
    /// Adam along the means.
    #[value(name = "fedadam")]
    FedAdam,
}

impl Average {
    /// As the tuning engine is told.
    pub fn aggregation(self) -> Aggregation {
        match self {
            Self::FedAvg => Aggregation::FedAvg,
            Self::FedAvgM => Aggregation::FedAvgM {
                rate: 0.5,
                momentum: 0.5,
            },
            Self::FedAdam => Aggregation::FedAdam {
                rate: 0.02,
                beta1: 0.9,
                beta2: 0.99,
                tau: 1e-3,
            },
        }
    }
}

/// How many members a federation on one machine has.
pub fn members(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(members) if (2..=100).contains(&members) => Ok(members),
        _ => Err("2 to 100 members, each a process of its own".into()),
    }
}

/// Re-executions of the demonstration.
#[derive(Debug, Subcommand)]
pub enum Child {
    /// Plays one party; started by the demonstration itself.
    #[command(hide = true)]
    Party {
        /// Which.
        #[command(subcommand)]
        party: Party,
    },
}

/// One party. Its key's pass-phrase stands in the file that `CIPHERTUNE_PASSPHRASE_FILE` names.
#[derive(Debug, Subcommand)]
pub enum Party {
    /// The server.
    Server {
        /// Its home.
        #[arg(long)]
        home: PathBuf,
    },
    /// Writes what it is sent into files: see `bench load`.
    Receiver {
        /// The server's home.
        #[arg(long)]
        home: PathBuf,
    },
    /// A member that sends pseudo-random vectors: see `bench sockets`.
    Vectors {
        /// Its home.
        #[arg(long)]
        home: PathBuf,
        /// Its number, from 0.
        #[arg(long)]
        number: usize,
        /// Threads that seal, check and open.
        #[arg(long)]
        threads: NonZeroUsize,
    },
    /// A member.
    Member {
        /// Its home.
        #[arg(long)]
        home: PathBuf,
        /// The backbone.
        #[arg(long)]
        model: PathBuf,
        /// Its own records.
        #[arg(long)]
        training: PathBuf,
        /// Records to measure the model on.
        #[arg(long)]
        validation: Option<PathBuf>,
        /// What its budget is kept under.
        #[arg(long)]
        dataset: String,
        /// Threads that seal, check and open.
        #[arg(long)]
        threads: NonZeroUsize,
        /// Rounds from one measurement to the next.
        #[arg(long)]
        measure_every: NonZeroU32,
        /// DANGEROUS: where to write what is sealed and what was opened, for the comparison.
        #[arg(long)]
        dangerous_plaintext: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_holds_together_and_hides_the_children() {
        let mut command = Arguments::command();
        command.clone().debug_assert();
        let help = command.render_long_help().to_string();
        assert!(help.contains("--per-member") && !help.contains("party"));
    }

    #[test]
    fn a_federation_of_one_and_no_rounds_are_usage_errors() {
        let refused = |arguments: &[&str]| Arguments::try_parse_from(arguments).is_err();
        assert!(refused(&["demo", "--members", "1"]));
        assert!(refused(&["demo", "--rounds", "0"]));
        assert!(refused(&["demo", "--sampling-rate", "a tenth"]));
        assert!(!refused(&["demo", "--members", "3", "--rounds", "1"]));
    }
}
