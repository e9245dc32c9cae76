//! The server's side of a connection: TCP, then our own TLS configuration, then gRPC.

use std::{io, sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::{codegen::tokio_stream::wrappers::ReceiverStream, transport::server::Connected};

/// What a request's extensions say about an accepted connection: `peer_certs()` are those that the handshake verified.
/// (tonic names this type only together with its own TLS, which we do not use.)
pub type ConnectInfo = <TlsStream<TcpStream> as Connected>::ConnectInfo;

/// How long a peer may take over its handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long, and for how many bytes, a peer that was refused is listened to.
const PARTING: Duration = Duration::from_secs(1);
const UNREAD: u64 = 64 << 10;

/// Handshakes that wait to be served, and connections that wait for a handshake.
const WAITING: usize = 64;

/// Accepts connections, each with the TLS configuration that `tls` holds at that moment: certificates and revocation
/// lists change without a restart. Handshakes run side by side, so a silent peer delays nobody.
///
/// `refused` hears of each handshake that failed.
pub fn accept(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    refused: impl Fn(&io::Error) + Clone + Send + Sync + 'static,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (ready, accepted) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                () = ready.closed() => return,
                stream = listener.accept() => match stream {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        // Out of descriptors, say: wait for some to come back rather than spin.
                        refused(&error);
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let acceptor = TlsAcceptor::from(tls.borrow().clone());
            let (ready, refused) = (ready.clone(), refused.clone());
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                match timeout(HANDSHAKE, acceptor.accept(stream).into_fallible()).await {
                    Ok(Ok(stream)) => {
                        let _ = ready.send(Ok(stream)).await;
                    }
                    Ok(Err((error, stream))) => {
                        refused(&error);
                        part(stream).await;
                    }
                    Err(_) => refused(&io::ErrorKind::TimedOut.into()),
                }
            });
        }
    });
    ReceiverStream::new(accepted)
}

/// Lets the peer read why: a socket that is closed with something unread in it is reset, and the alert is lost with it.
async fn part(mut stream: TcpStream) {
    let drain = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(UNREAD), &mut tokio::io::sink()).await
    };
    let _ = timeout(PARTING, drain).await;
}
