//! The server from a listener to its end.

use std::{future::Future, sync::Arc, time::Duration};

use ciphertune_identity::{AuthorityCertificate, tls};
use ciphertune_policy::Instant;
use ciphertune_round::Signer;
use ciphertune_wire::{accept, limits::MESSAGE_BYTES, proto::federation_server::FederationServer};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tonic::transport::Server;

use crate::{
    config::Config,
    coordinator::Coordinator,
    error::{Error, Result, fault},
    federation::Federation,
    service::Service,
};

/// How long open calls may take to end after a shutdown was asked for.
const FAREWELL: Duration = Duration::from_secs(5);

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
    let authority = AuthorityCertificate::from_pem(&config.ca_pem)
        .map_err(|error| Error::Malformed(format!("authority's certificate: {error}")))?;
    let federation = Federation::new(&authority, config.manifest, config.policy)?;
    let revocations = config
        .crls_pem
        .as_deref()
        .map(tls::revocations_issued_at)
        .transpose()
        .map_err(|error| Error::Malformed(error.to_string()))?
        .map(Instant::from);
    let federation = federation.with_revocations(revocations);
    federation
        .policy()
        .admit_revocation_list(revocations, (config.clock)().into())
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
    let tls = tls::server_config_with_crls(
        &config.ca_pem,
        &config.cert_pem,
        &config.key,
        config.crls_pem.as_deref(),
    )
    .map_err(|error| Error::Misuse(error.to_string()))?;
    let (_tls, tls) = watch::channel(tls);
    let coordinator = Coordinator::open(federation, config.key, config.clock, &config.data).await?;
    let _guard = Closing(Arc::clone(&coordinator));
    let _conductor = Aborted(tokio::spawn(Arc::clone(&coordinator).conduct()));
    let incoming = accept(
        listener,
        tls,
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
