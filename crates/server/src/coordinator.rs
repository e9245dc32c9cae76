//! Between the pure machines and the world: one step at a time, durable before it is announced.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ciphertune_identity::{Manifest, Peer, SigningKey};
use ciphertune_round::{
    Context, Digest, Ended, Envelope, Fingerprint, Job, Object as _, ShareIndex, Signed,
    label::Label,
};
use ciphertune_wire::{Refusal, proto};
use prost::Message as _;
use tokio::sync::{Mutex, Notify, watch};

use crate::{
    config::Clock,
    diary::Diary,
    error::{Error, Refused, Result, fault},
    events::{Events, Told},
    federation::Federation,
    gate::Gate,
    moment::Moment,
    phase::{Announcement, Effect, Input, Machine, Object, Phase, Present, Waits},
    presence::Presence,
    storage::{Batch, Database, Entry, Files, StoredJob},
};

/// Jobs that run side by side.
const JOBS: usize = 64;

/// Refusals that one run notes in the audit log.
const REFUSALS: usize = 1_000;

/// All jobs of a server.
pub struct Coordinator {
    federation: Arc<Federation>,
    gate: Arc<Gate>,
    key: Arc<SigningKey>,
    clock: Clock,
    database: Database,
    files: Files,
    log: PathBuf,
    /// Held over a whole step: steps come one after the other.
    jobs: Mutex<Jobs>,
    presence: Arc<Presence>,
    events: Events,
    announced: watch::Sender<u64>,
    poke: Arc<Notify>,
    closing: watch::Sender<bool>,
}

struct Jobs {
    running: HashMap<Digest, Machine>,
    diary: Diary,
    /// Refusals that this run has noted.
    refusals: usize,
}

impl Coordinator {
    /// Takes up what is stored under `data`.
    pub async fn open(
        federation: Federation,
        gate: Arc<Gate>,
        key: Arc<SigningKey>,
        clock: Clock,
        data: &Path,
    ) -> Result<Arc<Self>> {
        std::fs::create_dir_all(data).map_err(|error| fault("creating the data folder", error))?;
        let log = data.join("audit.jsonl");
        let diary = Diary::open(&log)?;
        let database = Database::open(&data.join("server.sqlite")).await?;
        let files = Files::open(data.join("contexts"))?;
        let poke = Arc::new(Notify::new());
        let coordinator = Self {
            announced: watch::channel(database.last_event().await?).0,
            jobs: Mutex::new(Jobs {
                running: HashMap::new(),
                diary,
                refusals: 0,
            }),
            presence: Presence::new(Arc::clone(&poke)),
            events: Events::default(),
            federation: Arc::new(federation),
            gate,
            key,
            clock,
            database,
            files,
            log,
            poke,
            closing: watch::channel(false).0,
        };
        coordinator.note_start().await?;
        coordinator.resume().await?;
        Ok(Arc::new(coordinator))
    }

    async fn resume(&self) -> Result<()> {
        let now = self.now();
        let mut jobs = self.jobs.lock().await;
        self.flush_notes(&mut jobs.diary).await?;
        let federation = self.federation.digest();
        let unchanged = self.database.federation(&federation, false).await? == federation;
        for stored in self.database.running().await? {
            if !unchanged {
                self.end_stored(&jobs.diary, &stored, now).await?;
                continue;
            }
            let mut machine = self.replay(&stored)?;
            let effects = machine.handle(&Input::Restarted, now)?;
            self.apply(
                &mut jobs.diary,
                &machine,
                Some(&Input::Restarted),
                effects,
                now,
            )
            .await?;
            tracing::info!(job = %stored.digest, "job taken up again");
            jobs.running.insert(stored.digest, machine);
        }
        if !unchanged {
            self.database.federation(&federation, true).await?;
        }
        self.flush_notes(&mut jobs.diary).await?;
        let current: Vec<Context> = jobs
            .running
            .values()
            .filter_map(|machine| machine.current().map(|attempt| attempt.context))
            .collect();
        self.files.sweep(&current)
    }

    fn replay(&self, stored: &StoredJob) -> Result<Machine> {
        let keyring: &Manifest = self.federation.manifest();
        let job = Signed::<Job>::decode(&stored.envelope, keyring)
            .map_err(|error| fault("reading a job", error))?;
        let (mut machine, _) = Machine::submit(Arc::clone(&self.federation), job, stored.at)?;
        for (at, entry) in &stored.entries {
            machine.handle(&entry.input(keyring)?, *at)?;
        }
        Ok(machine)
    }

    /// Ends a job that began under another manifest or policy: what its members signed was about those.
    async fn end_stored(&self, diary: &Diary, stored: &StoredJob, now: Moment) -> Result<()> {
        let reason = "the federation's manifest or policy changed; submit the job again";
        let ended = Ended {
            job: stored.digest,
            completed: false,
            rounds: 0,
            reason: reason.into(),
        };
        let status = proto::JobState {
            job: stored.digest.as_bytes().to_vec(),
            phase: "ended".into(),
            reason: reason.into(),
            ..Default::default()
        };
        let signed = self.sign(Ended::LABEL, ended.serialise());
        let fields = vec![
            ("job", stored.digest.to_string().into()),
            ("completed", false.into()),
            ("rounds", 0.into()),
            ("reason", reason.into()),
        ];
        let fields = diary.resting_on(fields, &[&signed])?;
        let fields = serde_json::Value::Object(fields).to_string();
        let batch = Batch {
            events: vec![(proto::EventKind::Ended.into(), signed)],
            notes: vec![("ended".into(), fields)],
            ended: Some(status.encode_to_vec()),
            ..Batch::default()
        };
        let last = self.database.commit(&stored.digest, now, batch).await?;
        self.announced.send_replace(last);
        Ok(())
    }

    /// Takes a researcher's job and returns its digest; the same one as often as it is sent.
    pub async fn submit(self: &Arc<Self>, job: Signed<Job>) -> Result<Digest> {
        let this = Arc::clone(self);
        to_its_end(async move { this.take_job(job).await }).await
    }

    async fn take_job(&self, job: Signed<Job>) -> Result<Digest> {
        let digest = job.digest();
        let mut jobs = self.jobs.lock().await;
        if self.database.knows_job(&digest).await? {
            return Ok(digest);
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
                self.note_refused(&mut jobs, "job", &digest, Some(researcher), &refused);
                return Err(refused.into());
            }
        };
        self.apply(&mut jobs.diary, &machine, None, effects, now)
            .await?;
        jobs.running.insert(digest, machine);
        Ok(digest)
    }

    /// Takes an input to a job.
    pub async fn feed(self: &Arc<Self>, job: &Digest, input: Input) -> Result<()> {
        let (this, job) = (Arc::clone(self), *job);
        to_its_end(async move {
            let mut jobs = this.jobs.lock().await;
            let stepped = this.step(&mut jobs, &job, &input).await;
            if let Err(Error::Refused(refused)) = &stepped {
                let (what, signer) = (input.name(), input.signer());
                this.note_refused(&mut jobs, what, &job, signer, refused);
            }
            stepped?;
            this.poll(&mut jobs, &job).await
        })
        .await
    }

    /// Takes what members have sent whose certificates are revoked out of every roster that is not signed yet, and ends the
    /// jobs of whom else is revoked.
    ///
    /// # Errors
    /// [`Error::Fault`], when all others were seen to: what failed is to be tried again.
    pub async fn enforce_revocations(self: &Arc<Self>) -> Result<()> {
        let this = Arc::clone(self);
        to_its_end(async move {
            let met = this.database.met().await?.into_iter();
            let revoked: Vec<_> = met
                .filter(|(_, serial)| this.gate.revokes(serial))
                .map(|(member, _)| member)
                .collect();
            let mut jobs = this.jobs.lock().await;
            let running: Vec<Digest> = jobs.running.keys().copied().collect();
            let mut failed = Ok(());
            for job in running {
                for &member in &revoked {
                    let revoked = Input::Revoked { member };
                    match this.step(&mut jobs, &job, &revoked).await {
                        // A job that ended meanwhile is nobody's any more.
                        Ok(()) | Err(Error::Refused(_)) => {}
                        Err(error) => failed = Err(error),
                    }
                }
            }
            failed
        })
        .await
    }

    /// Notes in the audit log who this is, and what holds from here on.
    async fn note_start(&self) -> Result<()> {
        let mut jobs = self.jobs.lock().await;
        let credentials = self.gate.credentials();
        let (federation, now) = (&self.federation, self.now());
        jobs.diary.note_start(&credentials, federation, now)?;
        jobs.diary.note_checkpoint(&*self.key, now)
    }

    /// Notes in the audit log which certificate and revocation list are new since it was last noted.
    pub async fn note_credentials(&self) -> Result<()> {
        let mut jobs = self.jobs.lock().await;
        let now = self.now();
        jobs.diary.note_credentials(&self.gate.credentials(), now)
    }

    /// Notes that a party's signed object contradicts what it may say, as long as there is room for such: what comes late or is of
    /// nobody's job tells nothing, and nobody fills the log.
    fn note_refused(
        &self,
        jobs: &mut Jobs,
        what: &str,
        job: &Digest,
        by: Option<Fingerprint>,
        refused: &Refused,
    ) {
        let tells = matches!(
            refused.code,
            Refusal::Malformed | Refusal::Role | Refusal::Conflict
        );
        let (Some(by), true) = (by, tells && jobs.refusals < REFUSALS) else {
            return;
        };
        jobs.refusals += 1;
        let noted = (jobs.diary).note_refused(what, job, &by, &refused.detail, self.now());
        if let Err(error) = noted {
            tracing::error!(%error, "a refusal is not in the audit log");
        }
    }

    /// Notes which certificate a party showed.
    pub async fn meet(&self, peer: &Peer, certificate: &[u8]) -> Result<()> {
        let mut jobs = self.jobs.lock().await;
        if self.database.meet(peer).await? {
            jobs.diary.note_met(peer, certificate, self.now())?;
        }
        Ok(())
    }

    /// [`Self::feed`] to the job that a context belongs to.
    pub async fn feed_context(self: &Arc<Self>, context: &Context, input: Input) -> Result<()> {
        let job = self.job_of(context).await?;
        self.feed(&job, input).await
    }

    async fn step(self: &Arc<Self>, jobs: &mut Jobs, job: &Digest, input: &Input) -> Result<()> {
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
        self.apply(&mut jobs.diary, &next, Some(input), effects, now)
            .await?;
        if matches!(next.phase(), Phase::Ended { .. }) {
            jobs.running.remove(job);
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
    async fn poll(self: &Arc<Self>, jobs: &mut Jobs, job: &Digest) -> Result<()> {
        loop {
            let members = self.present();
            let waits = jobs.running.get(job);
            let waits = waits.map_or(Waits::ForNobody, |it| it.waits_for(&members, self.now()));
            if waits == Waits::ForNobody {
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

    /// Carries out effects: files first, then one transaction, then the rest.
    async fn apply(
        &self,
        diary: &mut Diary,
        machine: &Machine,
        input: Option<&Input>,
        effects: Vec<Effect>,
        now: Moment,
    ) -> Result<()> {
        let mut batch = Batch::default();
        let mut old = Vec::new();
        let mut announced = Vec::new();
        let mut round_is_over = false;
        for effect in effects {
            match effect {
                Effect::Persist => match input {
                    Some(input) => batch.entry = Some(Entry::of(input)),
                    None => batch.new_job = Some(machine.job().encode()),
                },
                Effect::OpenContext { context, keys } => {
                    self.files.create(&context)?;
                    batch.opened = Some((context, keys));
                }
                Effect::Emit(Announcement::Said(kind, envelope)) => {
                    batch.events.push((kind.into(), envelope.encode()))
                }
                Effect::Emit(Announcement::Own(kind, label, payload)) => {
                    announced = self.sign(label, payload);
                    batch.events.push((kind.into(), announced.clone()));
                }
                Effect::KeepShares {
                    context,
                    seat,
                    kind,
                } => {
                    tokio::task::block_in_place(|| self.files.keep_shares(&context, seat, kind))?;
                }
                Effect::KeepBody { context, seat } => {
                    tokio::task::block_in_place(|| self.files.keep(&context, seat))?;
                }
                Effect::KeepParcel {
                    context,
                    seat,
                    sender,
                } => {
                    tokio::task::block_in_place(|| self.files.keep_parcel(&context, seat, sender))?;
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
                    let fields = tokio::task::block_in_place(|| {
                        diary.resting_on(fields, object.as_deref().as_slice())
                    })?;
                    tracing::info!(job = %machine.digest(), "{kind}");
                    round_is_over |= matches!(kind, "complete" | "void" | "ended");
                    let fields = serde_json::Value::Object(fields).to_string();
                    batch.notes.push((kind.into(), fields));
                }
            }
        }
        if matches!(machine.phase(), Phase::Ended { .. }) {
            let present = self.present();
            batch.ended = Some(machine.status(&present).encode_to_vec());
        }
        let events = batch.events.clone();
        let last = self.database.commit(&machine.digest(), now, batch).await?;
        // From here on the step is a fact: what fails below is reported and mended by the next start.
        for (context, seat) in old {
            let deleted = match seat {
                Some(seat) => self.files.discard(&context, seat),
                None => self.files.delete(&context),
            };
            if let Err(error) = deleted {
                tracing::error!(%context, %error, "old files stay until the next start");
            }
        }
        if let Err(error) = self.flush_notes(diary).await {
            tracing::error!(%error, "audit entries wait in the database");
        } else if round_is_over && let Err(error) = diary.note_checkpoint(&*self.key, now) {
            tracing::error!(%error, "the audit log has no checkpoint of this round");
        }
        // Those who follow are not woken for a step that announces nothing.
        if !events.is_empty() {
            self.events.keep(last, events);
            self.announced.send_replace(last);
        }
        Ok(())
    }

    /// Moves audit entries from the database, where they became durable with their step, to the log.
    async fn flush_notes(&self, diary: &mut Diary) -> Result<()> {
        const DOING: &str = "writing the audit log";
        let notes = self.database.notes().await?;
        let Some(last) = notes.last().map(|(number, ..)| *number) else {
            return Ok(());
        };
        for (number, at, kind, fields) in notes {
            let mut fields: serde_json::Map<_, _> =
                serde_json::from_str(&fields).map_err(|error| fault(DOING, error))?;
            // After a crash between log and database an entry stands twice, with one number.
            fields.insert("number".into(), number.into());
            diary.append(&kind, fields, at)?;
        }
        self.database.noted(last).await
    }

    fn start_sum(self: &Arc<Self>, job: Digest, machine: &Machine, effect: Effect) {
        let (Effect::StartSum { context, seats }, Some(attempt)) = (effect, machine.current())
        else {
            return;
        };
        let (this, plan) = (Arc::clone(self), Arc::clone(&attempt.plan));
        tokio::spawn(async move {
            let files = this.files.clone();
            let added = tokio::task::spawn_blocking(move || {
                let parameters = plan
                    .parameters()
                    .map_err(|error| fault("adding bodies", error))?;
                let length = plan
                    .length()
                    .map_err(|error| fault("adding bodies", error))?;
                files.add(&context, &parameters, length, &seats)
            })
            .await
            .unwrap_or_else(|error| Err(fault("adding bodies", error)));
            let input = match added {
                Ok(sum) => Input::Summed { context, sum },
                Err(error) => {
                    tracing::error!(%context, %error, "no sum");
                    Input::SumFailed { context }
                }
            };
            if let Err(error) = this.feed(&job, input).await {
                tracing::warn!(%context, %error, "a sum came too late");
            }
        });
    }

    /// Wakes jobs at their deadlines and when presence changes, until the server closes.
    pub async fn conduct(self: Arc<Self>) {
        {
            let jobs = self.jobs.lock().await;
            for (job, machine) in &jobs.running {
                for effect in machine.unfinished() {
                    self.start_sum(*job, machine, effect);
                }
            }
        }
        let mut closing = self.closing.subscribe();
        while !*closing.borrow() {
            let sleep = self.wake().await;
            tokio::select! {
                () = tokio::time::sleep(sleep) => {}
                () = self.poke.notified() => {}
                _ = closing.changed() => {}
            }
        }
    }

    /// Lets every job go on; returns how long until one wants to be woken. At most a second: clocks are set.
    async fn wake(self: &Arc<Self>) -> Duration {
        let mut jobs = self.jobs.lock().await;
        let running: Vec<Digest> = jobs.running.keys().copied().collect();
        for job in running {
            let mut went_on = self.step(&mut jobs, &job, &Input::Deadline).await;
            if went_on.is_ok() {
                went_on = self.poll(&mut jobs, &job).await;
            }
            match went_on {
                Ok(()) | Err(Error::Refused(_)) => {}
                Err(error) => tracing::error!(%job, %error, "a job cannot go on"),
            }
        }
        let now = self.now();
        jobs.running
            .values()
            .filter_map(|machine| machine.wakes_at(now))
            .map(|moment| moment.since(now).max(Duration::from_millis(20)))
            .min()
            .unwrap_or(Duration::MAX)
            .min(Duration::from_secs(1))
    }

    /// The members with an open event stream whose certificates let them call.
    pub fn present(&self) -> Vec<Fingerprint> {
        let now = self.now().to_system();
        let admits = |peer: &Peer| self.gate.admit(peer, now).is_ok();
        self.presence.present(&self.federation.members(), admits)
    }

    /// Who may call.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
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

    async fn job_of(&self, context: &Context) -> Result<Digest> {
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

    /// The states of all jobs, or of one.
    pub async fn status(&self, job: Option<&Digest>) -> Result<Vec<proto::JobState>> {
        let present = self.present();
        let mut states: Vec<proto::JobState> = {
            let jobs = self.jobs.lock().await;
            jobs.running
                .values()
                .filter(|machine| job.is_none_or(|job| machine.digest() == *job))
                .map(|machine| machine.status(&present))
                .collect()
        };
        for bytes in self.database.ended(job).await? {
            let state = proto::JobState::decode(bytes.as_slice())
                .map_err(|error| fault("reading a job's state", error))?;
            states.push(state);
        }
        if states.is_empty() && job.is_some() {
            return Err(Refused::new(Refusal::Unknown, "no such job").into());
        }
        Ok(states)
    }

    /// Adds to a member's stock of one-time keys.
    pub async fn add_keys(&self, member: &Fingerprint, keys: &[Envelope]) -> Result<u32> {
        // Under the lock: no plan is made in between.
        let jobs = self.jobs.lock().await;
        let stock = self.database.add_keys(member, keys).await?;
        drop(jobs);
        self.poke.notify_one();
        stock.ok_or_else(|| {
            Refused::new(Refusal::Exhausted, "the stock of one-time keys is full").into()
        })
    }

    /// The audit log as it stands, signed.
    pub async fn checkpoint(&self) -> Result<Vec<u8>> {
        let jobs = self.jobs.lock().await;
        let note = jobs.diary.checkpoint(&*self.key)?;
        Ok(note.to_text().into_bytes())
    }

    /// Throws away an upload that is not what it had to be.
    pub fn discard(&self, context: &Context, seat: ShareIndex) -> Result<()> {
        self.files.discard(context, seat)
    }

    /// Ends streams and refuses calls from now on.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Becomes true when the server closes.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// The last event's number, as it grows.
    pub fn announced(&self) -> watch::Receiver<u64> {
        self.announced.subscribe()
    }

    /// Some events after a number, in order.
    pub async fn events_after(&self, number: u64) -> Result<Vec<Told>> {
        if number >= *self.announced.borrow() {
            return Ok(Vec::new());
        }
        if let Some(events) = self.events.after(number) {
            return Ok(events);
        }
        let events = self.database.events(number).await?;
        Ok(events.iter().map(Told::from).collect())
    }

    /// Who has an event stream open.
    pub fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }

    /// Manifest and policy.
    pub fn federation(&self) -> &Federation {
        &self.federation
    }

    /// The files.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// Where the audit log is.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// The time, as steps see it.
    pub fn now(&self) -> Moment {
        (self.clock)().into()
    }

    fn sign(&self, label: Label, payload: Vec<u8>) -> Vec<u8> {
        Envelope::sign(label, payload, &*self.key).encode()
    }
}

/// Carries a step to its end even when the call that brought it is dropped, as a broken connection does: between the
/// commit and the machine's own state nothing may stop, or the journal knows what the machine does not.
async fn to_its_end<T: Send + 'static>(
    step: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(step)
        .await
        .unwrap_or_else(|error| Err(fault("a step", error)))
}
