//! Sealed shares: taken as a stream, to a file and share by share, kept when they are the ones that were signed; handed
//! out one by one. In memory there is one message of one sender at a time, however many seats there are.

use std::{io::SeekFrom, path::PathBuf, sync::Arc};

use ciphertune_round::{Context, Digest, Fingerprint, Header, Release, Signed};
use ciphertune_wire::{
    Refusal,
    limits::SHARE_BYTES,
    proto::{PutSharesReply, PutSharesRequest, SealedShare, ShareKind},
};
use tokio::{
    fs::File,
    io::{AsyncSeekExt as _, AsyncWriteExt as _},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    coordinator::Coordinator,
    download::expect_roster,
    error::{Refused, Result, fault},
    phase::{Input, Machine, Shares},
    service::status,
    uploads::Uploads,
};

/// What was signed of shares that are to come.
pub(crate) struct Announced {
    context: Context,
    sender: Fingerprint,
    kind: Shares,
    digests: Vec<Digest>,
    input: Input,
}

impl From<Signed<Header>> for Announced {
    fn from(header: Signed<Header>) -> Self {
        Self {
            context: header.context,
            sender: header.signer(),
            kind: Shares::Key,
            digests: header.shares.clone(),
            input: Input::Header(header),
        }
    }
}

impl From<Signed<Release>> for Announced {
    fn from(release: Signed<Release>) -> Self {
        Self {
            context: release.context,
            sender: release.signer(),
            kind: Shares::KeySum,
            digests: release.shares.clone(),
            input: Input::Release(release),
        }
    }
}

/// Takes a header's or a release's shares, whole each time, and then the object that signs them.
pub(crate) async fn take(
    coordinator: &Arc<Coordinator>,
    uploads: &Uploads,
    announced: Announced,
    first: PutSharesRequest,
    mut messages: Streaming<PutSharesRequest>,
) -> Result<PutSharesReply> {
    const DOING: &str = "writing sealed shares";
    let Announced {
        context,
        sender,
        kind,
        digests,
        input,
    } = announced;
    if first.context != context.as_bytes() {
        return Err(Refused::malformed("signed for another context").into());
    }
    let now = coordinator.now();
    let look = |machine: &Machine| {
        let wanted = machine.would_take(&input, now)?;
        Ok(wanted.then_some(machine.seat(&context, &sender)?.1))
    };
    // What is refused, or here already, gets no turn and no file.
    if coordinator.with_context(&context, look).await?.is_none() {
        return Ok(PutSharesReply {});
    }
    let mut turn = uploads.enter(turn_of(&context, kind), sender).await;
    let Some(seat) = coordinator.with_context(&context, look).await? else {
        return Ok(PutSharesReply {});
    };
    let path = coordinator.files().shares_upload(&context, seat, kind);
    let mut upload = Upload::create(path, digests)
        .await
        .map_err(|error| fault(DOING, error))?;
    let mut next = Some(first);
    let mut outcome = Ok(());
    while let Some(message) = next {
        for share in &message.shares {
            outcome = upload.check(share);
            if outcome.is_err() {
                break;
            }
            upload
                .write(share)
                .await
                .map_err(|error| fault(DOING, error))?;
        }
        if outcome.is_err() {
            break;
        }
        next = tokio::select! {
            message = messages.message() => message.unwrap_or(None),
            () = turn.superseded() => {
                outcome = Err(Refused::new(Refusal::Conflict, "a newer connection took over"));
                None
            }
        };
    }
    // Whatever the outcome, nothing is in flight when the next connection has its turn.
    let whole = upload.finish().await.map_err(|error| fault(DOING, error))?;
    outcome?;
    if !whole {
        return Err(Refused::malformed("fewer shares than were signed").into());
    }
    coordinator.feed_context(&context, input).await?;
    Ok(PutSharesReply {})
}

/// Never a body's turn, nor that of the other kind.
fn turn_of(context: &Context, kind: Shares) -> Context {
    let kind = match kind {
        Shares::Key => 1,
        Shares::KeySum => 2,
    };
    let mut bytes = context.as_bytes().to_vec();
    bytes.push(kind);
    Context::from_digest(Digest::sha256(&bytes))
}

/// Shares on their way to a file: how many, the length of each, the shares (see [`crate::storage::Files::share`]).
struct Upload {
    file: File,
    digests: Vec<Digest>,
    lengths: Vec<u32>,
}

impl Upload {
    async fn create(path: PathBuf, digests: Vec<Digest>) -> std::io::Result<Self> {
        let mut file = File::create(path).await?;
        file.write_all(&vec![0; (digests.len() + 1) * 4]).await?;
        Ok(Self {
            file,
            lengths: Vec::with_capacity(digests.len()),
            digests,
        })
    }

    /// In order, each the one that was signed, and no more of them.
    fn check(&self, share: &[u8]) -> Result<(), Refused> {
        if share.len() > SHARE_BYTES {
            return Err(Refused::new(
                Refusal::TooLarge,
                "a sealed share is too large",
            ));
        }
        if self.digests.get(self.lengths.len()) == Some(&Digest::sha256(share)) {
            Ok(())
        } else {
            Err(Refused::malformed(
                "the shares are not the ones that were signed",
            ))
        }
    }

    async fn write(&mut self, share: &[u8]) -> std::io::Result<()> {
        self.file.write_all(share).await?;
        self.lengths
            .push(u32::try_from(share.len()).unwrap_or(u32::MAX));
        Ok(())
    }

    /// Writes the table; whether every share is there.
    async fn finish(mut self) -> std::io::Result<bool> {
        let whole = self.lengths.len() == self.digests.len();
        let count = u32::try_from(self.lengths.len()).unwrap_or(u32::MAX);
        let table: Vec<u8> = [count]
            .iter()
            .chain(&self.lengths)
            .flat_map(|number| number.to_le_bytes())
            .collect();
        self.file.seek(SeekFrom::Start(0)).await?;
        self.file.write_all(&table).await?;
        self.file.flush().await?;
        // Here, not in the step that keeps it: steps come one after the other.
        self.file.sync_data().await?;
        Ok(whole)
    }
}

/// The shares sealed to the caller: from U once there is a roster, or from those who have released.
pub(crate) async fn hand_out(
    coordinator: &Coordinator,
    context: Context,
    caller: &Fingerprint,
    kind: Shares,
) -> Result<ReceiverStream<Result<SealedShare, Status>>> {
    let look = |machine: &Machine| {
        let (attempt, recipient) = machine.seat(&context, caller)?;
        expect_roster(attempt)?;
        match kind {
            Shares::Key => {
                let place = attempt.plan.place_of(recipient).ok_or_else(|| {
                    Refused::new(Refusal::Role, "shares of keys for a member that holds none")
                })?;
                Ok((place, attempt.contributors.clone()))
            }
            Shares::KeySum => Ok((recipient.position(), attempt.released())),
        }
    };
    let (place, senders) = coordinator.with_context(&context, look).await?;
    let files = coordinator.files().clone();
    let (out, stream) = mpsc::channel(4);
    tokio::spawn(async move {
        for sender in senders {
            let files = files.clone();
            // A thread for one share: a slow reader holds none.
            let read = move || files.share(&context, sender, kind, place);
            let share = tokio::task::spawn_blocking(read)
                .await
                .unwrap_or_else(|error| Err(fault("reading a sealed share", error)))
                .map(|share| SealedShare {
                    sender: sender.get().into(),
                    share,
                })
                .map_err(|error| status(&error));
            let failed = share.is_err();
            if out.send(share).await.is_err() || failed {
                return;
            }
        }
    });
    Ok(ReceiverStream::new(stream))
}

/// Which shares a peer speaks of.
pub(crate) fn kind(kind: ShareKind) -> Result<Shares, Refused> {
    match kind {
        ShareKind::Key => Ok(Shares::Key),
        ShareKind::KeySum => Ok(Shares::KeySum),
        ShareKind::Unspecified => Err(Refused::malformed("shares of no kind")),
    }
}

#[cfg(test)]
mod tests {
    use ciphertune_round::ShareIndex;

    use super::*;
    use crate::storage::Files;

    #[tokio::test]
    async fn each_place_reads_the_share_that_was_sealed_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path().to_owned()).unwrap();
        let (context, sender) = (Context::of_plan(b"plan"), ShareIndex::new(2).unwrap());
        files.create(&context).unwrap();
        let shares: Vec<Vec<u8>> = [3, 0, 5].map(|length| vec![length as u8; length]).into();
        let digests = shares.iter().map(|share| Digest::sha256(share)).collect();
        let path = files.shares_upload(&context, sender, Shares::Key);
        let mut upload = Upload::create(path, digests).await.unwrap();
        for share in &shares {
            upload.check(share).unwrap();
            upload.write(share).await.unwrap();
            assert!(upload.check(b"another").is_err());
        }
        assert!(upload.check(&shares[0]).is_err(), "one too many");
        assert!(upload.finish().await.unwrap());
        files.keep_shares(&context, sender, Shares::Key).unwrap();
        for (place, share) in shares.iter().enumerate() {
            let read = files.share(&context, sender, Shares::Key, place).unwrap();
            assert_eq!(&read, share);
        }
        assert!(files.share(&context, sender, Shares::Key, 3).is_err());
        assert!(files.share(&context, sender, Shares::KeySum, 0).is_err());
    }

    #[tokio::test]
    async fn an_upload_with_a_share_less_is_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        let digests = vec![Digest::sha256(b"a"), Digest::sha256(b"b")];
        let path = folder.path().join("upload");
        let mut upload = Upload::create(path, digests).await.unwrap();
        upload.write(b"a").await.unwrap();
        assert!(!upload.finish().await.unwrap());
    }
}
