//! Whole rounds over a real socket with mutual TLS. Members pretend; everything else is as in production.

mod common;

use std::time::Duration;

use ciphertune_round::{Digest, Ended, Header, Plan, Roster, Signed, Void};
use ciphertune_wire::{
    Refusal,
    limits::MESSAGE_BYTES,
    proto::{EventKind, JobStatusRequest, PutSharesRequest, ShareKind},
};
use common::{Federation, POLICY, files_under, refusal, sum_of};

#[tokio::test]
async fn three_members_finish_a_job_of_two_rounds_and_the_sum_is_the_modular_sum() {
    let federation = Federation::new(3, POLICY);
    let server = federation.serve();
    let job = federation.job(|job| job.rounds = 2);
    let (mut members, mut plan) = federation.begin(&server, &job).await;
    let bodies: Vec<_> = members.iter().map(|member| member.words()).collect();
    for round in 1..=2 {
        assert_eq!((plan.round, plan.attempt), (round, 1));
        let members_of_it = federation.manifest.value().members();
        let everybody: Vec<_> = members_of_it.map(|party| party.fingerprint()).collect();
        plan.check_against(&job, &everybody).unwrap();
        plan.parameters().unwrap();
        let context = plan.context();
        assert_eq!(
            refusal(members[0].get_sum(context, 0).await),
            Refusal::Conflict
        );
        assert_eq!(
            refusal(members[0].get_shares(context, ShareKind::Key).await),
            Refusal::Conflict
        );
        for member in &mut members {
            member.contribute(&plan).await;
        }
        let mut rosters = Vec::new();
        for member in &mut members {
            rosters.push(member.next::<Roster>(EventKind::Roster).await);
        }
        let roster = rosters[0].clone();
        assert!(rosters.iter().all(|other| *other == roster));
        assert_eq!(
            roster
                .contributors(&plan, federation.manifest.value(), None)
                .unwrap()
                .len(),
            3
        );
        let sum = members[1].get_sum(context, 0).await.unwrap();
        assert!(sum == sum_of(&bodies), "not the sum");
        assert_eq!(Digest::sha256(&sum), roster.sum);
        assert!(members[1].get_sum(context, 40_000).await.unwrap() == sum[40_000..]);
        let shares = members[2]
            .get_shares(context, ShareKind::Key)
            .await
            .unwrap();
        let expected: Vec<_> = (0..3)
            .map(|i| (i + 1, format!("share of {i} for 2").into_bytes()))
            .collect();
        assert_eq!(shares, expected);
        for member in &mut members {
            member.echo(&roster).await.unwrap();
        }
        for member in &mut members {
            member.release(&plan, &roster).await.unwrap();
        }
        assert_eq!(
            members[0]
                .get_shares(context, ShareKind::KeySum)
                .await
                .unwrap()
                .len(),
            3
        );
        for member in &mut members {
            member
                .agree(&plan, format!("model {round}").as_bytes())
                .await
                .unwrap();
        }
        if round == 1 {
            for member in &mut members {
                plan = member.next::<Plan>(EventKind::Plan).await;
            }
            assert_eq!(plan.model, Digest::sha256(b"model 1"));
            assert_eq!(refusal(members[0].get_sum(context, 0).await), Refusal::Late);
        }
    }
    let ended = members[0].next::<Ended>(EventKind::Ended).await;
    assert!(ended.completed && ended.rounds == 2, "{ended:?}");
    let status = members[0]
        .client
        .job_status(JobStatusRequest { job: Vec::new() })
        .await
        .unwrap();
    assert_eq!(status.into_inner().jobs[0].phase, "completed");
    assert_eq!(files_under(&federation.data().join("contexts")), 0);
    drop(members);
    server.stop().unwrap();
    let (entries, _) =
        ciphertune_audit::verify_file(federation.data().join("audit.jsonl")).unwrap();
    assert!(entries > 20, "{entries}");
}

#[tokio::test]
async fn a_missing_member_is_left_out_of_the_roster_at_the_deadline() {
    let federation = Federation::new(4, POLICY);
    let server = federation.serve();
    let job = federation.job(|job| job.deadlines.contribute = Duration::from_secs(4));
    let (mut members, plan) = federation.begin(&server, &job).await;
    for member in &mut members[..3] {
        member.contribute(&plan).await;
    }
    let bodies: Vec<_> = members[..3].iter().map(|member| member.words()).collect();
    let roster = members[0].next::<Roster>(EventKind::Roster).await;
    assert_eq!(roster.headers.len(), 3);
    assert!(members[3].get_sum(plan.context(), 0).await.unwrap() == sum_of(&bodies));
    let body = members[3].body();
    assert_eq!(
        refusal(members[3].put_header(&plan, &body).await),
        Refusal::Late
    );
    assert_eq!(
        refusal(members[3].put_body(plan.context(), 0, &body).await),
        Refusal::Late
    );
}

#[tokio::test]
async fn too_few_contributions_void_the_attempt_and_a_new_one_has_new_keys() {
    let federation = Federation::new(3, POLICY);
    let server = federation.serve();
    let job = federation.job(|job| job.deadlines.contribute = Duration::from_secs(3));
    let (mut members, first) = federation.begin(&server, &job).await;
    members[0].contribute(&first).await;
    let void = members[0].next::<Void>(EventKind::Void).await;
    assert_eq!(void.context, first.context());
    let second = members[0].next::<Plan>(EventKind::Plan).await;
    assert_eq!((second.round, second.attempt), (1, 2));
    for (old, new) in first.seats.iter().zip(&second.seats) {
        assert_eq!(old.member, new.member);
        assert_ne!(old.one_time_key, new.one_time_key);
    }
    let ended = members[0].next::<Ended>(EventKind::Ended).await;
    assert!(!ended.completed);
}

#[tokio::test]
async fn a_server_that_is_killed_goes_on_with_the_round_after_its_restart() {
    let federation = Federation::new(3, POLICY);
    let server = federation.serve();
    let job = federation.job(|_| ());
    let (mut members, plan) = federation.begin(&server, &job).await;
    let context = plan.context();
    members[0].contribute(&plan).await;
    let body = members[1].body();
    members[1].put_header(&plan, &body).await.unwrap();
    members[1]
        .put_body(context, 0, &body[..8_000])
        .await
        .unwrap();
    drop(members);
    server.kill();

    let server = federation.serve();
    let mut members = Vec::new();
    for number in 0..3 {
        let mut member = federation.member(&server, number).await;
        member.follow().await;
        assert_eq!(member.next::<Plan>(EventKind::Plan).await, plan);
        members.push(member);
    }
    assert!(members[0].offset(context).await.unwrap().complete);
    let offset = members[1].offset(context).await.unwrap();
    assert_eq!((offset.durable, offset.complete), (8_000, false));
    assert!(
        members[1]
            .put_body(context, 8_000, &body[8_000..])
            .await
            .unwrap()
            .complete
    );
    members[2].contribute(&plan).await;
    let roster = members[2].next::<Roster>(EventKind::Roster).await;
    let bodies: Vec<_> = members.iter().map(|member| member.words()).collect();
    assert!(members[0].get_sum(context, 0).await.unwrap() == sum_of(&bodies));
    for member in &mut members {
        member.echo(&roster).await.unwrap();
        member.release(&plan, &roster).await.unwrap();
    }
    drop(members);
    server.kill();

    let server = federation.serve();
    let mut members = Vec::new();
    for number in 0..3 {
        let mut member = federation.member(&server, number).await;
        member.follow().await;
        members.push(member);
    }
    assert_eq!(
        members[0]
            .get_shares(context, ShareKind::KeySum)
            .await
            .unwrap()
            .len(),
        3
    );
    for member in &mut members {
        member.agree(&plan, b"model").await.unwrap();
    }
    assert!(members[0].next::<Ended>(EventKind::Ended).await.completed);
}

#[tokio::test]
async fn a_disagreement_ends_the_job_and_names_the_dissenter() {
    let federation = Federation::new(3, POLICY);
    let server = federation.serve();
    let (mut members, plan) = federation.begin(&server, &federation.job(|_| ())).await;
    for member in &mut members {
        member.contribute(&plan).await;
    }
    let roster = members[0].next::<Roster>(EventKind::Roster).await;
    for member in &mut members {
        member.release(&plan, &roster).await.unwrap();
    }
    members[0].agree(&plan, b"model").await.unwrap();
    members[1].agree(&plan, b"model").await.unwrap();
    members[2].agree(&plan, b"another").await.unwrap();
    let ended = members[0].next::<Ended>(EventKind::Ended).await;
    assert!(
        !ended.completed && ended.reason.contains("dissenting: m2"),
        "{}",
        ended.reason
    );
}

/// Two hundred and fifty sealed shares of 33,904 bytes, more than one message carries: taken in several, whole or not at all.
#[tokio::test]
async fn shares_larger_than_a_message_are_taken_in_several() {
    const MEMBERS: usize = 250;
    let federation = Federation::new(MEMBERS, POLICY);
    let server = federation.serve();
    let job = federation.job(|job| job.expected_members = MEMBERS);
    let (mut members, plan) = federation.begin(&server, &job).await;
    let shares: Vec<Vec<u8>> = (0..MEMBERS).map(|seat| vec![seat as u8; 33_904]).collect();
    assert!(shares.concat().len() > MESSAGE_BYTES);
    let context = plan.context();
    let header = Header {
        context,
        body: Digest::sha256(b"body"),
        shares: shares.iter().map(|share| Digest::sha256(share)).collect(),
    };
    let signed = Signed::sign(header, members[0].key()).encode();
    let messages = |shares: &[Vec<u8>]| {
        let mut first = Some(signed.clone());
        let messages = shares.chunks(7).map(|shares| PutSharesRequest {
            context: context.as_bytes().to_vec(),
            kind: ShareKind::Key.into(),
            signed: first.take().unwrap_or_default(),
            shares: shares.to_vec(),
        });
        tokio_stream::iter(messages.collect::<Vec<_>>())
    };
    let mut client = members[0].client.clone();
    let fewer = client.put_shares(messages(&shares[1..])).await;
    assert_eq!(refusal(fewer), Refusal::Malformed);
    let fewer = client.put_shares(messages(&shares[..MEMBERS - 1])).await;
    assert_eq!(refusal(fewer), Refusal::Malformed);
    let more = [shares.as_slice(), &shares[..1]].concat();
    let more = client.put_shares(messages(&more)).await;
    assert_eq!(refusal(more), Refusal::Malformed);
    client.put_shares(messages(&shares)).await.unwrap();
    // Again, as after a lost reply.
    client.put_shares(messages(&shares)).await.unwrap();
    let status = members[1]
        .client
        .job_status(JobStatusRequest::default())
        .await
        .unwrap();
    let progress = &status.into_inner().jobs[0].members;
    let partial = progress
        .iter()
        .filter(|member| member.progress == "partial")
        .count();
    assert_eq!(partial, 1, "the header is here, the body is not");
}
