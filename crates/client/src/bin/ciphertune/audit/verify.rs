//! `ciphertune audit verify`: everything recomputed from the folders of any number of nodes.

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode, time::SystemTime};

use ciphertune_client::{
    Result,
    verify::{Audit, Node, Spending},
};
use ciphertune_round::{Digest, Fingerprint};
use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{Common, output};

/// Findings that are told one by one, without --json.
const TOLD: usize = 20;

/// Flags of `ciphertune audit verify`.
#[derive(Args)]
pub struct Verify {
    #[command(flatten)]
    nodes: Nodes,
}

/// What is audited.
#[derive(Args)]
pub struct Nodes {
    /// Members' homes, a server's data folder or the folder that it stands in, or copies: each with its audit.jsonl, evidence/ and, a
    /// member's, ledger.sqlite.
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// The fingerprint of the authority's key, as you have it from elsewhere: else whoever made the folders chose the authority too.
    #[arg(long, value_name = "HEX")]
    authority: Option<String>,
}

impl Nodes {
    /// Audits them, with a bar where somebody watches.
    pub async fn audit(&self, common: &Common) -> Result<Audit> {
        let authority = self
            .authority
            .as_deref()
            .map(str::trim)
            .map(Digest::from_hex);
        let authority = authority.transpose()?.map(Fingerprint::from_digest);
        let size = |folder: &PathBuf| {
            let log = std::fs::metadata(folder.join("audit.jsonl"));
            log.map_or(0, |log| log.len())
        };
        let sizes: Vec<u64> = self.folders.iter().map(size).collect();
        let bar = ProgressBar::new(sizes.iter().sum());
        if common.json || !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) =
            ProgressStyle::with_template("reading {wide_bar} {bytes} of {total_bytes}")
        {
            bar.set_style(style);
        }
        let mut progress = |place, bytes| {
            let before: u64 = sizes.iter().take(place).sum();
            bar.set_position(before + bytes);
        };
        let audit = Audit::of(&self.folders, authority, SystemTime::now(), &mut progress).await;
        bar.finish_and_clear();
        audit
    }
}

impl Verify {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        output::on_runtime(async {
            let audit = self.nodes.audit(common).await?;
            if common.json {
                output::json(&audit.verdict())?;
            } else {
                tell(&audit)?;
            }
            Ok(match audit.holds() {
                true => ExitCode::SUCCESS,
                false => ExitCode::from(1),
            })
        })
    }
}

fn tell(audit: &Audit) -> Result<()> {
    for node in &audit.nodes {
        output::say(&of_node(node))?;
    }
    for spending in &audit.spending {
        output::say(&of_spending(spending))?;
    }
    match (&audit.authority, audit.authority_is_expected) {
        (Some(authority), true) => output::say(&format!("authority  {authority}, as you gave it"))?,
        (Some(authority), false) => output::say(&format!(
            "authority  {authority}, as the folders say: hold it to what you have from elsewhere (--authority HEX)"
        ))?,
        (None, _) => {}
    }
    let verdict = audit.verdict();
    let counted = format!(
        "{}, {}, {} with a model",
        count(verdict.jobs, "job"),
        count(verdict.attempts, "attempt"),
        count(verdict.rounds, "round"),
    );
    let Some((first, others)) = audit.findings.split_first() else {
        return output::say(&format!(
            "\nverified: {counted}; everything holds that docs/audit.md lists, as far as each log is signed"
        ));
    };
    output::say(&format!("\nNOT VERIFIED: {counted}\nfirst wrong: {first}"))?;
    for finding in others.iter().take(TOLD) {
        output::say(&format!("also: {finding}"))?;
    }
    match verdict.found.saturating_sub(1 + TOLD as u64) {
        0 => Ok(()),
        more => output::say(&format!(
            "and {more} more (--json has the first 200 of each log)"
        )),
    }
}

fn of_node(node: &Node) -> String {
    let times = match (&node.from, &node.until) {
        (Some(from), Some(until)) => format!("{from} to {until}"),
        _ => "no time".into(),
    };
    if node.entries == 0 {
        return format!("{}\n  no log that could be read", node.name);
    }
    let unsigned = match node.entries.saturating_sub(node.signed_entries) {
        0 | 1 => String::new(), // the last checkpoint itself
        more => format!("; the last {} are not signed yet", count(more, "entry")),
    };
    let pruned = match node.pruned_entries {
        0 => String::new(),
        more => format!(
            "\n  of {} no object is kept any more (audit.retention_days)",
            count(more, "entry")
        ),
    };
    let torn = match node.unfinished_bytes {
        0 => String::new(),
        bytes => format!(
            "\n  behind them {} of an append that is under way, or was cut short by a crash",
            count(bytes, "byte")
        ),
    };
    format!(
        "{}\n  {}, {times}, root {}\n  {} by its owner, of its first {}{unsigned}; {} of it in the other logs{pruned}{torn}",
        node.name,
        count(node.entries, "entry"),
        node.root,
        count(node.checkpoints, "signed checkpoint"),
        count(node.signed_entries, "entry"),
        count(node.known_to_others, "head"),
    )
}

fn of_spending(spending: &Spending) -> String {
    let cost = match (spending.epsilon, spending.epsilon_budget, spending.delta) {
        (Some(epsilon), Some(budget), Some(delta)) => {
            format!("epsilon {epsilon:.4} of a budget of {budget}, delta {delta:e}")
        }
        _ => "no privacy budget".into(),
    };
    let without = match spending.without_privacy {
        true => "; it was used without privacy too",
        false => "",
    };
    format!(
        "budget  {}, dataset {}: {}, {cost}{without}",
        spending.node,
        spending.dataset,
        count(spending.attempts, "attempt"),
    )
}

/// A number with its noun.
pub fn count(number: u64, noun: &str) -> String {
    let stem = noun
        .strip_suffix('y')
        .filter(|stem| !stem.ends_with(['a', 'e', 'o', 'u']));
    match (number, stem) {
        (1, _) => format!("1 {noun}"),
        (_, Some(stem)) => format!("{number} {stem}ies"),
        _ => format!("{number} {noun}s"),
    }
}
