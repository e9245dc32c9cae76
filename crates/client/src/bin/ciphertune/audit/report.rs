//! `ciphertune audit report`: one job as a page to hand to a regulator, and as JSON.

use std::{path::PathBuf, process::ExitCode};

use ciphertune_client::{Error, Result};
use clap::Args;
use serde_json::json;

use super::verify::{Nodes, count};
use crate::{Common, output};

/// Flags of `ciphertune audit report`.
#[derive(Args)]
pub struct Report {
    /// The job: its name, its digest, or the first characters of that.
    job: String,
    #[command(flatten)]
    nodes: Nodes,
    /// Where the two files go, without their endings; audit-JOB in this folder unless given.
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
}

impl Report {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        output::on_runtime(async {
            let audit = self.nodes.audit(common).await?;
            let report = audit.report(&self.job)?;
            let out = self.out.unwrap_or_else(|| {
                let digest: String = report.digest().chars().take(8).collect();
                format!("audit-{digest}").into()
            });
            let with = |ending: &str| {
                let mut path = out.clone().into_os_string();
                path.push(ending);
                PathBuf::from(path)
            };
            let (page, data) = (with(".html"), with(".json"));
            let json = serde_json::to_string_pretty(&report)
                .map_err(|error| Error::Fault(format!("writing JSON: {error}")))?;
            output::write_new(&page, report.to_html()?.as_bytes())?;
            output::write_new(&data, format!("{json}\n").as_bytes())?;
            let (page, data) = (page.display().to_string(), data.display().to_string());
            if common.json {
                output::json(&json!({"page": page, "json": data, "holds": audit.holds()}))?;
            } else {
                output::say(&format!("{page}\n{data}"))?;
                match audit.findings.first() {
                    None => output::say("verified: everything holds")?,
                    Some(first) => output::say(&format!(
                        "NOT VERIFIED: {}; first wrong: {first}",
                        count(audit.findings.len() as u64, "finding")
                    ))?,
                }
            }
            Ok(match audit.holds() {
                true => ExitCode::SUCCESS,
                false => ExitCode::from(1),
            })
        })
    }
}
