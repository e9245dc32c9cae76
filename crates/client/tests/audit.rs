//! `ciphertune audit`: an auditor reads a log and proves one entry to somebody who has not got it.

use std::{
    fs::OpenOptions,
    io::{BufRead as _, BufReader, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    time::{Duration, UNIX_EPOCH},
};

use ciphertune_audit::Log;
use serde_json::{Map, Value, json};

/// A log of five entries.
fn log() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    let mut log = Log::open(&path).unwrap();
    for round in 0..5_u64 {
        let fields = Map::from_iter([
            ("round".to_owned(), Value::from(round)),
            ("model".to_owned(), "ab".repeat(32).into()),
            ("reason".to_owned(), "a \u{1b}[2J word".into()),
        ]);
        let now = UNIX_EPOCH + Duration::from_secs(round);
        log.append("complete", fields, now).unwrap();
    }
    (folder, path)
}

fn audit(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_ciphertune"))
        .arg("audit")
        .args(arguments)
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

#[test]
fn tail_and_show_tell_entries_in_words_or_as_they_stand() {
    let (_folder, path) = log();
    let path = path.to_str().unwrap();
    let (code, out, _) = audit(&["tail", path, "-n", "2"]);
    assert_eq!((code, out.lines().count()), (Some(0), 2));
    assert!(out.contains("round=3") && out.contains("round=4"), "{out}");
    assert!(
        out.contains("model=abababababab…") && !out.contains('\u{1b}'),
        "{out}"
    );
    let (_, out, _) = audit(&["tail", path, "-n", "1", "--json"]);
    let line: Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!(line["sequence"], json!(4));
    let (code, out, _) = audit(&["show", path, "2"]);
    assert_eq!(code, Some(0));
    assert!(out.starts_with("entry 2  1970-01-01T00:00:02"), "{out}");
    assert!(
        out.contains(&"ab".repeat(32)) && !out.contains('\u{1b}'),
        "{out}"
    );
    let (code, _, said) = audit(&["show", path, "5"]);
    assert_eq!(code, Some(2));
    assert!(said.contains("it has 5, counted from 0"), "{said}");
}

#[test]
fn tail_follows_a_log_and_says_when_it_shrinks() {
    let (_folder, path) = log();
    let mut following = Command::new(env!("CARGO_BIN_EXE_ciphertune"))
        .args(["audit", "tail", "--follow", "-n", "1"])
        .arg(&path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(following.stdout.take().unwrap());
    // The last entry that is there: from here on it follows.
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    assert!(line.contains("round=4"), "{line}");
    let mut log = Log::open(&path).unwrap();
    let fields = Map::from_iter([("job".to_owned(), "a".into())]);
    log.append("ended", fields, UNIX_EPOCH).unwrap();
    line.clear();
    told.read_line(&mut line).unwrap();
    assert!(line.contains("ended") && line.contains("job=a"), "{line}");
    drop(log);
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(10).unwrap();
    file.flush().unwrap();
    let ended = following.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(said.contains("a log only grows"), "{said}");
}

#[test]
fn one_entry_is_proved_without_the_log() {
    let (folder, path) = log();
    let (_, head, _) = audit(&["head", path.to_str().unwrap(), "--json"]);
    let head: Value = serde_json::from_str(head.trim()).unwrap();
    let root = head["root"].as_str().unwrap();
    let proof = folder.path().join("proof.json");
    let proof = proof.to_str().unwrap();
    let (code, out, said) = audit(&["prove", path.to_str().unwrap(), "3", "--out", proof]);
    assert_eq!(code, Some(0), "{said}");
    assert!(out.contains(root), "{out}");
    std::fs::remove_file(&path).unwrap();
    let (code, out, said) = audit(&["inclusion", proof, "--root", root]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        out.contains("entry 3 (complete, 1970-01-01T00:00:03"),
        "{out}"
    );
    let (code, out, _) = audit(&["inclusion", proof]);
    assert_eq!(code, Some(0));
    assert!(
        out.contains("compare that root with one that was signed"),
        "{out}"
    );
    let other = "0".repeat(64);
    let (code, _, said) = audit(&["inclusion", proof, "--root", &other]);
    assert_eq!(code, Some(1));
    assert!(said.contains("of another log"), "{said}");
    let changed = std::fs::read_to_string(proof)
        .unwrap()
        .replace("complete", "agreed00");
    std::fs::write(proof, changed).unwrap();
    let (code, _, said) = audit(&["inclusion", proof, "--root", root]);
    assert_eq!(code, Some(1));
    assert!(said.contains("the proof does not hold"), "{said}");
}
