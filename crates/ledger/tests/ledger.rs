//! The ledger on a disk: what it lets through, what it remembers, what it notices.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ciphertune_dp::accounting::{self, Accountant};
use ciphertune_dp::{FrozenSchedule, SamplingRate, rdp::Curve};
use ciphertune_ledger::{Book, Budget, Cost, Data, Error, Hides, Ledger, Settlement};
use ciphertune_policy::{Adjacency, Decimal, Loss, Unit};
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

fn loss(epsilon: &str) -> Loss {
    Loss {
        epsilon: epsilon.parse().unwrap(),
        delta: "1e-5".parse().unwrap(),
    }
}

/// The budget of these tests.
fn budget() -> Budget {
    Budget::Private(loss("8"))
}

/// So many hundredths of [`budget`], as calibration has it.
fn cost(hundredths: u64) -> Cost {
    round_of("8", 100).times(hundredths)
}

/// What one of so many rounds costs that are calibrated for an epsilon.
fn round_of(epsilon: &str, rounds: u32) -> Cost {
    let (whole, zero_out) = (SamplingRate::WHOLE, Adjacency::ZeroOut);
    let Loss { epsilon, delta } = loss(epsilon);
    let multiplier: Decimal =
        accounting::calibrate(Accountant::Rdp, &epsilon, &delta, whole, rounds, zero_out).unwrap();
    let round = FrozenSchedule::planned(whole, &multiplier, 1, zero_out).unwrap();
    Cost::of(&Curve::of(&round)).unwrap()
}

fn settled(cost: Cost) -> Settlement {
    Settlement {
        cost,
        roster: [7; 32],
        certificate: [8; 32],
    }
}

fn context(number: u8) -> [u8; 32] {
    [100 + number; 32]
}

async fn open(path: &Path) -> Ledger {
    open_under(path, budget()).await.unwrap()
}

async fn open_under(path: &Path, budget: Budget) -> Result<Ledger, Error> {
    Ledger::open(path, "wards", budget, &[], now()).await
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

fn file(salt: u8, number: u8) -> Option<Data> {
    Some(Data {
        salt: [salt; 32],
        sha256: [number; 32],
    })
}

#[tokio::test]
async fn another_file_under_the_same_name_is_noted_and_opens_no_new_budget() {
    let (_folder, path) = place();
    let ledger = open(&path).await.on_data(file(1, 1));
    let reserved = ledger.reserve(JOB, &cost(1), 60, now()).await.unwrap();
    let length = entries(&path).await;
    // The same file again, though with another salt: nothing to note.
    let ledger = ledger.on_data(file(2, 1));
    assert_eq!(
        ledger.reserve(JOB, &cost(1), 60, now()).await.unwrap(),
        reserved
    );
    assert_eq!(entries(&path).await, length);
    // A job that is refused notes nothing; another file, in the same job too, is noted.
    let ledger = ledger.on_data(file(3, 2));
    let more = ledger.reserve(OTHER_JOB, &cost(1), 41, now()).await;
    assert!(matches!(more, Err(Error::Refused(_))), "{more:?}");
    assert_eq!(ledger.standing().await.unwrap().data, Some([1; 32]));
    assert_eq!(
        ledger.reserve(JOB, &cost(1), 60, now()).await.unwrap(),
        reserved
    );
    assert_eq!(ledger.standing().await.unwrap().data, Some([2; 32]));
    drop(ledger);
    tamper(
        &path,
        "UPDATE entries SET evidence = x'03' WHERE kind = 'data'",
    )
    .await;
    assert!(matches!(
        open_under(&path, budget()).await,
        Err(Error::Malformed(_))
    ));
}

#[tokio::test]
async fn heads_of_ledgers_of_the_same_file_differ_by_their_salt() {
    let mut heads = Vec::new();
    for salt in [1, 2] {
        let (_folder, path) = place();
        let ledger = open(&path).await.on_data(file(salt, 7));
        heads.push(ledger.reserve(JOB, &cost(1), 1, now()).await.unwrap());
    }
    assert_ne!(heads[0], heads[1]);
    assert_eq!(format!("{:?}", file(1, 7).unwrap()), "Data { .. }");
}

async fn entries(path: &Path) -> usize {
    let book = Book::read(path, &[]).await.unwrap();
    book.entries("wards").count()
}

#[tokio::test]
async fn charges_add_up_to_the_budget_and_not_beyond() {
    let (_folder, path) = place();
    let ledger = open(&path).await;
    for round in 0..3 {
        let charged = ledger
            .charge(JOB, context(round), &cost(30), now())
            .await
            .unwrap();
        assert_eq!(charged.context(), &context(round));
        assert_eq!(charged.ledger_head(), &ledger.head().await.unwrap());
    }
    assert_eq!(ledger.spent().await.unwrap(), cost(90));
    assert!(matches!(
        ledger.charge(JOB, context(3), &cost(11), now()).await,
        Err(Error::Refused(_))
    ));
    ledger
        .charge(JOB, context(4), &cost(10), now())
        .await
        .unwrap();
    assert!(matches!(
        ledger.charge(JOB, context(5), &cost(1), now()).await,
        Err(Error::Refused(_))
    ));
    assert_eq!(ledger.spent().await.unwrap(), cost(100));
}

#[tokio::test]
async fn a_refusal_says_the_cost_what_is_left_and_how_many_rounds_still_fit() {
    let (_folder, path) = place();
    let ledger = open(&path).await;
    ledger
        .charge(JOB, context(0), &cost(62), now())
        .await
        .unwrap();
    let limit = ledger.standing().await.unwrap().limit.unwrap();
    // Three places, cut off.
    let shown = |units: u64| format!("{:.3}", (units as f64 / 2_f64.powi(40) * 1e3).floor() / 1e3);
    let said = ledger
        .charge(JOB, context(1), &cost(51), now())
        .await
        .unwrap_err()
        .to_string();
    let (one, left) = (
        limit.cost_of(&cost(51)),
        limit.units() - limit.cost_of(&cost(62)),
    );
    for part in [
        format!("the round would cost {}", shown(one)),
        format!(", and {}", shown(left)),
        " is left for dataset \"wards\", whose budget is epsilon = 8 at delta = 1e-5, which is "
            .into(),
        format!(" at Rényi order {}: 0 such rounds still fit", limit.order()),
    ] {
        assert!(said.contains(&part), "{part}: {said}");
    }
    let said = ledger
        .reserve(OTHER_JOB, &cost(9), 5, now())
        .await
        .unwrap_err()
        .to_string();
    assert!(
        said.contains("in the worst case (5 attempts), and "),
        "{said}"
    );
    assert!(said.ends_with(": 4 such rounds still fit"), "{said}");
}

#[tokio::test]
async fn charging_a_context_again_costs_nothing_and_otherwise_is_refused() {
    let (_folder, path) = place();
    let ledger = open(&path).await;
    ledger
        .charge(JOB, context(0), &cost(60), now())
        .await
        .unwrap();
    let head = ledger.head().await.unwrap();
    let again = ledger
        .charge(JOB, context(0), &cost(60), now() + Duration::from_secs(9))
        .await
        .unwrap();
    assert_eq!(again.cost(), &cost(60));
    assert_eq!(ledger.spent().await.unwrap(), cost(60));
    assert_eq!(ledger.head().await.unwrap(), head, "no second entry");
    assert!(matches!(
        ledger.charge(JOB, context(0), &cost(59), now()).await,
        Err(Error::Refused(_))
    ));
    assert!(matches!(
        ledger.charge(OTHER_JOB, context(0), &cost(60), now()).await,
        Err(Error::Refused(_))
    ));
}

#[tokio::test]
async fn the_spend_outlives_the_process() {
    let (_folder, path) = place();
    let ledger = open(&path).await;
    ledger
        .charge(JOB, context(0), &cost(70), now())
        .await
        .unwrap();
    let head = ledger.head().await.unwrap();
    // Not closed: what was returned must be on the disk already.
    let later = open(&path).await;
    assert_eq!(
        (later.spent().await.unwrap(), later.head().await.unwrap()),
        (cost(70), head)
    );
    drop(ledger);
    assert!(
        later
            .charge(JOB, context(0), &cost(70), now())
            .await
            .is_ok()
    );
    assert!(matches!(
        later.charge(JOB, context(1), &cost(31), now()).await,
        Err(Error::Refused(_))
    ));
}

#[tokio::test]
async fn concurrent_openings_spend_one_budget() {
    let (_folder, path) = place();
    drop(open(&path).await);
    let mut tasks = Vec::new();
    for number in 0..8 {
        let path = path.clone();
        tasks.push(tokio::spawn(async move {
            let ledger = open(&path).await;
            let mut granted = 0;
            for round in 0..4 {
                granted += u64::from(
                    ledger
                        .charge(JOB, context(number * 4 + round), &cost(10), now())
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
    assert_eq!(open(&path).await.spent().await.unwrap(), cost(100));
}

#[tokio::test]
async fn a_budget_can_be_lowered_and_never_raised() {
    let (_folder, path) = place();
    // Nothing was used: nothing is fixed.
    let ledger = open_under(&path, Budget::Private(loss("9"))).await.unwrap();
    assert_eq!(ledger.standing().await.unwrap().limit, None);
    let ledger = open(&path).await;
    ledger
        .charge(JOB, context(0), &cost(10), now())
        .await
        .unwrap();
    let fixed = ledger.standing().await.unwrap().limit.unwrap();
    assert_eq!(fixed.loss(), loss("8"));

    let likelier = Loss {
        delta: "1.1e-5".parse().unwrap(),
        ..loss("4")
    };
    for raised in [loss("8.001"), likelier] {
        let raised = open_under(&path, Budget::Private(raised)).await;
        let said = raised.err().unwrap().to_string();
        assert!(said.contains("cannot be raised"), "{said}");
    }
    let lower = open_under(&path, Budget::Private(loss("4"))).await.unwrap();
    let limit = lower.standing().await.unwrap().limit.unwrap();
    assert_eq!((limit.loss(), limit.order()), (loss("4"), fixed.order()));
    assert!(limit.units() < fixed.units());
    for ledger in [&lower, &ledger] {
        // Also whoever opened it before it was lowered is held to it.
        let charged = ledger.charge(JOB, context(1), &cost(60), now()).await;
        assert!(matches!(charged, Err(Error::Refused(_))), "{charged:?}");
    }
    drop(lower);
    assert!(matches!(
        open_under(&path, budget()).await,
        Err(Error::Refused(_))
    ));
    let again = open_under(&path, Budget::Private(loss("4"))).await.unwrap();
    assert_eq!(again.standing().await.unwrap().limit, Some(limit));
}

#[tokio::test]
async fn a_budget_that_was_opened_under_a_stricter_policy_meanwhile_is_lowered_by_the_next_use() {
    let (_folder, path) = place();
    let strict = open_under(&path, Budget::Private(loss("4"))).await.unwrap();
    let ledger = open(&path).await;
    ledger
        .charge(JOB, context(0), &cost(5), now())
        .await
        .unwrap();
    strict
        .charge(JOB, context(1), &cost(5), now())
        .await
        .unwrap();
    let limit = ledger.standing().await.unwrap().limit.unwrap();
    assert_eq!(limit.loss(), loss("4"));
}

#[tokio::test]
async fn the_first_job_opens_the_budget_at_the_order_that_suits_it() {
    let (_folder, path) = place();
    let ledger = open(&path).await;
    // As many rounds as were calibrated for: not one is lost to the order or to rounding.
    ledger.reserve(JOB, &cost(1), 100, now()).await.unwrap();
    let limit = ledger.standing().await.unwrap().limit.unwrap();
    ledger.end(JOB, now()).await.unwrap();
    assert!(
        ledger
            .reserve(OTHER_JOB, &cost(1), 101, now())
            .await
            .is_err()
    );
    // A use of another kind, later, does not move it.
    let wide = round_of("0.5", 1);
    ledger
        .charge([3; 32], context(1), &wide, now())
        .await
        .unwrap();
    assert_eq!(ledger.standing().await.unwrap().limit, Some(limit));
}

#[tokio::test]
async fn a_job_that_is_refused_opens_no_budget() {
    let (_folder, path) = place();
    let ledger = open(&path).await;
    let refused = ledger.reserve(JOB, &cost(1), 101, now()).await;
    assert!(matches!(refused, Err(Error::Refused(_))));
    assert_eq!(ledger.standing().await.unwrap().limit, None);
    assert_eq!(ledger.head().await.unwrap(), [0; 32]);
}

#[tokio::test]
async fn a_job_drafted_for_the_whole_budget_fits_it_whatever_its_epsilon_and_rounds() {
    for (epsilon, rounds) in [("0.1", 3), ("1", 50), ("8", 1), ("8", 50), ("16", 1000)] {
        let (_folder, path) = place();
        let ledger = open_under(&path, Budget::Private(loss(epsilon)))
            .await
            .unwrap();
        let one = round_of(epsilon, rounds);
        let reserved = ledger.reserve(JOB, &one, rounds.into(), now()).await;
        assert!(reserved.is_ok(), "{epsilon}, {rounds}: {reserved:?}");
    }
}

#[tokio::test]
async fn a_settled_charge_costs_less_once_and_frees_as_much_of_its_job() {
    let (_folder, path) = place();
    let ledger = open(&path).await;
    ledger.reserve(JOB, &cost(20), 5, now()).await.unwrap();
    let charged = ledger.charge(JOB, context(0), &cost(20), now()).await;
    let first = *charged.unwrap().ledger_head();
    ledger
        .charge(JOB, context(1), &cost(20), now())
        .await
        .unwrap();
    let full = ledger.reserve(OTHER_JOB, &cost(1), 1, now()).await;
    assert!(matches!(full, Err(Error::Refused(_))));

    let head = ledger
        .settle(context(0), &settled(cost(15)), now())
        .await
        .unwrap();
    assert_eq!(ledger.head().await.unwrap(), head);
    assert_eq!(
        ledger
            .settle(context(0), &settled(cost(15)), now())
            .await
            .unwrap(),
        head,
        "no second entry"
    );
    ledger
        .settle(context(1), &settled(Cost::ZERO), now())
        .await
        .unwrap();
    let standing = ledger.standing().await.unwrap();
    assert_eq!((standing.spent, standing.held), (cost(15), cost(75)));
    // The proof of the charge is given again as it was, and the job's reservation is known again.
    let again = ledger
        .charge(JOB, context(0), &cost(20), now())
        .await
        .unwrap();
    assert_eq!(again.cost(), &cost(20));
    assert_ne!(again.ledger_head(), &ledger.head().await.unwrap());
    assert_eq!(again.ledger_head(), &first);
    ledger.reserve(JOB, &cost(20), 5, now()).await.unwrap();
    ledger
        .reserve(OTHER_JOB, &cost(1), 25, now())
        .await
        .unwrap();
    let beyond = ledger.reserve([3; 32], &cost(1), 1, now()).await;
    assert!(matches!(beyond, Err(Error::Refused(_))));
    // What the job may still be charged is three attempts.
    for round in 2..5 {
        ledger
            .charge(JOB, context(round), &cost(20), now())
            .await
            .unwrap();
    }
    let sixth = ledger.charge(JOB, context(6), &cost(20), now()).await;
    assert!(matches!(sixth, Err(Error::Refused(_))));
    let later = open(&path).await.standing().await.unwrap();
    assert_eq!((later.spent, later.held), (cost(75), cost(100)));
}

#[tokio::test]
async fn a_charge_is_not_settled_twice_nor_to_more_nor_where_there_is_none() {
    let (_folder, path) = place();
    let ledger = open(&path).await;
    ledger
        .charge(JOB, context(0), &cost(20), now())
        .await
        .unwrap();
    let head = ledger.head().await.unwrap();
    for (place, settlement) in [
        (context(1), settled(cost(10))),
        (context(0), settled(cost(21))),
    ] {
        let refused = ledger.settle(place, &settlement, now()).await;
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    }
    assert_eq!(ledger.head().await.unwrap(), head);
    ledger
        .settle(context(0), &settled(cost(20)), now())
        .await
        .unwrap();
    let other_roster = Settlement {
        roster: [9; 32],
        ..settled(cost(20))
    };
    let other_certificate = Settlement {
        certificate: [9; 32],
        ..settled(cost(20))
    };
    for second in [settled(cost(10)), other_roster, other_certificate] {
        let refused = ledger.settle(context(0), &second, now()).await;
        assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    }
    assert_eq!(ledger.spent().await.unwrap(), cost(20));
    // Another dataset's charge is none of this one's.
    let clinics = Ledger::open(&path, "clinics", budget(), &[], now())
        .await
        .unwrap();
    let refused = clinics.settle(context(0), &settled(cost(20)), now()).await;
    assert!(matches!(refused, Err(Error::Refused(_))));
    let bare = open_under(&path, Budget::NoPrivacy).await.unwrap();
    let refused = bare.settle(context(0), &settled(Cost::ZERO), now()).await;
    assert!(matches!(refused, Err(Error::Misuse(_))));
}

#[tokio::test]
async fn a_reservation_keeps_other_jobs_out_and_its_own_charges_come_from_it() {
    let (_folder, path) = place();
    let ledger = open(&path).await;
    ledger.reserve(JOB, &cost(1), 80, now()).await.unwrap();
    ledger.reserve(JOB, &cost(1), 80, now()).await.unwrap();
    assert!(matches!(
        ledger.reserve(JOB, &cost(1), 70, now()).await,
        Err(Error::Refused(_))
    ));
    assert!(matches!(
        ledger.reserve(OTHER_JOB, &cost(1), 21, now()).await,
        Err(Error::Refused(_))
    ));
    assert!(matches!(
        ledger.charge(OTHER_JOB, context(0), &cost(21), now()).await,
        Err(Error::Refused(_))
    ));
    ledger
        .charge(JOB, context(1), &cost(80), now())
        .await
        .unwrap();
    ledger
        .charge(OTHER_JOB, context(2), &cost(20), now())
        .await
        .unwrap();
    let standing = ledger.standing().await.unwrap();
    assert_eq!((standing.spent, standing.held), (cost(100), cost(100)));
}

#[tokio::test]
async fn ending_a_job_frees_what_it_reserved_and_refunds_nothing() {
    let (_folder, path) = place();
    let ledger = open(&path).await;
    ledger.reserve(JOB, &cost(1), 100, now()).await.unwrap();
    ledger
        .charge(JOB, context(0), &cost(40), now())
        .await
        .unwrap();
    ledger.end(JOB, now()).await.unwrap();
    ledger.end(JOB, now()).await.unwrap();
    let standing = ledger.standing().await.unwrap();
    assert_eq!((standing.spent, standing.held), (cost(40), cost(40)));
    assert!(matches!(
        ledger.charge(JOB, context(1), &cost(1), now()).await,
        Err(Error::Refused(_))
    ));
    assert!(matches!(
        ledger.reserve(JOB, &cost(1), 1, now()).await,
        Err(Error::Refused(_))
    ));
    assert!(matches!(
        ledger.reserve(OTHER_JOB, &cost(1), 61, now()).await,
        Err(Error::Refused(_))
    ));
    ledger
        .reserve(OTHER_JOB, &cost(1), 60, now())
        .await
        .unwrap();
}

#[tokio::test]
async fn datasets_have_budgets_of_their_own_in_one_file() {
    let (_folder, path) = place();
    let wards = open(&path).await;
    wards
        .charge(JOB, context(0), &cost(100), now())
        .await
        .unwrap();
    let clinics = Ledger::open(&path, "clinics", Budget::Private(loss("4")), &[], now())
        .await
        .unwrap();
    clinics
        .charge(JOB, context(0), &cost(30), now())
        .await
        .unwrap();
    assert_eq!(
        (wards.spent().await.unwrap(), clinics.spent().await.unwrap()),
        (cost(100), cost(30))
    );
    assert_eq!(wards.head().await.unwrap(), clinics.head().await.unwrap());
}

#[tokio::test]
async fn use_without_privacy_is_marked_for_ever() {
    let (_folder, path) = place();
    let bare = Ledger::open(&path, "wards", Budget::NoPrivacy, &[], now())
        .await
        .unwrap();
    let charged = bare
        .charge(JOB, context(0), &Cost::ZERO, now())
        .await
        .unwrap();
    assert_eq!(charged.cost(), &Cost::ZERO);
    assert!(matches!(
        bare.charge(JOB, context(1), &cost(1), now()).await,
        Err(Error::Misuse(_))
    ));
    drop(bare);
    let private = open(&path).await;
    let standing = private.standing().await.unwrap();
    assert!(standing.without_privacy);
    private
        .charge(JOB, context(3), &cost(1), now())
        .await
        .unwrap();
    assert!(matches!(
        private.charge(JOB, context(2), &Cost::ZERO, now()).await,
        Err(Error::Misuse(_))
    ));
    drop(private);
    let again = Ledger::open(&path, "wards", Budget::NoPrivacy, &[], now())
        .await
        .unwrap();
    let limit = again.standing().await.unwrap().limit;
    assert_eq!(
        limit.map(|limit| limit.loss()),
        Some(loss("8")),
        "the mark leaves the budget as it is"
    );
}

#[tokio::test]
async fn a_dataset_used_with_privacy_alone_carries_no_mark() {
    let (_folder, path) = place();
    let ledger = open(&path).await;
    ledger
        .charge(JOB, context(0), &cost(1), now())
        .await
        .unwrap();
    assert!(!ledger.standing().await.unwrap().without_privacy);
}

#[tokio::test]
async fn any_changed_entry_is_noticed_on_opening() {
    for sql in [
        "UPDATE entries SET cost = zeroblob(592) WHERE kind = 'charge'",
        "UPDATE entries SET cost = zeroblob(591) WHERE kind = 'charge'",
        "UPDATE entries SET cost = zeroblob(592) WHERE kind = 'settle'",
        "UPDATE entries SET budget = replace(budget, '8 ', '9 ') WHERE kind = 'budget'",
        "UPDATE entries SET budget = '8 1e-5 4 100' WHERE kind = 'charge'",
        "UPDATE entries SET evidence = zeroblob(64) WHERE kind = 'settle'",
        "UPDATE entries SET evidence = zeroblob(63) WHERE kind = 'settle'",
        "UPDATE entries SET evidence = zeroblob(64) WHERE kind = 'charge'",
        "UPDATE entries SET kind = 'end' WHERE kind = 'charge'",
        "UPDATE entries SET kind = 'gift' WHERE kind = 'charge'",
        "UPDATE entries SET dataset = 'elsewhere' WHERE kind = 'charge'",
        "UPDATE entries SET context = zeroblob(32) WHERE kind = 'charge'",
        "UPDATE entries SET job = x'00' WHERE kind = 'charge'",
        "UPDATE entries SET time = time + 1 WHERE sequence = 1",
        "UPDATE entries SET hash = zeroblob(32) WHERE sequence = 2",
        "UPDATE entries SET sequence = 9 WHERE sequence = 2",
        "DELETE FROM entries WHERE sequence = 1",
        "DELETE FROM entries WHERE sequence = 0",
    ] {
        let (_folder, path) = place();
        let ledger = open(&path).await;
        ledger
            .charge(JOB, context(0), &cost(10), now())
            .await
            .unwrap();
        ledger
            .charge(JOB, context(1), &cost(20), now())
            .await
            .unwrap();
        ledger
            .settle(context(1), &settled(cost(5)), now())
            .await
            .unwrap();
        tamper(&path, sql).await;
        let reopened = open_under(&path, budget()).await;
        assert!(matches!(reopened, Err(Error::Malformed(_))), "{sql}");
        let live = ledger.charge(JOB, context(2), &cost(1), now()).await;
        assert!(matches!(live, Err(Error::Malformed(_))), "{sql}");
    }
}

#[tokio::test]
async fn a_chain_that_lost_its_end_is_noticed_by_whoever_saw_it_longer() {
    let (_folder, path) = place();
    let ledger = open(&path).await;
    ledger
        .charge(JOB, context(0), &cost(10), now())
        .await
        .unwrap();
    ledger
        .charge(JOB, context(1), &cost(10), now())
        .await
        .unwrap();
    let head = ledger.head().await.unwrap();
    tamper(&path, "DELETE FROM entries WHERE sequence = 2").await;
    let said = ledger
        .charge(JOB, context(2), &cost(1), now())
        .await
        .unwrap_err()
        .to_string();
    assert!(said.contains("went back"), "{said}");
    // A shorter chain is whole in itself: only its head tells, to those who have seen it.
    assert_ne!(open(&path).await.head().await.unwrap(), head);
    let opened = Ledger::open(&path, "wards", budget(), &[head], now()).await;
    let said = opened.err().unwrap().to_string();
    assert!(said.contains("Put the newest ledger back"), "{said}");
}

#[tokio::test]
async fn a_refused_charge_leaves_no_entry() {
    let (_folder, path) = place();
    let ledger = open(&path).await;
    let head = ledger.head().await.unwrap();
    assert!(
        ledger
            .charge(JOB, context(0), &cost(101), now())
            .await
            .is_err()
    );
    assert!(ledger.reserve(JOB, &cost(1), 101, now()).await.is_err());
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
    let opened = Ledger::open(&path, "wards", Budget::NoPrivacy, &[], now()).await;
    assert!(
        matches!(opened, Err(Error::Malformed(_))),
        "{:?}",
        opened.err()
    );
    let fresh = folder.path().join("fresh.sqlite");
    assert!(matches!(
        Ledger::open(&fresh, "", Budget::NoPrivacy, &[], now()).await,
        Err(Error::Misuse(_))
    ));
    for nothing in [("0", "1e-5"), ("1", "0"), ("1", "1")] {
        let nothing = Loss {
            epsilon: nothing.0.parse().unwrap(),
            delta: nothing.1.parse().unwrap(),
        };
        assert!(matches!(
            Ledger::open(&fresh, "x", Budget::Private(nothing), &[], now()).await,
            Err(Error::Misuse(_))
        ));
    }
    let absent = folder.path().join("absent/ledger.sqlite");
    assert!(matches!(
        Ledger::open(&absent, "x", Budget::NoPrivacy, &[], now()).await,
        Err(Error::Fault(_))
    ));
}

#[cfg(unix)]
#[tokio::test]
async fn the_files_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (folder, path) = place();
    let ledger = open(&path).await;
    ledger
        .charge(JOB, context(0), &cost(1), now())
        .await
        .unwrap();
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

/// What was charged for one unit says nothing of another, and zero-out is a quarter of replace-one.
#[tokio::test]
async fn a_budget_hides_what_it_was_first_used_for_and_nothing_else() {
    let (_folder, path) = place();
    let hides = |unit, adjacency| Hides { unit, adjacency };
    let first = hides(Unit::Institution, Adjacency::ZeroOut);
    let others = [
        hides(Unit::Record, Adjacency::ZeroOut),
        hides(Unit::Institution, Adjacency::ReplaceOne),
    ];
    // Opened before anything was used: nothing is fixed yet.
    let early = open(&path).await.hiding(others[0]).await.unwrap();
    let ledger = open(&path).await.hiding(first).await.unwrap();
    ledger.reserve(JOB, &cost(1), 10, now()).await.unwrap();
    ledger
        .charge(JOB, context(0), &cost(1), now())
        .await
        .unwrap();
    let late = early.reserve(OTHER_JOB, &cost(1), 1, now()).await;
    let late = late.err().unwrap().to_string();
    assert!(late.contains("cannot go on with \"record\""), "{late}");
    assert!(matches!(
        early.charge(OTHER_JOB, context(1), &cost(1), now()).await,
        Err(Error::Refused(_))
    ));
    for other in others {
        let said = open(&path).await.hiding(other).await.err().unwrap();
        assert!(matches!(said, Error::Refused(_)), "{said}");
    }
    let again = open(&path).await.hiding(first).await.unwrap();
    again
        .charge(JOB, context(1), &cost(1), now())
        .await
        .unwrap();
    assert_eq!(again.spent().await.unwrap(), cost(2));
}
