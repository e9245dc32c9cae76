//! Somebody recorded all that was sealed in a context, and takes a member's whole disk afterwards: nothing on it opens
//! any of that, once the context is over, however it ended (protocol §2).

use std::{
    fs,
    path::{Path, PathBuf},
};

use ciphertune_client::stock::FIRST_KEYS;
use ciphertune_round::{Release, ShareIndex};
use ciphertune_seal::{KeySumShare, OneTimeKey, sum_shares};
use ciphertune_tests::{
    federation::{Federation, LABORATORY, Wish, until, until_contributed},
    front::{Lies, Put, Tape},
    learner::{Gate, Vectors},
};

use crate::victims::{DIMENSION, average, keys_of_contexts_are_erased};

/// A copy of a member's home, as a thief or a backup takes it.
fn copied(federation: &Federation, member: usize) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let home = federation.member(member).home.root();
    for path in files(home) {
        let to = copy.path().join(path.strip_prefix(home).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, to).unwrap();
    }
    copy
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// The private keys on a disk, as they are stored.
fn keys_on(disk: &Path) -> Vec<Vec<u8>> {
    files(disk)
        .iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "key"))
        .map(|path| fs::read(path).unwrap())
        .collect()
}

/// How many of the recorded shares, of keys and of their sum, to whomever, some key on a disk opens.
fn opened_with(disk: &Path, federation: &Federation, recorded: &Tape) -> usize {
    let seat_of = |member| {
        let place = (0..3).position(|one| federation.fingerprint(one) == member);
        ShareIndex::at(place.expect("a member")).unwrap()
    };
    let keys: Vec<OneTimeKey> = keys_on(disk)
        .iter()
        .map(|stored| OneTimeKey::from_stored(stored).unwrap())
        .collect();
    let mut opened = 0;
    for sent in recorded.sent() {
        let (context, sender) = (sent.context, seat_of(sent.by));
        for (position, share) in sent.shares.iter().enumerate() {
            let recipient = ShareIndex::at(position).unwrap();
            opened += keys
                .iter()
                .filter(|key| match sent.put {
                    Put::KeyShares => {
                        let sealed = [(sender, share.clone())];
                        sum_shares(key, &context, recipient, &sealed).is_ok()
                    }
                    Put::Release => {
                        let roster = sent.object::<Release>().roster;
                        KeySumShare::open(key, &context, &roster, sender, recipient, share).is_ok()
                    }
                    _ => false,
                })
                .count();
        }
    }
    opened
}

/// Whether some file of a disk holds these bytes anywhere, in whatever format.
fn holds(disk: &Path, bytes: &[u8]) -> bool {
    files(disk).iter().any(|path| {
        let file = fs::read(path).unwrap();
        file.windows(bytes.len()).any(|window| window == bytes)
    })
}

/// What is left of each attempt that a member took part in: file names.
fn left_of_attempts(federation: &Federation, member: usize) -> Vec<String> {
    let mut left: Vec<String> = files(&federation.member(member).home.jobs())
        .iter()
        .filter(|path| path.components().any(|part| part.as_os_str() == "attempts"))
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    left.sort();
    left
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_taken_after_the_round_opens_nothing_and_one_taken_during_it_does() {
    let mut federation = Federation::found(3, LABORATORY).await;
    let (server, front) = federation.serve_behind(Lies::none()).await;
    let gate = Gate::default();
    let mut members = vec![federation.join(Vectors::of(0, DIMENSION))];
    members
        .extend([1, 2].map(|member| federation.join(Vectors::of(member, DIMENSION).behind(&gate))));
    let (_, job) = federation.submit(&Wish::of(3, DIMENSION)).await;
    until(|| front.count(Put::Body) == 1 && gate.is_reached()).await;
    let during = copied(&federation, 0);
    gate.open();
    for (member, run) in members.iter_mut().enumerate() {
        assert!(run.end().await.unwrap().completed, "{:?}", run.voided());
        assert!(federation.model(member, &job).unwrap().state == average());
    }
    let after = copied(&federation, 0);

    // Three shares of keys and three of their sum were sealed to it; nine of each to all.
    let sealed: usize = [Put::KeyShares, Put::Release]
        .iter()
        .flat_map(|put| front.of(*put))
        .map(|sent| sent.shares.len())
        .sum();
    assert_eq!(sealed, 18);
    assert_eq!(opened_with(during.path(), &federation, &front), 6);
    assert_eq!(opened_with(after.path(), &federation, &front), 0);
    for member in 0..3 {
        keys_of_contexts_are_erased(&federation, member, 1);
        assert_eq!(left_of_attempts(&federation, member), ["over", "roster"]);
        let home = federation.member(member).home.root();
        assert_eq!(opened_with(home, &federation, &front), 0);
    }
    // The key is nowhere else on the disk either, in no database page and in no other file.
    let now = keys_on(after.path());
    let gone: Vec<_> = keys_on(during.path())
        .into_iter()
        .filter(|key| !now.contains(key))
        .collect();
    assert_eq!(gone.len(), 1, "the one key that the plan used");
    assert!(holds(during.path(), &gone[0]));
    assert!(!holds(after.path(), &gone[0]));
    // It was replaced as soon as the plan had used it.
    assert_eq!(now.len() as u64, FIRST_KEYS);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_away_when_its_job_ended_erases_its_keys_when_it_comes_back() {
    let mut federation = Federation::found(3, LABORATORY).await;
    let (server, front) = federation.serve_behind(Lies::none()).await;
    let gate = Gate::default();
    let mut away = federation.join(Vectors::of(0, DIMENSION));
    let mut others =
        [1, 2].map(|member| federation.join(Vectors::of(member, DIMENSION).behind(&gate)));
    let (mut researcher, job) = federation.submit(&Wish::of(3, DIMENSION)).await;
    until_contributed(&mut researcher, job, 0).await;
    until(|| gate.is_reached()).await;
    away.drop_out().await;
    gate.open();
    for run in &mut others {
        assert!(run.end().await.unwrap().completed, "{:?}", run.voided());
    }
    let home = federation.member(0).home.root();
    assert!(opened_with(home, &federation, &front) > 0, "still there");
    let mut back = federation.join(Vectors::of(0, DIMENSION));
    until(|| left_of_attempts(&federation, 0) == ["over"]).await;
    back.stop().await;
    assert_eq!(opened_with(home, &federation, &front), 0);
    keys_of_contexts_are_erased(&federation, 0, 1);
    server.stop().await;
}

/// Round 1 is opened and agreed on, and the member is stopped while it evaluates, before it has cleared up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_stopped_at_the_end_of_a_round_erases_its_key_when_it_comes_back() {
    let mut federation = Federation::found(3, LABORATORY).await;
    let (server, front) = federation.serve_behind(Lies::none()).await;
    let gate = Gate::default();
    let mut stopped = federation.join(Vectors::of(0, DIMENSION).evaluating_behind(&gate));
    let mut others = [1, 2].map(|member| federation.join(Vectors::of(member, DIMENSION)));
    let wish = Wish {
        rounds: 2,
        ..Wish::of(3, DIMENSION)
    };
    federation.submit(&wish).await;
    until(|| gate.is_reached()).await;
    stopped.drop_out().await;
    gate.open();
    let home = federation.member(0).home.root();
    assert!(opened_with(home, &federation, &front) > 0, "still there");
    let mut back = federation.join(Vectors::of(0, DIMENSION));
    assert!(back.end().await.unwrap().completed, "{:?}", back.voided());
    for run in &mut others {
        assert!(run.end().await.unwrap().completed, "{:?}", run.voided());
    }
    for member in 0..3 {
        keys_of_contexts_are_erased(&federation, member, 2);
        let home = federation.member(member).home.root();
        assert_eq!(opened_with(home, &federation, &front), 0);
    }
    assert_eq!(front.contradictions(), Vec::<String>::new());
    server.stop().await;
}
