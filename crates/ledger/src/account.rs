//! What the entries of one dataset add up to.

use std::collections::BTreeMap;

use crate::entry::{Entry, Kind};
use crate::error::{Error, Result};
use crate::rho::Rho;

/// The state of one dataset: a fold over its entries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    pub(crate) budget: Option<Rho>,
    pub(crate) without_privacy: bool,
    jobs: BTreeMap<[u8; 32], Job>,
    /// Context → (job, cost).
    charges: BTreeMap<[u8; 32], ([u8; 32], Rho)>,
}

#[derive(Clone, Copy, Debug)]
struct Job {
    reserved: Rho,
    charged: Rho,
    ended: bool,
}

impl Job {
    const NEW: Self = Self {
        reserved: Rho::ZERO,
        charged: Rho::ZERO,
        ended: false,
    };

    /// What the job holds of the budget.
    fn held(&self) -> Rho {
        if self.ended {
            self.charged
        } else {
            self.reserved.max(self.charged)
        }
    }
}

impl Account {
    pub(crate) fn of(dataset: &str, entries: &[Entry]) -> Result<Self> {
        let mut account = Self::default();
        for entry in entries.iter().filter(|entry| entry.dataset == dataset) {
            account.apply(entry)?;
        }
        Ok(account)
    }

    fn apply(&mut self, entry: &Entry) -> Result<()> {
        match entry.kind {
            Kind::Budget => self.budget = Some(entry.rho),
            Kind::NoPrivacy => self.without_privacy = true,
            Kind::Reserve => self.job_mut(entry.job).reserved = entry.rho,
            Kind::End => self.job_mut(entry.job).ended = true,
            Kind::Charge => {
                let job = self.job_mut(entry.job);
                job.charged = sum([job.charged, entry.rho])?;
                self.charges.insert(entry.context, (entry.job, entry.rho));
            }
        }
        Ok(())
    }

    fn job_mut(&mut self, job: [u8; 32]) -> &mut Job {
        self.jobs.entry(job).or_insert(Job::NEW)
    }

    fn job(&self, job: &[u8; 32]) -> Job {
        self.jobs.get(job).copied().unwrap_or(Job::NEW)
    }

    /// What was charged, in all.
    pub(crate) fn spent(&self) -> Result<Rho> {
        sum(self.jobs.values().map(|job| job.charged))
    }

    /// What was charged or is reserved, in all.
    pub(crate) fn held(&self) -> Result<Rho> {
        sum(self.jobs.values().map(Job::held))
    }

    pub(crate) fn charge_in(&self, context: &[u8; 32]) -> Option<([u8; 32], Rho)> {
        self.charges.get(context).copied()
    }

    /// What a job reserved, while it runs.
    pub(crate) fn reserved_by(&self, job: &[u8; 32]) -> Option<Rho> {
        let job = self.job(job);
        (!job.ended && job.reserved > Rho::ZERO).then_some(job.reserved)
    }

    pub(crate) fn has_ended(&self, job: &[u8; 32]) -> bool {
        self.job(job).ended
    }

    /// What a job may still be charged: what no other job holds, less what it was charged already.
    pub(crate) fn left_for(&self, job: &[u8; 32]) -> Result<Rho> {
        let budget = self.budget.unwrap_or(Rho::ZERO);
        let own = self.job(job);
        let others = sum(self
            .jobs
            .iter()
            .filter(|(id, _)| *id != job)
            .map(|(_, other)| other.held()))?;
        Ok(budget.minus(others).minus(own.charged))
    }
}

fn sum(costs: impl IntoIterator<Item = Rho>) -> Result<Rho> {
    costs
        .into_iter()
        .try_fold(Rho::ZERO, Rho::plus)
        .ok_or_else(|| Error::Refused("the ledger's costs add up to ρ of 2^23 or more".into()))
}
