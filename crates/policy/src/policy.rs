//! A policy: what a federation or a site allows.

use std::collections::BTreeSet;

use crate::allowed::Allowed;
use crate::decimal::Decimal;
use crate::setting::{Adjacency, Metric, Placement, Unit};

/// Most members, hence most of anything that counts members.
pub const MAX_MEMBERS: u32 = 1000;
/// Most rounds a policy may allow.
pub const MAX_ROUNDS: u32 = 1_000_000;

/// What is allowed. Made by [`Policy::parse`] or [`Policy::merge`] only, so each one is whole and consistent:
/// δ ∈ (0, 1), ε, C > 0, budget ≥ the job's limits, `min_contributors` ≥ `colluders` + 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub(crate) names: BTreeSet<String>,
    /// `None` is `unit = "none"`, written out.
    pub(crate) privacy: Option<Privacy>,
    pub(crate) clip_norm: Decimal,
    pub(crate) rounds: u32,
    pub(crate) aggregation: Aggregation,
    pub(crate) backbones: Allowed,
    pub(crate) encoders: Allowed,
    pub(crate) tasks: Allowed,
    pub(crate) metrics: BTreeSet<Metric>,
}

/// The promise of differential privacy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Privacy {
    /// Never `Unit::None`.
    pub(crate) unit: Unit,
    pub(crate) adjacency: Adjacency,
    pub(crate) placement: Placement,
    /// At most this for one job.
    pub(crate) job: Loss,
    /// At most this over a dataset's life.
    pub(crate) budget: Loss,
}

/// A limit on privacy loss: (ε, δ).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loss {
    /// ε > 0
    pub epsilon: Decimal,
    /// 0 < δ < 1
    pub delta: Decimal,
}

/// Who must take part for a sum to be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Aggregation {
    pub(crate) min_contributors: u32,
    pub(crate) colluders: u32,
    pub(crate) threshold: Option<u32>,
    pub(crate) committee: Option<u32>,
    pub(crate) min_cohort: u32,
}

impl Policy {
    /// The names of the policies this one was merged from; one when it was read from a file.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Whose presence is hidden.
    #[must_use]
    pub fn unit(&self) -> Unit {
        self.privacy.map_or(Unit::None, |privacy| privacy.unit)
    }

    /// Against which change; `None` when the unit is none.
    #[must_use]
    pub fn adjacency(&self) -> Option<Adjacency> {
        self.privacy.map(|privacy| privacy.adjacency)
    }

    /// Who adds the noise; `None` when the unit is none.
    #[must_use]
    pub fn placement(&self) -> Option<Placement> {
        self.privacy.map(|privacy| privacy.placement)
    }

    /// The most one job may cost; `None` when the unit is none.
    #[must_use]
    pub fn job_limit(&self) -> Option<Loss> {
        self.privacy.map(|privacy| privacy.job)
    }

    /// The most a dataset may cost over its life; `None` when the unit is none.
    #[must_use]
    pub fn budget(&self) -> Option<Loss> {
        self.privacy.map(|privacy| privacy.budget)
    }

    /// C, the largest L2 norm of one clipped update.
    #[must_use]
    pub fn clip_norm(&self) -> Decimal {
        self.clip_norm
    }

    /// The most rounds of one job.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// The fewest contributors a sum may have.
    #[must_use]
    pub fn min_contributors(&self) -> u32 {
        self.aggregation.min_contributors
    }

    /// How many members are assumed to help the server, at least.
    #[must_use]
    pub fn colluders(&self) -> u32 {
        self.aggregation.colluders
    }

    /// The fewest members that may open a sum, where the policy says so; else it follows from the cohort or the committee
    /// ([`crate::Sharing::least_threshold`]).
    #[must_use]
    pub fn threshold(&self) -> Option<u32> {
        self.aggregation.threshold
    }

    /// The fewest members that a committee may have to which shares go; `None` where every member of a round must hold one.
    #[must_use]
    pub fn committee(&self) -> Option<u32> {
        self.aggregation.committee
    }

    /// The fewest members a round may be started with.
    #[must_use]
    pub fn min_cohort(&self) -> u32 {
        self.aggregation.min_cohort
    }

    /// The backbones that may be tuned, as hex SHA-256 digests.
    #[must_use]
    pub fn backbones(&self) -> &Allowed {
        &self.backbones
    }

    /// The prompt encoders that may be trained.
    #[must_use]
    pub fn encoders(&self) -> &Allowed {
        &self.encoders
    }

    /// The tasks that may be trained for.
    #[must_use]
    pub fn tasks(&self) -> &Allowed {
        &self.tasks
    }

    /// The metrics that may be released with each round's sum, noised unless the unit is none.
    #[must_use]
    pub fn metrics(&self) -> &BTreeSet<Metric> {
        &self.metrics
    }
}
