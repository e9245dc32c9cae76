//! The log on a disk: what it survives, and what it shows.

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use ciphertune_audit::{Checkpoint, Error, Log, Reader, verify_extends, verify_file};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

fn place() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit.jsonl");
    (folder, path)
}

fn append(log: &mut Log, round: u64) {
    let fields = Map::from_iter([("round".to_owned(), Value::from(round))]);
    log.append(
        "round.opened",
        fields,
        UNIX_EPOCH + Duration::from_secs(round),
    )
    .unwrap();
}

/// A log with `entries` lines, closed.
fn written(entries: u64) -> (TempDir, PathBuf, Checkpoint) {
    let (folder, path) = place();
    let mut log = Log::open(&path).unwrap();
    (0..entries).for_each(|round| append(&mut log, round));
    let checkpoint = log.checkpoint("test.example").unwrap();
    (folder, path, checkpoint)
}

/// The kind of each whole line.
fn kinds(path: &Path) -> ciphertune_audit::Result<Vec<String>> {
    let mut reader = Reader::open(path)?;
    let mut kinds = Vec::new();
    while let Some(record) = reader.next()? {
        kinds.push(record.kind);
    }
    Ok(kinds)
}

/// MTH of RFC 6962, section 2.1, by its recursive definition.
fn merkle_tree_hash(leaves: &[Vec<u8>]) -> [u8; 32] {
    match leaves {
        [] => Sha256::digest([]).into(),
        [leaf] => Sha256::digest([&[0], leaf.as_slice()].concat()).into(),
        _ => {
            let k = 1 << (usize::BITS - 1 - (leaves.len() - 1).leading_zeros());
            let (left, right) = (
                merkle_tree_hash(&leaves[..k]),
                merkle_tree_hash(&leaves[k..]),
            );
            Sha256::digest([&[1], left.as_slice(), right.as_slice()].concat()).into()
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_reference_recursion_meets_the_known_roots_of_certificate_transparency() {
    // The roots that the Certificate Transparency implementations test with, over these eight leaves.
    let leaves: Vec<Vec<u8>> = vec![
        vec![],
        vec![0x00],
        vec![0x10],
        vec![0x20, 0x21],
        vec![0x30, 0x31],
        vec![0x40, 0x41, 0x42, 0x43],
        (0x50..0x58).collect(),
        (0x60..0x70).collect(),
    ];
    for (size, root) in [
        (
            0,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
        (
            1,
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        ),
        (
            2,
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        ),
        (
            3,
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        ),
        (
            8,
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ),
    ] {
        assert_eq!(hex(&merkle_tree_hash(&leaves[..size])), root, "{size}");
    }
}

#[test]
fn the_head_is_the_merkle_tree_hash_of_the_lines() {
    let (_folder, path) = place();
    let mut log = Log::open(&path).unwrap();
    assert_eq!(
        hex(&log.head()),
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    );
    for round in 0..20 {
        append(&mut log, round);
        let text = std::fs::read_to_string(&path).unwrap();
        let leaves: Vec<Vec<u8>> = text.lines().map(|line| line.as_bytes().to_vec()).collect();
        assert_eq!(log.head(), merkle_tree_hash(&leaves));
        assert_eq!(verify_file(&path).unwrap(), (round + 1, log.head()));
    }
}

#[test]
fn an_entry_knows_its_place_and_its_leaf() {
    let (_folder, path) = place();
    let mut log = Log::open(&path).unwrap();
    append(&mut log, 0);
    let entry = log.append("job.ended", Map::new(), UNIX_EPOCH).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let line = text.lines().nth(1).unwrap();
    assert_eq!(entry.sequence, 1);
    assert_eq!(entry.leaf, merkle_tree_hash(&[line.as_bytes().to_vec()]));
}

#[test]
fn a_log_goes_on_where_it_ended() {
    let (_folder, path, before) = written(3);
    let mut log = Log::open(&path).unwrap();
    assert_eq!(
        (log.size(), log.head(), log.torn_bytes()),
        (3, *before.root(), 0)
    );
    append(&mut log, 3);
    assert_eq!(verify_extends(&path, &before).unwrap(), (4, log.head()));
}

#[test]
fn a_torn_last_line_is_cut_off_and_reported() {
    for cut in [1, 2, 30] {
        let (_folder, path, before) = written(3);
        let whole = std::fs::read(&path).unwrap();
        let mut log = Log::open(&path).unwrap();
        append(&mut log, 3);
        drop(log);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - cut]).unwrap();
        assert!(matches!(verify_file(&path), Err(Error::Malformed(_))));
        let mut log = Log::open(&path).unwrap();
        assert_eq!(log.torn_bytes(), (bytes.len() - cut - whole.len()) as u64);
        assert_eq!(log.head(), *before.root());
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        append(&mut log, 3);
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn edits_deletions_insertions_and_swaps_show_against_a_known_head() {
    let (_folder, path, known) = written(5);
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let edited = text.replacen("\"round\":2", "\"round\":9", 1);
    let without_last = [&lines[..4], &[""]].concat().join("\n");
    let mut swapped = lines.clone();
    swapped.swap(1, 2);
    let inserted = [&lines[..2], &lines[1..], &[""]].concat().join("\n");
    let deleted = [&lines[..1], &lines[2..], &[""]].concat().join("\n");
    // Renumbered, and with fitting times, so that only the hash can tell.
    let renumber = |lines: &[&str]| -> String {
        let renumbered = lines.iter().enumerate().map(|(place, line)| {
            let (_, rest) = line.split_once(",\"kind\"").unwrap();
            let time = format!("1970-01-01T00:00:0{place}.000Z");
            format!("{{\"sequence\":{place},\"time\":\"{time}\",\"kind\"{rest}\n")
        });
        renumbered.collect()
    };
    let swapped_well = renumber(&swapped);
    let inserted_well = renumber(&[&lines[..2], &lines[1..]].concat());
    let deleted_well = renumber(&[&lines[..1], &lines[2..]].concat());
    let swapped = swapped.join("\n") + "\n";
    for forged in [
        &edited,
        &without_last,
        &swapped_well,
        &inserted_well,
        &deleted_well,
        &swapped,
        &inserted,
        &deleted,
    ] {
        assert_ne!(*forged, text);
        std::fs::write(&path, forged).unwrap();
        assert!(
            matches!(verify_extends(&path, &known), Err(Error::Malformed(_))),
            "{forged}"
        );
    }
    // The ones that keep every number in place are logs by themselves: only the head betrays them.
    for forged in [
        edited,
        without_last,
        swapped_well,
        inserted_well,
        deleted_well,
    ] {
        std::fs::write(&path, &forged).unwrap();
        assert_ne!(verify_file(&path).unwrap(), (known.size(), *known.root()));
    }
    for broken in [swapped, inserted, deleted] {
        std::fs::write(&path, &broken).unwrap();
        assert!(Log::open(&path).is_err_and(|error| error.to_string().contains("belongs")));
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            broken,
            "a broken log is not touched"
        );
    }
    std::fs::write(&path, &text).unwrap();
    assert!(verify_extends(&path, &known).is_ok());
}

#[test]
fn a_bad_line_with_its_newline_is_an_error_not_a_repair() {
    let (_folder, path, _) = written(2);
    let mut text = std::fs::read_to_string(&path).unwrap();
    text += "{\"sequence\":2,\n";
    std::fs::write(&path, &text).unwrap();
    let said = Log::open(&path).err().unwrap().to_string();
    assert!(said.contains("line 3: not the four fields"), "{said}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
}

#[test]
fn a_second_writer_is_turned_away() {
    let (_folder, path) = place();
    let log = Log::open(&path).unwrap();
    assert!(matches!(Log::open(&path), Err(Error::Misuse(_))));
    drop(log);
    assert!(Log::open(&path).is_ok());
}

#[test]
fn a_refused_entry_leaves_the_file_as_it_was() {
    let (_folder, path, before) = written(2);
    let mut log = Log::open(&path).unwrap();
    let loss = Map::from_iter([("loss".to_owned(), Value::from(0.25))]);
    assert!(matches!(
        log.append("round", loss, UNIX_EPOCH),
        Err(Error::Misuse(_))
    ));
    assert_eq!(verify_file(&path).unwrap(), (2, *before.root()));
}

#[cfg(unix)]
#[test]
fn the_file_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let (_folder, path, _) = written(1);
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

#[test]
fn a_missing_folder_is_a_fault() {
    let (_folder, path) = place();
    assert!(matches!(
        Log::open(path.join("absent/audit.jsonl")),
        Err(Error::Fault(_))
    ));
}

#[test]
fn a_log_is_read_while_its_owner_appends_to_it() {
    let (_folder, path) = place();
    let mut log = Log::open(&path).unwrap();
    append(&mut log, 1);
    log.append("other", Map::new(), UNIX_EPOCH).unwrap();
    append(&mut log, 2);
    let rounds = [Value::from(1), Value::from(2)];
    assert_eq!(log.all("round").unwrap(), rounds);
    assert_eq!(log.all("sequence").unwrap(), [0; 0], "fields alone");
    let expected = ["round.opened", "other", "round.opened"];
    assert_eq!(kinds(&path).unwrap(), expected);
    // An append that is under way, or never finished, is not looked at.
    let mut bytes = std::fs::read(&path).unwrap();
    bytes.extend(br#"{"sequence":3,"ti"#);
    std::fs::write(&path, &bytes).unwrap();
    assert_eq!(kinds(&path).unwrap(), expected);
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "and not cut off");
    bytes.extend(b"\n");
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(kinds(&path), Err(Error::Malformed(_))));
    assert!(matches!(
        kinds(&path.with_extension("gone")),
        Err(Error::Fault(_))
    ));
}

#[test]
fn a_clock_that_was_set_back_writes_no_earlier_time_and_one_that_was_written_by_hand_shows() {
    let (_folder, path) = place();
    let mut log = Log::open(&path).unwrap();
    append(&mut log, 5);
    append(&mut log, 2);
    drop(log);
    let mut log = Log::open(&path).unwrap();
    append(&mut log, 3);
    let text = std::fs::read_to_string(&path).unwrap();
    assert_eq!(text.matches("1970-01-01T00:00:05.000Z").count(), 3);
    drop(log);
    std::fs::write(&path, text.replacen("00:00:05", "00:00:06", 2)).unwrap();
    let said = verify_file(&path).unwrap_err().to_string();
    assert!(
        said.contains("line 3") && said.contains("back-dated"),
        "{said}"
    );
    assert!(Log::open(&path).is_err());
}

#[test]
fn a_line_longer_than_any_is_refused_before_it_is_held() {
    let (_folder, path, _) = written(2);
    let mut text = std::fs::read(&path).unwrap();
    text.extend(vec![b'x'; 300 * 1024]);
    std::fs::write(&path, &text).unwrap();
    let said = verify_file(&path).unwrap_err().to_string();
    assert!(said.contains("line 3: longer than"), "{said}");
}
