//! A disk that ends the run of whoever writes to it at a chosen durable write: before it, after it, or in the middle of it.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::Path,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use ciphertune_client::disk::temporary;
use ciphertune_identity::watch::{Does, Step, Watch};

/// What an error of a cut disk says.
pub const WORDS: &str = "cut off";

/// Where in a write the run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Where {
    /// Nothing of it is on the disk.
    Before,
    /// Half of it is.
    Within,
    /// All of it is, and nothing came after.
    After,
}

/// How the run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The disk fails from then on, and whoever writes to it.
    Fails,
    /// The process aborts.
    Aborts,
}

/// A step that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// What it did.
    pub does: Does,
    /// The file's name.
    pub name: String,
    /// What `mark` said when it began.
    pub mark: usize,
}

impl Taken {
    /// Where in the code it was taken, as far as its file's name tells: without serials, places and digests. All that an
    /// attempt leaves is removed by one loop.
    pub fn site(&self) -> (Does, String) {
        let digest =
            self.name.len() == 64 && self.name.bytes().all(|byte| byte.is_ascii_hexdigit());
        let swept = self.does == Does::RemovesFile && !self.name.ends_with("key");
        let name = if digest || swept { "" } else { &self.name };
        (
            self.does,
            name.replace(|one: char| one.is_ascii_digit(), ""),
        )
    }
}

/// The watcher.
pub struct Cut {
    at: Option<(usize, Where)>,
    end: End,
    mark: Box<dyn Fn() -> usize + Send + Sync>,
    dead: AtomicBool,
    taken: Mutex<Vec<Taken>>,
}

impl Cut {
    /// Cuts nothing, and notes what `mark` says at each step.
    pub fn never(mark: impl Fn() -> usize + Send + Sync + 'static) -> Self {
        Self {
            at: None,
            end: End::Fails,
            mark: Box::new(mark),
            dead: AtomicBool::new(false),
            taken: Mutex::default(),
        }
    }

    /// Cuts at the `step`-th write, from 1.
    pub fn at(step: usize, place: Where, end: End) -> Self {
        Self {
            at: Some((step, place)),
            end,
            ..Self::never(|| 0)
        }
    }

    /// The steps that were taken.
    pub fn taken(&self) -> Vec<Taken> {
        self.taken.lock().unwrap().clone()
    }

    fn is_due(&self, step: usize, place: Where) -> bool {
        self.at == Some((step, place))
    }

    fn end(&self) -> io::Error {
        if self.end == End::Aborts {
            std::process::abort();
        }
        self.dead.store(true, Ordering::SeqCst);
        io::Error::other(WORDS)
    }
}

impl Watch for Cut {
    fn before(&self, step: &Step<'_>) -> io::Result<()> {
        if self.dead.load(Ordering::SeqCst) {
            return Err(io::Error::other(WORDS));
        }
        let mut taken = self.taken.lock().unwrap();
        let number = taken.len() + 1;
        if self.is_due(number, Where::Before) {
            return Err(self.end());
        }
        if self.is_due(number, Where::Within) {
            tear(step)?;
            return Err(self.end());
        }
        let name = step.path.file_name().unwrap_or_default();
        taken.push(Taken {
            does: step.does,
            name: name.to_string_lossy().into_owned(),
            mark: (self.mark)(),
        });
        Ok(())
    }

    fn after(&self, _: &Step<'_>) -> io::Result<()> {
        let number = self.taken.lock().unwrap().len();
        if self.is_due(number, Where::After) {
            return Err(self.end());
        }
        Ok(())
    }
}

/// Whether a step can be torn. The others are single acts of the file system or of SQLite.
pub fn can_be_torn(does: Does) -> bool {
    matches!(
        does,
        Does::WritesFile | Does::StartsFile | Does::AppendsLine | Does::Overwrites
    )
}

/// Whether every cut is asked for, be it like another.
pub fn all_cuts() -> bool {
    std::env::var_os("CIPHERTUNE_EVERY_CUT").is_some()
}

/// A cut for every gap between two steps of a run that took these, and a torn write wherever one can be torn: half of
/// it on the disk is the gap before it, and half a file. Where the member called the server in the gap, one cut before
/// the call and one after. Gaps that are alike, between the same steps of two rounds or of two keys, are cut once, at
/// the last of them, unless `CIPHERTUNE_EVERY_CUT` is set.
pub fn cuts(taken: &[Taken]) -> Vec<(usize, Where)> {
    let mut cuts = BTreeMap::new();
    let all = all_cuts();
    let mut add = |step: usize, place: Where| {
        let around: Vec<_> = (step.saturating_sub(2)..=step + 1)
            .map(|step| {
                step.checked_sub(1)
                    .and_then(|at| taken.get(at))
                    .map(Taken::site)
            })
            .collect();
        let alike = if all { step } else { 0 };
        cuts.insert((alike, place, around), (step, place));
    };
    for (step, this) in (1..).zip(taken) {
        let begins = if can_be_torn(this.does) {
            Where::Within
        } else {
            Where::Before
        };
        let called = step == 1 || taken[step - 2].mark != this.mark;
        if called || begins == Where::Within {
            add(step, begins);
        }
        let covered = taken
            .get(step)
            .is_some_and(|next| next.mark == this.mark && can_be_torn(next.does));
        if !covered {
            add(step, Where::After);
        }
    }
    let mut cuts: Vec<_> = cuts.into_values().collect();
    cuts.sort_unstable();
    cuts
}

/// Leaves half of a step on the disk.
fn tear(step: &Step<'_>) -> io::Result<()> {
    let half = |bytes: &[u8]| bytes[..bytes.len() / 2].to_vec();
    match step.does {
        Does::WritesFile => fs::write(temporary(step.path), half(step.bytes)),
        Does::StartsFile => fs::write(temporary(step.path), [0x5A; 12_345]),
        Does::AppendsLine => append(step.path, br#"{"sequence":7,"time":"20"#),
        Does::Overwrites => {
            let mut bytes = fs::read(step.path)?;
            let middle = bytes.len() / 2;
            bytes[..middle].fill(0);
            fs::write(step.path, bytes)
        }
        Does::MakesFolder
        | Does::SettlesFile
        | Does::PutsObject
        | Does::Commits
        | Does::RemovesFile => Ok(()),
    }
}

fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)?
        .write_all(bytes)
}
