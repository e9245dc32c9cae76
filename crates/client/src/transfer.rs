//! Bodies up, sums and bodies down: in chunks, resumed where a connection broke.

use std::{
    fs::File,
    io::{BufWriter, Read, Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use ciphertune_identity::file::create;
use ciphertune_round::{Context, ShareIndex};
use ciphertune_wire::{
    Client, Refusal,
    limits::{CHUNK_BYTES, SHARE_BYTES, SHARES_A_MESSAGE},
    proto,
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};

use crate::{
    backoff::Backoff,
    error::{Error, Result},
    inbox::passing,
};

/// Tries at a command's call, for which a person waits: with the pauses between them, about four minutes. Likewise of a
/// download that ends short without a word, which no honest server's does.
const TRIES: u32 = 40;

/// Makes a call again while it fails for reasons that may pass: for ever. What belongs to an attempt is refused when the attempt is
/// over, and that does not pass.
pub async fn retry<T, F>(call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T, tonic::Status>>,
{
    retry_noting(call, || 0, u32::MAX).await
}

/// The same for so long as a person waits.
pub async fn retry_a_while<T, F>(call: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T, tonic::Status>>,
{
    retry_noting(call, || 0, TRIES).await
}

/// The same where a call that fails may have come further than the one before, as `reached` says: pauses begin short again.
async fn retry_noting<T, F>(
    mut call: impl FnMut() -> F,
    reached: impl Fn() -> u64,
    most: u32,
) -> Result<T>
where
    F: Future<Output = Result<T, tonic::Status>>,
{
    let (mut backoff, mut before, mut tries) = (Backoff::default(), reached(), 1_u32);
    loop {
        match call().await {
            Ok(reply) => return Ok(reply),
            // A person would rather be told of a fault than wait until somebody has mended it.
            Err(status) if most == TRIES && Refusal::of(&status) == Some(Refusal::Fault) => {
                return Err(status.into());
            }
            Err(status) if tries < most && passing(&status) => {
                tracing::warn!(code = %status.code(), said = status.message(), tries, "a call failed; trying again");
                let now = reached();
                if now > before {
                    (backoff, before) = (Backoff::default(), now);
                }
                backoff.wait().await;
                tries = tries.saturating_add(1);
            }
            Err(status) => return Err(status.into()),
        }
    }
}

/// Sends a body from its file, from wherever the server has it.
pub async fn send_body(client: &Client, context: Context, path: &Path) -> Result<()> {
    let durable = AtomicU64::new(0);
    let send = || async {
        let mut client = client.clone();
        let request = proto::BodyOffsetRequest {
            context: context.as_bytes().to_vec(),
        };
        let at = client.body_offset(request).await?.into_inner();
        durable.store(at.durable, Ordering::Relaxed);
        if at.complete {
            return Ok(());
        }
        let reply = client
            .put_body(ReceiverStream::new(chunks(
                context,
                path.to_owned(),
                at.durable,
            )))
            .await
            // A call of an older connection brought more meanwhile: where to go on is asked again.
            .map_err(|status| match Refusal::of(&status) {
                Some(Refusal::Conflict) => tonic::Status::aborted("an older connection went on"),
                _ => status,
            })?
            .into_inner();
        if reply.complete {
            Ok(())
        } else {
            Err(tonic::Status::aborted(
                "the server has only part of the body",
            ))
        }
    };
    retry_noting(send, || durable.load(Ordering::Relaxed), u32::MAX).await
}

/// At least one, so that a server that has every byte and has not looked at them does.
fn chunks(context: Context, path: PathBuf, from: u64) -> mpsc::Receiver<proto::BodyChunk> {
    let (ready, chunks) = mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        let read = || -> std::io::Result<()> {
            let mut file = File::open(&path)?;
            let mut offset = file.seek(SeekFrom::Start(from))?;
            loop {
                let mut data = Vec::with_capacity(CHUNK_BYTES);
                (&mut file)
                    .take(CHUNK_BYTES as u64)
                    .read_to_end(&mut data)?;
                if data.is_empty() && offset > from {
                    return Ok(());
                }
                let length = data.len() as u64;
                let chunk = proto::BodyChunk {
                    context: context.as_bytes().to_vec(),
                    offset,
                    data: data.into(),
                };
                if ready.blocking_send(chunk).is_err() || length == 0 {
                    return Ok(());
                }
                offset += length;
            }
        };
        if let Err(error) = read() {
            tracing::error!(path = %path.display(), %error, "cannot read a body");
        }
    });
    chunks
}

/// What to fetch.
#[derive(Clone, Copy, Debug)]
pub enum Wanted {
    /// The sum of a closed roster.
    Sum,
    /// One contributor's body.
    Body(ShareIndex),
    /// The parcel that was sealed to this member.
    Parcel,
}

/// Fetches a sum or a body of `bytes` into a file. What comes is as untrusted as before: its digest is checked by
/// whoever reads the file.
///
/// # Errors
/// [`Error::Refused`] if the server sends more than `bytes`.
pub async fn fetch(
    client: &Client,
    context: Context,
    wanted: Wanted,
    bytes: u64,
    path: &Path,
) -> Result<()> {
    // Not durable: what a crash leaves of it is fetched again.
    let file = create(path, 0o600).map_err(|error| Error::fault("creating a download", error))?;
    let mut file = BufWriter::new(file);
    let mut have = 0_u64;
    let (mut backoff, mut short) = (Backoff::default(), 0);
    while have < bytes {
        let before = have;
        match fetch_from(client, context, wanted, bytes, &mut have, &mut file).await {
            Ok(()) if have == bytes => break,
            Ok(()) if short < TRIES => short += 1,
            Ok(()) => return Err(Error::Server(format!("sent {have} of {bytes} bytes"))),
            Err(Failure::Status(status)) if passing(&status) => {
                tracing::warn!(code = %status.code(), have, bytes, "a download broke off; going on");
            }
            Err(Failure::Status(status)) => return Err(status.into()),
            Err(Failure::Final(error)) => return Err(error),
        }
        if have > before {
            (backoff, short) = (Backoff::default(), 0);
        }
        backoff.wait().await;
    }
    file.flush()
        .map_err(|error| Error::fault("writing a download", error))
}

enum Failure {
    Status(tonic::Status),
    Final(Error),
}

impl From<tonic::Status> for Failure {
    fn from(status: tonic::Status) -> Self {
        Self::Status(status)
    }
}

async fn fetch_from(
    client: &Client,
    context: Context,
    wanted: Wanted,
    bytes: u64,
    have: &mut u64,
    file: &mut impl Write,
) -> Result<(), Failure> {
    let mut client = client.clone();
    let context = context.as_bytes().to_vec();
    let offset = *have;
    let mut stream = match wanted {
        Wanted::Sum => {
            client
                .get_sum(proto::GetSumRequest { context, offset })
                .await
        }
        Wanted::Parcel => {
            client
                .get_parcel(proto::GetParcelRequest { context, offset })
                .await
        }
        Wanted::Body(seat) => {
            let seat = seat.get().into();
            client
                .get_body(proto::GetBodyRequest {
                    context,
                    seat,
                    offset,
                })
                .await
        }
    }?
    .into_inner();
    while let Some(chunk) = stream.next().await {
        let data = chunk?.data;
        *have += data.len() as u64;
        if *have > bytes {
            let said = format!("the server sent more than the {bytes} bytes of it");
            return Err(Failure::Final(Error::Refused(said)));
        }
        file.write_all(&data)
            .map_err(|error| Failure::Final(Error::fault("writing a download", error)))?;
    }
    Ok(())
}

/// Sends a sealed parcel, whole each time, behind the signed object that names its digest.
pub async fn send_parcel(client: &Client, parcel: Vec<u8>, sealed: Vec<u8>) -> Result<()> {
    let sealed = Arc::new(sealed);
    retry(|| {
        let (mut client, parcel, sealed) = (client.clone(), parcel.clone(), Arc::clone(&sealed));
        async move {
            let starts = (0..sealed.len()).step_by(CHUNK_BYTES);
            let chunks = starts.map(move |from| proto::ParcelChunk {
                parcel: if from == 0 {
                    parcel.clone()
                } else {
                    Vec::new()
                },
                data: sealed
                    .get(from..sealed.len().min(from + CHUNK_BYTES))
                    .unwrap_or_default()
                    .to_vec()
                    .into(),
            });
            client
                .put_parcel(tokio_stream::iter(chunks))
                .await
                .map(drop)
        }
    })
    .await
}

/// Sends sealed shares, whole each time, behind the signed object that names their digests.
pub async fn send_shares(
    client: &Client,
    context: Context,
    kind: proto::ShareKind,
    signed: Vec<u8>,
    shares: Vec<Vec<u8>>,
) -> Result<()> {
    let (signed, shares) = (Arc::new(signed), Arc::new(shares));
    retry(|| {
        let (mut client, signed, shares) =
            (client.clone(), Arc::clone(&signed), Arc::clone(&shares));
        async move {
            let messages = batches(&shares).into_iter().map(move |batch| {
                let first = batch.start == 0;
                let signed = if first { signed.to_vec() } else { Vec::new() };
                let context = if first {
                    context.as_bytes().to_vec()
                } else {
                    Vec::new()
                };
                proto::PutSharesRequest {
                    context,
                    kind: kind.into(),
                    signed,
                    shares: shares.get(batch).unwrap_or_default().to_vec(),
                }
            });
            client
                .put_shares(tokio_stream::iter(messages))
                .await
                .map(drop)
        }
    })
    .await
}

/// Which shares go into one message: never none, and at least one message even for no shares at all.
fn batches(shares: &[Vec<u8>]) -> Vec<Range<usize>> {
    let mut batches = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (at, share) in shares.iter().enumerate() {
        if at > start && bytes + share.len() > SHARES_A_MESSAGE {
            batches.push(start..at);
            (start, bytes) = (at, 0);
        }
        bytes += share.len();
    }
    batches.push(start..shares.len());
    batches
}

/// Fetches the shares that were sealed to this member, at most one a sender.
pub async fn fetch_shares(
    client: &Client,
    context: Context,
    kind: proto::ShareKind,
    most: usize,
) -> Result<Vec<(ShareIndex, Vec<u8>)>> {
    let raw = retry(|| {
        let mut client = client.clone();
        async move {
            let request = proto::GetSharesRequest {
                context: context.as_bytes().to_vec(),
                kind: kind.into(),
            };
            let mut stream = client.get_shares(request).await?.into_inner();
            let mut shares = Vec::new();
            while let Some(share) = stream.next().await {
                // A connection that breaks behind the last share is no share.
                let share = share?;
                if shares.len() == most {
                    return Err(tonic::Status::out_of_range("more shares than senders"));
                }
                if share.share.len() > SHARE_BYTES {
                    return Err(tonic::Status::out_of_range("a share that is too large"));
                }
                shares.push(share);
            }
            Ok(shares)
        }
    })
    .await?;
    raw.into_iter()
        .map(|share| {
            let sender = u16::try_from(share.sender)
                .map_err(|_| Error::malformed("sealed share", "no such seat"))?;
            Ok((ShareIndex::new(sender)?, share.share))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use ciphertune_seal::SEALED_SHARE_BYTES;

    use super::*;

    #[test]
    fn a_sealed_share_is_no_larger_than_a_share_may_be() {
        const { assert!(SEALED_SHARE_BYTES <= SHARE_BYTES) }
    }

    #[test]
    fn every_share_is_in_one_message_and_no_message_is_too_large() {
        for count in [0, 1, 2, 7, 8, 20, 1000] {
            let shares = vec![vec![0; SEALED_SHARE_BYTES]; count];
            let batches = batches(&shares);
            assert_eq!(batches.first().map(|batch| batch.start), Some(0));
            assert_eq!(batches.last().map(|batch| batch.end), Some(count));
            assert!(batches.windows(2).all(|pair| pair[0].end == pair[1].start));
            let largest = SHARES_A_MESSAGE / SEALED_SHARE_BYTES;
            assert!(batches.iter().all(|batch| batch.len() <= largest));
            assert_eq!(batches.len(), count.div_ceil(largest).max(1));
        }
        let one = [vec![0; SHARES_A_MESSAGE + 1], Vec::new()];
        assert_eq!(batches(&one), [0..1, 1..2]);
    }
}
