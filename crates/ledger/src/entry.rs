//! One entry, and the chain of hashes that ties it to those before.

use std::fmt;

use sha2::{Digest as _, Sha256};
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};

use crate::cost::Cost;
use crate::error::{Error, Result};
use crate::hides::Hides;
use crate::limit::Limit;

/// The layout of the file, kept in SQLite's `user_version`.
pub(crate) const LAYOUT: i64 = 2;
pub(crate) const TABLE: &str = "CREATE TABLE IF NOT EXISTS entries (
    sequence INTEGER PRIMARY KEY,
    dataset TEXT NOT NULL,
    kind TEXT NOT NULL,
    job BLOB NOT NULL,
    context BLOB NOT NULL,
    cost BLOB NOT NULL,
    budget TEXT NOT NULL,
    evidence BLOB NOT NULL,
    time INTEGER NOT NULL,
    previous BLOB NOT NULL,
    hash BLOB NOT NULL
) STRICT";

/// First bytes of everything hashed here.
const LABEL: &[u8] = b"ciphertune/1/ledger-entry\0";

/// What an entry records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The dataset's limit from here on.
    Budget(Limit),
    /// What the dataset's budget is a promise of, from its first use on.
    Hides(Hides),
    /// From here on jobs train on a file of this SHA-256. Another file under the same name opens no new budget.
    Data(Data),
    /// The dataset is used without privacy; a mark that stays.
    NoPrivacy,
    /// A job holds `cost` for its rounds.
    Reserve,
    /// A contribution in a context costs `cost`.
    Charge,
    /// What a context was charged is `cost` from here on: t members echoed this roster, as this certificate shows.
    Settle {
        /// Digest of the roster.
        roster: [u8; 32],
        /// Digest of the certificate.
        certificate: [u8; 32],
    },
    /// A job is over: what it reserved and did not spend is free again.
    End,
}

/// A file that is trained on. It prints neither field: who knows the salt can try files against a published head.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Data {
    /// Random, fresh: so that the heads which members sign, and so publish, tell nobody what the file may be.
    pub salt: [u8; 32],
    /// The file's.
    pub sha256: [u8; 32],
}

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Data").finish_non_exhaustive()
    }
}

/// One entry of the chain.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The dataset's name.
    pub dataset: String,
    /// What it records.
    pub kind: Kind,
    /// The job; all zero where there is none.
    pub job: [u8; 32],
    /// The attempt; all zero where there is none.
    pub context: [u8; 32],
    /// What is reserved, charged or settled to; else 0.
    pub cost: Cost,
    /// Milliseconds after 1970, UTC.
    pub time: i64,
}

/// How long the chain is, and the hash of its last entry; all zero when it is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) length: i64,
    pub(crate) hash: [u8; 32],
}

impl Head {
    pub(crate) const EMPTY: Self = Self {
        length: 0,
        hash: [0; 32],
    };

    /// The head after one more entry, which has this hash.
    pub(crate) fn then(&self, hash: [u8; 32]) -> Self {
        Self {
            length: self.length + 1,
            hash,
        }
    }

    pub(crate) fn broken(&self) -> Error {
        Error::Malformed(format!(
            "the ledger was changed: its chain is broken at entry {}",
            self.length
        ))
    }
}

impl Kind {
    /// Its name: `budget`, `hides`, `data`, `no-privacy`, `reserve`, `charge`, `settle`, `end`.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Budget(_) => "budget",
            Self::Hides(_) => "hides",
            Self::Data(_) => "data",
            Self::NoPrivacy => "no-privacy",
            Self::Reserve => "reserve",
            Self::Charge => "charge",
            Self::Settle { .. } => "settle",
            Self::End => "end",
        }
    }

    fn parse(word: &str, budget: &str, evidence: &[u8]) -> Option<Self> {
        let kind = match word {
            "budget" => Self::Budget(Limit::parse(budget)?),
            "hides" => Self::Hides(Hides::parse(budget)?),
            "data" => {
                let (salt, sha256) = evidence.split_at_checked(32)?;
                Self::Data(Data {
                    salt: salt.try_into().ok()?,
                    sha256: sha256.try_into().ok()?,
                })
            }
            "no-privacy" => Self::NoPrivacy,
            "reserve" => Self::Reserve,
            "charge" => Self::Charge,
            "settle" => {
                let (roster, certificate) = evidence.split_at_checked(32)?;
                Self::Settle {
                    roster: roster.try_into().ok()?,
                    certificate: certificate.try_into().ok()?,
                }
            }
            "end" => Self::End,
            _ => return None,
        };
        // Nothing where nothing belongs.
        (kind.budget() == budget && kind.evidence() == evidence).then_some(kind)
    }

    fn budget(&self) -> String {
        match self {
            Self::Budget(limit) => limit.to_text(),
            Self::Hides(hides) => hides.to_string(),
            _ => String::new(),
        }
    }

    fn evidence(&self) -> Vec<u8> {
        match self {
            Self::Settle {
                roster,
                certificate,
            } => [*roster, *certificate].concat(),
            Self::Data(data) => [data.salt, data.sha256].concat(),
            _ => Vec::new(),
        }
    }
}

impl Entry {
    /// SHA-256(label ‖ previous ‖ sequence ‖ time ‖ job ‖ context ‖ cost ‖ |x| ‖ x for x of kind, dataset, budget,
    /// evidence), numbers as 8 bytes, most significant first.
    fn hash(&self, previous: &Head) -> [u8; 32] {
        let mut hasher = Sha256::new_with_prefix(LABEL);
        hasher.update(previous.hash);
        hasher.update(previous.length.to_be_bytes());
        hasher.update(self.time.to_be_bytes());
        hasher.update(self.job);
        hasher.update(self.context);
        hasher.update(self.cost.to_bytes());
        let budget = self.kind.budget();
        let evidence = self.kind.evidence();
        for part in [
            self.kind.word().as_bytes(),
            self.dataset.as_bytes(),
            budget.as_bytes(),
            evidence.as_slice(),
        ] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        hasher.finalize().into()
    }

    /// Adds the entry to the chain; the caller commits.
    pub(crate) async fn insert(
        &self,
        connection: &mut SqliteConnection,
        head: Head,
    ) -> Result<Head> {
        let hash = self.hash(&head);
        sqlx::query(
            "INSERT INTO entries
             (sequence, dataset, kind, job, context, cost, budget, evidence, time, previous, hash)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(head.length)
        .bind(&self.dataset)
        .bind(self.kind.word())
        .bind(self.job.as_slice())
        .bind(self.context.as_slice())
        .bind(self.cost.to_bytes())
        .bind(self.kind.budget())
        .bind(self.kind.evidence())
        .bind(self.time)
        .bind(head.hash.as_slice())
        .bind(hash.as_slice())
        .execute(connection)
        .await?;
        Ok(head.then(hash))
    }
}

/// Reads the whole chain, holding every hash against its entry and the one before.
pub(crate) async fn read_chain(
    connection: &mut SqliteConnection,
) -> Result<(Vec<Entry>, Vec<Head>)> {
    let mut head = Head::EMPTY;
    let (mut entries, mut heads) = (Vec::new(), vec![head]);
    let rows = sqlx::query("SELECT * FROM entries ORDER BY sequence")
        .fetch_all(connection)
        .await?;
    for row in &rows {
        let broken = || head.broken();
        let stored = Stored::from_row(row).map_err(|_| broken())?;
        let entry = stored.entry().ok_or_else(broken)?;
        let hash = entry.hash(&head);
        if stored.sequence != head.length || stored.previous != head.hash || stored.hash != hash {
            return Err(broken());
        }
        head = head.then(hash);
        entries.push(entry);
        heads.push(head);
    }
    Ok((entries, heads))
}

/// A row as it lies there, not yet believed.
struct Stored {
    sequence: i64,
    dataset: String,
    kind: String,
    job: Vec<u8>,
    context: Vec<u8>,
    cost: Vec<u8>,
    budget: String,
    evidence: Vec<u8>,
    time: i64,
    previous: Vec<u8>,
    hash: Vec<u8>,
}

impl<'r> FromRow<'r, SqliteRow> for Stored {
    fn from_row(row: &'r SqliteRow) -> sqlx::Result<Self> {
        Ok(Self {
            sequence: row.try_get("sequence")?,
            dataset: row.try_get("dataset")?,
            kind: row.try_get("kind")?,
            job: row.try_get("job")?,
            context: row.try_get("context")?,
            cost: row.try_get("cost")?,
            budget: row.try_get("budget")?,
            evidence: row.try_get("evidence")?,
            time: row.try_get("time")?,
            previous: row.try_get("previous")?,
            hash: row.try_get("hash")?,
        })
    }
}

impl Stored {
    fn entry(&self) -> Option<Entry> {
        Some(Entry {
            dataset: self.dataset.clone(),
            kind: Kind::parse(&self.kind, &self.budget, &self.evidence)?,
            job: self.job.as_slice().try_into().ok()?,
            context: self.context.as_slice().try_into().ok()?,
            cost: Cost::parse(&self.cost)?,
            time: self.time,
        })
    }
}
