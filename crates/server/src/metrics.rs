//! What an operator's monitoring collects: Prometheus' text format over plain HTTP, read-only. Nothing is on it that the log
//! does not hold.

use std::{convert::Infallible, fmt::Write as _, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::coordinator::Coordinator;

/// Version 0.0.4 of the text format.
const FORMAT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// How long a scraper may take over its request.
const PATIENCE: Duration = Duration::from_secs(10);

/// Connections at once.
const CONNECTIONS: usize = 8;

/// Answers `GET /metrics` until it is dropped.
pub async fn serve(listener: TcpListener, coordinator: Arc<Coordinator>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, say: wait for some to come back rather than spin.
                tracing::warn!(%error, "metrics");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let coordinator = Arc::clone(&coordinator);
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let answer = answer(&request, &coordinator);
                async move { Ok::<_, Infallible>(answer) }
            });
            // A connection that breaks is a scraper that left.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            drop(place);
        });
    }
}

fn answer(request: &Request<Incoming>, coordinator: &Coordinator) -> Response<Full<Bytes>> {
    let (status, text) = match (request.method(), request.uri().path()) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, text(coordinator)),
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "GET\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "/metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, FORMAT);
    response
}

fn text(coordinator: &Coordinator) -> String {
    let credentials = coordinator.gate().credentials();
    let (certificate, list) = (credentials.certificate(), credentials.revocations());
    let present = coordinator.present();
    let mut text = String::new();
    for (name, help, value) in [
        (
            "certificate_expiry_timestamp_seconds",
            "When the server's certificate ends, in seconds since 1970.",
            certificate.validity().not_after(),
        ),
        (
            "revocation_list_expiry_timestamp_seconds",
            "When the revocation list in force ends: past it everybody is refused.",
            list.validity().not_after(),
        ),
        (
            "revocation_list_number",
            "Number of the revocation list in force.",
            list.number(),
        ),
        (
            "revoked_certificates",
            "Certificates that the revocation list in force names.",
            list.revoked().len() as u64,
        ),
        (
            "members",
            "Members of the federation.",
            coordinator.federation().members().len() as u64,
        ),
        (
            "members_present",
            "Members with an open event stream.",
            present.len() as u64,
        ),
    ] {
        let _ = write!(
            text,
            "# HELP ciphertune_{name} {help}\n# TYPE ciphertune_{name} gauge\nciphertune_{name} {value}\n"
        );
    }
    text
}
