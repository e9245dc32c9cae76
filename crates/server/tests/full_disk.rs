//! A full disk pauses the server: nothing is lost, nobody's deadline passes, and it goes on when there is room.

mod common;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use ciphertune_identity::watch::{Step, Watch, Watched};
use ciphertune_round::{Digest, Plan, Roster};
use ciphertune_wire::{
    Refusal,
    proto::{EventKind, JobState, JobStatusRequest},
};

use common::{Federation, Member, POLICY, refusal, sum_of};

/// A disk with so many bytes free.
struct Free(AtomicU64);

impl Watch for Free {
    fn before(&self, _: &Step<'_>) -> io::Result<()> {
        Ok(())
    }

    fn after(&self, _: &Step<'_>) -> io::Result<()> {
        Ok(())
    }

    fn free(&self) -> Option<u64> {
        Some(self.0.load(Ordering::SeqCst))
    }
}

impl Free {
    fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::SeqCst);
    }
}

/// What the server keeps free.
const KEPT: u64 = 1 << 20;
const PLENTY: u64 = 1 << 40;

async fn state(member: &mut Member<'_>) -> JobState {
    let all = JobStatusRequest { job: Vec::new() };
    let reply = member.client.job_status(all).await.unwrap();
    reply.into_inner().jobs.remove(0)
}

async fn until(member: &mut Member<'_>, holds: impl Fn(&JobState) -> bool) -> JobState {
    for _ in 0..1_000 {
        let state = state(member).await;
        if holds(&state) {
            return state;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("it never comes to that");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_pauses_and_nobodys_deadline_passes_meanwhile() {
    let federation = Federation::new(3, POLICY);
    let disk = Arc::new(Free(AtomicU64::new(PLENTY)));
    let server = federation.serve_with(|config| {
        config.keep_free = KEPT;
        config.disk = Watched::by(Arc::clone(&disk) as _);
    });
    let job = federation.job(|job| job.deadlines.contribute = Duration::from_secs(3));
    let (mut members, plan) = federation.begin(&server, &job).await;
    let bodies: Vec<_> = members.iter().map(|member| member.words()).collect();
    members[0].contribute(&plan).await;

    disk.set(KEPT - 1);
    let paused = until(&mut members[0], |state| !state.paused.is_empty()).await;
    assert!(paused.paused.contains("disk is full"), "{}", paused.paused);
    let body = members[1].body();
    assert_eq!(
        refusal(members[1].put_header(&plan, &body).await),
        Refusal::Full
    );
    assert_eq!(
        refusal(members[1].put_body(plan.context(), 0, &body).await),
        Refusal::Full
    );
    assert_eq!(
        refusal(federation.submit(&server, &federation.job(|_| ())).await),
        Refusal::Full
    );
    // Longer than the deadline: it would be void by now.
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert_eq!(state(&mut members[0]).await.phase, "contributing");

    disk.set(PLENTY);
    let on = until(&mut members[0], |state| state.paused.is_empty()).await;
    assert_eq!((on.phase.as_str(), on.attempt), ("contributing", 1));
    for member in &mut members[1..] {
        member.contribute(&plan).await;
    }
    let roster = members[0].next::<Roster>(EventKind::Roster).await;
    assert_eq!(roster.headers.len(), 3);
    let sum = members[0].get_sum(plan.context(), 0).await.unwrap();
    assert!(sum == sum_of(&bodies) && Digest::sha256(&sum) == roster.sum);
    drop(members);
    server.stop().unwrap();
    let log = std::fs::read_to_string(federation.data().join("audit.jsonl")).unwrap();
    assert_eq!(log.matches(r#""kind":"resumed""#).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_round_that_the_disk_has_no_room_for_is_not_begun_and_others_are() {
    let federation = Federation::new(3, POLICY);
    let disk = Arc::new(Free(AtomicU64::new(KEPT + (20 << 20))));
    let server = federation.serve_with(|config| {
        config.keep_free = KEPT;
        config.disk = Watched::by(Arc::clone(&disk) as _);
    });
    let job = federation.job(|job| {
        job.dimension = 10_000_000;
        job.state = job.dimension;
    });
    federation.submit(&server, &job).await.unwrap();
    let mut members = Vec::new();
    for number in 0..3 {
        let mut member = federation.member(&server, number).await;
        member.put_keys(4).await;
        member.follow().await;
        member.admit(&job, None).await.unwrap();
        members.push(member);
    }
    let waits = until(&mut members[0], |state| !state.paused.is_empty()).await;
    assert!(waits.paused.contains("next round"), "{}", waits.paused);
    assert_eq!(waits.phase, "admitting");
    // Nothing else stands still: this is small.
    assert_eq!(members[0].put_keys(5).await, 5);
    disk.set(PLENTY);
    members[0].next::<Plan>(EventKind::Plan).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_started_on_a_full_disk_goes_on_with_its_jobs_when_there_is_room() {
    let federation = Federation::new(3, POLICY);
    let disk = Arc::new(Free(AtomicU64::new(PLENTY)));
    let watched = || Watched::by(Arc::clone(&disk) as Arc<dyn Watch>);
    let server = federation.serve_with(|config| config.disk = watched());
    let job = federation.job(|job| job.deadlines.contribute = Duration::from_secs(2));
    let (members, plan) = federation.begin(&server, &job).await;
    drop(members);
    server.kill();
    disk.set(KEPT / 2);
    let server = federation.serve_with(|config| {
        config.keep_free = KEPT;
        config.disk = watched();
    });
    // Past the deadline.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let mut member = federation.member(&server, 0).await;
    let paused = state(&mut member).await;
    assert!(!paused.paused.is_empty() && paused.phase == "contributing");
    disk.set(PLENTY);
    until(&mut member, |state| state.paused.is_empty()).await;
    let body = member.body();
    member.put_header(&plan, &body).await.unwrap();
    assert!(
        member
            .put_body(plan.context(), 0, &body)
            .await
            .unwrap()
            .complete
    );
}
