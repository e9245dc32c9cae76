//! Durable writes as steps that somebody may watch: what must survive a crash is only as good as their order, so a test counts
//! them, and ends the run before, after or in the middle of any. Nobody watches in production.

use std::{io, path::Path, sync::Arc};

/// One durable write.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// What is done.
    pub does: Does,
    /// The file or folder that it is done to.
    pub path: &'a Path,
    /// The bytes that a file gets, where they are known here.
    pub bytes: &'a [u8],
}

/// What a step does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Does {
    /// Makes a folder.
    MakesFolder,
    /// Starts a temporary file that is filled bit by bit.
    StartsFile,
    /// Gives a finished file its name.
    SettlesFile,
    /// Puts a file in place, whole, by way of a temporary one.
    WritesFile,
    /// Puts an object into a store, whole or not at all.
    PutsObject,
    /// Appends a line.
    AppendsLine,
    /// Commits to a database.
    Commits,
    /// Overwrites a secret with zeros.
    Overwrites,
    /// Removes a file or an object.
    RemovesFile,
}

/// Watches a disk. An error ends the step, and with it the run, like one of the disk itself.
pub trait Watch: Send + Sync {
    /// A step is about to be taken.
    ///
    /// # Errors
    /// Then it is not taken.
    fn before(&self, step: &Step<'_>) -> io::Result<()>;

    /// A step was taken and is on the disk.
    ///
    /// # Errors
    /// Then nobody hears that it was.
    fn after(&self, step: &Step<'_>) -> io::Result<()>;

    /// How many bytes are free; `None`: what the file system says.
    fn free(&self) -> Option<u64> {
        None
    }
}

/// A disk that may be watched. Clones are the same one.
#[derive(Clone, Default)]
pub struct Watched(Option<Arc<dyn Watch>>);

impl Watched {
    /// A disk that is watched.
    pub fn by(watch: Arc<dyn Watch>) -> Self {
        Self(Some(watch))
    }

    /// Takes a step.
    ///
    /// # Errors
    /// Those of `take`, and of whoever watches.
    pub fn step<T, E: From<io::Error>>(
        &self,
        step: &Step<'_>,
        take: impl FnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        self.before(step)?;
        let taken = take()?;
        self.after(step)?;
        Ok(taken)
    }

    /// Takes a step that is waited for.
    ///
    /// # Errors
    /// As [`Watched::step`].
    pub async fn step_async<T, E: From<io::Error>>(
        &self,
        step: &Step<'_>,
        take: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.before(step)?;
        let taken = take.await?;
        self.after(step)?;
        Ok(taken)
    }

    /// How many bytes whoever watches says are free.
    #[must_use]
    pub fn free(&self) -> Option<u64> {
        self.0.as_ref()?.free()
    }

    fn before(&self, step: &Step<'_>) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |watch| watch.before(step))
    }

    fn after(&self, step: &Step<'_>) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |watch| watch.after(step))
    }
}
