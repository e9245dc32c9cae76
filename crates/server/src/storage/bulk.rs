//! Bodies, sealed shares, parcels and sums of open contexts: what is too large for the database, in an object store.
//!
//! A string of bytes is a row of objects, its segments: `CONTEXT/ITEM/PLACE`, each named by the place of its first byte. So an
//! upload goes on behind its last whole segment whatever the store is, and nothing is kept open between two calls. A segment is
//! there whole or not at all, and on the disk when [`Writer::finish`] returns. Which items count, the database alone says.

use std::{
    fs, io,
    ops::Range,
    path::{Path as FilePath, PathBuf},
    sync::Arc,
};

use ciphertune_identity::{
    file::sync_entry,
    watch::{Does, Step, Watched},
};
use ciphertune_round::{Context, Digest, Hasher, ShareIndex};
use ciphertune_sum::{BLOCK_BYTES, Parameters, add_bodies};
use ciphertune_wire::Refusal;
use futures::TryStreamExt as _;
use object_store::{
    ObjectStore, ObjectStoreExt as _, PutPayload, local::LocalFileSystem, path::Path,
};
use prost::bytes::Bytes;
use tokio::runtime::Handle;

use crate::{
    error::{Error, Refused, Result, fault},
    phase::Shares,
};

/// The largest segment: what an upload holds in memory, and at most what it loses when the server is killed. Each costs two syncs.
pub(crate) const SEGMENT_BYTES: usize = 4 << 20;

/// And the largest where there are many members.
const SMALL_SEGMENT_BYTES: usize = 1 << 20;

/// Of this memory all members' uploads together have their segments, where that is enough.
const UPLOADING_BYTES: usize = 64 << 20;

/// The smallest segment of an upload that was cut off: a peer that sends word by word does not fill the store with names.
const REST_BYTES: usize = 4 << 10;

/// What is held of all bodies together while they are added, unless a block of each is more.
const ADDING_BYTES: usize = 64 << 20;

/// Something of an open context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Item {
    /// A seat's body.
    Body(ShareIndex),
    /// The sum of bodies.
    Sum,
    /// Sealed shares, all of one length, in the order in which they were signed. Of two objects that one sender signs, each has
    /// shares of its own.
    Shares {
        /// Who sealed them.
        sender: ShareIndex,
        /// Of what.
        kind: Shares,
        /// Digest of the header or release that signs them.
        signed: Digest,
    },
    /// A parcel.
    Parcel {
        /// Whom it is for.
        seat: ShareIndex,
        /// Who sealed it.
        sender: ShareIndex,
    },
}

impl Item {
    fn name(&self) -> String {
        match self {
            Self::Body(seat) => format!("body-{seat}"),
            Self::Sum => "sum".into(),
            Self::Shares {
                sender,
                kind: Shares::Key,
                signed,
            } => format!("key-{sender}-{signed}"),
            Self::Shares {
                sender,
                kind: Shares::KeySum,
                signed,
            } => format!("key-sum-{sender}-{signed}"),
            Self::Parcel { seat, sender } => format!("parcel-{seat}-{sender}"),
        }
    }
}

/// The bulk of one server's open contexts. Clones are the same.
#[derive(Clone)]
pub struct Bulk {
    store: Arc<dyn ObjectStore>,
    folder: PathBuf,
    disk: Watched,
    keep_free: u64,
    segment: usize,
}

#[derive(Clone, Copy)]
struct Segment {
    place: u64,
    bytes: u64,
}

impl Bulk {
    /// Opens or creates a folder for the uploads of so many members, and leaves so many bytes of its disk free.
    pub fn in_folder(
        folder: PathBuf,
        disk: Watched,
        keep_free: u64,
        members: usize,
    ) -> Result<Self> {
        const DOING: &str = "opening the folder of contexts";
        fs::create_dir_all(&folder)
            .and_then(|()| sync_entry(&folder))
            .map_err(|error| fault(DOING, error))?;
        let store = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|error| fault(DOING, error))?
            .with_fsync(true);
        Ok(Self {
            store: Arc::new(store),
            folder,
            disk,
            keep_free,
            segment: (UPLOADING_BYTES / members.max(1)).clamp(SMALL_SEGMENT_BYTES, SEGMENT_BYTES),
        })
    }

    /// How many bytes more than what is kept free may be stored; `None` when not even that is left.
    pub fn room(&self) -> Result<Option<u64>> {
        let free = match self.disk.free() {
            Some(free) => free,
            None => {
                let found = rustix::fs::statvfs(&self.folder)
                    .map_err(|error| fault("asking how much disk is free", error))?;
                found.f_bavail.saturating_mul(found.f_frsize)
            }
        };
        Ok(free.checked_sub(self.keep_free))
    }

    /// How many bytes are left free.
    pub fn keeps_free(&self) -> u64 {
        self.keep_free
    }

    /// Deletes all contexts but these.
    pub async fn sweep(&self, keep: &[Context]) -> Result<()> {
        let found = self.store.list_with_delimiter(None).await;
        let found = found.map_err(|error| fault("sweeping old contexts", error))?;
        let keep: Vec<String> = keep.iter().map(ToString::to_string).collect();
        for context in found.common_prefixes {
            if !keep.iter().any(|kept| context.as_ref() == kept) {
                self.clear(&context).await?;
            }
        }
        Ok(())
    }

    /// Deletes a context, if there is anything of it.
    pub async fn delete(&self, context: &Context) -> Result<()> {
        self.clear(&Path::from(context.to_string())).await
    }

    /// How much is stored of a context.
    pub async fn bytes(&self, context: &Context) -> Result<u64> {
        let prefix = Path::from(context.to_string());
        let found: Vec<_> = (self.store.list(Some(&prefix)).try_collect())
            .await
            .map_err(|error| fault("looking for what is stored", error))?;
        Ok(found.iter().map(|object| object.size).sum())
    }

    /// Deletes an item, if there is anything of it.
    pub async fn remove(&self, context: &Context, item: Item) -> Result<()> {
        self.clear(&place(context, item)).await
    }

    /// How much of an item there is.
    pub async fn length(&self, context: &Context, item: Item) -> Result<u64> {
        let segments = self.segments(&place(context, item)).await?;
        Ok(end(&segments))
    }

    /// Goes on with an item behind what there is of it.
    pub async fn append(&self, context: &Context, item: Item) -> Result<Writer> {
        let prefix = place(context, item);
        let place = end(&self.segments(&prefix).await?);
        Ok(Writer {
            bulk: self.clone(),
            prefix,
            place,
            waiting: Vec::new(),
            waiting_bytes: 0,
            hasher: (place == 0).then(Hasher::default),
        })
    }

    /// Begins an item anew.
    pub async fn start(&self, context: &Context, item: Item) -> Result<Writer> {
        self.remove(context, item).await?;
        self.append(context, item).await
    }

    /// Reads an item from a place on.
    ///
    /// # Errors
    /// [`Error::Fault`](crate::Error::Fault) when it is shorter, or there is nothing of it.
    pub async fn read(&self, context: &Context, item: Item, from: u64) -> Result<Reader> {
        let prefix = place(context, item);
        let segments = self.segments(&prefix).await?;
        if segments.is_empty() {
            return Err(over());
        }
        if from > end(&segments) {
            return Err(fault("reading", format!("{prefix}: not {from} bytes")));
        }
        Ok(Reader {
            bulk: self.clone(),
            prefix,
            segments,
            place: from,
        })
    }

    /// SHA-256 of an item, as it is stored.
    pub async fn digest(&self, context: &Context, item: Item) -> Result<Digest> {
        let mut hasher = Hasher::default();
        let mut reader = self.read(context, item, 0).await?;
        while let Some(bytes) = reader.next(SMALL_SEGMENT_BYTES).await? {
            hasher.update(&bytes);
        }
        Ok(hasher.finish())
    }

    /// The share at a place, from 0, of `shares` that a sender sealed; reads that share alone.
    pub async fn share(
        &self,
        context: &Context,
        item: Item,
        at: usize,
        shares: usize,
    ) -> Result<Vec<u8>> {
        let prefix = place(context, item);
        let segments = self.segments(&prefix).await?;
        let bytes = end(&segments).checked_div(shares as u64).unwrap_or(0);
        let mut reader = Reader {
            bulk: self.clone(),
            prefix,
            segments,
            place: bytes * at as u64,
        };
        let mut share = Vec::with_capacity(usize::try_from(bytes).unwrap_or(0));
        if bytes == 0 {
            return Err(over());
        }
        while (share.len() as u64) < bytes {
            let left = usize::try_from(bytes).unwrap_or(0) - share.len();
            match reader.next(left).await? {
                Some(read) => share.extend_from_slice(&read),
                None => return Err(fault("reading a sealed share", "it is not there")),
            }
        }
        Ok(share)
    }

    /// Adds bodies into the context's sum and returns its digest.
    pub async fn add(
        &self,
        context: &Context,
        parameters: Parameters,
        length: usize,
        seats: &[ShareIndex],
    ) -> Result<Digest> {
        const DOING: &str = "adding bodies";
        let window = (ADDING_BYTES / seats.len().max(1)).clamp(BLOCK_BYTES, SMALL_SEGMENT_BYTES);
        let mut bodies = Vec::with_capacity(seats.len());
        for seat in seats {
            bodies.push(Blocking {
                on: Handle::current(),
                from: self.read(context, Item::Body(*seat), 0).await?,
                window,
                read: Bytes::new(),
            });
        }
        let mut out = BlockingWriter {
            on: Handle::current(),
            to: self.start(context, Item::Sum).await?,
            failed: None,
        };
        let adding = tokio::task::spawn_blocking(move || {
            (add_bodies(&parameters, length, &mut bodies, &mut out), out)
        });
        let (added, out) = adding.await.map_err(|error| fault(DOING, error))?;
        if let Some(error) = out.failed {
            return Err(error);
        }
        added.map_err(|error| fault(DOING, error))?;
        let digest = out.to.finish().await?;
        digest.ok_or_else(|| fault(DOING, "a sum that was not begun anew"))
    }

    /// The segments of an item that follow one another from its start.
    async fn segments(&self, prefix: &Path) -> Result<Vec<Segment>> {
        const DOING: &str = "looking for what is stored";
        let found: Vec<_> = (self.store.list(Some(prefix)).try_collect())
            .await
            .map_err(|error| fault(DOING, error))?;
        let segment = |object: &object_store::ObjectMeta| {
            let place = object.location.filename()?.parse().ok()?;
            Some(Segment {
                place,
                bytes: object.size,
            })
        };
        let mut segments: Vec<Segment> = found.iter().filter_map(segment).collect();
        segments.sort_unstable_by_key(|segment| segment.place);
        let mut next = 0;
        segments.retain(|segment| {
            let follows = segment.place == next;
            next += if follows { segment.bytes } else { 0 };
            follows
        });
        Ok(segments)
    }

    async fn put(&self, path: &Path, payload: PutPayload) -> Result<()> {
        let bytes = payload.content_length() as u64;
        if self.room()?.is_none_or(|room| room < bytes) {
            return Err(Refused::new(Refusal::Full, format!("no room for {bytes} bytes")).into());
        }
        let put = async {
            let put = self.store.put(path, payload).await;
            put.map(drop).map_err(io::Error::from)
        };
        let step = Step {
            does: Does::PutsObject,
            path: FilePath::new(path.as_ref()),
            bytes: &[],
        };
        let put = self.disk.step_async(&step, put).await;
        put.map_err(|error| fault("storing", error))
    }

    /// Removes all that begins so, and what a killed server left unfinished of it.
    async fn clear(&self, prefix: &Path) -> Result<()> {
        let folder = self.folder.join(prefix.as_ref());
        let clear = async {
            let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(folder)).await?;
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        };
        let step = Step {
            does: Does::RemovesFile,
            path: FilePath::new(prefix.as_ref()),
            bytes: &[],
        };
        let cleared = self.disk.step_async(&step, clear).await;
        cleared.map_err(|error| fault("removing what is over", error))
    }
}

/// Writes an item, segment by segment.
pub struct Writer {
    bulk: Bulk,
    prefix: Path,
    /// Of the next segment.
    place: u64,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
    /// Of an item that was written from its start.
    hasher: Option<Hasher>,
}

impl Writer {
    /// Takes bytes; they are stored when there are enough for a segment.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes);
        }
        while !bytes.is_empty() {
            let some = bytes.split_to(bytes.len().min(self.bulk.segment - self.waiting_bytes));
            self.waiting_bytes += some.len();
            self.waiting.push(some);
            if self.waiting_bytes == self.bulk.segment {
                self.store().await?;
            }
        }
        Ok(())
    }

    /// Stores what is left of an item that is not whole, unless it is so little that it comes again as easily. Returns where the item
    /// goes on.
    pub async fn break_off(mut self) -> Result<u64> {
        if self.waiting_bytes >= REST_BYTES {
            self.store().await?;
        }
        Ok(self.place)
    }

    /// Stores what is left. Returns the digest of all, unless the item was begun before.
    pub async fn finish(mut self) -> Result<Option<Digest>> {
        if self.waiting_bytes > 0 {
            self.store().await?;
        }
        Ok(self.hasher.map(Hasher::finish))
    }

    async fn store(&mut self) -> Result<()> {
        let payload = PutPayload::from_iter(std::mem::take(&mut self.waiting));
        // Names of one length sort as their numbers do.
        let path = self.prefix.clone().join(format!("{:015}", self.place));
        self.bulk.put(&path, payload).await?;
        self.place += self.waiting_bytes as u64;
        self.waiting_bytes = 0;
        Ok(())
    }
}

/// Reads an item.
pub struct Reader {
    bulk: Bulk,
    prefix: Path,
    segments: Vec<Segment>,
    place: u64,
}

impl Reader {
    /// The next bytes, at most so many; `None` behind the last.
    pub async fn next(&mut self, most: usize) -> Result<Option<Bytes>> {
        let place = self.place;
        let here = self
            .segments
            .partition_point(|segment| segment.place <= place);
        let Some(segment) = here.checked_sub(1).and_then(|at| self.segments.get(at)) else {
            return Ok(None);
        };
        let within = place - segment.place;
        let range: Range<u64> = within..segment.bytes.min(within.saturating_add(most as u64));
        if range.is_empty() {
            return Ok(None);
        }
        let path = self.prefix.clone().join(format!("{:015}", segment.place));
        let bytes = (self.bulk.store.get_range(&path, range).await).map_err(gone)?;
        self.place += bytes.len() as u64;
        Ok(Some(bytes))
    }
}

/// A reader, for code that waits.
struct Blocking {
    on: Handle,
    from: Reader,
    window: usize,
    read: Bytes,
}

impl io::Read for Blocking {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.read.is_empty() {
            let read = self.on.block_on(self.from.next(self.window));
            self.read = read.map_err(io::Error::other)?.unwrap_or_default();
        }
        let some = self.read.split_to(self.read.len().min(out.len()));
        for (to, from) in out.iter_mut().zip(&some) {
            *to = *from;
        }
        Ok(some.len())
    }
}

/// A writer, for code that waits.
struct BlockingWriter {
    on: Handle,
    to: Writer,
    /// What kept it from writing.
    failed: Option<Error>,
}

impl io::Write for BlockingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.to.write(Bytes::copy_from_slice(bytes));
        if let Err(error) = self.on.block_on(written) {
            let said = error.to_string();
            self.failed = Some(error);
            return Err(io::Error::other(said));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn place(context: &Context, item: Item) -> Path {
    Path::from_iter([context.to_string(), item.name()])
}

/// What is read was there when its reader asked for it: only the end of its context takes it away.
fn over() -> Error {
    Refused::new(Refusal::Late, "what was stored went with its context").into()
}

fn gone(error: object_store::Error) -> Error {
    match error {
        object_store::Error::NotFound { .. } => over(),
        error => fault("reading what is stored", error),
    }
}

fn end(segments: &[Segment]) -> u64 {
    segments.last().map_or(0, |last| last.place + last.bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(number: u16) -> ShareIndex {
        ShareIndex::new(number).unwrap()
    }

    fn bulk(folder: &FilePath) -> Bulk {
        Bulk::in_folder(folder.join("contexts"), Watched::default(), 0, 1).unwrap()
    }

    async fn put(bulk: &Bulk, context: &Context, item: Item, bytes: &[u8]) -> Option<Digest> {
        let mut writer = bulk.append(context, item).await.unwrap();
        writer.write(Bytes::copy_from_slice(bytes)).await.unwrap();
        writer.finish().await.unwrap()
    }

    #[tokio::test]
    async fn a_sweep_keeps_only_what_it_is_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let bulk = bulk(folder.path());
        let [old, new] = [b"old", b"new"].map(|plan| Context::of_plan(plan));
        for context in [old, new] {
            put(&bulk, &context, Item::Sum, b"sum").await;
        }
        bulk.sweep(&[new]).await.unwrap();
        assert_eq!(bulk.length(&old, Item::Sum).await.unwrap(), 0);
        assert_eq!(bulk.length(&new, Item::Sum).await.unwrap(), 3);
        bulk.delete(&new).await.unwrap();
        bulk.delete(&new).await.unwrap();
        let left = fs::read_dir(folder.path().join("contexts")).unwrap();
        assert_eq!(left.count(), 0, "no empty folder stays");
    }

    #[tokio::test]
    async fn a_body_goes_on_where_it_stopped_and_is_read_from_anywhere() {
        let folder = tempfile::tempdir().unwrap();
        let bulk = bulk(folder.path());
        let (context, item) = (Context::of_plan(b"plan"), Item::Body(seat(2)));
        let bytes: Vec<u8> = (0..2 * SEGMENT_BYTES + 77)
            .map(|at| (at % 251) as u8)
            .collect();
        let (first, rest) = bytes.split_at(SEGMENT_BYTES + 5);
        assert_eq!(
            put(&bulk, &context, item, first).await,
            Some(Digest::sha256(first))
        );
        assert_eq!(
            bulk.length(&context, item).await.unwrap(),
            first.len() as u64
        );
        assert_eq!(put(&bulk, &context, item, rest).await, None, "begun before");
        assert_eq!(
            bulk.digest(&context, item).await.unwrap(),
            Digest::sha256(&bytes)
        );
        for from in [0, 1, first.len(), bytes.len() - 1, bytes.len()] {
            let mut reader = bulk.read(&context, item, from as u64).await.unwrap();
            let mut read = Vec::new();
            while let Some(some) = reader.next(100_000).await.unwrap() {
                assert!(some.len() <= 100_000);
                read.extend_from_slice(&some);
            }
            assert!(read == bytes[from..], "from {from}");
        }
        assert!(
            bulk.read(&context, item, bytes.len() as u64 + 1)
                .await
                .is_err()
        );
        bulk.remove(&context, item).await.unwrap();
        assert!(bulk.read(&context, item, 0).await.is_err());
    }

    #[tokio::test]
    async fn what_a_killed_server_left_unfinished_is_no_part_of_a_body() {
        let folder = tempfile::tempdir().unwrap();
        let bulk = bulk(folder.path());
        let (context, item) = (Context::of_plan(b"plan"), Item::Body(seat(1)));
        put(&bulk, &context, item, b"one").await;
        let place = folder.path().join(format!("contexts/{context}/body-1"));
        fs::write(place.join("000000000000003#1"), b"half").unwrap();
        fs::write(place.join("000000000000009"), b"behind a gap").unwrap();
        assert_eq!(bulk.length(&context, item).await.unwrap(), 3);
        bulk.remove(&context, item).await.unwrap();
        assert!(!place.exists());
    }

    #[tokio::test]
    async fn each_place_reads_the_share_that_was_sealed_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let bulk = bulk(folder.path());
        let context = Context::of_plan(b"plan");
        let item = Item::Shares {
            sender: seat(2),
            kind: Shares::Key,
            signed: Digest::sha256(b"header"),
        };
        // So long that one lies across two segments.
        let shares = [1_u8, 2, 3].map(|share| vec![share; SEGMENT_BYTES / 2 + 9]);
        put(&bulk, &context, item, &shares.concat()).await;
        for (at, share) in shares.iter().enumerate() {
            assert!(bulk.share(&context, item, at, 3).await.unwrap() == *share);
        }
        assert!(bulk.share(&context, item, 3, 3).await.is_err());
    }
}
