//! A member that crashes between any two durable writes resumes from its disk: it sends the same bytes again, never
//! seals twice under one context, never releases for two rosters.
//!
//! One member of three (t = 2) is cut off at every durable write of a job of two rounds in turn, and started again at
//! once on its home; another is cut off while it catches up. Then one runs as a process of its own that is killed at
//! random, `CIPHERTUNE_KILLS` times (12 unless that is set). What must hold afterwards stands in [`witness`](ciphertune_tests::witness).

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ciphertune_client::{Error, disk::Disk, member::Outcome, report::Happening};
use ciphertune_identity::watch::Does;
use ciphertune_round::{Digest, Envelope, Fingerprint, Job, Object as _, Roster, Signed};
use ciphertune_tests::{
    cut::{Cut, End, Taken, WORDS, Where, all_cuts, cuts},
    federation::{
        Federation, INSTITUTION, LABORATORY, Member, RECORD, Wish, is_over, until_job, within,
    },
    front::{Front, Lies, Put},
    learner::{Gate, Vectors},
    witness::{self, Record},
};
use ciphertune_wire::proto::EventKind;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

const DIMENSION: usize = 3_000;
const MEMBERS: usize = 3;
/// Enough to do without one where no noise is added.
const LATE_MEMBERS: usize = 4;
/// Who is cut off, or killed.
const VICTIM: usize = 1;
/// Federations at a time: most of a round is waiting.
const AT_A_TIME: usize = 6;
/// What a member writes to catch up.
const CATCHING_UP: [&str; 8] = [
    "parcel-key",
    "audit.jsonl",
    "audit.jsonl",
    "model.safetensors",
    "parcel-key",
    "parcel-key",
    "parcel",
    "parcel",
];

/// Deadlines that nobody comes near: the server waits for a member that was cut off and is back at once.
fn wish(rounds: u32) -> Wish {
    Wish {
        rounds,
        max_attempts: 2,
        seconds: [60, 60, 60],
        ..Wish::of(MEMBERS, DIMENSION)
    }
}

/// The job of two rounds that a policy wants.
fn job(policy: &str) -> Job {
    let batches = match policy {
        RECORD => Wish::of_batches(MEMBERS, DIMENSION).batches,
        _ => None,
    };
    let wish = Wish { batches, ..wish(2) };
    wish.job(policy).unwrap()
}

fn join(federation: &Federation, member: usize, disk: Disk) -> Member {
    join_as(federation, Vectors::of(member, DIMENSION), disk)
}

fn join_as(federation: &Federation, learner: Vectors, disk: Disk) -> Member {
    let plaintext = federation.plaintext_folder();
    federation.join_on(disk, learner, |mut options| {
        options.dangerous_plaintext = Some(plaintext);
        options
    })
}

/// Runs a job of two rounds whose victim is cut off once, and holds it to everything that must hold. Returns what the
/// victim wrote in its first life.
async fn run(policy: &str, cut: Option<(usize, Where)>) -> Vec<Taken> {
    let mut federation = Federation::found(MEMBERS, policy).await;
    let record = Record::default();
    let (server, front) = federation.serve_behind(record.lies()).await;
    let watch = Arc::new(match cut {
        Some((step, place)) => Cut::at(step, place, End::Fails),
        None => Cut::never(front.counter(federation.fingerprint(VICTIM))),
    });
    let mut victim = join(&federation, VICTIM, Disk::watched(Arc::clone(&watch) as _));
    let mut others = [0, 2].map(|member| join(&federation, member, Disk::default()));
    let job = job(policy);
    let (mut researcher, digest) = federation.submit_job(job.clone()).await;

    if !ends_by(cut, &victim.end().await) {
        let again = if federation.home_of(VICTIM, &digest).join("ended").exists() {
            // Nothing was left to do but to say so.
            until_job(&mut researcher, digest, is_over).await;
            None
        } else {
            victim = join(&federation, VICTIM, Disk::default());
            Some(victim.end().await)
        };
        let completed = |outcome: &Outcome| outcome.completed;
        assert!(
            again.is_none_or(|ended| ended.as_ref().is_ok_and(completed)),
            "{cut:?}: {:?}",
            victim.happenings()
        );
    }
    // Cut off in a round that is not the last, after its release, it may come back when two of three have agreed without it:
    // then it catches up. Only where every cut is asked for is there such a one.
    let late = |said: &String| all_cuts() && said.contains("the phase that takes this has ended");
    let voided = victim.voided();
    assert!(voided.iter().all(late), "{cut:?}: {voided:?}");
    for other in &mut others {
        let outcome = other.end().await.unwrap();
        assert!(outcome.completed, "{outcome:?} {:?}", other.voided());
    }
    examine(&federation, MEMBERS, &front, &record, &job).await;
    all_have_the_model_of(&federation, MEMBERS, &digest, job.rounds);
    server.stop().await;
    watch.taken()
}

/// Whether a first life came to its natural end. Only a cut may keep it from that, and every cut does.
fn ends_by(cut: Option<(usize, Where)>, ended: &Result<Outcome, Error>) -> bool {
    match ended {
        Err(Error::Fault(said)) if said.contains(WORDS) => {
            assert!(cut.is_some());
            false
        }
        Ok(outcome) => {
            assert!(
                cut.is_none() && outcome.completed,
                "{cut:?} was not reached: {outcome:?}"
            );
            true
        }
        Err(error) => panic!("{cut:?}: {error}"),
    }
}

async fn examine(
    federation: &Federation,
    members: usize,
    front: &Front,
    record: &Record,
    job: &Job,
) {
    let plaintext = federation.plaintext_folder();
    witness::examine(federation, members, front, record, job, &plaintext).await;
}

fn all_have_the_model_of(federation: &Federation, members: usize, job: &Digest, rounds: u32) {
    let models: Vec<_> = (0..members)
        .map(|member| federation.model(member, job).expect("a model"))
        .map(|model| (model.state, model.round, model.agreed))
        .collect();
    assert!(models.iter().all(|model| *model == models[0]));
    assert_eq!(models[0].1, rounds);
}

/// Runs with each of some cuts, a few at a time, and panics with the first that does not go as it must.
async fn with_each<R: Future<Output = ()> + Send + 'static>(
    cuts: &[(usize, Where)],
    taken: &[Taken],
    at_a_time: usize,
    run: impl Fn((usize, Where)) -> R,
) {
    let turns = Arc::new(Semaphore::new(at_a_time));
    let mut runs = JoinSet::new();
    for cut in cuts {
        let (turns, run, step) = (Arc::clone(&turns), run(*cut), taken[cut.0 - 1].clone());
        let cut = *cut;
        runs.spawn(async move {
            let _turn = turns.acquire_owned().await.unwrap();
            println!("{cut:?}: {:?} {}", step.does, step.name);
            run.await;
        });
    }
    while let Some(ran) = runs.join_next().await {
        ran.unwrap_or_else(|error| panic!("{error}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_crashes_at_any_durable_write_resumes_from_its_disk() {
    // Reckoning with a private budget takes longest of all; only the ledger's writes know whether there is one.
    let taken = run(LABORATORY, None).await;
    let cuts_in_laboratory = cuts(&taken);
    println!("{} steps, {} cuts", taken.len(), cuts_in_laboratory.len());
    assert!(taken.len() > 60 && cuts_in_laboratory.len() > 40);
    with_each(&cuts_in_laboratory, &taken, AT_A_TIME, |cut| async move {
        run(LABORATORY, Some(cut)).await;
    })
    .await;

    let taken = run(INSTITUTION, None).await;
    let kinds: BTreeSet<_> = taken.iter().map(|taken| taken.does).collect();
    assert_eq!(kinds.len(), 8, "{kinds:?}");
    let mut cuts = cuts(&taken);
    let commits = |step: usize| {
        taken
            .get(step.wrapping_sub(1))
            .is_some_and(|step| step.does == Does::Commits)
    };
    cuts.retain(|(step, place)| {
        let other = if *place == Where::After {
            step + 1
        } else {
            step - 1
        };
        commits(*step) || commits(other)
    });
    println!("{} steps, {} cuts at the ledger", taken.len(), cuts.len());
    with_each(&cuts, &taken, AT_A_TIME, |cut| async move {
        run(INSTITUTION, Some(cut)).await;
    })
    .await;
}

/// What is drawn anew, and what is not, when a batch was on its way: only the writes from the batch to the model that it
/// moves, unless `CIPHERTUNE_EVERY_CUT` is set.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_crashes_with_a_batch_on_its_way_sends_the_same_bytes_and_takes_the_same_step()
 {
    let taken = run(RECORD, None).await;
    let mut cuts = cuts(&taken);
    if !all_cuts() {
        let matters = |name: &str| ["body", "header", "model", "agreement"].contains(&name);
        cuts.retain(|(step, _)| matters(&taken[step - 1].name));
    }
    println!("{} steps, {} cuts", taken.len(), cuts.len());
    assert!(
        cuts.len() > 6,
        "{:?}",
        taken.iter().map(|it| &it.name).collect::<Vec<_>>()
    );
    with_each(&cuts, &taken, AT_A_TIME, |cut| async move {
        run(RECORD, Some(cut)).await;
    })
    .await;
}

/// Runs a job of two rounds whose victim is still training when the first is closed, and is cut off while it catches
/// up. Returns what it wrote in its first life.
async fn run_late(cut: Option<(usize, Where)>) -> Vec<Taken> {
    let mut federation = Federation::found(LATE_MEMBERS, LABORATORY).await;
    let record = Record::default();
    let (server, front) = federation.serve_behind(record.lies()).await;
    let watch = Arc::new(match cut {
        Some((step, place)) => Cut::at(step, place, End::Fails),
        None => Cut::never(front.counter(federation.fingerprint(VICTIM))),
    });
    let gate = Gate::default();
    let late = Vectors::of(VICTIM, DIMENSION).behind(&gate);
    let mut victim = join_as(&federation, late, Disk::watched(Arc::clone(&watch) as _));
    let mut others = [0, 2, 3].map(|member| join(&federation, member, Disk::default()));
    let wish = Wish {
        members: LATE_MEMBERS,
        // Round 1 is closed without the victim; in round 2 it has to crash, come back and catch up on a busy machine.
        seconds: [10, 60, 10],
        ..wish(2)
    };
    let job = wish.job(LABORATORY).unwrap();
    let (_researcher, digest) = federation.submit_job(job.clone()).await;
    for other in &others {
        other
            .waits_for(|happening| matches!(happening, Happening::Finished(_)))
            .await;
    }
    gate.open();
    if !ends_by(cut, &victim.end().await) {
        victim = join(&federation, VICTIM, Disk::default());
        let outcome = victim.end().await.unwrap();
        assert!(outcome.completed, "{cut:?}: {:?}", victim.happenings());
    }
    for other in &mut others {
        let outcome = other.end().await.unwrap();
        assert!(outcome.completed, "{outcome:?} {:?}", other.voided());
    }
    examine(&federation, LATE_MEMBERS, &front, &record, &job).await;
    all_have_the_model_of(&federation, LATE_MEMBERS, &digest, job.rounds);
    server.stop().await;
    watch.taken()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_crashes_while_it_catches_up_catches_up_in_its_next_life() {
    let taken = run_late(None).await;
    let first = taken
        .iter()
        .position(|taken| taken.name == "parcel-key")
        .unwrap();
    let steps = first + 1..=first + CATCHING_UP.len();
    let names: Vec<_> = taken[first..]
        .iter()
        .map(|taken| taken.name.as_str())
        .take(CATCHING_UP.len())
        .collect();
    assert_eq!(names, CATCHING_UP);
    let mut cuts = cuts(&taken);
    cuts.retain(|(step, _)| steps.contains(step));
    println!("{cuts:?}");
    assert!(cuts.len() > CATCHING_UP.len());
    with_each(&cuts, &taken, cuts.len(), |cut| async move {
        run_late(Some(cut)).await;
    })
    .await;
}

/// A server that shows a member another roster after its crash, signed with its own key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_crashed_after_it_noted_a_roster_echoes_and_releases_for_no_other() {
    let taken = run(INSTITUTION, None).await;
    let first = |name: &str| {
        let step = taken.iter().position(|taken| taken.name == name);
        step.unwrap() + 1
    };
    for step in [first("roster"), first("release-shares"), first("release")] {
        let mut federation = Federation::found(MEMBERS, INSTITUTION).await;
        let (victim, key) = (federation.fingerprint(VICTIM), federation.server_key());
        let crashed = Arc::new(AtomicBool::new(false));
        let lying = Arc::clone(&crashed);
        let lies = Lies::none().about_events(move |member, mut event| {
            let lie = *member == victim && lying.load(Ordering::SeqCst);
            if lie && event.kind() == EventKind::Roster {
                let envelope = Envelope::decode(&event.envelope).unwrap();
                let mut roster = Roster::parse(envelope.payload()).unwrap();
                roster.sum = Digest::sha256(b"another sum");
                event.envelope = Signed::sign(roster, &key).encode();
            }
            Some(event)
        });
        let (server, front) = federation.serve_behind(lies).await;
        let watch = Arc::new(Cut::at(step, Where::After, End::Fails));
        let mut run = join(&federation, VICTIM, Disk::watched(watch));
        let mut others = [0, 2].map(|member| join(&federation, member, Disk::default()));
        let wish = Wish {
            seconds: [20, 20, 3],
            ..wish(1)
        };
        federation.submit(&wish).await;
        assert!(matches!(run.end().await, Err(Error::Fault(_))));
        crashed.store(true, Ordering::SeqCst);
        let before = sent_for(&front, &victim);
        let mut again = join(&federation, VICTIM, Disk::default());
        let outcome = again.end().await.unwrap();
        assert!(!outcome.completed);
        let said = again.voided();
        assert!(
            said.iter().any(|said| said.contains("another roster")),
            "{said:?}"
        );
        assert_eq!(sent_for(&front, &victim), before);
        for other in &mut others {
            assert!(other.end().await.unwrap().completed);
        }
        server.stop().await;
    }
}

/// The rosters that a member echoed and released for, one for each time.
fn sent_for(front: &Front, member: &Fingerprint) -> Vec<Vec<u8>> {
    front
        .sent()
        .into_iter()
        .filter(|sent| sent.by == *member && matches!(sent.put, Put::Echo | Put::Release))
        .map(|sent| sent.bytes)
        .collect()
}

/// Ends of a process's life.
#[derive(Default)]
struct Tally {
    kills: usize,
    aborts: usize,
    jobs: usize,
    missed: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_killed_again_and_again_goes_on_with_the_job() {
    let kills = std::env::var("CIPHERTUNE_KILLS").map_or(12, |kills| {
        kills.parse().expect("CIPHERTUNE_KILLS: a number")
    });
    let mut tally = Tally::default();
    while tally.kills < kills {
        work_and_be_killed(kills, &mut tally).await;
    }
    println!(
        "{} jobs: {} kills, {} aborts at a write; {} jobs ended without their last model here",
        tally.jobs, tally.kills, tally.aborts, tally.missed
    );
    assert_eq!(tally.kills, kills);
}

/// One job of four rounds, whose victim is a process that lives for a random time, and again, until the job ends or
/// there were enough kills.
async fn work_and_be_killed(kills: usize, tally: &mut Tally) {
    let mut federation = Federation::found(MEMBERS, INSTITUTION).await;
    let record = Record::default();
    let (server, front) = federation.serve_behind(record.lies()).await;
    let mut others = [0, 2].map(|member| join(&federation, member, Disk::default()));
    let wish = Wish {
        // A life that is not followed by another in 800 ms costs a round, and the next one catches up.
        seconds: [8, 20, 20],
        ..wish(4)
    };
    let job = wish.job(INSTITUTION).unwrap();
    let (_researcher, digest) = federation.submit_job(job.clone()).await;
    let ended = federation.home_of(VICTIM, &digest).join("ended");
    tally.jobs += 1;
    loop {
        match live(&federation, tally.kills >= kills).await {
            Fate::Killed => tally.kills += 1,
            Fate::Aborted => tally.aborts += 1,
            Fate::Ended => break,
        }
        // Killed after all was done: it would wait for another job.
        if ended.exists() {
            break;
        }
    }
    for other in &mut others {
        let outcome = other.end().await.unwrap();
        assert!(outcome.completed, "{outcome:?} {:?}", other.voided());
    }
    let rounds = federation
        .model(VICTIM, &digest)
        .map_or(0, |model| model.round);
    if rounds == job.rounds {
        all_have_the_model_of(&federation, MEMBERS, &digest, rounds);
    } else {
        tally.missed += 1;
    }
    examine(&federation, MEMBERS, &front, &record, &job).await;
    server.stop().await;
}

/// How a life ended.
#[derive(Debug)]
enum Fate {
    /// Killed, at a random time.
    Killed,
    /// Aborted, at a random durable write.
    Aborted,
    /// The job ended, with its last model or without.
    Ended,
}

/// One life of the victim; to its natural end if it is `spared`.
async fn live(federation: &Federation, spared: bool) -> Fate {
    let aborts = !spared && random(4) == 0;
    let mut arguments = vec![
        federation.member(VICTIM).home.root().to_owned(),
        PathBuf::from(VICTIM.to_string()),
        PathBuf::from(DIMENSION.to_string()),
        federation.plaintext_folder(),
    ];
    if aborts {
        arguments.push(PathBuf::from((1 + random(25)).to_string()));
    }
    let mut process = Command::new(env!("CARGO_BIN_EXE_member"))
        .args(arguments)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let living = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            match line.split(':').next() {
                Some("completed" | "ended") => return Some(Fate::Ended),
                Some("error") => panic!("{line}"),
                _ => {}
            }
        }
        None
    };
    let span = Duration::from_millis(30 + random(900));
    let fate = if spared || aborts {
        within(living).await.unwrap_or(Fate::Aborted)
    } else {
        match timeout(span, living).await {
            Ok(fate) => fate.expect("nobody but this test ends it"),
            Err(_) => Fate::Killed,
        }
    };
    process.kill().await.unwrap();
    assert!(!(spared && matches!(fate, Fate::Aborted)), "it died");
    // A moment for the server to notice, sometimes: to come back before it does is another case.
    sleep(Duration::from_millis(random(40))).await;
    fate
}

/// From 0 to below `limit`.
fn random(limit: u64) -> u64 {
    getrandom::u64().unwrap() % limit
}
