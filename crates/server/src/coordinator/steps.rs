//! One step of one job: the machine takes an input, its effects become durable, and then they are announced.

use std::sync::Arc;

use ciphertune_round::{Context, Digest, Envelope, Fingerprint, Job, Signed};
use ciphertune_wire::Refusal;
use prost::Message as _;

use super::{Coordinator, Jobs};
use crate::{
    diary::Diary,
    error::{Error, Refused, Result, fault},
    moment::Moment,
    phase::{Announcement, Effect, Input, Machine, Object, Phase, Present, Waits},
    storage::{Batch, Entry, Item, LogEntry},
};

/// Jobs that run side by side.
const JOBS: usize = 64;

/// Of these, as many as one party may have submitted: it has to finish or abort one before the next, and keeps nobody else out.
const JOBS_OF_ONE: usize = 16;

impl Coordinator {
    /// Takes a researcher's job and returns its digest; the same one as often as it is sent.
    pub async fn submit(self: &Arc<Self>, job: Signed<Job>) -> Result<Digest> {
        let this = Arc::clone(self);
        to_its_end(async move { this.take_job(job).await }).await
    }

    async fn take_job(&self, job: Signed<Job>) -> Result<Digest> {
        let digest = job.digest();
        self.expect_room()?;
        let mut jobs = self.jobs.lock().await;
        if self.database.knows_job(&digest).await? {
            return Ok(digest);
        }
        let of_one = |machine: &&Machine| machine.job().signer() == job.signer();
        if jobs.running.values().filter(of_one).count() >= JOBS_OF_ONE {
            let said = format!("{JOBS_OF_ONE} jobs of one party are running");
            return Err(Refused::new(Refusal::Exhausted, said).into());
        }
        if jobs.running.len() >= JOBS {
            return Err(
                Refused::new(Refusal::Exhausted, format!("{JOBS} jobs are running")).into(),
            );
        }
        let now = self.now();
        let researcher = job.signer();
        let submitted = Machine::submit(Arc::clone(&self.federation), job, now);
        let (machine, effects) = match submitted {
            Ok(submitted) => submitted,
            Err(refused) => {
                self.note_refused(&mut jobs, "job", &digest, Some(researcher), &refused)
                    .await;
                return Err(refused.into());
            }
        };
        self.apply(&machine, None, effects, now).await?;
        jobs.running.insert(digest, machine);
        Ok(digest)
    }

    /// Takes an input to a job.
    pub async fn feed(self: &Arc<Self>, job: &Digest, input: Input) -> Result<()> {
        // A job that is stopped gives room.
        if !matches!(input, Input::Abort(_)) {
            self.expect_room()?;
        }
        let (this, job) = (Arc::clone(self), *job);
        to_its_end(async move {
            let mut jobs = this.jobs.lock().await;
            let stepped = this.step(&mut jobs, &job, &input).await;
            if let Err(Error::Refused(refused)) = &stepped {
                let (what, signer) = (input.name(), input.signer());
                this.note_refused(&mut jobs, what, &job, signer, refused)
                    .await;
            }
            stepped?;
            // The input is taken: what fails from here on is tried again within a second.
            if let Err(error) = this.poll(&mut jobs, &job).await {
                tracing::error!(%job, %error, "a job cannot go on");
            }
            Ok(())
        })
        .await
    }

    /// [`Self::feed`] to the job that a context belongs to.
    pub async fn feed_context(self: &Arc<Self>, context: &Context, input: Input) -> Result<()> {
        let job = self.job_of(context).await?;
        self.feed(&job, input).await
    }

    /// Adds to a member's stock of one-time keys.
    pub async fn add_keys(&self, member: &Fingerprint, keys: &[Envelope]) -> Result<u32> {
        if !keys.is_empty() {
            self.expect_room()?;
        }
        // Under the lock: no plan is made in between.
        let jobs = self.jobs.lock().await;
        let stock = self.database.add_keys(member, keys).await?;
        drop(jobs);
        self.poke.notify_one();
        stock.ok_or_else(|| {
            Refused::new(Refusal::Exhausted, "the stock of one-time keys is full").into()
        })
    }

    pub(super) async fn step(
        self: &Arc<Self>,
        jobs: &mut Jobs,
        job: &Digest,
        input: &Input,
    ) -> Result<()> {
        if *self.closing.borrow() {
            return Err(Refused::new(Refusal::Closing, "shutting down").into());
        }
        let now = self.now();
        let Some(machine) = jobs.running.get(job) else {
            let code = if self.database.knows_job(job).await? {
                Refusal::Late
            } else {
                Refusal::Unknown
            };
            return Err(Refused::new(code, "no such job runs").into());
        };
        let mut next = machine.clone();
        let effects = next.handle(input, now)?;
        if effects.is_empty() {
            return Ok(());
        }
        let sums: Vec<_> = effects
            .iter()
            .filter(|effect| matches!(effect, Effect::StartSum { .. }))
            .cloned()
            .collect();
        self.apply(&next, Some(input), effects, now).await?;
        if matches!(next.phase(), Phase::Ended { .. }) {
            jobs.running.remove(job);
            jobs.held.remove(job);
        } else {
            for sum in sums {
                self.start_sum(*job, &next, sum);
            }
            jobs.running.insert(*job, next);
        }
        self.poke.notify_one();
        Ok(())
    }

    /// Lets a job go on by itself as far as it can with who is present.
    pub(super) async fn poll(self: &Arc<Self>, jobs: &mut Jobs, job: &Digest) -> Result<()> {
        loop {
            let members = self.present();
            let waits = jobs.running.get(job);
            let waits = waits.map_or(Waits::ForNobody, |it| it.waits_for(&members, self.now()));
            if waits == Waits::ForNobody || jobs.held.contains_key(job) {
                return Ok(());
            }
            if waits == Waits::ForKeys && self.waits_for_room(jobs, job).await? {
                return Ok(());
            }
            let before = jobs.running.get(job).map(|machine| machine.phase().clone());
            let mut present = Vec::new();
            for member in members {
                let one_time_key = match waits {
                    Waits::ForKeys => self.database.next_key(&member).await?,
                    _ => None,
                };
                present.push(Present {
                    member,
                    one_time_key,
                });
            }
            let mut nonce = [0; 32];
            getrandom::fill(&mut nonce).map_err(|error| fault("drawing a nonce", error))?;
            let list = self.gate.list();
            let poll = Input::Poll {
                present,
                nonce,
                list,
            };
            self.step(jobs, job, &poll).await?;
            if jobs.running.get(job).map(|machine| machine.phase().clone()) == before {
                return Ok(());
            }
        }
    }

    /// Carries out effects: one transaction, then the rest.
    pub(super) async fn apply(
        &self,
        machine: &Machine,
        input: Option<&Input>,
        effects: Vec<Effect>,
        now: Moment,
    ) -> Result<()> {
        let mut batch = Batch::default();
        let mut old = Vec::new();
        let mut announced = Vec::new();
        for effect in effects {
            match effect {
                Effect::Persist => match input {
                    Some(input) => batch.entry = Some(Entry::of(input)),
                    None => batch.new_job = Some(machine.job().encode()),
                },
                Effect::OpenContext { context, keys } => batch.opened = Some((context, keys)),
                Effect::Emit(Announcement::Said(kind, envelope)) => {
                    batch.events.push((kind.into(), envelope.encode()))
                }
                Effect::Emit(Announcement::Own(kind, label, payload)) => {
                    announced = self.sign(label, payload);
                    batch.events.push((kind.into(), announced.clone()));
                }
                Effect::DiscardBody { context, seat } => old.push((context, Some(seat))),
                Effect::DeleteContext(context) => old.push((context, None)),
                Effect::StartSum { .. } => {}
                Effect::Note { kind, fields, on } => {
                    let object = match on {
                        Some(Object::Said(envelope)) => Some(envelope.encode()),
                        Some(Object::Announced) => Some(announced.clone()),
                        None => None,
                    };
                    tracing::info!(job = %machine.digest(), "{kind}");
                    let fields = Diary::naming(fields, object.as_deref().as_slice());
                    batch.entries.push(LogEntry {
                        kind: kind.into(),
                        fields: serde_json::Value::Object(fields).to_string(),
                        object,
                    });
                }
            }
        }
        if matches!(machine.phase(), Phase::Ended { .. }) {
            let present = self.present();
            batch.ended = Some(machine.status(&present, now).encode_to_vec());
        }
        let events = batch.events.clone();
        let last = self.database.commit(&machine.digest(), now, batch).await?;
        // From here on the step is a fact: what fails below is reported and mended later.
        for (context, seat) in old {
            let Some(seat) = seat else {
                // Much of it may be: not while every other step waits.
                self.over.lock().await.push(context);
                continue;
            };
            if let Err(error) = self.bulk.remove(&context, Item::Body(seat)).await {
                tracing::error!(%context, %error, "an old body stays until its context is over");
            }
        }
        self.events.keep(last, events);
        self.committed.send_replace(last);
        Ok(())
    }
}

/// Carries a step to its end even when the call that brought it is dropped, as a broken connection does: between the
/// commit and the machine's own state nothing may stop, or the journal knows what the machine does not.
pub(super) async fn to_its_end<T: Send + 'static>(
    step: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(step)
        .await
        .unwrap_or_else(|error| Err(fault("a step", error)))
}
