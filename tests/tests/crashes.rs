//! A member that crashes between any two durable writes resumes from its disk: it sends the same bytes again, never
//! seals twice under one context, never releases for two rosters.
//!
//! One member of three (t = 2) is cut off at every durable write of a job of two rounds in turn, and started again at
//! once on its home; then it runs as a process of its own that is killed at random, `CIPHERTUNE_KILLS` times (12 unless
//! that is set). What must hold afterwards stands in [`witness`](ciphertune_tests::witness).

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

use ciphertune_client::{Error, disk::Disk};
use ciphertune_round::{Digest, Envelope, Object as _, Roster, Signed};
use ciphertune_tests::{
    cut::{Cut, End, Taken, WORDS, Where, can_be_torn},
    federation::{Federation, INSTITUTION, Member, Wish, is_over, until_job, within},
    front::{Lies, Put},
    learner::Vectors,
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
/// Who is cut off, or killed.
const VICTIM: usize = 1;
/// Federations at a time: most of a round is waiting.
const AT_A_TIME: usize = 6;
/// What a member says that comes back too late for a round: the others opened its sum, and nobody holds it any more.
const MISSED: &str = "missed a round";

fn wish(rounds: u32) -> Wish {
    Wish {
        rounds,
        max_attempts: 2,
        seconds: [8, 20, 20],
        ..Wish::of(MEMBERS, DIMENSION)
    }
}

fn join(federation: &Federation, member: usize, disk: Disk) -> Member {
    let plaintext = federation.plaintext_folder();
    federation.join_on(disk, Vectors::of(member, DIMENSION), |mut options| {
        options.dangerous_plaintext = Some(plaintext);
        options
    })
}

/// How a run with one cut went.
struct Ran {
    /// What the victim wrote in its first life.
    taken: Vec<Taken>,
    /// Whether it finished every round.
    completed: bool,
    /// Why it left attempts, in its last life.
    left: Vec<String>,
}

/// Runs a job of two rounds whose victim is cut off once, and holds it to everything that must hold.
async fn run(cut: Option<(usize, Where)>) -> Ran {
    let mut federation = Federation::found(MEMBERS, INSTITUTION).await;
    let record = Record::default();
    let (server, front) = federation.serve_behind(record.lies()).await;
    let sent = front.counter(federation.fingerprint(VICTIM));
    let watch = Arc::new(match cut {
        Some((step, place)) => Cut::at(step, place, End::Fails),
        None => Cut::never(sent),
    });
    let mut victim = join(&federation, VICTIM, Disk::watched(Arc::clone(&watch) as _));
    let others = (0..MEMBERS).filter(|member| *member != VICTIM);
    let mut others: Vec<Member> = others
        .map(|member| join(&federation, member, Disk::default()))
        .collect();
    let job = wish(2).job(INSTITUTION).unwrap();
    let (mut researcher, digest) = federation.submit_job(job.clone()).await;

    let mut ended = victim.end().await;
    if let Err(Error::Fault(said)) = &ended {
        assert!(cut.is_some() && said.contains(WORDS), "{said}");
        if federation.home_of(VICTIM, &digest).join("ended").exists() {
            // Nothing was left to do but to say so.
            until_job(&mut researcher, digest, is_over).await;
        } else {
            victim = join(&federation, VICTIM, Disk::default());
            ended = victim.end().await;
        }
    } else {
        assert!(cut.is_none(), "{cut:?} was not reached: {ended:?}");
    }
    let rounds = federation
        .model(VICTIM, &digest)
        .map_or(0, |model| model.round);
    let completed = rounds == job.rounds;
    match ended {
        Ok(outcome) => assert_eq!(outcome.completed, completed, "{outcome:?}"),
        Err(error) => assert!(matches!(error, Error::Fault(_)) && completed, "{error}"),
    }
    for other in &mut others {
        let outcome = other.end().await.unwrap();
        assert!(outcome.completed, "{outcome:?} {:?}", other.voided());
    }
    witness::examine(
        &federation,
        MEMBERS,
        &front,
        &record,
        &job,
        &federation.plaintext_folder(),
    )
    .await;
    let models: Vec<_> = (0..MEMBERS)
        .filter_map(|member| federation.model(member, &digest))
        .filter(|model| model.round == job.rounds)
        .collect();
    assert!(models.iter().all(|model| *model == models[0]));
    server.stop().await;
    Ran {
        taken: watch.taken(),
        completed,
        left: victim.voided(),
    }
}

/// A cut for every gap between two steps of a run that took these, and a torn write wherever one can be torn: half of
/// it on the disk is the gap before it, and half a file. Where the member called the server in the gap, one cut before
/// the call and one after.
fn cuts(taken: &[Taken]) -> Vec<(usize, Where)> {
    let mut cuts = Vec::new();
    for (step, this) in (1..).zip(taken) {
        let begins = if can_be_torn(this.does) {
            Where::Within
        } else {
            Where::Before
        };
        let called = step == 1 || taken[step - 2].mark != this.mark;
        if called || begins == Where::Within {
            cuts.push((step, begins));
        }
        let covered = taken
            .get(step)
            .is_some_and(|next| next.mark == this.mark && can_be_torn(next.does));
        if !covered {
            cuts.push((step, Where::After));
        }
    }
    cuts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_crashes_at_any_durable_write_resumes_from_its_disk() {
    let dry = run(None).await;
    assert!(dry.completed && dry.left.is_empty(), "{:?}", dry.left);
    let kinds: BTreeSet<_> = dry.taken.iter().map(|taken| taken.does).collect();
    assert_eq!(kinds.len(), 8, "{kinds:?}");
    let cuts = cuts(&dry.taken);
    assert!(dry.taken.len() > 60 && cuts.len() > dry.taken.len());

    let turns = Arc::new(Semaphore::new(AT_A_TIME));
    let mut runs = JoinSet::new();
    for cut in cuts.clone() {
        let turns = Arc::clone(&turns);
        runs.spawn(async move {
            let _turn = turns.acquire_owned().await.unwrap();
            (cut, run(Some(cut)).await)
        });
    }
    let (mut completed, mut missed) = (0, Vec::new());
    while let Some(ran) = runs.join_next().await {
        let (cut, ran) = ran.unwrap_or_else(|error| panic!("{error}"));
        if ran.completed {
            completed += 1;
            continue;
        }
        let step = &dry.taken[cut.0 - 1];
        assert!(
            ran.left.iter().any(|said| said.contains(MISSED)),
            "{cut:?} {step:?}: {:?}",
            ran.left
        );
        missed.push((cut, step.name.clone()));
    }
    println!(
        "{} steps, {} cuts: {completed} completed, {} missed a round: {missed:?}",
        dry.taken.len(),
        cuts.len(),
        missed.len()
    );
    assert!(missed.len() * 5 <= cuts.len(), "{missed:?}");
}

/// A server that shows a member another roster after its crash, signed with its own key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_crashed_after_it_noted_a_roster_echoes_and_releases_for_no_other() {
    let dry = run(None).await;
    let first = |name: &str| {
        let step = dry.taken.iter().position(|taken| taken.name == name);
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
            rounds: 1,
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
fn sent_for(
    front: &ciphertune_tests::front::Front,
    member: &ciphertune_round::Fingerprint,
) -> Vec<Vec<u8>> {
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
    lives_that_ended_well: usize,
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
        "{} jobs: {} kills, {} aborts at a write; {} lives ended well, {} jobs were left after a missed round",
        tally.jobs, tally.kills, tally.aborts, tally.lives_that_ended_well, tally.missed
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
    let job = wish(4).job(INSTITUTION).unwrap();
    let (_researcher, digest) = federation.submit_job(job.clone()).await;
    let ended = federation.home_of(VICTIM, &digest).join("ended");
    tally.jobs += 1;
    let completed = loop {
        let enough = tally.kills >= kills;
        match live(&federation, enough).await {
            Fate::Killed => tally.kills += 1,
            Fate::Aborted => tally.aborts += 1,
            Fate::Missed => {
                tally.missed += 1;
                break false;
            }
            Fate::Completed => {
                tally.lives_that_ended_well += 1;
                break true;
            }
        }
        // Killed after all was done: it would wait for another job.
        if ended.exists() {
            break true;
        }
    };
    for other in &mut others {
        let outcome = other.end().await.unwrap();
        assert!(outcome.completed, "{outcome:?} {:?}", other.voided());
    }
    if !completed {
        // Its home is in the middle of things: it has yet to hear how the job ended.
        let fate = live(&federation, true).await;
        assert!(matches!(fate, Fate::Missed), "a missed round came back");
    }
    let rounds = federation
        .model(VICTIM, &digest)
        .map_or(0, |model| model.round);
    assert!(completed == (rounds == job.rounds), "{rounds} rounds");
    let plaintext = federation.plaintext_folder();
    witness::examine(&federation, MEMBERS, &front, &record, &job, &plaintext).await;
    server.stop().await;
}

/// How a life ended.
#[derive(Debug)]
enum Fate {
    /// Killed, at a random time.
    Killed,
    /// Aborted, at a random durable write.
    Aborted,
    /// It finished the job.
    Completed,
    /// It came back too late for a round and said so.
    Missed,
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
        arguments.push(PathBuf::from((1 + random(60)).to_string()));
    }
    let mut process = Command::new(env!("CARGO_BIN_EXE_member"))
        .args(arguments)
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
    let living = async {
        let mut missed = false;
        while let Some(line) = lines.next_line().await.unwrap() {
            missed |= line.contains(MISSED);
            if missed && !spared {
                return Some(Fate::Missed);
            }
            match line.split(':').next() {
                Some("completed") => return Some(Fate::Completed),
                Some("ended") => return Some(Fate::Missed),
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
