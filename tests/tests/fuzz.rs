//! Every parser of bytes from outside, over its kept corpus and mutations of it. The same functions run under libFuzzer
//! for hours: `tests/fuzz/README.md`.

use std::{
    collections::BTreeSet,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Instant,
};

use ciphertune_tests::fuzz::{TARGETS, Target, corpora, corpus, mutate::Mutator};

/// Runs a target; an input that breaks it is left where it can be copied from.
fn run(target: &Target, data: &[u8]) -> bool {
    catch_unwind(AssertUnwindSafe(|| (target.run)(data))).unwrap_or_else(|_| {
        let path = format!("{}/{}", env!("CARGO_TARGET_TMPDIR"), target.name);
        let _ = fs::write(&path, data);
        panic!(
            "{name} broke on {path}: mend the parser and keep that input in tests/corpus/{name}",
            name = target.name
        )
    })
}

/// The targets of one crate: what is valid is taken, and nothing breaks one.
fn hold(of: &str) {
    for target in TARGETS.iter().filter(|target| target.of == of) {
        let (start, seeds) = (Instant::now(), corpus(target));
        let valid = seeds.iter().filter(|seed| run(target, seed)).count();
        let named = fs::read_dir(corpora().join(target.name)).unwrap();
        let named = named.filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("valid-")
        });
        assert!(valid >= 1, "{} takes nothing of its corpus", target.name);
        assert!(
            valid >= named.count(),
            "{} refuses a valid input",
            target.name
        );
        let mut mutator = Mutator::new(target.name);
        let taken = (0..target.mutations)
            .filter(|_| run(target, &mutator.mutation(&seeds)))
            .count();
        assert!(
            taken < target.mutations as usize,
            "{} refuses nothing",
            target.name
        );
        println!(
            "{:>16}: {} kept, {} mutations, {taken} taken, {:.2} s",
            target.name,
            seeds.len(),
            target.mutations,
            start.elapsed().as_secs_f64()
        );
    }
}

#[test]
fn signed_objects_are_parsed_or_refused() {
    hold("round");
}

#[test]
fn bodies_sums_and_sealed_shares_are_parsed_or_refused() {
    hold("seal");
}

#[test]
fn policies_are_parsed_or_refused() {
    hold("policy");
}

#[test]
fn certificates_keys_and_kits_are_parsed_or_refused() {
    hold("identity");
}

#[test]
fn logs_ledgers_and_journals_are_parsed_or_refused() {
    hold("records");
}

#[test]
fn messages_are_parsed_or_refused() {
    hold("wire");
}

#[test]
fn jobs_and_models_are_parsed_or_refused() {
    hold("client");
}

#[test]
fn data_tokenizers_and_backbones_are_parsed_or_refused() {
    hold("tune");
}

#[test]
fn every_target_has_its_corpus_its_test_and_its_binary() {
    let names: BTreeSet<&str> = TARGETS.iter().map(|target| target.name).collect();
    assert_eq!(names.len(), TARGETS.len());
    let folders: BTreeSet<String> = fs::read_dir(corpora())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(
        folders.iter().map(String::as_str).eq(names.iter().copied()),
        "{folders:?}"
    );

    let held: BTreeSet<&str> = include_str!("fuzz.rs")
        .lines()
        .filter_map(|line| line.trim().strip_prefix("hold(\"")?.split('"').next())
        .collect();
    let crates: BTreeSet<&str> = TARGETS.iter().map(|target| target.of).collect();
    assert_eq!(held, crates);

    let manifest = include_str!("../fuzz/Cargo.toml");
    let binaries: BTreeSet<&str> = manifest
        .split("[[bin]]")
        .skip(1)
        .filter_map(|bin| bin.split('"').nth(1))
        .collect();
    assert_eq!(binaries, names);
}
