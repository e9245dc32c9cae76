//! The file: made, opened, and laid out for this version.

use std::path::Path;
use std::time::Duration;

use sqlx::SqlitePool;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};

use crate::entry::{LAYOUT, TABLE};
use crate::error::{Error, Result};

/// How long one process waits for another one's write.
const PATIENCE: Duration = Duration::from_secs(30);

/// Opens a ledger's file, starting it where there is none.
pub(crate) async fn open(path: &Path) -> Result<SqlitePool> {
    make_private_file(path)?;
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
    lay_out(&pool).await?;
    Ok(pool)
}

async fn lay_out(pool: &SqlitePool) -> Result<()> {
    let mut transaction = pool
        .begin_with("BEGIN IMMEDIATE")
        .await
        .map_err(not_a_ledger)?;
    let layout: i64 = sqlx::query_scalar("PRAGMA user_version")
        .fetch_one(&mut *transaction)
        .await?;
    match layout {
        0 => {
            sqlx::query(TABLE).execute(&mut *transaction).await?;
            sqlx::query("PRAGMA user_version = 2")
                .execute(&mut *transaction)
                .await?;
        }
        LAYOUT => {}
        other => {
            return Err(unknown_layout(other));
        }
    }
    Ok(transaction.commit().await?)
}

pub(crate) fn unknown_layout(layout: i64) -> Error {
    Error::Malformed(format!(
        "a ledger of layout {layout}; this program knows {LAYOUT} alone. Keep the file, and go on with the program that \
         wrote it: what was spent stands in there"
    ))
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
pub(crate) fn not_a_ledger(error: sqlx::Error) -> Error {
    match error.as_database_error().and_then(|error| error.code()) {
        Some(code) if code == "26" => Error::Malformed("the file is not a ledger".into()),
        _ => error.into(),
    }
}
