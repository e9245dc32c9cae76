//! `ciphertune params`: the encryption parameters, derived in the open.

use std::process::ExitCode;

use ciphertune_client::{Error, Result};
use ciphertune_sum::{CohortSize, Parameters, ValueBound};
use clap::Subcommand;
use serde_json::json;

use crate::{Common, output};

/// Subcommands of `ciphertune params`.
#[derive(Subcommand)]
pub enum Command {
    /// Derive the parameter set for a cohort and a bound on one integer.
    Explain {
        /// n, members of the cohort: 2 to 1,000.
        #[arg(long, value_name = "N")]
        members: usize,
        /// B, the bound on one integer of one contribution; rounded up to 2^b − 1.
        #[arg(long, value_name = "B")]
        value_bound: u64,
    },
}

impl Command {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        let Self::Explain {
            members,
            value_bound,
        } = self;
        let refused = |error: ciphertune_sum::Error| Error::Refused(error.to_string());
        let cohort = CohortSize::new(members).map_err(refused)?;
        let bound = ValueBound::covering(value_bound).map_err(refused)?;
        let parameters = Parameters::derive(cohort, bound).map_err(refused)?;
        let (variance, over) = ciphertune_sum::SIGMA_SQUARED;
        if common.json {
            output::json(&json!({
                "name": parameters.name(),
                "members": members,
                "value_bound": bound.get(),
                "modulus": ciphertune_sum::Q.to_string(),
                "ring_degree": ciphertune_sum::N,
                "error_variance": format!("{variance}/{over}"),
                "delta_log2": parameters.delta_log2(),
                "slot_bits": parameters.slot_bits(),
                "values_per_coefficient": parameters.slots(),
                "bytes_per_parameter": parameters.bytes_per_parameter(),
            }))?;
        } else {
            println!(
                "{}\n  ring      Z_q[X]/(X^{} + 1), q = 2^64 - 2^32 + 1\n  errors    discrete Gaussian, variance {variance}/{over}\n  \
                 scale     Delta = 2^{}\n  packing   {} values of {} bits in one coefficient\n  size      {:.2} bytes a parameter",
                parameters.name(),
                ciphertune_sum::N,
                parameters.delta_log2(),
                parameters.slots(),
                parameters.slot_bits(),
                parameters.bytes_per_parameter()
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}
