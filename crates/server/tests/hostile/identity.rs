//! Attacks by who one is, or says that one is, and when.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use ciphertune_identity::Validity;
use ciphertune_round::{Abort, Signed};
use ciphertune_wire::{
    Refusal,
    proto::{AbortJobRequest, DirectoryRequest, PutOneTimeKeysRequest, SubmitJobRequest},
};
use tokio::sync::watch;
use tonic::{Code, Request};

use crate::{
    common::{Federation, POLICY, chunks, refusal},
    raw::{frame, http2, tcp, tls_over},
    siege::{ATTACKER, begin, bytes_under, completes, federation, is_answered},
};

fn days(days: u32) -> Validity {
    Validity::days(SystemTime::now() - Duration::from_secs(3600), days).unwrap()
}

/// It has a connection, a stream of events and half an upload: all of it is worth nothing from then on, and a new handshake
/// fails. (Rosters and jobs: `revocations`.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_certificate_does_nothing_any_more() {
    let federation = federation();
    let (changes, credentials) = watch::channel(federation.server_credentials(&federation.list));
    let server = federation.serve_with(|config| config.credentials = credentials);
    let job = federation.job(|job| job.expected_members = 4);
    let (mut members, plan) = federation.begin(&server, &job).await;
    let mut revoked = members.pop().unwrap();
    let (context, body) = (plan.context(), revoked.body());
    revoked.put_header(&plan, &body).await.unwrap();
    revoked.put_body(context, 0, &body[..8_000]).await.unwrap();
    // One call that is under way, and stays so.
    let http2 = http2(&server, &federation, &federation.members[ATTACKER]).await;
    let (frames, hanging) = http2.open("PutBody");
    let rest = chunks(context, 8_000, &body[8_000..]);
    frames.send(frame(&rest[0]).into()).await.unwrap();
    let list = federation.list_of(2, &[ATTACKER], days(30));
    changes.send_replace(federation.server_credentials(&list));
    assert_eq!(revoked.stream_ends().await, Refusal::Revoked);
    let called = revoked.client.directory(DirectoryRequest {}).await;
    assert_eq!(refusal(called), Refusal::Revoked);
    assert_eq!(refusal(revoked.offset(context).await), Refusal::Revoked);
    for chunk in &rest[1..] {
        let _ = frames.send(frame(chunk).into()).await;
    }
    drop(frames);
    let answer = hanging.await.unwrap();
    assert_ne!(answer.code(), Some(Code::Ok), "{answer:?}");
    let stream = tcp(&server).await;
    if let Ok(mut stream) = tls_over(stream, &federation, &federation.members[ATTACKER]).await {
        let closed = crate::raw::is_closed(&mut stream, Duration::from_secs(8)).await;
        assert!(closed, "a handshake with a revoked certificate");
    }
    for member in &mut members {
        is_answered(member).await;
    }
    completes(&federation, members, &plan).await;
}

/// Who acts outside its role, or in another's name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn role_abuse_is_refused() {
    let federation = Federation::new(3, POLICY);
    let server = federation.serve();
    let job = federation.job(|_| ());
    let (mut members, plan) = federation.begin(&server, &job).await;
    let before = bytes_under(&federation.data().join("contexts"));
    let submit = SubmitJobRequest { job: job.encode() };
    let submitted = members[0].client.submit_job(submit.clone()).await;
    assert_eq!(refusal(submitted), Refusal::Role);
    let mut officer = federation.connect(&server, &federation.officer).await;
    assert_eq!(refusal(officer.submit_job(submit).await), Refusal::Role);
    let mut researcher = federation.connect(&server, &federation.researcher).await;
    let body = members[0].body();
    let put = researcher
        .put_body(tokio_stream::iter(chunks(plan.context(), 0, &body)))
        .await;
    assert_eq!(refusal(put), Refusal::Role);
    let keys = PutOneTimeKeysRequest { keys: Vec::new() };
    let put = researcher.put_one_time_keys(keys).await;
    assert_eq!(refusal(put), Refusal::Role);
    let reason = "enough".into();
    let abort = Abort {
        job: job.digest(),
        reason,
    };
    let abort = Signed::sign(abort, &federation.officer.key).encode();
    let aborted = officer
        .abort_job(AbortJobRequest {
            abort: abort.clone(),
        })
        .await;
    assert_eq!(refusal(aborted), Refusal::Role);
    // The officer's object, carried by a member.
    let aborted = members[0].client.abort_job(AbortJobRequest { abort }).await;
    assert_eq!(refusal(aborted), Refusal::Malformed);
    let mut stranger = federation.connect(&server, &federation.stranger).await;
    let called = stranger.directory(DirectoryRequest {}).await;
    assert_eq!(refusal(called), Refusal::Stranger);
    assert_eq!(bytes_under(&federation.data().join("contexts")), before);
    completes(&federation, members, &plan).await;
}

/// The server goes by its own clock alone: a certificate that has ended by it is refused whatever its holder's clock says, and a
/// deadline that a caller puts on its own call moves none of the round's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_skew_opens_nothing_and_moves_no_deadline() {
    let federation = federation();
    // The list holds for longer than the certificates do. The server's clock says in mid-run that those have ended, or,
    // set back, that they do not hold yet: it would not start so.
    let list = federation.list_of(2, &[], days(60));
    for (skew, expected) in [(-1_i64, Refusal::StaleList), (31, Refusal::Expired)] {
        let begun = SystemTime::now();
        let credentials = watch::channel(federation.server_credentials(&list)).1;
        let skewed = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let looked = Arc::clone(&skewed);
        let server = federation.serve_with(|config| {
            config.credentials = credentials;
            config.clock = Arc::new(move || {
                let now = begun;
                match (looked.load(std::sync::atomic::Ordering::SeqCst), skew) {
                    (false, _) => now,
                    (true, ..0) => now - Duration::from_secs(86_400),
                    (true, days) => now + Duration::from_secs(days as u64 * 86_400),
                }
            });
        });
        let mut member = federation.member(&server, 0).await;
        is_answered(&mut member).await;
        skewed.store(true, std::sync::atomic::Ordering::SeqCst);
        // Set back, the list does not hold yet either, and that is said first.
        let called = refusal(member.client.directory(DirectoryRequest {}).await);
        assert_eq!(called, expected);
        skewed.store(false, std::sync::atomic::Ordering::SeqCst);
        is_answered(&mut member).await;
        server.stop().unwrap();
    }
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    for said in [
        "1n",
        "0S",
        "99999999H",
        "-5S",
        "1e9S",
        "",
        "99999999999999S",
    ] {
        let mut request = Request::new(DirectoryRequest {});
        let said = said.parse().unwrap();
        request.metadata_mut().insert("grpc-timeout", said);
        let _ = members[0].client.directory(request).await;
        is_answered(&mut members[1]).await;
    }
    completes(&federation, members, &plan).await;
}
