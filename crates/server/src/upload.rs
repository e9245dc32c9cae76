//! Taking a body: in order, in whole words below q, resumable, whole only with the digest that was signed. Taking a
//! parcel: in one go, with the digest that was signed.

use ciphertune_round::{Context, Fingerprint, Hasher, Parcel, ShareIndex, Signed};
use ciphertune_sum::codec::check_words;
use ciphertune_wire::{
    Refusal,
    limits::CHUNK_BYTES,
    proto::{BodyChunk, ParcelChunk, PutBodyReply, PutParcelReply},
};
use tokio::{
    fs::{File, OpenOptions},
    io::AsyncWriteExt as _,
};
use tonic::Streaming;

use crate::{
    coordinator::Coordinator,
    error::{Error, Refused, Result, fault},
    phase::{Input, Phase},
    service::context,
    uploads::Uploads,
};

/// Where a member's upload stands.
pub(crate) struct Place {
    context: Context,
    seat: ShareIndex,
    size: u64,
    durable: u64,
    complete: bool,
}

impl Place {
    /// As a reply.
    pub(crate) fn reply(&self) -> PutBodyReply {
        PutBodyReply {
            durable: self.durable,
            complete: self.complete,
        }
    }
}

/// Where the caller's upload for a context stands.
///
/// # Errors
/// `Unknown`, `Late`, as the machine says; `Late` when the attempt is closed and the body never was whole.
pub(crate) async fn place(
    coordinator: &Coordinator,
    context: Context,
    member: &Fingerprint,
) -> Result<Place> {
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
    let (seat, size, complete) = coordinator.with_context(&context, look).await?;
    let durable = if complete {
        size
    } else {
        coordinator.files().uploaded(&context, seat)
    };
    Ok(Place {
        context,
        seat,
        size,
        durable,
        complete,
    })
}

/// Takes a stream of chunks; the first names the context and goes on where the server stopped.
pub(crate) async fn take(
    coordinator: &std::sync::Arc<Coordinator>,
    uploads: &Uploads,
    member: Fingerprint,
    mut chunks: Streaming<BodyChunk>,
) -> Result<PutBodyReply> {
    let Ok(Some(first)) = chunks.message().await else {
        return Err(Refused::malformed("an upload without a chunk").into());
    };
    let context = context(&first.context)?;
    let mut turn = uploads.enter(context, member).await;
    let mut over = std::pin::pin!(closed(coordinator, context, &member));
    let mut place = place(coordinator, context, &member).await?;
    if place.complete {
        return Ok(place.reply());
    }
    let path = coordinator.files().upload(&context, place.seat);
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .await
        .map_err(|error| fault("opening an upload", error))?;
    let mut next = Some(first);
    let mut outcome = Ok(());
    while let Some(chunk) = next {
        outcome = check(&place, &chunk);
        if outcome.is_err() {
            break;
        }
        file.write_all(&chunk.data)
            .await
            .map_err(|error| fault("writing a body", error))?;
        place.durable += chunk.data.len() as u64;
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
    file.flush()
        .await
        .map_err(|error| fault("writing a body", error))?;
    file.sync_data()
        .await
        .map_err(|error| fault("writing a body", error))?;
    drop(file);
    outcome?;
    if place.durable == place.size {
        finish(coordinator, &mut place, member).await?;
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
        if let Err(Error::Refused(refused)) = place(coordinator, context, member).await {
            return refused;
        }
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

/// Hands a whole body to the job; one that it does not take is thrown away.
async fn finish(
    coordinator: &std::sync::Arc<Coordinator>,
    place: &mut Place,
    member: Fingerprint,
) -> Result<()> {
    let (context, seat, files) = (place.context, place.seat, coordinator.files().clone());
    let digest = tokio::task::spawn_blocking(move || files.digest(&context, seat))
        .await
        .map_err(|error| fault("reading a body", error))??;
    let input = Input::Body {
        context,
        member,
        digest,
    };
    if let Err(error) = coordinator.feed_context(&context, input).await {
        coordinator.discard(&context, seat)?;
        return Err(error);
    }
    place.complete = true;
    Ok(())
}

/// Takes a parcel, each sender's into a file of its own: the first that is whole is kept.
pub(crate) async fn take_parcel(
    coordinator: &std::sync::Arc<Coordinator>,
    uploads: &Uploads,
    parcel: Signed<Parcel>,
    first: ParcelChunk,
    mut chunks: Streaming<ParcelChunk>,
) -> Result<PutParcelReply> {
    const DOING: &str = "writing a parcel";
    let context = parcel.context;
    let look = |machine: &crate::phase::Machine| {
        let bytes = Parcel::sealed_bytes(machine.job().state);
        machine.parcel_place(&parcel).map(|place| (place, bytes))
    };
    coordinator.with_context(&context, look).await?; // a stranger to the request gets no turn
    let turn = Context::from_digest(parcel.request); // never a body's
    let mut turn = uploads.enter(turn, parcel.signer()).await;
    let (place, size) = coordinator.with_context(&context, look).await?;
    if place.is_here {
        return Ok(PutParcelReply {});
    }
    let path = coordinator
        .files()
        .parcel_upload(&context, place.seat, place.sender);
    let mut file = File::create(path)
        .await
        .map_err(|error| fault(DOING, error))?;
    let (mut hasher, mut bytes) = (Hasher::default(), 0);
    let mut next = Some(first);
    let mut outcome = Ok(());
    while let Some(chunk) = next {
        bytes += chunk.data.len() as u64;
        if bytes > size {
            let said = "more bytes than a parcel of this job has";
            outcome = Err(Refused::new(Refusal::TooLarge, said));
            break;
        }
        hasher.update(&chunk.data);
        file.write_all(&chunk.data)
            .await
            .map_err(|error| fault(DOING, error))?;
        next = tokio::select! {
            chunk = chunks.message() => chunk.unwrap_or(None),
            () = turn.superseded() => {
                outcome = Err(Refused::new(Refusal::Conflict, "a newer connection took over"));
                None
            }
        };
    }
    // Whatever the outcome, nothing is in flight when the next connection has its turn.
    file.sync_all().await.map_err(|error| fault(DOING, error))?;
    drop(file);
    outcome?;
    if bytes != size || hasher.finish() != parcel.sealed {
        return Err(Refused::malformed("the parcel is not the one that was signed").into());
    }
    let input = Input::Parcel(parcel);
    coordinator.feed_context(&context, input).await?;
    Ok(PutParcelReply {})
}
