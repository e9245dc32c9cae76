//! Files that are there whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use ciphertune_round::Digest;

use crate::error::{Error, Result};

/// Writes `bytes` to `path` for its owner alone: a temporary file, fsync, rename, fsync of the folder.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = temporary(path);
    let wrote = (|| {
        let mut file = create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    })();
    wrote.map_err(|error| Error::fault(format_args!("writing {}", path.display()), error))?;
    settle(&temporary, path)
}

/// A new file for its owner alone.
pub fn create(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
}

/// Renames a file that is complete and synced into its place, durably.
pub fn settle(temporary: &Path, path: &Path) -> Result<()> {
    fs::rename(temporary, path)
        .and_then(|()| match path.parent() {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        })
        .map_err(|error| Error::fault(format_args!("writing {}", path.display()), error))
}

/// The name under which a file is written before it is renamed.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// Reads a file, or `None` if there is none.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::fault(
            format_args!("reading {}", path.display()),
            error,
        )),
    }
}

/// Creates a folder, and those above it that are missing, for its owner alone. Each new entry is synced: what is
/// written durably inside must not lose its folder.
pub fn folder(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(());
    }
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        folder(parent)?;
    }
    let made = match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        made => made,
    };
    made.and_then(|()| File::open(parent.unwrap_or(Path::new(".")))?.sync_all())
        .map_err(|error| Error::fault(format_args!("creating {}", path.display()), error))
}

/// Overwrites a file with zeros, syncs and removes it; a file that is not there is erased already.
pub fn erase(path: &Path) -> Result<()> {
    let doing = |error| Error::fault(format_args!("erasing {}", path.display()), error);
    let length = match fs::metadata(path) {
        Ok(metadata) => metadata.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(doing(error)),
    };
    let mut file = OpenOptions::new().write(true).open(path).map_err(doing)?;
    file.write_all(&vec![0; length as usize])
        .and_then(|()| file.sync_all())
        .map_err(doing)?;
    fs::remove_file(path).map_err(doing)
}

/// Notes a digest at `path` durably, the first time; later, holds the same one to it.
///
/// # Errors
/// [`Error::Refused`] with `refusal` if another digest was noted.
pub fn once(path: &Path, digest: &Digest, refusal: &str) -> Result<()> {
    match read(path)? {
        None => write(path, digest.to_string().as_bytes()),
        Some(noted) if noted == digest.to_string().as_bytes() => Ok(()),
        Some(_) => Err(Error::Refused(refusal.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_and_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        assert_eq!(read(&path).unwrap(), None);
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"two"[..]));
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
