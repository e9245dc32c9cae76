//! What job and policy together ask of a round: how many contribute, how many may collude, who holds shares, how many open.

use ciphertune_policy::{Instant, Policy, Proposal, Role, Sharing};

use crate::{
    error::{Error, Result},
    job::Job,
};

/// The counts of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// M: members of the manifest.
    pub members: usize,
    /// n: members of the round.
    pub cohort: usize,
    /// Fewest contributors whose sum is opened.
    pub min_contributors: usize,
    /// c: members assumed to help the server.
    pub colluders: usize,
    /// k: how many members are drawn to hold shares; `None`: all of the cohort hold one.
    pub committee: Option<usize>,
    /// t: how many of those who hold shares it takes to open the sum.
    pub threshold: usize,
}

impl Job {
    /// The stricter of job and policy in everything, for a cohort of n out of a federation of M: the larger minimum, more
    /// colluders, the larger committee or none, and a threshold no lower than those want.
    ///
    /// # Errors
    /// [`Error::Refused`] when no such committee can be drawn.
    pub fn terms(&self, policy: &Policy, members: usize, cohort: usize) -> Result<Terms> {
        let colluders = self.colluders.max(policy.colluders() as usize);
        let committee = self
            .committee
            .zip(policy.committee())
            .map(|(wanted, least)| wanted.max(least as usize));
        let sharing = Sharing::of(members, cohort, colluders, committee)
            .map_err(|error| Error::Refused(error.to_string()))?;
        let stated = self.threshold.max(policy.threshold().map(|t| t as usize));
        Ok(Terms {
            members,
            cohort,
            min_contributors: self
                .min_contributors
                .max(policy.min_contributors() as usize),
            colluders,
            committee,
            threshold: sharing.least_threshold().max(stated.unwrap_or(0)),
        })
    }

    /// What the job, signed by a party of this role, asks of a policy on these terms, `at` the time of asking.
    pub fn proposal(&self, terms: &Terms, author: Role, at: Instant) -> Proposal {
        Proposal {
            unit: self.mechanism.unit,
            adjacency: self.mechanism.adjacency,
            placement: self.mechanism.placement,
            epsilon: self.mechanism.epsilon,
            delta: self.mechanism.delta,
            clip_norm: self.mechanism.clip_norm,
            sampling_rate: self
                .mechanism
                .batches
                .as_ref()
                .map(|batches| batches.sampling_rate),
            rounds: self.rounds,
            max_attempts: self.max_attempts,
            members: terms.members,
            cohort: terms.cohort,
            min_contributors: terms.min_contributors,
            colluders: terms.colluders,
            committee: terms.committee,
            threshold: terms.threshold,
            backbone: *self.backbone.as_bytes(),
            task: self.task.clone(),
            encoder: self.encoder.clone(),
            metrics: self.mechanism.metrics(),
            author,
            at,
        }
    }
}
