//! The log: a file of lines that only grows.

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::Write,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde_json::{Map, Value};

use crate::{
    checkpoint::Checkpoint,
    error::{Error, Result},
    frontier::{self, Frontier, Hash},
    reader::{Reader, fault},
    record,
};

/// An append-only log in JSON Lines, open for writing by this process alone.
///
/// Leaf i of its Merkle tree (RFC 6962, section 2.1; hash: SHA-256) is line i without the newline. The log
/// alone shows edits only against a head that was known before; so heads are signed and handed around.
/// No value that depends on the data may be written; floats are refused outright.
pub struct Log {
    path: PathBuf,
    file: File,
    length: u64,
    frontier: Frontier,
    last_time: u64,
    /// Of the entry that was appended last by this process.
    last_leaf: Hash,
    torn_bytes: u64,
    usable: bool,
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place, from 0.
    pub sequence: u64,
    /// SHA-256(0x00 ‖ line).
    pub leaf: Hash,
}

impl Log {
    /// Opens a log, or starts one (mode 0600); reads all of it.
    ///
    /// A last line without its newline is an append that never finished: it is cut off, and
    /// [`Self::torn_bytes`] says so.
    ///
    /// # Errors
    /// `Malformed` when anything else is wrong with the file, by line; `Misuse` when another process has it
    /// open; `Fault` from the disk.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let is_new = !path.exists();
        let mut options = OpenOptions::new();
        options.read(true).append(true).create(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(&path).map_err(|error| fault(&path, &error))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                Error::Misuse(format!("{} is open in another process", path.display()))
            }
            TryLockError::Error(error) => fault(&path, &error),
        })?;
        let same = file.try_clone().map_err(|error| fault(&path, &error))?;
        let mut reader = Reader::of(&path, same);
        reader.finish()?;
        let (length, torn_bytes) = (reader.bytes(), reader.unfinished());
        if torn_bytes > 0 {
            file.set_len(length)
                .and_then(|()| file.sync_all())
                .map_err(|error| fault(&path, &error))?;
        }
        if is_new {
            sync_folder(&path)?;
        }
        Ok(Self {
            path,
            file,
            length,
            last_time: reader.last_time(),
            last_leaf: Hash::default(),
            frontier: reader.frontier(),
            torn_bytes,
            usable: true,
        })
    }

    /// Bytes of an unfinished last line that opening cut off; 0 when there was none.
    #[must_use]
    pub fn torn_bytes(&self) -> u64 {
        self.torn_bytes
    }

    /// Appends one entry; on the disk before it returns. Its time is `now`, or that of the entry before it where a clock was set
    /// back meanwhile: a log's times never fall, so that one that was back-dated shows.
    ///
    /// # Errors
    /// `Misuse` for a float among the fields or a kind that is not a word; `Fault` from the disk or the clock
    /// (then nothing was appended; if that cannot be made sure, every later append fails too).
    pub fn append(
        &mut self,
        kind: &str,
        fields: Map<String, Value>,
        now: SystemTime,
    ) -> Result<Entry> {
        self.extend([(kind, fields, now)])?;
        let sequence = self.size() - 1;
        Ok(Entry {
            sequence,
            leaf: self.last_leaf,
        })
    }

    /// Appends entries, in order; all of them are on the disk before it returns, with one sync.
    ///
    /// # Errors
    /// As [`Log::append`]: then none was appended.
    pub fn extend<'a>(
        &mut self,
        entries: impl IntoIterator<Item = (&'a str, Map<String, Value>, SystemTime)>,
    ) -> Result<()> {
        if !self.usable {
            return Err(Error::Fault(format!(
                "{}: an earlier write failed; open the log again",
                self.path.display()
            )));
        }
        let (mut lines, mut leaves, mut time) = (Vec::new(), Vec::new(), self.last_time);
        for ((kind, fields, now), sequence) in entries.into_iter().zip(self.size()..) {
            time = record::since_1970(now)?.max(time);
            let line = record::write(sequence, kind, &fields, time)?;
            leaves.push(frontier::leaf(&line));
            lines.extend_from_slice(&line);
            lines.push(b'\n');
        }
        let Some(last) = leaves.last() else {
            return Ok(());
        };
        if let Err(error) = self
            .file
            .write_all(&lines)
            .and_then(|()| self.file.sync_all())
        {
            self.usable = self
                .file
                .set_len(self.length)
                .and_then(|()| self.file.sync_all())
                .is_ok();
            return Err(fault(&self.path, &error));
        }
        self.length += lines.len() as u64;
        self.last_time = time;
        self.last_leaf = *last;
        for leaf in leaves {
            self.frontier.push(leaf);
        }
        Ok(())
    }

    /// The values of every field of this name, oldest first, read anew.
    ///
    /// # Errors
    /// As [`Reader::next`].
    pub fn all(&self, field: &str) -> Result<Vec<Value>> {
        let mut reader = Reader::open(&self.path)?;
        let mut values = Vec::new();
        while let Some(mut record) = reader.next()? {
            values.extend(record.fields.remove(field));
        }
        Ok(values)
    }

    /// How many entries there are.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The root of the Merkle tree.
    #[must_use]
    pub fn head(&self) -> Hash {
        self.frontier.root()
    }

    /// Size and root, under the log's name, ready to be signed.
    ///
    /// # Errors
    /// `Misuse` when the name cannot stand in a checkpoint.
    pub fn checkpoint(&self, origin: &str) -> Result<Checkpoint> {
        Checkpoint::new(origin, self.size(), self.head())
    }
}

/// Reads a log without changing it: its size and the root of its Merkle tree.
///
/// # Errors
/// `Malformed` when a line is not what belongs there, or the last one is unfinished; `Fault` from the disk.
pub fn verify_file(path: impl AsRef<Path>) -> Result<(u64, Hash)> {
    let mut reader = Reader::open(&path)?;
    reader.finish()?;
    expect_finished(&reader, path.as_ref())?;
    Ok((reader.size(), reader.root()))
}

/// Reads a log without changing it, and holds its beginning against a checkpoint seen earlier: the log
/// still has those entries, unchanged, first. Returns its size and root now.
///
/// # Errors
/// As [`verify_file`]; `Malformed` when the log has fewer entries or other ones.
pub fn verify_extends(path: impl AsRef<Path>, known: &Checkpoint) -> Result<(u64, Hash)> {
    let path = path.as_ref();
    let mut reader = Reader::open(path)?;
    let mut root = (known.size() == 0).then(|| reader.root());
    while reader.next()?.is_some() {
        if reader.size() == known.size() {
            root = Some(reader.root());
        }
    }
    expect_finished(&reader, path)?;
    match root {
        None => Err(Error::Malformed(format!(
            "{}: {} entries, but a checkpoint was seen with {}",
            path.display(),
            reader.size(),
            known.size()
        ))),
        Some(root) if root != *known.root() => Err(Error::Malformed(format!(
            "{}: the first {} entries are not those of the checkpoint",
            path.display(),
            known.size()
        ))),
        Some(_) => Ok((reader.size(), reader.root())),
    }
}

pub(crate) fn expect_finished(reader: &Reader, path: &Path) -> Result<()> {
    match reader.unfinished() {
        0 => Ok(()),
        _ => Err(Error::Malformed(format!(
            "{}: the last line is unfinished",
            path.display()
        ))),
    }
}

/// Makes a new file's name durable.
fn sync_folder(path: &Path) -> Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| fault(folder, &error))
}
