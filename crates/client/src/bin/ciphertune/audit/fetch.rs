//! `ciphertune audit fetch`: the server's log over the network, for whom the policy lets read it.

use std::{path::PathBuf, process::ExitCode};

use ciphertune_client::{Result, auditor, site::Site};
use clap::Args;
use indicatif::ProgressBar;
use serde_json::json;

use super::verify::count;
use crate::{Common, output, passphrase::passphrase};

/// Flags of `ciphertune audit fetch`.
#[derive(Args)]
pub struct Fetch {
    /// The folder that gets audit.jsonl and evidence/; one that holds an earlier part is gone on with.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

impl Fetch {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        output::on_runtime(async {
            let site = Site::open(common.home.clone(), &passphrase()?)?;
            let bar = match common.json {
                true => ProgressBar::hidden(),
                false => ProgressBar::new_spinner(),
            };
            let mut progress = |so_far: &auditor::Fetched| {
                bar.set_message(format!(
                    "{} entries, {} objects",
                    so_far.entries, so_far.objects
                ));
                bar.tick();
            };
            let fetched = auditor::fetch(&site, &self.out, &mut progress).await;
            bar.finish_and_clear();
            let fetched = fetched?;
            let folder = self.out.display();
            if common.json {
                output::json(&json!({
                    "folder": folder.to_string(),
                    "entries": fetched.entries,
                    "new": fetched.new,
                    "objects": fetched.objects,
                }))?;
            } else {
                output::say(&format!(
                    "{folder}: {}, {} new, {}\nnext: ciphertune audit verify {folder}",
                    count(fetched.entries, "entry"),
                    fetched.new,
                    count(fetched.objects, "new object")
                ))?;
            }
            Ok(ExitCode::SUCCESS)
        })
    }
}
