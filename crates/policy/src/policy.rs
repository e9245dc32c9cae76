//! A policy: what a federation or a site allows.

use std::collections::BTreeSet;

use crate::allowed::Allowed;
use crate::decimal::Decimal;
use crate::instant::Instant;
use crate::setting::{Adjacency, Metric, Placement, Role, Unit};

/// Most members, hence most of anything that counts members.
pub const MAX_MEMBERS: u32 = 1000;
/// Most rounds a policy may allow.
pub const MAX_ROUNDS: u32 = 1_000_000;
/// Most days of an age that a policy may limit: ten years.
pub const MAX_DAYS: u32 = 3_650;

/// What is allowed. Made by [`Policy::parse`] or [`Policy::merge`] only, so each one is whole and consistent:
/// δ ∈ (0, 1), ε, C > 0, budget ≥ the job's limits, `min_contributors` ≥ `colluders` + 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    pub(crate) names: BTreeSet<String>,
    /// `None` is `unit = "none"`, written out.
    pub(crate) privacy: Option<Privacy>,
    pub(crate) clip_norm: Decimal,
    pub(crate) rounds: u32,
    /// `None`: any rate.
    pub(crate) max_sampling_rate: Option<Decimal>,
    pub(crate) aggregation: Aggregation,
    pub(crate) backbones: Allowed,
    pub(crate) encoders: Allowed,
    pub(crate) tasks: Allowed,
    pub(crate) datasets: Allowed,
    pub(crate) metrics: BTreeSet<Metric>,
    pub(crate) max_age_days: MaxAge,
    pub(crate) roles: Roles,
    /// Days that evidence is kept; `None`: for ever.
    pub(crate) retention_days: Option<u32>,
    pub(crate) time: Time,
}

/// How many days old papers may be; `None`: any age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MaxAge {
    pub(crate) certificate: Option<u32>,
    pub(crate) revocation_list: Option<u32>,
}

/// Who may do what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Roles {
    pub(crate) submit_job: BTreeSet<Role>,
    pub(crate) abort_job: BTreeSet<Role>,
    pub(crate) read_log: BTreeSet<Role>,
    pub(crate) change_policy: BTreeSet<Role>,
}

impl Default for Roles {
    fn default() -> Self {
        Self {
            submit_job: BTreeSet::from([Role::Researcher]),
            abort_job: BTreeSet::from([Role::Member]),
            read_log: BTreeSet::from([Role::Auditor]),
            change_policy: BTreeSet::from([Role::Officer]),
        }
    }
}

/// From when until when, both inclusive; `None`: from ever, for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) valid_from: Option<Instant>,
    pub(crate) valid_until: Option<Instant>,
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

    /// The greatest probability with which a record may enter a batch; `None`: any.
    #[must_use]
    pub fn max_sampling_rate(&self) -> Option<Decimal> {
        self.max_sampling_rate
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

    /// The names of the datasets that members may train on.
    #[must_use]
    pub fn datasets(&self) -> &Allowed {
        &self.datasets
    }

    /// How many days ago a party's certificate may have been issued; `None`: as its validity says.
    #[must_use]
    pub fn max_certificate_age_days(&self) -> Option<u32> {
        self.max_age_days.certificate
    }

    /// How many days ago the revocation list in force may have been issued; `None`: as its validity says.
    #[must_use]
    pub fn max_revocation_list_age_days(&self) -> Option<u32> {
        self.max_age_days.revocation_list
    }

    /// Whose certificates may sign jobs.
    #[must_use]
    pub fn may_submit(&self) -> &BTreeSet<Role> {
        &self.roles.submit_job
    }

    /// Who may stop a job beside the party that signed it.
    #[must_use]
    pub fn may_abort(&self) -> &BTreeSet<Role> {
        &self.roles.abort_job
    }

    /// Who may get the server's audit log.
    #[must_use]
    pub fn may_read_log(&self) -> &BTreeSet<Role> {
        &self.roles.read_log
    }

    /// Whether officers may put another federation policy in this one's place, under the same manifest.
    #[must_use]
    pub fn may_be_replaced(&self) -> bool {
        self.roles.change_policy.contains(&Role::Officer)
    }

    /// How many days after a job's end what its audit log rests on is kept, at least; `None`: for ever.
    #[must_use]
    pub fn retention_days(&self) -> Option<u32> {
        self.retention_days
    }

    /// When it begins to hold.
    #[must_use]
    pub fn valid_from(&self) -> Option<Instant> {
        self.time.valid_from
    }

    /// The last second in which it holds.
    #[must_use]
    pub fn valid_until(&self) -> Option<Instant> {
        self.time.valid_until
    }

    /// The metrics that may be released with each round's sum, noised unless the unit is none.
    #[must_use]
    pub fn metrics(&self) -> &BTreeSet<Metric> {
        &self.metrics
    }
}
