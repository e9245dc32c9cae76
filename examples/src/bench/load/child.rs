//! The server, or the receiver of a plain copy, in a process of its own: what it holds at most is its own.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinHandle};

use super::member::Cast;
use crate::{
    Error, Result,
    children::{Child, Heard},
    party::LISTENING,
};

/// How often the disk is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long a process may take to end before it is killed.
const FAREWELL: Duration = Duration::from_secs(10);

/// glibc keeps an arena for each of several threads, and what hundreds of uploads leave in them: a server has few.
const ARENAS: &str = "2";

/// A process of its own.
pub struct Process {
    child: Child,
    heard: mpsc::UnboundedReceiver<Heard>,
}

impl Process {
    /// Starts this program as a party in the server's home, and waits until it listens.
    pub async fn start(party: &str, cast: &Cast) -> Result<Self> {
        let (telling, heard) = mpsc::unbounded_channel();
        let home = cast.scene.server.root();
        let arguments = vec![party.into(), "--home".into(), home.into()];
        let passphrase = &cast.scene.passphrase;
        let environment = [("MALLOC_ARENA_MAX", ARENAS.to_owned())];
        let child = Child::start(0, party, passphrase, arguments, &environment, telling)?;
        let mut process = Self { child, heard };
        loop {
            match process.heard.recv().await {
                Some(Heard::Said { line, .. }) if line.contains(LISTENING) => return Ok(process),
                Some(Heard::Said { .. }) => {}
                gone => return Err(process.died(gone)),
            }
        }
    }

    /// Runs something that is over at once, with words, when the process dies.
    pub async fn beside<T>(&mut self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                heard = self.heard.recv() => match heard {
                    Some(Heard::Said { .. }) => {}
                    gone => return Err(self.died(gone)),
                }
            }
        }
    }

    fn died(&self, gone: Option<Heard>) -> Error {
        let how = match gone {
            Some(Heard::Gone { how, .. }) => how,
            _ => "nothing is heard of it".into(),
        };
        Error::Fault(format!("the {} died: {how}", self.child.name))
    }

    /// Asks it to end, and waits until it has.
    pub async fn end(mut self) {
        self.child.end();
        let gone =
            async { while !matches!(self.heard.recv().await, Some(Heard::Gone { .. }) | None) {} };
        if tokio::time::timeout(FAREWELL, gone).await.is_err() {
            self.child.kill();
        }
    }

    /// Most memory so far, bytes.
    pub fn peak_memory(&self) -> Option<u64> {
        self.child.peak_memory()
    }

    /// Seconds of processors so far, the system's on its behalf included.
    pub fn cpu_seconds(&self) -> Option<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.pid)).ok()?;
        // The name before may hold anything; of what follows, utime and stime are the 12th and 13th (proc_pid_stat(5)).
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_whitespace().skip(11);
        let ticks = |field: Option<&str>| field?.parse::<u64>().ok();
        let ticks = ticks(fields.next())? + ticks(fields.next())?;
        Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }
}

/// The most bytes that a folder held, looked at twice a second.
pub struct Disk {
    folder: PathBuf,
    most: Arc<AtomicU64>,
    looking: JoinHandle<()>,
}

impl Disk {
    /// Begins to look.
    pub fn watch(folder: PathBuf) -> Self {
        let most = Arc::new(AtomicU64::new(0));
        let looking = tokio::spawn({
            let (folder, most) = (folder.clone(), Arc::clone(&most));
            async move {
                loop {
                    let folder = folder.clone();
                    let held = tokio::task::spawn_blocking(move || held(&folder)).await;
                    most.fetch_max(held.unwrap_or(0), Ordering::Relaxed);
                    tokio::time::sleep(LOOK).await;
                }
            }
        });
        Self {
            folder,
            most,
            looking,
        }
    }

    /// Looks once more.
    pub fn look(&self) {
        self.most.fetch_max(held(&self.folder), Ordering::Relaxed);
    }

    /// The most so far.
    pub fn most(&self) -> u64 {
        self.most.load(Ordering::Relaxed)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

/// Bytes of all files below a folder; what vanishes meanwhile counts as nothing.
fn held(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => held(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
