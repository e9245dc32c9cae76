//! The tally of the audit log, shared between whoever writes the log and whoever looks.

use std::{
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ciphertune_audit::{Evidence, Reader};
use serde_json::{Map, Value};

use super::tally::Tally;
use crate::{
    error::{Result, fault},
    moment::Moment,
};

/// What the log adds up to, from its first line on.
pub struct History {
    tally: Mutex<Tally>,
    evidence: Evidence,
}

impl History {
    /// Reads the log from its first line to its last.
    pub fn read(log: &Path) -> Result<Self> {
        const DOING: &str = "reading the audit log";
        let history = Self {
            tally: Mutex::default(),
            evidence: Evidence::beside(log),
        };
        let mut reader = Reader::open(log).map_err(|error| fault(DOING, error))?;
        while let Some(record) = reader.next().map_err(|error| fault(DOING, error))? {
            let at = Moment::from_millis(record.time);
            history.take(&record.kind, &record.fields, at);
        }
        Ok(history)
    }

    /// Takes an entry that was appended.
    pub fn take(&self, kind: &str, fields: &Map<String, Value>, at: Moment) {
        let look = |name: &str| self.evidence.get(name).ok();
        self.lock().take(kind, fields, at.as_millis(), &look);
    }

    /// The tally as it stands. Reads what objects it takes to tell all of it, while nobody waits for it.
    pub fn look(&self) -> Tally {
        let unread = self.lock().unread();
        for object in unread {
            let signed = self.evidence.get(object.name()).ok();
            let members = signed.and_then(|bytes| object.members(&bytes));
            self.lock().learn(&object, members);
        }
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
