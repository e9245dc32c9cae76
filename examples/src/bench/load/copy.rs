//! A plain copy over the same TLS: what the server's throughput is held to. As many connections with the same configurations,
//! from the same tasks, each sending as many bytes; the receiver writes each into a file and syncs it once at its end.

use std::{sync::Arc, time::Instant};

use ciphertune_identity::{Home, Kit, SigningKey, tls};
use ciphertune_wire::{accept, limits::CHUNK_BYTES};
use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::{Barrier, watch},
    task::JoinSet,
};
use tokio_rustls::TlsConnector;
use tokio_stream::StreamExt as _;

use super::{child::Process, member::Cast, shape::Shape};
use crate::{
    Error, Result,
    federation::{KIT, folder},
    party::{LISTENING, bind, ended_from_outside, passphrase, say},
};

/// Connections that are being made at one time.
pub const DIALLING: usize = 32;

/// Sends what the members of a shape contribute; returns the seconds that it took.
pub async fn measure(cast: &Arc<Cast>, shape: &Shape) -> Result<f64> {
    let mut receiver = Process::start("receiver", cast).await?;
    let dialling = Arc::new(tokio::sync::Semaphore::new(DIALLING));
    let ready = Arc::new(Barrier::new(shape.members));
    let mut senders = JoinSet::new();
    for number in 0..shape.members {
        let (cast, shape) = (Arc::clone(cast), shape.clone());
        let (dialling, ready) = (Arc::clone(&dialling), Arc::clone(&ready));
        senders.spawn(async move {
            let permit = dialling.acquire().await;
            let stream = dial(&cast, number).await?;
            drop(permit);
            ready.wait().await;
            let began = Instant::now();
            send(&cast, &shape, number, stream).await?;
            Ok::<_, Error>((began, Instant::now()))
        });
    }
    let sending = async {
        let mut spans = Vec::new();
        while let Some(sent) = senders.join_next().await {
            spans.push(sent.map_err(|error| Error::fault("a sender", error))??);
        }
        Ok(spans)
    };
    let spans: Vec<(Instant, Instant)> = receiver.beside(sending).await?;
    receiver.end().await;
    let began = spans.iter().map(|(began, _)| *began).min();
    let ended = spans.iter().map(|(_, ended)| *ended).max();
    let (began, ended) = began
        .zip(ended)
        .ok_or_else(|| Error::Fault("nobody sent".into()))?;
    Ok((ended - began).as_secs_f64())
}

type Stream = tokio_rustls::client::TlsStream<TcpStream>;

async fn dial(cast: &Cast, number: usize) -> Result<Stream> {
    let dialling = async {
        let holder = cast.scene.members.get(number);
        let tls = holder.map(|holder| Arc::clone(&holder.tls));
        let tls = tls.ok_or(std::io::ErrorKind::NotFound)?;
        let stream = TcpStream::connect(cast.scene.address.to_string()).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(std::net::IpAddr::from([127, 0, 0, 1]));
        TlsConnector::from(tls).connect(name, stream).await
    };
    dialling
        .await
        .map_err(|error: std::io::Error| Error::fault("connecting for the plain copy", error))
}

async fn send(cast: &Cast, shape: &Shape, number: usize, mut stream: Stream) -> Result<()> {
    let sending = async {
        for _ in 0..shape.jobs {
            for _ in 0..shape.holders() {
                stream.write_all(&cast.bodies.share).await?;
            }
            for (_, data) in cast.bodies.chunks(number, 0) {
                stream.write_all(&data).await?;
            }
        }
        stream.shutdown().await?;
        // What it says when the file is synced.
        stream.read_u8().await
    };
    sending
        .await
        .map(drop)
        .map_err(|error| Error::fault("sending the plain copy", error))
}

/// Plays the receiver until standard input ends.
pub async fn receive(home: &Home) -> Result<()> {
    let kit = Kit::read(&home.root().join(KIT))?;
    let key = SigningKey::load(&home.key(), &passphrase()?)?;
    let data = home.root().join("copies");
    folder(&data)?;
    let listener = bind(([127, 0, 0, 1], kit.address.port()).into()).await?;
    let (_tls, configs) = watch::channel(tls::server_config(&kit.credentials, &key)?);
    let mut incoming = accept(listener, configs, |error| eprintln!("refused: {error}"));
    say(&serde_json::json!({ "event": LISTENING }));
    let receiving = async {
        let mut number = 0;
        while let Some(stream) = incoming.next().await {
            let Ok(mut stream) = stream else { continue };
            let path = data.join(number.to_string());
            number += 1;
            tokio::spawn(async move {
                let copying = async {
                    let mut file = tokio::fs::File::create(path).await?;
                    let mut buffer = vec![0; CHUNK_BYTES];
                    loop {
                        let mut filled = 0;
                        while let Some(rest) = buffer.get_mut(filled..).filter(|it| !it.is_empty())
                        {
                            match stream.read(rest).await? {
                                0 => break,
                                read => filled += read,
                            }
                        }
                        file.write_all(buffer.get(..filled).unwrap_or_default())
                            .await?;
                        if filled < buffer.len() {
                            break;
                        }
                    }
                    file.sync_all().await?;
                    stream.write_u8(1).await?;
                    stream.shutdown().await
                };
                if let Err(error) = copying.await {
                    eprintln!("a copy failed: {error}");
                }
            });
        }
    };
    tokio::select! {
        () = receiving => {}
        () = ended_from_outside() => {}
    }
    Ok(())
}
