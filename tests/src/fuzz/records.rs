//! What a node writes down and reads again: audit log, checkpoints, ledger, the server's journal.

use std::{
    fs,
    sync::OnceLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ciphertune_audit::{Checkpoint, Log, verify_extends, verify_file};
use ciphertune_ledger::{Budget, Ledger};
use ciphertune_policy::Loss;
use ciphertune_round::{Fingerprint, VerifyingKey};
use ciphertune_server::storage::Entry;
use prost::Message as _;
use tokio::runtime::{Builder, Runtime};

use super::scratch;
use crate::vectors::Vectors;

/// A checkpoint of a log.
pub fn checkpoint(data: &[u8]) -> bool {
    let Ok(checkpoint) = Checkpoint::parse(data) else {
        return false;
    };
    assert!(checkpoint.to_bytes() == data);
    true
}

/// An audit log's file: the reader that verifies and the one that goes on writing agree.
pub fn audit_log(data: &[u8]) -> bool {
    let folder = scratch();
    let path = folder.path().join("audit.jsonl");
    fs::write(&path, data).unwrap();
    let verified = verify_file(&path);
    if let Ok((size, root)) = verified {
        let head = Checkpoint::new("log", size, root).unwrap();
        assert_eq!(verify_extends(&path, &head).unwrap(), (size, root));
    }
    let opened = Log::open(&path);
    match (&verified, &opened) {
        (Ok((size, root)), Ok(log)) => {
            assert_eq!(
                (log.size(), log.head(), log.torn_bytes()),
                (*size, *root, 0)
            );
        }
        (Err(_), Ok(log)) => assert!(log.torn_bytes() > 0, "only a torn line is mended"),
        (Ok(_), Err(error)) => panic!("verified, and yet not opened: {error}"),
        (Err(_), Err(_)) => {}
    }
    verified.is_ok()
}

/// A moment in 2027.
pub fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| {
        Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    })
}

/// A ledger's file. What is taken has spent no more than its budget.
pub fn ledger(data: &[u8]) -> bool {
    let folder = scratch();
    let path = folder.path().join("ledger.sqlite");
    fs::write(&path, data).unwrap();
    runtime().block_on(async {
        let Ok(ledger) = Ledger::open(&path, "records", budget(), &[], now()).await else {
            return false;
        };
        let Ok(standing) = ledger.standing().await else {
            return false;
        };
        if let Some(limit) = standing.limit {
            let (spent, held) = (
                limit.cost_of(&standing.spent),
                limit.cost_of(&standing.held),
            );
            assert!(spent <= held && held <= limit.units());
        }
        true
    })
}

/// What ledgers are opened under.
pub fn budget() -> Budget {
    Budget::Private(Loss {
        epsilon: "4".parse().unwrap(),
        delta: "1e-5".parse().unwrap(),
    })
}

/// An entry of the server's journal.
pub fn journal(data: &[u8]) -> bool {
    static VECTORS: OnceLock<std::collections::HashMap<Fingerprint, VerifyingKey>> =
        OnceLock::new();
    let keys = VECTORS.get_or_init(|| Vectors::read().keys());
    let key = |fingerprint: &Fingerprint| keys.get(fingerprint).copied();
    let Ok(entry) = Entry::from_bytes(data) else {
        return false;
    };
    let Ok(input) = entry.input(&key) else {
        return false;
    };
    let again = Entry::of(&input);
    assert!(Entry::from_bytes(&again.encode_to_vec()).unwrap() == again);
    assert!(
        Entry::of(&again.input(&key).unwrap()) == again,
        "another input after a restart"
    );
    true
}
