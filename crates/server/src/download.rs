//! Handing out bodies and the sum of a closed attempt to its cohort, and a parcel to whom it is for.

use std::path::PathBuf;

use ciphertune_audit::Evidence;
use ciphertune_round::{Context, Fingerprint, ShareIndex};
use ciphertune_wire::{Refusal, limits::CHUNK_BYTES, proto::Chunk};
use tokio::{
    fs::File,
    io::{AsyncReadExt as _, AsyncSeekExt as _},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::{
    coordinator::Coordinator,
    error::{Refused, Result, fault},
    phase::Attempt,
    service::status,
    storage::Item,
};

/// Chunks that wait for a reader: each is memory for each of them.
const AHEAD: usize = 1;

type Chunks = ReceiverStream<std::result::Result<Chunk, Status>>;

/// Nothing is handed out before the roster is fixed.
pub(crate) fn expect_roster(attempt: &Attempt) -> Result<(), Refused> {
    if attempt.roster.is_none() {
        return Err(Refused::new(Refusal::Conflict, "there is no roster yet"));
    }
    Ok(())
}

/// The body of a contributor of the roster.
pub(crate) async fn body(
    coordinator: &Coordinator,
    context: Context,
    caller: &Fingerprint,
    seat: u32,
    offset: u64,
) -> Result<Chunks> {
    let seat = u16::try_from(seat)
        .map_err(Refused::malformed)
        .and_then(|seat| ShareIndex::new(seat).map_err(Refused::malformed))?;
    let look = |machine: &crate::phase::Machine| {
        let (attempt, _) = machine.seat(&context, caller)?;
        expect_roster(attempt)?;
        if !attempt.contributors.contains(&seat) {
            return Err(Refused::new(
                Refusal::Unknown,
                "no body of this seat is in the roster",
            ));
        }
        Ok(())
    };
    coordinator.with_context(&context, look).await?;
    stored(coordinator, &context, Item::Body(seat), offset).await
}

/// The sum of the roster's bodies.
pub(crate) async fn sum(
    coordinator: &Coordinator,
    context: Context,
    caller: &Fingerprint,
    offset: u64,
) -> Result<Chunks> {
    let look = |machine: &crate::phase::Machine| expect_roster(machine.seat(&context, caller)?.0);
    coordinator.with_context(&context, look).await?;
    stored(coordinator, &context, Item::Sum, offset).await
}

/// The parcel that was sealed to the caller.
pub(crate) async fn parcel(
    coordinator: &Coordinator,
    context: Context,
    caller: &Fingerprint,
    offset: u64,
) -> Result<Chunks> {
    let look = |machine: &crate::phase::Machine| {
        let (attempt, seat) = machine.seat(&context, caller)?;
        let sender = attempt
            .seats
            .get(seat.position())
            .and_then(|held| held.parcel.as_ref()?.sender())
            .and_then(|sender| attempt.plan.seat_of(&sender))
            .ok_or_else(|| Refused::new(Refusal::Conflict, "there is no parcel yet"))?;
        Ok(Item::Parcel { seat, sender })
    };
    let parcel = coordinator.with_context(&context, look).await?;
    stored(coordinator, &context, parcel, offset).await
}

/// The audit log.
pub(crate) async fn log(coordinator: &Coordinator, offset: u64) -> Result<Chunks> {
    coordinator.flush().await?;
    chunks(coordinator.log().to_owned(), offset).await
}

/// An object that the audit log rests on.
pub(crate) async fn evidence(coordinator: &Coordinator, name: &str) -> Result<Chunks> {
    let path = Evidence::beside(coordinator.log()).place_of_any(name);
    let path = path.ok_or_else(|| Refused::malformed("no name of an object"))?;
    if !path.exists() {
        return Err(Refused::new(Refusal::Unknown, "no such object").into());
    }
    chunks(path, 0).await
}

/// Something stored, from an offset, a chunk ahead of the reader.
async fn stored(
    coordinator: &Coordinator,
    context: &Context,
    item: Item,
    offset: u64,
) -> Result<Chunks> {
    let bulk = coordinator.bulk();
    let length = bulk.length(context, item).await?;
    if length > 0 && offset > length {
        return Err(Refused::new(Refusal::TooLarge, "an offset beyond the end").into());
    }
    let mut reader = bulk.read(context, item, offset).await?;
    let (out, stream) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        loop {
            let chunk = match reader.next(CHUNK_BYTES).await {
                Ok(Some(data)) => Ok(Chunk { data }),
                Ok(None) => return,
                Err(error) => Err(status(&error)),
            };
            let failed = chunk.is_err();
            if out.send(chunk).await.is_err() || failed {
                return;
            }
        }
    });
    Ok(ReceiverStream::new(stream))
}

/// A file from an offset, a chunk ahead of the reader.
async fn chunks(path: PathBuf, offset: u64) -> Result<Chunks> {
    const DOING: &str = "reading a file to hand out";
    let mut file = File::open(path)
        .await
        .map_err(|error| fault(DOING, error))?;
    let length = file
        .metadata()
        .await
        .map_err(|error| fault(DOING, error))?
        .len();
    if offset > length {
        return Err(Refused::new(Refusal::TooLarge, "an offset beyond the end").into());
    }
    file.seek(std::io::SeekFrom::Start(offset))
        .await
        .map_err(|error| fault(DOING, error))?;
    let (out, stream) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        loop {
            let mut data = Vec::with_capacity(CHUNK_BYTES);
            let chunk = match (&mut file)
                .take(CHUNK_BYTES as u64)
                .read_to_end(&mut data)
                .await
            {
                Ok(0) => return,
                Ok(_) => Ok(Chunk { data: data.into() }),
                Err(error) => Err(status(&fault(DOING, error))),
            };
            let failed = chunk.is_err();
            if out.send(chunk).await.is_err() || failed {
                return;
            }
        }
    });
    Ok(ReceiverStream::new(stream))
}
