//! What every attack is held against: honest members of a federation, whose round goes on.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use ciphertune_round::{Ended, Plan, Roster, Signed};
use ciphertune_wire::proto::{DirectoryRequest, EventKind};

use crate::common::{Federation, Member, POLICY, Server, sum_of};

/// Amply: an honest call takes a few milliseconds.
pub const PROMPTLY: Duration = Duration::from_secs(8);

/// Four members; the last one is the attacker's, who is seated in no round.
pub fn federation() -> Federation {
    Federation::new(4, POLICY)
}

/// The attacker's place among the members.
pub const ATTACKER: usize = 3;

/// A round of the three honest ones, under way.
pub async fn begin<'a>(
    federation: &'a Federation,
    server: &Server,
) -> (Vec<Member<'a>>, Signed<Plan>) {
    let job = federation.job(|job| job.expected_members = 3);
    federation.submit(server, &job).await.unwrap();
    let mut members = Vec::new();
    for number in 0..3 {
        let mut member = federation.member(server, number).await;
        member.put_keys(4).await;
        member.follow().await;
        member.admit(&job, None).await.unwrap();
        members.push(member);
    }
    let mut plan = None;
    for member in &mut members {
        plan = Some(member.next::<Plan>(EventKind::Plan).await);
    }
    (members, plan.unwrap())
}

/// An honest member is answered.
pub async fn is_answered(member: &mut Member<'_>) {
    let answered = member.client.directory(DirectoryRequest {});
    tokio::time::timeout(PROMPTLY, answered)
        .await
        .expect("an honest member waits for its answer")
        .unwrap();
}

/// A new honest connection is served.
pub async fn is_let_in(federation: &Federation, server: &Server) {
    let connected = federation.member(server, 1);
    let mut member = tokio::time::timeout(PROMPTLY, connected)
        .await
        .expect("an honest member waits for its handshake");
    is_answered(&mut member).await;
}

/// The round of the honest members completes with their sum, and then nothing is left of it or of anybody's attack.
pub async fn completes(federation: &Federation, mut members: Vec<Member<'_>>, plan: &Signed<Plan>) {
    for member in &mut members {
        if !member.offset(plan.context()).await.unwrap().complete {
            member.contribute(plan).await;
        }
    }
    let words: Vec<_> = members.iter().map(|member| member.words()).collect();
    let mut roster = None;
    for member in &mut members {
        roster = Some(member.next::<Roster>(EventKind::Roster).await);
    }
    let roster = roster.unwrap();
    assert_eq!(roster.headers.len(), members.len());
    let sum = members[0].get_sum(plan.context(), 0).await.unwrap();
    assert!(sum == sum_of(&words), "not the sum of the honest ones");
    for member in &mut members {
        member.release(plan, &roster).await.unwrap();
    }
    for member in &mut members {
        member.agree(plan, b"model").await.unwrap();
    }
    let ended = members[0].next::<Ended>(EventKind::Ended).await;
    assert!(ended.completed, "{}", ended.reason);
    assert_eq!(
        files(&federation.data().join("contexts")),
        [] as [PathBuf; 0]
    );
}

/// Every file below a folder.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type().unwrap().is_dir() {
            true => found.extend(files(&entry.path())),
            false => found.push(entry.path()),
        }
    }
    found
}

/// Bytes below a folder.
pub fn bytes_under(folder: &Path) -> u64 {
    let length = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
    files(folder).iter().map(length).sum()
}
