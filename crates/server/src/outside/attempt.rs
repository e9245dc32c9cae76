//! One attempt of one round, as the audit log tells it.

use std::sync::Arc;

use ciphertune_round::{Envelope, Object as _, Plan, Roster};

/// One attempt of one round.
#[derive(Clone, Debug, PartialEq)]
pub struct Attempt {
    /// Its job.
    pub job: String,
    /// What everything in it is bound to.
    pub context: String,
    /// Its round.
    pub round: u64,
    /// Which attempt of it.
    pub attempt: u64,
    /// Members in it.
    pub cohort: u64,
    /// How many of those that hold shares open it.
    pub threshold: u64,
    /// When the plan was made.
    pub planned: u64,
    /// Signed contributions that came.
    pub contributions: u64,
    /// Bytes of one body, and of the sum.
    pub bytes: Option<u64>,
    /// Whole bodies that came.
    pub bodies: u64,
    /// How many the sum is of.
    pub contributors: Option<u64>,
    /// Who they are; filled in when somebody looks.
    pub names: Option<Arc<[String]>>,
    /// Members that agreed on a model.
    pub agreements: u64,
    /// How it ended.
    pub over: Option<Over>,
    pub(super) waiting: u64,
    pub(super) contribute: Option<u64>,
    pub(super) everybody: bool,
    /// Members whose certificates were revoked before the close.
    pub(super) out: u64,
    pub(super) last_in: u64,
    pub(super) summed: Option<u64>,
    pub(super) releases: Vec<(String, u64)>,
    pub(super) holders: Option<Arc<[String]>>,
    pub(super) plan: Option<String>,
    pub(super) roster: Option<String>,
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Over {
    /// When.
    pub at: u64,
    /// `complete`, `void` or `ended`.
    pub how: &'static str,
    /// Why, unless it is complete.
    pub reason: String,
}

/// Milliseconds in each phase, as far as the attempt came.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Phases {
    /// From the round before, or the job, to the plan.
    pub gathering: u64,
    /// From the plan until all was in, or the deadline passed.
    pub contributing: Option<u64>,
    /// From there to the roster.
    pub closing: Option<u64>,
    /// From there until enough members had released their shares.
    pub opening: Option<u64>,
    /// From there to the round's end.
    pub agreeing: Option<u64>,
}

/// An object that an attempt rests on and that nobody has read yet.
#[derive(Clone, Debug, PartialEq)]
pub enum Unread {
    /// Which members hold shares.
    Plan(String),
    /// Whose bodies are in the sum.
    Roster(String),
}

impl Unread {
    /// The object's name.
    pub fn name(&self) -> &str {
        match self {
            Self::Plan(name) | Self::Roster(name) => name,
        }
    }

    /// The members that it names.
    pub fn members(&self, envelope: &[u8]) -> Option<Arc<[String]>> {
        let envelope = Envelope::decode(envelope).ok()?;
        match self {
            Self::Plan(_) => {
                let plan = Plan::parse(envelope.payload()).ok()?;
                let holders = plan.holders();
                let holders = holders.filter_map(|seat| plan.seats.get(seat.position()));
                Some(holders.map(|seat| seat.member.to_string()).collect())
            }
            Self::Roster(_) => {
                let roster = Roster::parse(envelope.payload()).ok()?;
                let signers = roster.headers.iter().map(|header| header.signer());
                Some(signers.map(|signer| signer.to_string()).collect())
            }
        }
    }
}

impl Attempt {
    /// How long it was in each phase.
    pub fn phases(&self) -> Phases {
        let end = self.over.as_ref().map(|over| over.at);
        let until = |from: u64, to: Option<u64>| to.map(|to| to.saturating_sub(from));
        let mut phases = Phases {
            gathering: self.planned.saturating_sub(self.waiting),
            ..Phases::default()
        };
        let Some(summed) = self.summed else {
            phases.contributing = until(self.planned, end);
            return phases;
        };
        let closed = self.closed(summed);
        phases.contributing = until(self.planned, Some(closed));
        phases.closing = until(closed, Some(summed));
        let opened = self.opened();
        phases.opening = until(summed, opened.or(end));
        phases.agreeing = opened.and_then(|opened| until(opened, end));
        phases
    }

    /// When nothing more was waited for: the last contribution of everybody, or the deadline.
    fn closed(&self, summed: u64) -> u64 {
        let all = self.cohort.saturating_sub(self.out);
        match (self.contributors, self.contribute) {
            (Some(contributors), Some(contribute)) if contributors < all => {
                let deadline = self.planned.saturating_add(contribute);
                deadline.max(self.last_in).min(summed)
            }
            _ => self.last_in,
        }
    }

    /// When the t-th member that holds shares had released them.
    fn opened(&self) -> Option<u64> {
        let holds = |member: &String| match &self.holders {
            Some(holders) => holders.contains(member),
            None => self.everybody,
        };
        let enough = usize::try_from(self.threshold).ok()?.checked_sub(1)?;
        let releases = self.releases.iter().filter(|(member, _)| holds(member));
        releases.map(|(_, at)| *at).nth(enough)
    }

    /// What of it nobody has read yet.
    pub(super) fn unread(&self) -> Vec<Unread> {
        let plan = self.plan.clone().filter(|_| !self.everybody);
        let objects = [
            plan.map(Unread::Plan),
            self.roster.clone().map(Unread::Roster),
        ];
        objects.into_iter().flatten().collect()
    }
}
