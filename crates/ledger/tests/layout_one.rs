//! A ledger that was begun under layout 1, whose costs were ρ: what it holds stays spent, and its chain goes on.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ciphertune_dp::rdp::{Curve, ORDERS};
use ciphertune_dp::{FrozenSchedule, SamplingRate};
use ciphertune_ledger::{Budget, Cost, Error, Ledger};
use ciphertune_policy::{Adjacency, Loss};
use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection, SqliteConnection};

const JOB: [u8; 32] = [1; 32];
const RUNNING: [u8; 32] = [2; 32];
const NONE: [u8; 32] = [0; 32];
const CONTEXT: [u8; 32] = [100; 32];
/// The ρ that ε = 8 at δ = 1e-5 allows, in units of 2⁻⁴⁰, rounded down: worked out to 40 digits from
/// δ = inf_α exp((α − 1)(αρ − ε))·(1 − 1/α)^α/(α − 1).
const BUDGET: u64 = 1_352_085_419_919;
/// ρ of a twentieth or so of the budget.
const RHO: u64 = 1 << 36;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn loss(epsilon: &str) -> Loss {
    Loss {
        epsilon: epsilon.parse().unwrap(),
        delta: "1e-5".parse().unwrap(),
    }
}

/// A file as layout 1 wrote it, for the budget of ε = 8; returns the chain's head.
async fn begin(path: &Path) -> [u8; 32] {
    let mut connection = connect(path, true).await;
    for sql in [
        "CREATE TABLE charges (sequence INTEGER PRIMARY KEY, dataset TEXT NOT NULL, kind TEXT NOT NULL,
         job BLOB NOT NULL, context BLOB NOT NULL, rho INTEGER NOT NULL, time INTEGER NOT NULL,
         previous BLOB NOT NULL, hash BLOB NOT NULL) STRICT",
        "PRAGMA user_version = 1",
    ] {
        sqlx::query(sql).execute(&mut connection).await.unwrap();
    }
    let mut previous = [0; 32];
    let entries = [
        ("budget", NONE, NONE, BUDGET),
        ("no-privacy", NONE, NONE, 0),
        ("reserve", JOB, NONE, 2 * RHO),
        ("charge", JOB, CONTEXT, RHO),
        ("end", JOB, NONE, 0),
        ("reserve", RUNNING, NONE, 3 * RHO),
    ];
    for (sequence, (kind, job, context, rho)) in (0_i64..).zip(entries) {
        let mut hasher = Sha256::new_with_prefix(b"ciphertune/1/ledger\0");
        hasher.update(previous);
        hasher.update(sequence.to_be_bytes());
        hasher.update(1_600_000_000_000_i64.to_be_bytes());
        hasher.update(rho.to_be_bytes());
        hasher.update(job);
        hasher.update(context);
        for text in [kind, "wards"] {
            hasher.update((text.len() as u64).to_be_bytes());
            hasher.update(text);
        }
        let hash: [u8; 32] = hasher.finalize().into();
        sqlx::query("INSERT INTO charges VALUES (?, 'wards', ?, ?, ?, ?, 1600000000000, ?, ?)")
            .bind(sequence)
            .bind(kind)
            .bind(job.as_slice())
            .bind(context.as_slice())
            .bind(rho as i64)
            .bind(previous.as_slice())
            .bind(hash.as_slice())
            .execute(&mut connection)
            .await
            .unwrap();
        previous = hash;
    }
    connection.close().await.unwrap();
    previous
}

async fn connect(path: &Path, create: bool) -> SqliteConnection {
    let options = SqliteConnectOptions::new().filename(path);
    options.create_if_missing(create).connect().await.unwrap()
}

async fn tamper(path: &Path, sql: &'static str) {
    let mut connection = connect(path, false).await;
    sqlx::query(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

fn place() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    (folder, path)
}

async fn open(path: &Path, epsilon: &str, seen: &[[u8; 32]]) -> Result<Ledger, Error> {
    Ledger::open(path, "wards", Budget::Private(loss(epsilon)), seen, now()).await
}

fn round() -> Cost {
    let multiplier = "30".parse().unwrap();
    let round =
        FrozenSchedule::planned(SamplingRate::WHOLE, &multiplier, 1, Adjacency::ZeroOut).unwrap();
    Cost::of(&Curve::of(&round)).unwrap()
}

#[tokio::test]
async fn what_was_spent_stays_spent_and_the_chain_goes_on() {
    let (_folder, path) = place();
    let head = begin(&path).await;
    let ledger = open(&path, "8", &[head]).await.unwrap();
    assert_eq!(
        ledger.head().await.unwrap(),
        head,
        "nothing is written anew"
    );
    let standing = ledger.standing().await.unwrap();
    assert!(standing.without_privacy && standing.limit.is_none());
    for order in ORDERS {
        let rho = |cost: &Cost| cost.at(order).unwrap() / u64::from(order);
        assert_eq!((rho(&standing.spent), rho(&standing.held)), (RHO, 4 * RHO));
    }
    // A fifth of the budget is held: no more fits than the rest.
    let most = (1..).take_while(|count| standing.held.at(4) > round().times(*count).at(4));
    let fifth = most.last().unwrap();
    let refused = ledger.reserve([3; 32], &round(), 4 * fifth, now()).await;
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    ledger
        .reserve([3; 32], &round(), 3 * fifth, now())
        .await
        .unwrap();
    let charged = ledger
        .charge([3; 32], [101; 32], &round(), now())
        .await
        .unwrap();
    assert_eq!(charged.ledger_head(), &ledger.head().await.unwrap());
    let again = open(&path, "8", &[head, *charged.ledger_head()])
        .await
        .unwrap();
    assert_eq!(again.spent().await.unwrap(), standing.spent.plus(&round()));
    assert!(
        open(&path, "8", &[head]).await.is_ok(),
        "the old head is part of it"
    );
    again.end(RUNNING, now()).await.unwrap();
    assert!(open(&path, "8", &[]).await.is_ok());
}

#[tokio::test]
async fn the_budget_is_not_raised_on_the_way() {
    let (_folder, path) = place();
    begin(&path).await;
    let said = open(&path, "8.001", &[]).await.err().unwrap().to_string();
    assert!(
        said.contains("is rho = ") && said.contains("cannot be raised"),
        "{said}"
    );
    let lower = open(&path, "4", &[]).await.unwrap();
    lower
        .charge([3; 32], [101; 32], &round(), now())
        .await
        .unwrap();
    assert!(matches!(
        open(&path, "8", &[]).await,
        Err(Error::Refused(_))
    ));
}

#[tokio::test]
async fn a_job_that_runs_over_the_change_must_be_drafted_anew() {
    let (_folder, path) = place();
    begin(&path).await;
    let ledger = open(&path, "8", &[]).await.unwrap();
    let said = ledger
        .reserve(RUNNING, &round(), 3, now())
        .await
        .unwrap_err()
        .to_string();
    assert!(said.contains("drafted anew"), "{said}");
    let ended = ledger.charge(JOB, [102; 32], &round(), now()).await;
    assert!(matches!(ended, Err(Error::Refused(_))));
    // A context of that time is not charged again as if it were new.
    let again = ledger.charge(RUNNING, CONTEXT, &round(), now()).await;
    assert!(matches!(again, Err(Error::Refused(_))));
}

#[tokio::test]
async fn any_changed_entry_of_that_time_is_noticed() {
    for sql in [
        "UPDATE charges SET rho = 1 WHERE kind = 'charge'",
        "UPDATE charges SET rho = -1 WHERE kind = 'charge'",
        "UPDATE charges SET kind = 'gift' WHERE kind = 'charge'",
        "UPDATE charges SET job = x'00' WHERE kind = 'charge'",
        "DELETE FROM charges WHERE sequence = 5",
        "DELETE FROM charges WHERE sequence = 0",
        "DROP TABLE charges",
    ] {
        let (_folder, path) = place();
        begin(&path).await;
        let ledger = open(&path, "8", &[]).await.unwrap();
        ledger
            .charge([3; 32], [101; 32], &round(), now())
            .await
            .unwrap();
        tamper(&path, sql).await;
        let opened = open(&path, "8", &[]).await;
        assert!(matches!(opened, Err(Error::Malformed(_))), "{sql}");
    }
}

#[tokio::test]
async fn a_layout_to_come_is_refused() {
    let (_folder, path) = place();
    begin(&path).await;
    tamper(&path, "PRAGMA user_version = 3").await;
    let said = open(&path, "8", &[]).await.err().unwrap().to_string();
    assert_eq!(said, "a ledger of layout 3; this program knows 2");
}
