//! A job's privacy mechanism, reckoned anew by each member from what the job states.

use ciphertune_dp::{
    FrozenSchedule, Mechanism, MechanismSpec, SamplingRate,
    accounting::{self, Accountant},
    rdp::Curve,
};
use ciphertune_ledger::Cost;
use ciphertune_policy::{Decimal, Unit};
use ciphertune_round::Job;

use crate::error::{Error, Result};

/// The mechanism of a job's rounds, and what they cost.
pub struct Reckoned {
    /// Scale, noise, value bound.
    pub mechanism: Mechanism,
    /// What one attempt costs a dataset, worst case; `None` for unit none.
    pub attempt: Option<Curve>,
    /// ε of all attempts of all rounds at the job's δ, rounded up; `None` for unit none.
    pub epsilon: Option<f64>,
    /// q.
    pub rate: SamplingRate,
}

impl Reckoned {
    /// Derives the mechanism of `job` when at least `min_contributors` answer and `colluders` of them subtract their
    /// own noise.
    ///
    /// # Errors
    /// [`Error::Refused`] when the job's value bound or ε are not what follows from its other numbers.
    pub fn of(job: &Job, min_contributors: usize, colluders: usize) -> Result<Self> {
        let stated = &job.mechanism;
        let dimension = usize::try_from(job.dimension)
            .map_err(|_| Error::Refused(format!("{} numbers do not fit here", job.dimension)))?;
        let mechanism = Mechanism::derive(&MechanismSpec {
            unit: stated.unit,
            adjacency: stated.adjacency,
            placement: stated.placement,
            clip_norm: stated.clip_norm,
            noise_multiplier: stated.noise_multiplier,
            scale_log2: None,
            value_bits: stated.value_bits,
            min_contributors,
            colluders,
            dimension,
            max_examples: stated.max_examples(),
        })?;
        if mechanism.value_bound() != job.value_bound {
            return Err(Error::Refused(format!(
                "the job states a value bound of {}; its clip norm, noise and cohort give {}",
                job.value_bound,
                mechanism.value_bound()
            )));
        }
        let rate = SamplingRate::new(stated.sampling_rate())?;
        if stated.unit == Unit::None {
            return Ok(Self {
                mechanism,
                attempt: None,
                epsilon: None,
                rate,
            });
        }
        let (Some(promised), Some(delta)) = (stated.epsilon, stated.delta) else {
            return Err(Error::Refused(format!(
                "a job with unit {} states epsilon and delta",
                stated.unit
            )));
        };
        let attempt = Curve::per_round(&mechanism, min_contributors, rate)?;
        let attempts = attempts_of(job);
        let epsilon = epsilon_after(&mechanism, rate, attempts, &delta)?;
        if epsilon > promised.to_f64_down() {
            return Err(Error::Refused(format!(
                "the job promises epsilon = {promised} at delta = {delta}, but {attempts} attempts of its mechanism \
                 cost {epsilon:.4}"
            )));
        }
        Ok(Self {
            mechanism,
            attempt: Some(attempt),
            epsilon: Some(epsilon),
            rate,
        })
    }

    /// Refuses thresholds under which the job's noise is less than it promises: with m = min_contributors −
    /// max(colluders, 1), each member's share is 1/m of the target variance.
    pub fn demand_enough_noise(job: &Job, min_contributors: usize, colluders: usize) -> Result<()> {
        let honest =
            |contributors: usize, colluders: usize| contributors.saturating_sub(colluders.max(1));
        let (planned, calibrated) = (
            honest(min_contributors, colluders),
            honest(job.min_contributors, job.colluders),
        );
        if job.mechanism.unit != Unit::None && planned < calibrated {
            return Err(Error::Refused(format!(
                "the job's noise is shared by {calibrated} honest members, but with at least {min_contributors} \
                 contributors and {colluders} colluders only {planned} may be there: draft the job for these"
            )));
        }
        Ok(())
    }

    /// ε at δ that `attempts` attempts have cost; `None` for unit none.
    pub fn epsilon_of(&self, attempts: u64, delta: Option<&Decimal>) -> Result<Option<f64>> {
        match (&self.attempt, delta) {
            (Some(_), Some(delta)) if attempts > 0 => {
                epsilon_after(&self.mechanism, self.rate, attempts, delta).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// What one attempt costs at the worst case, in the ledger's units; 0 for unit none.
    pub fn attempt_cost(&self) -> Result<Cost> {
        match &self.attempt {
            Some(attempt) => Ok(Cost::of(attempt)?),
            None => Ok(Cost::ZERO),
        }
    }

    /// What an attempt costs whose sum has these contributors, so many of whom subtract their own noise: the more honest
    /// ones, the more noise.
    ///
    /// # Errors
    /// [`Error::Refused`] below the fewest members that the noise was calibrated for, and for unit none.
    pub fn cost_with(&self, contributors: usize, colluders: usize) -> Result<Cost> {
        // A plan may assume more colluders than the job did: as much noise as with so many fewer contributors.
        let assumed = self.mechanism.spec().colluders;
        let more = colluders.max(1).saturating_sub(assumed.max(1));
        let contributors = contributors.saturating_sub(more);
        let curve = Curve::per_round(&self.mechanism, contributors, self.rate)?;
        Ok(Cost::of(&curve)?)
    }
}

/// The most attempts that a job may take: each is paid for.
pub fn attempts_of(job: &Job) -> u64 {
    u64::from(job.rounds) * u64::from(job.max_attempts)
}

/// ε at δ of so many attempts, in each of which the fewest members answered, rounded up; the sampler's distance is booked
/// in δ. By the curves that a ledger is charged.
fn epsilon_after(
    mechanism: &Mechanism,
    rate: SamplingRate,
    attempts: u64,
    delta: &Decimal,
) -> Result<f64> {
    let attempts = u32::try_from(attempts).map_err(|_| {
        Error::Refused(format!(
            "{attempts} attempts (rounds × max_attempts) are beyond any budget"
        ))
    })?;
    let schedule = FrozenSchedule::of(mechanism, rate, attempts)?;
    Ok(accounting::epsilon(Accountant::Rdp, &schedule, delta)?
        .epsilon
        .get())
}
