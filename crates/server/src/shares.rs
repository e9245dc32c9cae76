//! Sealed shares: taken as a stream, stored as they come, and counted when they are the ones that were signed; handed out one by
//! one. In memory there is a segment of one sender at a time, however many seats there are.

use std::sync::Arc;

use ciphertune_round::{Context, Digest, Fingerprint, Header, Release, ShareIndex, Signed};
use ciphertune_wire::{
    Refusal,
    limits::SHARE_BYTES,
    proto::{PutSharesReply, PutSharesRequest, SealedShare, ShareKind},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::{
    coordinator::Coordinator,
    download::expect_roster,
    error::{Refused, Result},
    phase::{Attempt, Input, Machine, Shares},
    service::status,
    storage::Item,
    uploads::Uploads,
};

/// What was signed of shares that are to come.
pub(crate) struct Announced {
    context: Context,
    sender: Fingerprint,
    kind: Shares,
    /// Digest of the object that signs them.
    signed: Digest,
    digests: Vec<Digest>,
    input: Input,
}

impl From<Signed<Header>> for Announced {
    fn from(header: Signed<Header>) -> Self {
        Self {
            context: header.context,
            sender: header.signer(),
            kind: Shares::Key,
            signed: header.digest(),
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
            signed: release.digest(),
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
    let Announced {
        context,
        sender,
        kind,
        signed,
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
    let mut turn = uploads.enter(turn_of(&context, kind), sender).await?;
    let Some(seat) = coordinator.with_context(&context, look).await? else {
        return Ok(PutSharesReply {});
    };
    let item = Item::Shares {
        sender: seat,
        kind,
        signed,
    };
    let taken = async {
        let mut stored = coordinator.bulk().start(&context, item).await?;
        let mut expected = Expected::new(digests);
        let mut next = Some(first);
        while let Some(message) = next {
            for share in message.shares {
                expected.check(&share)?;
                stored.write(share.into()).await?;
            }
            next = tokio::select! {
                message = messages.message() => message.unwrap_or(None),
                () = turn.superseded() => {
                    return Err(Refused::new(Refusal::Conflict, "a newer connection took over").into());
                }
            };
        }
        if !expected.are_here() {
            return Err(Refused::malformed("fewer shares than were signed").into());
        }
        stored.finish().await?;
        coordinator.feed_context(&context, input).await
    };
    if let Err(error) = taken.await {
        // Of all that a sender begins, what its job took is kept and nothing else.
        let holds = |machine: &Machine| {
            let (attempt, _) = machine.seat(&context, &sender)?;
            Ok(attempt
                .shares_of(seat, kind)
                .is_some_and(|(held, _)| held == item))
        };
        if !coordinator
            .with_context(&context, holds)
            .await
            .unwrap_or(false)
        {
            coordinator.bulk().remove(&context, item).await?;
        }
        return Err(error);
    }
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

/// The shares that were signed, as they come.
struct Expected {
    digests: std::vec::IntoIter<Digest>,
    /// Of the first, and so of all.
    bytes: Option<usize>,
}

impl Expected {
    fn new(digests: Vec<Digest>) -> Self {
        Self {
            digests: digests.into_iter(),
            bytes: None,
        }
    }

    /// In order, each the one that was signed, of one length, and no more of them.
    fn check(&mut self, share: &[u8]) -> Result<(), Refused> {
        if share.len() > SHARE_BYTES {
            return Err(Refused::new(
                Refusal::TooLarge,
                "a sealed share is too large",
            ));
        }
        if *self.bytes.get_or_insert(share.len()) != share.len() {
            return Err(Refused::malformed("sealed shares of different lengths"));
        }
        if self.digests.next() == Some(Digest::sha256(share)) {
            Ok(())
        } else {
            Err(Refused::malformed(
                "the shares are not the ones that were signed",
            ))
        }
    }

    fn are_here(&self) -> bool {
        self.digests.len() == 0
    }
}

/// The shares sealed to the caller: from U once there is a roster, or from those who have released.
pub(crate) async fn hand_out(
    coordinator: &Coordinator,
    context: Context,
    caller: &Fingerprint,
    kind: Shares,
) -> Result<ReceiverStream<Result<SealedShare, Status>>> {
    let stored = |attempt: &Attempt, senders: Vec<ShareIndex>| -> Vec<_> {
        let place = |sender| {
            let (item, shares) = attempt.shares_of(sender, kind)?;
            Some((sender, item, shares))
        };
        senders.into_iter().filter_map(place).collect()
    };
    let look = |machine: &Machine| {
        let (attempt, recipient) = machine.seat(&context, caller)?;
        expect_roster(attempt)?;
        match kind {
            Shares::Key => {
                let place = attempt.plan.place_of(recipient).ok_or_else(|| {
                    Refused::new(Refusal::Role, "shares of keys for a member that holds none")
                })?;
                Ok((place, stored(attempt, attempt.contributors.clone())))
            }
            Shares::KeySum => Ok((recipient.position(), stored(attempt, attempt.released()))),
        }
    };
    let (place, senders) = coordinator.with_context(&context, look).await?;
    let bulk = coordinator.bulk().clone();
    let (out, stream) = mpsc::channel(4);
    tokio::spawn(async move {
        for (sender, item, shares) in senders {
            let share = (bulk.share(&context, item, place, shares).await)
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
    use super::*;

    #[test]
    fn the_shares_that_were_signed_are_expected_in_order_and_no_others() {
        let shares = [[1; 3], [2; 3]];
        let digests: Vec<_> = shares.iter().map(|share| Digest::sha256(share)).collect();
        let mut expected = Expected::new(digests.clone());
        expected.check(&shares[0]).unwrap();
        assert!(!expected.are_here());
        expected.check(&shares[1]).unwrap();
        assert!(expected.are_here());
        assert!(expected.check(&shares[1]).is_err(), "one too many");
        let mut expected = Expected::new(digests);
        assert!(expected.check(&shares[1]).is_err(), "out of order");
        let of_two_lengths = [Digest::sha256(b"a"), Digest::sha256(b"bc")];
        let mut expected = Expected::new(of_two_lengths.into());
        expected.check(b"a").unwrap();
        assert!(expected.check(b"bc").is_err());
    }
}
