//! A member's ledger, reckoned anew from plans and rosters.

use std::{collections::BTreeMap, path::Path};

use ciphertune_dp::rdp;
use ciphertune_ledger::{Book, Cost, Entry, Kind, Limit, UNITS};
use ciphertune_round::{Context, Digest, Fingerprint};
use serde::Serialize;

use super::{
    case::{AttemptFacts, Case},
    finding::{Finding, Rule},
    node::Node,
};
use crate::error::Result;

/// What a dataset has cost, as the rosters give it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spending {
    /// Whose.
    pub node: String,
    /// The dataset.
    pub dataset: String,
    /// ε of its budget, if it has one: what is promised.
    pub epsilon_budget: Option<f64>,
    /// δ of it.
    pub delta: Option<f64>,
    /// α, the order at which it is kept.
    pub order: Option<u32>,
    /// Attempts that were charged.
    pub attempts: u64,
    /// ε at δ of what those have cost, reckoned anew from plans and rosters.
    pub epsilon: Option<f64>,
    /// The same of each job, by digest.
    pub jobs: BTreeMap<String, Option<f64>>,
    /// Whether it was ever used without privacy.
    pub without_privacy: bool,
}

impl Case {
    /// Holds a ledger to the log and the rosters.
    ///
    /// # Errors
    /// [`Error::Fault`] from the disk.
    pub(super) async fn check_ledger(
        &mut self,
        folder: &Path,
        place: usize,
        node: &Node,
        party: &Fingerprint,
    ) -> Result<Vec<Spending>> {
        let heads = self.ledger_heads.get(party).cloned().unwrap_or_default();
        let path = folder.join("ledger.sqlite");
        if heads.is_empty() && !path.exists() {
            return Ok(Vec::new());
        }
        if path.exists() && !path.is_file() {
            self.ledger_finding(node, None, u64::MAX, "ledger.sqlite is no file".into());
            return Ok(Vec::new());
        }
        let book = match Book::read(&path, &heads).await {
            Ok(book) => book,
            Err(error @ ciphertune_ledger::Error::Fault(_)) => return Err(error.into()),
            Err(error) => {
                let hint = match folder.join("ledger.sqlite-wal").exists() {
                    true => "",
                    false => " (if this is a copy: was ledger.sqlite-wal copied with it?)",
                };
                self.ledger_finding(node, None, u64::MAX, format!("{error}{hint}"));
                return Ok(Vec::new());
            }
        };
        let mut spendings = Vec::new();
        let mut charged = BTreeMap::new();
        for dataset in book.datasets() {
            let mut costs: BTreeMap<[u8; 32], ([u8; 32], Cost)> = BTreeMap::new();
            for entry in book.entries(dataset) {
                if let Some(said) = self.check_ledger_entry(entry, dataset, place, party) {
                    let time = entry.time.unsigned_abs();
                    self.ledger_finding(node, Some(entry), time, said);
                }
                if matches!(entry.kind, Kind::Charge | Kind::Settle { .. }) {
                    let cost = self.cost_of(entry, place, party);
                    costs.insert(
                        entry.context,
                        (entry.job, cost.unwrap_or(entry.cost.clone())),
                    );
                    charged.insert(entry.context, ());
                }
            }
            let standing = book.standing(dataset)?;
            for said in self.check_budget(&book, dataset, place, &costs) {
                self.ledger_finding(node, None, u64::MAX, format!("dataset {dataset:?}: {said}"));
            }
            let total = |job: Option<[u8; 32]>| {
                let of_job = costs
                    .values()
                    .filter(|(of, _)| job.is_none_or(|job| job == *of));
                of_job.fold(Cost::ZERO, |sum, (_, cost)| sum.plus(cost))
            };
            let epsilon = |cost: &Cost| -> Option<f64> {
                let limit = standing.limit?;
                let spent = (limit.cost_of(cost) as f64 / UNITS).next_up();
                let so_far = rdp::epsilon(limit.order(), spent, &limit.loss().delta);
                so_far.ok().map(|epsilon| epsilon.get())
            };
            if total(None) != standing.spent {
                let said = format!(
                    "dataset {dataset:?} has not cost what the rosters give: {} is reckoned, {} is booked",
                    in_words(epsilon(&total(None))),
                    in_words(epsilon(&standing.spent))
                );
                self.ledger_finding(node, None, u64::MAX, said);
            }
            let jobs = costs.values().map(|(job, _)| *job);
            spendings.push(Spending {
                node: node.name.clone(),
                dataset: dataset.to_owned(),
                epsilon_budget: standing.limit.map(|it| it.loss().epsilon.to_f64_nearest()),
                delta: standing.limit.map(|it| it.loss().delta.to_f64_nearest()),
                order: standing.limit.map(|it| it.order()),
                attempts: costs.len() as u64,
                epsilon: epsilon(&total(None)),
                jobs: jobs
                    .map(|job| {
                        (
                            Digest::from_bytes(job).to_string(),
                            epsilon(&total(Some(job))),
                        )
                    })
                    .collect(),
                without_privacy: standing.without_privacy,
            });
        }
        let missing: Vec<(u64, String)> = self
            .attempts
            .iter()
            .filter(|(context, attempt)| {
                let view = attempt.views.get(&place);
                view.is_some_and(|view| view.charged) && !charged.contains_key(context.as_bytes())
            })
            .map(|(_, attempt)| {
                let said = format!(
                    "the log charges round {}, attempt {}, and the ledger has no such charge",
                    attempt.round, attempt.attempt
                );
                (attempt.time, said)
            })
            .collect();
        for (time, said) in missing {
            self.ledger_finding(node, None, time, said);
        }
        Ok(spendings)
    }

    /// What is wrong with an entry of a ledger.
    fn check_ledger_entry(
        &self,
        entry: &Entry,
        dataset: &str,
        place: usize,
        party: &Fingerprint,
    ) -> Option<String> {
        if !matches!(entry.kind, Kind::Charge | Kind::Settle { .. }) {
            return None;
        }
        let pruned = self.pruned.get(place);
        if pruned.is_some_and(|pruned| pruned.contains(&Digest::from_bytes(entry.job))) {
            return None;
        }
        let attempt = self.attempts.get(&context_of(entry));
        let Some(attempt) = attempt.filter(|attempt| attempt.views.contains_key(&place)) else {
            let which = context_of(entry).digest().short();
            return Some(format!(
                "it is charged for the attempt {which}, of which the log has no plan"
            ));
        };
        let job = self.jobs.get(&attempt.job)?;
        let named = job.datasets.get(&place);
        if named.is_none_or(|named| !named.contains(dataset)) {
            return Some(format!(
                "round {}, attempt {} is charged to dataset {dataset:?}, which the member's answer to its job does not name",
                attempt.round, attempt.attempt
            ));
        }
        let expected = self.cost_of(entry, place, party)?;
        let wrong = |said: &str| {
            let (round, number) = (attempt.round, attempt.attempt);
            Some(format!("round {round}, attempt {number}: {said}"))
        };
        if entry.cost != expected {
            return wrong("the ledger's cost is not what plan and roster give");
        }
        if let Kind::Settle {
            roster,
            certificate,
        } = entry.kind
        {
            let quorum = attempt.views.get(&place).and_then(|view| view.quorum);
            let booked = (Digest::from_bytes(roster), Digest::from_bytes(certificate));
            if quorum != Some(booked) {
                return wrong(
                    "its charge is lowered on a roster that no certificate in the log is of",
                );
            }
        }
        None
    }

    /// What is wrong with a dataset's budget: raised, above what the policies of a job that it was charged for allow, none where a
    /// job has privacy, or overspent.
    fn check_budget(
        &self,
        book: &Book,
        dataset: &str,
        place: usize,
        costs: &BTreeMap<[u8; 32], ([u8; 32], Cost)>,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let budgets: Vec<Limit> = book
            .entries(dataset)
            .filter_map(|entry| match entry.kind {
                Kind::Budget(limit) => Some(limit),
                _ => None,
            })
            .collect();
        let rises = |pair: &[Limit]| match pair {
            [before, after] => {
                let (before, after) = (before.loss(), after.loss());
                after.epsilon > before.epsilon || after.delta > before.delta
            }
            _ => false,
        };
        if budgets.windows(2).any(rises) {
            wrong.push("its budget was raised: it is fixed at its first use".into());
        }
        if !budgets.iter().all(Limit::is_within_its_loss) {
            wrong.push("its budget allows more than its epsilon and delta give".into());
        }
        let jobs = costs.keys().filter_map(|context| {
            let context = Context::from_digest(Digest::from_bytes(*context));
            let attempt = self.attempts.get(&context)?;
            attempt.views.get(&place)?;
            self.jobs.get(&attempt.job)
        });
        let allowed = jobs.filter_map(|job| job.budget);
        let Some(limit) = budgets.last() else {
            if allowed.count() > 0 {
                wrong.push("it was charged for jobs with privacy, and has no budget".into());
            }
            return wrong;
        };
        let loss = limit.loss();
        for allowed in allowed {
            if loss.epsilon > allowed.epsilon || loss.delta > allowed.delta {
                wrong.push(format!(
                    "its budget of epsilon {} at delta {} is above the policies' {} at {}",
                    loss.epsilon, loss.delta, allowed.epsilon, allowed.delta
                ));
                break;
            }
        }
        let spent = costs
            .values()
            .fold(Cost::ZERO, |sum, (_, cost)| sum.plus(cost));
        if limit.cost_of(&spent) > limit.units() {
            wrong.push(format!(
                "it cost more than its budget of epsilon {} allows",
                loss.epsilon
            ));
        }
        wrong
    }

    /// What an entry must cost; `None` where the logs do not tell.
    fn cost_of(&self, entry: &Entry, place: usize, party: &Fingerprint) -> Option<Cost> {
        let attempt: &AttemptFacts = self.attempts.get(&context_of(entry))?;
        attempt.views.get(&place)?;
        let reckoned = self.jobs.get(&attempt.job)?.reckoned.as_ref().ok()?;
        match entry.kind {
            Kind::Charge => reckoned.attempt_cost().ok(),
            Kind::Settle { .. } => {
                let roster = attempt.roster.as_ref()?;
                let own = self.number_if_met(party);
                let named = roster.contributors.iter().any(|who| Some(*who) == own);
                match named {
                    true => reckoned
                        .cost_with(roster.contributors.len(), attempt.colluders)
                        .ok(),
                    false => Some(Cost::ZERO),
                }
            }
            _ => None,
        }
    }

    fn ledger_finding(&mut self, node: &Node, entry: Option<&Entry>, time: u64, said: String) {
        let finding = Finding {
            rule: Rule::Ledger,
            node: node.name.clone(),
            entry: None,
            time: entry.map(|entry| {
                let seconds = entry.time.unsigned_abs() / 1000;
                ciphertune_identity::Validity::instant(seconds).to_string()
            }),
            since: None,
            detail: said,
        };
        self.find(time, finding);
    }
}

fn context_of(entry: &Entry) -> Context {
    Context::from_digest(Digest::from_bytes(entry.context))
}

fn in_words(epsilon: Option<f64>) -> String {
    epsilon.map_or("nothing".into(), |epsilon| format!("epsilon {epsilon:.4}"))
}
