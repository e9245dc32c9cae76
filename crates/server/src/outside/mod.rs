//! The server seen from outside: health, metrics and one page over plain HTTP, to be read only. Nothing is on it that the audit
//! log does not hold, but who is present and how far a phase under way has come.

mod attempt;
mod health;
mod history;
mod host;
mod metrics;
mod page;
mod status;
mod tally;

use std::{convert::Infallible, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};

pub use history::History;

use self::{
    host::{Astray, Hosts},
    status::Status,
};
use crate::{config::Outside, coordinator::Coordinator, moment::Moment};

/// How long a reader may take over its request.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long it may take over all of it, the answer included.
const LONGEST: Duration = Duration::from_secs(20);

/// Connections at once.
const CONNECTIONS: usize = 8;

/// The largest head of a request, and the most fields in it.
const HEAD_BYTES: usize = 16 << 10;
const HEAD_FIELDS: usize = 64;

const ROUTES: &str = "/\n/healthz\n/readyz\n/metrics\n/status.json\n";

const TEXT: &str = "text/plain; charset=utf-8";

/// Of every answer: nothing is kept, embedded, run or loaded.
const HEADERS: [(HeaderName, &str); 6] = [
    (CACHE_CONTROL, "no-store"),
    (
        HeaderName::from_static("content-security-policy"),
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (HeaderName::from_static("x-content-type-options"), "nosniff"),
    (HeaderName::from_static("x-frame-options"), "DENY"),
    (HeaderName::from_static("referrer-policy"), "no-referrer"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
];

/// What the answers are made of.
struct View {
    coordinator: Arc<Coordinator>,
    hosts: Hosts,
    since: Moment,
}

/// Answers until it is dropped.
pub async fn serve(outside: Outside, coordinator: Arc<Coordinator>) {
    let Outside { listener, name } = outside;
    let address = coordinator.federation().manifest().endpoint().host();
    let view = Arc::new(View {
        hosts: Hosts::new(name.into_iter().chain([address.to_string()])),
        since: coordinator.now(),
        coordinator,
    });
    accept(listener, &view).await;
}

async fn accept(listener: TcpListener, view: &Arc<View>) {
    let free = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&free).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, say: wait for some to come back rather than spin.
                tracing::warn!(%error, "seen from outside");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let view = Arc::clone(view);
        tokio::spawn(async move {
            let answer = service_fn(move |request| {
                let view = Arc::clone(&view);
                async move { Ok::<_, Infallible>(answer(&request, &view).await) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .max_buf_size(HEAD_BYTES)
                .max_headers(HEAD_FIELDS)
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), answer);
            // A connection that breaks is a reader that left; one that lasts is one that does not read.
            let _ = tokio::time::timeout(LONGEST, connection).await;
            drop(place);
        });
    }
}

async fn answer(request: &Request<Incoming>, view: &Arc<View>) -> Response<Full<Bytes>> {
    match view.hosts.admit(request) {
        Ok(()) => {}
        Err(Astray::Nameless) => return say(StatusCode::BAD_REQUEST, "one Host, please"),
        Err(Astray::Elsewhere) => {
            return say(
                StatusCode::MISDIRECTED_REQUEST,
                "not for this host: ask for localhost, an IP address, or the name that `outside` has in server.toml",
            );
        }
    }
    if !matches!(request.method(), &Method::GET | &Method::HEAD) {
        let mut refused = say(StatusCode::METHOD_NOT_ALLOWED, "GET or HEAD");
        let allowed = HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(ALLOW, allowed);
        return refused;
    }
    match request.uri().path() {
        "/healthz" => verdict(health::alive(&view.coordinator).await),
        "/readyz" => verdict(health::ready(&view.coordinator)),
        "/metrics" => show(view, metrics::FORMAT, |status| Ok(metrics::text(status))).await,
        "/status.json" => {
            let json = |status: &Status| {
                serde_json::to_string_pretty(status).map_err(|error| error.to_string())
            };
            show(view, "application/json", json).await
        }
        "/" => show(view, "text/html; charset=utf-8", page::html).await,
        _ => respond(StatusCode::NOT_FOUND, TEXT, ROUTES.to_owned()),
    }
}

/// What is made of a look at the server, off the threads that serve calls.
async fn show(
    view: &Arc<View>,
    format: &'static str,
    make: impl FnOnce(&Status) -> Result<String, String> + Send + 'static,
) -> Response<Full<Bytes>> {
    let running = view.coordinator.running();
    let running = tokio::time::timeout(health::PATIENCE, running).await.ok();
    let view = Arc::clone(view);
    let made = tokio::task::spawn_blocking(move || {
        make(&Status::of(&view.coordinator, running, view.since))
    });
    let made = made.await.unwrap_or_else(|error| Err(error.to_string()));
    match made {
        Ok(text) => respond(StatusCode::OK, format, text),
        Err(error) => {
            tracing::error!(error, "seen from outside");
            say(
                StatusCode::INTERNAL_SERVER_ERROR,
                "the server's log says why",
            )
        }
    }
}

fn verdict(verdict: Result<(), String>) -> Response<Full<Bytes>> {
    match verdict {
        Ok(()) => say(StatusCode::OK, "ok"),
        Err(reason) => say(StatusCode::SERVICE_UNAVAILABLE, &reason),
    }
}

fn say(status: StatusCode, words: &str) -> Response<Full<Bytes>> {
    respond(status, TEXT, format!("{words}\n"))
}

fn respond(status: StatusCode, format: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format));
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}
