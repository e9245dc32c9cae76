//! Files that appear whole or not at all, and files that nobody else may read.

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::error::{Error, Result, fault};

/// Puts a file with these bytes in the place of `path`, durably: written as `temporary`, then [settled](settle). A
/// crash leaves the file that was there, or this one.
///
/// # Errors
/// Whatever the file system says; the temporary file may then be left.
pub fn replace(path: &Path, temporary: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    create(temporary, mode)?.write_all(bytes)?;
    settle(temporary, path)
}

/// The same, but for the name, which is durable once the folder is [synchronised](sync_folder): for many files in one folder.
///
/// # Errors
/// As [`replace`].
pub fn put(path: &Path, temporary: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let mut file = create(temporary, mode)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

/// Makes the names in a folder durable.
///
/// # Errors
/// Whatever the file system says.
pub fn sync_folder(folder: &Path) -> std::io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A new file with this mode, in the place of one that a crash left.
///
/// # Errors
/// Whatever the file system says.
pub fn create(path: &Path, mode: u32) -> std::io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
}

/// Gives a finished file its name, durably: fsync, rename, fsync of the folder.
///
/// # Errors
/// Whatever the file system says.
pub fn settle(temporary: &Path, path: &Path) -> std::io::Result<()> {
    File::open(temporary)?.sync_all()?;
    fs::rename(temporary, path)?;
    sync_entry(path)
}

/// Makes the name of a file or folder durable: fsync of the folder that it stands in.
///
/// # Errors
/// Whatever the file system says.
pub fn sync_entry(path: &Path) -> std::io::Result<()> {
    let folder = path
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    sync_folder(folder)
}

/// Writes a file whole or not at all. The temporary name is this process's own: two commands may run at once.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let Some(name) = path.file_name() else {
        return Err(Error::Misuse(format!(
            "{} is no file's path",
            path.display()
        )));
    };
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.new", std::process::id()));
    let temporary = Temporary(path.with_file_name(temporary));
    replace(path, &temporary.0, bytes, mode)
        .map_err(|error| fault(&format!("writing {}", path.display()), error))
}

/// Writes a file that must not be there yet, whole or not at all: of two that do so at once, one fails.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> std::io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = format!("{name}.{}.new", std::process::id());
    let temporary = Temporary(path.with_file_name(temporary));
    create(&temporary.0, mode)?.write_all(bytes)?;
    File::open(&temporary.0)?.sync_all()?;
    fs::hard_link(&temporary.0, path)?;
    sync_entry(path)
}

/// Removed when it goes out of scope; after the rename there is nothing left to remove.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    read_open(path, &mut open(path)?, limit, Vec::new())
}

/// Reads a file of at most `limit` bytes whose mode lets nobody but its owner at it.
///
/// # Errors
/// [`Error::Refused`], with the command that mends it, if the group or others may read or write it. The mode is that
/// of the opened file, not of the path a moment earlier.
pub(crate) fn read_private(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut file = open(path)?;
    let mode = file
        .metadata()
        .map_err(|error| fault(&format!("reading {}", path.display()), error))?
        .permissions()
        .mode();
    if mode & 0o077 != 0 {
        return Err(Error::Refused(format!(
            "{path} may be read by others (mode {mode:04o}); run: chmod 600 {path}",
            path = path.display(),
            mode = mode & 0o7777,
        )));
    }
    // A vector that grew would leave pieces of the secret in the memory that it gave back.
    let room = usize::try_from(limit)
        .unwrap_or_default()
        .saturating_add(ROOM);
    read_open(path, &mut file, limit, Vec::with_capacity(room))
}

/// Reads a text file of at most `limit` bytes.
pub(crate) fn read_text(path: &Path, limit: u64) -> Result<String> {
    String::from_utf8(read(path, limit)?)
        .map_err(|_| Error::Malformed(format!("{}: not UTF-8", path.display())))
}

fn open(path: &Path) -> Result<File> {
    File::open(path).map_err(|error| fault(&format!("opening {}", path.display()), error))
}

/// More than `read_to_end` keeps free for its next read.
const ROOM: usize = 64;

fn read_open(path: &Path, file: &mut File, limit: u64, mut bytes: Vec<u8>) -> Result<Vec<u8>> {
    file.take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| fault(&format!("reading {}", path.display()), error))?;
    if bytes.len() as u64 > limit {
        return Err(Error::Malformed(format!(
            "{}: more than {limit} bytes",
            path.display()
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_with_its_mode_and_nothing_is_left_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "before").unwrap();
        write(&path, b"after", 0o600).unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"after");
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_that_is_there_is_never_written_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        write_new(&path, b"one", 0o600).unwrap();
        let error = write_new(&path, b"two", 0o600).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"one");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_failed_write_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::create_dir(&path).unwrap();
        assert!(write(&path, b"x", 0o600).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_file_past_its_limit_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        fs::write(&path, "123456").unwrap();
        assert!(matches!(read(&path, 5), Err(Error::Malformed(_))));
    }
}
