//! A job's privacy mechanism, reckoned anew by each member from what the job states.

use ciphertune_dp::{Mechanism, MechanismSpec, zcdp};
use ciphertune_ledger::Rho;
use ciphertune_policy::{Decimal, Unit};
use ciphertune_round::Job;

use crate::error::{Error, Result};

/// The mechanism of a job's rounds, and what they cost.
pub struct Reckoned {
    /// Scale, noise, value bound.
    pub mechanism: Mechanism,
    /// What one attempt costs a dataset, worst case; `None` for unit none.
    pub attempt: Option<zcdp::Rho>,
    /// ε of all attempts of all rounds at the job's δ, rounded up; `None` for unit none.
    pub epsilon: Option<f64>,
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
            max_examples: stated.max_examples,
        })?;
        if mechanism.value_bound() != job.value_bound {
            return Err(Error::Refused(format!(
                "the job states a value bound of {}; its clip norm, noise and cohort give {}",
                job.value_bound,
                mechanism.value_bound()
            )));
        }
        if stated.unit == Unit::None {
            return Ok(Self {
                mechanism,
                attempt: None,
                epsilon: None,
            });
        }
        let (Some(promised), Some(delta)) = (stated.epsilon, stated.delta) else {
            return Err(Error::Refused(format!(
                "a job with unit {} states epsilon and delta",
                stated.unit
            )));
        };
        let attempt = zcdp::per_round(&mechanism, min_contributors)?;
        let attempts = u64::from(job.rounds) * u64::from(job.max_attempts);
        let epsilon = epsilon_after(&mechanism, attempt, attempts, &delta)?;
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
        match (self.attempt, delta) {
            (Some(attempt), Some(delta)) if attempts > 0 => {
                epsilon_after(&self.mechanism, attempt, attempts, delta).map(Some)
            }
            _ => Ok(None),
        }
    }

    /// What one attempt costs, in the ledger's units.
    pub fn attempt_cost(&self) -> Result<Rho> {
        Ok(match self.attempt {
            Some(rho) => Rho::cost(rho.get())?,
            None => Rho::ZERO,
        })
    }
}

/// The most attempts of one job that are reckoned with.
const MOST_ATTEMPTS: u64 = 1_000_000;

/// ε at δ of `attempts` attempts at least `min_contributors` strong, rounded up, the sampler's distance booked in δ.
fn epsilon_after(
    mechanism: &Mechanism,
    attempt: zcdp::Rho,
    attempts: u64,
    delta: &Decimal,
) -> Result<f64> {
    if attempts > MOST_ATTEMPTS {
        return Err(Error::Refused(format!(
            "{attempts} attempts (rounds × max_attempts) are more than {MOST_ATTEMPTS}"
        )));
    }
    let total = zcdp::compose(&vec![attempt; attempts as usize])?;
    let once = zcdp::distance(mechanism, mechanism.spec().min_contributors);
    let distance = (1..attempts).fold(once, |sum, _| sum.plus(once));
    Ok(zcdp::epsilon_at_distance(total, distance, delta)?.get())
}
