//! What the server turns down, over a real socket with mutual TLS.

mod common;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use ciphertune_identity::{Validity, tls};
use ciphertune_round::{
    Digest, Header, OneTimeKeyOffer, PUBLIC_KEY_BYTES, Release, Roster, Signed, Signer as _,
};
use ciphertune_sum::Q;
use ciphertune_wire::{
    Error, Meter, Refusal, connect,
    limits::{CHUNK_BYTES, MESSAGE_BYTES},
    proto::{BodyChunk, DirectoryRequest, EventKind, PutOneTimeKeysRequest, ShareKind},
};
use tokio::sync::watch;

use common::{Federation, POLICY, bytes, chunks, refusal};

#[tokio::test]
async fn a_member_of_another_authority_is_refused_in_the_handshake() {
    let (ours, theirs) = (Federation::new(3, POLICY), Federation::new(3, POLICY));
    let server = ours.serve();
    let other = &theirs.members[0];
    // It trusts our server's authority by force: its own certificate is what must stop it.
    let own = tls::client_config(&theirs.credentials(other), &other.key).unwrap();
    let refused = connect(&server.address(), own, Meter::default()).await;
    assert!(
        matches!(refused, Err(Error::Handshake { .. })),
        "{refused:?}"
    );
}

#[tokio::test]
async fn who_is_not_in_the_manifest_is_a_stranger() {
    let federation = Federation::new(3, POLICY);
    let server = federation.serve();
    let mut client = federation.connect(&server, &federation.stranger).await;
    assert_eq!(
        refusal(client.directory(DirectoryRequest {}).await),
        Refusal::Stranger
    );
    let mut member = federation.connect(&server, &federation.members[0]).await;
    let reply = member
        .directory(DirectoryRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(reply.manifest, federation.manifest.encode());
}

#[tokio::test]
async fn a_job_is_the_callers_own_and_for_this_federation_and_submitted_once() {
    let federation = Federation::new(3, POLICY);
    let server = federation.serve();
    let job = federation.job(|_| ());
    let digest = federation.submit(&server, &job).await.unwrap();
    assert_eq!(federation.submit(&server, &job).await.unwrap(), digest);
    let elsewhere = federation.job(|job| job.federation = "elsewhere".into());
    assert_eq!(
        refusal(federation.submit(&server, &elsewhere).await),
        Refusal::Malformed
    );
    let unpackable = federation.job(|job| job.value_bound = 2046);
    assert_eq!(
        refusal(federation.submit(&server, &unpackable).await),
        Refusal::Malformed
    );
    let forged = Signed::sign(job.value().clone(), &federation.stranger.key);
    assert_eq!(
        refusal(federation.submit(&server, &forged).await),
        Refusal::Malformed
    );
}

#[tokio::test]
async fn a_body_that_is_not_the_signed_one_is_refused() {
    let federation = Federation::new(3, POLICY);
    let server = federation.serve();
    let (mut members, plan) = federation.begin(&server, &federation.job(|_| ())).await;
    let member = &mut members[0];
    let (context, body) = (plan.context(), member.body());
    member.put_header(&plan, &body).await.unwrap();

    // Too long: the last chunk is not taken, and what came before is not a body.
    let longer = [body.as_slice(), &[0; 8]].concat();
    assert_eq!(
        refusal(member.put_body(context, 0, &longer).await),
        Refusal::TooLarge
    );
    let held = member.offset(context).await.unwrap();
    assert!(!held.complete);
    // A gap, and a step back.
    for from in [held.durable + 8, 0] {
        assert_eq!(
            refusal(member.put_body(context, from, &body[..8]).await),
            Refusal::Conflict
        );
    }
    // A word that is not below q, and half a word.
    let not_canonical = bytes(&[Q]);
    assert_eq!(
        refusal(member.put_body(context, held.durable, &not_canonical).await),
        Refusal::Malformed
    );
    assert_eq!(
        refusal(member.put_body(context, held.durable, &[0; 7]).await),
        Refusal::Malformed
    );
    // Bytes of another body up to the right size: thrown away whole, and the right one is taken afterwards.
    let rest = vec![0; body.len() - usize::try_from(held.durable).unwrap()];
    assert_eq!(
        refusal(member.put_body(context, held.durable, &rest).await),
        Refusal::Malformed
    );
    assert_eq!(member.offset(context).await.unwrap().durable, 0);
    assert!(member.put_body(context, 0, &body).await.unwrap().complete);
    assert!(
        member.put_body(context, 0, &body).await.unwrap().complete,
        "sent again after a lost reply"
    );
}

#[tokio::test]
async fn a_truncated_stream_goes_on_where_it_stopped() {
    let federation = Federation::new(3, POLICY);
    let server = federation.serve();
    let (mut members, plan) = federation.begin(&server, &federation.job(|_| ())).await;
    let member = &mut members[0];
    let (context, body) = (plan.context(), member.body());
    member.put_header(&plan, &body).await.unwrap();
    let reply = member.put_body(context, 0, &body[..16_000]).await.unwrap();
    assert_eq!((reply.durable, reply.complete), (16_000, false));
    // A connection that dies in the middle: the caller gives up on a stream that never ends.
    let (sender, receiver) = tokio::sync::mpsc::channel::<BodyChunk>(1);
    let mut client = member.client.clone();
    let hanging = tokio::spawn(async move {
        client
            .put_body(tokio_stream::wrappers::ReceiverStream::new(receiver))
            .await
    });
    for chunk in chunks(context, 16_000, &body[16_000..32_000]) {
        sender.send(chunk).await.unwrap();
    }
    // The hanging stream still stands; who asks where to go on has another connection, which takes over. One that was under way
    // meanwhile may bring more: then it is asked again.
    loop {
        let held = member.offset(context).await.unwrap().durable;
        assert!((16_000..=32_000).contains(&held), "{held}");
        let rest = &body[usize::try_from(held).unwrap()..];
        match member.put_body(context, held, rest).await {
            Ok(reply) => break assert!(reply.complete),
            other => assert_eq!(refusal(other), Refusal::Conflict),
        }
    }
    if let Err(status) = hanging.await.unwrap() {
        assert_eq!(Refusal::of(&status), Some(Refusal::Conflict));
    }
}

#[tokio::test]
async fn a_second_header_and_one_of_another_context_are_refused() {
    let federation = Federation::new(3, POLICY);
    let server = federation.serve();
    let job = federation.job(|_| ());
    let (mut members, plan) = federation.begin(&server, &job).await;
    let body = members[0].body();
    members[0].put_header(&plan, &body).await.unwrap();
    members[0].put_header(&plan, &body).await.unwrap();
    assert_eq!(
        refusal(members[0].put_header(&plan, b"another").await),
        Refusal::Conflict
    );

    let shares = members[1].shares(&plan);
    let header = Header {
        context: plan.context(),
        body: Digest::sha256(&body),
        shares: shares.iter().map(|share| Digest::sha256(share)).collect(),
    };
    let signed = Signed::sign(header.clone(), members[1].key()).encode();
    let elsewhere = ciphertune_round::Context::of_plan(b"another plan");
    let replayed = members[1]
        .put_shares(elsewhere, ShareKind::Key, signed.clone(), shares.clone())
        .await;
    assert_eq!(refusal(replayed), Refusal::Malformed);
    let stolen = members[2]
        .put_shares(
            plan.context(),
            ShareKind::Key,
            signed.clone(),
            shares.clone(),
        )
        .await;
    assert_eq!(refusal(stolen), Refusal::Malformed);
    let mut garbled = shares.clone();
    garbled[0].push(0);
    let garbled = members[1]
        .put_shares(plan.context(), ShareKind::Key, signed, garbled)
        .await;
    assert_eq!(refusal(garbled), Refusal::Malformed);
    let few = Header {
        shares: header.shares[..2].to_vec(),
        ..header
    };
    let few = Signed::sign(few, members[1].key()).encode();
    let few = members[1]
        .put_shares(plan.context(), ShareKind::Key, few, shares[..2].to_vec())
        .await;
    assert_eq!(refusal(few), Refusal::Malformed);
    let unknown = members[1].put_body(elsewhere, 0, &body).await;
    assert_eq!(refusal(unknown), Refusal::Unknown);
}

#[tokio::test]
async fn a_body_replayed_from_the_last_context_is_refused() {
    let federation = Federation::new(3, POLICY);
    let server = federation.serve();
    let job = federation.job(|job| job.deadlines.contribute = Duration::from_secs(3));
    let (mut members, first) = federation.begin(&server, &job).await;
    let old = members[0].body();
    members[0].contribute(&first).await;
    let second = members[0]
        .next::<ciphertune_round::Plan>(EventKind::Plan)
        .await;
    let mut fresh = members[0].words();
    fresh[0] = 1;
    members[0]
        .put_header(&second, &bytes(&fresh))
        .await
        .unwrap();
    assert_eq!(
        refusal(members[0].put_body(second.context(), 0, &old).await),
        Refusal::Malformed
    );
    assert_eq!(
        refusal(members[0].put_body(first.context(), 0, &old).await),
        Refusal::Late
    );
}

#[tokio::test]
async fn a_second_echo_or_release_must_be_the_same() {
    let federation = Federation::new(3, POLICY);
    let server = federation.serve();
    let (mut members, plan) = federation.begin(&server, &federation.job(|_| ())).await;
    for member in &mut members {
        member.contribute(&plan).await;
    }
    let roster = members[0].next::<Roster>(EventKind::Roster).await;
    members[0].echo(&roster).await.unwrap();
    members[0].echo(&roster).await.unwrap();
    let other = Signed::sign(
        Roster {
            sum: Digest::sha256(b"another sum"),
            ..roster.value().clone()
        },
        members[0].key(),
    );
    assert_eq!(refusal(members[0].echo(&other).await), Refusal::Conflict);
    assert_eq!(
        refusal(members[0].release(&plan, &other).await),
        Refusal::Conflict
    );
    members[0].release(&plan, &roster).await.unwrap();
    let shares = members[0].shares(&plan);
    let release = Release {
        context: plan.context(),
        roster: roster.digest(),
        shares: shares.iter().map(|share| Digest::sha256(share)).collect(),
        check: None,
        ledger_head: Digest::sha256(b"another ledger"),
    };
    let signed = Signed::sign(release, members[0].key()).encode();
    let second = members[0]
        .put_shares(plan.context(), ShareKind::KeySum, signed, shares)
        .await;
    assert_eq!(refusal(second), Refusal::Conflict);
}

#[tokio::test]
async fn a_one_time_key_is_counted_once_and_never_taken_back_after_use() {
    let federation = Federation::new(3, POLICY);
    let server = federation.serve();
    let (mut members, _) = federation.begin(&server, &federation.job(|_| ())).await;
    assert_eq!(
        members[0].put_keys(4).await,
        3,
        "the plan spent one of four"
    );
    assert_eq!(members[0].put_keys(5).await, 4);
    let keys = vec![Vec::new(); 257];
    let many = members[0]
        .client
        .put_one_time_keys(PutOneTimeKeysRequest { keys })
        .await;
    assert_eq!(refusal(many), Refusal::TooLarge);
}

/// A key of another, in another's name, and one that nobody could seal to, which would have every member refuse each
/// plan that names it.
#[tokio::test]
async fn a_one_time_key_of_another_or_that_is_none_is_not_taken() {
    let federation = Federation::new(3, POLICY);
    let server = federation.serve();
    let mut member = federation.member(&server, 0).await;
    let [own, other] = [0, 1].map(|number: usize| &federation.members[number].key);
    let offer = |of: &ciphertune_identity::SigningKey, public_key| OneTimeKeyOffer {
        member: of.verifying_key().fingerprint(),
        serial: 9,
        public_key,
    };
    let good = vec![1; PUBLIC_KEY_BYTES];
    let mut none = good.clone();
    none[1_150..1_152].fill(0xFF); // the last coefficient of ML-KEM's vector
    for key in [
        Signed::sign(offer(other, good.clone()), other),
        Signed::sign(offer(own, good.clone()), other),
        Signed::sign(offer(other, good.clone()), own),
        Signed::sign(offer(own, none), own),
        Signed::sign(offer(own, good[1..].to_vec()), own),
    ] {
        let keys = vec![key.encode()];
        let put = member
            .client
            .put_one_time_keys(PutOneTimeKeysRequest { keys })
            .await;
        assert_eq!(refusal(put), Refusal::Malformed);
    }
    assert_eq!(member.put_keys(1).await, 1, "none of those was kept");
}

#[tokio::test]
async fn what_is_larger_than_it_may_be_is_refused() {
    let federation = Federation::new(3, POLICY);
    let server = federation.serve();
    let (mut members, plan) = federation.begin(&server, &federation.job(|_| ())).await;
    let context = plan.context();
    // A sealed share.
    let mut shares = members[0].shares(&plan);
    shares[0] = vec![0; 64 << 10];
    let header = Header {
        context,
        body: Digest::sha256(b"body"),
        shares: shares.iter().map(|share| Digest::sha256(share)).collect(),
    };
    let header = Signed::sign(header, members[0].key()).encode();
    let put = members[0]
        .put_shares(context, ShareKind::Key, header, shares)
        .await;
    assert_eq!(refusal(put), Refusal::TooLarge);
    // A chunk of a body, in whole words below q.
    let chunk = BodyChunk {
        context: context.as_bytes().to_vec(),
        offset: 0,
        data: vec![0; CHUNK_BYTES + 8].into(),
    };
    let put = members[0]
        .client
        .put_body(tokio_stream::iter([chunk]))
        .await;
    assert_eq!(refusal(put), Refusal::TooLarge);
    assert_eq!(members[0].offset(context).await.unwrap().durable, 0);
    // A message: it is not even read.
    let mut client = members[0]
        .client
        .clone()
        .max_encoding_message_size(usize::MAX);
    let keys = vec![vec![0; MESSAGE_BYTES]];
    let put = client
        .put_one_time_keys(PutOneTimeKeysRequest { keys })
        .await;
    assert_eq!(put.unwrap_err().code(), tonic::Code::OutOfRange);
    // And after all that the member contributes as ever.
    members[0].contribute(&plan).await;
}

#[tokio::test]
async fn a_certificate_older_than_the_policy_allows_is_refused() {
    let policy = format!("{POLICY}\n[identity]\nmax_certificate_age_days = 7\n");
    let federation = Federation::new(3, &policy);
    for (days, expected) in [(6, Ok(())), (8, Err(Refusal::Expired))] {
        let server = federation.serve_with(|config| {
            let later = Duration::from_secs(days * 86_400);
            config.clock = Arc::new(move || SystemTime::now() + later);
        });
        let mut member = federation.connect(&server, &federation.members[0]).await;
        let reply = member.directory(DirectoryRequest {}).await;
        match expected {
            Ok(()) => drop(reply.unwrap()),
            Err(code) => assert_eq!(refusal(reply), code),
        }
        server.stop().unwrap();
    }
}

#[tokio::test]
async fn a_server_with_an_older_revocation_list_than_the_policy_asks_for_does_not_start() {
    let policy = format!("{POLICY}\n[identity]\nmax_revocation_list_age_days = 7\n");
    let federation = Federation::new(3, &policy);
    let issued = |days_ago: u64| {
        let issued = SystemTime::now() - Duration::from_secs(days_ago * 86_400);
        let list = federation.list_of(2, &[], Validity::days(issued, 30).unwrap());
        watch::channel(federation.server_credentials(&list)).1
    };
    let old = issued(8);
    let ended = federation.serve_with(|config| config.credentials = old);
    let said = ended.stop().expect_err("a refusal").to_string();
    assert!(
        said.contains("asked for a revocation list issued at")
            && said.contains("identity.max_revocation_list_age_days"),
        "{said}"
    );
    let young = issued(1);
    let server = federation.serve_with(|config| config.credentials = young);
    let mut member = federation.connect(&server, &federation.members[0]).await;
    member.directory(DirectoryRequest {}).await.unwrap();
}
