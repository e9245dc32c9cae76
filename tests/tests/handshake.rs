//! Who may connect, and what one who may not is told.

use std::sync::Arc;

use ciphertune_client::{Error, report::Happening};
use ciphertune_identity::{Credentials, tls};
use ciphertune_tests::{
    federation::{Federation, LABORATORY, Member, until, within},
    learner::Vectors,
};
use ciphertune_wire::{Meter, connect, proto::DirectoryRequest};
use rustls::pki_types::ServerName;
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_rustls::TlsConnector;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_does_not_take_the_server_of_another_authority_for_its_own() {
    let mut ours = Federation::found(3, LABORATORY).await;
    let theirs = Federation::found(3, LABORATORY).await;
    let server = ours.serve();
    let stranger = theirs.member(0);
    let trusting_its_own = tls::client_config(&theirs.credentials_of(stranger), &stranger.key());
    let address = ours.address();
    let connected = connect(&address, trusting_its_own.unwrap(), Meter::default());
    let said = within(connected).await.expect_err("a refusal").to_string();
    assert!(said.contains("the TLS handshake with 127.0.0.1:"), "{said}");
    assert!(said.contains("certificate"), "{said}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_is_refused_by_both_sides() {
    let mut ours = Federation::found(3, LABORATORY).await;
    let theirs = Federation::found(3, LABORATORY).await;
    let server = ours.serve();
    let stranger = theirs.member(0);

    // Our own client will not even offer it.
    let ca = ours.authority().certificate();
    let list = ours.credentials_of(ours.member(0)).revocations().clone();
    let offered = Credentials::new(ca.clone(), stranger.certificate.clone(), list);
    let refused = offered.expect_err("no credentials").to_string();
    assert!(refused.contains("authority"), "{refused}");

    // One that does offer it gets an alert from the server and nothing else. In TLS 1.3 a client is done before the
    // server looks at its certificate, so that the alert comes where the first answer would.
    let careless = stranger.careless_config(ca);
    let socket = TcpStream::connect(ours.address()).await.unwrap();
    let host = ServerName::try_from("127.0.0.1").unwrap();
    let dialled = TlsConnector::from(Arc::clone(&careless)).connect(host, socket);
    let refused = match within(dialled).await {
        Err(error) => error,
        Ok(mut stream) => within(stream.read_u8()).await.expect_err("an answer"),
    };
    assert!(
        refused.to_string().contains("received fatal alert"),
        "{refused}"
    );
    let called = match within(connect(&ours.address(), careless, Meter::default())).await {
        Err(error) => Err(Error::from(error)),
        Ok(mut client) => within(client.directory(DirectoryRequest {}))
            .await
            .map_err(Error::from),
    };
    assert!(matches!(called, Err(Error::TurnedAway(_))), "{called:?}");

    // The same certificate's holder is welcome at home, and one of ours here.
    let ours_too = ours.member(0).careless_config(ca);
    let mut client = within(connect(&ours.address(), ours_too, Meter::default()))
        .await
        .unwrap();
    within(client.directory(DirectoryRequest {})).await.unwrap();
    server.stop().await;
}

/// Once, and it goes on trying: whoever starts first waits for the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_server_does_not_run_says_so_and_waits_for_it() {
    let mut federation = Federation::found(3, LABORATORY).await;
    federation.serve().stop().await;
    let mut member = federation.join(Vectors::of(0, 10));
    let said = |member: &Member| {
        let reasons = member.happenings().into_iter().filter_map(|it| match it {
            Happening::Waiting { reason, .. } => Some(reason),
            _ => None,
        });
        reasons.collect::<Vec<_>>()
    };
    until(|| !said(&member).is_empty()).await;
    let server = federation.serve_again().await;
    member
        .waits_for(|happening| matches!(happening, Happening::Connected { .. }))
        .await;
    let said = said(&member);
    assert!(
        said[0].contains("cannot reach the server at 127.0.0.1:") && said[0].contains("refused"),
        "{said:?}"
    );
    assert_eq!(said.len(), 1, "not more than once a minute: {said:?}");
    member.stop().await;
    server.stop().await;
}
