//! The log: a file of lines that only grows.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use ct_merkle::mem_backed_tree::MemoryBackedTree;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::line;

/// An append-only log in JSON Lines, open for writing by this process alone.
///
/// Leaf i of its Merkle tree (RFC 6962, section 2.1; hash: SHA-256) is line i without the newline. The log
/// alone shows edits only against a head that was known before; so heads are signed and handed around.
/// No value that depends on the data may be written; floats are refused outright.
pub struct Log {
    path: PathBuf,
    file: File,
    length: u64,
    tree: Tree,
    torn_bytes: u64,
    usable: bool,
}

pub(crate) type Tree = MemoryBackedTree<Sha256, Vec<u8>>;

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place, from 0.
    pub sequence: u64,
    /// SHA-256(0x00 ‖ line).
    pub leaf: [u8; 32],
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
        let mut file = options.open(&path).map_err(|error| fault(&path, &error))?;
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => {
                Error::Misuse(format!("{} is open in another process", path.display()))
            }
            TryLockError::Error(error) => fault(&path, &error),
        })?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)
            .map_err(|error| fault(&path, &error))?;
        let whole = bytes
            .iter()
            .rposition(|byte| *byte == b'\n')
            .map_or(0, |end| end + 1);
        let (lines, torn) = bytes.split_at(whole);
        let tree = read_lines(&path, lines)?;
        let length = lines.len() as u64;
        if !torn.is_empty() {
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
            tree,
            torn_bytes: torn.len() as u64,
            usable: true,
        })
    }

    /// Bytes of an unfinished last line that opening cut off; 0 when there was none.
    #[must_use]
    pub fn torn_bytes(&self) -> u64 {
        self.torn_bytes
    }

    /// Appends one entry; on the disk before it returns.
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
        if !self.usable {
            return Err(Error::Fault(format!(
                "{}: an earlier write failed; open the log again",
                self.path.display()
            )));
        }
        let sequence = self.tree.len();
        let mut line = line::write(sequence, kind, &fields, now)?;
        line.push(b'\n');
        if let Err(error) = self
            .file
            .write_all(&line)
            .and_then(|()| self.file.sync_all())
        {
            self.usable = self
                .file
                .set_len(self.length)
                .and_then(|()| self.file.sync_all())
                .is_ok();
            return Err(fault(&self.path, &error));
        }
        self.length += line.len() as u64;
        line.pop();
        let leaf = Sha256::new_with_prefix([0])
            .chain_update(&line)
            .finalize()
            .into();
        self.tree.push(line);
        Ok(Entry { sequence, leaf })
    }

    /// The values of every field of this name, oldest first.
    #[must_use]
    pub fn all(&self, field: &str) -> Vec<Value> {
        let value = |line: &Vec<u8>| line::parts(line)?.1.get_mut(field).map(Value::take);
        self.tree.items().iter().filter_map(value).collect()
    }

    /// How many entries there are.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.tree.len()
    }

    /// The root of the Merkle tree.
    #[must_use]
    pub fn head(&self) -> [u8; 32] {
        root(&self.tree)
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
pub fn verify_file(path: impl AsRef<Path>) -> Result<(u64, [u8; 32])> {
    let tree = read_file(path.as_ref())?;
    Ok((tree.len(), root(&tree)))
}

/// Reads a log without changing it, also while its owner appends to it: the kind and the fields of each whole line.
///
/// # Errors
/// `Malformed` when a line is not what belongs there; `Fault` from the disk.
pub fn entries(path: impl AsRef<Path>) -> Result<Vec<(String, Value)>> {
    let lines = lines(path)?;
    Ok(lines.iter().filter_map(|line| line::parts(line)).collect())
}

/// Reads a log without changing it, also while its owner appends to it: each whole line, without its newline.
///
/// # Errors
/// `Malformed` when a line is not what belongs there; `Fault` from the disk.
pub fn lines(path: impl AsRef<Path>) -> Result<Vec<Vec<u8>>> {
    let path = path.as_ref();
    let bytes = std::fs::read(path).map_err(|error| fault(path, &error))?;
    let whole = bytes.iter().rposition(|byte| *byte == b'\n');
    let lines = &bytes[..whole.map_or(0, |end| end + 1)];
    Ok(read_lines(path, lines)?.items().to_vec())
}

/// Reads a log without changing it, and holds its beginning against a checkpoint seen earlier: the log
/// still has those entries, unchanged, first. Returns its size and root now.
///
/// # Errors
/// As [`verify_file`]; `Malformed` when the log has fewer entries or other ones.
pub fn verify_extends(path: impl AsRef<Path>, known: &Checkpoint) -> Result<(u64, [u8; 32])> {
    let path = path.as_ref();
    let tree = read_file(path)?;
    if tree.len() < known.size() {
        return Err(Error::Malformed(format!(
            "{}: {} entries, but a checkpoint was seen with {}",
            path.display(),
            tree.len(),
            known.size()
        )));
    }
    let mut beginning = Tree::new();
    for line in tree
        .items()
        .iter()
        .take(usize::try_from(known.size()).unwrap_or(usize::MAX))
    {
        beginning.push(line.clone());
    }
    if root(&beginning) != *known.root() {
        return Err(Error::Malformed(format!(
            "{}: the first {} entries are not those of the checkpoint",
            path.display(),
            known.size()
        )));
    }
    Ok((tree.len(), root(&tree)))
}

pub(crate) fn read_file(path: &Path) -> Result<Tree> {
    let bytes = std::fs::read(path).map_err(|error| fault(path, &error))?;
    if bytes.last().is_some_and(|byte| *byte != b'\n') {
        return Err(Error::Malformed(format!(
            "{}: the last line is unfinished",
            path.display()
        )));
    }
    read_lines(path, &bytes)
}

/// Reads lines that each end in a newline.
fn read_lines(path: &Path, bytes: &[u8]) -> Result<Tree> {
    let mut tree = Tree::new();
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        line::check(line, tree.len()).map_err(|what| {
            Error::Malformed(format!(
                "{}, line {}: {what}",
                path.display(),
                tree.len() + 1
            ))
        })?;
        tree.push(line.to_vec());
    }
    Ok(tree)
}

pub(crate) fn root(tree: &Tree) -> [u8; 32] {
    (*tree.root().as_bytes()).into()
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

fn fault(path: &Path, error: &std::io::Error) -> Error {
    Error::Fault(format!("{}: {error}", path.display()))
}
