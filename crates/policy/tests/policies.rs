//! The documents in `policies/`: each is read, explained, and admits what it is made for; its README knows every key.

use std::collections::BTreeSet;
use std::path::PathBuf;

use ciphertune_policy::{Adjacency, Placement, Policy, Proposal, Unit, default_threshold, schema};

fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../policies"))
}

fn documents() -> Vec<(String, Policy)> {
    let mut documents = Vec::new();
    for entry in std::fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            let policy = Policy::parse(&std::fs::read_to_string(&path).unwrap());
            let policy = policy.unwrap_or_else(|error| panic!("{}:\n{error}", path.display()));
            documents.push((
                path.file_stem().unwrap().to_str().unwrap().to_owned(),
                policy,
            ));
        }
    }
    documents.sort_by(|a, b| a.0.cmp(&b.0));
    documents
}

/// The most that a policy allows, with as few members as it allows.
fn limit_of(policy: &Policy) -> Proposal {
    let cohort = policy.min_cohort() as usize;
    let colluders = policy.colluders() as usize;
    Proposal {
        unit: policy.unit(),
        adjacency: policy.adjacency().unwrap_or(Adjacency::ZeroOut),
        placement: policy.placement().unwrap_or(Placement::Distributed),
        epsilon: policy.job_limit().map(|loss| loss.epsilon),
        delta: policy.job_limit().map(|loss| loss.delta),
        clip_norm: policy.clip_norm(),
        rounds: policy.rounds(),
        max_attempts: 3,
        members: 1_000,
        cohort,
        min_contributors: policy.min_contributors() as usize,
        colluders,
        committee: None,
        threshold: default_threshold(cohort, colluders),
        backbone: [7; 32],
        task: "classification".into(),
        encoder: "embedding".into(),
        metrics: policy.metrics().clone(),
    }
}

#[test]
fn each_document_is_read_and_admits_its_own_limit_and_nothing_beyond() {
    let documents = documents();
    let names: Vec<&str> = documents.iter().map(|(file, _)| file.as_str()).collect();
    assert_eq!(
        names,
        [
            "bank",
            "default",
            "hospital",
            "institution-research",
            "laboratory-no-privacy",
            "record-epsilon-8"
        ]
    );
    for (file, policy) in &documents {
        assert_eq!(policy.names().collect::<Vec<_>>(), [file]);
        let proposal = limit_of(policy);
        let admitted = policy
            .admit(&proposal)
            .unwrap_or_else(|refusal| panic!("{file}: {refusal}"));
        assert_eq!(admitted.policy_digest(), &policy.digest());
        let beyond = Proposal {
            rounds: policy.rounds() + 1,
            ..proposal
        };
        let refusal = policy.admit(&beyond).unwrap_err();
        assert_eq!(refusal.violations.len(), 1, "{file}: {refusal}");
        assert_eq!(refusal.violations[0].rule, "privacy.rounds");
    }
}

#[test]
fn each_explanation_says_the_promise_or_its_absence() {
    for (file, policy) in documents() {
        let said = policy.explain();
        match policy.job_limit() {
            Some(loss) => {
                assert!(
                    said.contains(&format!(
                        "One job may cost at most ε = {} at δ = {}.",
                        loss.epsilon, loss.delta
                    )),
                    "{said}"
                );
                assert!(!said.contains("NO DIFFERENTIAL PRIVACY"), "{file}: {said}");
            }
            None => assert!(said.contains("NO DIFFERENTIAL PRIVACY"), "{file}: {said}"),
        }
    }
}

#[test]
fn only_the_laboratory_goes_without_privacy() {
    for (file, policy) in documents() {
        assert_eq!(
            policy.unit() == Unit::None,
            file == "laboratory-no-privacy",
            "{file}"
        );
    }
}

#[test]
fn the_default_is_the_strictest_of_its_unit() {
    let documents = documents();
    let find = |name: &str| &documents.iter().find(|(file, _)| file == name).unwrap().1;
    let default = find("default");
    let research = find("institution-research");
    let merged = Policy::merge(&[default, research]).unwrap();
    assert_eq!(merged.job_limit(), default.job_limit());
    assert_eq!(merged.adjacency(), default.adjacency());
    assert_eq!(merged.min_contributors(), default.min_contributors());
    assert!(research.admit(&limit_of(default)).is_ok());
    assert!(default.admit(&limit_of(research)).is_err());
}

#[test]
fn the_readme_explains_every_key_and_no_other() {
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    let (_, keys) = readme.split_once("\n## Keys\n").unwrap();
    let keys = keys.split("\n## ").next().unwrap();
    let explained: Vec<String> = keys
        .lines()
        .filter_map(|line| {
            line.strip_prefix("| `")?
                .split_once('`')
                .map(|(key, _)| key.to_owned())
        })
        .collect();
    let known: BTreeSet<String> = schema::KEYS.iter().map(schema::Key::path).collect();
    assert_eq!(explained.iter().cloned().collect::<BTreeSet<_>>(), known);
    assert_eq!(explained.len(), known.len(), "a key is explained twice");
}

#[test]
fn the_readme_lists_every_document() {
    let readme = std::fs::read_to_string(folder().join("README.md")).unwrap();
    for (file, _) in documents() {
        assert!(readme.contains(&format!("| `{file}.toml` |")), "{file}");
    }
}
