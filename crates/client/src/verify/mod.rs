//! What an auditor recomputes, offline, from the folders of any number of nodes.
//!
//! Each log is read twice in memory that does not grow with it: once entry by entry (`node`, `rounds`), once for the heads that others
//! have signed for (`across`); then what the logs say is held together, and the ledgers are reckoned anew (`ledgers`).
//!
//! What it proves: nobody rewrote a log alone. What it cannot: that a log whose owner wrote it wrongly from the start, and whom no
//! other log contradicts, tells the truth; and nothing of entries after the last checkpoint that another has signed for, if they were
//! cut off.

mod across;
mod case;
mod finding;
mod ledgers;
mod node;
mod report;
mod rounds;
mod seen;

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use ciphertune_identity::Role;
use ciphertune_round::{Digest, Fingerprint};
use serde::Serialize;

use crate::error::{Error, Result};
use case::Case;
use node::Examiner;

pub use case::Refusal;
pub use finding::{Finding, Rule};
pub use ledgers::Spending;
pub use node::Node;
pub use report::Report;

/// What an audit came to.
pub struct Audit {
    /// What was read.
    pub nodes: Vec<Node>,
    /// The authority that all of it was held to, by its key's fingerprint.
    pub authority: Option<Fingerprint>,
    /// Whether the auditor brought that fingerprint, rather than the folders.
    pub authority_is_expected: bool,
    /// What does not hold, in the order of time.
    pub findings: Vec<Finding>,
    /// What each dataset has cost.
    pub spending: Vec<Spending>,
    case: Case,
}

/// An audit in a few words.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verdict {
    /// Whether everything holds.
    pub holds: bool,
    /// The authority's fingerprint, and whether the auditor brought it.
    pub authority: Option<String>,
    /// See `authority`.
    pub authority_is_expected: bool,
    /// What was read.
    pub nodes: Vec<Node>,
    /// Jobs, attempts and complete rounds that were recomputed.
    pub jobs: u64,
    /// See `jobs`.
    pub attempts: u64,
    /// See `jobs`.
    pub rounds: u64,
    /// What each dataset has cost.
    pub spending: Vec<Spending>,
    /// How many things do not hold.
    pub found: u64,
    /// They, the first thing first; of very many in one log the first two hundred.
    pub findings: Vec<Finding>,
}

impl Audit {
    /// Audits the folders: members' homes, a server's data folder or the folder that it stands in, or copies of them. `now` is when: no entry may be later. `authority` is its fingerprint as the auditor has it
    /// from elsewhere. `progress` hears how many bytes of which folder's log are read.
    ///
    /// # Errors
    /// [`Error::Misuse`] for no folder, or the same party's twice; [`Error::Fault`] from the disk. What does not hold is no error.
    pub async fn of(
        folders: &[PathBuf],
        authority: Option<Fingerprint>,
        now: SystemTime,
        progress: &mut (dyn FnMut(usize, u64) + Send),
    ) -> Result<Self> {
        if folders.is_empty() {
            return Err(Error::Misuse("no folder to audit".into()));
        }
        let folders: Vec<PathBuf> = folders.iter().map(|it| log_folder(it)).collect();
        let parties: Vec<_> = folders.iter().map(|it| node::party_of(it)).collect();
        for (place, party) in parties.iter().enumerate() {
            let earlier = parties.iter().take(place).position(|it| it == party);
            if let Some(earlier) = earlier.filter(|_| party.is_some()) {
                return Err(Error::Misuse(format!(
                    "{} and {} are of one party: audit them one at a time",
                    folders[earlier].display(),
                    folders[place].display()
                )));
            }
        }
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut case = Case {
            authority: None,
            expected_authority: authority,
            manifest: None,
            parties,
            pruned: folders.iter().map(|it| node::pruned_in(it)).collect(),
            now: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            ends: HashMap::new(),
            ended_at: HashMap::new(),
            numbered: Vec::new(),
            jobs: BTreeMap::new(),
            attempts: HashMap::new(),
            plans: HashMap::new(),
            claims: BTreeMap::new(),
            ledger_heads: HashMap::new(),
            findings: Vec::new(),
            found: 0,
        };
        let mut nodes = Vec::new();
        for (place, folder) in folders.iter().enumerate() {
            let examiner = Examiner::new(&mut case, place, folder);
            nodes.push(examiner.read(folder, &mut |bytes| progress(place, bytes)));
        }
        let server = case.manifest.as_ref().and_then(|manifest| {
            let server = manifest.with_role(Role::Server).next()?;
            case.place_of(&server.fingerprint())
        });
        let mut spending = Vec::new();
        for (place, folder) in folders.iter().enumerate() {
            let Some(party) = case.parties.get(place).copied().flatten() else {
                continue;
            };
            case.check_claims(folder, &mut nodes[place], &party);
            if Some(place) != server {
                let node = &nodes[place];
                spending.extend(case.check_ledger(folder, place, node, &party).await?);
            }
        }
        case.check_others(&nodes, server);
        let mut findings = std::mem::take(&mut case.findings);
        // What is an entry's says more than what follows from it elsewhere.
        findings.sort_by_key(|(time, finding)| (finding.entry.is_none(), *time));
        Ok(Self {
            nodes,
            authority: case.authority.as_ref().map(|it| it.key().fingerprint()),
            authority_is_expected: authority.is_some(),
            findings: findings.into_iter().map(|(_, finding)| finding).collect(),
            spending,
            case,
        })
    }

    /// Whether everything holds.
    pub fn holds(&self) -> bool {
        self.findings.is_empty()
    }

    /// In a few words.
    pub fn verdict(&self) -> Verdict {
        let attempts = &self.case.attempts;
        Verdict {
            holds: self.holds(),
            authority: self.authority.map(|it| it.to_string()),
            authority_is_expected: self.authority_is_expected,
            nodes: self.nodes.clone(),
            jobs: self.case.jobs.len() as u64,
            attempts: attempts.len() as u64,
            rounds: attempts.values().filter(|it| it.agreed.is_some()).count() as u64,
            spending: self.spending.clone(),
            found: self.case.found,
            findings: self.findings.clone(),
        }
    }

    /// A job as a regulator wants to see it.
    ///
    /// # Errors
    /// [`Error::Misuse`] unless `wanted` is the name of one job, or the beginning of its digest.
    pub fn report(&self, wanted: &str) -> Result<Report> {
        Report::of(self, wanted)
    }

    /// The jobs that the logs know, by digest, and their names.
    pub fn jobs(&self) -> impl Iterator<Item = (Digest, &str)> {
        let jobs = self.case.jobs.iter();
        jobs.map(|(digest, facts)| (*digest, facts.job.name.as_str()))
    }
}

/// Where a node's log is: in the folder, or in `data/` of a server's.
pub fn log_folder(folder: &Path) -> PathBuf {
    let data = folder.join("data");
    match !folder.join("audit.jsonl").exists() && data.join("audit.jsonl").exists() {
        true => data,
        false => folder.to_owned(),
    }
}
