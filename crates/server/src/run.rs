//! The server from a listener to its end.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, SystemTime},
};

use ciphertune_identity::Credentials;
use ciphertune_round::Signer;
use ciphertune_wire::{accept, limits::MESSAGE_BYTES, proto::federation_server::FederationServer};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::transport::Server;

use crate::{
    config::{Clock, Config},
    coordinator::Coordinator,
    error::{Error, Result, fault},
    federation::Federation,
    gate::Gate,
    metrics,
    phase::ListInForce,
    service::Service,
};

/// How long open calls may take to end after a shutdown was asked for.
const FAREWELL: Duration = Duration::from_secs(5);

/// How often the log says how long certificate and revocation list still hold.
const REPORT: Duration = Duration::from_secs(3600);

/// Serves until `shutdown` is ready; takes up what an earlier run left in the data folder. Needs tokio's
/// multi-threaded runtime.
///
/// # Errors
/// [`Error::Malformed`] or [`Error::Misuse`] for a configuration that does not hold together; [`Error::Fault`] for the
/// disk and the network.
pub async fn run(
    listener: TcpListener,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<()> {
    let credentials = config.credentials.borrow().clone();
    let federation = Federation::new(credentials.authority(), config.manifest, config.policy)?;
    let issued_at = ListInForce::from(credentials.revocations()).issued_at;
    federation
        .policy()
        .admit_revocation_list(issued_at, (config.clock)().into())
        .map_err(|refusal| Error::Misuse(refusal.to_string()))?;
    let own = config.key.verifying_key().fingerprint();
    if federation
        .manifest()
        .server()
        .map(|party| party.fingerprint())
        != Some(own)
    {
        return Err(Error::Misuse(
            "the manifest names another server than this key's".into(),
        ));
    }
    let key = Arc::new(config.key);
    let gate = Arc::new(Gate::new(credentials, Arc::clone(&key))?);
    let clock = Arc::clone(&config.clock);
    let coordinator = Coordinator::open(
        federation,
        Arc::clone(&gate),
        key,
        config.clock,
        &config.data,
    )
    .await?;
    coordinator.note_list().await?;
    coordinator.enforce_revocations().await?;
    let _guard = Closing(Arc::clone(&coordinator));
    let _conductor = Aborted(tokio::spawn(Arc::clone(&coordinator).conduct()));
    let followed = follow(config.credentials, Arc::clone(&coordinator), clock);
    let _followed = Aborted(tokio::spawn(followed));
    let _metrics = (config.metrics)
        .map(|listener| metrics::serve(listener, Arc::clone(&coordinator)))
        .map(|serving| Aborted(tokio::spawn(serving)));
    let incoming = accept(
        listener,
        gate.tls(),
        |error| tracing::warn!(%error, "handshake refused"),
    );
    let service = FederationServer::new(Service::new(Arc::clone(&coordinator)))
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let closed = {
        let mut closing = coordinator.closing();
        async move {
            let _ = closing.wait_for(|closing| *closing).await;
        }
    };
    let serving = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .max_concurrent_streams(64)
        .add_service(service)
        .serve_with_incoming_shutdown(incoming, closed);
    tracing::info!(federation = %coordinator.federation().name(), "serving");
    let mut serving = std::pin::pin!(serving);
    let served = tokio::select! {
        served = &mut serving => served,
        () = shutdown => {
            tracing::info!("shutting down");
            coordinator.close();
            tokio::time::timeout(FAREWELL, serving).await.unwrap_or(Ok(()))
        }
    };
    coordinator.database().close().await;
    served.map_err(|error| fault("serving", error))
}

/// Holds callers to each new certificate and list, and says in time what is about to end.
async fn follow(
    mut credentials: watch::Receiver<Credentials>,
    coordinator: Arc<Coordinator>,
    clock: Clock,
) {
    let mut met = coordinator.gate().credentials();
    loop {
        let new = credentials.borrow_and_update().clone();
        report(&new, clock());
        if new != met {
            met = new.clone();
            match take(new, &coordinator).await {
                Ok(list) => tracing::info!(
                    revocation_list = list,
                    "certificate and revocation list replaced"
                ),
                Err(error) => {
                    tracing::error!(%error, "a new certificate or revocation list was not taken");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(REPORT) => {}
            // Where nobody is left who could change them, it is said when they end, all the same.
            changed = credentials.changed() => if changed.is_err() {
                tokio::time::sleep(REPORT).await;
            }
        }
    }
}

async fn take(new: Credentials, coordinator: &Arc<Coordinator>) -> Result<u64> {
    coordinator.gate().replace(new)?;
    coordinator.note_list().await?;
    coordinator.enforce_revocations().await?;
    Ok(coordinator.gate().list().number)
}

/// In words, and in numbers for whoever collects them from the log.
fn report(credentials: &Credentials, now: SystemTime) {
    let (certificate, list) = (credentials.certificate(), credentials.revocations());
    tracing::info!(
        certificate_seconds_left = certificate.validity().seconds_left(now),
        revocation_list = list.number(),
        revocation_list_seconds_left = list.validity().seconds_left(now),
        "credentials"
    );
    for said in credentials.warnings(now) {
        tracing::warn!("{said}");
    }
}

/// Closes the coordinator when the run ends in whatever way: tasks of open connections live on for a while.
struct Closing(Arc<Coordinator>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Aborted(JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
