//! The ledger on a disk: what it lets through, what it remembers, what it notices.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ciphertune_ledger::{Budget, Error, Ledger, Rho};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;

const JOB: [u8; 32] = [1; 32];
const OTHER_JOB: [u8; 32] = [2; 32];

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.sqlite");
    (folder, path)
}

fn rho(units: u64) -> Rho {
    Rho::from_units(units).unwrap()
}

fn context(number: u8) -> [u8; 32] {
    [100 + number; 32]
}

async fn open(path: &Path, units: u64) -> Ledger {
    Ledger::open(path, "wards", Budget::Private(rho(units)), now())
        .await
        .unwrap()
}

/// Runs SQL behind the ledger's back.
async fn tamper(path: &Path, sql: &'static str) {
    let mut connection = SqliteConnectOptions::new()
        .filename(path)
        .connect()
        .await
        .unwrap();
    assert!(
        sqlx::query(sql)
            .execute(&mut connection)
            .await
            .unwrap()
            .rows_affected()
            > 0,
        "{sql}"
    );
    connection.close().await.unwrap();
}

#[tokio::test]
async fn charges_add_up_to_the_budget_and_not_beyond() {
    let (_folder, path) = place();
    let ledger = open(&path, 100).await;
    for round in 0..3 {
        let charged = ledger
            .charge(JOB, context(round), rho(30), now())
            .await
            .unwrap();
        assert_eq!(charged.context(), &context(round));
        assert_eq!(charged.ledger_head(), &ledger.head().await.unwrap());
    }
    assert_eq!(ledger.spent().await.unwrap(), rho(90));
    assert!(matches!(
        ledger.charge(JOB, context(3), rho(11), now()).await,
        Err(Error::Refused(_))
    ));
    ledger
        .charge(JOB, context(4), rho(10), now())
        .await
        .unwrap();
    assert!(matches!(
        ledger.charge(JOB, context(5), rho(1), now()).await,
        Err(Error::Refused(_))
    ));
    assert_eq!(ledger.spent().await.unwrap(), rho(100));
}

#[tokio::test]
async fn a_refusal_says_the_cost_what_is_left_and_how_many_rounds_still_fit() {
    let (_folder, path) = place();
    let budget = Budget::Private(Rho::budget(1.0).unwrap());
    let ledger = Ledger::open(&path, "wards", budget, now()).await.unwrap();
    ledger
        .charge(JOB, context(0), Rho::cost(0.625).unwrap(), now())
        .await
        .unwrap();
    let said = ledger
        .charge(JOB, context(1), Rho::cost(0.5).unwrap(), now())
        .await
        .unwrap_err()
        .to_string();
    let expected = "the round would cost ρ = 0.500000, and ρ = 0.375000 is left for dataset \"wards\": 0 such rounds still fit";
    assert_eq!(said, expected);
}

#[tokio::test]
async fn charging_a_context_again_costs_nothing_and_otherwise_is_refused() {
    let (_folder, path) = place();
    let ledger = open(&path, 100).await;
    ledger
        .charge(JOB, context(0), rho(60), now())
        .await
        .unwrap();
    let head = ledger.head().await.unwrap();
    let again = ledger
        .charge(JOB, context(0), rho(60), now() + Duration::from_secs(9))
        .await
        .unwrap();
    assert_eq!(again.cost(), rho(60));
    assert_eq!(ledger.spent().await.unwrap(), rho(60));
    assert_eq!(ledger.head().await.unwrap(), head, "no second entry");
    assert!(matches!(
        ledger.charge(JOB, context(0), rho(59), now()).await,
        Err(Error::Refused(_))
    ));
    assert!(matches!(
        ledger.charge(OTHER_JOB, context(0), rho(60), now()).await,
        Err(Error::Refused(_))
    ));
}

#[tokio::test]
async fn the_spend_outlives_the_process() {
    let (_folder, path) = place();
    let ledger = open(&path, 100).await;
    ledger
        .charge(JOB, context(0), rho(70), now())
        .await
        .unwrap();
    let head = ledger.head().await.unwrap();
    // Not closed: what was returned must be on the disk already.
    let later = open(&path, 100).await;
    assert_eq!(
        (later.spent().await.unwrap(), later.head().await.unwrap()),
        (rho(70), head)
    );
    drop(ledger);
    assert!(later.charge(JOB, context(0), rho(70), now()).await.is_ok());
    assert!(matches!(
        later.charge(JOB, context(1), rho(31), now()).await,
        Err(Error::Refused(_))
    ));
}

#[tokio::test]
async fn concurrent_openings_spend_one_budget() {
    let (_folder, path) = place();
    drop(open(&path, 100).await);
    let mut tasks = Vec::new();
    for number in 0..8 {
        let path = path.clone();
        tasks.push(tokio::spawn(async move {
            let ledger = open(&path, 100).await;
            let mut granted = 0;
            for round in 0..4 {
                granted += u64::from(
                    ledger
                        .charge(JOB, context(number * 4 + round), rho(10), now())
                        .await
                        .is_ok(),
                );
            }
            granted
        }));
    }
    let mut granted = 0;
    for task in tasks {
        granted += task.await.unwrap();
    }
    assert_eq!(granted, 10);
    assert_eq!(open(&path, 100).await.spent().await.unwrap(), rho(100));
}

#[tokio::test]
async fn a_budget_can_be_lowered_and_never_raised() {
    let (_folder, path) = place();
    drop(open(&path, 100).await);
    let raised = Ledger::open(&path, "wards", Budget::Private(rho(101)), now()).await;
    let said = raised.err().unwrap().to_string();
    assert!(said.contains("cannot be raised"), "{said}");
    let lowered = open(&path, 50).await;
    assert!(
        lowered
            .charge(JOB, context(0), rho(51), now())
            .await
            .is_err()
    );
    drop(lowered);
    assert!(matches!(
        Ledger::open(&path, "wards", Budget::Private(rho(100)), now()).await,
        Err(Error::Refused(_))
    ));
    assert_eq!(
        open(&path, 50).await.standing().await.unwrap().budget,
        Some(rho(50))
    );
}

#[tokio::test]
async fn a_reservation_keeps_other_jobs_out_and_its_own_charges_come_from_it() {
    let (_folder, path) = place();
    let ledger = open(&path, 100).await;
    ledger.reserve(JOB, rho(80), now()).await.unwrap();
    ledger.reserve(JOB, rho(80), now()).await.unwrap();
    assert!(matches!(
        ledger.reserve(JOB, rho(70), now()).await,
        Err(Error::Refused(_))
    ));
    assert!(matches!(
        ledger.reserve(OTHER_JOB, rho(21), now()).await,
        Err(Error::Refused(_))
    ));
    assert!(matches!(
        ledger.charge(OTHER_JOB, context(0), rho(21), now()).await,
        Err(Error::Refused(_))
    ));
    ledger
        .charge(JOB, context(1), rho(80), now())
        .await
        .unwrap();
    ledger
        .charge(OTHER_JOB, context(2), rho(20), now())
        .await
        .unwrap();
    let standing = ledger.standing().await.unwrap();
    assert_eq!((standing.spent, standing.held), (rho(100), rho(100)));
}

#[tokio::test]
async fn ending_a_job_frees_what_it_reserved_and_refunds_nothing() {
    let (_folder, path) = place();
    let ledger = open(&path, 100).await;
    ledger.reserve(JOB, rho(100), now()).await.unwrap();
    ledger
        .charge(JOB, context(0), rho(40), now())
        .await
        .unwrap();
    ledger.end(JOB, now()).await.unwrap();
    ledger.end(JOB, now()).await.unwrap();
    let standing = ledger.standing().await.unwrap();
    assert_eq!((standing.spent, standing.held), (rho(40), rho(40)));
    assert!(matches!(
        ledger.charge(JOB, context(1), rho(1), now()).await,
        Err(Error::Refused(_))
    ));
    assert!(matches!(
        ledger.reserve(JOB, rho(1), now()).await,
        Err(Error::Refused(_))
    ));
    assert!(matches!(
        ledger.reserve(OTHER_JOB, rho(61), now()).await,
        Err(Error::Refused(_))
    ));
    ledger.reserve(OTHER_JOB, rho(60), now()).await.unwrap();
}

#[tokio::test]
async fn datasets_have_budgets_of_their_own_in_one_file() {
    let (_folder, path) = place();
    let wards = open(&path, 100).await;
    wards
        .charge(JOB, context(0), rho(100), now())
        .await
        .unwrap();
    let clinics = Ledger::open(&path, "clinics", Budget::Private(rho(30)), now())
        .await
        .unwrap();
    clinics
        .charge(JOB, context(0), rho(30), now())
        .await
        .unwrap();
    assert_eq!(
        (wards.spent().await.unwrap(), clinics.spent().await.unwrap()),
        (rho(100), rho(30))
    );
    assert_eq!(wards.head().await.unwrap(), clinics.head().await.unwrap());
}

#[tokio::test]
async fn use_without_privacy_is_marked_for_ever() {
    let (_folder, path) = place();
    let bare = Ledger::open(&path, "wards", Budget::NoPrivacy, now())
        .await
        .unwrap();
    let charged = bare
        .charge(JOB, context(0), Rho::ZERO, now())
        .await
        .unwrap();
    assert_eq!(charged.cost(), Rho::ZERO);
    assert!(matches!(
        bare.charge(JOB, context(1), rho(1), now()).await,
        Err(Error::Misuse(_))
    ));
    drop(bare);
    let private = open(&path, 100).await;
    let standing = private.standing().await.unwrap();
    assert!(standing.without_privacy);
    assert_eq!(standing.budget, Some(rho(100)));
    assert!(matches!(
        private.charge(JOB, context(2), Rho::ZERO, now()).await,
        Err(Error::Misuse(_))
    ));
    drop(private);
    let again = Ledger::open(&path, "wards", Budget::NoPrivacy, now())
        .await
        .unwrap();
    assert_eq!(
        again.standing().await.unwrap().budget,
        Some(rho(100)),
        "the mark leaves the budget as it is"
    );
}

#[tokio::test]
async fn a_dataset_used_with_privacy_alone_carries_no_mark() {
    let (_folder, path) = place();
    let ledger = open(&path, 100).await;
    ledger.charge(JOB, context(0), rho(1), now()).await.unwrap();
    assert!(!ledger.standing().await.unwrap().without_privacy);
}

#[tokio::test]
async fn any_changed_entry_is_noticed_on_opening() {
    for sql in [
        "UPDATE charges SET rho = 1 WHERE kind = 'charge'",
        "UPDATE charges SET rho = 1000 WHERE kind = 'budget'",
        "UPDATE charges SET kind = 'end' WHERE kind = 'charge'",
        "UPDATE charges SET kind = 'gift' WHERE kind = 'charge'",
        "UPDATE charges SET dataset = 'elsewhere' WHERE kind = 'charge'",
        "UPDATE charges SET context = zeroblob(32) WHERE kind = 'charge'",
        "UPDATE charges SET job = x'00' WHERE kind = 'charge'",
        "UPDATE charges SET time = time + 1 WHERE sequence = 1",
        "UPDATE charges SET hash = zeroblob(32) WHERE sequence = 2",
        "UPDATE charges SET sequence = 9 WHERE sequence = 2",
        "DELETE FROM charges WHERE sequence = 1",
        "DELETE FROM charges WHERE sequence = 0",
        "UPDATE charges SET rho = -5 WHERE sequence = 1",
    ] {
        let (_folder, path) = place();
        let ledger = open(&path, 100).await;
        ledger
            .charge(JOB, context(0), rho(10), now())
            .await
            .unwrap();
        ledger
            .charge(JOB, context(1), rho(20), now())
            .await
            .unwrap();
        tamper(&path, sql).await;
        let reopened = Ledger::open(&path, "wards", Budget::Private(rho(100)), now()).await;
        assert!(matches!(reopened, Err(Error::Malformed(_))), "{sql}");
        let live = ledger.charge(JOB, context(2), rho(1), now()).await;
        assert!(matches!(live, Err(Error::Malformed(_))), "{sql}");
    }
}

#[tokio::test]
async fn a_chain_that_lost_its_end_is_noticed_by_whoever_saw_it_longer() {
    let (_folder, path) = place();
    let ledger = open(&path, 100).await;
    ledger
        .charge(JOB, context(0), rho(10), now())
        .await
        .unwrap();
    ledger
        .charge(JOB, context(1), rho(10), now())
        .await
        .unwrap();
    let head = ledger.head().await.unwrap();
    tamper(&path, "DELETE FROM charges WHERE sequence = 2").await;
    let said = ledger
        .charge(JOB, context(2), rho(1), now())
        .await
        .unwrap_err()
        .to_string();
    assert!(said.contains("went back"), "{said}");
    // A shorter chain is whole in itself: only its head, which others have seen, tells.
    assert_ne!(open(&path, 100).await.head().await.unwrap(), head);
}

#[tokio::test]
async fn a_refused_charge_leaves_no_entry() {
    let (_folder, path) = place();
    let ledger = open(&path, 100).await;
    let head = ledger.head().await.unwrap();
    assert!(
        ledger
            .charge(JOB, context(0), rho(101), now())
            .await
            .is_err()
    );
    assert!(ledger.reserve(JOB, rho(101), now()).await.is_err());
    assert_eq!(ledger.head().await.unwrap(), head);
}

#[tokio::test]
async fn other_files_and_names_are_refused() {
    let (folder, path) = place();
    std::fs::write(
        &path,
        "not a database, but long enough to be taken for one".repeat(20),
    )
    .unwrap();
    let opened = Ledger::open(&path, "wards", Budget::NoPrivacy, now()).await;
    assert!(
        matches!(opened, Err(Error::Malformed(_))),
        "{:?}",
        opened.err()
    );
    let fresh = folder.path().join("fresh.sqlite");
    assert!(matches!(
        Ledger::open(&fresh, "", Budget::NoPrivacy, now()).await,
        Err(Error::Misuse(_))
    ));
    assert!(matches!(
        Ledger::open(&fresh, "x", Budget::Private(Rho::ZERO), now()).await,
        Err(Error::Misuse(_))
    ));
    let absent = folder.path().join("absent/ledger.sqlite");
    assert!(matches!(
        Ledger::open(&absent, "x", Budget::NoPrivacy, now()).await,
        Err(Error::Fault(_))
    ));
}

#[cfg(unix)]
#[tokio::test]
async fn the_files_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, path) = place();
    let ledger = open(&path, 100).await;
    ledger.charge(JOB, context(0), rho(1), now()).await.unwrap();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(
            entry.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{:?}",
            entry.file_name()
        );
    }
}
