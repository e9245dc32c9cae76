//! Entries of layout 1, whose costs were ρ of zero-concentrated privacy: read where they lie, never written.
//!
//! ρ is the curve α·ρ, so what was spent stays spent. A budget in ρ names no ε and no δ: it stands as the most that the
//! budget of the new layout may allow.

use sha2::{Digest as _, Sha256};
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row, SqliteConnection};

use crate::cost::Cost;
use crate::entry::{Entry, Head, Kind, has_table};
use crate::error::Result;

/// First bytes of everything that layout 1 hashed.
const LABEL: &[u8] = b"ciphertune/1/ledger\0";

/// The part of a chain that layout 1 wrote, every hash held against its entry and the one before; only the empty head
/// where there is none.
pub(crate) async fn read_chain(
    connection: &mut SqliteConnection,
) -> Result<(Vec<Entry>, Vec<Head>)> {
    let mut head = Head::EMPTY;
    let (mut entries, mut heads) = (Vec::new(), vec![head]);
    if !has_table(&mut *connection, "charges").await? {
        return Ok((entries, heads));
    }
    let rows = sqlx::query("SELECT * FROM charges ORDER BY sequence")
        .fetch_all(connection)
        .await?;
    for row in &rows {
        let broken = || head.broken();
        let stored = Stored::from_row(row).map_err(|_| broken())?;
        let hash = stored.hash_after(&head).ok_or_else(broken)?;
        if stored.sequence != head.length || stored.previous != head.hash || stored.hash != hash {
            return Err(broken());
        }
        entries.push(stored.entry().ok_or_else(broken)?);
        head = head.then(hash);
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
    /// SHA-256(label ‖ previous ‖ sequence ‖ time ‖ ρ ‖ job ‖ context ‖ |kind| ‖ kind ‖ |dataset| ‖ dataset), numbers as
    /// 8 bytes, most significant first.
    fn hash_after(&self, previous: &Head) -> Option<[u8; 32]> {
        let mut hasher = Sha256::new_with_prefix(LABEL);
        hasher.update(previous.hash);
        hasher.update(previous.length.to_be_bytes());
        hasher.update(self.time.to_be_bytes());
        hasher.update(u64::try_from(self.rho).ok()?.to_be_bytes());
        hasher.update(<&[u8; 32]>::try_from(self.job.as_slice()).ok()?);
        hasher.update(<&[u8; 32]>::try_from(self.context.as_slice()).ok()?);
        for text in [&self.kind, &self.dataset] {
            hasher.update((text.len() as u64).to_be_bytes());
            hasher.update(text);
        }
        Some(hasher.finalize().into())
    }

    fn entry(&self) -> Option<Entry> {
        let rho = u64::try_from(self.rho).ok()?;
        let (kind, cost) = match self.kind.as_str() {
            "budget" => (Kind::EarlierBudget(rho), Cost::ZERO),
            "no-privacy" => (Kind::NoPrivacy, Cost::ZERO),
            "reserve" => (Kind::Reserve, Cost::of_rho(rho)),
            "charge" => (Kind::Charge, Cost::of_rho(rho)),
            "end" => (Kind::End, Cost::ZERO),
            _ => return None,
        };
        Some(Entry {
            dataset: self.dataset.clone(),
            kind,
            job: self.job.as_slice().try_into().ok()?,
            context: self.context.as_slice().try_into().ok()?,
            cost,
            time: self.time,
        })
    }
}
