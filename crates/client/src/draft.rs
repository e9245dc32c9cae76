//! From a researcher's wishes to a job whose numbers follow from the policy: noise calibrated, value bound derived,
//! first model made.

use std::time::Duration;

use ciphertune_dp::{
    Mechanism as Derived, MechanismSpec, SamplingRate,
    accounting::{self, Accountant},
};
use ciphertune_policy::{Adjacency, Decimal, Placement, Policy, Unit};
use ciphertune_round::{Deadlines, Digest, Job, Mechanism, Object as _};
use rand_core::Rng as _;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    model,
    tuning::{CLASSIFICATION, Tuning},
};

/// What a researcher writes, as TOML or in code. Everything about privacy comes from the policy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// A name for people.
    pub name: String,
    /// Rounds.
    pub rounds: u32,
    /// Attempts that a round may take. Each is paid for in advance.
    #[serde(default = "one")]
    pub max_attempts: u32,
    /// Members that the job waits for.
    pub members: usize,
    /// How many members are drawn to hold the shares of each key, where the policy allows a committee so small; left out:
    /// everybody in a round holds one.
    #[serde(default)]
    pub committee: Option<usize>,
    /// Bits for one noised integer, sign included: more is finer, and more bytes. With much noise it grows by itself.
    #[serde(default = "sixteen")]
    pub value_bits: u32,
    /// Seconds for training, sealing and sending.
    pub contribute_seconds: u64,
    /// Seconds for echo and release.
    #[serde(default = "minute")]
    pub open_seconds: u64,
    /// Seconds for opening and agreeing.
    #[serde(default = "minute")]
    pub agree_seconds: u64,
    /// The task and the training.
    pub tuning: Tuning,
}

fn one() -> u32 {
    1
}

fn sixteen() -> u32 {
    16
}

fn minute() -> u64 {
    60
}

impl Draft {
    /// Reads a job's file.
    pub fn from_toml(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|error| Error::malformed("job file", error))
    }

    /// The job: mechanism and thresholds from `policy`, first model from the seed (`first_model` is what
    /// [`Tuner::first_model`](crate::tuning::Tuner::first_model) gives), a fresh nonce.
    ///
    /// # Errors
    /// [`Error::Refused`] when the policy leaves no such mechanism, or a number does not fit; as [`Job::parse`] where the
    /// job would be refused by everybody who reads it.
    pub fn job(
        &self,
        federation: &str,
        policy: &Policy,
        backbone: Digest,
        first_model: &[f32],
    ) -> Result<Job> {
        let min_contributors = policy.min_contributors() as usize;
        let colluders = policy.colluders() as usize;
        let mechanism = self.mechanism(policy)?;
        let derived = Derived::derive(&MechanismSpec {
            unit: mechanism.unit,
            adjacency: mechanism.adjacency,
            placement: mechanism.placement,
            clip_norm: mechanism.clip_norm,
            noise_multiplier: mechanism.noise_multiplier,
            scale_log2: None,
            value_bits: mechanism.value_bits,
            min_contributors,
            colluders,
            dimension: first_model.len(),
            max_examples: mechanism.max_examples,
        })?;
        let mut nonce = [0; 32];
        ciphertune_gauss::Entropy::from_os()
            .map_err(|error| Error::fault("entropy", error))?
            .fill_bytes(&mut nonce);
        let job = Job {
            federation: federation.to_owned(),
            name: self.name.clone(),
            backbone,
            tuning: self.tuning.to_json()?,
            task: CLASSIFICATION.into(),
            encoder: self.tuning.training.encoder.kind().into(),
            mechanism,
            dimension: first_model.len() as u64,
            value_bound: derived.value_bound(),
            rounds: self.rounds,
            max_attempts: self.max_attempts,
            min_contributors,
            colluders,
            threshold: policy.threshold().map(|threshold| threshold as usize),
            committee: self.allowed_committee(policy)?,
            deadlines: Deadlines {
                contribute: Duration::from_secs(self.contribute_seconds),
                open: Duration::from_secs(self.open_seconds),
                agree: Duration::from_secs(self.agree_seconds),
            },
            initial_model: model::digest(first_model),
            expected_members: self.members,
            nonce,
        };
        // What is signed is what everybody reads: a number that its field cannot hold is refused here, not cut short.
        if Job::parse(&job.serialise())? == job {
            Ok(job)
        } else {
            Err(Error::Refused(
                "a number of the job is too large for its field".into(),
            ))
        }
    }

    /// The committee that is wished for.
    fn allowed_committee(&self, policy: &Policy) -> Result<Option<usize>> {
        let Some(size) = self.committee else {
            return Ok(None);
        };
        match policy.committee().map(|least| least as usize) {
            Some(least) if size >= least => Ok(Some(size)),
            Some(least) => Err(Error::Refused(format!(
                "a committee of {size} is wished for, and the policy allows none below {least}"
            ))),
            None => Err(Error::Refused(format!(
                "a committee of {size} is wished for, and the policy allows none: every member of a round holds a share"
            ))),
        }
    }

    /// The mechanism with the policy's ε and δ used up by the job's attempts: no more noise than is needed.
    fn mechanism(&self, policy: &Policy) -> Result<Mechanism> {
        let unit = policy.unit();
        let (adjacency, placement) = (policy.adjacency(), policy.placement());
        let base = Mechanism {
            unit,
            adjacency: adjacency.unwrap_or(Adjacency::ZeroOut),
            placement: placement.unwrap_or(Placement::Distributed),
            clip_norm: policy.clip_norm(),
            noise_multiplier: Decimal::ZERO,
            epsilon: None,
            delta: None,
            value_bits: self.value_bits,
            max_examples: 1,
        };
        match (unit, policy.job_limit()) {
            (Unit::None, _) => Ok(base),
            (Unit::Record, _) => Err(Error::Refused(
                "record-level jobs are not supported by this version: use a policy with unit = \"institution\", or \
                 unit = \"none\" in a laboratory"
                    .into(),
            )),
            (Unit::Institution, None) => Err(Error::Refused("the policy states no epsilon".into())),
            (Unit::Institution, Some(loss)) => {
                let attempts = self
                    .rounds
                    .checked_mul(self.max_attempts)
                    .ok_or_else(|| Error::Refused("rounds × max_attempts is beyond any budget".into()))?;
                Ok(Mechanism {
                    // By the curves that ledgers are charged: what is drafted fits a budget as large.
                    noise_multiplier: accounting::calibrate(
                        Accountant::Rdp,
                        &loss.epsilon,
                        &loss.delta,
                        SamplingRate::WHOLE,
                        attempts,
                        base.adjacency,
                    )?,
                    epsilon: Some(loss.epsilon),
                    delta: Some(loss.delta),
                    ..base
                })
            }
        }
    }
}
