//! Looking, without changing anything.

use ciphertune_identity::Peer;
use ciphertune_round::{Context, Digest, Fingerprint};
use ciphertune_wire::{Refusal, proto};
use prost::Message as _;

use super::Coordinator;
use crate::{
    error::{Refused, Result, fault},
    events::Told,
    phase::Machine,
};

/// Bytes of jobs that have ended, in one answer: a message holds them beside those that run.
const STATES: usize = 2 << 20;

impl Coordinator {
    /// The members with an open event stream whose certificates let them call.
    pub fn present(&self) -> Vec<Fingerprint> {
        let now = self.now().to_system();
        let admits = |peer: &Peer| self.gate.admit(peer, now).is_ok();
        self.presence.present(&self.federation.members(), admits)
    }

    /// What `look` finds in the job that a context belongs to.
    pub async fn with_context<T>(
        &self,
        context: &Context,
        look: impl FnOnce(&Machine) -> Result<T, Refused>,
    ) -> Result<T> {
        let job = self.job_of(context).await?;
        let jobs = self.jobs.lock().await;
        let machine = jobs
            .running
            .get(&job)
            .ok_or_else(|| Refused::new(Refusal::Late, "the job has ended"))?;
        Ok(look(machine)?)
    }

    pub(super) async fn job_of(&self, context: &Context) -> Result<Digest> {
        let jobs = self.jobs.lock().await;
        let found = jobs.running.iter().find(|(_, machine)| {
            machine
                .current()
                .is_some_and(|attempt| attempt.context == *context)
        });
        if let Some((job, _)) = found {
            return Ok(*job);
        }
        let code = if self.database.knows_context(context).await? {
            Refusal::Late
        } else {
            Refusal::Unknown
        };
        Err(Refused::new(code, "no such context is open").into())
    }

    /// Some events after a number, in order.
    pub async fn events_after(&self, number: u64) -> Result<Vec<Told>> {
        let announced = *self.announced.borrow();
        if number >= announced {
            return Ok(Vec::new());
        }
        let mut events = match self.events.after(number) {
            Some(events) => events,
            None => {
                let stored = self.database.events(number).await?;
                stored.iter().map(Told::from).collect()
            }
        };
        // What the log is not told yet, nobody is.
        events.retain(|event| event.sequence <= announced);
        Ok(events)
    }

    /// The jobs that run, as they stand, each with why it waits if it waits for room.
    pub async fn running(&self) -> Vec<(Machine, Option<String>)> {
        let jobs = self.jobs.lock().await;
        let held = |job| jobs.held.get(job).map(|held| held.why().to_owned());
        let running = jobs.running.iter();
        running
            .map(|(job, machine)| (machine.clone(), held(job)))
            .collect()
    }

    /// Returns between two steps.
    pub async fn idle(&self) {
        drop(self.jobs.lock().await);
    }

    /// The states of all jobs, or of one.
    pub async fn status(&self, job: Option<&Digest>) -> Result<Vec<proto::JobState>> {
        let present = self.present();
        let mut states: Vec<proto::JobState> = {
            let jobs = self.jobs.lock().await;
            jobs.running
                .values()
                .filter(|machine| job.is_none_or(|job| machine.digest() == *job))
                .map(|machine| {
                    let held = jobs.held.get(&machine.digest());
                    proto::JobState {
                        paused: held.map(|held| held.why().to_owned()).unwrap_or_default(),
                        ..machine.status(&present, self.now())
                    }
                })
                .collect()
        };
        let mut room = STATES;
        for bytes in self.database.ended(job).await? {
            let Some(left) = room.checked_sub(bytes.len()) else {
                break; // the oldest of them
            };
            room = left;
            let state = proto::JobState::decode(bytes.as_slice())
                .map_err(|error| fault("reading a job's state", error))?;
            states.push(state);
        }
        if states.is_empty() && job.is_some() {
            return Err(Refused::new(Refusal::Unknown, "no such job").into());
        }
        Ok(states)
    }
}
