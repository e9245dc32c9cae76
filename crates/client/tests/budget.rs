//! `ciphertune budget`: what it says is what the ledger holds, and would grant.

use std::{
    path::Path,
    process::{Command, Output},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ciphertune_audit::Log;
use ciphertune_dp::{FrozenSchedule, SamplingRate, rdp::Curve};
use ciphertune_ledger::{Budget, Cost, Data, Error, Hides, Ledger, Settlement, UNITS};
use ciphertune_policy::{Adjacency, Loss, Unit};
use ciphertune_round::Digest;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

const JOB: [u8; 32] = [1; 32];
const OTHER_JOB: [u8; 32] = [11; 32];
const THIRD_JOB: [u8; 32] = [12; 32];

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

fn budget(home: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ciphertune"))
        .current_dir(root())
        .env("CIPHERTUNE_HOME", home)
        .arg("budget")
        .args(arguments)
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    let lines = said(output);
    let parse = |line| serde_json::from_str(line).unwrap();
    lines.lines().map(parse).collect()
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_700_000_000)
}

/// What policies/institution-research.toml allows a dataset.
fn loss() -> Loss {
    Loss {
        epsilon: "16".parse().unwrap(),
        delta: "2e-5".parse().unwrap(),
    }
}

async fn open(home: &Path, dataset: &str, budget: Budget) -> Ledger {
    let path = home.join("ledger.sqlite");
    Ledger::open(path, dataset, budget, &[], now())
        .await
        .unwrap()
}

fn cost(multiplier: &str) -> Cost {
    let multiplier = multiplier.parse().unwrap();
    let step = FrozenSchedule::planned(SamplingRate::WHOLE, &multiplier, 1, Adjacency::ZeroOut);
    Cost::of(&Curve::of(&step.unwrap())).unwrap()
}

fn context(number: u8) -> [u8; 32] {
    [100 + number; 32]
}

/// A member that charged three rounds of a job of ten, settled the first to half, and was used without privacy once.
async fn member() -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let hides = Hides {
        unit: Unit::Record,
        adjacency: Adjacency::ZeroOut,
    };
    let ledger = open(home.path(), "wards", Budget::Private(loss())).await;
    let ledger = ledger.hiding(hides).await.unwrap();
    let one = cost("8");
    let mut ledger = ledger;
    for (job, byte) in [(OTHER_JOB, 0xFF), (THIRD_JOB, 0xEE), (JOB, 0xFF)] {
        ledger = ledger.on_data(Some(Data {
            salt: [0; 32],
            sha256: [byte; 32],
        }));
        ledger.reserve(job, &one, 10, now()).await.unwrap();
        if job != JOB {
            ledger.end(job, now()).await.unwrap();
        }
    }
    let mut log = Log::open(home.path().join("audit.jsonl")).unwrap();
    for round in 0..3 {
        let fields = Map::from_iter([
            (
                "context".into(),
                Digest::from_bytes(context(round)).to_string().into(),
            ),
            ("round".into(), (round + 1).into()),
            ("attempt".into(), 1.into()),
        ]);
        log.append("plan", fields, now()).unwrap();
        let charged = ledger
            .charge(JOB, context(round), &one, now())
            .await
            .unwrap();
        let head = Digest::from_bytes(*charged.ledger_head()).to_string();
        let fields = Map::from_iter([("ledger_head".into(), head.into())]);
        log.append("charge", fields, now()).unwrap();
    }
    let settlement = Settlement {
        cost: cost("11.314"), // half of it, or a little less
        roster: [0xAB; 32],
        certificate: [0xCD; 32],
    };
    ledger.settle(context(0), &settlement, now()).await.unwrap();
    let bare = open(home.path(), "clinics", Budget::NoPrivacy).await;
    bare.charge(JOB, context(0), &Cost::ZERO, now())
        .await
        .unwrap();
    home
}

#[tokio::test]
async fn what_is_left_is_shown_for_each_dataset() {
    let home = member().await;
    let shown = lines(&budget(home.path(), &["show", "--json"]));
    let ledger = open(home.path(), "wards", Budget::Private(loss())).await;
    let standing = ledger.standing().await.unwrap();
    let limit = standing.limit.unwrap();
    let (spent, held) = (
        limit.cost_of(&standing.spent),
        limit.cost_of(&standing.held),
    );
    let [wards, clinics] = &shown[..] else {
        panic!("{shown:?}");
    };
    let opened = &wards["budget"];
    assert_eq!(wards["dataset"], "wards");
    assert_eq!(
        (&opened["epsilon"], &opened["delta"]),
        (&json!(16.0), &json!(2e-5))
    );
    assert_eq!(opened["order"], limit.order());
    assert_eq!(opened["allowed"], limit.units());
    assert_eq!(opened["spent"], spent);
    assert_eq!(opened["reserved"], held - spent);
    assert_eq!(opened["left"], limit.units() - held);
    let so_far = opened["spent_epsilon"].as_f64().unwrap();
    assert!(so_far > 1.0 && so_far < 16.0, "{so_far}");
    assert_eq!(wards["without_privacy"], false);
    assert_eq!(wards["hides"], "unit record against zero-out");
    assert_eq!(wards["data"], json!(["ee".repeat(32), "ff".repeat(32)]));
    assert_eq!(
        (&clinics["budget"], &clinics["without_privacy"]),
        (&Value::Null, &json!(true))
    );

    let words = said(&budget(home.path(), &["show"]));
    let percent = |units: u64| format!("{:.2} %", units as f64 / limit.units() as f64 * 100.0);
    assert!(
        words.starts_with("wards: epsilon = 16 at delta = 2e-5 for its whole life; "),
        "{words}"
    );
    assert!(
        words.contains(&format!("{} of it left", percent(limit.units() - held))),
        "{words}"
    );
    assert!(words.contains("bookkeeping") && words.contains("what is promised is the budget"));
    assert!(
        words.contains("hides  unit record against zero-out"),
        "{words}"
    );
    let files = format!("SHA-256 {} now; 2 files", "ff".repeat(32));
    assert!(words.contains(&files), "{words}");
    assert!(words.contains("WITHOUT PRIVACY"), "{words}");
    assert!(!said(&budget(home.path(), &["show", "--dataset", "wards"])).contains("WITHOUT"));
}

#[tokio::test]
async fn history_says_what_each_round_cost_and_why() {
    let home = member().await;
    let spent = lines(&budget(
        home.path(),
        &["history", "--dataset", "wards", "--json"],
    ));
    assert_eq!(spent.len(), 3);
    let half = spent[0]["settled"].as_f64().unwrap() / spent[0]["charged"].as_f64().unwrap();
    assert!((half - 0.5).abs() < 1e-3, "{half}");
    assert_eq!(spent[0]["roster"], "ab".repeat(32));
    for (number, one) in (1..).zip(&spent) {
        assert_eq!(
            (&one["round"], &one["attempt"]),
            (&json!(number), &json!(1))
        );
        assert_eq!(one["time"], 1_700_000_000_000_u64);
    }
    assert!(spent.iter().all(|one| one["without_privacy"] == false));
    assert!(spent[1]["settled"].is_null() && spent[1]["roster"].is_null());

    let words = said(&budget(home.path(), &["history"]));
    let first = words
        .lines()
        .find(|line| line.contains("round 1, attempt 1"))
        .unwrap();
    assert!(
        first.contains("2023-11-14 22:13:20  job 01010101"),
        "{first}"
    );
    assert!(first.contains(" by roster abababab"), "{first}");
    let bar = |line: &str| line.chars().filter(|one| "█▏▎▍▌▋▊▉".contains(*one)).count();
    let second = words
        .lines()
        .find(|line| line.contains("round 2, attempt 1"))
        .unwrap();
    assert!(second.ends_with("charged, the worst case"), "{second}");
    assert!(bar(first) == 12 && bar(second) == 24, "{words}");
    let bare = words.lines().last().unwrap();
    assert!(bare.ends_with("without privacy"), "{bare}");
}

#[tokio::test]
async fn as_many_rounds_fit_as_the_ledger_grants() {
    let policy = "policies/institution-research.toml";
    for home in [tempfile::tempdir().unwrap(), member().await] {
        let asked = ["plan", "--dataset", "wards", "--policy", policy, "--json"];
        let noise = [
            "--noise-multiplier",
            "9",
            "--rounds",
            "7",
            "--max-attempts",
            "2",
            "--members",
            "5",
        ];
        let [fit] = &lines(&budget(home.path(), &[&asked[..], &noise].concat()))[..] else {
            panic!("one line");
        };
        let (attempts, rounds) = (&fit["attempts_that_fit"], &fit["rounds_that_fit"]);
        let fitting = attempts.as_u64().unwrap();
        assert_eq!(*rounds, fitting / 2);
        assert_eq!((&fit["attempts"], &fit["fits"]), (&json!(14), &json!(true)));
        // min_contributors 3, of whom one knows its own noise: with five members, twice the noise's variance.
        let settled = fit["settled"].as_f64().unwrap() / fit["attempt"].as_f64().unwrap();
        assert!((settled - 0.5).abs() < 1e-5, "{settled}");

        let ledger = open(home.path(), "wards", Budget::Private(loss())).await;
        let one = cost("9");
        // Opens the budget for the use that was asked about, where none is open.
        ledger.reserve([2; 32], &one, 14, now()).await.unwrap();
        ledger.end([2; 32], now()).await.unwrap();
        let more = ledger.reserve([3; 32], &one, fitting + 1, now()).await;
        assert!(matches!(more, Err(Error::Refused(_))), "{more:?}");
        ledger.reserve([4; 32], &one, fitting, now()).await.unwrap();
        let limit = ledger.standing().await.unwrap().limit.unwrap();
        assert_eq!(fit["order"], limit.order());
        assert_eq!(fit["attempt"].as_u64(), Some(limit.cost_of(&one)));

        let words = said(&budget(home.path(), &[&asked[..5], &noise].concat()));
        assert!(words.contains("room for     0 such attempts"), "{words}");
        assert!(words.contains("it does not fit"), "{words}");
    }
}

#[test]
fn a_job_of_batches_is_planned_at_what_its_sampling_costs() {
    let home = tempfile::tempdir().unwrap();
    let text = |path: &str| std::fs::read_to_string(root().join(path)).unwrap();
    let policy = home.path().join("policy.toml");
    let measured = "metrics = [\"training-accuracy\"]";
    let record = text("policies/record-epsilon-8.toml").replace("metrics = []", measured);
    std::fs::write(&policy, record).unwrap();
    let job = home.path().join("job.toml");
    let draft = text("tests/corpus/draft/valid-job-at-record-level.toml");
    let plan = |draft: String| {
        std::fs::write(&job, draft).unwrap();
        let (job, policy) = (job.to_str().unwrap(), policy.to_str().unwrap());
        let arguments = ["plan", "--job", job, "--policy", policy, "--json"];
        lines(&budget(home.path(), &arguments)).remove(0)
    };
    // All of the budget, by its own five rounds of two attempts: no sixth round fits.
    let fit = plan(draft.clone());
    assert_eq!((&fit["attempts"], &fit["fits"]), (&json!(10), &json!(true)));
    assert_eq!(fit["rounds_that_fit"], 5);
    // A job of the same noise that sees every record each time would cost more; drafted for it, noise grows instead.
    let whole = plan(draft.replace("sampling_rate = \"0.1\"", "sampling_rate = \"1\""));
    assert_eq!(whole["fits"], true);
    assert_ne!(whole["order"], fit["order"]);
}

#[test]
fn a_job_is_planned_as_it_would_be_drafted() {
    let home = tempfile::tempdir().unwrap();
    let job = [
        "plan",
        "--job",
        "tests/corpus/draft/valid-job.toml",
        "--policy",
    ];
    let policy = ["policies/institution-research.toml", "--json"];
    let [fit] = &lines(&budget(home.path(), &[&job[..], &policy].concat()))[..] else {
        panic!("one line");
    };
    // ε = 8 of a budget of 16.
    assert_eq!((&fit["attempts"], &fit["fits"]), (&json!(10), &json!(true)));
    let (all, left) = (
        fit["attempt"].as_u64().unwrap() * 10,
        fit["left"].as_u64().unwrap(),
    );
    assert!(left > all && left < 4 * all, "{fit}");
    assert!(fit["allowed"].as_f64().unwrap() / UNITS > 1.0);

    let lab = budget(
        home.path(),
        &[&job[..], &["policies/laboratory-no-privacy.toml"]].concat(),
    );
    assert_eq!(lab.status.code(), Some(1), "{lab:?}");
    let neither = budget(home.path(), &["plan"]);
    assert_eq!(neither.status.code(), Some(2));
    let both = budget(
        home.path(),
        &[&job[..3], &["--noise-multiplier", "2"]].concat(),
    );
    assert_eq!(both.status.code(), Some(2));
    let none = [
        "plan",
        "--noise-multiplier",
        "2",
        "--rounds",
        "0",
        "--policy",
        policy[0],
    ];
    assert_eq!(budget(home.path(), &none).status.code(), Some(2));
    let few = [
        "plan",
        "--noise-multiplier",
        "2",
        "--members",
        "2",
        "--policy",
        policy[0],
    ];
    assert_eq!(budget(home.path(), &few).status.code(), Some(1));
    // A home without policies says what is missing.
    let bare = budget(home.path(), &["plan", "--noise-multiplier", "2"]);
    assert!(!bare.status.success(), "{bare:?}");
}

#[tokio::test]
async fn a_stricter_policy_is_planned_with_and_a_looser_one_refused() {
    let home = member().await;
    let text = std::fs::read_to_string(root().join("policies/institution-research.toml")).unwrap();
    let file = home.path().join("policy.toml");
    let plan = |budget_line: &str| {
        std::fs::write(&file, text.replace("epsilon = \"16\"", budget_line)).unwrap();
        let file = file.to_str().unwrap();
        let noise = [
            "plan",
            "--dataset",
            "wards",
            "--noise-multiplier",
            "9",
            "--policy",
            file,
        ];
        budget(home.path(), &noise)
    };
    assert!(said(&plan("epsilon = \"12\"")).contains("epsilon = 12 at delta"));
    let refused = plan("epsilon = \"17\"");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(
        refused.status.code() == Some(1) && said.contains("cannot be raised"),
        "{said}"
    );
}

#[tokio::test]
async fn a_ledger_that_is_missing_changed_or_too_old_is_said_to_be() {
    let home = tempfile::tempdir().unwrap();
    assert_eq!(said(&budget(home.path(), &["show"])), "");
    let unknown = budget(home.path(), &["show", "--dataset", "wards"]);
    assert_eq!(unknown.status.code(), Some(2), "{unknown:?}");

    let home = member().await;
    let unknown = budget(home.path(), &["history", "--dataset", "beds"]);
    let words = String::from_utf8(unknown.stderr).unwrap();
    assert!(words.contains("known: wards, clinics"), "{words}");
    std::fs::remove_file(home.path().join("ledger.sqlite")).unwrap();
    let _ = std::fs::remove_file(home.path().join("ledger.sqlite-wal"));
    let gone = budget(home.path(), &["show"]);
    let words = String::from_utf8(gone.stderr).unwrap();
    assert!(
        gone.status.code() == Some(1) && words.contains("an older file"),
        "{words}"
    );
    assert!(
        !home.path().join("ledger.sqlite").exists(),
        "nothing is written"
    );
    std::fs::write(home.path().join("ledger.sqlite"), "no database".repeat(100)).unwrap();
    let other = budget(home.path(), &["show"]);
    let words = String::from_utf8(other.stderr).unwrap();
    assert!(
        other.status.code() == Some(1) && words.contains("is not a ledger"),
        "{words}"
    );
    let home = tempfile::tempdir().unwrap();
    let unknown = root().join("tests/corpus/ledger/of-an-unknown-layout");
    std::fs::copy(unknown, home.path().join("ledger.sqlite")).unwrap();
    let other = budget(home.path(), &["show"]);
    let words = String::from_utf8(other.stderr).unwrap();
    assert!(
        other.status.code() == Some(1) && words.contains("ledger of layout 1"),
        "{words}"
    );
}
