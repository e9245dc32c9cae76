//! What a policy says to people. Every key that changes, changes the explanation; every complaint, refusal and finding is
//! kept word by word in `messages.txt` (CIPHERTUNE_BLESS=1 writes it anew: read it aloud before it is committed).

use std::fmt::Write as _;
use std::path::Path;

use ciphertune_policy::{
    Adjacency, Decimal, Instant, Metric, Placement, Policy, Proposal, Role, Source, Unit, schema,
};

/// Every key is written, at record level.
const FULL: &str = r#"schema = 1
name = "full"
[privacy]
unit = "record"
adjacency = "zero-out"
epsilon = "2"
delta = "1e-6"
clip_norm = "1"
placement = "distributed"
rounds = 100
max_sampling_rate = "0.1"
[budget]
epsilon = "4"
delta = "2e-6"
[aggregation]
min_contributors = 4
colluders = 1
threshold = 4
committee = 40
min_cohort = 5
[model]
backbones = ["0000000000000000000000000000000000000000000000000000000000000000"]
encoders = ["mlp"]
tasks = ["classification"]
datasets = ["ward 7"]
[releases]
metrics = ["training-loss"]
[identity]
max_certificate_age_days = 90
max_revocation_list_age_days = 7
[roles]
submit_job = ["researcher"]
abort_job = ["member"]
read_log = ["auditor"]
change_policy = ["officer"]
[audit]
retention_days = 3650
[time]
valid_from = "2027-01-01T00:00:00Z"
valid_until = "2027-12-31T23:59:59Z"
"#;

/// Each key with another value than that of [`FULL`], and other lines that must go with it.
const CHANGES: &[(&str, &[(&str, &str)])] = &[
    ("name", &[("name = \"full\"", "name = \"other\"")]),
    (
        "privacy.unit",
        &[
            ("unit = \"record\"", "unit = \"institution\""),
            ("max_sampling_rate = \"0.1\"\n", ""),
            ("metrics = [\"training-loss\"]", "metrics = []"),
        ],
    ),
    ("privacy.adjacency", &[("zero-out", "replace-one")]),
    (
        "privacy.epsilon",
        &[("epsilon = \"2\"", "epsilon = \"2.5\"")],
    ),
    ("privacy.delta", &[("delta = \"1e-6\"", "delta = \"1e-7\"")]),
    (
        "privacy.clip_norm",
        &[("clip_norm = \"1\"", "clip_norm = \"0.5\"")],
    ),
    ("privacy.placement", &[("distributed", "local")]),
    ("privacy.rounds", &[("rounds = 100", "rounds = 99")]),
    ("privacy.max_sampling_rate", &[("\"0.1\"", "\"0.2\"")]),
    ("budget.epsilon", &[("epsilon = \"4\"", "epsilon = \"5\"")]),
    ("budget.delta", &[("delta = \"2e-6\"", "delta = \"3e-6\"")]),
    (
        "aggregation.min_contributors",
        &[("min_contributors = 4", "min_contributors = 3")],
    ),
    (
        "aggregation.colluders",
        &[("colluders = 1", "colluders = 2")],
    ),
    (
        "aggregation.threshold",
        &[("threshold = 4", "threshold = 5")],
    ),
    (
        "aggregation.committee",
        &[("committee = 40", "committee = 41")],
    ),
    (
        "aggregation.min_cohort",
        &[("min_cohort = 5", "min_cohort = 6")],
    ),
    ("model.backbones", &[("[\"000", "[\"100")]),
    ("model.encoders", &[("[\"mlp\"]", "[\"lstm\"]")]),
    (
        "model.tasks",
        &[("[\"classification\"]", "[\"generation\"]")],
    ),
    ("model.datasets", &[("ward 7", "ward 8")]),
    (
        "releases.metrics",
        &[("[\"training-loss\"]", "[\"training-accuracy\"]")],
    ),
    (
        "identity.max_certificate_age_days",
        &[("age_days = 90", "age_days = 91")],
    ),
    (
        "identity.max_revocation_list_age_days",
        &[("age_days = 7", "age_days = 8")],
    ),
    ("roles.submit_job", &[("[\"researcher\"]", "[\"officer\"]")]),
    ("roles.abort_job", &[("[\"member\"]", "[]")]),
    ("roles.read_log", &[("[\"auditor\"]", "[\"officer\"]")]),
    ("roles.change_policy", &[("[\"officer\"]", "[]")]),
    (
        "audit.retention_days",
        &[("retention_days = 3650", "retention_days = 3649")],
    ),
    ("time.valid_from", &[("2027-01-01", "2027-01-02")]),
    ("time.valid_until", &[("2027-12-31", "2027-12-30")]),
];

fn changed(changes: &[(&str, &str)]) -> String {
    changes.iter().fold(FULL.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "{from}");
        text.replacen(from, to, 1)
    })
}

#[test]
fn each_key_changes_the_explanation_and_is_a_difference_and_in_the_digest() {
    let full = Policy::parse(FULL).unwrap();
    let said = full.explain();
    let mut keys: Vec<&str> = CHANGES.iter().map(|(key, _)| *key).collect();
    for (key, changes) in CHANGES {
        let other =
            Policy::parse(&changed(changes)).unwrap_or_else(|error| panic!("{key}: {error}"));
        assert_ne!(other.explain(), said, "{key} is not explained");
        assert_ne!(other.digest(), full.digest(), "{key} is not in the digest");
        let differing: Vec<String> = full.diff(&other).into_iter().map(|it| it.key).collect();
        assert!(
            differing.contains(&(*key).to_owned()),
            "{key}: {differing:?}"
        );
        assert!(
            changes.len() > 1 || differing.len() == 1,
            "{key}: {differing:?}"
        );
    }
    // The version is one for every document.
    keys.insert(0, "schema");
    let known: Vec<String> = schema::KEYS.iter().map(schema::Key::path).collect();
    assert_eq!(keys, known, "a key is not tried");
}

#[test]
fn each_optional_key_left_out_changes_the_explanation() {
    let said = Policy::parse(FULL).unwrap().explain();
    for key in schema::KEYS {
        if !matches!(key.presence, schema::Presence::Optional(_)) {
            continue;
        }
        let without: Vec<&str> = FULL
            .lines()
            .filter(|line| !line.starts_with(&format!("{} =", key.name)))
            .collect();
        let other = Policy::parse(&without.join("\n")).unwrap();
        // Written as they would be if they were left out.
        let is_default =
            ["submit_job", "abort_job", "read_log", "change_policy"].contains(&key.name);
        assert_eq!(other.explain() == said, is_default, "{}", key.name);
    }
}

/// A plan beyond [`FULL`] in everything that a plan says.
fn beyond() -> Proposal {
    let decimal = |text: &str| text.parse::<Decimal>().unwrap();
    Proposal {
        unit: Unit::Institution,
        adjacency: Adjacency::ZeroOut,
        placement: Placement::Distributed,
        epsilon: Some(decimal("8")),
        delta: Some(decimal("1e-5")),
        clip_norm: decimal("3"),
        sampling_rate: Some(decimal("0.5")),
        rounds: 1000,
        max_attempts: 0,
        members: 100,
        cohort: 3,
        min_contributors: 2,
        colluders: 0,
        committee: Some(10),
        threshold: 2,
        backbone: [7; 32],
        task: "generation".into(),
        encoder: "lstm".into(),
        metrics: [Metric::TrainingAccuracy].into(),
        author: Role::Member,
        at: "2028-02-29T12:00:00Z".parse().unwrap(),
    }
}

#[test]
fn what_is_said_is_what_was_read_aloud() {
    let mut text = String::new();
    let mut tell = |heading: &str, said: &str| {
        let _ = writeln!(text, "## {heading}\n\n{}\n", said.trim_end());
    };
    let complaint = |document: &str| Policy::parse(document).unwrap_err().to_string();

    tell("An empty document", &complaint(""));
    tell("Not TOML", &complaint("schema = 1\nname = \"x\nunit"));
    let strange = FULL
        .replace("epsilon = \"2\"", "epsilom = \"2\"\nepsilon = 2.0")
        .replace("rounds = 100", "rounds = 0")
        .replace("\"0.1\"", "\"1.5\"")
        .replace("clip_norm = \"1\"", "clip_norm = \"0\"")
        .replace("delta = \"1e-6\"", "delta = \"1\"")
        .replace("colluders = 1", "colluders = 9")
        .replace("[\"mlp\"]", "[]")
        .replace("[\"training-loss\"]", "[\"loss\"]")
        .replace("[\"researcher\"]", "[\"king\"]")
        .replace("2027-12-31T23:59:59Z", "2026-12-31T23:59:59Z")
        .replace("2027-01-01T00:00:00Z", "1 January 2027")
        .replace("[identity]", "[identiti]");
    tell("Everything wrong at once", &complaint(&strange));
    let contradictory = FULL
        .replace("epsilon = \"4\"", "epsilon = \"1\"")
        .replace("delta = \"2e-6\"", "delta = \"1e-7\"")
        .replace("min_cohort = 5", "min_cohort = 3")
        .replace("min_contributors = 4", "min_contributors = 2")
        .replace("2027-12-31", "2026-12-31");
    tell(
        "Values that contradict each other",
        &complaint(&contradictory),
    );
    let none = FULL.replace("unit = \"record\"", "unit = \"none\"");
    tell("Promises without privacy", &complaint(&none));
    let institution = FULL.replace("unit = \"record\"", "unit = \"institution\"");
    tell("Batches of institutions", &complaint(&institution));

    let full = Policy::parse(FULL).unwrap();
    let proposal = beyond();
    let sources = [
        Source {
            name: "federation.policy",
            toml: FULL,
        },
        Source {
            name: "site.policy",
            toml: &FULL.replace("rounds = 100", "rounds = 100\n"),
        },
    ];
    let refusal = full
        .admit(&proposal)
        .unwrap_err()
        .sourced(&proposal, &sources);
    tell("A plan beyond a policy in everything", &refusal.to_string());
    let day = |text: &str| text.parse::<Instant>().unwrap();
    let (then, now) = (day("2027-01-01T00:00:00Z"), day("2027-06-01T00:00:00Z"));
    tell(
        "A dataset",
        &full.admit_dataset("ward 8").unwrap_err().to_string(),
    );
    tell(
        "An old certificate",
        &full.admit_certificate(then, now).unwrap_err().to_string(),
    );
    tell(
        "An old list",
        &full
            .admit_revocation_list(then, now)
            .unwrap_err()
            .to_string(),
    );
    tell(
        "An end by an auditor",
        &full.admit_abort(Role::Auditor).unwrap_err().to_string(),
    );
    tell(
        "A log for a member",
        &full.admit_log_reader(Role::Member).unwrap_err().to_string(),
    );

    let merging = |changes: &[(&str, &str)]| {
        let other = Policy::parse(&changed(changes)).unwrap();
        Policy::merge(&[&full, &other]).unwrap_err().to_string()
    };
    tell("Two units", &merging(CHANGES[1].1));
    tell(
        "No common encoder",
        &merging(&[("[\"mlp\"]", "[\"lstm\"]")]),
    );
    tell("No common dataset", &merging(&[("ward 7", "ward 8")]));
    tell(
        "Times that do not overlap",
        &merging(&[
            ("2027-01-01T00:00:00Z", "2028-01-01T00:00:00Z"),
            ("2027-12-31", "2028-12-31"),
        ]),
    );

    let findings = |document: &str, members: Option<usize>, now: Instant| {
        let found = Policy::parse(document).unwrap().findings(members, now);
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        lines.join("\n")
    };
    let odd = FULL
        .replace("epsilon = \"2\"", "epsilon = \"20\"")
        .replace("epsilon = \"4\"", "epsilon = \"20\"")
        .replace("delta = \"1e-6\"", "delta = \"0.01\"")
        .replace("delta = \"2e-6\"", "delta = \"0.01\"")
        .replace("threshold = 4", "threshold = 41")
        .replace("[\"researcher\"]", "[]");
    tell(
        "What cannot work",
        &findings(&odd, Some(3), day("2028-01-01T00:00:00Z")),
    );
    let low = FULL
        .replace("threshold = 4", "threshold = 3")
        .replace("2027-01-01", "2027-07-01");
    tell("What has no effect", &findings(&low, Some(100), now));
    let tight = FULL
        .replace("min_cohort = 5\n", "")
        .replace("threshold = 4\n", "")
        .replace("colluders = 1", "colluders = 2");
    tell("What leaves no room", &findings(&tight, Some(4), now));

    let mut changes = String::new();
    for (_, change) in CHANGES {
        for change in full.diff(&Policy::parse(&changed(change)).unwrap()) {
            let _ = writeln!(changes, "{change}");
        }
    }
    tell("Every key changed", &changes);
    tell("Explained: every key written", &full.explain());
    for file in ["default", "laboratory-no-privacy"] {
        let path = format!(
            concat!(env!("CARGO_MANIFEST_DIR"), "/../../policies/{}.toml"),
            file
        );
        let policy = Policy::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
        tell(&format!("Explained: {file}"), &policy.explain());
    }

    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/messages.txt"));
    if std::env::var_os("CIPHERTUNE_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    let kept = std::fs::read_to_string(path).unwrap_or_default();
    for (said, kept) in text.lines().zip(kept.lines()) {
        assert_eq!(
            said, kept,
            "messages.txt has another line; CIPHERTUNE_BLESS=1 writes it anew"
        );
    }
    assert_eq!(text, kept);
}
