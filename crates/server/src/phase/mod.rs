//! The life of a job as a pure machine: it takes (input, now) and returns effects.
//!
//! No socket, file, clock or randomness in here; nonces and the time are passed in. So the machine is a function of its
//! inputs, and a server that was killed replays the stored ones. One file a phase:
//! admitting → gathering → contributing → closing → opening → agreeing → gathering … → ended.

mod admitting;
mod agreeing;
mod attempt;
mod closing;
mod contributing;
mod gathering;
mod input;
mod opening;
mod parcels;
mod status;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use ciphertune_policy::Policy;
use ciphertune_round::{
    Abort, Context, Digest, Ended, Envelope, Fingerprint, Job, Object as _, ShareIndex, Signed,
    Void,
};
use ciphertune_sum::{CohortSize, Parameters, ValueBound};
use ciphertune_wire::{Refusal, limits::SHARE_BYTES, proto::EventKind};

pub use attempt::{Attempt, Held};
pub(crate) use gathering::key_digest;
pub use input::{Announcement, Effect, Input, ListInForce, Object, Present, Shares};

use crate::{error::Refused, federation::Federation, moment::Moment};
use input::note;

/// What a phase's handler returns. On `Err` the machine is as it was before: callers work on a clone.
type Outcome = Result<Vec<Effect>, Refused>;

/// Where a job stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Members answer the job.
    Admitting,
    /// The next plan waits for members to be present.
    Gathering {
        /// Without a cohort by then the job ends.
        until: Moment,
    },
    /// Members send headers, shares, bodies.
    Contributing {
        /// Then the attempt is closed or void.
        until: Moment,
    },
    /// The server adds the bodies.
    Closing,
    /// Members echo and release.
    Opening {
        /// Then the attempt is void.
        until: Moment,
    },
    /// Members agree on the model.
    Agreeing {
        /// Then the round is complete or the job ends.
        until: Moment,
    },
    /// Over.
    Ended {
        /// Whether every round ended with a model.
        completed: bool,
        /// Why, in words.
        reason: String,
    },
}

/// What a poll would have to decide on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Who is present, and the one-time keys of those who are.
    ForKeys,
    /// Who is present.
    ForMembers,
    /// Nothing: a poll would change nothing.
    ForNobody,
}

/// A member's answer to a job.
#[derive(Clone)]
enum Answer {
    Accepted {
        said: Arc<Envelope>,
        site: Option<Arc<(Envelope, Policy)>>,
    },
    Refused {
        said: Arc<Envelope>,
        reason: String,
    },
}

/// A job's machine. Cheap to clone.
#[derive(Clone)]
pub struct Machine {
    federation: Arc<Federation>,
    job: Arc<Signed<Job>>,
    digest: Digest,
    answers: BTreeMap<Fingerprint, Answer>,
    phase: Phase,
    round: u32,
    attempt: u32,
    completed: u32,
    model: Digest,
    /// Who agreed on it.
    agreed: Vec<Fingerprint>,
    current: Option<Attempt>,
    past: HashSet<Context>,
    spent: HashSet<Digest>,
    /// Until then, absence is taken for being late: everybody is waited for.
    patient_until: Moment,
    /// Since when it waits for room on the disk, if it does: no time passes for it.
    waits_since: Option<Moment>,
}

impl Machine {
    /// A machine for a job, and what to do about its submission.
    pub fn submit(
        federation: Arc<Federation>,
        job: Signed<Job>,
        now: Moment,
    ) -> Result<(Self, Vec<Effect>), Refused> {
        admitting::check(&federation, &job)?;
        let digest = job.digest();
        let effects = vec![
            Effect::Persist,
            Effect::Emit(Announcement::Said(EventKind::Job, job.envelope().clone())),
            note(
                "job",
                [
                    ("job", digest.to_string().into()),
                    ("researcher", job.signer().to_string().into()),
                ],
            )
            .on(job.envelope()),
        ];
        let machine = Self {
            federation,
            digest,
            answers: BTreeMap::new(),
            phase: Phase::Admitting,
            round: 1,
            attempt: 1,
            completed: 0,
            model: job.initial_model,
            agreed: Vec::new(),
            job: Arc::new(job),
            current: None,
            past: HashSet::new(),
            spent: HashSet::new(),
            patient_until: now,
            waits_since: None,
        };
        Ok((machine, effects))
    }

    /// Takes an input. Effects begin with [`Effect::Persist`] exactly when the machine changed.
    ///
    /// # Errors
    /// [`Refused`]; drop this clone then.
    pub fn handle(&mut self, input: &Input, now: Moment) -> Outcome {
        let mut effects = match input {
            Input::Admission(admission) => admitting::admission(self, admission)?,
            Input::Poll {
                present,
                nonce,
                list,
            } => match self.phase {
                Phase::Admitting | Phase::Gathering { .. } => {
                    gathering::poll(self, present, *nonce, list, now)
                }
                Phase::Agreeing { .. } => agreeing::poll(self, present, now),
                _ => Vec::new(),
            },
            Input::Revoked { member } => self.revoked(member, now),
            Input::Header(header) => contributing::header(self, header)?,
            Input::Body {
                context,
                member,
                digest,
            } => contributing::body(self, context, member, *digest)?,
            Input::Summed { context, sum } => closing::summed(self, context, *sum, now)?,
            Input::SumFailed { context } => closing::failed(self, context, now)?,
            Input::Echo(echo) => opening::echo(self, echo)?,
            Input::Release(release) => opening::release(self, release, now)?,
            Input::Agreement(agreement) => agreeing::agreement(self, agreement)?,
            Input::Abort(abort) => self.abort(abort)?,
            Input::ParcelRequest(request) => parcels::request(self, request, now)?,
            Input::Parcel(parcel) => parcels::parcel(self, parcel)?,
            Input::Deadline if self.waits_since.is_some() => Vec::new(),
            Input::Deadline => {
                let mut effects = parcels::overdue(self, now);
                effects.extend(self.time_passed(now));
                effects
            }
            Input::Held { since } => self.held_up(*since),
            Input::Resumed => self.resumed(now),
            Input::Restarted => self.restarted(now),
        };
        if !effects.is_empty() {
            effects.insert(0, Effect::Persist);
        }
        Ok(effects)
    }

    /// Whether an input would change anything.
    ///
    /// # Errors
    /// As [`Machine::handle`] would refuse it.
    pub fn would_take(&self, input: &Input, now: Moment) -> Result<bool, Refused> {
        let effects = self.clone().handle(input, now)?;
        Ok(!effects.is_empty())
    }

    /// What was under way and has to be started anew after a restart.
    pub fn unfinished(&self) -> Vec<Effect> {
        match (&self.phase, &self.current) {
            (Phase::Closing, Some(attempt)) => vec![Effect::StartSum {
                context: attempt.context,
                seats: attempt.contributors.clone(),
            }],
            _ => Vec::new(),
        }
    }

    /// When to come back with [`Input::Deadline`] and a poll, if nothing happens before.
    pub fn wakes_at(&self, now: Moment) -> Option<Moment> {
        if self.waits_since.is_some() {
            return None;
        }
        let patience = (self.patient_until > now).then_some(self.patient_until);
        let phase = match self.phase {
            Phase::Gathering { until } | Phase::Agreeing { until } => {
                Some(patience.map_or(until, |p| p.min(until)))
            }
            Phase::Contributing { until } | Phase::Opening { until } => Some(until),
            Phase::Admitting | Phase::Closing | Phase::Ended { .. } => None,
        };
        phase.into_iter().chain(parcels::wakes_at(self)).min()
    }

    /// Since when it waits for room on the disk.
    pub fn waits_since(&self) -> Option<Moment> {
        self.waits_since
    }

    /// At most so many bytes are stored for the next round: bodies, their sum, and shares; 0 while one is under way.
    pub fn next_round_bytes(&self) -> u64 {
        match self.phase {
            Phase::Admitting | Phase::Gathering { .. } => {
                let members = self.accepted().count();
                let holders = self.job.committee.map_or(members, |size| size.min(members));
                (self.body_bytes(members).saturating_mul(members as u64 + 1))
                    .saturating_add(shares_bytes(members, holders).saturating_mul(2))
            }
            _ => 0,
        }
    }

    /// At most so many bytes more are stored for the round under way.
    pub fn owed_bytes(&self) -> u64 {
        let Some(attempt) = &self.current else {
            return 0;
        };
        let members = attempt.seats.len();
        let body = self.body_bytes(members);
        let shares = shares_bytes(members, attempt.plan.holders().count());
        match self.phase {
            Phase::Contributing { .. } => {
                let missing = members.saturating_sub(attempt.complete().len());
                (body.saturating_mul(missing as u64 + 1)).saturating_add(shares.saturating_mul(2))
            }
            Phase::Closing => body.saturating_add(shares),
            Phase::Opening { .. } => shares,
            _ => 0,
        }
    }

    /// One body, in a cohort of so many.
    fn body_bytes(&self, members: usize) -> u64 {
        let bytes = || -> Option<u64> {
            let bound = ValueBound::new(self.job.value_bound).ok()?;
            let parameters = Parameters::derive(CohortSize::new(members).ok()?, bound).ok()?;
            Some(parameters.body_bytes(usize::try_from(self.job.dimension).ok()?))
        };
        bytes().unwrap_or(0)
    }

    /// Where the job stands.
    pub fn phase(&self) -> &Phase {
        &self.phase
    }

    /// The job.
    pub fn job(&self) -> &Signed<Job> {
        &self.job
    }

    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The round that is under way, or next.
    pub fn round(&self) -> u32 {
        self.round
    }

    /// Which attempt of it.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// Rounds that ended with a model.
    pub fn completed(&self) -> u32 {
        self.completed
    }

    /// The attempt that is under way, or was last.
    pub fn current(&self) -> Option<&Attempt> {
        self.current.as_ref()
    }

    /// The attempt with this context and the seat of this member in it.
    ///
    /// # Errors
    /// `Late` for an attempt that is over; `Unknown` for one that never was, or that has no seat for the member.
    pub fn seat(
        &self,
        context: &Context,
        member: &Fingerprint,
    ) -> Result<(&Attempt, ShareIndex), Refused> {
        let attempt = self
            .current
            .as_ref()
            .filter(|attempt| attempt.context == *context)
            .ok_or_else(|| {
                if self.past.contains(context) {
                    Refused::new(Refusal::Late, "the context is over")
                } else {
                    Refused::new(Refusal::Unknown, "no such context")
                }
            })?;
        let seat = attempt
            .plan
            .seat_of(member)
            .ok_or_else(|| Refused::new(Refusal::Unknown, "a member outside the cohort"))?;
        if matches!(self.phase, Phase::Ended { .. }) {
            return Err(Refused::new(Refusal::Late, "the job has ended"));
        }
        Ok((attempt, seat))
    }

    /// [`Self::seat`], to write into.
    fn held(
        &mut self,
        context: &Context,
        member: &Fingerprint,
    ) -> Result<(ShareIndex, &mut Held), Refused> {
        let (_, seat) = self.seat(context, member)?;
        self.current
            .as_mut()
            .and_then(|attempt| attempt.seats.get_mut(seat.position()))
            .map(|held| (seat, held))
            .ok_or_else(|| Refused::new(Refusal::Fault, "a seat without a place"))
    }

    /// Whether a poll with these present has anything to decide, and whether it looks at their one-time keys.
    pub fn waits_for(&self, present: &[Fingerprint], now: Moment) -> Waits {
        match self.phase {
            Phase::Admitting | Phase::Gathering { .. }
                if gathering::may_be_due(self, present, now) =>
            {
                Waits::ForKeys
            }
            Phase::Agreeing { .. } => Waits::ForMembers,
            _ => Waits::ForNobody,
        }
    }

    fn has_accepted(&self, member: &Fingerprint) -> bool {
        matches!(self.answers.get(member), Some(Answer::Accepted { .. }))
    }

    fn accepted(&self) -> impl Iterator<Item = &Fingerprint> {
        self.answers
            .iter()
            .filter(|(_, answer)| matches!(answer, Answer::Accepted { .. }))
            .map(|(member, _)| member)
    }

    /// How long absence is taken for being late: a tenth of the contribute deadline, between ½ and 10 s.
    fn patience(&self) -> Duration {
        (self.job.deadlines.contribute / 10)
            .clamp(Duration::from_millis(500), Duration::from_secs(10))
    }

    /// Goes to gather for the current round and attempt.
    fn gather(&mut self, now: Moment) {
        self.patient_until = now.after(self.patience());
        self.phase = Phase::Gathering {
            until: now.after(self.job.deadlines.contribute),
        };
    }

    /// The attempt ends without a model: the next one is gathered for, or the job ends.
    fn void(&mut self, reason: &str, now: Moment) -> Vec<Effect> {
        let Some(context) = self.current.as_ref().map(|attempt| attempt.context) else {
            return Vec::new();
        };
        let void = Void {
            context,
            reason: bounded(reason),
        };
        let mut effects = vec![
            Effect::Emit(Announcement::Own(
                EventKind::Void,
                Void::LABEL,
                void.serialise(),
            )),
            note(
                "void",
                [
                    ("context", context.to_string().into()),
                    ("reason", bounded(reason).into()),
                ],
            )
            .on_announced(),
            // Nothing of it is ever opened.
            Effect::DeleteContext(context),
        ];
        if self.attempt < self.job.max_attempts {
            self.attempt += 1;
            self.gather(now);
        } else {
            let reason = format!(
                "round {} was void {} times, the most that the job allows; the last time: {reason}",
                self.round, self.attempt
            );
            effects.extend(self.end(false, &reason));
        }
        effects
    }

    /// The job ends.
    fn end(&mut self, completed: bool, reason: &str) -> Vec<Effect> {
        let reason = bounded(reason);
        let ended = Ended {
            job: self.digest,
            completed,
            rounds: self.completed,
            reason: reason.clone(),
        };
        let mut effects = vec![
            Effect::Emit(Announcement::Own(
                EventKind::Ended,
                Ended::LABEL,
                ended.serialise(),
            )),
            note(
                "ended",
                [
                    ("job", self.digest.to_string().into()),
                    ("completed", completed.into()),
                    ("rounds", self.completed.into()),
                    ("reason", reason.clone().into()),
                ],
            )
            .on_announced(),
        ];
        if let Some(attempt) = &self.current {
            effects.push(Effect::DeleteContext(attempt.context));
        }
        self.phase = Phase::Ended { completed, reason };
        effects
    }

    fn abort(&mut self, abort: &Signed<Abort>) -> Outcome {
        if matches!(self.phase, Phase::Ended { .. }) {
            return Err(Refused::new(Refusal::Late, "the job has ended"));
        }
        let by = abort.signer();
        let may = |role| self.federation.policy().admit_abort(role).is_ok();
        if by != self.job.signer() && !self.federation.role_of(&by).is_some_and(may) {
            return Err(Refused::new(
                Refusal::Role,
                "neither the job's signer nor of a role that may stop jobs (roles.abort_job)",
            ));
        }
        let mut effects = vec![
            note(
                "abort",
                [
                    ("job", self.digest.to_string().into()),
                    ("by", by.to_string().into()),
                ],
            )
            .on(abort.envelope()),
        ];
        let reason = format!(
            "stopped by {}: {}",
            self.federation.name_of(&by),
            abort.reason
        );
        effects.extend(self.end(false, &reason));
        Ok(effects)
    }

    /// A revoked member's contribution is in no roster that is not signed yet; what it signed before stays. A job that a
    /// revoked party signed ends.
    fn revoked(&mut self, member: &Fingerprint, now: Moment) -> Vec<Effect> {
        if *member == self.job.signer() && !matches!(self.phase, Phase::Ended { .. }) {
            let name = self.federation.name_of(member);
            return self.end(
                false,
                &format!("the certificate of {name}, who signed the job, was revoked"),
            );
        }
        match self.phase {
            Phase::Contributing { .. } => contributing::revoked(self, member, now),
            Phase::Closing => closing::revoked(self, member, now),
            _ => Vec::new(),
        }
    }

    fn time_passed(&mut self, now: Moment) -> Vec<Effect> {
        match self.phase {
            Phase::Gathering { until } if now >= until => self.end(
                false,
                &format!(
                    "too few members were present for attempt {} of round {}",
                    self.attempt, self.round
                ),
            ),
            Phase::Contributing { until } if now >= until => contributing::deadline(self, now),
            Phase::Opening { until } if now >= until => {
                let (have, want) = self.current.as_ref().map_or((0, 0), |attempt| {
                    (attempt.released().len(), attempt.plan.threshold)
                });
                self.void(
                    &format!(
                        "{have} members released in time, and it takes {want} to open the sum"
                    ),
                    now,
                )
            }
            Phase::Agreeing { until } if now >= until => agreeing::deadline(self, now),
            _ => Vec::new(),
        }
    }

    fn held_up(&mut self, since: Moment) -> Vec<Effect> {
        if self.waits_since.is_some() || matches!(self.phase, Phase::Ended { .. }) {
            return Vec::new();
        }
        self.waits_since = Some(since);
        vec![note("held", [("job", self.digest.to_string().into())])]
    }

    fn resumed(&mut self, now: Moment) -> Vec<Effect> {
        let Some(since) = self.waits_since.take() else {
            return Vec::new();
        };
        let waited = now.since(since);
        match &mut self.phase {
            Phase::Gathering { until }
            | Phase::Contributing { until }
            | Phase::Opening { until }
            | Phase::Agreeing { until } => *until = until.after(waited),
            Phase::Ended { .. } => return Vec::new(),
            Phase::Admitting | Phase::Closing => {}
        }
        self.patient_until = now.after(self.patience());
        vec![note(
            "resumed",
            [
                ("job", self.digest.to_string().into()),
                ("seconds", waited.as_secs().into()),
            ],
        )]
    }

    fn restarted(&mut self, now: Moment) -> Vec<Effect> {
        if matches!(self.phase, Phase::Ended { .. }) {
            return Vec::new();
        }
        self.patient_until = now.after(self.patience());
        vec![note("restarted", [("job", self.digest.to_string().into())])]
    }
}

/// Sealed shares of so many for so many.
fn shares_bytes(senders: usize, holders: usize) -> u64 {
    (senders as u64)
        .saturating_mul(holders as u64)
        .saturating_mul(SHARE_BYTES as u64)
}

/// Words that fit into a signed reason: at most 4 KiB, no control characters but newlines.
fn bounded(reason: &str) -> String {
    const BYTES: usize = 4 << 10;
    let clean = reason.chars().filter(|c| *c == '\n' || !c.is_control());
    let mut words = String::new();
    for c in clean {
        if words.len() + c.len_utf8() > BYTES {
            break;
        }
        words.push(c);
    }
    words
}
