//! Certificates that end, are revoked, or renewed, while the server runs and connections are open.

mod common;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use ciphertune_identity::{Validity, tls};
use ciphertune_round::{Roster, Void};
use ciphertune_wire::{
    Meter, Refusal, connect,
    proto::{DirectoryRequest, EventKind},
};
use common::{Federation, POLICY, refusal, sum_of};
use tokio::sync::watch;

fn days(days: u32) -> Validity {
    Validity::days(SystemTime::now() - Duration::from_secs(3600), days).unwrap()
}

/// Waits until the server holds callers to list `number`.
async fn in_force(client: &mut ciphertune_wire::Client, number: u64) {
    for _ in 0..500 {
        let reply = client.directory(DirectoryRequest {}).await.unwrap();
        let list = reply.into_inner().revocations;
        let list = ciphertune_identity::RevocationList::from_pem(&list).unwrap();
        if list.number() >= number {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("list {number} never came into force");
}

#[tokio::test]
async fn who_is_revoked_is_out_at_the_next_call_on_the_connection_that_is_open() {
    let federation = Federation::new(4, POLICY);
    let (changes, credentials) = watch::channel(federation.server_credentials(&federation.list));
    let server = federation.serve_with(|config| config.credentials = credentials);
    let mut first = federation.member(&server, 0).await;
    let mut other = federation.member(&server, 1).await;
    first.follow().await;
    first.client.directory(DirectoryRequest {}).await.unwrap();
    let list = federation.list_of(2, &[0], days(30));
    changes.send_replace(federation.server_credentials(&list));
    in_force(&mut other.client, 2).await;
    let called = first.client.directory(DirectoryRequest {}).await;
    assert_eq!(refusal(called), Refusal::Revoked);
    assert_eq!(first.stream_ends().await, Refusal::Revoked);
    // And in a new handshake.
    let own = tls::client_config(
        &federation.credentials(&federation.members[0]),
        &federation.members[0].key,
    );
    let again = match connect(&server.address(), own.unwrap(), Meter::default()).await {
        Err(_) => true,
        Ok(mut client) => client.directory(DirectoryRequest {}).await.is_err(),
    };
    assert!(again, "a revoked member connected");
    // A list that does not succeed is not taken: the member stays out.
    let none = federation.list_of(1, &[], days(30));
    changes.send_replace(federation.server_credentials(&none));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let called = first.client.directory(DirectoryRequest {}).await;
    assert_eq!(refusal(called), Refusal::Revoked);
    let three = federation.list_of(3, &[0, 2], days(30));
    changes.send_replace(federation.server_credentials(&three));
    in_force(&mut other.client, 3).await;
    let called = first.client.directory(DirectoryRequest {}).await;
    assert_eq!(refusal(called), Refusal::Revoked);
    server.stop().unwrap();
}

#[tokio::test]
async fn a_member_revoked_before_the_close_is_in_no_roster_and_the_sum_is_of_the_others() {
    let federation = Federation::new(4, POLICY);
    let (changes, credentials) = watch::channel(federation.server_credentials(&federation.list));
    let server = federation.serve_with(|config| config.credentials = credentials);
    let job = federation.job(|job| job.expected_members = 4);
    let (mut members, plan) = federation.begin(&server, &job).await;
    members[1].contribute(&plan).await;
    members[0].contribute(&plan).await;
    let list = federation.list_of(2, &[1], days(30));
    changes.send_replace(federation.server_credentials(&list));
    in_force(&mut members[0].client, 2).await;
    members[2].contribute(&plan).await;
    members[3].contribute(&plan).await;
    let roster = members[0].next::<Roster>(EventKind::Roster).await;
    let seats: Vec<usize> = roster
        .contributors(&plan, federation.manifest.value(), None)
        .unwrap()
        .iter()
        .map(|one| one.seat.position())
        .collect();
    assert_eq!(seats, [0, 2, 3]);
    let bodies: Vec<_> = [0, 2, 3].map(|at: usize| members[at].words()).into();
    let sum = members[0].get_sum(plan.context(), 0).await.unwrap();
    assert!(sum == sum_of(&bodies), "not the sum of the others");
    server.stop().unwrap();
}

#[tokio::test]
async fn with_too_few_left_the_attempt_is_void_at_once_even_if_the_list_came_while_the_server_was_down()
 {
    let federation = Federation::new(3, POLICY);
    let server = federation.serve();
    let job = federation.job(|job| job.max_attempts = 2);
    let (mut members, plan) = federation.begin(&server, &job).await;
    members[1].contribute(&plan).await;
    server.stop().unwrap();
    drop(members);
    let list = federation.list_of(2, &[1], days(30));
    let credentials = watch::channel(federation.server_credentials(&list)).1;
    let server = federation.serve_with(|config| config.credentials = credentials);
    let mut member = federation.member(&server, 0).await;
    member.follow().await;
    let void = member.next::<Void>(EventKind::Void).await;
    assert!(
        void.reason.contains("the certificate of m1 was revoked"),
        "{}",
        void.reason
    );
    server.stop().unwrap();
}

#[tokio::test]
async fn a_certificate_that_ended_is_refused_on_a_connection_and_a_list_that_ended_refuses_everybody()
 {
    let federation = Federation::new(3, POLICY);
    for (list, expected) in [
        (federation.list_of(1, &[], days(50)), Refusal::Expired),
        (federation.list_of(2, &[], days(30)), Refusal::StaleList),
    ] {
        let credentials = watch::channel(federation.server_credentials(&list)).1;
        let server = federation.serve_with(|config| {
            config.credentials = credentials;
            config.clock = Arc::new(|| SystemTime::now() + Duration::from_secs(31 * 86_400));
        });
        let mut member = federation.connect(&server, &federation.members[0]).await;
        let called = member.directory(DirectoryRequest {}).await;
        assert_eq!(refusal(called), expected);
        server.stop().unwrap();
    }
}

#[tokio::test]
async fn an_old_kit_brings_nobody_back() {
    let federation = Federation::new(3, POLICY);
    let list = federation.list_of(2, &[0], days(30));
    let newer = watch::channel(federation.server_credentials(&list)).1;
    federation
        .serve_with(|config| config.credentials = newer)
        .stop()
        .unwrap();
    // The first list again, as from a backup.
    let server = federation.serve();
    let mut other = federation.member(&server, 1).await;
    in_force(&mut other.client, 2).await;
    let own = tls::client_config(
        &federation.credentials(&federation.members[0]),
        &federation.members[0].key,
    );
    let refused = connect(&server.address(), own.unwrap(), Meter::default()).await;
    assert!(
        matches!(&refused, Err(ciphertune_wire::Error::TurnedAway { reason, .. }) if reason.contains("revoked")),
        "{refused:?}"
    );
    server.stop().unwrap();
}

#[tokio::test]
async fn what_begins_later_is_not_taken() {
    let federation = Federation::new(3, POLICY);
    let tomorrow = SystemTime::now() + Duration::from_secs(86_400);
    let early = federation.list_of(2, &[], Validity::days(tomorrow, 30).unwrap());
    let early = watch::channel(federation.server_credentials(&early)).1;
    let ended = federation.serve_with(|config| config.credentials = early);
    let said = ended.stop().expect_err("a refusal").to_string();
    assert!(
        said.contains("does not hold before") && said.contains("clock"),
        "{said}"
    );
}
