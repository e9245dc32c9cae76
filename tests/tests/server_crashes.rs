//! A server that dies between any two durable writes, or in the middle of one, and is started again on its folder: the round goes
//! on, no contribution is lost and none is counted twice, and what comes out is plaintext FedAvg to the bit.
//!
//! The server is a process that aborts at each durable write of a job of two rounds in turn; gaps that are alike are cut once, unless
//! `CIPHERTUNE_EVERY_CUT` is set. Then it is killed at random, `CIPHERTUNE_KILLS` times (200 unless that is set). Its members are
//! told nothing: they come again until somebody answers. What must hold afterwards stands in [`witness`](ciphertune_tests::witness).

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ciphertune_identity::watch::{Does, Watched};
use ciphertune_round::{Digest, Job};
use ciphertune_tests::{
    cut::{Cut, Taken, Where, cuts},
    federation::{Federation, LABORATORY, Member, Wish},
    front::Front,
    learner::{Vectors, first_model},
    lives::Lives,
    plaintext::{Quantiser, add_up},
    witness::{self, Record},
};
use tokio::{
    sync::Semaphore,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

const PROGRAM: &str = env!("CARGO_BIN_EXE_server");
const DIMENSION: usize = 3_000;
/// Of [`LABORATORY`].
const CLIP: u64 = 3;
/// Of a job whose server is killed at random.
const ROUNDS: u32 = 4;
const MEMBERS: usize = 3;
/// Federations at a time: most of a round is waiting.
const AT_A_TIME: usize = 6;

/// Deadlines that nobody comes near.
fn wish(rounds: u32) -> Wish {
    Wish {
        rounds,
        max_attempts: 2,
        seconds: [90, 90, 90],
        ..Wish::of(MEMBERS, DIMENSION)
    }
}

fn join(federation: &Federation) -> Vec<Member> {
    let joined = (0..MEMBERS).map(|member| {
        let plaintext = federation.plaintext_folder();
        let learner = Vectors::of(member, DIMENSION);
        federation.join_on(Default::default(), learner, |mut options| {
            options.dangerous_plaintext = Some(plaintext);
            options
        })
    });
    joined.collect()
}

/// What a server writes that nothing happens to.
async fn written() -> Vec<Taken> {
    let mut federation = Federation::found(MEMBERS, LABORATORY).await;
    let watch = Arc::new(Cut::never(|| 0));
    let server = federation.serve_watched(Watched::by(Arc::clone(&watch) as _));
    let mut members = join(&federation);
    federation.submit(&wish(2)).await;
    for member in &mut members {
        assert!(member.end().await.unwrap().completed);
    }
    server.stop().await;
    watch.taken()
}

/// A federation whose server has lives.
struct Scene {
    federation: Federation,
    record: Record,
    lives: Arc<Lives>,
    front: Front,
}

impl Scene {
    async fn set() -> Self {
        let mut federation = Federation::found(MEMBERS, LABORATORY).await;
        let record = Record::default();
        let (lives, front) = federation.serve_in_lives(PROGRAM, record.lies());
        Self {
            federation,
            record,
            lives: Arc::new(lives),
            front,
        }
    }

    /// The plaintext average of every round is with every member, and an auditor finds nothing.
    async fn examine(self, job: &Job, digest: &Digest, what: &str) {
        let expected = average(job.rounds);
        for member in 0..MEMBERS {
            let model = self.federation.model(member, digest).expect("a model");
            assert!(model.state == expected, "{what}: another model");
        }
        let plaintext = self.federation.plaintext_folder();
        witness::examine(
            &self.federation,
            MEMBERS,
            &self.front,
            &self.record,
            job,
            &plaintext,
        )
        .await;
    }
}

/// FedAvg of all members in plaintext, round by round.
fn average(rounds: u32) -> Vec<f32> {
    let quantiser = Quantiser::derive(CLIP, None, 12, DIMENSION);
    (1..=rounds).fold(first_model(DIMENSION), |model, round| {
        let quantised: Vec<Vec<i64>> = (0..MEMBERS)
            .map(|member| quantiser.quantise(&Vectors::of(member, DIMENSION).update(round)))
            .collect();
        quantiser.average_onto(&model, &add_up(&quantised), MEMBERS)
    })
}

/// Runs a job of two rounds whose server dies once, and is started again. Returns whether it died.
async fn die_at(cut: (usize, Where)) -> bool {
    let scene = Scene::set().await;
    let (lives, died) = (Arc::clone(&scene.lives), Arc::new(AtomicBool::new(false)));
    let dead = Arc::clone(&died);
    let keeper = Kept(tokio::spawn(async move {
        lives.begin(Some(cut)).end().await;
        dead.store(true, Ordering::SeqCst);
        let _life = lives.begin(None);
        std::future::pending::<()>().await;
    }));
    let mut members = join(&scene.federation);
    let job = wish(2).job(LABORATORY).unwrap();
    let (_, digest) = scene.federation.submit_job(job.clone()).await;
    ends(&mut members, &format!("{cut:?}")).await;
    keeper.end().await;
    scene.examine(&job, &digest, &format!("{cut:?}")).await;
    died.load(Ordering::SeqCst)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_at_any_durable_write_loses_nothing_and_counts_nothing_twice() {
    let taken = written().await;
    let kinds: BTreeSet<_> = taken.iter().map(|taken| taken.does).collect();
    let all = [
        Does::WritesFile,
        Does::PutsObject,
        Does::AppendsLine,
        Does::Commits,
        Does::RemovesFile,
    ];
    assert_eq!(kinds, BTreeSet::from(all));
    let cuts = cuts(&taken);
    println!("{} steps, {} cuts", taken.len(), cuts.len());
    let turns = Arc::new(Semaphore::new(AT_A_TIME));
    let mut runs = JoinSet::new();
    for cut in cuts.clone() {
        let (turns, step) = (Arc::clone(&turns), taken[cut.0 - 1].clone());
        runs.spawn(async move {
            let _turn = turns.acquire_owned().await.unwrap();
            println!("{cut:?}: {:?} {}", step.does, step.name);
            die_at(cut).await
        });
    }
    let mut deaths = 0;
    while let Some(died) = runs.join_next().await {
        deaths += usize::from(died.unwrap_or_else(|error| panic!("{error}")));
    }
    // Who comes first differs from run to run, and with it how much is written: a cut near the end may be beyond it.
    println!("{deaths} deaths");
    assert!(deaths * 5 >= cuts.len() * 4);
}

/// A job whose server lives for a random time, and again, as long as `kills` are left.
async fn live_and_be_killed(kills: Arc<AtomicUsize>) {
    let scene = Scene::set().await;
    let lives = Arc::clone(&scene.lives);
    let keeper = Kept(tokio::spawn(async move {
        let take = |left: usize| left.checked_sub(1);
        loop {
            let mut life = lives.begin(None);
            let spared = kills.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take);
            if spared.is_err() {
                std::future::pending::<()>().await;
            }
            sleep(Duration::from_millis(30 + random(700))).await;
            life.kill();
            sleep(Duration::from_millis(random(50))).await;
        }
    }));
    let mut members = join(&scene.federation);
    let job = wish(ROUNDS).job(LABORATORY).unwrap();
    let (_, digest) = scene.federation.submit_job(job.clone()).await;
    ends(&mut members, "killed at random").await;
    keeper.end().await;
    scene.examine(&job, &digest, "killed at random").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_again_and_again_goes_on_with_the_job() {
    let kills = std::env::var("CIPHERTUNE_KILLS").map_or(200, |kills| {
        kills.parse().expect("CIPHERTUNE_KILLS: a number")
    });
    let (left, mut jobs) = (Arc::new(AtomicUsize::new(kills)), 0);
    let mut runs = JoinSet::new();
    while left.load(Ordering::SeqCst) > 0 || !runs.is_empty() {
        while left.load(Ordering::SeqCst) > 0 && runs.len() < AT_A_TIME {
            runs.spawn(live_and_be_killed(Arc::clone(&left)));
            jobs += 1;
        }
        let ran = runs.join_next().await.expect("a run");
        ran.unwrap_or_else(|error| panic!("{error}"));
    }
    println!("{kills} kills in {jobs} jobs of {ROUNDS} rounds");
}

async fn ends(members: &mut [Member], what: &str) {
    for member in members {
        let outcome = member.end().await;
        assert!(
            outcome.as_ref().is_ok_and(|outcome| outcome.completed),
            "{what}: {outcome:?} {:?}",
            member.happenings()
        );
        assert_eq!(member.voided(), Vec::<String>::new(), "{what}");
    }
}

/// A task that starts servers; none lives on when it is over.
struct Kept(JoinHandle<()>);

impl Kept {
    async fn end(self) {
        self.0.abort();
        let ended = self.0.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()));
    }
}

/// From 0 to below `limit`.
fn random(limit: u64) -> u64 {
    getrandom::u64().unwrap() % limit
}
