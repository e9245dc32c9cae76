//! A member's disk: every durable write passes through here, one step at a time.
//!
//! What must survive a crash is only as good as the order of these steps; so they may be [watched](ciphertune_identity::watch).

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use ciphertune_identity::{
    file,
    watch::{Does, Step, Watch, Watched},
};
use ciphertune_round::Digest;

use crate::error::{Error, Result};

/// Files of a member are its own alone.
const MODE: u32 = 0o600;

/// The disk. Clones are the same one.
#[derive(Clone, Default)]
pub struct Disk(Watched);

impl Disk {
    /// A disk that is watched.
    pub fn watched(watch: Arc<dyn Watch>) -> Self {
        Self(Watched::by(watch))
    }

    /// Writes `bytes` to `path`, whole or not at all, for its owner alone.
    pub fn write(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.step(Does::WritesFile, path, bytes, || {
            file::replace(path, &temporary(path), bytes, MODE)
        })
    }

    /// Starts the [`temporary`] file of `path`, to be filled and [settled](Disk::settle).
    pub fn start(&self, path: &Path) -> Result<File> {
        self.step(Does::StartsFile, path, &[], || {
            file::create(&temporary(path), MODE)
        })
    }

    /// Gives a finished file its name.
    pub fn settle(&self, finished: &Path, path: &Path) -> Result<()> {
        self.step(Does::SettlesFile, path, &[], || {
            file::settle(finished, path)
        })
    }

    /// Creates a folder, and those above it that are missing, for its owner alone. Each new entry is synced: what is
    /// written durably inside must not lose its folder.
    pub fn folder(&self, path: &Path) -> Result<()> {
        if path.is_dir() {
            return Ok(());
        }
        if let Some(parent) = path.parent().filter(|parent| *parent != Path::new("")) {
            self.folder(parent)?;
        }
        self.step(Does::MakesFolder, path, &[], || match fs::DirBuilder::new()
            .mode(0o700)
            .create(path)
        {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => file::sync_entry(path),
        })
    }

    /// Notes a digest at `path` durably, the first time; later, holds the same one to it.
    ///
    /// # Errors
    /// [`Error::Refused`] with `refusal` if another digest was noted.
    pub fn once(&self, path: &Path, digest: &Digest, refusal: &str) -> Result<()> {
        match read(path)? {
            None => self.write(path, digest.to_string().as_bytes()),
            Some(noted) if noted == digest.to_string().as_bytes() => Ok(()),
            Some(_) => Err(Error::Refused(refusal.into())),
        }
    }

    /// Appends a line to a file of lines. One that a crash cut short is cut off first.
    pub fn append_line(&self, path: &Path, line: &str) -> Result<()> {
        let line = format!("{line}\n");
        self.step(Does::AppendsLine, path, line.as_bytes(), || {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(MODE)
                .open(path)?;
            let mut before = Vec::new();
            file.read_to_end(&mut before)?;
            let whole = before.iter().rposition(|byte| *byte == b'\n');
            let whole = whole.map_or(0, |end| end as u64 + 1);
            file.set_len(whole)?;
            file.seek(SeekFrom::Start(whole))?;
            file.write_all(line.as_bytes())?;
            file.sync_all()
        })
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, path: &Path) -> Result<()> {
        self.step(Does::RemovesFile, path, &[], || {
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            }
        })
    }

    /// Overwrites a file with zeros, syncs and removes it; a file that is not there is erased already.
    pub fn erase(&self, path: &Path) -> Result<()> {
        let length = match fs::metadata(path) {
            Ok(metadata) => metadata.len(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => {
                return Err(Error::fault(
                    format_args!("erasing {}", path.display()),
                    error,
                ));
            }
        };
        self.step(Does::Overwrites, path, &[], || {
            let mut file = OpenOptions::new().write(true).open(path)?;
            file.write_all(&vec![0; length as usize])?;
            file.sync_all()
        })?;
        self.remove(path)
    }

    /// An append to the audit log at `path`, which is durable when it returns.
    pub fn appends<T>(
        &self,
        path: &Path,
        append: impl FnOnce() -> ciphertune_audit::Result<T>,
    ) -> Result<T> {
        let step = Step {
            does: Does::AppendsLine,
            path,
            bytes: &[],
        };
        let appended = (self.0).step(&step, || append().map_err(Failed::Own));
        appended.map_err(Failed::into_error)
    }

    /// A call that commits to the ledger at `path`, durably when it returns.
    pub async fn commits<T>(
        &self,
        path: &Path,
        commit: impl Future<Output = ciphertune_ledger::Result<T>>,
    ) -> Result<T> {
        let step = Step {
            does: Does::Commits,
            path,
            bytes: &[],
        };
        let commit = async { commit.await.map_err(Failed::Own) };
        let committed = self.0.step_async(&step, commit).await;
        committed.map_err(Failed::into_error)
    }

    fn step<T>(
        &self,
        does: Does,
        path: &Path,
        bytes: &[u8],
        take: impl FnOnce() -> io::Result<T>,
    ) -> Result<T> {
        let step = Step { does, path, bytes };
        (self.0)
            .step(&step, take)
            .map_err(|error| Error::fault(format_args!("writing {}", path.display()), error))
    }
}

/// What failed of a step: what was done, or whoever watched.
enum Failed<E> {
    Own(E),
    Watch(io::Error),
}

impl<E> From<io::Error> for Failed<E> {
    fn from(error: io::Error) -> Self {
        Self::Watch(error)
    }
}

impl<E: Into<Error>> Failed<E> {
    fn into_error(self) -> Error {
        match self {
            Self::Own(error) => error.into(),
            Self::Watch(error) => Error::fault("the disk", error),
        }
    }
}

/// The name under which a file is written before it gets its own. One process writes a home at a time (the audit log
/// is locked), so what lies there was left by a crash.
pub fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

/// Whether a file has the name of a temporary one.
pub fn is_temporary(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "tmp")
}

/// Reads a file, or `None` if there is none.
pub fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::fault(
            format_args!("reading {}", path.display()),
            error,
        )),
    }
}

/// The files of a folder, in the order of their names.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = fs::read_dir(folder)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(|error| Error::fault(format_args!("reading {}", folder.display()), error))?;
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt, sync::Mutex};

    use super::*;

    /// Notes what it hears, and lets `allowed` steps be taken.
    struct Stop {
        allowed: usize,
        heard: Mutex<Vec<Does>>,
    }

    impl Watch for Stop {
        fn before(&self, step: &Step<'_>) -> io::Result<()> {
            let mut heard = self.heard.lock().unwrap();
            if heard.len() == self.allowed {
                return Err(io::Error::other("stopped"));
            }
            heard.push(step.does);
            Ok(())
        }

        fn after(&self, _: &Step<'_>) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_file_is_there_whole_and_for_its_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, path) = (Disk::default(), folder.path().join("state"));
        assert_eq!(read(&path).unwrap(), None);
        disk.write(&path, b"one").unwrap();
        fs::write(temporary(&path), b"torn").unwrap();
        disk.write(&path, b"two").unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some(&b"two"[..]));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_line_that_a_crash_cut_short_is_cut_off_by_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let (disk, path) = (Disk::default(), folder.path().join("lines"));
        disk.append_line(&path, "one").unwrap();
        fs::write(&path, "one\ntw").unwrap();
        disk.append_line(&path, "two").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "one\ntwo\n");
    }

    #[test]
    fn a_step_that_its_watcher_ends_is_not_taken() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        fs::write(&secret, "secret").unwrap();
        let watch = Arc::new(Stop {
            allowed: 2,
            heard: Mutex::default(),
        });
        let disk = Disk::watched(Arc::clone(&watch) as _);
        disk.folder(&folder.path().join("below")).unwrap();
        assert!(matches!(disk.erase(&secret), Err(Error::Fault(_))));
        assert!(disk.write(&folder.path().join("state"), b"").is_err());
        assert_eq!(
            *watch.heard.lock().unwrap(),
            [Does::MakesFolder, Does::Overwrites]
        );
        // Overwritten, and not removed.
        assert_eq!(fs::read(&secret).unwrap(), [0; 6]);
        assert!(!folder.path().join("state").exists());
    }
}
