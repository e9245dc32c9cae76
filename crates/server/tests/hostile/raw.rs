//! An attacker's side, written by hand: TCP, TLS, HTTP/2's frames, gRPC's frames.

use std::net::{IpAddr, SocketAddr};

use ciphertune_identity::tls;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::{
    Request,
    body::{Bytes, Frame, Incoming},
    client::conn::http2::SendRequest,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::common::{Federation, Identity, Server};

/// A TCP connection from an address of this machine.
pub async fn tcp_from(source: [u8; 4], server: &Server) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket
        .bind(SocketAddr::new(IpAddr::from(source), 0))
        .unwrap();
    socket.connect(server.address).await.unwrap()
}

/// A TCP connection.
pub async fn tcp(server: &Server) -> TcpStream {
    TcpStream::connect(server.address).await.unwrap()
}

/// Mutual TLS over a TCP connection, and not a byte more.
pub async fn tls_over(
    stream: TcpStream,
    federation: &Federation,
    who: &Identity,
) -> std::io::Result<TlsStream<TcpStream>> {
    let config = tls::client_config(&federation.credentials(who), &who.key).unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(config).connect(name, stream).await
}

/// HTTP/2 over that.
pub async fn http2(server: &Server, federation: &Federation, who: &Identity) -> Http2 {
    let stream = tls_over(tcp(server).await, federation, who).await.unwrap();
    let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (send, connection) = shaken.await.unwrap();
    tokio::spawn(connection);
    Http2(send)
}

/// A body that is sent frame by frame.
pub type Frames = tokio::sync::mpsc::Sender<Bytes>;
type Body = http_body_util::combinators::UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// An HTTP/2 connection.
#[derive(Clone)]
pub struct Http2(SendRequest<Body>);

/// How a raw call ended.
#[derive(Debug)]
pub enum Answer {
    /// With gRPC's status.
    Status(tonic::Code, String),
    /// The stream or the connection broke.
    Broken,
}

impl Answer {
    /// The code.
    pub fn code(&self) -> Option<tonic::Code> {
        match self {
            Self::Status(code, _) => Some(*code),
            Self::Broken => None,
        }
    }
}

impl Http2 {
    /// Calls a method with raw bytes, and ends the stream.
    pub async fn call(&mut self, method: &str, raw: Vec<u8>, headers: &[(&str, &str)]) -> Answer {
        let body = http_body_util::Full::new(Bytes::from(raw)).boxed_unsync();
        self.answered(method, body, headers).await
    }

    /// Opens a stream whose bytes come as they are sent.
    pub fn open(&self, method: &str) -> (Frames, tokio::task::JoinHandle<Answer>) {
        let (send, frames) = tokio::sync::mpsc::channel::<Bytes>(1);
        let frames = tokio_stream::wrappers::ReceiverStream::new(frames);
        let frames = tokio_stream::StreamExt::map(frames, |bytes| Ok(Frame::data(bytes)));
        let body = StreamBody::new(frames).boxed_unsync();
        let (mut this, method) = (self.clone(), method.to_owned());
        let answer = tokio::spawn(async move { this.answered(&method, body, &[]).await });
        (send, answer)
    }

    async fn answered(&mut self, method: &str, body: Body, headers: &[(&str, &str)]) -> Answer {
        let mut request = Request::post(format!(
            "http://localhost/ciphertune.wire.Federation/{method}"
        ))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body).unwrap();
        if self.0.ready().await.is_err() {
            return Answer::Broken;
        }
        match self.0.send_request(request).await {
            Ok(response) => status_of(response).await,
            Err(_) => Answer::Broken,
        }
    }
}

async fn status_of(response: hyper::Response<Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let status = |headers: &hyper::HeaderMap| {
        let text = |name: &str| headers.get(name)?.to_str().ok().map(str::to_owned);
        let code = text("grpc-status")?.parse::<i32>().ok()?;
        let said = text("grpc-message").unwrap_or_default();
        Some(Answer::Status(tonic::Code::from_i32(code), said))
    };
    if let Some(answer) = status(&parts.headers) {
        return answer;
    }
    match body.collect().await {
        Ok(body) => body.trailers().and_then(status).unwrap_or(Answer::Broken),
        Err(_) => Answer::Broken,
    }
}

/// gRPC's frame around a message, with the length that one likes.
pub fn framed(flag: u8, length: u32, message: &[u8]) -> Vec<u8> {
    [&[flag], length.to_be_bytes().as_slice(), message].concat()
}

/// gRPC's frame around a message.
pub fn frame(message: &impl prost::Message) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    framed(0, bytes.len() as u32, &bytes)
}

/// HTTP/2's preface, and settings that change nothing.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// An HTTP/2 frame.
pub fn http2_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [head.as_slice(), payload].concat()
}

/// The headers of a call, in HPACK without its table.
pub fn headers(method: &str) -> Vec<u8> {
    let path = format!("/ciphertune.wire.Federation/{method}");
    let mut block = vec![0x83, 0x86, 0x04, path.len() as u8];
    block.extend_from_slice(path.as_bytes());
    for (name, value) in [
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        block.extend_from_slice(&[0, name.len() as u8]);
        block.extend_from_slice(name.as_bytes());
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    }
    block
}

/// Reads HTTP/2 frames until the connection ends; the kinds that came.
pub async fn kinds_until_the_end(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Vec<u8> {
    let mut kinds = Vec::new();
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).await.is_err() {
            return kinds;
        }
        kinds.push(head[3]);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if stream.read_exact(&mut payload).await.is_err() {
            return kinds;
        }
    }
}

/// Whether the other side has closed the connection, or does before `patience` is over.
pub async fn is_closed(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
    patience: std::time::Duration,
) -> bool {
    let mut bytes = vec![0; 4096];
    let ends = async { while let Ok(1..) = stream.read(&mut bytes).await {} };
    tokio::time::timeout(patience, ends).await.is_ok()
}

/// Sends bytes, as long as somebody takes them.
pub async fn send(stream: &mut (impl tokio::io::AsyncWrite + Unpin), bytes: &[u8]) -> bool {
    stream.write_all(bytes).await.is_ok() && stream.flush().await.is_ok()
}
