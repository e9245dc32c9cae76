//! Taking a body: in order, in whole words below q, resumable, whole only with the digest that was signed. Taking a
//! parcel: in one go, with the digest that was signed.

use std::{sync::Arc, time::Duration};

use ciphertune_round::{Context, Digest, Fingerprint, Parcel, ShareIndex, Signed};
use ciphertune_sum::codec::check_words;
use ciphertune_wire::{
    Refusal,
    limits::CHUNK_BYTES,
    proto::{BodyChunk, ParcelChunk, PutBodyReply, PutParcelReply},
};
use tonic::Streaming;

use crate::{
    coordinator::Coordinator,
    error::{Error, Refused, Result},
    phase::{Input, Phase},
    service::context,
    storage::Item,
    uploads::Uploads,
};

/// How often an upload asks whether its phase still goes on.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Where a member's upload stands.
struct Place {
    context: Context,
    seat: ShareIndex,
    size: u64,
    durable: u64,
    complete: bool,
}

impl Place {
    fn reply(&self) -> PutBodyReply {
        PutBodyReply {
            durable: self.durable,
            complete: self.complete,
        }
    }
}

/// Where the caller's upload for a context stands. Who asks has no other connection any more that it sends it on: what an older one
/// brought is stored first, and a body that is whole, and was cut off before its job heard of it, is handed to the job.
///
/// # Errors
/// `Unknown`, `Late`, as the machine says; `Late` when the attempt is closed and the body never was whole.
pub(crate) async fn ask(
    coordinator: &Arc<Coordinator>,
    uploads: &Uploads,
    context: Context,
    member: &Fingerprint,
) -> Result<PutBodyReply> {
    wanted(coordinator, context, member).await?; // a stranger gets no turn
    let _turn = uploads.enter(context, *member).await?;
    let mut place = find(coordinator, context, member).await?;
    settle(coordinator, &mut place, *member, None).await?;
    Ok(place.reply())
}

async fn find(coordinator: &Coordinator, context: Context, member: &Fingerprint) -> Result<Place> {
    let (seat, size, complete) = wanted(coordinator, context, member).await?;
    let durable = match complete {
        true => size,
        false => {
            coordinator
                .bulk()
                .length(&context, Item::Body(seat))
                .await?
        }
    };
    Ok(Place {
        context,
        seat,
        size,
        durable,
        complete,
    })
}

/// The seat, the bytes of its body, and whether that is here.
async fn wanted(
    coordinator: &Coordinator,
    context: Context,
    member: &Fingerprint,
) -> Result<(ShareIndex, u64, bool)> {
    let look = |machine: &crate::phase::Machine| {
        let (attempt, seat) = machine.seat(&context, member)?;
        let complete = attempt
            .seats
            .get(seat.position())
            .is_some_and(|held| held.body.is_some());
        if !complete && !matches!(machine.phase(), Phase::Contributing { .. }) {
            return Err(Refused::new(Refusal::Late, "a body after the close"));
        }
        let plan = &attempt.plan;
        let parameters = plan.parameters().map_err(Refused::malformed)?;
        let size = parameters.body_bytes(plan.length().map_err(Refused::malformed)?);
        Ok((seat, size, complete))
    };
    coordinator.with_context(&context, look).await
}

/// Hands a body that is whole by now to its job; one that the job does not take is thrown away, to be sent again. `digest` is
/// that of the body, where it is known.
async fn settle(
    coordinator: &Arc<Coordinator>,
    place: &mut Place,
    member: Fingerprint,
    digest: Option<Digest>,
) -> Result<()> {
    if place.complete || place.durable != place.size {
        return Ok(());
    }
    match finish(coordinator, place, member, digest).await {
        Err(Error::Refused(refused)) if refused.code == Refusal::Malformed => {
            place.durable = 0;
            Ok(())
        }
        finished => finished,
    }
}

/// Takes a stream of chunks; the first names the context and goes on where the server stopped.
pub(crate) async fn take(
    coordinator: &Arc<Coordinator>,
    uploads: &Uploads,
    member: Fingerprint,
    mut chunks: Streaming<BodyChunk>,
) -> Result<PutBodyReply> {
    let Ok(Some(first)) = chunks.message().await else {
        return Err(Refused::malformed("an upload without a chunk").into());
    };
    let context = context(&first.context)?;
    let mut turn = uploads.enter(context, member).await?;
    let mut over = std::pin::pin!(closed(coordinator, context, &member));
    let mut place = find(coordinator, context, &member).await?;
    settle(coordinator, &mut place, member, None).await?;
    if place.complete {
        return Ok(place.reply());
    }
    let item = Item::Body(place.seat);
    let mut body = coordinator.bulk().append(&context, item).await?;
    let mut next = Some(first);
    let mut outcome = Ok(());
    while let Some(chunk) = next {
        outcome = check(&place, &chunk);
        if outcome.is_err() {
            break;
        }
        place.durable += chunk.data.len() as u64;
        body.write(chunk.data).await?;
        next = tokio::select! {
            // A lost connection ends the stream like its end does: what came stays, BodyOffset says how much.
            chunk = chunks.message() => chunk.unwrap_or(None),
            () = turn.superseded() => {
                outcome = Err(Refused::new(Refusal::Conflict, "a newer connection took over"));
                None
            }
            refused = &mut over => {
                outcome = Err(refused);
                None
            }
        };
        if next.as_ref().is_some_and(|chunk| chunk.data.is_empty()) {
            outcome = Err(Refused::malformed("an empty chunk"));
            break;
        }
    }
    if place.durable == place.size && outcome.is_ok() {
        let digest = body.finish().await?;
        finish(coordinator, &mut place, member, digest).await?;
    } else {
        place.durable = body.break_off().await?;
        outcome?;
    }
    Ok(place.reply())
}

/// Ready, with why, when no body of this member's is taken any more: a slow one does not outlast its phase.
async fn closed(coordinator: &Coordinator, context: Context, member: &Fingerprint) -> Refused {
    let mut announced = coordinator.announced();
    loop {
        if announced.changed().await.is_err() {
            return Refused::new(Refusal::Closing, "shutting down");
        }
        if let Err(Error::Refused(refused)) = wanted(coordinator, context, member).await {
            return refused;
        }
        // Much is announced, and little of it ends a phase.
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// In order, not beyond the body's size, whole words below q.
fn check(place: &Place, chunk: &BodyChunk) -> Result<(), Refused> {
    if chunk.data.len() > CHUNK_BYTES {
        return Err(Refused::new(Refusal::TooLarge, "a chunk is too large"));
    }
    if chunk.offset != place.durable {
        return Err(Refused::new(
            Refusal::Conflict,
            "a chunk that does not go on where the last one stopped",
        ));
    }
    if chunk.data.len() as u64 > place.size - place.durable.min(place.size) {
        return Err(Refused::new(
            Refusal::TooLarge,
            "more bytes than a body of this plan has",
        ));
    }
    check_words(&chunk.data).map_err(Refused::malformed)
}

/// Hands a whole body to the job; one that is not what was signed is thrown away.
async fn finish(
    coordinator: &Arc<Coordinator>,
    place: &mut Place,
    member: Fingerprint,
    digest: Option<Digest>,
) -> Result<()> {
    let (context, item) = (place.context, Item::Body(place.seat));
    let digest = match digest {
        Some(digest) => digest,
        None => coordinator.bulk().digest(&context, item).await?,
    };
    let input = Input::Body {
        context,
        member,
        digest,
    };
    if let Err(error) = coordinator.feed_context(&context, input).await {
        // Whatever else it was, the next connection, or the next run of this server, takes it up.
        if matches!(&error, Error::Refused(refused) if refused.code == Refusal::Malformed) {
            coordinator.bulk().remove(&context, item).await?;
        }
        return Err(error);
    }
    place.complete = true;
    Ok(())
}

/// Takes a parcel, each sender's by itself: the first that is whole is kept.
pub(crate) async fn take_parcel(
    coordinator: &Arc<Coordinator>,
    uploads: &Uploads,
    parcel: Signed<Parcel>,
    first: ParcelChunk,
    mut chunks: Streaming<ParcelChunk>,
) -> Result<PutParcelReply> {
    let context = parcel.context;
    let look = |machine: &crate::phase::Machine| {
        let bytes = Parcel::sealed_bytes(machine.job().state);
        machine.parcel_place(&parcel).map(|place| (place, bytes))
    };
    coordinator.with_context(&context, look).await?; // a stranger to the request gets no turn
    let turn = Context::from_digest(parcel.request); // never a body's
    let mut turn = uploads.enter(turn, parcel.signer()).await?;
    let (place, size) = coordinator.with_context(&context, look).await?;
    if place.is_here {
        return Ok(PutParcelReply {});
    }
    let item = Item::Parcel {
        seat: place.seat,
        sender: place.sender,
    };
    let mut sealed = coordinator.bulk().start(&context, item).await?;
    let mut bytes = 0;
    let mut next = Some(first);
    let mut outcome = Ok(());
    while let Some(chunk) = next {
        bytes += chunk.data.len() as u64;
        if bytes > size {
            let said = "more bytes than a parcel of this job has";
            outcome = Err(Refused::new(Refusal::TooLarge, said));
            break;
        }
        sealed.write(chunk.data).await?;
        next = tokio::select! {
            chunk = chunks.message() => chunk.unwrap_or(None),
            () = turn.superseded() => {
                outcome = Err(Refused::new(Refusal::Conflict, "a newer connection took over"));
                None
            }
        };
    }
    outcome?;
    if bytes != size || sealed.finish().await? != Some(parcel.sealed) {
        return Err(Refused::malformed("the parcel is not the one that was signed").into());
    }
    let input = Input::Parcel(parcel);
    coordinator.feed_context(&context, input).await?;
    Ok(PutParcelReply {})
}
