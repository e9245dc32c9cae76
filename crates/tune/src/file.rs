//! Files that are read up to a limit, and replaced whole.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// All bytes of a file of at most `limit`. A longer one is refused by the length that the file system states, before
/// any of it is read.
///
/// # Errors
/// [`Error::Malformed`] if it is missing or too long; [`Error::Fault`] if it cannot be read.
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let name = path.display();
    let fault = |error: std::io::Error| Error::Fault(format!("{name}: {error}"));
    let long = || Error::Malformed(format!("{name}: more than {limit} bytes"));
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => Error::Malformed(format!("{name} is missing")),
        _ => fault(error),
    })?;
    if file.metadata().map_err(fault)?.len() > limit {
        return Err(long());
    }
    let mut bytes = Vec::new();
    // It may have grown since.
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(fault)?;
    if bytes.len() as u64 > limit {
        return Err(long());
    }
    Ok(bytes)
}

/// Puts a file with these bytes in the place of `path`, durably: written under a temporary name, fsync, rename, fsync
/// of the folder. A crash leaves the file that was there, or this one.
///
/// # Errors
/// [`Error::Fault`] with what the file system says; nothing has changed then.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let fault =
        |error: std::io::Error| Error::Fault(format!("writing {}: {error}", path.display()));
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    // This process's own: two may write at once.
    name.push(format!(".{}.new", std::process::id()));
    let temporary = Temporary(path.with_file_name(name));
    match fs::remove_file(&temporary.0) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(fault(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary.0)
        .map_err(fault)?;
    file.write_all(bytes).map_err(fault)?;
    file.sync_all().map_err(fault)?;
    fs::rename(&temporary.0, path).map_err(fault)?;
    sync_entry(path)
}

/// Makes the name of a file or folder durable: fsync of the folder that it stands in.
///
/// # Errors
/// [`Error::Fault`] with what the file system says.
pub fn sync_entry(path: &Path) -> Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|error| Error::Fault(format!("{}: {error}", folder.display())))
}

/// Removed when it goes out of scope; after the rename there is nothing left to remove.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        fs::write(&path, "before").expect("written");
        replace(&path, b"after").expect("replaced");
        assert_eq!(read(&path, 5).expect("bytes"), b"after");
        assert_eq!(fs::read_dir(folder.path()).expect("a listing").count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        fs::create_dir(&path).expect("a folder in the way");
        assert!(matches!(replace(&path, b"x"), Err(Error::Fault(_))));
        assert_eq!(fs::read_dir(folder.path()).expect("a listing").count(), 1);
    }

    #[test]
    fn a_file_past_its_limit_is_refused_by_its_length() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        // A sparse terabyte: reading it would take all memory.
        let file = File::create(&path).expect("a file");
        file.set_len(1 << 40).expect("a length");
        assert!(matches!(read(&path, 5), Err(Error::Malformed(text)) if text.contains("5 bytes")));
    }
}
