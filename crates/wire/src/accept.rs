//! The server's side of a connection: TCP, then our own TLS configuration, then gRPC.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tonic::{codegen::tokio_stream::wrappers::ReceiverStream, transport::server::Connected};

use crate::{
    limits::{CONNECTIONS, CONNECTIONS_OF_ONE, HANDSHAKE, HANDSHAKES},
    places::{Place, Places},
};

/// What a request's extensions say about an accepted connection: `peer_certs()` are those that the handshake verified.
/// (tonic names this type only together with its own TLS, which we do not use.)
pub type ConnectInfo = <TlsStream<TcpStream> as Connected>::ConnectInfo;

/// How long, and for how many bytes, a peer that was refused is listened to.
const PARTING: Duration = Duration::from_secs(1);
const UNREAD: u64 = 64 << 10;

/// Connections that wait to be served.
const WAITING: usize = 64;

/// How long HTTP/2's preface is: a client's first bytes.
const PREFACE: usize = 24;

/// Accepts connections, each with the TLS configuration that `tls` holds at that moment: certificates and revocation
/// lists change without a restart. Handshakes run side by side, so a silent peer delays nobody; there are at most
/// [`HANDSHAKES`] of them, and at most [`CONNECTIONS`] connections, [`CONNECTIONS_OF_ONE`] with one certificate.
///
/// `refused` hears of each handshake that failed.
pub fn accept(
    listener: TcpListener,
    tls: watch::Receiver<Arc<ServerConfig>>,
    refused: impl Fn(&io::Error) + Clone + Send + Sync + 'static,
) -> ReceiverStream<io::Result<Accepted>> {
    let (ready, accepted) = mpsc::channel(WAITING);
    let handshakes = Places::new(HANDSHAKES, HANDSHAKES);
    let connections = Arc::new(Places::new(CONNECTIONS, CONNECTIONS_OF_ONE));
    tokio::spawn(async move {
        loop {
            let (stream, peer) = tokio::select! {
                () = ready.closed() => return,
                accepted = listener.accept() => match accepted {
                    Ok(accepted) => accepted,
                    Err(error) => {
                        // Out of descriptors, say: wait for some to come back rather than spin.
                        refused(&error);
                        sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let acceptor = TlsAcceptor::from(tls.borrow().clone());
            let (ready, refused) = (ready.clone(), refused.clone());
            let (mut place, connections) = (handshakes.take(line(peer)), Arc::clone(&connections));
            tokio::spawn(async move {
                let _ = stream.set_nodelay(true);
                let shaken = async {
                    match timeout(HANDSHAKE, acceptor.accept(stream).into_fallible()).await {
                        Ok(Ok(stream)) => Some(stream),
                        Ok(Err((error, stream))) => {
                            refused(&error);
                            part(stream).await;
                            None
                        }
                        Err(_) => {
                            refused(&io::ErrorKind::TimedOut.into());
                            None
                        }
                    }
                };
                let shaken = tokio::select! {
                    shaken = shaken => shaken,
                    () = place.given_up() => {
                        refused(&io::Error::other("gave way to a newer one"));
                        None
                    }
                };
                drop(place);
                if let Some(stream) = shaken {
                    let _ = ready.send(Ok(Accepted::new(stream, &connections))).await;
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

/// Who shares a line: an IPv4 address, or the /64 that one customer of IPv6 gets.
fn line(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(address) => {
            let network = u128::from(address) >> 64 << 64;
            Ipv6Addr::from(network).into()
        }
        address => address,
    }
}

/// A connection whose handshake is done. It breaks when it gives way to a newer one of the same certificate, and when its
/// peer does not begin to speak HTTP/2.
pub struct Accepted {
    stream: TlsStream<TcpStream>,
    place: Place<Vec<u8>>,
    heard: usize,
    /// Until the preface is here: HTTP/2's own time-outs begin after it.
    silent: Option<Pin<Box<Sleep>>>,
}

impl Accepted {
    fn new(stream: TlsStream<TcpStream>, connections: &Places<Vec<u8>>) -> Self {
        let certificates = stream.get_ref().1.peer_certificates();
        let certificate = certificates.and_then(<[_]>::first);
        let name = certificate.map(|der| der.to_vec()).unwrap_or_default();
        Self {
            stream,
            place: connections.take(name),
            heard: 0,
            silent: Some(Box::pin(sleep(HANDSHAKE))),
        }
    }

    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.place.poll_given_up(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl Connected for Accepted {
    type ConnectInfo = ConnectInfo;

    fn connect_info(&self) -> ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.heard += buffer.filled().len() - before;
        if self.heard >= PREFACE {
            self.silent = None;
        }
        if let Some(silent) = &mut self.silent
            && polled.is_pending()
            && silent.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        polled
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_address_or_a_customers_network() {
        let line = |peer: &str| line(peer.parse().unwrap()).to_string();
        assert_eq!(line("192.0.2.1:5"), "192.0.2.1");
        assert_eq!(line("[::ffff:192.0.2.1]:5"), "192.0.2.1");
        assert_eq!(line("[2001:db8:1:2:3:4:5:6]:7"), "2001:db8:1:2::");
    }
}
