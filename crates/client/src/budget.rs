//! What a member's ledger says, in numbers for people: what is left, what each round cost and why, what a job would cost.

use std::{collections::BTreeMap, path::Path};

use ciphertune_audit::{Reader, Record};
use ciphertune_dp::rdp;
use ciphertune_identity::Home;
use ciphertune_ledger::{Book, Cost, Entry, Kind, Limit, Standing, UNITS};
use ciphertune_policy::Loss;
use ciphertune_round::Digest;
use serde::Serialize;
use serde_json::Value;

use crate::error::{Error, Result};

/// The audit log's field for the ledger's head after what is noted. The ledger must have had each of them when it is
/// opened.
pub const LEDGER_HEAD: &str = "ledger_head";

/// A ledger that is looked into, and what the member's own log says of its rounds.
pub struct Budgets {
    book: Book,
    /// Context → round and attempt.
    rounds: BTreeMap<String, (u64, u64)>,
}

/// What a dataset has left.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Dataset {
    /// Its name.
    pub dataset: String,
    /// Its budget, once a job has opened it.
    pub budget: Option<Opened>,
    /// Whose presence the budget hides, and against which neighbours; `None` before its first use.
    pub hides: Option<String>,
    /// SHA-256 of each file that jobs with privacy were reserved for under this name, in the order of their last use.
    pub data: Vec<String>,
    /// Whether it was ever used without privacy: no promise covers what was released then.
    pub without_privacy: bool,
}

/// A budget, and where it stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Opened {
    /// (ε, δ) as the policy wrote them.
    #[serde(skip)]
    pub loss: Loss,
    /// ε of the dataset's whole life: what is promised.
    pub epsilon: f64,
    /// δ of it.
    pub delta: f64,
    /// α, the order of Rényi privacy at which it is kept.
    pub order: u32,
    /// What all costs may add up to at that order, in units of 2⁻⁴⁰.
    pub allowed: u64,
    /// What they add up to: bookkeeping.
    pub spent: u64,
    /// What is set aside for running jobs beyond that.
    pub reserved: u64,
    /// What a job that is yet to come may cost.
    pub left: u64,
    /// ε at δ of what was spent: bookkeeping, for what was spent depends on when one looks.
    pub spent_epsilon: f64,
}

/// What one attempt cost, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Spent {
    /// When it was charged, in milliseconds after 1970, UTC.
    pub time: i64,
    /// Its job.
    pub job: String,
    /// The attempt.
    pub context: String,
    /// Its round, where the log tells.
    pub round: Option<u64>,
    /// Its attempt at the round, likewise.
    pub attempt: Option<u64>,
    /// Whether it was without privacy.
    pub without_privacy: bool,
    /// What was charged before anything left, in units of 2⁻⁴⁰ at the budget's order; `None` where no budget is open.
    pub charged: Option<u64>,
    /// What it was lowered to; `None`: the charge stands.
    pub settled: Option<u64>,
    /// The roster that lowered it.
    pub roster: Option<String>,
}

/// What a job would cost a dataset.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fit {
    /// The dataset.
    pub dataset: String,
    /// (ε, δ) of its budget as the policy writes them.
    #[serde(skip)]
    pub loss: Loss,
    /// ε of its budget.
    pub epsilon: f64,
    /// δ of its budget.
    pub delta: f64,
    /// α at which it is kept; where no job has opened it yet, at which this one would.
    pub order: u32,
    /// What all costs may add up to at that order, in units of 2⁻⁴⁰.
    pub allowed: u64,
    /// What is left.
    pub left: u64,
    /// What one attempt is charged.
    pub attempt: u64,
    /// What it costs once it is settled with all the members that were asked about.
    pub settled: Option<u64>,
    /// The attempts that the job pays for: rounds × max_attempts.
    pub attempts: u64,
    /// Whether all of them fit.
    pub fits: bool,
    /// How many attempts fit.
    pub attempts_that_fit: u64,
    /// How many rounds of the job fit, each with all its attempts.
    pub rounds_that_fit: u64,
    /// Whether the dataset was ever used without privacy: no promise covers what was released then.
    pub without_privacy: bool,
}

/// An attempt as it is asked about.
pub struct Asked {
    /// What it is charged.
    pub attempt: Cost,
    /// What it costs once settled, if that is asked.
    pub settled: Option<Cost>,
    /// Rounds.
    pub rounds: u32,
    /// Attempts that each may take.
    pub max_attempts: u32,
}

impl Budgets {
    /// Reads a home's ledger, also while its member runs; `None` where there is none. No key is needed.
    ///
    /// # Errors
    /// [`Error::Refused`] when the ledger was changed, or is older than the log knows it.
    pub async fn read(home: &Home) -> Result<Option<Self>> {
        // The log first: a member that runs writes the ledger before it.
        let notes = notes(&home.audit())?;
        let seen = notes
            .iter()
            .filter_map(|record| record.fields.get(LEDGER_HEAD));
        let seen = seen.map(head_in).collect::<Result<Vec<_>>>()?;
        if seen.is_empty() && !home.ledger().exists() {
            return Ok(None);
        }
        let rounds = notes
            .iter()
            .filter(|record| record.kind == "plan")
            .filter_map(|plan| {
                let place = (plan.number("round")?, plan.number("attempt")?);
                Some((plan.text("context")?.to_owned(), place))
            })
            .collect();
        Ok(Some(Self {
            book: Book::read(home.ledger(), &seen).await?,
            rounds,
        }))
    }

    /// The datasets' names, in the order of their first use.
    pub fn names(&self) -> Vec<&str> {
        self.book.datasets()
    }

    /// What a dataset has left.
    pub fn show(&self, dataset: &str) -> Result<Dataset> {
        let standing = self.book.standing(dataset)?;
        let budget = standing.limit.map(|limit| opened(&standing, &limit));
        Ok(Dataset {
            dataset: dataset.to_owned(),
            budget: budget.transpose()?,
            hides: standing
                .hides
                .map(|hides| format!("unit {} against {}", hides.unit, hides.adjacency)),
            data: self.data(dataset),
            without_privacy: standing.without_privacy,
        })
    }

    /// What each attempt cost a dataset, oldest first.
    pub fn history(&self, dataset: &str) -> Result<Vec<Spent>> {
        let limit = self.book.standing(dataset)?.limit;
        let mut spent: Vec<Spent> = Vec::new();
        for entry in self.book.entries(dataset) {
            let cost = limit.map(|limit| limit.cost_of(&entry.cost));
            match entry.kind {
                Kind::Charge => spent.push(self.charged(entry, cost)),
                Kind::Settle { roster, .. } => {
                    let context = Digest::from_bytes(entry.context).to_string();
                    if let Some(charge) = spent.iter_mut().rfind(|one| one.context == context) {
                        charge.settled = cost;
                        charge.roster = Some(Digest::from_bytes(roster).to_string());
                    }
                }
                _ => {}
            }
        }
        Ok(spent)
    }

    fn data(&self, dataset: &str) -> Vec<String> {
        let mut files: Vec<String> = Vec::new();
        for entry in self.book.entries(dataset) {
            if let Kind::Data(data) = entry.kind {
                let file = Digest::from_bytes(data.sha256).to_string();
                files.retain(|earlier| *earlier != file);
                files.push(file);
            }
        }
        files
    }

    fn charged(&self, entry: &Entry, cost: Option<u64>) -> Spent {
        let context = Digest::from_bytes(entry.context).to_string();
        let place = self.rounds.get(&context);
        Spent {
            time: entry.time,
            job: Digest::from_bytes(entry.job).to_string(),
            round: place.map(|(round, _)| *round),
            attempt: place.map(|(_, attempt)| *attempt),
            context,
            without_privacy: entry.cost == Cost::ZERO,
            charged: cost,
            settled: None,
            roster: None,
        }
    }

    fn standing(&self, dataset: &str) -> Result<Standing> {
        Ok(self.book.standing(dataset)?)
    }
}

/// What a job would cost a dataset under `budget`, the policy's: the ledger's own is as strict or stricter.
///
/// # Errors
/// [`Error::Refused`] when the policy's budget is above the ledger's, as the ledger would refuse it.
pub fn plan(budgets: Option<&Budgets>, dataset: &str, budget: Loss, asked: &Asked) -> Result<Fit> {
    let standing = budgets
        .map(|budgets| budgets.standing(dataset))
        .transpose()?;
    let attempts = u64::from(asked.rounds) * u64::from(asked.max_attempts);
    let held = standing
        .as_ref()
        .map_or(Cost::ZERO, |standing| standing.held.clone());
    let without_privacy = standing
        .as_ref()
        .is_some_and(|standing| standing.without_privacy);
    let opened = standing.and_then(|standing| standing.limit);
    let limit = match opened {
        Some(limit) => limit.under(budget)?,
        None => Limit::for_use(budget, &asked.attempt.times(attempts), &held)?,
    };
    let left = limit.units().saturating_sub(limit.cost_of(&held));
    let attempt = limit.cost_of(&asked.attempt);
    let fit = left / attempt.max(1);
    Ok(Fit {
        dataset: dataset.to_owned(),
        loss: limit.loss(),
        epsilon: limit.loss().epsilon.to_f64_nearest(),
        delta: limit.loss().delta.to_f64_nearest(),
        order: limit.order(),
        allowed: limit.units(),
        left,
        attempt,
        settled: asked.settled.as_ref().map(|cost| limit.cost_of(cost)),
        attempts,
        fits: limit.cost_of(&asked.attempt.times(attempts)) <= left,
        attempts_that_fit: fit,
        rounds_that_fit: fit / u64::from(asked.max_attempts.max(1)),
        without_privacy,
    })
}

/// The share of a dataset's budget that is neither spent nor set aside; `None` before a budget is open.
pub fn share_left(standing: &Standing) -> Option<f64> {
    let limit = standing.limit.as_ref()?;
    let left = limit.units().saturating_sub(limit.cost_of(&standing.held));
    Some(left as f64 / limit.units() as f64)
}

fn opened(standing: &Standing, limit: &Limit) -> Result<Opened> {
    let Loss { epsilon, delta } = limit.loss();
    let (spent, held) = (
        limit.cost_of(&standing.spent),
        limit.cost_of(&standing.held),
    );
    let so_far = rdp::epsilon(limit.order(), (spent as f64 / UNITS).next_up(), &delta)?;
    Ok(Opened {
        loss: limit.loss(),
        epsilon: epsilon.to_f64_nearest(),
        delta: delta.to_f64_nearest(),
        order: limit.order(),
        allowed: limit.units(),
        spent,
        reserved: held.saturating_sub(spent),
        left: limit.units().saturating_sub(held),
        spent_epsilon: so_far.get(),
    })
}

/// A digest in a log's field.
pub(crate) fn head_in(value: &Value) -> Result<[u8; 32]> {
    let hex = value.as_str().unwrap_or_default();
    Ok(*Digest::from_hex(hex)?.as_bytes())
}

/// The entries of a log that say a plan's round or a ledger's head; none where there is no log.
fn notes(path: &Path) -> Result<Vec<Record>> {
    let refused = |error: ciphertune_audit::Error| Error::Refused(error.to_string());
    if !path.exists() {
        return Ok(Vec::new());
    }
    let mut reader = Reader::open(path).map_err(refused)?;
    let mut notes = Vec::new();
    while let Some(record) = reader.next().map_err(refused)? {
        if record.kind == "plan" || record.fields.contains_key(LEDGER_HEAD) {
            notes.push(record);
        }
    }
    Ok(notes)
}
