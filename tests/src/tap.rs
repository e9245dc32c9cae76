//! A tap between members and the honest server, with the certificates of both sides: every byte of every call that a
//! member makes, headers too, as it was sent. Whatever code made it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use ciphertune_identity::tls;
use ciphertune_round::Fingerprint;
use http_body_util::BodyExt as _;
use hyper::{Request, body::Incoming, client::conn, server, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::front::Papers;

/// One call.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who made it.
    pub by: Fingerprint,
    /// The method's name.
    pub method: String,
    /// Names and values.
    pub headers: BTreeMap<String, String>,
    /// Its messages.
    pub messages: Vec<Vec<u8>>,
}

/// A call on its way.
struct Taped {
    by: Fingerprint,
    path: String,
    headers: BTreeMap<String, String>,
    body: Arc<Mutex<Vec<u8>>>,
}

/// The tap, open.
pub struct Tap {
    taped: Arc<Mutex<Vec<Taped>>>,
    task: JoinHandle<()>,
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Tap {
    /// Listens before the honest server at `hidden`.
    pub fn open(hidden: String, listener: TcpListener, papers: Papers) -> Self {
        let taped: Arc<Mutex<Vec<Taped>>> = Arc::default();
        let (tape, papers) = (Arc::clone(&taped), Arc::new(papers));
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (hidden, papers, tape) =
                    (hidden.clone(), Arc::clone(&papers), Arc::clone(&tape));
                tokio::spawn(async move {
                    // A connection that breaks is a party that left.
                    let _ = relay(stream, &hidden, &papers, &tape).await;
                });
            }
        });
        Self { taped, task }
    }

    /// Every call so far.
    pub fn calls(&self) -> Vec<Call> {
        let taped = self.taped.lock().unwrap();
        let call = |taped: &Taped| Call {
            by: taped.by,
            method: taped.path.rsplit('/').next().unwrap().to_owned(),
            headers: taped.headers.clone(),
            messages: messages(&taped.body.lock().unwrap()),
        };
        taped.iter().map(call).collect()
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn relay(
    stream: TcpStream,
    hidden: &str,
    papers: &Papers,
    tape: &Arc<Mutex<Vec<Taped>>>,
) -> Result<(), Failure> {
    let config = tls::server_config(&papers.server.0, &papers.server.1)?;
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    let certificates = stream.get_ref().1.peer_certificates();
    let by = tls::peer(&certificates.ok_or("no certificate")?[0])?.fingerprint;
    let (credentials, key) = papers.parties.get(&by).ok_or("a stranger")?;
    let config = tls::client_config(credentials, key)?;
    let (host, _) = hidden.rsplit_once(':').ok_or("no port")?;
    let name = ServerName::try_from(host.to_owned())?;
    let onwards = TcpStream::connect(hidden).await?;
    let onwards = TlsConnector::from(config).connect(name, onwards).await?;
    let (send, connection) =
        conn::http2::handshake(TokioExecutor::new(), TokioIo::new(onwards)).await?;
    tokio::spawn(connection);
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut send, body) = (send.clone(), Arc::<Mutex<Vec<u8>>>::default());
        let text =
            |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into();
        let headers = request.headers().iter();
        tape.lock().unwrap().push(Taped {
            by,
            path: request.uri().path().to_owned(),
            headers: headers
                .map(|(name, value)| (name.to_string(), text(value)))
                .collect(),
            body: Arc::clone(&body),
        });
        let request = request.map(|sent| {
            sent.map_frame(move |frame| {
                if let Some(data) = frame.data_ref() {
                    body.lock().unwrap().extend_from_slice(data);
                }
                frame
            })
        });
        async move { send.send_request(request).await }
    });
    server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await?;
    Ok(())
}

/// gRPC's frames: a byte that says whether the message is compressed, its length, itself. A torn last one is left out.
fn messages(mut body: &[u8]) -> Vec<Vec<u8>> {
    let mut messages = Vec::new();
    while let Some((head, rest)) = body.split_first_chunk::<5>() {
        assert_eq!(
            head[0], 0,
            "compressed: its length would tell of its content"
        );
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let Some((message, rest)) = rest.split_at_checked(length) else {
            break;
        };
        messages.push(message.to_vec());
        body = rest;
    }
    messages
}

/// A field of a protobuf message as it was sent: its number and its value, a number as its bytes in base 128.
pub fn fields(mut message: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, String> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message)?;
        let value = match tag & 7 {
            0 => {
                let before = message;
                varint(&mut message)?;
                before[..before.len() - message.len()].to_vec()
            }
            2 => {
                let length = varint(&mut message)? as usize;
                let (value, rest) = message
                    .split_at_checked(length)
                    .ok_or("a field that is cut off")?;
                message = rest;
                value.to_vec()
            }
            other => return Err(format!("wire type {other}")),
        };
        fields.push((tag >> 3, value));
    }
    Ok(fields)
}

fn varint(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, rest) = bytes.split_first().ok_or("a number that is cut off")?;
        *bytes = rest;
        value |= u64::from(first & 0x7F) << shift;
        if first & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("a number of more than 64 bits".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_and_fields_are_taken_apart() {
        let framed = [
            &[0, 0, 0, 0, 2],
            b"ab".as_slice(),
            &[0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 9, 1],
        ]
        .concat();
        assert_eq!(messages(&framed), [b"ab".to_vec(), Vec::new()]);
        let message = [0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0xA2, 0x01, 0x00];
        let expected = [(1, vec![0x96, 0x01]), (2, b"hi".to_vec()), (20, Vec::new())];
        assert_eq!(fields(&message).unwrap(), expected);
        assert!(fields(&message[..6]).is_err());
        assert!(
            fields(&[0x0D, 0, 0, 0, 0]).is_err(),
            "no float is ever sent"
        );
    }
}
