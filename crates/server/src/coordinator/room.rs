//! A full disk pauses: nothing more is taken, nobody's deadline passes, and once there is room everything goes on.

use std::sync::Arc;

use ciphertune_round::Digest;
use ciphertune_wire::Refusal;

use super::{Coordinator, Jobs};
use crate::{
    error::{Refused, Result},
    moment::Moment,
    phase::{Input, Machine},
    storage::SEGMENT_BYTES,
};

/// With less room than that everything pauses: uploads store segments, several at once.
const LEAST: u64 = 2 * SEGMENT_BYTES as u64;

/// And goes on with that much: it does not pause again at the next upload.
const ENOUGH: u64 = 16 * SEGMENT_BYTES as u64;

/// A job that waits for disk.
pub(super) struct Held {
    since: Moment,
    why: String,
}

impl Held {
    pub(super) fn new(since: Moment, why: String) -> Self {
        Self { since, why }
    }

    pub(super) fn why(&self) -> &str {
        &self.why
    }
}

impl Coordinator {
    /// Why nothing is taken for the moment; `None` when all is well.
    pub fn paused(&self) -> Option<String> {
        self.paused.borrow().clone()
    }

    /// Refuses what would be written while there is no room for it.
    pub fn expect_room(&self) -> Result<(), Refused> {
        match &*self.paused.borrow() {
            Some(why) => Err(Refused::new(Refusal::Full, why)),
            None => Ok(()),
        }
    }

    /// Whether the job waits: there is no room at all, or not for its next round. That it does, and since when, is in its journal.
    pub(super) async fn waits_for_room(
        self: &Arc<Self>,
        jobs: &mut Jobs,
        job: &Digest,
    ) -> Result<bool> {
        let why = match (jobs.running.get(job), self.paused()) {
            (None, _) => {
                jobs.held.remove(job);
                return Ok(false);
            }
            (Some(_), Some(why)) => Some(why),
            (Some(machine), None) => self.too_much(jobs, machine).await?,
        };
        let noted = jobs.running.get(job).and_then(Machine::waits_since);
        if let Some(why) = why {
            let held = jobs.held.get(job);
            if held.is_none() {
                tracing::error!(%job, why, "a job waits for disk");
            }
            let since = noted.or(held.map(|held| held.since));
            let since = since.unwrap_or_else(|| self.now());
            jobs.held.insert(*job, Held::new(since, why));
            if noted.is_none() {
                // On a disk that is really full it cannot be noted: it waits all the same.
                if let Err(error) = self.step(jobs, job, &Input::Held { since }).await {
                    tracing::error!(%job, %error, "that a job waits is not noted");
                }
            }
            return Ok(true);
        }
        let held = jobs.held.get(job).map(|held| held.since);
        if let (None, Some(since)) = (noted, held) {
            self.step(jobs, job, &Input::Held { since }).await?;
        }
        if let Some(since) = noted.or(held) {
            self.step(jobs, job, &Input::Resumed).await?;
            jobs.held.remove(job);
            let seconds = self.now().since(since).as_secs();
            tracing::info!(%job, seconds, "there is room again: a job goes on");
        }
        Ok(false)
    }

    /// Looks at the disk, and says so when that changes whether anything is taken.
    pub(super) fn look_at_disk(&self) {
        let least = match self.paused() {
            None => LEAST,
            Some(_) => ENOUGH,
        };
        let why = match self.bulk.room() {
            Ok(Some(room)) if room >= least => None,
            Ok(_) => Some(format!(
                "the disk is full: {} of it are kept free for database and log (keep_free_mib), and going on takes {} more",
                bytes(self.bulk.keeps_free()),
                bytes(ENOUGH)
            )),
            Err(error) => Some(error.to_string()),
        };
        let changed = |paused: &mut Option<String>| {
            let changed = paused.is_some() != why.is_some();
            paused.clone_from(&why);
            changed
        };
        if self.paused.send_if_modified(changed) {
            match &why {
                Some(why) => tracing::error!(why, "paused"),
                None => tracing::info!("there is room again: going on"),
            }
        }
    }

    /// Why a job's next round is not begun. What other jobs have begun gets its room first.
    async fn too_much(&self, jobs: &Jobs, machine: &Machine) -> Result<Option<String>> {
        let needs = machine.next_round_bytes();
        let Some(room) = self.bulk.room()?.filter(|_| needs > 0) else {
            return Ok(None);
        };
        let owed = jobs.running.values().map(Machine::owed_bytes);
        let owed = owed.fold(0, u64::saturating_add);
        // What is here of the last attempt goes when the next begins.
        let here = match machine.current() {
            Some(attempt) => self.bulk.bytes(&attempt.context).await?,
            None => 0,
        };
        let free = room.saturating_add(here).saturating_sub(owed);
        Ok((needs > free).then(|| {
            format!(
                "the next round takes up to {} of disk, and {} are free for it",
                bytes(needs),
                bytes(free)
            )
        }))
    }
}

/// In words, so that somebody who makes room knows how much.
fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    UNITS
        .iter()
        .find(|(_, unit)| count >= *unit)
        .map_or(format!("{count} B"), |(name, unit)| {
            format!("{}.{} {name}", count / unit, count % unit * 10 / unit)
        })
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn bytes_are_told_in_the_largest_unit_that_they_fill() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_536), "1.5 KiB");
        assert_eq!(bytes(256 << 20), "256.0 MiB");
        assert_eq!(bytes((5 << 30) - 1), "4.9 GiB");
    }
}
