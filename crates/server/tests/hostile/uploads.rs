//! Attacks by what is sent: chunks and shares that are another's, of another time, twice, or in another order.

use std::time::Duration;

use ciphertune_round::{Context, Digest, Header, Plan, Signed};
use ciphertune_wire::{
    Refusal,
    proto::{BodyChunk, EventKind, ShareKind},
};

use crate::{
    common::{Member, bytes, chunks, refusal},
    siege::{ATTACKER, begin, bytes_under, completes, federation},
};

async fn put(member: &mut Member<'_>, chunks: Vec<BodyChunk>) -> Refusal {
    let put = member.client.put_body(tokio_stream::iter(chunks)).await;
    refusal(put)
}

/// The same chunk again, in its stream and in a later one: refused, and what is held stays what it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replayed_chunks_are_refused_and_the_upload_goes_on() {
    let federation = federation();
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    let (context, body) = (plan.context(), members[0].body());
    let all = chunks(context, 0, &body);
    members[0].put_header(&plan, &body).await.unwrap();
    let twice = [&all[..3], &all[2..3]].concat();
    assert_eq!(put(&mut members[0], twice).await, Refusal::Conflict);
    let held = members[0].offset(context).await.unwrap();
    assert_eq!((held.durable, held.complete), (24_000, false));
    for again in [&all[..1], &all[1..3], &all[..]] {
        assert_eq!(
            put(&mut members[0], again.to_vec()).await,
            Refusal::Conflict
        );
    }
    assert_eq!(members[0].offset(context).await.unwrap(), held);
    let rest = members[0].put_body(context, 24_000, &body[24_000..]).await;
    assert!(rest.unwrap().complete);
    // A whole body is here: replayed, it changes nothing.
    assert!(
        members[0]
            .put_body(context, 0, &body)
            .await
            .unwrap()
            .complete
    );
    completes(&federation, members, &plan).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reordered_chunks_are_refused_and_the_upload_goes_on() {
    let federation = federation();
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    let (context, body) = (plan.context(), members[0].body());
    members[0].put_header(&plan, &body).await.unwrap();
    let mut swapped = chunks(context, 0, &body);
    swapped.swap(1, 2);
    assert_eq!(put(&mut members[0], swapped).await, Refusal::Conflict);
    let mut reversed = chunks(context, 0, &body);
    reversed.reverse();
    assert_eq!(put(&mut members[0], reversed).await, Refusal::Conflict);
    // Offsets that lie about where a chunk belongs, and those that run over.
    for offset in [
        0,
        8,
        7_999,
        8_001,
        body.len() as u64,
        u64::MAX - 7,
        u64::MAX,
    ] {
        let data = body[..8].to_vec().into();
        let context = context.as_bytes().to_vec();
        let chunk = BodyChunk {
            context,
            offset,
            data,
        };
        assert_eq!(put(&mut members[0], vec![chunk]).await, Refusal::Conflict);
    }
    // Chunks of nothing, which would never end.
    let mut empty = chunks(context, 8_000, &body[8_000..16_000]);
    empty.push(BodyChunk {
        offset: 16_000,
        ..BodyChunk::default()
    });
    assert_eq!(put(&mut members[0], empty).await, Refusal::Malformed);
    assert_eq!(members[0].offset(context).await.unwrap().durable, 16_000);
    let rest = members[0].put_body(context, 16_000, &body[16_000..]).await;
    assert!(rest.unwrap().complete);
    completes(&federation, members, &plan).await;
}

/// A body whose last byte came and whose connection broke before it was looked at: an empty chunk has the server look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_came_whole_without_its_end_is_taken_up() {
    let federation = federation();
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    let (context, body) = (plan.context(), members[0].body());
    members[0].put_header(&plan, &body).await.unwrap();
    // Streams that never end; who asks where to go on ends the one before, and what came is kept.
    loop {
        let held = members[0].offset(context).await.unwrap();
        if held.complete {
            break;
        }
        let (sender, receiver) = tokio::sync::mpsc::channel::<BodyChunk>(1);
        let mut client = members[0].client.clone();
        tokio::spawn(async move {
            let chunks = tokio_stream::wrappers::ReceiverStream::new(receiver);
            let _ = client.put_body(chunks).await;
        });
        let rest = &body[usize::try_from(held.durable).unwrap()..];
        for chunk in chunks(context, held.durable, rest) {
            sender.send(chunk).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let context_bytes = context.as_bytes().to_vec();
    let empty = BodyChunk {
        context: context_bytes,
        offset: body.len() as u64,
        ..BodyChunk::default()
    };
    let put = members[0]
        .client
        .put_body(tokio_stream::iter([empty]))
        .await;
    assert!(put.unwrap().into_inner().complete);
    completes(&federation, members, &plan).await;
}

/// Nothing in a chunk says whose it is: the certificate does. One who is not seated has no upload, and one who is, only its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_for_anothers_upload_never_reach_it() {
    let federation = federation();
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    let (context, body) = (plan.context(), members[0].body());
    members[0].put_header(&plan, &body).await.unwrap();
    members[0]
        .put_body(context, 0, &body[..8_000])
        .await
        .unwrap();
    let before = bytes_under(&federation.data().join("contexts"));
    let mut attacker = federation.member(&server, ATTACKER).await;
    for from in [0, 8_000] {
        let put = attacker.put_body(context, from, &body[8_000..]).await;
        assert_eq!(refusal(put), Refusal::Unknown, "as if there were none");
    }
    assert_eq!(refusal(attacker.offset(context).await), Refusal::Unknown);
    assert_eq!(bytes_under(&federation.data().join("contexts")), before);
    // A fellow of the cohort, with bytes that would make the body worthless.
    let garbage = vec![0; body.len() - 8_000];
    assert_eq!(
        refusal(members[1].put_body(context, 8_000, &garbage).await),
        Refusal::Conflict
    );
    assert_eq!(members[0].offset(context).await.unwrap().durable, 8_000);
    let rest = members[0].put_body(context, 8_000, &body[8_000..]).await;
    assert!(rest.unwrap().complete);
    completes(&federation, members, &plan).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_context_is_unknown_or_refused() {
    let federation = federation();
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    let elsewhere = Context::of_plan(b"another plan");
    let body = members[0].body();
    let before = bytes_under(&federation.data());
    assert_eq!(
        refusal(members[0].put_body(elsewhere, 0, &body).await),
        Refusal::Unknown
    );
    assert_eq!(
        refusal(members[0].get_sum(elsewhere, 0).await),
        Refusal::Unknown
    );
    for context in [vec![], vec![0; 31], vec![0; 33], vec![0xFF; 100_000]] {
        let chunk = BodyChunk {
            context,
            offset: 0,
            data: body[..8].to_vec().into(),
        };
        assert_eq!(put(&mut members[0], vec![chunk]).await, Refusal::Malformed);
    }
    // A header signed for this context under another's name, and the other way round.
    let shares = members[0].shares(&plan);
    for (signed_for, named) in [(plan.context(), elsewhere), (elsewhere, plan.context())] {
        let header = Header {
            context: signed_for,
            body: Digest::sha256(&body),
            shares: shares.iter().map(|share| Digest::sha256(share)).collect(),
        };
        let signed = Signed::sign(header, members[0].key()).encode();
        let put = members[0].put_shares(named, ShareKind::Key, signed, shares.clone());
        assert_eq!(refusal(put.await), Refusal::Malformed);
    }
    assert!(
        bytes_under(&federation.data()) < before + 100_000,
        "the log alone grows"
    );
    completes(&federation, members, &plan).await;
}

/// What was right in the round before: header, body, echo and agreement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_of_the_wrong_round_is_late_or_refused() {
    let federation = federation();
    let server = federation.serve();
    let job = federation.job(|job| (job.expected_members, job.rounds) = (4, 2));
    let (mut members, first) = federation.begin(&server, &job).await;
    for member in &mut members {
        member.contribute(&first).await;
    }
    let roster = members[0].next(EventKind::Roster).await;
    for member in &mut members {
        member.release(&first, &roster).await.unwrap();
    }
    for member in &mut members {
        member.agree(&first, b"model 1").await.unwrap();
    }
    let second = members[0].next::<Plan>(EventKind::Plan).await;
    assert_eq!(second.round, 2);
    let body = members[0].body();
    let member = &mut members[0];
    assert_eq!(
        refusal(member.put_body(first.context(), 0, &body).await),
        Refusal::Late
    );
    assert_eq!(
        refusal(member.put_header(&first, &body).await),
        Refusal::Late
    );
    assert_eq!(refusal(member.echo(&roster).await), Refusal::Late);
    assert_eq!(
        refusal(member.release(&first, &roster).await),
        Refusal::Late
    );
    assert_eq!(
        refusal(member.agree(&first, b"model 1").await),
        Refusal::Late
    );
    // Too early for this one.
    assert_eq!(
        refusal(member.agree(&second, b"model 2").await),
        Refusal::Conflict
    );
    // The round before's body, under this round's header.
    let mut fresh = member.words();
    fresh[0] = 1;
    member.put_header(&second, &bytes(&fresh)).await.unwrap();
    let replayed = member.put_body(second.context(), 0, &body).await;
    assert_eq!(refusal(replayed), Refusal::Malformed);
    assert_eq!(member.offset(second.context()).await.unwrap().durable, 0);
    let fresh = member.put_body(second.context(), 0, &bytes(&fresh)).await;
    assert!(fresh.unwrap().complete);
}

/// One share in two places, more of them than there are seats, and another set after the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicate_shares_are_refused_or_are_the_same() {
    let federation = federation();
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    let context = plan.context();
    let (body, shares) = (members[0].body(), members[0].shares(&plan));
    let announce = |shares: &[Vec<u8>], member: &Member<'_>| {
        let header = Header {
            context,
            body: Digest::sha256(&body),
            shares: shares.iter().map(|share| Digest::sha256(share)).collect(),
        };
        Signed::sign(header, member.key()).encode()
    };
    let signed = announce(&shares, &members[0]);
    let doubled = vec![shares[0].clone(), shares[0].clone(), shares[2].clone()];
    let more = [&shares[..], &shares[..1]].concat();
    for sent in [doubled.clone(), more.clone()] {
        let put = members[0].put_shares(context, ShareKind::Key, signed.clone(), sent);
        assert_eq!(refusal(put.await), Refusal::Malformed);
    }
    let too_many = announce(&more, &members[0]);
    let put = members[0]
        .put_shares(context, ShareKind::Key, too_many, more)
        .await;
    assert_eq!(refusal(put), Refusal::Malformed);
    members[0].put_header(&plan, &body).await.unwrap();
    let other = announce(&doubled, &members[0]);
    let put = members[0]
        .put_shares(context, ShareKind::Key, other, doubled)
        .await;
    assert_eq!(refusal(put), Refusal::Conflict);
    members[0].put_header(&plan, &body).await.unwrap();
    completes(&federation, members, &plan).await;
}
