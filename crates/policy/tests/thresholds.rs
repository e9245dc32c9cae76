//! Which thresholds are admissible, for every cohort to 64: the rule of protocol §2, and the words of each refusal.

use ciphertune_policy::{
    Adjacency, Instant, Placement, Policy, Proposal, Role, Unit, default_threshold,
};

const MOST: usize = 64;

fn policy(unit: &str) -> Policy {
    let text = std::fs::read_to_string(format!(
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../policies/{}.toml"),
        unit
    ))
    .unwrap();
    Policy::parse(&text).unwrap()
}

/// What the policy allows at most, for n members, c colluders, at least `min_contributors`, t to open.
fn proposal(policy: &Policy, n: usize, c: usize, min_contributors: usize, t: usize) -> Proposal {
    Proposal {
        unit: policy.unit(),
        adjacency: policy.adjacency().unwrap_or(Adjacency::ZeroOut),
        placement: policy.placement().unwrap_or(Placement::Distributed),
        epsilon: policy.job_limit().map(|loss| loss.epsilon),
        delta: policy.job_limit().map(|loss| loss.delta),
        clip_norm: policy.clip_norm(),
        rounds: 1,
        max_attempts: 1,
        members: 1_000,
        cohort: n,
        min_contributors,
        colluders: c,
        committee: None,
        threshold: t,
        backbone: [7; 32],
        task: "classification".into(),
        sampling_rate: None,
        author: Role::Researcher,
        at: Instant::EPOCH,
        encoder: "embedding".into(),
        metrics: policy.metrics().clone(),
    }
}

/// (rule, asked, allowed) of everything that protocol §2 holds against these numbers, under a policy's own least.
fn broken(policy: &Policy, asked: &Proposal) -> Vec<(String, String, String)> {
    let (n, c, t) = (asked.cohort, asked.colluders, asked.threshold);
    let m = asked.min_contributors;
    let (least_m, least_c) = (
        policy.min_contributors() as usize,
        policy.colluders() as usize,
    );
    let least_n = policy.min_cohort() as usize;
    // The least t with 2t ≥ n + c + 1.
    let least_t = (n + c + 1).div_ceil(2);
    let mut broken = Vec::new();
    let mut unless = |holds: bool, rule: &str, asked: usize, allowed: String| {
        if !holds {
            broken.push((rule.to_owned(), asked.to_string(), allowed));
        }
    };
    let at_least = |least: usize| format!("at least {least}");
    unless(
        m >= least_m,
        "aggregation.min_contributors",
        m,
        at_least(least_m),
    );
    unless(c >= least_c, "aggregation.colluders", c, at_least(least_c));
    unless(n >= least_n, "aggregation.min_cohort", n, at_least(least_n));
    unless(
        m <= n,
        "min_contributors within the cohort",
        m,
        format!("at most {n}"),
    );
    unless(
        m >= c + 2,
        "min_contributors ≥ colluders + 2",
        m,
        at_least(c + 2),
    );
    unless(
        asked.unit != Unit::None || m >= 3,
        "min_contributors without noise",
        m,
        at_least(3),
    );
    unless(
        t <= n,
        "threshold within the cohort",
        t,
        format!("at most {n}"),
    );
    unless(
        2 * t > n + c,
        "2·threshold ≥ cohort + colluders + 1",
        t,
        at_least(least_t),
    );
    broken
}

#[track_caller]
fn answers_as_the_rule_says(policy: &Policy, asked: &Proposal) -> bool {
    let expected = broken(policy, asked);
    let refusal = match policy.admit(asked) {
        Ok(_) => {
            assert!(expected.is_empty(), "{asked:?} was admitted: {expected:?}");
            return true;
        }
        Err(refusal) => refusal,
    };
    let said: Vec<_> = refusal
        .violations
        .iter()
        .map(|v| (v.rule.clone(), v.asked.clone(), v.limit.clone()))
        .collect();
    assert_eq!(said, expected, "{asked:?}");
    let words = refusal.to_string();
    for (rule, asked, allowed) in expected {
        let line = format!("{rule}: asked for {asked}, allowed is {allowed}");
        assert!(words.contains(&line), "{words:?} does not say {line:?}");
    }
    false
}

#[test]
fn every_threshold_of_every_cohort_to_64_is_admitted_or_refused_by_name_and_number() {
    let policy = policy("default");
    let (mut admitted, mut refused) = (0, 0);
    for n in 1..=MOST {
        for c in 0..=n {
            for t in 0..=n + 1 {
                let least = policy.min_contributors() as usize;
                let asked = proposal(&policy, n, c, least.max(c + 2), t);
                if answers_as_the_rule_says(&policy, &asked) {
                    admitted += 1;
                } else {
                    refused += 1;
                }
            }
        }
    }
    assert!(
        admitted > 10_000 && refused > 50_000,
        "{admitted} {refused}"
    );
}

#[test]
fn every_minimum_of_contributors_is_admitted_or_refused_by_name_and_number() {
    for policy in [policy("default"), policy("laboratory-no-privacy")] {
        let mut admitted = 0;
        for n in 1..=MOST {
            for c in 0..=n {
                for m in 0..=n + 1 {
                    let asked = proposal(&policy, n, c, m, default_threshold(n, c));
                    admitted += usize::from(answers_as_the_rule_says(&policy, &asked));
                }
            }
        }
        assert!(admitted > 10_000, "{admitted}");
    }
}

/// Where a threshold is too low for two rosters of one context to be told apart, there are two sets of t members that
/// share colluders alone; where it is not, any two share an honest one, who echoes once.
#[test]
fn the_least_threshold_is_the_first_at_which_two_rosters_must_share_an_honest_member() {
    for n in 2..=MOST {
        for c in 0..=n - 2 {
            let least = default_threshold(n, c);
            let shared = |t: usize| (2 * t).saturating_sub(n);
            assert!(shared(least) > c, "n = {n}, c = {c}");
            assert!(shared(least - 1) <= c, "n = {n}, c = {c}");
        }
    }
}

/// The rule within a committee: who asks for one where the policy has none, for a smaller one, for one that may be all
/// colluders, or for another threshold than its numbers allow, is refused with the numbers.
#[test]
fn a_committee_is_admitted_or_refused_by_name_and_number() {
    let text = std::fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../policies/default.toml"
    ))
    .unwrap();
    let allowing = text.replacen("colluders = 2", "colluders = 100\ncommittee = 80", 1);
    let allowing = allowing.replacen("min_contributors = 4", "min_contributors = 102", 1);
    let (with, without) = (Policy::parse(&allowing).unwrap(), policy("default"));
    // (1000, 100, 100): c_k = 34, t = 68, of which 32 may be missing.
    let asked = |k: usize, c: usize, t: usize| Proposal {
        committee: Some(k),
        ..proposal(&with, 900, c, c + 2, t)
    };
    for t in 68..=100 {
        assert!(with.admit(&asked(100, 100, t)).is_ok(), "t = {t}");
    }
    // All of the cohort is stricter, and always admitted.
    assert!(with.admit(&proposal(&with, 900, 100, 102, 501)).is_ok());
    for (policy, proposal, words) in [
        (
            &with,
            asked(100, 100, 67),
            "2·threshold ≥ committee + colluders within it + 1: asked for 67, allowed is at least 68",
        ),
        (
            &with,
            asked(100, 100, 101),
            "threshold within the committee: asked for 101, allowed is at most 100",
        ),
        (
            &with,
            asked(79, 100, 60),
            "aggregation.committee: asked for 79, allowed is at least 80",
        ),
        (
            &with,
            asked(1001, 100, 700),
            "the draw of the committee: asked for 1001, allowed is a committee of 1001 cannot be drawn",
        ),
        (
            &without,
            asked(100, 100, 68),
            "aggregation.committee: asked for a committee of 100, allowed is none: every member of a round holds a share",
        ),
        (
            &with,
            asked(90, 900, 90),
            "may consist of colluders alone, with a probability above 2^-40; 230 would do",
        ),
    ] {
        let said = policy.admit(&proposal).unwrap_err().to_string();
        assert!(said.contains(words), "{said:?} does not say {words:?}");
    }
}
