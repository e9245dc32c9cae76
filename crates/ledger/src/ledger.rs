//! The ledger: opened for one dataset, charged before anything leaves.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use ciphertune_policy::{Decimal, Loss};
use sqlx::SqlitePool;

use crate::account::{Account, Settled};
use crate::cost::Cost;
use crate::entry::{Data, Entry, Head, Kind};
use crate::error::{Error, Result};
use crate::file;
use crate::hides::Hides;
use crate::limit::{Limit, in_words};
use crate::work::{NONE, Work};

/// The most that a dataset may cost over its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// So much (ε, δ). The first job that reserves, or contribution that is charged, fixes it; later openings may lower
    /// either and never raise one.
    Private(Loss),
    /// The dataset is used without differential privacy: a mark that never goes away.
    NoPrivacy,
}

/// The privacy ledger of one member, opened for one dataset.
///
/// SQLite (WAL, synchronous FULL): what a call returned is on the disk. Entries are tied into one hash chain
/// for the file; every call reads and checks all of it, so a changed entry is an error from then on, and so
/// is a file that goes back behind what this ledger, or whoever opened it, has seen.
pub struct Ledger {
    pool: SqlitePool,
    dataset: String,
    budget: Budget,
    hides: Option<Hides>,
    data: Option<Data>,
    seen: Mutex<Head>,
}

/// Proof that a contribution was charged, durably, before it left; made by [`Ledger::charge`] only.
#[derive(Debug)]
pub struct Charged {
    context: [u8; 32],
    cost: Cost,
    head: [u8; 32],
}

impl Charged {
    /// The context that was charged; no other contribution may be sent on this proof.
    #[must_use]
    pub fn context(&self) -> &[u8; 32] {
        &self.context
    }

    /// What it cost, at the worst case; 0 without privacy.
    #[must_use]
    pub fn cost(&self) -> &Cost {
        &self.cost
    }

    /// The ledger's head after the charge.
    #[must_use]
    pub fn ledger_head(&self) -> &[u8; 32] {
        &self.head
    }
}

/// What a context cost after all, where t members that hold shares have echoed one roster of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// The cost with the roster's contributors; 0 for a member that is not in it.
    pub cost: Cost,
    /// Digest of the roster.
    pub roster: [u8; 32],
    /// Digest of the certificate: the roster and t echoes of it, as they were signed.
    pub certificate: [u8; 32],
}

/// Where a dataset stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The most it may cost; `None` when it was never used with privacy.
    pub limit: Option<Limit>,
    /// What was charged and not settled to less: bookkeeping; what is promised is the budget.
    pub spent: Cost,
    /// What was charged or is reserved for running jobs.
    pub held: Cost,
    /// What the budget is a promise of; `None` before its first use.
    pub hides: Option<Hides>,
    /// SHA-256 of the file that was trained on last, where it was noted.
    pub data: Option<[u8; 32]>,
    /// Whether the dataset was ever used without privacy. Every report repeats it.
    pub without_privacy: bool,
}

impl Standing {
    pub(crate) fn of(account: &Account) -> Self {
        Self {
            limit: account.limit,
            spent: account.spent(),
            held: account.held(),
            hides: account.hides,
            data: account.data,
            without_privacy: account.without_privacy,
        }
    }
}

impl Ledger {
    /// Opens the file (mode 0600), starting it where there is none, and checks all of it. `seen` are heads that
    /// the caller knows to have been on this disk.
    ///
    /// # Errors
    /// `Refused` for a budget above the one recorded; `Malformed` when an entry was changed, or the file does not
    /// hold the heads that were seen; `Misuse` for a dataset name that is empty or longer than 256 bytes; `Fault` from
    /// the disk.
    pub async fn open(
        path: impl AsRef<Path>,
        dataset: &str,
        budget: Budget,
        seen: &[[u8; 32]],
        now: SystemTime,
    ) -> Result<Self> {
        if dataset.is_empty() || dataset.len() > 256 {
            return Err(Error::Misuse("a dataset's name is 1 to 256 bytes".into()));
        }
        if let Budget::Private(loss) = budget
            && (loss.epsilon.is_zero() || loss.delta.is_zero() || loss.delta >= Decimal::ONE)
        {
            return Err(Error::Misuse(
                "a privacy budget has an epsilon above 0 and a delta strictly between 0 and 1"
                    .into(),
            ));
        }
        let path = path.as_ref();
        if !seen.is_empty() && !path.exists() {
            return Err(went_back());
        }
        let pool = file::open(path).await?;
        let ledger = Self {
            pool,
            dataset: dataset.to_owned(),
            budget,
            hides: None,
            data: None,
            seen: Mutex::new(Head::EMPTY),
        };
        ledger.agree_on(seen, now).await?;
        Ok(ledger)
    }

    async fn agree_on(&self, seen: &[[u8; 32]], now: SystemTime) -> Result<()> {
        let mut work = self.begin(now).await?;
        if !work.knows(seen) {
            return Err(went_back());
        }
        let before = work.head;
        match self.budget {
            Budget::NoPrivacy if work.account.without_privacy => {}
            Budget::NoPrivacy => work.add(Kind::NoPrivacy, NONE, NONE, Cost::ZERO).await?,
            Budget::Private(asked) => {
                if let Some(limit) = work.account.limit {
                    limit.under(asked)?;
                    work.limit(asked, &Cost::ZERO).await?;
                }
            }
        }
        if work.head != before {
            self.commit(work).await?;
        }
        Ok(())
    }

    /// For a promise of this: the first use records it, and every later one is held to it.
    ///
    /// # Errors
    /// `Refused` when the dataset's budget is a promise of something else; `Malformed` and `Fault` as for every call.
    pub async fn hiding(self, hides: Hides) -> Result<Self> {
        self.begin(UNIX_EPOCH).await?.demand_same(hides)?;
        Ok(Self {
            hides: Some(hides),
            ..self
        })
    }

    /// For jobs that train on this file: each that reserves notes it, where it is another one than before.
    #[must_use]
    pub fn on_data(self, data: Option<Data>) -> Self {
        Self { data, ..self }
    }

    /// Sets aside the worst case of a whole job: so many attempts, each at this cost. Asking again for the same job
    /// changes nothing. The first job of a dataset opens its budget, at the order that suits it best. Without privacy
    /// there is nothing to set aside. The file that the job trains on is noted with it
    /// ([`Ledger::on_data`]). Returns the ledger's head after the entry.
    ///
    /// # Errors
    /// `Refused` when less than that is left, saying what it would cost, what is left, and how many attempts would still
    /// fit; when the job reserved another cost, or ended; `Misuse` for a cost of 0 with privacy, or of more without.
    pub async fn reserve(
        &self,
        job: [u8; 32],
        attempt: &Cost,
        attempts: u64,
        now: SystemTime,
    ) -> Result<[u8; 32]> {
        let loss = self.check_cost(attempt)?;
        let mut work = self.begin(now).await?;
        check_running(&work.account, &job)?;
        let Some(loss) = loss else {
            return Ok(work.head.hash);
        };
        let cost = attempt.times(attempts);
        match work.account.reserved_by(&job) {
            Some(reserved) if reserved == cost => {
                let head = work.head_after(|one| one.kind == Kind::Reserve && one.job == job);
                if work.note_data(job, self.data).await? {
                    self.commit(work).await?;
                }
                return Ok(head);
            }
            Some(_) => {
                return Err(Error::Refused(
                    "the job reserved another cost already: it was first considered under other numbers, or by an \
                     earlier version of this program; it must be drafted anew"
                        .into(),
                ));
            }
            None => {}
        }
        let limit = work.limit(loss, &cost).await?;
        self.hide(&mut work).await?;
        let left = work.account.left_for(&job, &limit);
        if limit.cost_of(&cost) > left {
            let all = in_words(limit.cost_of(&cost), f64::ceil);
            let job = format!("the job would cost {all} in the worst case ({attempts} attempts)");
            return Err(self.too_much(&job, &limit, attempt, left));
        }
        work.note_data(job, self.data).await?;
        work.add(Kind::Reserve, job, NONE, cost).await?;
        Ok(self.commit(work).await?.hash)
    }

    /// Charges one contribution, at its worst case, before its first byte leaves. Charging a context again
    /// at the same cost gives the same proof again and costs nothing.
    ///
    /// # Errors
    /// `Refused` when it would exceed the budget, saying what it costs, what is left, and how many such
    /// rounds would still fit; when the context was charged otherwise; when the job ended. `Misuse` for a cost
    /// of 0 with privacy, or of more without.
    pub async fn charge(
        &self,
        job: [u8; 32],
        context: [u8; 32],
        cost: &Cost,
        now: SystemTime,
    ) -> Result<Charged> {
        let loss = self.check_cost(cost)?;
        let mut work = self.begin(now).await?;
        match work.account.charge_in(&context) {
            Some(charge) if charge.job == job && charge.cost == *cost => {
                return Ok(Charged {
                    context,
                    cost: cost.clone(),
                    head: work.head_after(|one| one.kind == Kind::Charge && one.context == context),
                });
            }
            Some(_) => {
                return Err(Error::Refused(
                    "this context was charged already, at another cost or to another job".into(),
                ));
            }
            None => {}
        }
        check_running(&work.account, &job)?;
        if let Some(loss) = loss {
            let limit = work.limit(loss, cost).await?;
            self.hide(&mut work).await?;
            let left = work.account.left_for(&job, &limit);
            if limit.cost_of(cost) > left {
                let one = in_words(limit.cost_of(cost), f64::ceil);
                let round = format!("the round would cost {one}");
                return Err(self.too_much(&round, &limit, cost, left));
            }
        }
        work.add(Kind::Charge, job, context, cost.clone()).await?;
        let head = self.commit(work).await?.hash;
        Ok(Charged {
            context,
            cost: cost.clone(),
            head,
        })
    }

    /// Lowers what a context was charged to what it cost after all, once, and what its job holds with it. The caller has
    /// checked the certificate and keeps it. Settling a context again in the same way changes nothing.
    /// Returns the ledger's head after the entry.
    ///
    /// # Errors
    /// `Refused` when the context was not charged, was charged less, or was settled otherwise; `Misuse` without privacy.
    pub async fn settle(
        &self,
        context: [u8; 32],
        settlement: &Settlement,
        now: SystemTime,
    ) -> Result<[u8; 32]> {
        if self.budget == Budget::NoPrivacy {
            return Err(Error::Misuse("without privacy nothing was charged".into()));
        }
        let Settlement {
            cost,
            roster,
            certificate,
        } = settlement;
        let mut work = self.begin(now).await?;
        let refused = |why: &str| Err(Error::Refused(why.into()));
        let Some(charge) = work.account.charge_in(&context) else {
            return refused("this context was not charged: there is nothing to settle");
        };
        let settled = Settled {
            cost: cost.clone(),
            roster: *roster,
            certificate: *certificate,
        };
        match &charge.settled {
            Some(earlier) if *earlier == settled => {
                let is = |one: &Entry| one.kind.word() == "settle" && one.context == context;
                return Ok(work.head_after(is));
            }
            Some(_) => return refused("this context was settled already, otherwise"),
            None if !cost.is_within(&charge.cost) => {
                return refused("a context is never settled to more than it was charged");
            }
            None => {}
        }
        let (job, roster, certificate) = (charge.job, *roster, *certificate);
        let kind = Kind::Settle {
            roster,
            certificate,
        };
        work.add(kind, job, context, cost.clone()).await?;
        Ok(self.commit(work).await?.hash)
    }

    /// Ends a job: what it reserved and was not charged is free again; what was charged stays. Nothing can be
    /// charged to it any more. Ending it again changes nothing.
    ///
    /// # Errors
    /// `Malformed` and `Fault` as for every call.
    pub async fn end(&self, job: [u8; 32], now: SystemTime) -> Result<()> {
        let mut work = self.begin(now).await?;
        if !work.account.has_ended(&job) {
            work.add(Kind::End, job, NONE, Cost::ZERO).await?;
            self.commit(work).await?;
        }
        Ok(())
    }

    /// Where the dataset stands.
    ///
    /// # Errors
    /// `Malformed` and `Fault` as for every call.
    pub async fn standing(&self) -> Result<Standing> {
        Ok(Standing::of(&self.begin(UNIX_EPOCH).await?.account))
    }

    /// What was charged to the dataset, in all, less what was settled.
    ///
    /// # Errors
    /// `Malformed` and `Fault` as for every call.
    pub async fn spent(&self) -> Result<Cost> {
        Ok(self.standing().await?.spent)
    }

    /// The hash of the last entry of the file; all zero before the first.
    ///
    /// # Errors
    /// `Malformed` and `Fault` as for every call.
    pub async fn head(&self) -> Result<[u8; 32]> {
        Ok(self.begin(UNIX_EPOCH).await?.head.hash)
    }

    /// The budget that a cost is held to; `None` without privacy.
    async fn hide(&self, work: &mut Work) -> Result<()> {
        match self.hides {
            Some(hides) => work.hide(hides).await,
            None => Ok(()),
        }
    }

    fn check_cost(&self, cost: &Cost) -> Result<Option<Loss>> {
        match self.budget {
            Budget::Private(loss) if cost.is_private() => Ok(Some(loss)),
            Budget::Private(_) => Err(Error::Misuse(
                "a private contribution costs more than 0".into(),
            )),
            Budget::NoPrivacy if *cost == Cost::ZERO => Ok(None),
            Budget::NoPrivacy => Err(Error::Misuse(
                "without privacy there is no cost to charge: pass 0".into(),
            )),
        }
    }

    fn too_much(&self, what: &str, limit: &Limit, one: &Cost, left: u64) -> Error {
        Error::Refused(format!(
            "{what}, and {} is left for dataset \"{}\", whose budget is {limit}: {} such rounds still fit",
            in_words(left, f64::floor),
            self.dataset,
            left / limit.cost_of(one).max(1)
        ))
    }

    /// Takes the write lock, reads and checks the chain.
    async fn begin(&self, now: SystemTime) -> Result<Work> {
        let work = Work::begin(&self.pool, &self.dataset, now).await?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !work.holds(&seen) {
            return Err(went_back());
        }
        *seen = work.head;
        drop(seen);
        Ok(work)
    }

    async fn commit(&self, work: Work) -> Result<Head> {
        let head = work.commit().await?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = head;
        Ok(head)
    }
}

fn check_running(account: &Account, job: &[u8; 32]) -> Result<()> {
    if account.has_ended(job) {
        return Err(Error::Refused("the job has ended on this ledger".into()));
    }
    Ok(())
}

pub(crate) fn went_back() -> Error {
    Error::Malformed(
        "the ledger went back behind what was seen of it: an older file, or an empty one, was put in its place, and \
         charges are missing from it. Put the newest ledger back; where there is none, what this dataset has spent is not \
         known any more, and it must not be used under this budget again"
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_commit_waits_for_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.sqlite");
        let ledger = Ledger::open(&path, "wards", Budget::NoPrivacy, &[], UNIX_EPOCH)
            .await
            .unwrap();
        let mode: String = sqlx::query_scalar("PRAGMA journal_mode")
            .fetch_one(&ledger.pool)
            .await
            .unwrap();
        let synchronous: i64 = sqlx::query_scalar("PRAGMA synchronous")
            .fetch_one(&ledger.pool)
            .await
            .unwrap();
        assert_eq!((mode.as_str(), synchronous), ("wal", 2), "2 is FULL");
    }
}
