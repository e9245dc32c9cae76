//! From a researcher's wishes to a job whose numbers follow from the policy: noise calibrated, value bound derived,
//! first model made.

use std::{collections::BTreeSet, time::Duration};

use ciphertune_dp::{
    Mechanism as Derived, MechanismSpec, SamplingRate,
    accounting::{self, Accountant},
};
use ciphertune_policy::{Adjacency, Decimal, Loss, Metric, Placement, Policy, Unit};
use ciphertune_round::{Batches, Deadlines, Digest, Job, Mechanism, Object as _};
use rand_core::Rng as _;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    learner::Start,
    model,
    tuning::Tuning,
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
    /// Bits for one noised integer, sign included: more is finer, and more bytes. With much noise it grows by itself; at
    /// record level these are one record's, and a sum of many takes more.
    #[serde(default = "sixteen")]
    pub value_bits: u32,
    /// Record level, or a policy of unit none: the probability with which each record enters a round's batch, on its own. A
    /// round is then one step of the optimiser.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampling_rate: Option<Decimal>,
    /// With batches: what the opened sum of a round is divided by, a public number: the sampling rate times all records
    /// of the federation, as far as they are publicly known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nominal_batch: Option<u32>,
    /// With batches: no member has more records than this; one that has refuses the job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_examples: Option<u32>,
    /// With batches: what is released of each round beside the model, where the policy allows it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub metrics: BTreeSet<Metric>,
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

    /// Whether the rounds of its job draw batches of single records: always where the policy hides these, and where it
    /// hides nothing, if a sampling rate is stated.
    pub fn in_batches(&self, policy: &Policy) -> bool {
        match policy.unit() {
            Unit::Record => true,
            Unit::Institution => false,
            Unit::None => self.sampling_rate.is_some(),
        }
    }

    /// The job: mechanism and thresholds from `policy`, first state from the seed (`start` is what
    /// [`Tuner::start`](crate::tuning::Tuner::start) gives for [`Draft::in_batches`]), a fresh nonce.
    ///
    /// # Errors
    /// [`Error::Refused`] when the policy leaves no such mechanism, or a number does not fit; as [`Job::parse`] where the
    /// job would be refused by everybody who reads it.
    pub fn job(
        &self,
        federation: &str,
        policy: &Policy,
        backbone: Digest,
        start: &Start,
    ) -> Result<Job> {
        let min_contributors = policy.min_contributors() as usize;
        let colluders = policy.colluders() as usize;
        let mechanism = self.mechanism(policy)?;
        let dimension = start.dimension + mechanism.metrics().len();
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
            dimension,
            max_examples: mechanism.max_examples(),
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
            task: self.tuning.route.task().into(),
            encoder: self.tuning.training.encoder.kind().into(),
            mechanism,
            dimension: dimension as u64,
            state: start.state.len() as u64,
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
            initial_model: model::digest(&start.state),
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
            batches: None,
        };
        let base = if self.in_batches(policy) {
            self.with_batches(base)?
        } else {
            self.without_batches(base)?
        };
        let (epsilon, delta) = match (unit, policy.job_limit()) {
            (Unit::None, _) => return Ok(base),
            (_, Some(Loss { epsilon, delta })) => (epsilon, delta),
            (_, None) => return Err(Error::Refused("the policy states no epsilon".into())),
        };
        let attempts = self
            .rounds
            .checked_mul(self.max_attempts)
            .ok_or_else(|| Error::Refused("rounds × max_attempts is beyond any budget".into()))?;
        // By the curves that ledgers are charged: what is drafted fits a budget as large.
        let noise_multiplier = accounting::calibrate(
            Accountant::Rdp,
            &epsilon,
            &delta,
            SamplingRate::new(base.sampling_rate())?,
            attempts,
            base.adjacency,
        )?;
        Ok(Mechanism {
            noise_multiplier,
            epsilon: Some(epsilon),
            delta: Some(delta),
            ..base
        })
    }

    /// What a job says of its batches.
    fn with_batches(&self, base: Mechanism) -> Result<Mechanism> {
        let missing = |key: &str| {
            Error::Refused(format!(
                "the job draws batches of single records, and its file has no {key}: sampling_rate, nominal_batch and \
                 max_examples say how"
            ))
        };
        let sampling_rate = self.sampling_rate.ok_or_else(|| missing("sampling_rate"))?;
        SamplingRate::new(sampling_rate)?;
        let nominal_batch = self.nominal_batch.ok_or_else(|| missing("nominal_batch"))?;
        let max_examples = self.max_examples.ok_or_else(|| missing("max_examples"))?;
        if nominal_batch == 0 || max_examples == 0 {
            return Err(Error::Refused(
                "nominal_batch and max_examples are at least 1".into(),
            ));
        }
        Ok(Mechanism {
            // A sum of up to 2^k integers takes k bits more.
            value_bits: self
                .value_bits
                .saturating_add(u32::BITS - (max_examples - 1).leading_zeros()),
            batches: Some(Batches {
                sampling_rate,
                nominal_batch,
                max_examples: max_examples as usize,
                metrics: self.metrics.clone(),
            }),
            ..base
        })
    }

    fn without_batches(&self, base: Mechanism) -> Result<Mechanism> {
        let stated: [(&str, bool); 4] = [
            ("sampling_rate", self.sampling_rate.is_some()),
            ("nominal_batch", self.nominal_batch.is_some()),
            ("max_examples", self.max_examples.is_some()),
            ("metrics", !self.metrics.is_empty()),
        ];
        match stated.iter().find(|(_, is_stated)| *is_stated) {
            Some((key, _)) => Err(Error::Refused(format!(
                "{key} belongs to jobs at record level, or of unit none with a sampling_rate; the policy's unit is {}",
                base.unit
            ))),
            None => Ok(base),
        }
    }
}
