//! The strictest of several policies.

use crate::allowed::Allowed;
use crate::error::Error;
use crate::policy::{Aggregation, Loss, MaxAge, Policy, Privacy, Roles, Time};

impl Policy {
    /// The policy that admits exactly what every part admits.
    ///
    /// The least of all ε, δ, clips and rounds; the greatest of all minimums, colluders and thresholds; what
    /// all lists have in common. A share for everybody is stricter than a committee, and the larger one than the smaller.
    /// `replace-one` is stricter than `zero-out` (0 is one of the vectors that may stand in), `local` than `distributed` (the sum is computed from what is already private). A unit is
    /// stricter than `none`; `institution` and `record` promise different things and neither yields.
    /// A limit is stricter than none. Commutative, associative, idempotent.
    ///
    /// # Errors
    /// `Misuse` without parts. `Refused` when nothing could satisfy all parts: two units that differ, lists with nothing
    /// in common, times that do not overlap; names the two policies and what to settle.
    pub fn merge(parts: &[&Self]) -> Result<Self, Error> {
        let (first, rest) = parts
            .split_first()
            .ok_or_else(|| Error::Misuse("no policy to merge".into()))?;
        rest.iter()
            .try_fold((*first).clone(), |merged, part| merged.stricter_of(part))
    }

    fn stricter_of(&self, other: &Self) -> Result<Self, Error> {
        let common = |what: &str, a: &Allowed, b: &Allowed| {
            a.intersection(b).ok_or_else(|| {
                Error::Refused(format!(
                    "{} and {} allow no common {what} ({} against {}): their officers must agree on one in model.{what}s",
                    self.quoted(),
                    other.quoted(),
                    a.items().join(", "),
                    b.items().join(", ")
                ))
            })
        };
        let privacy = match (self.privacy, other.privacy) {
            (None, one) | (one, None) => one,
            (Some(a), Some(b)) if a.unit == b.unit => Some(a.stricter_of(&b)),
            (Some(a), Some(b)) => {
                return Err(Error::Refused(format!(
                    "{} protects the unit \"{}\" and {} the unit \"{}\": neither promise implies the other, \
                     so their officers must agree on one privacy.unit",
                    self.quoted(),
                    a.unit,
                    other.quoted(),
                    b.unit
                )));
            }
        };
        Ok(Self {
            names: self.names.union(&other.names).cloned().collect(),
            privacy,
            clip_norm: self.clip_norm.min(other.clip_norm),
            rounds: self.rounds.min(other.rounds),
            max_sampling_rate: least(self.max_sampling_rate, other.max_sampling_rate),
            aggregation: self.aggregation.stricter_of(&other.aggregation),
            backbones: common("backbone", &self.backbones, &other.backbones)?,
            encoders: common("encoder", &self.encoders, &other.encoders)?,
            tasks: common("task", &self.tasks, &other.tasks)?,
            datasets: common("dataset", &self.datasets, &other.datasets)?,
            max_age_days: self.max_age_days.stricter_of(&other.max_age_days),
            roles: self.roles.stricter_of(&other.roles),
            retention_days: none_or_larger(self.retention_days, other.retention_days),
            time: self.time.stricter_of(&other.time).ok_or_else(|| {
                Error::Refused(format!(
                    "{} and {} never hold at the same time ({} against {}): their officers must sign policies whose \
                     [time] overlaps",
                    self.quoted(),
                    other.quoted(),
                    self.time,
                    other.time
                ))
            })?,
            metrics: self.metrics.intersection(&other.metrics).copied().collect(),
        })
    }

    fn quoted(&self) -> String {
        let names: Vec<&str> = self.names().collect();
        format!("policy \"{}\"", names.join(" + "))
    }
}

impl Privacy {
    /// Of one unit. Settings are ordered from weak to strict by their types.
    fn stricter_of(&self, other: &Self) -> Self {
        Self {
            unit: self.unit,
            adjacency: self.adjacency.max(other.adjacency),
            placement: self.placement.max(other.placement),
            job: self.job.stricter_of(&other.job),
            budget: self.budget.stricter_of(&other.budget),
        }
    }
}

impl Loss {
    fn stricter_of(&self, other: &Self) -> Self {
        Self {
            epsilon: self.epsilon.min(other.epsilon),
            delta: self.delta.min(other.delta),
        }
    }
}

impl Aggregation {
    fn stricter_of(&self, other: &Self) -> Self {
        Self {
            min_contributors: self.min_contributors.max(other.min_contributors),
            colluders: self.colluders.max(other.colluders),
            threshold: self.threshold.max(other.threshold),
            committee: none_or_larger(self.committee, other.committee),
            min_cohort: self.min_cohort.max(other.min_cohort),
        }
    }
}

/// The larger of two, where none is stricter than any.
fn none_or_larger(a: Option<u32>, b: Option<u32>) -> Option<u32> {
    a.zip(b).map(|(a, b)| a.max(b))
}

/// The smaller of two limits, where any limit is less than none.
fn least<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

impl MaxAge {
    fn stricter_of(&self, other: &Self) -> Self {
        Self {
            certificate: least(self.certificate, other.certificate),
            revocation_list: least(self.revocation_list, other.revocation_list),
        }
    }
}

impl Roles {
    fn stricter_of(&self, other: &Self) -> Self {
        Self {
            submit_job: &self.submit_job & &other.submit_job,
            abort_job: &self.abort_job & &other.abort_job,
            read_log: &self.read_log & &other.read_log,
            change_policy: &self.change_policy & &other.change_policy,
        }
    }
}

impl Time {
    /// The time that both have; `None` when that is none.
    fn stricter_of(&self, other: &Self) -> Option<Self> {
        let time = Self {
            valid_from: self.valid_from.max(other.valid_from),
            valid_until: least(self.valid_until, other.valid_until),
        };
        let overlaps = time
            .valid_from
            .zip(time.valid_until)
            .is_none_or(|(from, until)| from <= until);
        overlaps.then_some(time)
    }
}

impl std::fmt::Display for Time {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.valid_from, self.valid_until) {
            (None, None) => write!(f, "always"),
            (Some(from), None) => write!(f, "from {from}"),
            (None, Some(until)) => write!(f, "until {until}"),
            (Some(from), Some(until)) => write!(f, "from {from} until {until}"),
        }
    }
}
