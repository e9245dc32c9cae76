//! Attacks below HTTP/2: sockets and handshakes. Most need no certificate.

use std::time::Duration;

use ciphertune_wire::limits::{CONNECTIONS_OF_ONE, HANDSHAKE, HANDSHAKES};
use tokio::io::AsyncWriteExt as _;

use crate::{
    raw::{self, is_closed, send, tcp, tcp_from, tls_over},
    siege::{ATTACKER, PROMPTLY, begin, completes, federation, is_answered, is_let_in},
};

/// A handshake's record, byte by byte: whoever sends it has ten seconds, however many bytes those have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_loris_in_the_handshake_is_dropped_and_keeps_nobody_out() {
    let federation = federation();
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    let mut lorises = Vec::new();
    for _ in 0..20 {
        let mut stream = tcp(&server).await;
        lorises.push(tokio::spawn(async move {
            // The head of a ClientHello of 16 KiB, and then a byte a second.
            let mut sent = send(&mut stream, &[22, 3, 1, 0x40, 0]).await;
            let mut seconds = 0;
            while sent && seconds < 60 {
                tokio::time::sleep(Duration::from_secs(1)).await;
                sent =
                    send(&mut stream, &[1]).await && !is_closed(&mut stream, Duration::ZERO).await;
                seconds += 1;
            }
            seconds
        }));
    }
    for _ in 0..3 {
        is_answered(&mut members[0]).await;
        is_let_in(&federation, &server).await;
    }
    completes(&federation, members, &plan).await;
    for loris in lorises {
        let seconds = loris.await.unwrap();
        assert!(
            seconds < 2 * HANDSHAKE.as_secs(),
            "it lived for {seconds} s"
        );
    }
}

/// More silent sockets than there are places: the oldest of them are dropped, and an honest peer that came before and is
/// still in its handshake is not, because it came from elsewhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_flood_of_silent_sockets_drops_its_own() {
    let federation = federation();
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    let slow = tcp(&server).await;
    let mut flood = Vec::new();
    for _ in 0..HANDSHAKES + 100 {
        flood.push(tcp_from([127, 0, 0, 2], &server).await);
    }
    is_answered(&mut members[0]).await;
    is_let_in(&federation, &server).await;
    for stream in &mut flood[..100] {
        assert!(
            is_closed(stream, PROMPTLY).await,
            "more than there are places"
        );
    }
    let mut shaken = tls_over(slow, &federation, &federation.members[0])
        .await
        .expect("the honest one keeps its place");
    shaken.shutdown().await.unwrap();
    completes(&federation, members, &plan).await;
}

/// From the honest member's own address, too: who has just come stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_flood_from_the_same_address_keeps_nobody_out() {
    let federation = federation();
    let server = federation.serve();
    let (members, plan) = begin(&federation, &server).await;
    let mut flood = Vec::new();
    for _ in 0..3 {
        for _ in 0..HANDSHAKES {
            flood.push(tcp(&server).await);
        }
        is_let_in(&federation, &server).await;
    }
    completes(&federation, members, &plan).await;
}

/// With a certificate: so many connections, and no more; the oldest gives way, and nobody else's does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_flood_with_a_certificate_drops_its_own() {
    let federation = federation();
    let server = federation.serve();
    let (mut members, plan) = begin(&federation, &server).await;
    let attacker = &federation.members[ATTACKER];
    let mut open = Vec::new();
    for _ in 0..3 * CONNECTIONS_OF_ONE {
        let mut stream = tls_over(tcp(&server).await, &federation, attacker)
            .await
            .unwrap();
        assert!(send(&mut stream, raw::PREFACE).await);
        open.push(stream);
        is_answered(&mut members[0]).await;
    }
    let newest = open.split_off(2 * CONNECTIONS_OF_ONE);
    for mut stream in open {
        assert!(
            is_closed(&mut stream, PROMPTLY).await,
            "an older one stands"
        );
    }
    for mut stream in newest {
        let closed = is_closed(&mut stream, Duration::from_millis(10)).await;
        assert!(!closed, "a newer one was refused");
    }
    completes(&federation, members, &plan).await;
}

/// A handshake, and then not a byte of HTTP/2, whose own time-outs begin after its preface.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_that_never_speaks_is_closed() {
    let federation = federation();
    let server = federation.serve();
    let (members, plan) = begin(&federation, &server).await;
    let attacker = &federation.members[ATTACKER];
    let mut silent = tls_over(tcp(&server).await, &federation, attacker)
        .await
        .unwrap();
    let mut half = tls_over(tcp(&server).await, &federation, attacker)
        .await
        .unwrap();
    assert!(send(&mut half, &raw::PREFACE[..20]).await);
    completes(&federation, members, &plan).await;
    for stream in [&mut silent, &mut half] {
        assert!(is_closed(stream, HANDSHAKE + PROMPTLY).await);
    }
}

/// A peer that answers no ping is dead, whatever TCP says: its stream makes nobody present for long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_open_connection_that_answers_no_ping_is_closed() {
    let federation = federation();
    let server = federation.serve();
    let (members, plan) = begin(&federation, &server).await;
    let attacker = &federation.members[ATTACKER];
    let mut stream = tls_over(tcp(&server).await, &federation, attacker)
        .await
        .unwrap();
    // Settings, a stream of events; settings are acknowledged, pings never.
    let call = raw::http2_frame(1, 4, 1, &raw::headers("Events"));
    let message = raw::http2_frame(0, 1, 1, &[0; 5]);
    let acknowledged = raw::http2_frame(4, 1, 0, &[]);
    assert!(
        send(
            &mut stream,
            &[raw::PREFACE, &acknowledged, &call, &message].concat()
        )
        .await
    );
    completes(&federation, members, &plan).await;
    let patience = Duration::from_secs(30) + PROMPTLY;
    assert!(is_closed(&mut stream, patience).await);
}

/// A connection that is cut in the middle of a record, and one that sends none of TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_of_garbage_or_cut_short_is_dropped() {
    let federation = federation();
    let server = federation.serve();
    let (members, plan) = begin(&federation, &server).await;
    for bytes in [
        b"GET / HTTP/1.1\r\n\r\n".as_slice(),
        raw::PREFACE,
        &[22, 3, 1, 0xFF, 0xFF, 1],
        &[0xFF; 10_000],
        &[],
    ] {
        let mut stream = tcp(&server).await;
        send(&mut stream, bytes).await;
        let _ = stream.shutdown().await;
        assert!(is_closed(&mut stream, PROMPTLY).await, "{bytes:?}");
    }
    is_let_in(&federation, &server).await;
    completes(&federation, members, &plan).await;
}
