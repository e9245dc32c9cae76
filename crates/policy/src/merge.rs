//! The strictest of several policies.

use crate::allowed::Allowed;
use crate::error::Error;
use crate::policy::{Aggregation, Loss, Policy, Privacy};

impl Policy {
    /// The policy that admits exactly what every part admits.
    ///
    /// The least of all ε, δ, clips and rounds; the greatest of all minimums, colluders and thresholds; what
    /// all lists have in common. A share for everybody is stricter than a committee, and the larger one than the smaller.
    /// `replace-one` is stricter than `zero-out` (0 is one of the vectors that may stand in), `local` than `distributed` (the sum is computed from what is already private). A unit is
    /// stricter than `none`; `institution` and `record` promise different things and neither yields.
    /// Commutative, associative, idempotent.
    ///
    /// # Errors
    /// `Misuse` without parts. `Refused` when nothing could satisfy all parts: two units that differ, or
    /// lists with nothing in common; names the two policies and what to settle.
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
                    "{} and {} allow no common {what} ({} against {}): their officers must agree on one",
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
            aggregation: self.aggregation.stricter_of(&other.aggregation),
            backbones: common("backbone", &self.backbones, &other.backbones)?,
            encoders: common("encoder", &self.encoders, &other.encoders)?,
            tasks: common("task", &self.tasks, &other.tasks)?,
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
            committee: self.committee.zip(other.committee).map(|(a, b)| a.max(b)),
            min_cohort: self.min_cohort.max(other.min_cohort),
        }
    }
}
