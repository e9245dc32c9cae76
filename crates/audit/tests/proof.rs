//! A proof that a line is in a log: it holds without the log, and for no other line, place, size or root.

use std::time::{Duration, UNIX_EPOCH};

use ciphertune_audit::{Error, Log, Proof, verify_file};
use serde_json::{Map, Value};

/// A log of so many entries, and its path.
fn log(entries: u64) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut log = Log::open(&path).unwrap();
    for round in 0..entries {
        let fields = Map::from_iter([("round".to_owned(), Value::from(round))]);
        let now = UNIX_EPOCH + Duration::from_secs(round);
        log.append("round", fields, now).unwrap();
    }
    (folder, path)
}

#[test]
fn every_entry_of_logs_of_every_small_size_is_proved_and_leads_to_the_logs_root() {
    for size in 1..=17 {
        let (_folder, path) = log(size);
        let (_, root) = verify_file(&path).unwrap();
        for entry in 0..size {
            let proof = Proof::of(&path, entry).unwrap();
            let read = Proof::parse(&proof.to_json().unwrap()).unwrap();
            assert_eq!(read, proof);
            assert_eq!(read.verify().unwrap(), root, "{entry} of {size}");
        }
        let beyond = Proof::of(&path, size);
        assert!(matches!(beyond, Err(Error::Misuse(_))), "{beyond:?}");
    }
}

#[test]
fn a_proof_that_was_changed_anywhere_does_not_hold() {
    let (_folder, path) = log(11);
    let good = Proof::of(&path, 4).unwrap();
    let change = |change: &dyn Fn(&mut Proof)| {
        let mut proof = good.clone();
        change(&mut proof);
        let verified = proof.verify();
        assert!(matches!(verified, Err(Error::Malformed(_))), "{proof:?}");
    };
    change(&|it| it.line = it.line.replace("\"round\":4", "\"round\":5"));
    change(&|it| it.line = "{}".into());
    change(&|it| it.sequence = 5);
    change(&|it| it.sequence = u64::MAX);
    change(&|it| it.size = 4);
    change(&|it| it.size = u64::MAX);
    change(&|it| it.path[1].replace_range(..2, "00"));
    change(&|it| it.path[0].truncate(10));
    change(&|it| drop(it.path.pop()));
    change(&|it| it.path.push("0".repeat(64)));
    change(&|it| it.root.replace_range(..2, "00"));
    change(&|it| it.root = "root".into());
    for json in ["", "{}", "[1]", "{\"sequence\":1}"] {
        assert!(
            matches!(Proof::parse(json), Err(Error::Malformed(_))),
            "{json}"
        );
    }
}
