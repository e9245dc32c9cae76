//! The server from a listener to its end.

use std::{
    future::Future,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use ciphertune_identity::{
    Credentials, RevocationList, file,
    watch::{Does, Step, Watched},
};
use ciphertune_round::Signer;
use ciphertune_wire::{
    accept,
    limits::{MESSAGE_BYTES, REQUEST_BYTES},
    proto::federation_server::FederationServer,
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::transport::Server;
use tower::util::MapResponse;

use crate::{
    config::{Clock, Config},
    coordinator::Coordinator,
    error::{Error, Result, fault},
    events,
    federation::Federation,
    gate::Gate,
    limits::{ERRORS, HEADER_BYTES, PING, PONG, RESETS, STREAMS, TOLD, call_window},
    outside,
    phase::ListInForce,
    service::Service,
    throttle::Throttled,
};

/// How long open calls may take to end after a shutdown was asked for.
const FAREWELL: Duration = Duration::from_secs(5);

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
    let opened = Coordinator::open(
        federation,
        Arc::clone(&gate),
        key,
        config.clock,
        &config.data,
        config.disk.clone(),
        config.keep_free,
    );
    let coordinator = opened
        .await
        .map_err(|error| on_a_full_disk(error, &config.data))?;
    keep_list(&gate.credentials(), &config.data, &config.disk)?;
    coordinator.enforce_revocations().await?;
    let _guard = Closing(Arc::clone(&coordinator));
    let _scribe = Aborted(tokio::spawn(Arc::clone(&coordinator).write_log()));
    let _conductor = Aborted(tokio::spawn(Arc::clone(&coordinator).conduct()));
    let followed = follow(
        config.credentials,
        Arc::clone(&coordinator),
        clock,
        config.data,
        config.disk,
    );
    let _followed = Aborted(tokio::spawn(followed));
    let _outside = (config.outside)
        .map(|outside| outside::serve(outside, Arc::clone(&coordinator)))
        .map(|serving| Aborted(tokio::spawn(serving)));
    let told = Arc::new(Mutex::new(Told::default()));
    let incoming = accept(listener, gate.tls(), move |error| {
        let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(untold) = told.may_tell(Instant::now()) {
            tracing::warn!(%error, untold, "handshake refused");
        }
    });
    // No compression: a compressed request is refused, so none grows when it is read.
    let service = FederationServer::new(Service::new(Arc::clone(&coordinator)))
        .max_decoding_message_size(REQUEST_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES);
    let closed = {
        let mut closing = coordinator.closing();
        async move {
            let _ = closing.wait_for(|closing| *closing).await;
        }
    };
    let window = call_window(coordinator.federation().members().len());
    let serving = Server::builder()
        .http2_keepalive_interval(Some(PING))
        .http2_keepalive_timeout(Some(PONG))
        .initial_stream_window_size(window)
        .initial_connection_window_size(2 * window)
        .max_concurrent_streams(STREAMS)
        .http2_max_header_list_size(HEADER_BYTES)
        .http2_max_pending_accept_reset_streams(Some(RESETS))
        .http2_max_local_error_reset_streams(Some(ERRORS))
        .serve_with_incoming_shutdown(
            Throttled::new(MapResponse::new(service, events::answer)),
            incoming,
            closed,
        );
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
    if let Err(error) = coordinator.flush().await {
        tracing::error!(%error, "audit entries wait in the database for the next start");
    }
    coordinator.database().close().await;
    served.map_err(|error| fault("serving", error))
}

/// Holds callers to each new certificate and list, and says in time what is about to end.
async fn follow(
    mut credentials: watch::Receiver<Credentials>,
    coordinator: Arc<Coordinator>,
    clock: Clock,
    data: PathBuf,
    disk: Watched,
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
                Ok(()) => enforce(&coordinator, &data, &disk).await,
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
async fn enforce(coordinator: &Arc<Coordinator>, data: &Path, disk: &Watched) {
    loop {
        let seen_to = async {
            keep_list(&coordinator.gate().credentials(), data, disk)?;
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

/// Says so where an error has a cause that its words may hide.
fn on_a_full_disk(error: Error, data: &Path) -> Error {
    const NOTHING: u64 = 1 << 20;
    let found = rustix::fs::statvfs(data);
    match (error, found) {
        (Error::Fault(said), Ok(found))
            if found.f_bavail.saturating_mul(found.f_frsize) < NOTHING =>
        {
            Error::Fault(format!(
                "{said}: the disk of {} is full. Nothing is lost; make room there and start again",
                data.display()
            ))
        }
        (error, _) => error,
    }
}

fn keep_list(credentials: &Credentials, data: &Path, disk: &Watched) -> Result<()> {
    let (path, pem) = (data.join(LIST), credentials.revocations().pem());
    if std::fs::read(&path).is_ok_and(|kept| kept == pem.as_bytes()) {
        return Ok(());
    }
    let temporary = data.join(format!("{LIST}.new"));
    let step = Step {
        does: Does::WritesFile,
        path: &path,
        bytes: pem.as_bytes(),
    };
    disk.step(&step, || {
        file::replace(&path, &temporary, pem.as_bytes(), 0o644)
    })
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

/// How many of one kind of thing the log was told of in this minute: whoever floods a server fills no log.
#[derive(Default)]
struct Told {
    since: Option<Instant>,
    times: u32,
    untold: u64,
}

impl Told {
    /// If there is room for one more: how many there was none for.
    fn may_tell(&mut self, now: Instant) -> Option<u64> {
        let is_over = |since| now.saturating_duration_since(since) >= Duration::from_secs(60);
        if self.since.is_none_or(is_over) {
            (self.since, self.times) = (Some(now), 0);
        }
        if self.times == TOLD {
            self.untold += 1;
            return None;
        }
        self.times += 1;
        Some(std::mem::take(&mut self.untold))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_of_a_few_times_a_minute_and_then_counted() {
        let (mut told, now) = (Told::default(), Instant::now());
        let times = (0..1_000).filter(|_| told.may_tell(now).is_some()).count();
        assert_eq!(times, TOLD as usize);
        let later = now + Duration::from_secs(61);
        assert_eq!(told.may_tell(later), Some(1_000 - u64::from(TOLD)));
        assert_eq!(told.may_tell(later), Some(0));
    }
}
