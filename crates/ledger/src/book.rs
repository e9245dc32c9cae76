//! The whole file as it stands, for whoever looks into it: nothing is written, and no dataset is opened.

use std::path::Path;

use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _};

use crate::account::Account;
use crate::entry::{Entry, Head, LAYOUT, read_chain};
use crate::error::Result;
use crate::file::{not_a_ledger, unknown_layout};
use crate::ledger::{Standing, went_back};
use crate::work::knows;

/// Every entry of a ledger's file, its chain checked.
#[derive(Debug)]
pub struct Book {
    entries: Vec<Entry>,
    head: [u8; 32],
}

impl Book {
    /// Reads a file, also while a member charges it. `seen` are heads that the caller knows to have been on this
    /// disk.
    ///
    /// # Errors
    /// `Malformed` when it is no ledger, an entry was changed, or it does not hold the heads that were seen; `Fault` from
    /// the disk, also where there is no file.
    pub async fn read(path: impl AsRef<Path>, seen: &[[u8; 32]]) -> Result<Self> {
        if !seen.is_empty() && !path.as_ref().exists() {
            return Err(went_back());
        }
        let options = SqliteConnectOptions::new().filename(path).read_only(true);
        let mut connection = options.connect().await.map_err(not_a_ledger)?;
        let mut snapshot = connection.begin().await.map_err(not_a_ledger)?;
        let layout: i64 = sqlx::query_scalar("PRAGMA user_version")
            .fetch_one(&mut *snapshot)
            .await
            .map_err(not_a_ledger)?;
        if layout != LAYOUT {
            return Err(unknown_layout(layout));
        }
        let (entries, heads) = read_chain(&mut snapshot).await?;
        drop(snapshot);
        connection.close().await?;
        if !knows(&heads, seen) {
            return Err(went_back());
        }
        let head = heads.last().unwrap_or(&Head::EMPTY).hash;
        Ok(Self { entries, head })
    }

    /// The hash of the last entry; all zero before the first.
    #[must_use]
    pub fn head(&self) -> &[u8; 32] {
        &self.head
    }

    /// The datasets, in the order of their first use.
    #[must_use]
    pub fn datasets(&self) -> Vec<&str> {
        let mut datasets: Vec<&str> = Vec::new();
        for entry in &self.entries {
            if !datasets.contains(&entry.dataset.as_str()) {
                datasets.push(&entry.dataset);
            }
        }
        datasets
    }

    /// The entries of a dataset, oldest first.
    pub fn entries(&self, dataset: &str) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .filter(move |entry| entry.dataset == dataset)
    }

    /// Where a dataset stands.
    ///
    /// # Errors
    /// `Malformed` when an entry lowers what was not charged.
    pub fn standing(&self, dataset: &str) -> Result<Standing> {
        Ok(Standing::of(&Account::of(dataset, &self.entries)?))
    }
}
