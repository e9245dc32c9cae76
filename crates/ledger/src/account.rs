//! What the entries of one dataset add up to.

use std::collections::BTreeMap;

use crate::cost::Cost;
use crate::entry::{Entry, Kind};
use crate::error::{Error, Result};
use crate::hides::Hides;
use crate::limit::Limit;

/// The state of one dataset: a fold over its entries.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) limit: Option<Limit>,
    pub(crate) hides: Option<Hides>,
    /// SHA-256 of the file that was trained on last.
    pub(crate) data: Option<[u8; 32]>,
    pub(crate) without_privacy: bool,
    jobs: BTreeMap<[u8; 32], Job>,
    /// By context.
    charges: BTreeMap<[u8; 32], Charge>,
}

/// One charge.
#[derive(Clone, Debug)]
pub(crate) struct Charge {
    pub(crate) job: [u8; 32],
    /// The worst case, as it was charged.
    pub(crate) cost: Cost,
    /// What it was lowered to, once.
    pub(crate) settled: Option<Settled>,
}

/// What a charge was lowered to, and on which evidence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settled {
    pub(crate) cost: Cost,
    pub(crate) roster: [u8; 32],
    pub(crate) certificate: [u8; 32],
}

#[derive(Clone, Debug)]
struct Job {
    /// As it was asked for.
    reserved: Cost,
    /// What settling took off its charges, and so off what it needs.
    saved: Cost,
    charged: Cost,
    ended: bool,
}

impl Job {
    const NEW: Self = Self {
        reserved: Cost::ZERO,
        saved: Cost::ZERO,
        charged: Cost::ZERO,
        ended: false,
    };
}

impl Account {
    pub(crate) fn of(dataset: &str, entries: &[Entry]) -> Result<Self> {
        let mut account = Self {
            limit: None,
            hides: None,
            data: None,
            without_privacy: false,
            jobs: BTreeMap::new(),
            charges: BTreeMap::new(),
        };
        for entry in entries.iter().filter(|entry| entry.dataset == dataset) {
            account.apply(entry)?;
        }
        Ok(account)
    }

    fn apply(&mut self, entry: &Entry) -> Result<()> {
        let cost = &entry.cost;
        match entry.kind {
            Kind::Budget(limit) => self.limit = Some(limit),
            Kind::Hides(hides) => self.hides = Some(hides),
            Kind::Data(data) => self.data = Some(data.sha256),
            Kind::NoPrivacy => self.without_privacy = true,
            Kind::Reserve => self.job_mut(entry.job).reserved = cost.clone(),
            Kind::End => self.job_mut(entry.job).ended = true,
            Kind::Charge => {
                let job = self.job_mut(entry.job);
                job.charged = job.charged.plus(cost);
                let charge = Charge {
                    job: entry.job,
                    cost: cost.clone(),
                    settled: None,
                };
                self.charges.insert(entry.context, charge);
            }
            Kind::Settle {
                roster,
                certificate,
            } => {
                let settled = Settled {
                    cost: cost.clone(),
                    roster,
                    certificate,
                };
                self.settle(entry.context, settled)?;
            }
        }
        Ok(())
    }

    fn settle(&mut self, context: [u8; 32], settled: Settled) -> Result<()> {
        let unfounded = || Error::Malformed("the ledger lowers what it does not hold".into());
        let charge = self.charges.get_mut(&context).ok_or_else(unfounded)?;
        if charge.settled.is_some() || !settled.cost.is_within(&charge.cost) {
            return Err(unfounded());
        }
        let saved = charge.cost.minus(&settled.cost);
        charge.settled = Some(settled);
        let job = charge.job;
        let job = self.job_mut(job);
        job.charged = job.charged.minus(&saved);
        job.saved = job.saved.plus(&saved);
        Ok(())
    }

    fn job_mut(&mut self, job: [u8; 32]) -> &mut Job {
        self.jobs.entry(job).or_insert(Job::NEW)
    }

    /// What was charged, in all, less what was settled.
    pub(crate) fn spent(&self) -> Cost {
        sum(self.jobs.values().map(|job| job.charged.clone()))
    }

    /// What was charged or is reserved, in all.
    pub(crate) fn held(&self) -> Cost {
        sum(self.jobs.values().map(Job::held))
    }

    pub(crate) fn charge_in(&self, context: &[u8; 32]) -> Option<&Charge> {
        self.charges.get(context)
    }

    /// What a job reserved, as it asked for it, while it runs.
    pub(crate) fn reserved_by(&self, job: &[u8; 32]) -> Option<Cost> {
        let job = self.jobs.get(job).filter(|job| !job.ended)?;
        job.reserved.is_private().then(|| job.reserved.clone())
    }

    pub(crate) fn has_ended(&self, job: &[u8; 32]) -> bool {
        self.jobs.get(job).is_some_and(|job| job.ended)
    }

    /// What a job may still be charged under `limit`, in its units: what no other job holds, less what it was charged
    /// already.
    pub(crate) fn left_for(&self, job: &[u8; 32], limit: &Limit) -> u64 {
        let others = self.jobs.iter().filter(|(id, _)| *id != job);
        let others = sum(others.map(|(_, other)| other.held()));
        let own = self
            .jobs
            .get(job)
            .map_or(Cost::ZERO, |own| own.charged.clone());
        let taken = limit.cost_of(&others.plus(&own));
        limit.units().saturating_sub(taken)
    }
}

impl Job {
    /// What the job holds of the budget.
    fn held(&self) -> Cost {
        if self.ended {
            self.charged.clone()
        } else {
            self.reserved.minus(&self.saved).max(&self.charged)
        }
    }
}

fn sum(costs: impl IntoIterator<Item = Cost>) -> Cost {
    costs
        .into_iter()
        .fold(Cost::ZERO, |sum, cost| sum.plus(&cost))
}
