//! The ledger: opened for one dataset, charged before anything leaves.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};

use crate::account::Account;
use crate::entry::{Entry, Head, Kind, read_chain};
use crate::error::{Error, Result};
use crate::rho::Rho;

/// The layout of the file, kept in SQLite's `user_version`.
const LAYOUT: i64 = 1;
const TABLE: &str = "CREATE TABLE IF NOT EXISTS charges (
    sequence INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL,
    kind TEXT NOT NULL,
    job BLOB NOT NULL,
    context BLOB NOT NULL,
    rho INTEGER NOT NULL,
    time INTEGER NOT NULL,
    previous BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT";
/// How long one process waits for another one's write.
const PATIENCE: Duration = Duration::from_secs(30);
const NONE: [u8; 32] = [0; 32];

/// The most that a dataset may cost over its whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    /// So much ρ. The first opening fixes it; later ones may lower it and never raise it.
    Private(Rho),
    /// The dataset is used without differential privacy: a mark that never goes away.
    NoPrivacy,
}

/// The privacy ledger of one member, opened for one dataset.
///
/// SQLite (WAL, synchronous FULL): what a call returned is on the disk. Entries are tied into one hash chain
/// for the file; every call reads and checks all of it, so a changed entry is an error from then on, and so
/// is a file that goes back behind what this ledger has seen.
pub struct Ledger {
    pool: SqlitePool,
    dataset: String,
    private: bool,
    seen: Mutex<Head>,
}

/// Proof that a contribution was charged, durably, before it left; made by [`Ledger::charge`] only.
#[derive(Debug)]
pub struct Charged {
    context: [u8; 32],
    cost: Rho,
    head: [u8; 32],
}

impl Charged {
    /// The context that was charged; no other contribution may be sent on this proof.
    #[must_use]
    pub fn context(&self) -> &[u8; 32] {
        &self.context
    }

    /// What it cost; 0 without privacy.
    #[must_use]
    pub fn cost(&self) -> Rho {
        self.cost
    }

    /// The ledger's head after the charge.
    #[must_use]
    pub fn ledger_head(&self) -> &[u8; 32] {
        &self.head
    }
}

/// Where a dataset stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The most it may cost; `None` when it was never used with privacy.
    pub budget: Option<Rho>,
    /// What was charged: bookkeeping; what is promised is the budget.
    pub spent: Rho,
    /// What was charged or is reserved for running jobs.
    pub held: Rho,
    /// Whether the dataset was ever used without privacy. Every report repeats it.
    pub without_privacy: bool,
}

impl Ledger {
    /// Opens the file (mode 0600), starting it where there is none, and checks all of it.
    ///
    /// # Errors
    /// `Refused` for a budget above the one recorded; `Malformed` when an entry was changed; `Misuse` for a
    /// dataset name that is empty or longer than 256 bytes; `Fault` from the disk.
    pub async fn open(
        path: impl AsRef<Path>,
        dataset: &str,
        budget: Budget,
        now: SystemTime,
    ) -> Result<Self> {
        if dataset.is_empty() || dataset.len() > 256 {
            return Err(Error::Misuse("a dataset's name is 1 to 256 bytes".into()));
        }
        if budget == Budget::Private(Rho::ZERO) {
            return Err(Error::Misuse("a privacy budget is more than 0".into()));
        }
        make_private_file(path.as_ref())?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(PATIENCE);
        let pool = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(options)
            .await
            .map_err(not_a_ledger)?;
        let private = budget != Budget::NoPrivacy;
        let ledger = Self {
            pool,
            dataset: dataset.to_owned(),
            private,
            seen: Mutex::new(Head::EMPTY),
        };
        ledger.lay_out().await?;
        ledger.agree_on(budget, now).await?;
        Ok(ledger)
    }

    async fn lay_out(&self) -> Result<()> {
        let mut transaction = self
            .pool
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(not_a_ledger)?;
        let layout: i64 = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&mut *transaction)
            .await?;
        match layout {
            0 => {
                sqlx::query(TABLE).execute(&mut *transaction).await?;
                sqlx::query("PRAGMA user_version = 1")
                    .execute(&mut *transaction)
                    .await?;
            }
            LAYOUT => {}
            other => {
                return Err(Error::Malformed(format!(
                    "a ledger of layout {other}; this program knows {LAYOUT}"
                )));
            }
        }
        Ok(transaction.commit().await?)
    }

    async fn agree_on(&self, budget: Budget, now: SystemTime) -> Result<()> {
        let mut work = self.begin(now).await?;
        match (budget, work.account.budget) {
            (Budget::NoPrivacy, _) if work.account.without_privacy => {}
            (Budget::NoPrivacy, _) => work.add(Kind::NoPrivacy, NONE, NONE, Rho::ZERO).await?,
            (Budget::Private(asked), Some(recorded)) if asked == recorded => {}
            (Budget::Private(asked), Some(recorded)) if asked > recorded => {
                return Err(Error::Refused(format!(
                    "the budget of dataset \"{}\" is {recorded}, fixed when it was first used, and cannot be raised to {asked}",
                    self.dataset
                )));
            }
            (Budget::Private(asked), _) => work.add(Kind::Budget, NONE, NONE, asked).await?,
        }
        self.commit(work).await?;
        Ok(())
    }

    /// Sets aside the worst case of a whole job: every round, every attempt. Asking again for the same job
    /// and cost changes nothing. Without privacy there is nothing to set aside.
    ///
    /// # Errors
    /// `Refused` when less than that is left, with the numbers; when the job reserved another cost, or ended;
    /// `Misuse` for a cost of 0 with privacy, or of more without.
    pub async fn reserve(&self, job: [u8; 32], cost: Rho, now: SystemTime) -> Result<()> {
        self.check_cost(cost)?;
        let mut work = self.begin(now).await?;
        self.check_running(&work.account, &job)?;
        if !self.private {
            return Ok(());
        }
        match work.account.reserved_by(&job) {
            Some(reserved) if reserved == cost => return Ok(()),
            Some(reserved) => {
                return Err(Error::Refused(format!(
                    "the job reserved {reserved} already, and asks for {cost} now"
                )));
            }
            None => {}
        }
        let left = work.account.left_for(&job)?;
        if cost > left {
            return Err(Error::Refused(format!(
                "the job would cost {cost} in the worst case, and {left} is left for dataset \"{}\"",
                self.dataset
            )));
        }
        work.add(Kind::Reserve, job, NONE, cost).await?;
        self.commit(work).await?;
        Ok(())
    }

    /// Charges one contribution, at its worst case, before its first byte leaves. Charging a context again
    /// at the same cost gives the proof again and costs nothing.
    ///
    /// # Errors
    /// `Refused` when it would exceed the budget, saying what it costs, what is left, and how many such
    /// rounds would still fit; when the context was charged otherwise; when the job ended. `Misuse` for a cost
    /// of 0 with privacy, or of more without.
    pub async fn charge(
        &self,
        job: [u8; 32],
        context: [u8; 32],
        cost: Rho,
        now: SystemTime,
    ) -> Result<Charged> {
        self.check_cost(cost)?;
        let mut work = self.begin(now).await?;
        match work.account.charge_in(&context) {
            Some(charged) if charged == (job, cost) => {
                return Ok(Charged {
                    context,
                    cost,
                    head: work.head.hash,
                });
            }
            Some((_, charged)) => {
                return Err(Error::Refused(format!(
                    "this context was charged {charged} already; it cannot be charged {cost}, or to another job"
                )));
            }
            None => {}
        }
        self.check_running(&work.account, &job)?;
        if self.private {
            let left = work.account.left_for(&job)?;
            if cost > left {
                return Err(Error::Refused(format!(
                    "the round would cost {cost}, and {left} is left for dataset \"{}\": {} such rounds still fit",
                    self.dataset,
                    left.units() / cost.units()
                )));
            }
        }
        work.add(Kind::Charge, job, context, cost).await?;
        let head = self.commit(work).await?.hash;
        Ok(Charged {
            context,
            cost,
            head,
        })
    }

    /// Ends a job: what it reserved and was not charged is free again; what was charged stays. Nothing can be
    /// charged to it any more. Ending it again changes nothing.
    ///
    /// # Errors
    /// `Malformed` and `Fault` as for every call.
    pub async fn end(&self, job: [u8; 32], now: SystemTime) -> Result<()> {
        let mut work = self.begin(now).await?;
        if !work.account.has_ended(&job) {
            work.add(Kind::End, job, NONE, Rho::ZERO).await?;
            self.commit(work).await?;
        }
        Ok(())
    }

    /// Where the dataset stands.
    ///
    /// # Errors
    /// `Malformed` and `Fault` as for every call.
    pub async fn standing(&self) -> Result<Standing> {
        let work = self.begin(UNIX_EPOCH).await?;
        Ok(Standing {
            budget: work.account.budget,
            spent: work.account.spent()?,
            held: work.account.held()?,
            without_privacy: work.account.without_privacy,
        })
    }

    /// What was charged to the dataset, in all.
    ///
    /// # Errors
    /// `Malformed` and `Fault` as for every call.
    pub async fn spent(&self) -> Result<Rho> {
        Ok(self.standing().await?.spent)
    }

    /// The hash of the last entry of the file; all zero before the first.
    ///
    /// # Errors
    /// `Malformed` and `Fault` as for every call.
    pub async fn head(&self) -> Result<[u8; 32]> {
        Ok(self.begin(UNIX_EPOCH).await?.head.hash)
    }

    fn check_cost(&self, cost: Rho) -> Result<()> {
        match (self.private, cost == Rho::ZERO) {
            (true, true) => Err(Error::Misuse(
                "a private contribution costs more than 0".into(),
            )),
            (false, false) => Err(Error::Misuse(
                "without privacy there is no cost to charge: pass 0".into(),
            )),
            _ => Ok(()),
        }
    }

    fn check_running(&self, account: &Account, job: &[u8; 32]) -> Result<()> {
        if account.has_ended(job) {
            return Err(Error::Refused("the job has ended on this ledger".into()));
        }
        Ok(())
    }

    /// Takes the write lock, reads and checks the chain.
    async fn begin(&self, now: SystemTime) -> Result<Work> {
        let time = now
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|since| i64::try_from(since.as_millis()).ok());
        let time = time.ok_or_else(|| Error::Fault("the clock is out of range".into()))?;
        let mut transaction = self.pool.begin_with("BEGIN IMMEDIATE").await?;
        let (entries, heads) = read_chain(&mut transaction).await?;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let place = usize::try_from(seen.length).unwrap_or(usize::MAX);
        if heads.get(place) != Some(&*seen) {
            return Err(Error::Malformed(
                "the ledger went back behind what was seen of it: an older file was put in place"
                    .into(),
            ));
        }
        let head = heads.last().copied().unwrap_or(Head::EMPTY);
        *seen = head;
        drop(seen);
        let account = Account::of(&self.dataset, &entries)?;
        Ok(Work {
            transaction,
            account,
            head,
            time,
            dataset: self.dataset.clone(),
        })
    }

    async fn commit(&self, work: Work) -> Result<Head> {
        work.transaction.commit().await?;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = work.head;
        Ok(work.head)
    }
}

/// One call's work under the write lock; undone unless committed.
struct Work {
    transaction: Transaction<'static, Sqlite>,
    account: Account,
    head: Head,
    time: i64,
    dataset: String,
}

impl Work {
    async fn add(&mut self, kind: Kind, job: [u8; 32], context: [u8; 32], rho: Rho) -> Result<()> {
        let entry = Entry {
            dataset: self.dataset.clone(),
            kind,
            job,
            context,
            rho,
            time: self.time,
        };
        self.head = entry.insert(&mut self.transaction, self.head).await?;
        Ok(())
    }
}

/// Makes the file before SQLite does, so that it and its log are the owner's alone.
fn make_private_file(path: &Path) -> Result<()> {
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
        .open(path)
        .map_err(|error| Error::Fault(format!("{}: {error}", path.display())))?;
    Ok(())
}

/// SQLite's complaint about a file that is no database (code 26) blames the file, all others our disk.
fn not_a_ledger(error: sqlx::Error) -> Error {
    match error.as_database_error().and_then(|error| error.code()) {
        Some(code) if code == "26" => Error::Malformed("the file is not a ledger".into()),
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_commit_waits_for_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ledger.sqlite");
        let ledger = Ledger::open(&path, "wards", Budget::NoPrivacy, UNIX_EPOCH)
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
