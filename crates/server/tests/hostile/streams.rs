//! Attacks by calls: many, endless, or taken back. They need a certificate.

use std::time::Duration;

use ciphertune_wire::{Refusal, proto::DirectoryRequest};
use tonic::Code;

use crate::{
    raw::{self, frame, framed, http2, is_closed, kinds_until_the_end, send, tcp, tls_over},
    siege::{
        ATTACKER, PROMPTLY, begin, bytes_under, completes, federation, is_answered, is_let_in,
    },
};

/// More than one party's calls at once.
const MANY: usize = 60;

/// A byte now and then into each of many requests. (That it ends is tested where the pace is kept: `throttle`.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_loris_in_a_request_delays_nobody() {
    let federation = federation();
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    let data = federation.data().join("contexts");
    let before = bytes_under(&data);
    let http2 = http2(&server, &federation, &federation.members[ATTACKER]).await;
    let mut calls = Vec::new();
    for method in [
        "PutBody",
        "PutShares",
        "PutParcel",
        "PutOneTimeKeys",
        "Directory",
    ] {
        for _ in 0..4 {
            calls.push(http2.open(method));
        }
    }
    // A message of 1,000 bytes that takes a thousand times as long.
    let bytes = framed(0, 1_000, &[]);
    for byte in bytes {
        for (frames, _) in &calls {
            let _ = frames.send(vec![byte].into()).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        is_answered(&mut members[1]).await;
    }
    assert_eq!(bytes_under(&data), before);
    is_let_in(&federation, &server).await;
    completes(&federation, members, &plan).await;
}

/// Streams that are open and say nothing: there is an end to how many one party has, and other parties have their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_streams_are_bounded_and_take_nothing_from_others() {
    let federation = federation();
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    let (mut waiting, mut refused) = (Vec::new(), 0);
    for _ in 0..3 {
        let http2 = http2(&server, &federation, &federation.members[ATTACKER]).await;
        for _ in 0..MANY / 3 {
            let (frames, mut answer) = http2.open("PutBody");
            match tokio::time::timeout(Duration::from_millis(100), &mut answer).await {
                Ok(answer) => {
                    assert_eq!(answer.unwrap().code(), Some(Code::Unavailable));
                    refused += 1;
                }
                Err(_) => waiting.push((frames, answer)),
            }
        }
    }
    assert!(
        waiting.len() <= 32 && refused >= MANY - 32,
        "{refused} refused"
    );
    is_answered(&mut members[0]).await;
    // Those who call it their own get it back.
    drop(waiting);
    let mut attacker = federation.member(&server, ATTACKER).await;
    is_answered(&mut attacker).await;
    completes(&federation, members, &plan).await;
}

/// A reader that asks for everything and takes none of it: what is sent ahead is bounded, and so are its calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_never_reads_holds_up_nobody() {
    let federation = federation();
    let server = federation.serve();
    let (members, plan) = begin(&federation, &server).await;
    let attacker = &federation.members[ATTACKER];
    let mut stream = tls_over(tcp(&server).await, &federation, attacker)
        .await
        .unwrap();
    // Settings: INITIAL_WINDOW_SIZE = 0.
    let settings = raw::http2_frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let mut bytes = [&raw::PREFACE[..24], &settings].concat();
    for number in 0..20 {
        bytes.extend(raw::http2_frame(
            1,
            4,
            2 * number + 1,
            &raw::headers("Events"),
        ));
        bytes.extend(raw::http2_frame(0, 1, 2 * number + 1, &[0; 5]));
    }
    assert!(send(&mut stream, &bytes).await);
    completes(&federation, members, &plan).await;
}

/// As many calls as the network carries, to methods that there are and to some that there are not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_flood_is_refused_for_a_while_and_passes() {
    let federation = federation();
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    let mut flood = Vec::new();
    // One of them with what is dear: a flood of those is refused before any other is.
    for method in ["Directory", "Nothing", "PutOneTimeKeys", "JobStatus"] {
        let mut http2 = http2(&server, &federation, &federation.members[ATTACKER]).await;
        flood.push(tokio::spawn(async move {
            let (mut refused, mut served) = (0, 0);
            for _ in 0..400 {
                let answer = http2.call(method, frame(&DirectoryRequest {}), &[]).await;
                match answer.code() {
                    Some(Code::Unavailable) => refused += 1,
                    _ => served += 1,
                }
            }
            (refused, served)
        }));
    }
    let mut during = 0;
    while flood.iter().any(|one| !one.is_finished()) {
        is_answered(&mut members[0]).await;
        during += 1;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(during > 0);
    let (mut refused, mut served) = (0, 0);
    for one in flood {
        let (no, yes) = one.await.unwrap();
        (refused, served) = (refused + no, served + yes);
    }
    assert!(refused > 0, "{served} calls were served, all of them");
    // It is told that it may try again, and when it has waited it is served.
    let mut attacker = federation.member(&server, ATTACKER).await;
    let mut said = None;
    for _ in 0..100 {
        match attacker.client.directory(DirectoryRequest {}).await {
            Ok(_) => break,
            Err(status) => said = Some(Refusal::of(&status)),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(matches!(said, None | Some(Some(Refusal::Busy))), "{said:?}");
    attacker
        .client
        .directory(DirectoryRequest {})
        .await
        .unwrap();
    completes(&federation, members, &plan).await;
}

/// Calls that are opened and taken back at once (CVE-2023-44487): the connection ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_flood_of_rapid_resets_ends_its_connection() {
    const GOAWAY: u8 = 7;
    let federation = federation();
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    let attacker = &federation.members[ATTACKER];
    let stream = tls_over(tcp(&server).await, &federation, attacker)
        .await
        .unwrap();
    let (mut reading, mut writing) = tokio::io::split(stream);
    let kinds = tokio::spawn(async move { kinds_until_the_end(&mut reading).await });
    assert!(send(&mut writing, raw::PREFACE).await);
    for batch in 0..200_u32 {
        let mut bytes = Vec::new();
        for number in 0..100 {
            let stream = 2 * (100 * batch + number) + 1;
            bytes.extend(raw::http2_frame(1, 4, stream, &raw::headers("PutBody")));
            bytes.extend(raw::http2_frame(3, 0, stream, &8_u32.to_be_bytes()));
        }
        if !send(&mut writing, &bytes).await {
            break;
        }
    }
    is_answered(&mut members[0]).await;
    let kinds = tokio::time::timeout(PROMPTLY, kinds)
        .await
        .expect("the connection stands")
        .unwrap();
    assert!(kinds.contains(&GOAWAY), "{kinds:?}");
    completes(&federation, members, &plan).await;
}

/// Headers without end (CONTINUATION frames), and headers larger than any call's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_headers_ends_its_connection() {
    let federation = federation();
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    let attacker = &federation.members[ATTACKER];
    let mut stream = tls_over(tcp(&server).await, &federation, attacker)
        .await
        .unwrap();
    let field = [[0, 1, b'x', 126].as_slice(), &[b'y'; 126]].concat();
    assert!(send(&mut stream, raw::PREFACE).await);
    assert!(
        send(
            &mut stream,
            &raw::http2_frame(1, 0, 1, &raw::headers("Events"))
        )
        .await
    );
    let mut sent = 0;
    while sent < 2_000 && send(&mut stream, &raw::http2_frame(9, 0, 1, &field.repeat(100))).await {
        sent += 1;
    }
    is_answered(&mut members[0]).await;
    assert!(
        is_closed(&mut stream, PROMPTLY).await,
        "{sent} frames of headers"
    );
    completes(&federation, members, &plan).await;
}
