//! Bodies, sealed shares and sums: `contexts/CONTEXT/` with a few files for each seat.
//!
//! Plain files rather than an object store: an upload goes on where it stopped, which takes appending, and a sum is
//! written while it is added up. What is kept is written beside its name, synchronised, renamed, and the folder
//! synchronised: it is there whole or not at all.

use std::{
    fs::{self, File},
    io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use ciphertune_identity::file::{settle, sync_entry};
use ciphertune_round::{Context, Digest, Hasher, ShareIndex};
use ciphertune_sum::{Parameters, add_bodies};
use ciphertune_wire::limits::SHARE_BYTES;

use crate::{
    error::{Result, fault},
    phase::Shares,
};

/// The folder of one server's files. All calls block.
#[derive(Clone)]
pub struct Files {
    root: PathBuf,
}

impl Files {
    /// Opens or creates the folder.
    pub fn open(root: PathBuf) -> Result<Self> {
        fs::create_dir_all(&root)
            .map_err(|error| fault("creating the folder of contexts", error))?;
        Ok(Self { root })
    }

    /// Deletes the folders of all contexts but these.
    pub fn sweep(&self, keep: &[Context]) -> Result<()> {
        const DOING: &str = "sweeping old contexts";
        let keep: Vec<String> = keep.iter().map(ToString::to_string).collect();
        for folder in fs::read_dir(&self.root).map_err(|error| fault(DOING, error))? {
            let folder = folder.map_err(|error| fault(DOING, error))?;
            if !keep
                .iter()
                .any(|context| folder.file_name().to_str() == Some(context))
            {
                fs::remove_dir_all(folder.path()).map_err(|error| fault(DOING, error))?;
            }
        }
        Ok(())
    }

    /// Creates a context's folder.
    pub fn create(&self, context: &Context) -> Result<()> {
        const DOING: &str = "creating a context's folder";
        let folder = self.folder(context);
        fs::create_dir_all(&folder)
            .and_then(|()| sync_entry(&folder))
            .map_err(|error| fault(DOING, error))
    }

    /// Deletes a context's folder, if there is one.
    pub fn delete(&self, context: &Context) -> Result<()> {
        match fs::remove_dir_all(self.folder(context)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(fault("deleting a context's folder", error))
            }
            _ => Ok(()),
        }
    }

    /// Where an upload is written until it is whole.
    pub fn upload(&self, context: &Context, seat: ShareIndex) -> PathBuf {
        self.folder(context).join(format!("{seat}.body.part"))
    }

    /// A whole body.
    pub fn body(&self, context: &Context, seat: ShareIndex) -> PathBuf {
        self.folder(context).join(format!("{seat}.body"))
    }

    /// The sum.
    pub fn sum(&self, context: &Context) -> PathBuf {
        self.folder(context).join("sum")
    }

    /// Where a sender's parcel for a seat is written until it is whole.
    pub fn parcel_upload(
        &self,
        context: &Context,
        seat: ShareIndex,
        sender: ShareIndex,
    ) -> PathBuf {
        self.folder(context)
            .join(format!("{seat}.parcel.{sender}.part"))
    }

    /// The whole parcel for a seat.
    pub fn parcel(&self, context: &Context, seat: ShareIndex) -> PathBuf {
        self.folder(context).join(format!("{seat}.parcel"))
    }

    /// Keeps a sender's upload as the seat's parcel.
    pub fn keep_parcel(
        &self,
        context: &Context,
        seat: ShareIndex,
        sender: ShareIndex,
    ) -> Result<()> {
        settle(
            &self.parcel_upload(context, seat, sender),
            &self.parcel(context, seat),
        )
        .map_err(|error| fault("keeping a parcel", error))
    }

    /// How much of an upload there is.
    pub fn uploaded(&self, context: &Context, seat: ShareIndex) -> u64 {
        fs::metadata(self.upload(context, seat)).map_or(0, |metadata| metadata.len())
    }

    /// SHA-256 of an upload, as it is on the disk.
    pub fn digest(&self, context: &Context, seat: ShareIndex) -> Result<Digest> {
        digest(&self.upload(context, seat)).map_err(|error| fault("reading a body", error))
    }

    /// Keeps an upload as the seat's body.
    pub fn keep(&self, context: &Context, seat: ShareIndex) -> Result<()> {
        settle(&self.upload(context, seat), &self.body(context, seat))
            .map_err(|error| fault("keeping a body", error))
    }

    /// Throws away an upload, or the body that it became.
    pub fn discard(&self, context: &Context, seat: ShareIndex) -> Result<()> {
        for path in [self.upload(context, seat), self.body(context, seat)] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(fault("discarding a body", error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds bodies into the context's sum and returns its digest. Memory: a few blocks and buffers.
    pub fn add(
        &self,
        context: &Context,
        parameters: &Parameters,
        length: usize,
        seats: &[ShareIndex],
    ) -> Result<Digest> {
        const DOING: &str = "adding bodies";
        let mut bodies = seats
            .iter()
            .map(|seat| Ok(BufReader::new(File::open(self.body(context, *seat))?)))
            .collect::<io::Result<Vec<_>>>()
            .map_err(|error| fault(DOING, error))?;
        let part = self.folder(context).join("sum.part");
        let mut out = Hashing {
            out: BufWriter::new(File::create(&part).map_err(|error| fault(DOING, error))?),
            hasher: Hasher::default(),
        };
        add_bodies(parameters, length, &mut bodies, &mut out)
            .map_err(|error| fault(DOING, error))?;
        out.out.flush().map_err(|error| fault(DOING, error))?;
        drop(out.out);
        settle(&part, &self.sum(context)).map_err(|error| fault(DOING, error))?;
        Ok(out.hasher.finish())
    }

    /// Where one sender's sealed shares are written until they are whole: how many there are, the length of each, and the
    /// shares themselves, in the order in which they were signed.
    pub fn shares_upload(&self, context: &Context, sender: ShareIndex, kind: Shares) -> PathBuf {
        self.shares(context, sender, kind)
            .with_extension(match kind {
                Shares::Key => "key.part",
                Shares::KeySum => "key-sum.part",
            })
    }

    /// Keeps a sender's sealed shares.
    pub fn keep_shares(&self, context: &Context, sender: ShareIndex, kind: Shares) -> Result<()> {
        settle(
            &self.shares_upload(context, sender, kind),
            &self.shares(context, sender, kind),
        )
        .map_err(|error| fault("keeping sealed shares", error))
    }

    /// The share at a place, from 0, of those that a sender sealed; reads that share alone.
    pub fn share(
        &self,
        context: &Context,
        sender: ShareIndex,
        kind: Shares,
        place: usize,
    ) -> Result<Vec<u8>> {
        let read = || -> io::Result<Vec<u8>> {
            let mut file = File::open(self.shares(context, sender, kind))?;
            let mut table = vec![0; (place + 2) * 4];
            file.read_exact(&mut table)?;
            let (numbers, _) = table.as_chunks::<4>();
            let mut numbers = numbers
                .iter()
                .map(|bytes| u64::from(u32::from_le_bytes(*bytes)));
            let shares = numbers.next().unwrap_or(0);
            let length = numbers.next_back().unwrap_or(0);
            file.seek(SeekFrom::Start((shares + 1) * 4 + numbers.sum::<u64>()))?;
            let mut share = vec![0; usize::try_from(length.min(SHARE_BYTES as u64)).unwrap_or(0)];
            file.read_exact(&mut share)?;
            Ok(share)
        };
        read().map_err(|error| fault("reading a sealed share", error))
    }

    fn shares(&self, context: &Context, sender: ShareIndex, kind: Shares) -> PathBuf {
        let name = match kind {
            Shares::Key => "key",
            Shares::KeySum => "key-sum",
        };
        self.folder(context).join(format!("{sender}.{name}"))
    }

    fn folder(&self, context: &Context) -> PathBuf {
        self.root.join(context.to_string())
    }
}

/// Hashes what passes through.
struct Hashing<W> {
    out: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(bytes.get(..written).unwrap_or(bytes));
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn digest(path: &Path) -> io::Result<Digest> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            read => hasher.update(buffer.get(..read).unwrap_or_default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_keeps_only_what_it_is_told_to() {
        let folder = tempfile::tempdir().unwrap();
        let files = Files::open(folder.path().to_owned()).unwrap();
        let [old, new] = [b"old", b"new"].map(|plan| Context::of_plan(plan));
        files.create(&old).unwrap();
        files.create(&new).unwrap();
        files.sweep(&[new]).unwrap();
        assert!(!files.sum(&old).parent().unwrap().exists());
        assert!(files.sum(&new).parent().unwrap().exists());
    }
}
