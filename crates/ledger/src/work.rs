//! One call's work on the chain, under the write lock.

use std::time::{SystemTime, UNIX_EPOCH};

use ciphertune_dp::zcdp;
use ciphertune_policy::Loss;
use sqlx::{Sqlite, SqlitePool, Transaction};

use crate::account::Account;
use crate::cost::{Cost, UNITS};
use crate::entry::{Entry, Head, Kind, read_chain};
use crate::error::{Error, Result};
use crate::limit::{Limit, in_words};

/// In the place of a job or a context, where there is none.
pub(crate) const NONE: [u8; 32] = [0; 32];

/// One call's work under the write lock; undone unless committed.
pub(crate) struct Work {
    transaction: Transaction<'static, Sqlite>,
    pub(crate) account: Account,
    heads: Vec<Head>,
    pub(crate) head: Head,
    time: i64,
    dataset: String,
}

impl Work {
    /// Takes the write lock, reads and checks the chain.
    pub(crate) async fn begin(pool: &SqlitePool, dataset: &str, now: SystemTime) -> Result<Self> {
        let time = now
            .duration_since(UNIX_EPOCH)
            .ok()
            .and_then(|since| i64::try_from(since.as_millis()).ok());
        let time = time.ok_or_else(|| Error::Fault("the clock is out of range".into()))?;
        let mut transaction = pool.begin_with("BEGIN IMMEDIATE").await?;
        let (entries, heads) = read_chain(&mut transaction).await?;
        Ok(Self {
            account: Account::of(dataset, &entries)?,
            head: heads.last().copied().unwrap_or(Head::EMPTY),
            heads,
            transaction,
            time,
            dataset: dataset.to_owned(),
        })
    }

    pub(crate) async fn commit(self) -> Result<Head> {
        self.transaction.commit().await?;
        Ok(self.head)
    }

    /// Whether the chain had this head when it was as long.
    pub(crate) fn holds(&self, head: &Head) -> bool {
        let place = usize::try_from(head.length).unwrap_or(usize::MAX);
        self.heads.get(place) == Some(head)
    }

    /// Whether the chain ever had a head of this hash.
    pub(crate) fn knows(&self, hash: &[u8; 32]) -> bool {
        self.heads.iter().any(|head| head.hash == *hash)
    }

    /// The limit in force under `loss`: the recorded one, lowered where `loss` is stricter; where none is recorded, opened
    /// for the planned use.
    pub(crate) async fn limit(&mut self, loss: Loss, planned: &Cost) -> Result<Limit> {
        let limit = match self.account.limit {
            Some(limit) => {
                let stricter = Loss {
                    epsilon: limit.loss().epsilon.min(loss.epsilon),
                    delta: limit.loss().delta.min(loss.delta),
                };
                if stricter == limit.loss() {
                    return Ok(limit);
                }
                limit.lowered_to(stricter)?
            }
            None => {
                self.demand_no_more_than_earlier(&loss)?;
                Limit::for_use(loss, planned, &self.account.held())?
            }
        };
        self.add(Kind::Budget(limit), NONE, NONE, Cost::ZERO)
            .await?;
        self.account.limit = Some(limit);
        Ok(limit)
    }

    /// A budget of layout 1 was the largest ρ that implies (ε, δ): no more than that is allowed now.
    pub(crate) fn demand_no_more_than_earlier(&self, loss: &Loss) -> Result<()> {
        let Some(earlier) = self.account.earlier_rho else {
            return Ok(());
        };
        let asked = zcdp::budget(&loss.epsilon, &loss.delta)
            .map_err(|error| Error::Misuse(format!("budget: {error}")))?;
        if (asked * UNITS) as u64 > earlier {
            return Err(Error::Refused(format!(
                "the budget of dataset \"{}\" is rho = {}, fixed when it was first used, and cannot be raised to \
                 epsilon = {} at delta = {}, which is rho = {}",
                self.dataset,
                in_words(earlier, f64::floor),
                loss.epsilon,
                loss.delta,
                in_words((asked * UNITS) as u64, f64::ceil)
            )));
        }
        Ok(())
    }

    pub(crate) async fn add(
        &mut self,
        kind: Kind,
        job: [u8; 32],
        context: [u8; 32],
        cost: Cost,
    ) -> Result<()> {
        let entry = Entry {
            dataset: self.dataset.clone(),
            kind,
            job,
            context,
            cost,
            time: self.time,
        };
        self.head = entry.insert(&mut self.transaction, self.head).await?;
        Ok(())
    }
}
