//! A log from its first line to its last, in memory that does not grow with it.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    frontier::{Frontier, Hash},
    record::{LINE_BYTES, Record},
};

/// Reads a log without changing it, also while its owner appends to it. Each line is held to its place: well-formed, in sequence, and
/// no earlier than the one before.
pub struct Reader {
    path: PathBuf,
    lines: BufReader<File>,
    line: Vec<u8>,
    frontier: Frontier,
    before: Frontier,
    last_time: u64,
    bytes: u64,
    unfinished: u64,
}

impl Reader {
    /// At the first line.
    ///
    /// # Errors
    /// `Malformed` for what is no file (a pipe would never end); `Fault` from the disk.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        expect_file(path)?;
        let file = File::open(path).map_err(|error| fault(path, &error))?;
        Ok(Self::of(path, file))
    }

    pub(crate) fn of(path: &Path, file: File) -> Self {
        Self {
            path: path.to_owned(),
            lines: BufReader::with_capacity(1 << 16, file),
            line: Vec::new(),
            frontier: Frontier::default(),
            before: Frontier::default(),
            last_time: 0,
            bytes: 0,
            unfinished: 0,
        }
    }

    /// The next entry; `None` after the last whole line.
    ///
    /// # Errors
    /// `Malformed` when a line is not what belongs there, with its number; `Fault` from the disk.
    #[allow(clippy::should_implement_trait)] // an error ends it: nothing behind a broken line is known to be in its place
    pub fn next(&mut self) -> Result<Option<Record>> {
        self.line.clear();
        (&mut self.lines)
            .take(LINE_BYTES as u64 + 2)
            .read_until(b'\n', &mut self.line)
            .map_err(|error| fault(&self.path, &error))?;
        if self.line.pop_if(|last| *last == b'\n').is_none() {
            if self.line.len() > LINE_BYTES {
                return Err(self.wrong(&format!("longer than {LINE_BYTES} bytes")));
            }
            self.unfinished = self.line.len() as u64;
            self.line.clear();
            return Ok(None);
        }
        let record = Record::parse(&self.line).map_err(|error| self.wrong(&error.to_string()))?;
        if record.sequence != self.size() {
            return Err(self.wrong(&format!(
                "sequence number {} where {} belongs: an entry is missing, or is in another's place",
                record.sequence,
                self.size()
            )));
        }
        if record.time < self.last_time {
            return Err(self.wrong(&format!(
                "{} is earlier than the entry before it: it was back-dated",
                record.when()
            )));
        }
        self.before.copy_from(&self.frontier);
        self.frontier.push(record.leaf);
        self.last_time = record.time;
        self.bytes += self.line.len() as u64 + 1;
        Ok(Some(record))
    }

    /// The line that was read last, without its newline.
    #[must_use]
    pub fn line(&self) -> &[u8] {
        &self.line
    }

    /// Entries so far.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// The root of the Merkle tree over them.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.frontier.root()
    }

    /// The root before the entry that was read last: what a checkpoint in that entry is about.
    #[must_use]
    pub fn root_before(&self) -> Hash {
        self.before.root()
    }

    /// When the last of them was written, in milliseconds after 1970; 0 before the first.
    #[must_use]
    pub fn last_time(&self) -> u64 {
        self.last_time
    }

    /// Bytes of the whole lines so far.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes behind the last whole line: an append that is under way, or never finished. Known once [`Self::next`] said `None`.
    #[must_use]
    pub fn unfinished(&self) -> u64 {
        self.unfinished
    }

    /// Goes to the end; the entries that it passes are checked as any.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn finish(&mut self) -> Result<()> {
        while self.next()?.is_some() {}
        Ok(())
    }

    pub(crate) fn frontier(self) -> Frontier {
        self.frontier
    }

    fn wrong(&self, what: &str) -> Error {
        Error::Malformed(format!(
            "{}, line {}: {what}",
            self.path.display(),
            self.size() + 1
        ))
    }
}

/// The entries of one kind, without holding anything to its place: for a glance ahead of a [`Reader`].
///
/// # Errors
/// As [`Reader::open`]; a line that is none is passed over.
pub fn glance(path: impl AsRef<Path>, kind: &str) -> Result<Vec<Record>> {
    let path = path.as_ref();
    let mut lines = Reader::open(path)?.lines;
    let wanted = format!("\"kind\":\"{kind}\"");
    let (mut found, mut line) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        let read = (&mut lines)
            .take(LINE_BYTES as u64 + 1)
            .read_until(b'\n', &mut line)
            .map_err(|error| fault(path, &error))?;
        if read == 0 {
            return Ok(found);
        }
        // The kind stands near the beginning of a line as a log writes it.
        let head = line.get(..line.len().min(HEAD_BYTES)).unwrap_or_default();
        if head.windows(wanted.len()).any(|it| it == wanted.as_bytes()) {
            line.pop_if(|last| *last == b'\n');
            found.extend(Record::parse(&line).ok());
        }
    }
}

/// Sequence, time and kind of a line fit into this.
const HEAD_BYTES: usize = 192;

/// Refuses folders, pipes and devices.
pub(crate) fn expect_file(path: &Path) -> Result<()> {
    let metadata = std::fs::metadata(path).map_err(|error| fault(path, &error))?;
    match metadata.is_file() {
        true => Ok(()),
        false => Err(Error::Malformed(format!("{} is no file", path.display()))),
    }
}

pub(crate) fn fault(path: &Path, error: &std::io::Error) -> Error {
    Error::Fault(format!("{}: {error}", path.display()))
}
