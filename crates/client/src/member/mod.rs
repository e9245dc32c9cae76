//! A member's run: answer jobs, then follow each round through its phases, one file a phase.
//!
//! consider (a job) → catch up (if a round was missed) → vet (a plan) → contribute → open (which listens, settles, and releases)
//! → agree; and hand over the model to a fellow that missed it.

mod agree;
mod catch_up;
mod consider;
mod contribute;
mod diary;
mod hand_over;
mod heard;
mod open;
mod release;
mod revocations;
mod settle;
mod vet;

use std::{
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use ciphertune_audit::{Evidence, Log};
use ciphertune_identity::Role;
use ciphertune_ledger::Ledger;
use ciphertune_round::{Context, Digest, Ended, Job, OneTimeKeyOffer, Plan, Signed, Void};
use ciphertune_wire::{
    Client, Meter,
    proto::{Event, EventKind},
};
use tokio::time::Instant;

use crate::{
    backoff::Backoff,
    budget::LEDGER_HEAD,
    desk::Desk,
    error::{Error, Result},
    inbox::{Backlog, Inbox, kind},
    learner::Learner,
    mechanism::Reckoned,
    model::Model,
    report::{Happening, RoundReport},
    site::Site,
    stock::Stock,
};
use consider::Considered;
use vet::Vetted;

/// How often a run says what ends soon.
const WARN_EVERY: Duration = Duration::from_secs(86_400);

/// How often a run says at most that it waits for its server.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// How long an attempt waits to give the server the next one-time keys: there is time for that later.
const REFILL: Duration = Duration::from_secs(20);

/// Who hears what happens.
pub type Observer = Box<dyn FnMut(&Happening) + Send>;

/// How a member runs.
#[derive(Clone, Debug)]
pub struct Options {
    /// The dataset's name: what its budget is kept under.
    pub dataset: String,
    /// Return when the first job that this member was admitted to has ended.
    pub one_job: bool,
    /// Threads that seal, check and open: [`all_cores`] unless an operator says otherwise. Training has threads of its
    /// own (RAYON_NUM_THREADS).
    pub threads: NonZeroUsize,
    /// Rounds from one measurement on the member's validation data to the next: where a round is one step, measuring
    /// takes longer than the step. The last round's model is measured in any case.
    pub measure_every: NonZeroU32,
    /// DANGEROUS: writes the noised integers before they are sealed, and the opened sum, to this folder, so that a
    /// demonstration or a test can hold the one to the other. Never in production: it undoes the sealing.
    pub dangerous_plaintext: Option<PathBuf>,
}

/// As many threads as this process may run at once; one where the system does not say.
pub fn all_cores() -> NonZeroUsize {
    std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN)
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// Whether every round of the job ended with a model.
    pub completed: bool,
    /// Rounds that this member finished.
    pub rounds: u32,
    /// The server's words, or this member's.
    pub reason: String,
}

/// Runs a member until its one job has ended, or for ever; `shutdown` ends it cleanly at any time.
///
/// # Errors
/// [`Error::Stopped`] on shutdown; [`Error::TurnedAway`] and [`Error::Server`] when the server has nothing more to say to
/// this member;
/// [`Error::Fault`] when this machine failed. Refusals of single jobs and plans are told to the observer instead.
pub async fn run(
    site: Site,
    learner: Box<dyn Learner>,
    options: Options,
    observer: Observer,
    shutdown: impl Future<Output = ()>,
) -> Result<Outcome> {
    let stop = Arc::new(AtomicBool::new(false));
    let running = async {
        Member::start(site, learner, options, observer, Arc::clone(&stop))
            .await?
            .serve()
            .await
    };
    let outcome = tokio::select! {
        outcome = running => outcome,
        () = shutdown => Err(Error::Stopped),
    };
    stop.store(true, Ordering::Relaxed); // training runs on a thread that no dropped future ends
    outcome
}

struct Member {
    site: Site,
    client: Client,
    meter: Meter,
    inbox: Inbox,
    stock: Stock,
    log: Log,
    learner: Option<Box<dyn Learner>>,
    options: Options,
    observer: Observer,
    stop: Arc<AtomicBool>,
    /// The job that it takes part in.
    job: Option<Digest>,
    /// The attempt that was vetted last, for fellows that ask for its model.
    cohort: Option<hand_over::Cohort>,
    answers: hand_over::Answers,
    /// When it is next said what ends soon.
    warns_at: Instant,
}

/// A job that this member takes part in.
struct Engagement {
    job: Signed<Job>,
    desk: Desk,
    ledger: Ledger,
    model: Model,
    reckoned: Reckoned,
    /// Number of the job's event: what belongs to it comes after.
    since: u64,
    /// The meter's readings at the end of the last round.
    bytes: (u64, u64),
}

impl Member {
    async fn start(
        site: Site,
        learner: Box<dyn Learner>,
        options: Options,
        mut observer: Observer,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let disk = site.disk().clone();
        let audit = site.home().audit();
        let log = disk.appends(&audit, || Log::open(&audit))?;
        disk.folder(Evidence::beside(&audit).folder())?;
        let meter = Meter::default();
        let stock = Stock::open(site.home().root().join("one-time-keys"), disk)?;
        let mut told: Option<Instant> = None;
        let mut waits = |reason, pause: Duration| {
            if told.is_none_or(|told| told.elapsed() >= TELL_EVERY) {
                told = Some(Instant::now());
                observer(&Happening::Waiting {
                    reason,
                    seconds: pause.as_secs_f64(),
                });
            }
        };
        let client = site.connect_when_up(meter.clone(), &mut waits).await?;
        let mut backoff = Backoff::default();
        loop {
            match stock.offer_all(&client, site.key()).await {
                Err(error @ Error::Server(_)) => {
                    let pause = backoff.pause();
                    waits(error.to_string(), pause);
                    tokio::time::sleep(pause).await;
                }
                offered => break offered?,
            }
        }
        observer(&Happening::Connected {
            server: site.manifest().endpoint().to_string(),
        });
        let mut member = Self {
            inbox: Inbox::open(&client),
            site,
            client,
            meter,
            stock,
            log,
            learner: Some(learner),
            options,
            observer,
            stop,
            job: None,
            cohort: None,
            answers: hand_over::Answers::default(),
            warns_at: Instant::now(),
        };
        member.note_start()?;
        Ok(member)
    }

    async fn serve(mut self) -> Result<Outcome> {
        let mut engagement: Option<Engagement> = None;
        // Jobs that came while another one ran, oldest first.
        let mut waiting = Backlog::default();
        loop {
            if engagement.is_none()
                && let Some(job) = waiting.pop()
            {
                match self.consider(&job).await? {
                    Considered::Joined(engaged) => engagement = Some(*engaged),
                    Considered::Ended(outcome) if self.options.one_job => return Ok(outcome),
                    Considered::Ended(_) | Considered::Passed => {}
                }
                continue;
            }
            let event = tokio::select! {
                event = self.inbox.next() => event?,
                () = tokio::time::sleep_until(self.warns_at) => {
                    self.warn_of_ends();
                    continue;
                }
            };
            match (kind(&event), &mut engagement) {
                (EventKind::Job, _) => {
                    if let Err(error) = waiting.push(event) {
                        self.complain("job", &error)?;
                    }
                }
                (EventKind::Plan, Some(engaged)) => self.follow(engaged, &event.envelope).await?,
                (EventKind::ParcelCall, _) => self.hand_over(&event.envelope)?,
                (EventKind::Ended, Some(engaged)) => {
                    if let Some(outcome) = self.ended(engaged, &event.envelope).await? {
                        if self.options.one_job {
                            return Ok(outcome);
                        }
                        engagement = None;
                        self.job = None;
                    }
                }
                _ => {}
            }
        }
    }

    /// Says, once a day, which certificate or list has ended, or ends soon.
    fn warn_of_ends(&mut self) {
        self.warns_at = Instant::now() + WARN_EVERY;
        // What cannot be read is said when it is needed.
        let _ = self.refresh();
        for said in self.site.credentials().warnings(SystemTime::now()) {
            self.tell(Happening::Warning { said });
        }
    }

    /// Takes one plan as far as it goes. A refusal or a void attempt is noted and told; it does not end the run.
    async fn follow(&mut self, engaged: &mut Engagement, envelope: &[u8]) -> Result<()> {
        let plan = match self.site.verify_as::<Plan>(envelope, Role::Server) {
            Ok(plan) if plan.job == engaged.job.digest() => plan,
            Ok(_) => return Ok(()),
            Err(error) => return self.complain("plan", &error),
        };
        if plan.seat_of(&self.site.fingerprint()).is_none() {
            return Ok(()); // for others
        }
        let context = plan.context();
        let finished = plan.round <= engaged.model.round;
        if finished || engaged.desk.attempt(context)?.is_over() {
            // Nothing is ever sent for it again. An earlier life may have ended before it had cleared up.
            return self.leave(&engaged.desk, context);
        }
        match self.attempt(engaged, plan).await {
            Ok(report) => {
                self.leave(&engaged.desk, context)?;
                self.tell(Happening::Finished(Box::new(report)));
                Ok(())
            }
            Err(error) if !ends_attempt(&error) => Err(error),
            Err(error) => {
                self.note("attempt-left", [("context", context.to_string().into())])?;
                self.leave(&engaged.desk, context)?;
                self.complain("attempt", &error)?;
                self.note_checkpoint()
            }
        }
    }

    async fn attempt(
        &mut self,
        engaged: &mut Engagement,
        plan: Signed<Plan>,
    ) -> Result<RoundReport> {
        let own = self.own_offer(&plan);
        let context = plan.context();
        let vetted = match self.caught_up(engaged, plan).await {
            // Others may have sealed to the key that the plan names: it opens nothing from now on.
            Err(error) if ends_attempt(&error) => {
                if let Some(offer) = own
                    && let Err(fault @ Error::Fault(_)) = self.stock.bind(&offer, context)
                {
                    return Err(fault);
                }
                self.leave(&engaged.desk, context)?;
                return Err(error);
            }
            vetted => vetted?,
        };
        self.cohort = Some(hand_over::Cohort::new(&vetted, engaged.desk.model()));
        // The server used one of this member's keys for this plan; replace it.
        let refill = self.stock.refill(&self.client, self.site.key());
        match tokio::time::timeout(REFILL, refill).await {
            Ok(Err(error @ Error::Fault(_))) => return Err(error),
            Ok(Err(error)) => self.complain("one-time key", &error)?,
            Ok(Ok(())) | Err(_) => {}
        }
        // Opened in an earlier life: what the others say of it is all that is missing.
        if let Some(opening) = vetted.attempt.opening()? {
            return self.conclude(engaged, &vetted, opening).await;
        }
        let contributed = self.contribute(engaged, &vetted).await?;
        let opened = self.open(engaged, &vetted, contributed).await?;
        self.agree(engaged, &vetted, opened).await
    }

    /// Leaves an attempt for good: the keys that open what was sealed in it are erased, its bulk removed.
    fn leave(&self, desk: &Desk, context: Context) -> Result<()> {
        self.stock.erase_bound_to(context)?;
        desk.attempt(context)?.clear()
    }

    /// Gets the model that the plan starts from, if this member missed it, and vets the plan.
    async fn caught_up(&mut self, engaged: &mut Engagement, plan: Signed<Plan>) -> Result<Vetted> {
        self.check_revocations(engaged, &plan).await?;
        if plan.round > engaged.model.round + 1 {
            self.catch_up(engaged, &plan).await?;
        }
        self.vet(engaged, plan)
    }

    /// This member's own one-time key in a plan.
    fn own_offer(&self, plan: &Plan) -> Option<OneTimeKeyOffer> {
        let own = self.site.fingerprint();
        let seat = plan.seats.iter().find(|seat| seat.member == own)?;
        let keyring = self.site.manifest().value();
        Signed::<OneTimeKeyOffer>::verify(seat.one_time_key.clone(), keyring)
            .ok()
            .filter(|offer| offer.signer() == own && offer.member == own)
            .map(|offer| offer.value().clone())
    }

    async fn ended(&mut self, engaged: &Engagement, envelope: &[u8]) -> Result<Option<Outcome>> {
        let ended = match self.site.verify_as::<Ended>(envelope, Role::Server) {
            Ok(ended) if ended.job == engaged.job.digest() => ended,
            Ok(_) => return Ok(None),
            Err(error) => {
                self.complain("end of a job", &error)?;
                return Ok(None);
            }
        };
        self.end_on(&engaged.ledger, ended.job).await?;
        let outcome = outcome(
            &engaged.job,
            engaged.model.round,
            ended.completed,
            &ended.reason,
        );
        let said = ended.encode();
        self.conclude_job(
            &engaged.desk,
            ended.job,
            ended.completed,
            &outcome,
            &[&said],
        )?;
        Ok(Some(outcome))
    }

    /// What a job reserved and never charged is free again.
    async fn end_on(&mut self, ledger: &Ledger, job: Digest) -> Result<()> {
        let ended = ledger.end(*job.as_bytes(), SystemTime::now());
        let path = self.site.home().ledger();
        self.site.disk().commits(&path, ended).await
    }

    /// Notes and tells that a job ended. `completed` is the server's word, in the signed object where that was heard; the outcome
    /// is this member's.
    fn conclude_job(
        &mut self,
        desk: &Desk,
        job: Digest,
        completed: bool,
        outcome: &Outcome,
        said: &[&[u8]],
    ) -> Result<()> {
        self.note_on(
            "ended",
            [
                ("job", job.to_string().into()),
                ("completed", completed.into()),
                ("rounds", outcome.rounds.into()),
            ],
            said,
        )?;
        self.note_checkpoint()?;
        desk.note_ended()?;
        self.tell(Happening::Ended {
            completed,
            rounds: outcome.rounds,
            reason: outcome.reason.clone(),
        });
        Ok(())
    }

    /// The next roster, echo, release or agreement. An event that ends this attempt is an error; it, and what is for
    /// other jobs, is kept for [`Member::serve`].
    async fn next_of(
        &mut self,
        engaged: &Engagement,
        context: Context,
        kept: &mut Backlog,
    ) -> Result<(EventKind, Vec<u8>)> {
        loop {
            let event = self.inbox.next().await?;
            let over = self.ends(engaged, context, &event);
            match kind(&event) {
                EventKind::Roster | EventKind::Echo | EventKind::Release | EventKind::Agreement => {
                    return Ok((kind(&event), event.envelope));
                }
                EventKind::Job | EventKind::Plan | EventKind::Ended => kept.push(event)?,
                EventKind::ParcelCall => self.hand_over(&event.envelope)?,
                EventKind::Void | EventKind::Parcel | EventKind::Unspecified => {}
            }
            if let Some(reason) = over {
                return Err(Error::Void(reason));
            }
        }
    }

    /// Does what an attempt is waited for while events are listened to: when the server goes on without it, it ends, whatever it
    /// waits for itself.
    async fn while_open<T>(
        &mut self,
        engaged: &Engagement,
        context: Context,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let over = |this: &Self, event: &Event| this.ends(engaged, context, event);
        self.listening(work, over).await
    }

    /// The same for what may still end well when the others have gone on: a void attempt alone ends it.
    async fn unless_void<T>(
        &mut self,
        context: Context,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let over = |this: &Self, event: &Event| this.voids(context, event);
        self.listening(work, over).await
    }

    async fn listening<T>(
        &mut self,
        work: impl Future<Output = Result<T>>,
        over: impl Fn(&Self, &Event) -> Option<String>,
    ) -> Result<T> {
        let mut work = std::pin::pin!(work);
        let mut kept = Backlog::default();
        let done = loop {
            let event = tokio::select! {
                done = &mut work => break done,
                event = self.inbox.next(), if !kept.is_full() => event,
            };
            let heard = match event {
                Ok(event) if kind(&event) == EventKind::ParcelCall => {
                    self.hand_over(&event.envelope)
                }
                Ok(event) => {
                    let over = over(self, &event);
                    let pushed = kept.push(event);
                    pushed.and(over.map_or(Ok(()), |reason| Err(Error::Void(reason))))
                }
                Err(error) => Err(error),
            };
            if let Err(error) = heard {
                break Err(error);
            }
        };
        self.inbox.put_back(kept);
        done
    }

    fn voids(&self, context: Context, event: &Event) -> Option<String> {
        if kind(event) != EventKind::Void {
            return None;
        }
        let void = self.site.verify_as::<Void>(&event.envelope, Role::Server);
        let void = void.ok().filter(|void| void.context == context);
        void.map(|void| void.reason.clone())
    }

    /// Why an event ends the attempt in `context`: the server voided it, went on to another one of the same job, or
    /// ended the job. An event that does not verify ends nothing.
    fn ends(&self, engaged: &Engagement, context: Context, event: &Event) -> Option<String> {
        let job = engaged.job.digest();
        match kind(event) {
            EventKind::Void => self.voids(context, event),
            EventKind::Ended => self
                .site
                .verify_as::<Ended>(&event.envelope, Role::Server)
                .ok()
                .filter(|ended| ended.job == job)
                .map(|ended| format!("the job ended: {}", ended.reason)),
            EventKind::Plan => self
                .site
                .verify_as::<Plan>(&event.envelope, Role::Server)
                .ok()
                .filter(|plan| plan.job == job && plan.context() != context)
                .map(|_| "the server went on without this member".into()),
            _ => None,
        }
    }

    /// Runs `work` with the learner on a thread of its own.
    async fn with_learner<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut dyn Learner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut learner = self
            .learner
            .take()
            .ok_or_else(|| Error::Fault("the learner's thread failed before".into()))?;
        let (learner, result) = tokio::task::spawn_blocking(move || {
            let result = work(&mut *learner);
            (learner, result)
        })
        .await
        .map_err(|error| Error::fault("the learner's thread", error))?;
        self.learner = Some(learner);
        result
    }

    fn tell(&mut self, happening: Happening) {
        (self.observer)(&happening);
    }

    fn complain(&mut self, what: &str, error: &Error) -> Result<()> {
        let job = self.job.map(|job| job.to_string()).unwrap_or_default();
        self.note(
            "refused",
            [
                ("what", what.into()),
                ("job", job.into()),
                ("reason", error.to_string().into()),
            ],
        )?;
        self.tell(Happening::Voided {
            reason: error.to_string(),
        });
        Ok(())
    }
}

/// Whether an error ends the attempt that it came in; else a restart takes it up.
fn ends_attempt(error: &Error) -> bool {
    !matches!(
        error,
        Error::Fault(_) | Error::Stopped | Error::Server(_) | Error::TurnedAway(_)
    )
}

/// How a job ended that the server says is `completed` or not, for a member with the model after `rounds`.
fn outcome(job: &Job, rounds: u32, completed: bool, reason: &str) -> Outcome {
    let mut reason = reason.to_owned();
    if completed && rounds < job.rounds {
        reason.push_str(&format!(
            "\nthis member missed the end: its model is the one after round {rounds}"
        ));
    }
    Outcome {
        completed: completed && rounds == job.rounds,
        rounds,
        reason,
    }
}

/// Runs work that blocks (sealing, opening) off the runtime's threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| Error::fault("a worker thread", error))?
}
