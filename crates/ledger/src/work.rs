//! One call's work on the chain, under the write lock.

use std::collections::HashSet;
use std::time::{SystemTime, UNIX_EPOCH};

use ciphertune_policy::Loss;
use sqlx::{Sqlite, SqlitePool, Transaction};

use crate::account::Account;
use crate::cost::Cost;
use crate::entry::{Data, Entry, Head, Kind, read_chain};
use crate::error::{Error, Result};
use crate::hides::Hides;
use crate::limit::Limit;

/// Whether a chain once had each of these heads.
pub(crate) fn knows(heads: &[Head], seen: &[[u8; 32]]) -> bool {
    let known: HashSet<[u8; 32]> = heads.iter().map(|head| head.hash).collect();
    seen.iter().all(|hash| known.contains(hash))
}

/// In the place of a job or a context, where there is none.
pub(crate) const NONE: [u8; 32] = [0; 32];

/// One call's work under the write lock; undone unless committed.
pub(crate) struct Work {
    transaction: Transaction<'static, Sqlite>,
    entries: Vec<Entry>,
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
            entries,
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

    /// Whether the chain once had each of these heads.
    pub(crate) fn knows(&self, seen: &[[u8; 32]]) -> bool {
        knows(&self.heads, seen)
    }

    /// The head after the last entry of this dataset that is such a one: what is asked for again is told in the same words.
    pub(crate) fn head_after(&self, is: impl Fn(&Entry) -> bool) -> [u8; 32] {
        let is = |entry: &Entry| entry.dataset == self.dataset && is(entry);
        let after = self.entries.iter().rposition(is).map(|place| place + 1);
        let head = after.and_then(|place| self.heads.get(place));
        head.unwrap_or(&self.head).hash
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
            None => Limit::for_use(loss, planned, &self.account.held())?,
        };
        self.add(Kind::Budget(limit), NONE, NONE, Cost::ZERO)
            .await?;
        self.account.limit = Some(limit);
        Ok(limit)
    }

    /// Holds the account to what it hides; records that where nothing is recorded.
    pub(crate) async fn hide(&mut self, asked: Hides) -> Result<()> {
        self.demand_same(asked)?;
        if self.account.hides.is_none() {
            self.add(Kind::Hides(asked), NONE, NONE, Cost::ZERO).await?;
            self.account.hides = Some(asked);
        }
        Ok(())
    }

    /// Notes the file that a job trains on, where it is another one than before; whether it was.
    pub(crate) async fn note_data(&mut self, job: [u8; 32], data: Option<Data>) -> Result<bool> {
        let Some(data) = data.filter(|data| Some(data.sha256) != self.account.data) else {
            return Ok(false);
        };
        self.add(Kind::Data(data), job, NONE, Cost::ZERO).await?;
        self.account.data = Some(data.sha256);
        Ok(true)
    }

    pub(crate) fn demand_same(&self, asked: Hides) -> Result<()> {
        match self.account.hides {
            Some(recorded) if recorded != asked => Err(Error::Refused(format!(
                "the budget of dataset \"{}\" hides units \"{}\" against {}, and what was charged to it is right for these \
                 alone: it cannot go on with \"{}\" against {}. Keep to the unit and adjacency it was first used with",
                self.dataset, recorded.unit, recorded.adjacency, asked.unit, asked.adjacency
            ))),
            _ => Ok(()),
        }
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
