//! The server from a listener to its end.

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use ciphertune_identity::{Credentials, RevocationList, file};
use ciphertune_round::Signer;
use ciphertune_wire::{accept, limits::MESSAGE_BYTES, proto::federation_server::FederationServer};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::transport::Server;
use tower::util::MapResponseLayer;

use crate::{
    config::{Clock, Config},
    coordinator::Coordinator,
    error::{Error, Result, fault},
    events,
    federation::Federation,
    gate::Gate,
    metrics,
    phase::ListInForce,
    service::Service,
};

/// How long open calls may take to end after a shutdown was asked for.
const FAREWELL: Duration = Duration::from_secs(5);

/// What all members together may send ahead of what is read of their uploads: it is memory, however many they are.
const AHEAD: usize = 64 << 20;

/// Of it, what one upload gets at least, and at most: 4 MB fill a gigabit over 30 ms.
const WINDOW: (usize, usize) = (64 << 10, 4 << 20);

/// How often the log says how long certificate and revocation list still hold.
const REPORT: Duration = Duration::from_secs(3600);

/// How long until what failed of a revocation is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// The newest revocation list that this server had, in its data folder.
const LIST: &str = "crl.pem";

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
    let now = (config.clock)();
    let credentials = config.credentials.borrow().clone();
    let credentials = stored_list(credentials, &config.data)?;
    let federation = Federation::new(credentials.authority(), config.manifest, config.policy)?;
    let issued_at = ListInForce::from(credentials.revocations()).issued_at;
    federation
        .policy()
        .admit_revocation_list(issued_at, now.into())
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
    let gate = Arc::new(Gate::new(credentials, Arc::clone(&key), now)?);
    let clock = Arc::clone(&config.clock);
    let coordinator = Coordinator::open(
        federation,
        Arc::clone(&gate),
        key,
        config.clock,
        &config.data,
    )
    .await?;
    keep_list(&gate.credentials(), &config.data)?;
    coordinator.enforce_revocations().await?;
    let _guard = Closing(Arc::clone(&coordinator));
    let _conductor = Aborted(tokio::spawn(Arc::clone(&coordinator).conduct()));
    let followed = follow(
        config.credentials,
        Arc::clone(&coordinator),
        clock,
        config.data,
    );
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
    let window = stream_window(coordinator.federation().members().len());
    let serving = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .initial_stream_window_size(window)
        .initial_connection_window_size(2 * window)
        .max_concurrent_streams(64)
        .layer(MapResponseLayer::new(events::answer))
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

/// The window of one stream.
fn stream_window(members: usize) -> u32 {
    let window = (AHEAD / members.max(1)).clamp(WINDOW.0, WINDOW.1);
    u32::try_from(window).unwrap_or(u32::MAX)
}

/// Holds callers to each new certificate and list, and says in time what is about to end.
async fn follow(
    mut credentials: watch::Receiver<Credentials>,
    coordinator: Arc<Coordinator>,
    clock: Clock,
    data: PathBuf,
) {
    let mut met = coordinator.gate().credentials();
    loop {
        let new = credentials.borrow_and_update().clone();
        if new != met {
            met = new.clone();
            let (given, held) = (new.revocations().number(), coordinator.gate().list().number);
            if given < held {
                tracing::warn!(
                    "the kit's revocation list {given} is older than list {held}, which stays in force"
                );
            }
            match coordinator.gate().replace(new, clock()) {
                Ok(()) => enforce(&coordinator, &data).await,
                Err(error) => {
                    tracing::error!(%error, "a new certificate or revocation list was not taken");
                }
            }
        }
        report(&coordinator.gate().credentials(), clock());
        tokio::select! {
            () = tokio::time::sleep(REPORT) => {}
            // Where nobody is left who could change them, it is said when they end, all the same.
            changed = credentials.changed() => if changed.is_err() {
                tokio::time::sleep(REPORT).await;
            }
        }
    }
}

/// The gate holds callers to a new list already; this sees to what they had sent, for as long as it takes.
async fn enforce(coordinator: &Arc<Coordinator>, data: &Path) {
    loop {
        let seen_to = async {
            keep_list(&coordinator.gate().credentials(), data)?;
            coordinator.note_credentials().await?;
            coordinator.enforce_revocations().await
        };
        match seen_to.await {
            Ok(()) => break,
            Err(error) => tracing::error!(%error, "a revocation is not seen to; trying again"),
        }
        tokio::time::sleep(AGAIN).await;
    }
    tracing::info!(
        revocation_list = coordinator.gate().list().number,
        "certificate and revocation list replaced"
    );
}

/// The same with the list that an earlier run was given, where that is later: an old kit does not bring a revoked party back.
fn stored_list(credentials: Credentials, data: &Path) -> Result<Credentials> {
    let path = data.join(LIST);
    if !path.exists() {
        return Ok(credentials);
    }
    let stored =
        RevocationList::read(&path).map_err(|error| Error::Malformed(error.to_string()))?;
    if stored.verify(credentials.authority()).is_err() {
        tracing::warn!("the revocation list of an earlier run is of another authority: not used");
        return Ok(credentials);
    }
    let newest = credentials.with_newer(&stored);
    let newest = newest.map_err(|error| Error::Misuse(error.to_string()))?;
    if newest != credentials {
        tracing::warn!(
            revocation_list = newest.revocations().number(),
            "the kit's revocation list is older than one that this server had: the newer one holds"
        );
    }
    Ok(newest)
}

fn keep_list(credentials: &Credentials, data: &Path) -> Result<()> {
    let (path, pem) = (data.join(LIST), credentials.revocations().pem());
    let temporary = data.join(format!("{LIST}.new"));
    file::replace(&path, &temporary, pem.as_bytes(), 0o644)
        .map_err(|error| fault("keeping the revocation list", error))
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
