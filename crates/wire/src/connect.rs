//! A client's connection: TCP, then our own TLS configuration, then gRPC.

use std::{io, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, BufReader},
    net::TcpStream,
    sync::watch,
    time::timeout,
};
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

/// How long the server may take over its first word.
const FIRST_WORD: Duration = Duration::from_secs(10);

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
                heard(connector.connect(name, meter.watch(stream)).await?).await
            }
        }
    };
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

/// Waits for the server's first bytes (HTTP/2's settings). In TLS 1.3 our side of the handshake is done before the server
/// looks at our certificate: only here is it known whether it was refused, and why.
async fn heard<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> io::Result<BufReader<S>> {
    let mut stream = BufReader::new(stream);
    let first = match timeout(FIRST_WORD, stream.fill_buf()).await {
        Ok(first) => first?.len(),
        Err(_) => return Err(io::ErrorKind::TimedOut.into()),
    };
    match first {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(stream),
    }
}
