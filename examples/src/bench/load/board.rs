//! The server's events, read once for all members of this process: with a thousand members each of two thousand events comes a
//! thousand times, and what is measured is the server.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use ciphertune_identity::Manifest;
use ciphertune_round::{Context, Digest, Ended, Envelope, Object, Plan, Roster, Signed, Void};
use ciphertune_wire::proto::{Event, EventKind};

use super::scene::Scene;
use crate::{Error, Result};

/// What an event says to a light member, and of which job.
pub struct Said {
    /// The job.
    pub job: Digest,
    /// What.
    pub what: What,
}

/// What an event says.
pub enum What {
    /// There is a job.
    Job,
    /// A round begins.
    Plan(Arc<Plan>, Context),
    /// Its bodies are added.
    Roster {
        /// Its digest.
        digest: Digest,
        /// That of the sum.
        sum: Digest,
        /// How many contributed.
        contributors: usize,
    },
    /// Somebody echoed.
    Echo,
    /// Somebody released; whether with shares.
    Release(bool),
    /// It is over, in words if not well.
    Over(Result<(), String>),
    /// What no light member waits for.
    Other,
}

/// All events so far, by number.
#[derive(Default)]
pub struct Board(Mutex<Read>);

#[derive(Default)]
struct Read {
    events: HashMap<u64, Arc<Said>>,
    jobs: HashMap<Context, Digest>,
}

impl Board {
    /// What an event says. The first member that hears of it reads it and holds it to its signature, where it is the server's.
    pub fn read(&self, scene: &Scene, event: &Event) -> Result<Arc<Said>> {
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(said) = read.events.get(&event.sequence) {
            return Ok(Arc::clone(said));
        }
        let said = Arc::new(read.take(scene, event)?);
        read.events.insert(event.sequence, Arc::clone(&said));
        Ok(said)
    }
}

impl Read {
    fn take(&mut self, scene: &Scene, event: &Event) -> Result<Said> {
        let envelope =
            Envelope::decode(&event.envelope).map_err(|error| Error::fault("an event", error))?;
        let (job, what) = match event.kind() {
            EventKind::Job => {
                let job: Signed<ciphertune_round::Job> = signed(scene, envelope)?;
                (job.digest(), What::Job)
            }
            EventKind::Plan => {
                let plan: Signed<Plan> = signed(scene, envelope)?;
                let (job, context) = (plan.job, plan.context());
                self.jobs.insert(context, job);
                (job, What::Plan(Arc::new(plan.value().clone()), context))
            }
            EventKind::Roster => {
                let roster: Signed<Roster> = signed(scene, envelope)?;
                let what = What::Roster {
                    digest: roster.digest(),
                    sum: roster.sum,
                    contributors: roster.headers.len(),
                };
                (self.job(&roster.context)?, what)
            }
            EventKind::Echo => {
                let echo = parsed::<ciphertune_round::Echo>(&envelope)?;
                (self.job(&echo.context)?, What::Echo)
            }
            EventKind::Release => {
                let release = parsed::<ciphertune_round::Release>(&envelope)?;
                let shares = !release.shares.is_empty();
                (self.job(&release.context)?, What::Release(shares))
            }
            EventKind::Void => {
                let void: Signed<Void> = signed(scene, envelope)?;
                let reason = void.reason.clone();
                (self.job(&void.context)?, What::Over(Err(reason)))
            }
            EventKind::Ended => {
                let ended: Signed<Ended> = signed(scene, envelope)?;
                let well = if ended.completed {
                    Ok(())
                } else {
                    Err(ended.reason.clone())
                };
                (ended.job, What::Over(well))
            }
            _ => (Digest::sha256(b"nobody's"), What::Other),
        };
        Ok(Said { job, what })
    }

    fn job(&self, context: &Context) -> Result<Digest> {
        let job = self.jobs.get(context).copied();
        job.ok_or_else(|| Error::Fault("an event of an attempt without a plan".into()))
    }
}

fn signed<T: Object>(scene: &Scene, envelope: Envelope) -> Result<Signed<T>> {
    let keyring: &Manifest = &scene.manifest;
    Signed::verify(envelope, keyring).map_err(|error| Error::fault("an event", error))
}

fn parsed<T: Object>(envelope: &Envelope) -> Result<T> {
    T::parse(envelope.payload()).map_err(|error| Error::fault("an event", error))
}
