//! `ciphertune audit`: an auditor's commands.

use std::{path::PathBuf, process::ExitCode};

use ciphertune_client::{Error, Result};
use ciphertune_round::Digest;
use clap::Subcommand;
use serde_json::json;

use crate::{Common, output};

/// Subcommands of `ciphertune audit`.
#[derive(Subcommand)]
pub enum Command {
    /// Read a whole log: every line well-formed and in sequence; prints its Merkle root.
    Head {
        /// The log, `audit.jsonl` in a party's home.
        log: PathBuf,
    },
}

impl Command {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        let Self::Head { log } = self;
        let (entries, root) = ciphertune_audit::verify_file(&log)
            .map_err(|error| Error::Refused(format!("{}: {error}", log.display())))?;
        let root = Digest::from_bytes(root);
        if common.json {
            output::json(&json!({"entries": entries, "root": root.to_string()}))?;
        } else {
            println!("{entries} entries, root {root}");
        }
        Ok(ExitCode::SUCCESS)
    }
}
