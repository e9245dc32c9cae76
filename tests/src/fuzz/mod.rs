//! Every parser of bytes from outside, as a plain function: `fn(&[u8]) -> bool`, whether the bytes were taken.
//!
//! A function panics when the parser does, or when it breaks a promise: what was taken must serialise to what is taken
//! again as the same value; sizes are bounded; two readers of one format agree. CI runs each over its kept corpus
//! (`tests/corpus/TARGET/`) and mutations of it (`tests/tests/fuzz.rs`); libFuzzer runs the same functions for hours
//! (`tests/fuzz/README.md`). An input that once broke something is kept in the corpus.

pub mod client;
pub mod identity;
pub mod mutate;
pub mod policy;
pub mod records;
pub mod round;
pub mod seal;
pub mod tune;
pub mod wire;

use std::path::{Path, PathBuf};

/// A parser to be fuzzed.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, and that of its corpus' folder and of its libFuzzer binary.
    pub name: &'static str,
    /// The crate whose parser it is.
    pub of: &'static str,
    /// Parses; says whether the bytes were taken.
    pub run: fn(&[u8]) -> bool,
    /// Mutations that CI tries: so many that all of them take seconds together.
    pub mutations: u32,
}

macro_rules! targets {
    ($($of:ident: $($name:ident $mutations:literal),+;)+) => {
        /// Every target.
        pub const TARGETS: &[Target] = &[$($(Target {
            name: stringify!($name),
            of: stringify!($of),
            run: $of::$name,
            mutations: $mutations,
        }),+),+];
    };
}

targets! {
    round:
        envelope 30_000, manifest 100_000, policy_document 100_000, job 100_000, admission 100_000,
        one_time_key 100_000, plan 30_000, header 100_000, roster 30_000, echo 100_000, release 100_000,
        agreement 100_000, parcel_request 30_000, parcel_call 30_000, parcel 100_000, void 100_000, ended 100_000, abort 100_000, digest 100_000;
    seal:
        words 100_000, sealing_key 1_000, stored_key 2_000, sealed_share 2_000, body 4_000, sum 40;
    policy:
        policy 30_000, decimal 100_000, setting 100_000;
    identity:
        name 100_000, endpoint 100_000, serial 100_000, certificate 100_000, certificate_pem 50_000,
        authority_pem 20_000, request 20_000, revocations 2_000, passphrase 2_000, key_file 300, kit 2_000;
    records:
        checkpoint 100_000, audit_log 5_000, ledger 200, journal 100_000;
    wire:
        message 100_000, refusal 100_000;
    client:
        draft 20_000, tuning 100_000, model 5_000, quorum 20_000;
    tune:
        csv 20_000, json_lines 100_000, sentence_label 100_000, template 100_000, tokenizer 5_000,
        backbone 4_000, adapter 4_000;
}

/// The target of this name.
///
/// # Panics
/// If there is none.
pub fn named(name: &str) -> &'static Target {
    TARGETS
        .iter()
        .find(|target| target.name == name)
        .unwrap_or_else(|| panic!("no target {name}"))
}

/// The folder of the kept corpora.
pub fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

/// The kept inputs of a target, in the order of their names.
pub fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = corpora().join(target.name);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| std::fs::read(path).unwrap())
        .collect()
}

/// A folder for a parser of files: in memory where there is such a thing, for a fuzzer makes thousands.
fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| tempfile::tempdir().unwrap())
}

/// Bytes that are text, or nothing for a parser of text.
fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// `data` as several files in one input: each but the last is preceded by its length, u16 little-endian. A length that
/// lies takes what there is.
fn parts<const COUNT: usize>(mut data: &[u8]) -> [&[u8]; COUNT] {
    let mut parts = [&[][..]; COUNT];
    for part in &mut parts[..COUNT - 1] {
        let Some((length, rest)) = data.split_first_chunk::<2>() else {
            return parts;
        };
        let length = usize::from(u16::from_le_bytes(*length)).min(rest.len());
        (*part, data) = rest.split_at(length);
    }
    parts[COUNT - 1] = data;
    parts
}

/// The other way round, for making seeds.
///
/// # Panics
/// For a part beyond 64 KiB that is not the last.
pub fn joined(parts: &[&[u8]]) -> Vec<u8> {
    let mut joined = Vec::new();
    let (last, first) = parts.split_last().unwrap();
    for part in first {
        joined.extend_from_slice(&u16::try_from(part.len()).unwrap().to_le_bytes());
        joined.extend_from_slice(part);
    }
    joined.extend_from_slice(last);
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_split_where_they_were_joined() {
        let whole = joined(&[b"ab", b"", b"cde"]);
        assert_eq!(parts::<3>(&whole), [&b"ab"[..], b"", b"cde"]);
        assert_eq!(parts::<3>(&[9, 0, 1]), [&b"\x01"[..], b"", b""]);
        assert_eq!(parts::<2>(b""), [&b""[..], b""]);
    }
}
