//! A job arrives: hold it against policy, backbone, mechanism and ledger; answer in words.

use std::time::SystemTime;

use ciphertune_gauss::Entropy;
use ciphertune_ledger::{Budget, Data, Hides, Ledger};
use ciphertune_policy::{Instant, Policy, Unit};
use ciphertune_round::{Admission, Digest, Job, Signed};
use ciphertune_wire::proto::{self, Event, JobState};
use rand_core::Rng as _;

use super::{Engagement, LEDGER_HEAD, Member, Outcome, outcome};
use crate::{
    budget::head_in,
    desk::Desk,
    error::{Error, Result},
    learner::Start,
    mechanism::{Reckoned, attempts_of},
    model::{self, Model},
    report::Happening,
    transfer::retry,
};

/// Noise so many times as long as one clipped update is unlikely to let anything be trained.
const HOPELESS_UPDATES: f64 = 100.0;
/// Likewise, as long as all the clipped gradients of a nominal batch, were they of one direction.
const HOPELESS_BATCHES: f64 = 10.0;

/// All that others are told when data or backbone do not fit a job. More would let a researcher ask questions about
/// labels, columns and lines by submitting jobs.
const UNFIT: &str = "this member's data or backbone do not fit the job; its own output says why";

/// All that others are told when the ledger does not let a job in: how much was spent, on what, and when is nobody's
/// business.
const UNFUNDED: &str =
    "this member's privacy budget does not admit the job; its own output says why";

/// What comes of a job.
pub(super) enum Considered {
    /// This member takes part.
    Joined(Box<Engagement>),
    /// It ended while this member, which took part in an earlier life, was away.
    Ended(Outcome),
    /// It is not for this member: it refuses the job, or that is over and done with.
    Passed,
}

/// The server's word for a job whose every round ended with a model.
const COMPLETED: &str = "completed";

impl Member {
    /// Answers a job.
    pub(super) async fn consider(&mut self, event: &Event) -> Result<Considered> {
        // Whose role may submit jobs is the policy's to say.
        let job = match self.site.verify::<Job>(&event.envelope) {
            Ok(job) => job,
            Err(error) => {
                self.complain("job", &error)?;
                return Ok(Considered::Passed);
            }
        };
        match self.refresh() {
            Err(fault @ Error::Fault(_)) => return Err(fault),
            Err(error) => self.complain("certificate", &error)?,
            Ok(()) => {}
        }
        if let Some(over) = self.over(&job).await?
            && !self.has_opening(&job)?
        {
            return self.finish(&job, &over).await;
        }
        let (engaged, refusal) = match self.engage(job.clone(), event.sequence).await {
            Ok(engaged) => (Some(engaged), None),
            Err(error @ (Error::Fault(_) | Error::Stopped)) => return Err(error),
            Err(error) => (None, Some(error.to_string())),
        };
        let admission = Admission {
            job: job.digest(),
            refusal: refusal.clone(),
            federation_policy: self.site.federation_policy().digest(),
            site_policy: self
                .site
                .site_policy()
                .map(|policy| policy.envelope().clone()),
        };
        let admission = Signed::sign(admission, self.site.key());
        self.note_on(
            "admission",
            [
                ("job", job.digest().to_string().into()),
                ("admission", admission.digest().to_string().into()),
                ("accepted", refusal.is_none().into()),
                ("reason", refusal.clone().unwrap_or_default().into()),
                ("dataset", self.options.dataset.clone().into()),
            ],
            &[&job.encode(), &admission.encode()],
        )?;
        // In an earlier life the answer was given already.
        let known = engaged
            .as_ref()
            .is_some_and(|engaged| engaged.desk.was_admitted());
        if !known && let Err(error) = self.answer(&admission).await {
            self.complain("admission", &error)?;
            if let Some(engaged) = &engaged {
                self.end_on(&engaged.ledger, job.digest()).await?;
            }
            return Ok(Considered::Passed);
        }
        if !known {
            self.note(
                "answered",
                [
                    ("job", job.digest().to_string().into()),
                    ("admission", admission.digest().to_string().into()),
                ],
            )?;
        }
        self.tell(Happening::Considered {
            job: job.name.clone(),
            refusal,
        });
        if let Some(engaged) = &engaged {
            self.job = Some(job.digest());
            engaged.desk.note_admitted(&job)?;
            self.evaluate_start(engaged).await?;
        }
        Ok(engaged.map_or(Considered::Passed, |engaged| {
            Considered::Joined(Box::new(engaged))
        }))
    }

    /// Whether an attempt was opened in an earlier life, and it is still to be heard what the others agreed on.
    fn has_opening(&self, job: &Signed<Job>) -> Result<bool> {
        let folder = self.site.home().job(&job.digest());
        if !folder.exists() {
            return Ok(false);
        }
        let desk = Desk::open(folder, self.site.disk().clone())?;
        for context in desk.attempts()? {
            if desk.attempt(context)?.has_opening() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Does what is left to do for a job that ended while this member was away.
    async fn finish(&mut self, job: &Signed<Job>, over: &JobState) -> Result<Considered> {
        let digest = job.digest();
        let folder = self.site.home().job(&digest);
        if !folder.exists() {
            return Ok(Considered::Passed);
        }
        let desk = Desk::open(folder, self.site.disk().clone())?;
        if desk.has_ended() {
            return Ok(Considered::Passed);
        }
        let ledger = self.ledger(&self.site.policy()?).await?;
        self.end_on(&ledger, digest).await?;
        for context in desk.attempts()? {
            self.leave(&desk, context)?;
        }
        if !desk.was_admitted() {
            return Ok(Considered::Passed);
        }
        let rounds = Model::read(&desk.model())?.map_or(0, |model| model.round);
        let completed = over.phase == COMPLETED;
        let outcome = outcome(job, rounds, completed, &over.reason);
        self.conclude_job(&desk, digest, completed, &outcome, &[])?;
        Ok(Considered::Ended(outcome))
    }

    async fn answer(&mut self, admission: &Signed<Admission>) -> Result<()> {
        let request = proto::AdmitRequest {
            admission: admission.encode(),
        };
        retry(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.admit(request).await.map(drop) }
        })
        .await
    }

    /// How a job ended, if the server says that it did, or knows of no such job.
    async fn over(&mut self, job: &Signed<Job>) -> Result<Option<JobState>> {
        let request = proto::JobStatusRequest {
            job: job.digest().as_bytes().to_vec(),
        };
        let status = retry(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.job_status(request).await }
        })
        .await;
        let state = match status {
            Err(Error::Void(reason)) => {
                return Ok(Some(JobState {
                    reason,
                    ..JobState::default()
                }));
            }
            status => status?.into_inner().jobs.into_iter().next(),
        };
        let state = state.unwrap_or_default();
        let is_over = matches!(state.phase.as_str(), COMPLETED | "ended" | "");
        Ok(is_over.then_some(state))
    }

    async fn engage(&mut self, job: Signed<Job>, since: u64) -> Result<Engagement> {
        let federation = self.site.manifest().federation().to_string();
        if job.federation != federation {
            return Err(Error::Refused(format!(
                "the job is for federation {:?}, this is {federation:?}",
                job.federation
            )));
        }
        let policy = self.site.policy()?;
        let now = Instant::from(SystemTime::now());
        let cohort = job.expected_members;
        let members = self.site.manifest().members().count();
        let terms = job.terms(&policy, members, cohort)?;
        let proposal = job.proposal(&terms, self.site.role_of(&job.signer())?, now);
        policy.admit(&proposal).map_err(|refusal| {
            Error::Refused(refusal.sourced(&proposal, &self.site.sources()).to_string())
        })?;
        self.site.check_certificate(&policy, now)?;
        let admitted = self.check_dataset(&policy);
        self.said_at_home(admitted, UNFIT)?;
        Reckoned::demand_enough_noise(&job, terms.min_contributors, terms.colluders)?;
        let reckoned = Reckoned::of(&job, job.min_contributors, job.colluders)?;
        let prepared = self.prepare(&job).await;
        let state = self.said_at_home(prepared, UNFIT)?;
        let reserved = self.reserve(&job, &policy, &reckoned).await;
        let ledger = self.said_at_home(reserved, UNFUNDED)?;
        let desk = Desk::open(
            self.site.home().job(&job.digest()),
            self.site.disk().clone(),
        )?;
        let model = Model::read(&desk.model())?.unwrap_or_else(|| Model::first(state));
        if let Some(said) = hopeless(&job, reckoned.mechanism.noise_to_signal()) {
            self.tell(Happening::Warning { said });
        }
        Ok(Engagement {
            bytes: (self.meter.up(), self.meter.down()),
            job,
            desk,
            ledger,
            model,
            reckoned,
            since,
        })
    }

    /// Whether the policy names this member's dataset among those that may be trained on.
    pub(super) fn check_dataset(&self, policy: &Policy) -> Result<()> {
        policy
            .admit_dataset(&self.options.dataset)
            .map_err(|refusal| Error::Refused(refusal.to_string()))
    }

    /// Keeps a refusal's words, which may name files, lines, labels, budgets, for this member's eyes; others are told
    /// `outwards`.
    fn said_at_home<T>(&mut self, found: Result<T>, outwards: &str) -> Result<T> {
        match found {
            Err(error @ (Error::Refused(_) | Error::Malformed { .. } | Error::Misuse(_))) => {
                self.tell(Happening::Warning {
                    said: error.to_string(),
                });
                Err(Error::Refused(outwards.into()))
            }
            found => found,
        }
    }

    /// Has the learner get ready, and holds its backbone, first state and number of records to the job's.
    async fn prepare(&mut self, job: &Signed<Job>) -> Result<Vec<f32>> {
        let wanted = job.value().clone();
        let (backbone, start, records) = self
            .with_learner(move |learner| {
                let backbone = learner.backbone();
                if backbone != wanted.backbone {
                    return Ok((backbone, Start::of_updates(Vec::new()), 0));
                }
                let start = learner.prepare(&wanted)?;
                Ok((backbone, start, learner.records()))
            })
            .await?;
        if backbone != job.backbone {
            return Err(Error::Refused(format!(
                "the job is for backbone {}, this member has {}",
                job.backbone.short(),
                backbone.short()
            )));
        }
        let dimension = start.dimension + job.mechanism.metrics().len();
        let lengths = (dimension as u64, start.state.len() as u64);
        if lengths != (job.dimension, job.state) || model::digest(&start.state) != job.initial_model
        {
            return Err(Error::Refused(format!(
                "the job's first model ({} numbers, updates of {}) is not what its seed gives here ({} numbers, updates \
                 of {})",
                job.state, job.dimension, lengths.1, lengths.0
            )));
        }
        if let Some(batches) = &job.mechanism.batches
            && records > batches.max_examples
        {
            return Err(Error::Refused(format!(
                "this member has {records} records, and the job reckons with {} at most: a batch is never truncated",
                batches.max_examples
            )));
        }
        Ok(start.state)
    }

    /// Opens the dataset's ledger under the policy's lifetime budget and reserves the job's worst case.
    async fn reserve(
        &mut self,
        job: &Signed<Job>,
        policy: &Policy,
        reckoned: &Reckoned,
    ) -> Result<Ledger> {
        let data = self.with_learner(|learner| Ok(learner.data())).await?;
        let data = data.map(salted).transpose()?;
        let ledger = self.ledger(policy).await?.on_data(data);
        if reckoned.attempt.is_some() {
            let (attempt, attempts) = (reckoned.attempt_cost()?, attempts_of(job));
            let id = *job.digest().as_bytes();
            let reserved = ledger.reserve(id, &attempt, attempts, SystemTime::now());
            let path = self.site.home().ledger();
            let head = self.site.disk().commits(&path, reserved).await?;
            let without_privacy = ledger.standing().await?.without_privacy;
            if without_privacy {
                self.tell(Happening::Warning {
                    said: format!(
                        "dataset {:?} was used without privacy before: no promise covers what was released then",
                        self.options.dataset
                    ),
                });
            }
            self.note(
                "reserve",
                [
                    ("job", job.digest().to_string().into()),
                    ("attempts", attempts.into()),
                    ("cost", attempt.units().into()),
                    ("without_privacy", without_privacy.into()),
                    (LEDGER_HEAD, Digest::from_bytes(head).to_string().into()),
                ],
            )?;
        }
        Ok(ledger)
    }

    /// The dataset's ledger, under the policy's lifetime budget, no older than this member's own log knows it.
    async fn ledger(&mut self, policy: &Policy) -> Result<Ledger> {
        let budget = match (policy.unit(), policy.budget()) {
            (Unit::None, _) | (_, None) => Budget::NoPrivacy,
            (_, Some(loss)) => Budget::Private(loss),
        };
        let seen = self.log.all(LEDGER_HEAD)?;
        let seen = seen.iter().map(head_in).collect::<Result<Vec<_>>>()?;
        let path = self.site.home().ledger();
        let now = SystemTime::now();
        let opened = Ledger::open(&path, &self.options.dataset, budget, &seen, now);
        let ledger = self.site.disk().commits(&path, opened).await?;
        match policy.adjacency() {
            Some(adjacency) => {
                let unit = policy.unit();
                Ok(ledger.hiding(Hides { unit, adjacency }).await?)
            }
            None => Ok(ledger),
        }
    }

    async fn evaluate_start(&mut self, engaged: &Engagement) -> Result<()> {
        if engaged.model.round > 0 {
            return Ok(());
        }
        let state = engaged.model.state.clone();
        let validation = self
            .with_learner(move |learner| learner.evaluate(&state))
            .await?;
        self.tell(Happening::Started { validation });
        Ok(())
    }
}

fn salted(sha256: Digest) -> Result<Data> {
    let mut salt = [0; 32];
    Entropy::from_os()
        .map_err(|error| Error::fault("entropy", error))?
        .fill_bytes(&mut salt);
    Ok(Data {
        salt,
        sha256: *sha256.as_bytes(),
    })
}

/// What is to be said of a job whose noise, so many clips long, will drown what it sums.
fn hopeless(job: &Job, clips: f64) -> Option<String> {
    let batch = job.mechanism.batches.as_ref().map(|it| it.nominal_batch);
    match batch.map(f64::from) {
        Some(batch) if clips > HOPELESS_BATCHES * batch => Some(format!(
            "the noise is {clips:.0} times as long as one clipped gradient, and a nominal batch has {batch}: this will \
             hardly train; fewer rounds, a larger batch or fewer virtual tokens would"
        )),
        None if clips > HOPELESS_UPDATES => Some(format!(
            "the noise is {clips:.0} times as long as one clipped update: with {} members this will hardly train; \
             record-level privacy, a smaller encoder or more members would",
            job.expected_members
        )),
        _ => None,
    }
}

impl Engagement {
    pub(super) fn digest(&self) -> Digest {
        self.job.digest()
    }
}
