//! `ciphertune params`: the encryption parameters, derived in the open.

mod committee;
mod explanation;

use std::process::ExitCode;

use ciphertune_client::{Error, Result};
use ciphertune_sum::{CohortSize, Parameters, ValueBound};
use clap::Subcommand;

use crate::{Common, output};
use committee::Committee;
use explanation::Explanation;

/// Subcommands of `ciphertune params`.
#[derive(Subcommand)]
pub enum Command {
    /// Derive the parameter set for a cohort and a bound on one integer, with what it rests on and what it costs.
    Explain {
        /// n, members of the cohort: 2 to 1,000.
        #[arg(long, value_name = "N")]
        members: usize,
        /// B, the bound on one integer of one contribution; rounded up to 2^b − 1.
        #[arg(long, value_name = "B")]
        value_bound: u64,
        /// How many parameters one contribution carries: then the bytes and the odds of a whole round are given too.
        #[arg(long, value_name = "P")]
        parameters: Option<u32>,
        /// k, how many members are drawn to hold the shares of the keys, instead of everybody: then who may collude and
        /// be missing among them, and the odds of a worse draw, are given too.
        #[arg(long, value_name = "K")]
        committee: Option<usize>,
        /// M, members of the manifest, out of whom a committee is drawn; as many as the cohort has when left out.
        #[arg(long, value_name = "M", requires = "committee")]
        manifest: Option<usize>,
        /// c, members of the manifest that are assumed to help the server.
        #[arg(long, value_name = "C", requires = "committee", default_value_t = 0)]
        colluders: usize,
    },
}

impl Command {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        let Self::Explain {
            members,
            value_bound,
            parameters: length,
            committee,
            manifest,
            colluders,
        } = self;
        if length == Some(0) {
            return Err(Error::Misuse(
                "a contribution has at least one parameter".into(),
            ));
        }
        let committee = committee
            .map(|size| Committee::among(manifest.unwrap_or(members), members, colluders, size))
            .transpose()?;
        let explanation = Explanation::of(derive(members, value_bound)?, length, committee);
        if common.json {
            output::json(&explanation)?;
        } else {
            print!("{explanation}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The parameter set, or a refusal that says what would fit.
fn derive(members: usize, value_bound: u64) -> Result<Parameters> {
    let members = CohortSize::new(members).map_err(refused)?;
    let bound = ValueBound::covering(value_bound).map_err(|error| {
        let largest = ValueBound::largest_for(members);
        Error::Refused(format!(
            "{}; with {} members B may be at most 2^{} - 1 = {}",
            words(error),
            members.get(),
            largest.bits(),
            largest.get()
        ))
    })?;
    Parameters::derive(members, bound).map_err(refused)
}

fn refused(error: ciphertune_sum::Error) -> Error {
    Error::Refused(words(error))
}

fn words(error: ciphertune_sum::Error) -> String {
    match error {
        ciphertune_sum::Error::Refused(said) => said,
        other => other.to_string(),
    }
}
