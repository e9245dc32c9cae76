//! The database: events, jobs, the journal of their inputs, one-time keys.
//!
//! One transaction for each step of a job; nothing of it is announced before it is on the disk (write-ahead log,
//! `synchronous = FULL`). Calls that write are made one at a time by the coordinator.

use std::path::{Path, PathBuf};

use ciphertune_identity::{
    Peer, Serial,
    watch::{Does, Step, Watched},
};
use ciphertune_round::{Context, Digest, Envelope, Fingerprint};
use ciphertune_wire::{limits::KEY_STOCK, proto::Event};
use sqlx::{
    Row, SqlitePool,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{
    error::{Error, Result, fault},
    moment::Moment,
    phase::key_digest,
    storage::Entry,
};

/// Bytes of events that one look reads, unless a single one is larger: memory for each who follows from far behind.
const A_LOOK: i64 = 1 << 20;

const SCHEMA: [&str; 9] = [
    "CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS jobs (position INTEGER PRIMARY KEY AUTOINCREMENT, job BLOB NOT NULL UNIQUE,
        envelope BLOB NOT NULL, at INTEGER NOT NULL, running INTEGER NOT NULL, status BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS journal (sequence INTEGER PRIMARY KEY AUTOINCREMENT, job BLOB NOT NULL,
        at INTEGER NOT NULL, entry BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS events (sequence INTEGER PRIMARY KEY, kind INTEGER NOT NULL, envelope BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS contexts (context BLOB PRIMARY KEY, job BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS one_time_keys (position INTEGER PRIMARY KEY AUTOINCREMENT,
        public_key BLOB NOT NULL UNIQUE, member BLOB NOT NULL, envelope BLOB, context BLOB)",
    "CREATE INDEX IF NOT EXISTS unused_keys ON one_time_keys (member, position) WHERE context IS NULL",
    "CREATE TABLE IF NOT EXISTS entries (number INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL,
        kind TEXT NOT NULL, fields TEXT NOT NULL, object BLOB)",
    "CREATE TABLE IF NOT EXISTS certificates (party BLOB PRIMARY KEY, serial BLOB NOT NULL, issued INTEGER NOT NULL)",
];

/// An entry of the audit log, on its way there.
pub struct LogEntry {
    /// One word.
    pub kind: String,
    /// Its fields, as JSON.
    pub fields: String,
    /// The object that it rests on.
    pub object: Option<Vec<u8>>,
}

/// Everything that one step makes durable.
#[derive(Default)]
pub struct Batch {
    /// The job, when it is new.
    pub new_job: Option<Vec<u8>>,
    /// The input, unless it is the job itself.
    pub entry: Option<Entry>,
    /// Kind and envelope of each event.
    pub events: Vec<(i32, Vec<u8>)>,
    /// A new attempt and the one-time keys that it spends.
    pub opened: Option<(Context, Vec<Envelope>)>,
    /// What the audit log is to be told of it.
    pub entries: Vec<LogEntry>,
    /// The job's last status when it ends with this step.
    pub ended: Option<Vec<u8>>,
}

/// A job as stored.
pub struct StoredJob {
    /// Its digest.
    pub digest: Digest,
    /// As its researcher signed it.
    pub envelope: Vec<u8>,
    /// When it came.
    pub at: Moment,
    /// Its inputs since then, in order.
    pub entries: Vec<(Moment, Entry)>,
}

/// The database of one server.
pub struct Database {
    pool: SqlitePool,
    path: PathBuf,
    disk: Watched,
}

impl Database {
    /// Opens or creates the file.
    pub async fn open(path: &Path, disk: Watched) -> Result<Self> {
        const DOING: &str = "opening the database";
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(std::time::Duration::from_secs(10));
        let pool = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_with(options)
            .await
            .map_err(|error| fault(DOING, error))?;
        for statement in SCHEMA {
            sqlx::query(statement)
                .execute(&pool)
                .await
                .map_err(|error| fault(DOING, error))?;
        }
        Ok(Self {
            pool,
            path: path.to_owned(),
            disk,
        })
    }

    /// Whether this is the certificate that the party is known by.
    pub async fn has_met(&self, peer: &Peer) -> Result<bool> {
        let serial: Option<Vec<u8>> =
            sqlx::query_scalar("SELECT serial FROM certificates WHERE party = ?")
                .bind(peer.fingerprint.as_bytes().as_slice())
                .fetch_optional(&self.pool)
                .await
                .map_err(|error| fault("reading certificates", error))?;
        Ok(serial.as_deref() == Some(peer.serial.as_bytes()))
    }

    /// Knows a party by this certificate from now on, unless it showed a newer one before.
    pub async fn meet(&self, peer: &Peer) -> Result<()> {
        let insert = sqlx::query(
            "INSERT INTO certificates (party, serial, issued) VALUES (?, ?, ?) ON CONFLICT (party) DO UPDATE
             SET serial = excluded.serial, issued = excluded.issued WHERE excluded.issued >= certificates.issued",
        )
        .bind(peer.fingerprint.as_bytes().as_slice())
        .bind(peer.serial.as_bytes())
        .bind(i64::try_from(peer.issued_at).unwrap_or(i64::MAX));
        let inserted = self.writes(insert.execute(&self.pool)).await;
        inserted
            .map(drop)
            .map_err(|error| fault("noting a certificate", error))
    }

    /// The newest certificate of each party that was met.
    pub async fn met(&self) -> Result<Vec<(Fingerprint, Serial)>> {
        const DOING: &str = "reading certificates";
        let rows = sqlx::query("SELECT party, serial FROM certificates")
            .fetch_all(&self.pool)
            .await
            .map_err(|error| fault(DOING, error))?;
        rows.iter()
            .map(|row| {
                let party = Fingerprint::parse(row.get::<&[u8], _>(0));
                let party = party.map_err(|error| fault(DOING, error))?;
                let serial = Serial::new(row.get::<&[u8], _>(1));
                Ok((party, serial.map_err(|error| fault(DOING, error))?))
            })
            .collect()
    }

    /// Makes one step of a job durable, whole or not at all. Returns the last event's number.
    pub async fn commit(&self, job: &Digest, at: Moment, batch: Batch) -> Result<u64> {
        self.writes(self.try_commit(job, at, batch))
            .await
            .map_err(|error| fault("storing a step", error))
    }

    async fn try_commit(&self, job: &Digest, at: Moment, batch: Batch) -> sqlx::Result<u64> {
        let job = job.as_bytes().as_slice();
        let at = millis(at);
        let mut tx = self.pool.begin().await?;
        if let Some(envelope) = batch.new_job {
            sqlx::query(
                "INSERT INTO jobs (job, envelope, at, running, status) VALUES (?, ?, ?, 1, x'')",
            )
            .bind(job)
            .bind(envelope)
            .bind(at)
            .execute(&mut *tx)
            .await?;
        }
        if let Some(entry) = batch.entry {
            sqlx::query("INSERT INTO journal (job, at, entry) VALUES (?, ?, ?)")
                .bind(job)
                .bind(at)
                .bind(prost::Message::encode_to_vec(&entry))
                .execute(&mut *tx)
                .await?;
        }
        if let Some((context, keys)) = batch.opened {
            let context = context.as_bytes().as_slice();
            sqlx::query("INSERT INTO contexts (context, job) VALUES (?, ?)")
                .bind(context)
                .bind(job)
                .execute(&mut *tx)
                .await?;
            for key in keys.iter().filter_map(key_digest) {
                let spent = sqlx::query(
                    "UPDATE one_time_keys SET context = ?, envelope = NULL WHERE public_key = ? AND context IS NULL",
                )
                .bind(context)
                .bind(key.as_bytes().as_slice())
                .execute(&mut *tx)
                .await?;
                // Spent in between: the whole step is rolled back, the key is not used twice.
                if spent.rows_affected() != 1 {
                    return Err(sqlx::Error::RowNotFound);
                }
            }
        }
        for (kind, envelope) in batch.events {
            sqlx::query(
                "INSERT INTO events (sequence, kind, envelope)
                 SELECT COALESCE(MAX(sequence), 0) + 1, ?, ? FROM events",
            )
            .bind(kind)
            .bind(envelope)
            .execute(&mut *tx)
            .await?;
        }
        for entry in batch.entries {
            insert(at, entry).execute(&mut *tx).await?;
        }
        if let Some(status) = batch.ended {
            sqlx::query("UPDATE jobs SET running = 0, status = ? WHERE job = ?")
                .bind(status)
                .bind(job)
                .execute(&mut *tx)
                .await?;
            sqlx::query("DELETE FROM journal WHERE job = ?")
                .bind(job)
                .execute(&mut *tx)
                .await?;
        }
        let last: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(sequence), 0) FROM events")
            .fetch_one(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(last.unsigned_abs())
    }

    /// The last event's number; 0 before the first.
    pub async fn last_event(&self) -> Result<u64> {
        let last: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(sequence), 0) FROM events")
            .fetch_one(&self.pool)
            .await
            .map_err(|error| fault("reading events", error))?;
        Ok(last.unsigned_abs())
    }

    /// Some events after a number, in order: at least one if there is one, and not much more than a mebibyte.
    pub async fn events(&self, after: u64) -> Result<Vec<Event>> {
        self.some_events(after)
            .await
            .map_err(|error| fault("reading events", error))
    }

    async fn some_events(&self, after: u64) -> sqlx::Result<Vec<Event>> {
        let after = i64::try_from(after).unwrap_or(i64::MAX);
        let lengths: Vec<i64> = sqlx::query_scalar(
            "SELECT length(envelope) FROM events WHERE sequence > ? ORDER BY sequence LIMIT 16",
        )
        .bind(after)
        .fetch_all(&self.pool)
        .await?;
        let before = lengths.iter().scan(0, |sum, length| {
            let before = *sum;
            *sum += length;
            Some(before)
        });
        let some = before.take_while(|before| *before < A_LOOK).count();
        let rows = sqlx::query(
            "SELECT sequence, kind, envelope FROM events WHERE sequence > ? ORDER BY sequence LIMIT ?",
        )
        .bind(after)
        .bind(i64::try_from(some).unwrap_or(1))
        .fetch_all(&self.pool)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Event {
                    sequence: row.try_get::<i64, _>(0)?.unsigned_abs(),
                    kind: row.try_get(1)?,
                    envelope: row.try_get(2)?,
                })
            })
            .collect()
    }

    /// The jobs that had not ended, each with its inputs.
    pub async fn running(&self) -> Result<Vec<StoredJob>> {
        const DOING: &str = "reading jobs";
        let fault_of = |error: sqlx::Error| fault(DOING, error);
        let rows =
            sqlx::query("SELECT job, envelope, at FROM jobs WHERE running = 1 ORDER BY position")
                .fetch_all(&self.pool)
                .await
                .map_err(fault_of)?;
        let mut jobs = Vec::with_capacity(rows.len());
        for row in rows {
            let job: Vec<u8> = row.try_get(0).map_err(fault_of)?;
            let entries =
                sqlx::query("SELECT at, entry FROM journal WHERE job = ? ORDER BY sequence")
                    .bind(&job)
                    .fetch_all(&self.pool)
                    .await
                    .map_err(fault_of)?
                    .iter()
                    .map(|row| {
                        let bytes: Vec<u8> = row.try_get(1).map_err(fault_of)?;
                        Ok((
                            moment(row.try_get(0).map_err(fault_of)?),
                            Entry::from_bytes(&bytes)?,
                        ))
                    })
                    .collect::<Result<_>>()?;
            jobs.push(StoredJob {
                digest: Digest::parse(&job).map_err(|error| fault(DOING, error))?,
                envelope: row.try_get(1).map_err(fault_of)?,
                at: moment(row.try_get(2).map_err(fault_of)?),
                entries,
            });
        }
        Ok(jobs)
    }

    /// Whether a job with this digest ever came.
    pub async fn knows_job(&self, job: &Digest) -> Result<bool> {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM jobs WHERE job = ?")
            .bind(job.as_bytes().as_slice())
            .fetch_one(&self.pool)
            .await
            .map_err(|error| fault("reading jobs", error))?;
        Ok(count > 0)
    }

    /// Whether an attempt with this context ever was.
    pub async fn knows_context(&self, context: &Context) -> Result<bool> {
        let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM contexts WHERE context = ?")
            .bind(context.as_bytes().as_slice())
            .fetch_one(&self.pool)
            .await
            .map_err(|error| fault("reading contexts", error))?;
        Ok(count > 0)
    }

    /// The last status of the jobs that ended, latest first, at most a hundred; or of the one asked for.
    pub async fn ended(&self, job: Option<&Digest>) -> Result<Vec<Vec<u8>>> {
        let all = "SELECT status FROM jobs WHERE running = 0 ORDER BY position DESC LIMIT 100";
        let one = "SELECT status FROM jobs WHERE running = 0 AND job = ?";
        let rows = match job {
            None => sqlx::query_scalar(all).fetch_all(&self.pool).await,
            Some(job) => {
                let job = job.as_bytes().as_slice();
                sqlx::query_scalar(one)
                    .bind(job)
                    .fetch_all(&self.pool)
                    .await
            }
        };
        rows.map_err(|error| fault("reading jobs", error))
    }

    /// Adds to a member's stock of one-time keys and returns its size. A key that is known already, used or not, is not
    /// added again.
    ///
    /// # Errors
    /// `None` when the stock is full: nothing was added.
    pub async fn add_keys(&self, member: &Fingerprint, keys: &[Envelope]) -> Result<Option<u32>> {
        self.writes(self.try_add_keys(member, keys))
            .await
            .map_err(|error| fault("storing one-time keys", error))
    }

    async fn try_add_keys(
        &self,
        member: &Fingerprint,
        keys: &[Envelope],
    ) -> sqlx::Result<Option<u32>> {
        let member = member.as_bytes().as_slice();
        let mut tx = self.pool.begin().await?;
        for key in keys {
            let Some(digest) = key_digest(key) else {
                continue;
            };
            sqlx::query("INSERT OR IGNORE INTO one_time_keys (public_key, member, envelope) VALUES (?, ?, ?)")
                .bind(digest.as_bytes().as_slice())
                .bind(member)
                .bind(key.encode())
                .execute(&mut *tx)
                .await?;
        }
        let stock: i64 = sqlx::query_scalar(
            "SELECT COUNT(*) FROM one_time_keys WHERE member = ? AND context IS NULL",
        )
        .bind(member)
        .fetch_one(&mut *tx)
        .await?;
        if stock > KEY_STOCK as i64 {
            return Ok(None);
        }
        tx.commit().await?;
        Ok(u32::try_from(stock).ok())
    }

    /// A member's oldest unused one-time key.
    pub async fn next_key(&self, member: &Fingerprint) -> Result<Option<Envelope>> {
        const DOING: &str = "reading one-time keys";
        let bytes: Option<Vec<u8>> = sqlx::query_scalar(
            "SELECT envelope FROM one_time_keys WHERE member = ? AND context IS NULL ORDER BY position LIMIT 1",
        )
        .bind(member.as_bytes().as_slice())
        .fetch_optional(&self.pool)
        .await
        .map_err(|error| fault(DOING, error))?;
        bytes
            .map(|bytes| Envelope::decode(&bytes).map_err(|error| fault(DOING, error)))
            .transpose()
    }

    /// Numbers entries from behind this one on, whatever this file knows: beside a log that was kept, a new one begins there.
    pub async fn number_behind(&self, last: u64) -> Result<()> {
        let last = i64::try_from(last).unwrap_or(i64::MAX);
        let update = async {
            let mut tx = self.pool.begin().await?;
            sqlx::query(
                "INSERT INTO sqlite_sequence (name, seq) SELECT 'entries', 0
                 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'entries')",
            )
            .execute(&mut *tx)
            .await?;
            sqlx::query("UPDATE sqlite_sequence SET seq = ? WHERE name = 'entries' AND seq < ?")
                .bind(last)
                .bind(last)
                .execute(&mut *tx)
                .await?;
            tx.commit().await
        };
        let updated = update.await;
        updated.map_err(|error: sqlx::Error| fault("numbering audit entries", error))
    }

    /// Notes something for the audit log that belongs to no step.
    pub async fn note(&self, at: Moment, entry: LogEntry) -> Result<()> {
        let inserted = insert(millis(at), entry).execute(&self.pool);
        let inserted = self.writes(inserted).await;
        inserted
            .map(drop)
            .map_err(|error| fault("noting what the audit log is to be told", error))
    }

    /// Some audit entries that are not in the log yet, in order, each with its number and time.
    pub async fn entries(&self) -> Result<Vec<(u64, Moment, LogEntry)>> {
        let read = |row: &sqlx::sqlite::SqliteRow| -> sqlx::Result<_> {
            let number: i64 = row.try_get(0)?;
            let entry = LogEntry {
                kind: row.try_get(2)?,
                fields: row.try_get(3)?,
                object: row.try_get(4)?,
            };
            Ok((number.unsigned_abs(), moment(row.try_get(1)?), entry))
        };
        sqlx::query(
            "SELECT number, at, kind, fields, object FROM entries ORDER BY number LIMIT 256",
        )
        .fetch_all(&self.pool)
        .await
        .and_then(|rows| rows.iter().map(read).collect())
        .map_err(|error| fault("reading audit entries", error))
    }

    /// Forgets the audit entries up to a number: they are in the log.
    pub async fn written(&self, number: u64) -> Result<()> {
        let delete = sqlx::query("DELETE FROM entries WHERE number <= ?")
            .bind(i64::try_from(number).unwrap_or(i64::MAX));
        let deleted = self.writes(delete.execute(&self.pool)).await;
        deleted
            .map(drop)
            .map_err(|error| fault("forgetting audit entries", error))
    }

    /// The manifest and policy that the stored jobs began under; stores these when there are none, or `replace`s them.
    pub async fn federation(&self, now: &Digest, replace: bool) -> Result<Digest> {
        const DOING: &str = "reading which federation the data are of";
        let statement = if replace {
            "INSERT INTO meta VALUES ('federation', ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        } else {
            "INSERT OR IGNORE INTO meta VALUES ('federation', ?)"
        };
        let store = sqlx::query(statement).bind(now.as_bytes().as_slice());
        self.writes(store.execute(&self.pool))
            .await
            .map_err(|error| fault(DOING, error))?;
        let bytes: Vec<u8> = sqlx::query_scalar("SELECT value FROM meta WHERE name = 'federation'")
            .fetch_one(&self.pool)
            .await
            .map_err(|error| fault(DOING, error))?;
        Digest::parse(&bytes).map_err(|error| Error::Fault(format!("{DOING}: {error}")))
    }

    async fn writes<T>(&self, write: impl Future<Output = sqlx::Result<T>>) -> sqlx::Result<T> {
        let step = Step {
            does: Does::Commits,
            path: &self.path,
            bytes: &[],
        };
        self.disk.step_async(&step, write).await
    }

    /// Closes the file.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

fn insert(
    at: i64,
    entry: LogEntry,
) -> sqlx::query::Query<'static, sqlx::Sqlite, sqlx::sqlite::SqliteArguments> {
    sqlx::query("INSERT INTO entries (at, kind, fields, object) VALUES (?, ?, ?, ?)")
        .bind(at)
        .bind(entry.kind)
        .bind(entry.fields)
        .bind(entry.object)
}

fn millis(moment: Moment) -> i64 {
    i64::try_from(moment.as_millis()).unwrap_or(i64::MAX)
}

fn moment(millis: i64) -> Moment {
    Moment::from_millis(millis.unsigned_abs())
}
