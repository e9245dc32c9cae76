//! A job as people look at it.

use std::time::Duration;

use ciphertune_round::Fingerprint;
use ciphertune_wire::proto::{JobState, MemberState};

use super::{Answer, Machine, Phase};
use crate::moment::Moment;

impl Machine {
    /// Where the job stands, and each member in it.
    pub fn status(&self, present: &[Fingerprint], now: Moment) -> JobState {
        let (phase, reason) = match &self.phase {
            Phase::Admitting => ("admitting", ""),
            Phase::Gathering { .. } => ("gathering", ""),
            Phase::Contributing { .. } => ("contributing", ""),
            Phase::Closing => ("closing", ""),
            Phase::Opening { .. } => ("opening", ""),
            Phase::Agreeing { .. } => ("agreeing", ""),
            Phase::Ended {
                completed: true,
                reason,
            } => ("completed", reason.as_str()),
            Phase::Ended { reason, .. } => ("ended", reason.as_str()),
        };
        let (until, lasts) = match &self.phase {
            Phase::Gathering { until } => (Some(*until), self.job.deadlines.contribute),
            Phase::Contributing { until } => (Some(*until), self.job.deadlines.contribute),
            Phase::Opening { until } => (Some(*until), self.job.deadlines.open),
            Phase::Agreeing { until } => (Some(*until), self.job.deadlines.agree),
            Phase::Admitting | Phase::Closing | Phase::Ended { .. } => (None, Duration::ZERO),
        };
        JobState {
            seconds: lasts.as_secs(),
            seconds_left: until.map_or(0, |until| until.since(now).as_secs()),
            paused: String::new(),
            job: self.digest.as_bytes().to_vec(),
            name: self.job.name.clone(),
            phase: phase.into(),
            round: self.round,
            attempt: self.attempt,
            rounds: self.job.rounds,
            members: self
                .federation
                .members()
                .iter()
                .map(|member| self.member(member, present.contains(member)))
                .collect(),
            reason: reason.into(),
        }
    }

    fn member(&self, member: &Fingerprint, present: bool) -> MemberState {
        let (admission, refusal) = match self.answers.get(member) {
            None => ("waiting", ""),
            Some(Answer::Accepted { .. }) => ("accepted", ""),
            Some(Answer::Refused { reason, .. }) => ("refused", reason.as_str()),
        };
        MemberState {
            name: self.federation.name_of(member),
            admission: admission.into(),
            refusal: refusal.into(),
            present,
            progress: self.progress(member).into(),
            waited_for: self.is_waited_for(member),
        }
    }

    /// Whether the phase goes on once this member has done its part.
    fn is_waited_for(&self, member: &Fingerprint) -> bool {
        let seat = self.current.as_ref().and_then(|attempt| {
            let seat = attempt.plan.seat_of(member)?;
            Some((
                attempt.plan.is_holder(member),
                attempt.seats.get(seat.position())?,
            ))
        });
        match (&self.phase, seat) {
            (Phase::Contributing { .. }, Some((_, held))) => !held.out && !held.is_complete(),
            (Phase::Opening { .. }, Some((holds, held))) => holds && held.release.is_none(),
            (Phase::Agreeing { .. }, Some((_, held))) => held.agreement.is_none(),
            (Phase::Admitting, _) => !self.answers.contains_key(member),
            _ => false,
        }
    }

    fn progress(&self, member: &Fingerprint) -> &'static str {
        let held = self.current.as_ref().and_then(|attempt| {
            let seat = attempt.plan.seat_of(member)?;
            attempt.seats.get(seat.position())
        });
        let Some(held) = held else { return "none" };
        let (some, all) = match self.phase {
            Phase::Contributing { .. } | Phase::Closing => (
                held.header.is_some() || held.body.is_some(),
                held.is_complete(),
            ),
            Phase::Opening { .. } => (held.echo.is_some(), held.release.is_some()),
            Phase::Agreeing { .. } | Phase::Ended { .. } => {
                (held.release.is_some(), held.agreement.is_some())
            }
            Phase::Admitting | Phase::Gathering { .. } => (false, false),
        };
        match (some, all) {
            (_, true) => "done",
            (true, _) => "partial",
            _ => "none",
        }
    }
}
