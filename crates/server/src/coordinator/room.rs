//! A full disk pauses: nothing more is taken, nobody's deadline passes, and once there is room everything goes on.

use std::sync::Arc;

use ciphertune_round::Digest;
use ciphertune_wire::Refusal;

use super::{Coordinator, Jobs};
use crate::{
    error::{Refused, Result},
    moment::Moment,
    phase::{Input, Machine},
};

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

    /// Looks at the disk, and at what the job would need for its next round: whether it waits.
    pub(super) async fn waits_for_room(
        self: &Arc<Self>,
        jobs: &mut Jobs,
        job: &Digest,
    ) -> Result<bool> {
        let Some(machine) = jobs.running.get(job) else {
            jobs.held.remove(job);
            return Ok(false);
        };
        let why = self.paused().or_else(|| self.too_much(machine));
        match (why, jobs.held.get_mut(job)) {
            (Some(why), Some(held)) => held.why = why,
            (Some(why), None) => {
                tracing::error!(%job, why, "a job waits for disk");
                jobs.held.insert(*job, Held::new(self.now(), why));
            }
            (None, Some(held)) => {
                let waited = self.now().since(held.since);
                self.step(jobs, job, &Input::Resumed { waited }).await?;
                jobs.held.remove(job);
                tracing::info!(%job, seconds = waited.as_secs(), "there is room again: a job goes on");
            }
            (None, None) => {}
        }
        Ok(jobs.held.contains_key(job))
    }

    /// Looks at the disk, and says so when that changes whether anything is taken.
    pub(super) fn look_at_disk(&self) {
        let why = match self.bulk.room() {
            Ok(Some(_)) => None,
            Ok(None) => Some(format!(
                "the disk is full: less than the {} that are kept free for database and log (keep_free) are left",
                bytes(self.bulk.keeps_free())
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

    fn too_much(&self, machine: &Machine) -> Option<String> {
        let needs = machine.next_round_bytes();
        match self.bulk.room() {
            Ok(Some(room)) if needs > room => Some(format!(
                "the next round takes up to {} of disk, and {} are free",
                bytes(needs),
                bytes(room)
            )),
            _ => None,
        }
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
