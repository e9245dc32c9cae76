//! The admission of a plan: every rule it breaks, or a permit.

use std::collections::BTreeSet;
use std::fmt;

use crate::committee::Sharing;
use crate::decimal::Decimal;
use crate::document::line_of;
use crate::instant::Instant;
use crate::policy::{Loss, MAX_MEMBERS, Policy};
use crate::schema;
use crate::setting::{Adjacency, Metric, Placement, Role, Unit, listed};

/// What a plan asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// Whose presence is hidden.
    pub unit: Unit,
    /// Against which change; without meaning when the unit is none.
    pub adjacency: Adjacency,
    /// Who adds the noise; without meaning when the unit is none.
    pub placement: Placement,
    /// ε of the whole job in the worst case, every attempt counted; `None` when the unit is none.
    pub epsilon: Option<Decimal>,
    /// δ of the whole job; `None` when the unit is none.
    pub delta: Option<Decimal>,
    /// C, the L2 norm updates are clipped to.
    pub clip_norm: Decimal,
    /// q, the probability with which a record enters a batch; `None` when the job draws no batches.
    pub sampling_rate: Option<Decimal>,
    /// Rounds of the job.
    pub rounds: u32,
    /// Attempts a round may take.
    pub max_attempts: u32,
    /// M, the members of the federation, out of whom a committee is drawn.
    pub members: usize,
    /// n, the members of the round.
    pub cohort: usize,
    /// The fewest of them whose updates may be summed.
    pub min_contributors: usize,
    /// c, how many of them are assumed to help the server.
    pub colluders: usize,
    /// k, how many members a committee is drawn of to hold the shares; `None` when all of the round hold one.
    pub committee: Option<usize>,
    /// t, how many of those who hold shares open a sum together.
    pub threshold: usize,
    /// SHA-256 of the backbone.
    pub backbone: [u8; 32],
    /// The task's name.
    pub task: String,
    /// The prompt encoder's name.
    pub encoder: String,
    /// What is released of each round beside the model.
    pub metrics: BTreeSet<Metric>,
    /// The role of the party that signed the job.
    pub author: Role,
    /// When this is asked: now, by the clock of whoever asks.
    pub at: Instant,
}

/// Proof that a policy admits a proposal; made by [`Policy::admit`] only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    proposal: Proposal,
    policy: [u8; 32],
}

impl Admitted {
    /// What was admitted.
    #[must_use]
    pub fn proposal(&self) -> &Proposal {
        &self.proposal
    }

    /// The digest of the policy that admits it.
    #[must_use]
    pub fn policy_digest(&self) -> &[u8; 32] {
        &self.policy
    }
}

/// One rule that a proposal breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The policy's key, or the protocol's rule.
    pub rule: String,
    /// What the proposal asks for.
    pub asked: String,
    /// What would be allowed.
    pub limit: String,
    /// Which documents say so, and where: filled in by [`Refusal::sourced`].
    pub sources: Vec<String>,
}

impl Violation {
    fn unless(kept: bool, rule: &str, asked: impl fmt::Display, limit: &str) -> Result<(), Self> {
        if kept {
            return Ok(());
        }
        Err(Self {
            rule: rule.into(),
            asked: asked.to_string().chars().take(80).collect(),
            limit: limit.into(),
            sources: Vec::new(),
        })
    }

    /// What whoever is refused can do.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        schema::remedy(&self.rule)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: asked for {}, allowed is {}",
            self.rule, self.asked, self.limit
        )?;
        if !self.sources.is_empty() {
            write!(f, " ({})", self.sources.join("; "))?;
        }
        write!(f, "; {}", self.remedy())
    }
}

/// A policy document, and what people call it: a file's name, say.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// What people call it.
    pub name: &'a str,
    /// Its text.
    pub toml: &'a str,
}

/// The most documents that a violation names: one is enough to know whom to ask.
const MOST_SOURCES: usize = 3;

/// Every rule that a proposal breaks; never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// In the order of the policy's keys.
    pub violations: Vec<Violation>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the plan goes beyond the policy")?;
        self.violations
            .iter()
            .try_for_each(|violation| write!(f, "\n  {violation}"))
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    /// Says of each violation which of `sources`, whose merger refused `proposal`, have that limit, and in which line.
    #[must_use]
    pub fn sourced(mut self, proposal: &Proposal, sources: &[Source<'_>]) -> Self {
        for source in sources {
            let Some(alone) = Policy::parse(source.toml)
                .ok()
                .and_then(|policy| policy.admit(proposal).err())
            else {
                continue;
            };
            for violation in &mut self.violations {
                let is_the_same = |other: &&Violation| {
                    (&other.rule, &other.limit) == (&violation.rule, &violation.limit)
                };
                if violation.sources.len() < MOST_SOURCES
                    && schema::key_at(&violation.rule).is_some()
                    && alone.violations.iter().any(|other| is_the_same(&other))
                {
                    violation
                        .sources
                        .push(match line_of(source.toml, &violation.rule) {
                            Some(line) => format!("{}, line {line}", source.name),
                            None => format!("{}, where it is left out", source.name),
                        });
                }
            }
        }
        self
    }
}

/// t = ⌊(n + c)/2⌋ + 1, the least with 2t ≥ n + c + 1: of one context at most one roster can gather t echoes.
#[must_use]
pub fn default_threshold(cohort: usize, colluders: usize) -> usize {
    cohort.saturating_add(colluders) / 2 + 1
}

impl Policy {
    /// Holds a proposal against the policy and against the protocol's own conditions:
    /// 2t ≥ n + c + 1, t ≤ n, `min_contributors` ≥ c + 2, and ≥ 3 when no noise is added. With a committee, k and c_k stand
    /// in the place of n and c in the first two ([`Sharing`]).
    ///
    /// # Errors
    /// [`Refusal`] with every rule broken, what was asked and what is allowed.
    pub fn admit(&self, proposal: &Proposal) -> Result<Admitted, Refusal> {
        let mut rules = Rules {
            violations: Vec::new(),
        };
        self.check_privacy(proposal, &mut rules);
        rules.at_most("privacy.clip_norm", proposal.clip_norm, self.clip_norm);
        rules.check(
            "privacy.clip_norm",
            !proposal.clip_norm.is_zero(),
            proposal.clip_norm,
            "more than 0",
        );
        rules.at_most("privacy.rounds", proposal.rounds, self.rounds);
        if let (Some(rate), Some(most)) = (proposal.sampling_rate, self.max_sampling_rate) {
            rules.at_most("privacy.max_sampling_rate", rate, most);
        }
        rules.at_least("rounds", proposal.rounds, 1);
        rules.at_least("max_attempts", proposal.max_attempts, 1);
        self.check_aggregation(proposal, &mut rules);
        let backbone: String = proposal
            .backbone
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        for (rule, asked, allowed) in [
            ("model.backbones", &backbone, &self.backbones),
            ("model.encoders", &proposal.encoder, &self.encoders),
            ("model.tasks", &proposal.task, &self.tasks),
        ] {
            rules.check(
                rule,
                allowed.allows(asked),
                asked,
                &allowed.items().join(", "),
            );
        }
        rules.check(
            "releases.metrics",
            proposal.metrics.is_subset(&self.metrics),
            listed(&proposal.metrics, "none"),
            &listed(&self.metrics, "none"),
        );
        rules.check(
            "roles.submit_job",
            self.roles.submit_job.contains(&proposal.author),
            format_args!("a job signed by {}", proposal.author.with_article()),
            &listed(&self.roles.submit_job, "nobody's"),
        );
        if let Some(from) = self.time.valid_from {
            rules.at_least("time.valid_from", proposal.at, from);
        }
        if let Some(until) = self.time.valid_until {
            rules.at_most("time.valid_until", proposal.at, until);
        }
        if rules.violations.is_empty() {
            Ok(Admitted {
                proposal: proposal.clone(),
                policy: self.digest(),
            })
        } else {
            Err(Refusal {
                violations: rules.violations,
            })
        }
    }

    /// Whether a member may train on the dataset of this name.
    ///
    /// # Errors
    /// [`Violation`] with the names that are allowed.
    pub fn admit_dataset(&self, name: &str) -> Result<(), Violation> {
        Violation::unless(
            self.datasets.allows(name),
            "model.datasets",
            format_args!("{name:?}"),
            &self.datasets.items().join(", "),
        )
    }

    /// Whether a certificate that was issued at `issued` is young enough at `now`.
    ///
    /// # Errors
    /// [`Violation`] with when it was issued, and the limit.
    pub fn admit_certificate(&self, issued: Instant, now: Instant) -> Result<(), Violation> {
        let Some(days) = self.max_age_days.certificate else {
            return Ok(());
        };
        Violation::unless(
            now <= issued.after_days(days),
            "identity.max_certificate_age_days",
            format_args!("a certificate issued at {issued}"),
            &format!("one at most {days} days old"),
        )
    }

    /// Whether the revocation list that the server holds callers to is young enough at `now`.
    ///
    /// # Errors
    /// [`Violation`] with when it was issued, and the limit.
    pub fn admit_revocation_list(&self, issued: Instant, now: Instant) -> Result<(), Violation> {
        let Some(days) = self.max_age_days.revocation_list else {
            return Ok(());
        };
        Violation::unless(
            now <= issued.after_days(days),
            "identity.max_revocation_list_age_days",
            format_args!("a revocation list issued at {issued}"),
            &format!("one at most {days} days old"),
        )
    }

    /// Whether a party of this role may stop a job that it has not signed.
    ///
    /// # Errors
    /// [`Violation`] with the roles that may.
    pub fn admit_abort(&self, role: Role) -> Result<(), Violation> {
        Violation::unless(
            self.roles.abort_job.contains(&role),
            "roles.abort_job",
            format_args!("an end by {}", role.with_article()),
            &listed(&self.roles.abort_job, "the signer's alone"),
        )
    }

    /// Whether a party of this role may get the server's audit log.
    ///
    /// # Errors
    /// [`Violation`] with the roles that may.
    pub fn admit_log_reader(&self, role: Role) -> Result<(), Violation> {
        Violation::unless(
            self.roles.read_log.contains(&role),
            "roles.read_log",
            format_args!("a request for the audit log by {}", role.with_article()),
            &listed(&self.roles.read_log, "nobody's"),
        )
    }

    fn check_privacy(&self, proposal: &Proposal, rules: &mut Rules) {
        if let Some(promise) = &self.privacy {
            rules.check(
                "privacy.unit",
                proposal.unit == promise.unit,
                proposal.unit,
                promise.unit.as_str(),
            );
        }
        if proposal.unit == Unit::None {
            for (rule, claimed) in [
                ("privacy.epsilon", proposal.epsilon),
                ("privacy.delta", proposal.delta),
            ] {
                if let Some(claimed) = claimed {
                    rules.check(rule, false, claimed, "no such promise without privacy");
                }
            }
            return;
        }
        let (Some(epsilon), Some(delta)) = (proposal.epsilon, proposal.delta) else {
            rules.check(
                "privacy.epsilon, privacy.delta",
                false,
                "no promise",
                "both stated for a private unit",
            );
            return;
        };
        rules.check(
            "privacy.epsilon",
            !epsilon.is_zero(),
            epsilon,
            "more than 0",
        );
        rules.check(
            "privacy.delta",
            !delta.is_zero() && delta < Decimal::ONE,
            delta,
            "more than 0, less than 1",
        );
        if let Some(promise) = &self.privacy {
            let Loss {
                epsilon: most_epsilon,
                delta: most_delta,
            } = promise.job;
            rules.at_most("privacy.epsilon", epsilon, most_epsilon);
            rules.at_most("privacy.delta", delta, most_delta);
            rules.at_least("privacy.adjacency", proposal.adjacency, promise.adjacency);
            rules.at_least("privacy.placement", proposal.placement, promise.placement);
        }
    }

    fn check_aggregation(&self, proposal: &Proposal, rules: &mut Rules) {
        let Proposal {
            cohort: n,
            min_contributors,
            colluders: c,
            committee,
            threshold: t,
            ..
        } = *proposal;
        let limits = self.aggregation;
        rules.at_least(
            "aggregation.min_contributors",
            min_contributors,
            limits.min_contributors as usize,
        );
        rules.at_least("aggregation.colluders", c, limits.colluders as usize);
        if let Some(least) = limits.threshold {
            rules.at_least("aggregation.threshold", t, least as usize);
        }
        rules.at_least("aggregation.min_cohort", n, limits.min_cohort as usize);
        rules.at_most("most members of a round", n, MAX_MEMBERS as usize);
        rules.at_most("min_contributors within the cohort", min_contributors, n);
        rules.at_least(
            "min_contributors ≥ colluders + 2",
            min_contributors,
            c.saturating_add(2),
        );
        if proposal.unit == Unit::None {
            rules.at_least("min_contributors without noise", min_contributors, 3);
        }
        match (committee, limits.committee) {
            (Some(k), Some(least)) => {
                rules.at_least("aggregation.committee", k, least as usize);
            }
            (Some(k), None) => rules.check(
                "aggregation.committee",
                false,
                format_args!("a committee of {k}"),
                "none: every member of a round holds a share",
            ),
            (None, _) => {}
        }
        let within = match committee {
            Some(_) => [
                "threshold within the committee",
                "2·threshold ≥ committee + colluders within it + 1",
            ],
            None => [
                "threshold within the cohort",
                "2·threshold ≥ cohort + colluders + 1",
            ],
        };
        match Sharing::of(proposal.members, n, c, committee) {
            Ok(sharing) => {
                rules.at_most(within[0], t, sharing.holders);
                rules.at_least(within[1], t, sharing.least_threshold());
            }
            Err(error) => rules.check(
                "the draw of the committee",
                false,
                committee.unwrap_or(n),
                &error.to_string(),
            ),
        }
    }
}

struct Rules {
    violations: Vec<Violation>,
}

impl Rules {
    fn check(&mut self, rule: &str, kept: bool, asked: impl fmt::Display, limit: &str) {
        if let Err(violation) = Violation::unless(kept, rule, asked, limit) {
            self.violations.push(violation);
        }
    }

    fn at_most<T: PartialOrd + fmt::Display>(&mut self, rule: &str, asked: T, limit: T) {
        self.check(rule, asked <= limit, &asked, &format!("at most {limit}"));
    }

    fn at_least<T: PartialOrd + fmt::Display>(&mut self, rule: &str, asked: T, limit: T) {
        self.check(rule, asked >= limit, &asked, &format!("at least {limit}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_threshold_is_the_designs_table() {
        // (n, c) → members that may be missing, n − t.
        for (n, c, missing) in [(3, 0, 1), (3, 1, 0), (4, 1, 1), (7, 2, 2)] {
            assert_eq!(n - default_threshold(n, c), missing, "n = {n}, c = {c}");
        }
    }

    #[test]
    fn the_default_threshold_is_the_least_that_the_protocol_allows() {
        for n in 2..60 {
            for c in 0..n {
                let t = default_threshold(n, c);
                assert!(2 * t > n + c, "n = {n}, c = {c}");
                assert!(2 * (t - 1) < n + c + 1, "n = {n}, c = {c}");
            }
        }
    }
}
