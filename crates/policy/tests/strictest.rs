//! The strictest of several policies, and what it admits: exactly what all of its parts admit.

use std::collections::BTreeSet;

use ciphertune_policy::{
    Adjacency, Decimal, Direction, Error, Instant, Metric, Placement, Policy, Proposal, Role,
    Sharing, Unit,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;

/// The settings of a policy, drawn from small ranges so that two of them often meet.
#[derive(Clone, Debug)]
struct Settings {
    name: &'static str,
    unit: Unit,
    adjacency: Adjacency,
    placement: Placement,
    epsilon: u32,
    delta: u32,
    spare: u32,
    clip_norm: u32,
    rounds: u32,
    colluders: u32,
    more_contributors: u32,
    more_cohort: u32,
    threshold: Option<u32>,
    committee: Option<u32>,
    encoders: Vec<&'static str>,
    metrics: Vec<&'static str>,
    more: More,
}

/// The optional settings beyond those.
#[derive(Clone, Debug, Default)]
struct More {
    /// Tenths.
    sampling_rate: Option<u32>,
    datasets: Option<Vec<&'static str>>,
    certificate_days: Option<u32>,
    list_days: Option<u32>,
    submit: Option<Vec<&'static str>>,
    abort: Option<Vec<&'static str>>,
    readers: Option<Vec<&'static str>>,
    /// Whether nobody may change the policy.
    is_fixed: bool,
    retention: Option<u32>,
    /// Days of 1970.
    from: Option<u32>,
    until: Option<u32>,
}

impl More {
    fn text(&self) -> String {
        let mut text = String::new();
        let mut say = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                text += &format!("{key} = {value}\n");
            }
        };
        let list = |list: &Option<Vec<&str>>| list.as_ref().map(|list| format!("{list:?}"));
        let instant = |day: Option<u32>| day.map(|day| format!("\"{}\"", day_of(day)));
        say("roles.submit_job", list(&self.submit));
        say("roles.abort_job", list(&self.abort));
        say("roles.read_log", list(&self.readers));
        say("roles.change_policy", self.is_fixed.then(|| "[]".into()));
        say(
            "audit.retention_days",
            self.retention.map(|days| days.to_string()),
        );
        let days = |days: Option<u32>| days.map(|days| days.to_string());
        say(
            "identity.max_certificate_age_days",
            days(self.certificate_days),
        );
        say(
            "identity.max_revocation_list_age_days",
            days(self.list_days),
        );
        say("time.valid_from", instant(self.from));
        say("time.valid_until", instant(self.until));
        text
    }
}

/// The beginning of a day of 1970.
fn day_of(day: u32) -> Instant {
    Instant::EPOCH.after_days(day)
}

impl Settings {
    fn policy(&self) -> Policy {
        let mut text = format!(
            "schema = 1\nname = \"{}\"\n{}[privacy]\nunit = \"{}\"\nclip_norm = \"{}\"\nrounds = {}\n",
            self.name,
            self.more.text(),
            self.unit,
            self.clip_norm,
            self.rounds
        );
        if let Some(rate) = self
            .more
            .sampling_rate
            .filter(|_| self.unit != Unit::Institution)
        {
            text += &format!("max_sampling_rate = \"0.{rate}\"\n");
        }
        if self.unit != Unit::None {
            text += &format!(
                "adjacency = \"{}\"\nplacement = \"{}\"\nepsilon = \"{}\"\ndelta = \"{}e-6\"\n[budget]\nepsilon = \"{}\"\ndelta = \"{}e-6\"\n",
                self.adjacency,
                self.placement,
                self.epsilon,
                self.delta,
                self.epsilon + self.spare,
                self.delta + self.spare,
            );
        }
        let contributors = (self.colluders + 2 + self.more_contributors).max(3);
        text += &format!(
            "[aggregation]\nmin_contributors = {contributors}\ncolluders = {}\nmin_cohort = {}\n",
            self.colluders,
            contributors + self.more_cohort
        );
        if let Some(threshold) = self.threshold {
            text += &format!("threshold = {threshold}\n");
        }
        if let Some(committee) = self.committee {
            text += &format!("committee = {committee}\n");
        }
        text += &format!(
            "[model]\nbackbones = [\"any\"]\nencoders = {:?}\ntasks = [\"any\"]\ndatasets = {:?}\n[releases]\nmetrics = {:?}\n",
            self.encoders,
            self.more.datasets.as_deref().unwrap_or(&["any"]),
            if self.unit == Unit::Institution {
                &[][..]
            } else {
                &self.metrics
            }
        );
        Policy::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }
}

fn units() -> impl Strategy<Value = Unit> {
    prop_oneof![3 => Just(Unit::Institution), 1 => Just(Unit::Record), 1 => Just(Unit::None)]
}

fn mores() -> impl Strategy<Value = More> {
    let roles = || {
        prop::option::of(prop::sample::select(vec![
            vec![],
            vec!["researcher"],
            vec!["member", "researcher"],
            vec!["member", "officer"],
        ]))
    };
    let days = || prop::option::of(1..4_u32);
    let datasets = prop::option::of(prop::sample::select(vec![
        vec!["any"],
        vec!["ward"],
        vec!["ward", "clinic"],
        vec!["clinic"],
    ]));
    let numbers = (
        prop::option::of(1..4_u32),
        datasets,
        days(),
        days(),
        prop::option::of(0..4_u32),
        prop::option::of(4..7_u32),
    );
    let records = (roles(), any::<bool>(), prop::option::of(1..4_u32));
    (numbers, roles(), roles(), records).prop_map(|(n, submit, abort, records)| More {
        readers: records.0,
        is_fixed: records.1,
        retention: records.2,
        sampling_rate: n.0,
        datasets: n.1,
        certificate_days: n.2,
        list_days: n.3,
        submit,
        abort,
        from: n.4,
        until: n.5,
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    let words = (
        prop::sample::select(vec!["a", "b", "c"]),
        units(),
        prop::sample::select(Adjacency::ALL),
        prop::sample::select(Placement::ALL),
        prop::sample::select(vec![
            vec!["any"],
            vec!["mlp"],
            vec!["embedding", "mlp"],
            vec!["lstm", "mlp"],
            vec!["lstm"],
        ]),
        prop::sample::select(vec![
            vec![],
            vec!["training-loss"],
            vec!["training-accuracy", "training-loss"],
        ]),
    );
    let numbers = (
        1..4_u32,
        1..4_u32,
        0..2_u32,
        1..4_u32,
        1..4_u32,
        0..3_u32,
        0..2_u32,
        0..2_u32,
        (prop::option::of(2..6_u32), prop::option::of(2..7_u32)),
    );
    // Half of them have none of the optional settings.
    let mores = prop_oneof![Just(More::default()), mores()];
    (words, numbers, mores).prop_map(
        |((name, unit, adjacency, placement, encoders, metrics), n, more)| Settings {
            name,
            unit,
            adjacency,
            placement,
            epsilon: n.0,
            delta: n.1,
            spare: n.2,
            clip_norm: n.3,
            rounds: n.4,
            colluders: n.5,
            more_contributors: n.6,
            more_cohort: n.7,
            threshold: n.8.0,
            committee: n.8.1,
            encoders,
            metrics,
            more,
        },
    )
}

fn proposals() -> impl Strategy<Value = Proposal> {
    let words = (
        units(),
        prop::sample::select(Adjacency::ALL),
        prop::sample::select(Placement::ALL),
        prop::sample::select(vec!["mlp", "embedding", "lstm"]),
        prop::sample::select(vec![
            vec![],
            vec![Metric::TrainingLoss],
            vec![Metric::TrainingAccuracy],
        ]),
        (
            prop::option::of(1..5_u32),
            prop::sample::select(Role::ALL),
            0..8_u32,
        ),
    );
    let numbers = (
        0..4_u32,
        0..4_u32,
        0..4_u32,
        0..4_u32,
        3..9_usize,
        2..6_usize,
        0..4_usize,
        2..9_usize,
        prop::option::of(2..8_usize),
    );
    (words, numbers).prop_map(
        |((unit, adjacency, placement, encoder, metrics, (rate, author, day)), n)| Proposal {
            unit,
            adjacency,
            placement,
            epsilon: (unit != Unit::None).then(|| Decimal::from(n.0)),
            delta: (unit != Unit::None).then(|| format!("{}e-6", n.1).parse().unwrap()),
            clip_norm: Decimal::from(n.2),
            rounds: n.3,
            max_attempts: 2,
            members: 12,
            cohort: n.4,
            min_contributors: n.5,
            colluders: n.6,
            committee: n.8,
            threshold: n.7,
            backbone: [0; 32],
            task: "classification".into(),
            sampling_rate: rate.map(|rate| format!("0.{rate}").parse().unwrap()),
            author,
            at: day_of(day),
            encoder: encoder.into(),
            metrics: metrics.into_iter().collect(),
        },
    )
}

/// A proposal at the limit of two policies, which both admit if any is, and with one setting a step beyond it.
fn near(a: &Settings, b: &Settings, proposal: &Proposal, beyond: usize) -> Proposal {
    let mut near = at_the_limit(a, b, proposal);
    match beyond {
        0 => {
            near.epsilon = near
                .epsilon
                .map(|_| Decimal::from(limit(a, b, |s| s.epsilon) + 1))
        }
        1 => near.delta = near.delta.map(|_| "4e-6".parse().unwrap()),
        2 => near.clip_norm = Decimal::from(a.clip_norm.min(b.clip_norm) + 1),
        3 => near.rounds += 1,
        4 => near.threshold -= 1,
        5 => near.min_contributors -= 1,
        6 => near.colluders = near.colluders.saturating_sub(1),
        7 => near.cohort -= 1,
        8 => near.adjacency = Adjacency::ZeroOut,
        9 => near.placement = Placement::Distributed,
        10 => near.encoder = "lstm".into(),
        11 => (near.unit, near.epsilon, near.delta) = (Unit::None, None, None),
        12 => near.committee = Some(near.committee.map_or(4, |k| k - 1)),
        13 => near.metrics = Metric::ALL.iter().copied().collect(),
        14 => near.sampling_rate = Some("0.4".parse().unwrap()),
        15 => near.author = Role::Member,
        16 => near.at = day_of(0),
        17 => near.at = day_of(7),
        _ => {}
    }
    near
}

/// The smaller number of the two that promise privacy.
fn limit(a: &Settings, b: &Settings, of: fn(&Settings) -> u32) -> u32 {
    let promised = [a, b]
        .into_iter()
        .filter(|settings| settings.unit != Unit::None);
    promised.map(of).min().unwrap_or(1)
}

fn at_the_limit(a: &Settings, b: &Settings, proposal: &Proposal) -> Proposal {
    let contributors = |s: &Settings| (s.colluders + 2 + s.more_contributors).max(3);
    let colluders = a.colluders.max(b.colluders) as usize;
    let cohort = (contributors(a) + a.more_cohort).max(contributors(b) + b.more_cohort) as usize;
    let threshold = a.threshold.max(b.threshold).unwrap_or(2) as usize;
    let committee = a.committee.zip(b.committee).map(|(a, b)| a.max(b) as usize);
    let cohort = cohort.max(threshold);
    let least = Sharing::of(12, cohort, colluders, committee).map_or(2, |s| s.least_threshold());
    let unit = if a.unit == Unit::None { b.unit } else { a.unit };
    let promises = unit != Unit::None;
    Proposal {
        unit,
        adjacency: a.adjacency.max(b.adjacency),
        placement: a.placement.max(b.placement),
        epsilon: promises.then(|| Decimal::from(limit(a, b, |s| s.epsilon))),
        delta: promises.then(|| format!("{}e-6", limit(a, b, |s| s.delta)).parse().unwrap()),
        clip_norm: Decimal::from(a.clip_norm.min(b.clip_norm)),
        rounds: a.rounds.min(b.rounds),
        cohort,
        min_contributors: contributors(a).max(contributors(b)) as usize,
        colluders,
        committee,
        threshold: threshold.max(least),
        encoder: "mlp".into(),
        metrics: BTreeSet::new(),
        sampling_rate: Some("0.1".parse().unwrap()),
        author: Role::Researcher,
        at: day_of(4),
        ..proposal.clone()
    }
}

fn same(a: &Result<Policy, Error>, b: &Result<Policy, Error>) -> bool {
    match (a, b) {
        (Ok(a), Ok(b)) => a == b && a.digest() == b.digest(),
        (Err(a), Err(b)) => matches!((a, b), (Error::Refused(_), Error::Refused(_))),
        _ => false,
    }
}

proptest! {
    #[test]
    fn merging_is_idempotent_commutative_and_associative(a in settings(), b in settings(), c in settings()) {
        let (a, b, c) = (a.policy(), b.policy(), c.policy());
        prop_assert_eq!(Policy::merge(&[&a]).unwrap(), a.clone());
        prop_assert_eq!(Policy::merge(&[&a, &a]).unwrap(), a.clone());
        prop_assert!(same(&Policy::merge(&[&a, &b]), &Policy::merge(&[&b, &a])));
        let left = Policy::merge(&[&a, &b]).and_then(|ab| Policy::merge(&[&ab, &c]));
        let right = Policy::merge(&[&b, &c]).and_then(|bc| Policy::merge(&[&a, &bc]));
        prop_assert!(same(&left, &right));
        prop_assert!(same(&left, &Policy::merge(&[&c, &a, &b])));
    }

    #[test]
    fn the_merged_policy_admits_exactly_what_both_parts_admit(a in settings(), b in settings(), p in proposals(), beyond in 0..19_usize) {
        let (first, second) = (a.policy(), b.policy());
        let merged = Policy::merge(&[&first, &second]);
        for proposal in [p.clone(), near(&a, &b, &p, beyond)] {
            for dataset in ["ward", "clinic", "other"] {
                let admits = |policy: &Policy| policy.admit(&proposal).is_ok() && policy.admit_dataset(dataset).is_ok();
                let both = admits(&first) && admits(&second);
                let one = merged.as_ref().is_ok_and(admits);
                prop_assert_eq!(both, one, "{:?}, {}\n{:?}", proposal, dataset, merged);
            }
        }
        if let Ok(merged) = merged {
            let all = [&first, &second];
            for role in Role::ALL {
                let both = all.iter().all(|policy| policy.admit_abort(*role).is_ok());
                prop_assert_eq!(both, merged.admit_abort(*role).is_ok());
                let both = all.iter().all(|policy| policy.admit_log_reader(*role).is_ok());
                prop_assert_eq!(both, merged.admit_log_reader(*role).is_ok());
            }
            for days in 0..5 {
                let (then, now) = (day_of(10), day_of(10 + days));
                let both = all.iter().all(|policy| policy.admit_certificate(then, now).is_ok());
                prop_assert_eq!(both, merged.admit_certificate(then, now).is_ok());
                let both = all.iter().all(|policy| policy.admit_revocation_list(then, now).is_ok());
                prop_assert_eq!(both, merged.admit_revocation_list(then, now).is_ok());
            }
        }
    }

    #[test]
    fn a_merged_policy_is_as_strict_as_its_parts_and_what_is_as_strict_admits_no_more(a in settings(), b in settings(), p in proposals(), beyond in 0..19_usize) {
        let (first, second) = (a.policy(), b.policy());
        let strict = Policy::merge(&[&first, &second]).ok();
        for part in [&first, &second] {
            prop_assert!(strict.as_ref().is_none_or(|merged| merged.is_as_strict_as(part)));
        }
        for policy in strict.iter().chain([&second]) {
            if policy.is_as_strict_as(&first) {
                for proposal in [p.clone(), near(&a, &b, &p, beyond)] {
                    prop_assert!(policy.admit(&proposal).is_err() || first.admit(&proposal).is_ok());
                }
                // And it is what the two merge to, but for the name.
                let merged = Policy::merge(&[&first, policy]).unwrap();
                prop_assert!(merged.diff(policy).iter().all(|change| change.key == "name"));
            }
        }
    }

    #[test]
    fn a_difference_is_seen_from_the_other_side(a in settings(), b in settings()) {
        let (first, second) = (a.policy(), b.policy());
        prop_assert!(first.diff(&first).is_empty());
        let there = first.diff(&second);
        let back = second.diff(&first);
        prop_assert_eq!(there.is_empty(), first == second);
        prop_assert_eq!(there.len(), back.len());
        for (there, back) in there.iter().zip(&back) {
            prop_assert_eq!((&there.key, &there.from, &there.to), (&back.key, &back.to, &back.from));
            let turned = match there.direction {
                Direction::Stricter => Direction::Weaker,
                Direction::Weaker => Direction::Stricter,
                Direction::Other => Direction::Other,
            };
            prop_assert_eq!(back.direction, turned);
        }
    }

    #[test]
    fn tightening_a_limit_never_admits_more(a in settings(), which in 0..26_usize, p in proposals(), beyond in 0..19_usize) {
        let loose = a.policy();
        let mut tight = a.clone();
        match which {
            0 => tight.epsilon = 1,
            1 => tight.delta = 1,
            2 => tight.clip_norm = 1,
            3 => tight.rounds = 1,
            4 => tight.colluders += 1,
            5 => tight.more_contributors += 1,
            6 => tight.threshold = Some(tight.threshold.unwrap_or(2) + 1),
            7 => tight.adjacency = Adjacency::ReplaceOne,
            8 => tight.committee = None,
            9 => tight.committee = tight.committee.map(|k| k + 1),
            10 => tight.metrics.truncate(1),
            11 => tight.placement = Placement::Local,
            12 => tight.more.sampling_rate = Some(1),
            13 => tight.more.datasets = Some(tight.more.datasets.map_or(vec!["ward"], |all| vec![all[0]])),
            14 => tight.more.certificate_days = Some(1),
            15 => tight.more.list_days = Some(1),
            16 => tight.more.submit = Some(vec![]),
            17 => tight.more.abort = Some(vec![]),
            18 => tight.more.from = Some(4),
            19 => tight.more_cohort += 1,
            20 => tight.spare = 0,
            21 => tight.encoders.truncate(1),
            22 => tight.more.readers = Some(vec![]),
            23 => tight.more.is_fixed = true,
            24 => tight.more.retention = tight.more.retention.filter(|days| *days > 2).map(|days| days + 1),
            _ => tight.more.until = Some(4),
        }
        let tight = tight.policy();
        prop_assert!(tight.is_as_strict_as(&loose), "{:?}", loose.diff(&tight));
        for proposal in [p.clone(), near(&a, &a, &p, beyond)] {
            prop_assert!(tight.admit(&proposal).is_err() || loose.admit(&proposal).is_ok(), "{:?}", proposal);
        }
    }
}

fn research() -> (Settings, Policy, Proposal) {
    let settings = Settings {
        name: "research",
        unit: Unit::Institution,
        adjacency: Adjacency::ZeroOut,
        placement: Placement::Distributed,
        epsilon: 8,
        delta: 10,
        spare: 0,
        clip_norm: 1,
        rounds: 50,
        colluders: 1,
        more_contributors: 0,
        more_cohort: 0,
        threshold: None,
        committee: None,
        encoders: vec!["mlp"],
        metrics: vec![],
        more: More::default(),
    };
    let proposal = Proposal {
        unit: Unit::Institution,
        adjacency: Adjacency::ZeroOut,
        placement: Placement::Distributed,
        epsilon: Some(Decimal::from(8)),
        delta: Some("1e-5".parse().unwrap()),
        clip_norm: Decimal::ONE,
        rounds: 50,
        max_attempts: 3,
        members: 12,
        cohort: 3,
        min_contributors: 3,
        colluders: 1,
        committee: None,
        threshold: 3,
        backbone: [0xab; 32],
        task: "classification".into(),
        sampling_rate: None,
        author: Role::Researcher,
        at: Instant::EPOCH,
        encoder: "mlp".into(),
        metrics: BTreeSet::new(),
    };
    let policy = settings.policy();
    (settings, policy, proposal)
}

#[test]
fn what_is_drawn_is_admitted_often_enough_to_mean_something() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut draw = || settings().new_tree(&mut runner).unwrap().current();
    let (_, _, base) = research();
    let admitted = (0..400).filter(|_| {
        let (a, b) = (draw(), draw());
        let proposal = at_the_limit(&a, &b, &base);
        a.policy().admit(&proposal).is_ok() && b.policy().admit(&proposal).is_ok()
    });
    let admitted = admitted.count();
    assert!(admitted > 60, "{admitted}");
}

#[test]
fn a_plan_at_the_limit_is_admitted() {
    let (_, policy, proposal) = research();
    assert_eq!(policy.admit(&proposal).unwrap().proposal(), &proposal);
}

#[test]
fn each_rule_is_refused_alone_with_its_numbers() {
    let (_, policy, good) = research();
    let decimal = |text: &str| text.parse::<Decimal>().unwrap();
    let cases: Vec<(Proposal, &str, &str, &str)> = vec![
        (
            Proposal {
                unit: Unit::Record,
                ..good.clone()
            },
            "privacy.unit",
            "record",
            "institution",
        ),
        (
            Proposal {
                epsilon: Some(decimal("8.5")),
                ..good.clone()
            },
            "privacy.epsilon",
            "8.5",
            "at most 8",
        ),
        (
            Proposal {
                epsilon: Some(Decimal::ZERO),
                ..good.clone()
            },
            "privacy.epsilon",
            "0",
            "more than 0",
        ),
        (
            Proposal {
                epsilon: None,
                ..good.clone()
            },
            "privacy.epsilon, privacy.delta",
            "no promise",
            "both stated for a private unit",
        ),
        (
            Proposal {
                delta: Some(decimal("1e-4")),
                ..good.clone()
            },
            "privacy.delta",
            "0.0001",
            "at most 1e-5",
        ),
        (
            Proposal {
                clip_norm: decimal("1.1"),
                ..good.clone()
            },
            "privacy.clip_norm",
            "1.1",
            "at most 1",
        ),
        (
            Proposal {
                clip_norm: Decimal::ZERO,
                ..good.clone()
            },
            "privacy.clip_norm",
            "0",
            "more than 0",
        ),
        (
            Proposal {
                rounds: 51,
                ..good.clone()
            },
            "privacy.rounds",
            "51",
            "at most 50",
        ),
        (
            Proposal {
                rounds: 0,
                ..good.clone()
            },
            "rounds",
            "0",
            "at least 1",
        ),
        (
            Proposal {
                max_attempts: 0,
                ..good.clone()
            },
            "max_attempts",
            "0",
            "at least 1",
        ),
        (
            Proposal {
                colluders: 0,
                ..good.clone()
            },
            "aggregation.colluders",
            "0",
            "at least 1",
        ),
        (
            Proposal {
                threshold: 2,
                ..good.clone()
            },
            "2·threshold ≥ cohort + colluders + 1",
            "2",
            "at least 3",
        ),
        (
            Proposal {
                threshold: 4,
                ..good.clone()
            },
            "threshold within the cohort",
            "4",
            "at most 3",
        ),
        (
            Proposal {
                min_contributors: 4,
                ..good.clone()
            },
            "min_contributors within the cohort",
            "4",
            "at most 3",
        ),
        (
            Proposal {
                cohort: 5,
                colluders: 2,
                threshold: 4,
                ..good.clone()
            },
            "min_contributors ≥ colluders + 2",
            "3",
            "at least 4",
        ),
        (
            Proposal {
                cohort: 1001,
                threshold: 600,
                ..good.clone()
            },
            "most members of a round",
            "1001",
            "at most 1000",
        ),
        (
            Proposal {
                encoder: "lstm".into(),
                ..good.clone()
            },
            "model.encoders",
            "lstm",
            "mlp",
        ),
        (
            Proposal {
                metrics: [Metric::TrainingLoss].into(),
                ..good.clone()
            },
            "releases.metrics",
            "training-loss",
            "none",
        ),
    ];
    for (proposal, rule, asked, limit) in cases {
        let refusal = policy.admit(&proposal).unwrap_err();
        assert_eq!(refusal.violations.len(), 1, "{rule}: {refusal}");
        let violation = &refusal.violations[0];
        assert_eq!(
            (
                violation.rule.as_str(),
                violation.asked.as_str(),
                violation.limit.as_str()
            ),
            (rule, asked, limit)
        );
        assert!(refusal.to_string().contains(asked) && refusal.to_string().contains(limit));
    }
}

#[test]
fn every_broken_rule_is_listed() {
    let (_, policy, good) = research();
    let proposal = Proposal {
        epsilon: Some(Decimal::from(9)),
        rounds: 60,
        threshold: 1,
        encoder: "x".into(),
        ..good
    };
    let refusal = policy.admit(&proposal).unwrap_err();
    let rules: Vec<&str> = refusal
        .violations
        .iter()
        .map(|violation| violation.rule.as_str())
        .collect();
    assert_eq!(
        rules,
        [
            "privacy.epsilon",
            "privacy.rounds",
            "2·threshold ≥ cohort + colluders + 1",
            "model.encoders"
        ]
    );
}

#[test]
fn absurd_numbers_are_refused_without_a_panic() {
    let (_, policy, good) = research();
    let proposal = Proposal {
        cohort: usize::MAX,
        min_contributors: usize::MAX,
        colluders: usize::MAX,
        threshold: usize::MAX,
        rounds: u32::MAX,
        encoder: "x".repeat(100_000),
        ..good
    };
    let refusal = policy.admit(&proposal).unwrap_err();
    assert!(refusal.to_string().len() < 2000);
}

#[test]
fn without_noise_two_contributors_are_never_summed_and_no_promise_is_made() {
    let (settings, _, good) = research();
    let policy = Settings {
        unit: Unit::None,
        colluders: 0,
        ..settings
    }
    .policy();
    let bare = Proposal {
        unit: Unit::None,
        epsilon: None,
        delta: None,
        colluders: 0,
        ..good
    };
    assert!(policy.admit(&bare).is_ok());
    let two = Proposal {
        min_contributors: 2,
        ..bare.clone()
    };
    let refusal = policy.admit(&two).unwrap_err().to_string();
    assert!(
        refusal.contains("min_contributors without noise: asked for 2, allowed is at least 3"),
        "{refusal}"
    );
    let claiming = Proposal {
        epsilon: Some(Decimal::ONE),
        ..bare
    };
    assert!(
        policy
            .admit(&claiming)
            .unwrap_err()
            .to_string()
            .contains("no such promise without privacy")
    );
}

#[test]
fn units_that_differ_are_an_error_that_names_both_policies() {
    let (settings, institution, _) = research();
    let record = Settings {
        name: "clinic",
        unit: Unit::Record,
        ..settings.clone()
    }
    .policy();
    let said = Policy::merge(&[&institution, &record])
        .unwrap_err()
        .to_string();
    for wanted in [
        "policy \"research\"",
        "\"institution\"",
        "policy \"clinic\"",
        "\"record\"",
        "agree on one privacy.unit",
    ] {
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn a_policy_without_privacy_yields_to_one_with() {
    let (settings, institution, good) = research();
    let bare = Settings {
        name: "laboratory",
        unit: Unit::None,
        ..settings
    }
    .policy();
    let merged = Policy::merge(&[&bare, &institution]).unwrap();
    assert_eq!(merged.unit(), Unit::Institution);
    assert_eq!(merged.job_limit(), institution.job_limit());
    assert_eq!(
        merged.names().collect::<Vec<_>>(),
        ["laboratory", "research"]
    );
    let without = Proposal {
        unit: Unit::None,
        epsilon: None,
        delta: None,
        ..good
    };
    assert!(bare.admit(&without).is_ok());
    assert!(merged.admit(&without).is_err());
}

#[test]
fn lists_with_nothing_in_common_and_no_parts_are_errors() {
    let (settings, policy, _) = research();
    let other = Settings {
        name: "other",
        encoders: vec!["lstm"],
        ..settings
    }
    .policy();
    let said = Policy::merge(&[&policy, &other]).unwrap_err().to_string();
    assert!(
        said.contains("no common encoder (mlp against lstm)"),
        "{said}"
    );
    assert!(matches!(Policy::merge(&[]), Err(Error::Misuse(_))));
}
