//! `ciphertune policy`: an officer's commands.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use ciphertune_client::{Error, Result};
use ciphertune_policy::Policy;
use ciphertune_round::Digest;
use clap::Subcommand;
use serde_json::json;

use crate::{Common, output};

/// Subcommands of `ciphertune policy`.
#[derive(Subcommand)]
pub enum Command {
    /// Say whether a policy is valid; every problem at once, with line and column.
    Check {
        /// The policy's TOML file.
        file: PathBuf,
    },
    /// Say in plain language what a policy allows.
    Explain {
        /// The policy's TOML file.
        file: PathBuf,
    },
    /// The strictest of several policies.
    Merge {
        /// The policies' TOML files.
        #[arg(required = true, num_args = 2..)]
        files: Vec<PathBuf>,
    },
}

impl Command {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        match self {
            Self::Check { file } => {
                let policy = parse(&file)?;
                let digest = Digest::from_bytes(policy.digest());
                if common.json {
                    output::json(&json!({"valid": true, "digest": digest.to_string()}))?;
                } else {
                    println!("{}: valid, digest {digest}", file.display());
                }
            }
            Self::Explain { file } => explain(&parse(&file)?, common)?,
            Self::Merge { files } => {
                let policies = files
                    .iter()
                    .map(|file| parse(file))
                    .collect::<Result<Vec<_>>>()?;
                let merged = Policy::merge(&policies.iter().collect::<Vec<_>>())
                    .map_err(|error| Error::Refused(error.to_string()))?;
                explain(&merged, common)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn explain(policy: &Policy, common: &Common) -> Result<()> {
    if common.json {
        println!("{}", policy.canonical_json());
    } else {
        print!("{}", policy.explain());
    }
    Ok(())
}

fn parse(file: &Path) -> Result<Policy> {
    Policy::parse(&output::read(file)?).map_err(|error| Error::Malformed {
        what: file.display().to_string(),
        detail: error.to_string(),
    })
}
