//! One entry, and the chain of hashes that ties it to those before.

use sha2::{Digest as _, Sha256};
use sqlx::SqliteConnection;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};

use crate::error::{Error, Result};
use crate::rho::Rho;

/// First bytes of everything hashed here.
const LABEL: &[u8] = b"ciphertune/1/ledger\0";

/// What an entry records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The dataset's limit is `rho` from here on.
    Budget,
    /// The dataset is used without privacy; a mark that stays.
    NoPrivacy,
    /// A job holds `rho` for its rounds.
    Reserve,
    /// A contribution in a context costs `rho`.
    Charge,
    /// A job is over: what it reserved and did not spend is free again.
    End,
}

const KINDS: [(Kind, &str); 5] = [
    (Kind::Budget, "budget"),
    (Kind::NoPrivacy, "no-privacy"),
    (Kind::Reserve, "reserve"),
    (Kind::Charge, "charge"),
    (Kind::End, "end"),
];

impl Kind {
    fn word(self) -> &'static str {
        KINDS
            .iter()
            .find(|(kind, _)| *kind == self)
            .map_or("", |(_, word)| word)
    }

    fn parse(word: &str) -> Option<Self> {
        KINDS
            .iter()
            .find(|(_, known)| *known == word)
            .map(|(kind, _)| *kind)
    }
}

/// One row of the table `charges`.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) dataset: String,
    pub(crate) kind: Kind,
    /// All zero where there is none.
    pub(crate) job: [u8; 32],
    /// All zero where there is none.
    pub(crate) context: [u8; 32],
    pub(crate) rho: Rho,
    /// Milliseconds after 1970, UTC.
    pub(crate) time: i64,
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
}

impl Entry {
    /// SHA-256(label ‖ previous ‖ sequence ‖ time ‖ ρ ‖ job ‖ context ‖ |kind| ‖ kind ‖ |dataset| ‖ dataset),
    /// numbers as 8 bytes, most significant first.
    fn hash(&self, previous: &Head) -> [u8; 32] {
        let kind = self.kind.word();
        let mut hasher = Sha256::new_with_prefix(LABEL);
        hasher.update(previous.hash);
        hasher.update(previous.length.to_be_bytes());
        hasher.update(self.time.to_be_bytes());
        hasher.update(self.rho.units().to_be_bytes());
        hasher.update(self.job);
        hasher.update(self.context);
        for text in [kind, &self.dataset] {
            hasher.update((text.len() as u64).to_be_bytes());
            hasher.update(text);
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
        let rho =
            i64::try_from(self.rho.units()).map_err(|_| Error::Misuse("ρ too large".into()))?;
        sqlx::query(
            "INSERT INTO charges (sequence, dataset, kind, job, context, rho, time, previous, hash)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(head.length)
        .bind(&self.dataset)
        .bind(self.kind.word())
        .bind(self.job.as_slice())
        .bind(self.context.as_slice())
        .bind(rho)
        .bind(self.time)
        .bind(head.hash.as_slice())
        .bind(hash.as_slice())
        .execute(connection)
        .await?;
        Ok(Head {
            length: head.length + 1,
            hash,
        })
    }
}

/// Reads the whole chain, holding every hash against its entry and the one before.
pub(crate) async fn read_chain(
    connection: &mut SqliteConnection,
) -> Result<(Vec<Entry>, Vec<Head>)> {
    let rows = sqlx::query("SELECT * FROM charges ORDER BY sequence")
        .fetch_all(connection)
        .await?;
    let mut head = Head::EMPTY;
    let mut entries = Vec::with_capacity(rows.len());
    let mut heads = vec![head];
    for row in &rows {
        let broken = || {
            Error::Malformed(format!(
                "the ledger was changed: its chain is broken at entry {}",
                head.length
            ))
        };
        let stored = Stored::from_row(row).map_err(|_| broken())?;
        let entry = stored.entry().ok_or_else(broken)?;
        let hash = entry.hash(&head);
        if stored.sequence != head.length || stored.previous != head.hash || stored.hash != hash {
            return Err(broken());
        }
        head = Head {
            length: head.length + 1,
            hash,
        };
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
    rho: i64,
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
            rho: row.try_get("rho")?,
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
            kind: Kind::parse(&self.kind)?,
            job: self.job.as_slice().try_into().ok()?,
            context: self.context.as_slice().try_into().ok()?,
            rho: Rho::from_units(u64::try_from(self.rho).ok()?).ok()?,
            time: self.time,
        })
    }
}
