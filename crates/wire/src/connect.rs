//! A client's connection: TCP, then our own TLS configuration, then gRPC.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, sync::watch};
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::{
    error::{Error, Result},
    limits::MESSAGE_BYTES,
    meter::Meter,
    proto::federation_client::FederationClient,
    renewed::UntilReplaced,
};

/// The service, as a client calls it.
pub type Client = FederationClient<Channel>;

/// Connects to `host:port`. The handshake is part of it: a certificate that either side refuses is an error here.
///
/// # Errors
/// [`Error::Unreachable`] if nobody listens there; [`Error::Handshake`] if TLS failed, with rustls' reason.
pub async fn connect(address: &str, tls: Arc<ClientConfig>, meter: Meter) -> Result<Client> {
    connect_following(address, watch::channel(tls).1, meter).await
}

/// [`connect`](connect()), each connection with the configuration that `configs` holds at that moment: when it is replaced
/// (a certificate was renewed, a revocation list came), the connection breaks, and the next is made with the new one.
///
/// # Errors
/// As [`connect`](connect()).
pub async fn connect_following(
    address: &str,
    configs: watch::Receiver<Arc<ClientConfig>>,
    meter: Meter,
) -> Result<Client> {
    let (host, _) = address
        .rsplit_once(':')
        .ok_or_else(|| Error::Misuse(format!("{address:?} is not HOST:PORT")))?;
    let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())
        .map_err(|_| Error::Misuse(format!("{host:?} is neither a DNS name nor an IP address")))?;
    let dial = {
        let address = address.to_owned();
        move || {
            let (address, name, meter) = (address.clone(), name.clone(), meter.clone());
            let mut configs = configs.clone();
            async move {
                let connector = TlsConnector::from(configs.borrow_and_update().clone());
                let stream = TcpStream::connect(&address).await?;
                stream.set_nodelay(true)?;
                let stream = UntilReplaced::new(stream, configs);
                connector.connect(name, meter.watch(stream)).await
            }
        }
    };
    // TLS 1.3: a server that refuses our certificate says so only after our side of the handshake is done. So the first
    // call, not this dial, may be what meets it.
    let connector = service_fn(move |_: Uri| {
        let dialled = dial();
        async move { Ok::<_, io::Error>(TokioIo::new(dialled.await?)) }
    });
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| Error::Misuse(error.to_string()))?
        .connect_timeout(Duration::from_secs(20))
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20);
    let channel = endpoint
        .connect_with_connector(connector)
        .await
        .map_err(|error| Error::of_transport(address, &error))?;
    Ok(FederationClient::new(channel)
        .max_decoding_message_size(MESSAGE_BYTES)
        .max_encoding_message_size(MESSAGE_BYTES))
}
