//! The policy language.

use ciphertune_policy::{Adjacency, Decimal, Instant, Metric, Placement, Policy, Role, Unit};

use super::text;

/// A policy, with everything that is made of one.
pub fn policy(data: &[u8]) -> bool {
    let Some(Ok(policy)) = text(data).map(Policy::parse) else {
        return false;
    };
    let json = policy.canonical_json();
    let tree: serde_json::Value = serde_json::from_str(&json).expect("canonical JSON is JSON");
    assert_eq!(tree.to_string(), json, "keys sorted, no white space");
    assert!(!policy.explain().is_empty());
    for finding in policy.findings(Some(3), Instant::EPOCH) {
        assert!(!finding.to_string().is_empty());
    }
    assert!(policy.diff(&policy).is_empty() && policy.is_as_strict_as(&policy));
    let merged = Policy::merge(&[&policy, &policy]).expect("a policy merges with itself");
    assert!(merged == policy, "merging with itself changes a policy");
    assert_eq!(merged.digest(), policy.digest());
    true
}

/// An exact decimal.
pub fn decimal(data: &[u8]) -> bool {
    let Some(Ok(decimal)) = text(data).map(str::parse::<Decimal>) else {
        return false;
    };
    assert_eq!(decimal.to_string().parse::<Decimal>().unwrap(), decimal);
    let (numerator, denominator) = decimal.to_ratio();
    assert!(numerator >= 0 && denominator >= 1);
    assert!(decimal.to_f64_down() <= decimal.to_f64_up());
    true
}

/// The words for what is protected, against what, and by whom; roles, metrics, instants.
pub fn setting(data: &[u8]) -> bool {
    let Some(word) = text(data) else {
        return false;
    };
    let said = [
        word.parse::<Unit>().map(|unit| unit.to_string()),
        word.parse::<Adjacency>()
            .map(|adjacency| adjacency.to_string()),
        word.parse::<Placement>()
            .map(|placement| placement.to_string()),
        word.parse::<Role>().map(|role| role.to_string()),
        word.parse::<Metric>().map(|metric| metric.to_string()),
        word.parse::<Instant>().map(|instant| instant.to_string()),
    ];
    let taken = said.iter().flatten().count();
    assert!(said.iter().flatten().all(|again| again == word) && taken <= 1);
    taken == 1
}
