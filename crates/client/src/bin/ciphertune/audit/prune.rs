//! `ciphertune audit prune`: evidence that the policies no longer keep.

use std::{path::PathBuf, process::ExitCode, time::SystemTime};

use ciphertune_client::{Result, retention, verify::log_folder};
use clap::Args;

use super::verify::count;
use crate::{Common, output};

/// Flags of `ciphertune audit prune`.
#[derive(Args)]
pub struct Prune {
    /// The node's folder: a home, or a server's data. The node must be stopped.
    folder: PathBuf,
    /// Say what would be removed, and remove nothing.
    #[arg(long)]
    dry_run: bool,
}

impl Prune {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        let folder = log_folder(&self.folder);
        let pruned = retention::prune(&folder, SystemTime::now(), self.dry_run)?;
        if common.json {
            output::json(&pruned)?;
        } else {
            output::say(&format!(
                "{} {} of {} ({} bytes) that the policies keep no longer",
                if self.dry_run {
                    "would remove"
                } else {
                    "removed"
                },
                count(pruned.objects, "object"),
                count(pruned.jobs.len() as u64, "job"),
                pruned.bytes,
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
