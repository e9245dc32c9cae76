//! What would come of a job, before anybody hears of it.

use std::fmt;

use ciphertune_client::{Error, Result, mechanism::Reckoned, site::Site};
use ciphertune_round::Job;
use ciphertune_sum::{CohortSize, Parameters, ValueBound};
use serde::Serialize;

/// A job that the policies admit, in numbers.
#[derive(Serialize)]
pub struct Preview {
    name: String,
    rounds: u32,
    max_attempts: u32,
    /// Members that it waits for.
    members: usize,
    min_contributors: usize,
    colluders: usize,
    /// Who hold shares; `None`: everybody.
    committee: Option<usize>,
    threshold: usize,
    /// Name of the parameter set.
    parameters: String,
    /// Numbers in an update.
    dimension: u64,
    /// One member's contribution to one round, without shares.
    body_bytes: u64,
    /// ε at the policy's δ when every round takes all its attempts; `None`: no differential privacy.
    epsilon: Option<f64>,
    contribute_seconds: u64,
    open_seconds: u64,
    agree_seconds: u64,
}

impl Preview {
    /// Of a job that this party would submit.
    ///
    /// # Errors
    /// [`Error::Refused`] where the policies or the parameters leave no such job.
    pub fn of(site: &Site, job: &Job) -> Result<Self> {
        let policy = site.policy()?;
        let all = site.manifest().members().count();
        let terms = job.terms(&policy, all, job.expected_members)?;
        let refused = |error: ciphertune_sum::Error| Error::Refused(error.to_string());
        let size = CohortSize::new(job.expected_members).map_err(refused)?;
        let bound = ValueBound::new(job.value_bound).map_err(refused)?;
        let parameters = Parameters::derive(size, bound).map_err(refused)?;
        let length = usize::try_from(job.dimension)
            .map_err(|_| Error::Refused(format!("{} numbers do not fit here", job.dimension)))?;
        let reckoned = Reckoned::of(job, terms.min_contributors, terms.colluders)?;
        Ok(Self {
            name: job.name.clone(),
            rounds: job.rounds,
            max_attempts: job.max_attempts,
            members: job.expected_members,
            min_contributors: terms.min_contributors,
            colluders: terms.colluders,
            committee: terms.committee,
            threshold: terms.threshold,
            body_bytes: parameters.body_bytes(length),
            parameters: parameters.name(),
            dimension: job.dimension,
            epsilon: reckoned.epsilon,
            contribute_seconds: job.deadlines.contribute.as_secs(),
            open_seconds: job.deadlines.open.as_secs(),
            agree_seconds: job.deadlines.agree.as_secs(),
        })
    }
}

impl fmt::Display for Preview {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: admitted by the policies here\n  {} rounds of {} members, at most {} attempts each; deadlines {} s, {} s, {} s",
            self.name,
            self.rounds,
            self.members,
            self.max_attempts,
            self.contribute_seconds,
            self.open_seconds,
            self.agree_seconds
        )?;
        let holders = match self.committee {
            Some(size) => format!("a committee of {size}"),
            None => "everybody".into(),
        };
        writeln!(
            f,
            "  sums of {} and more; shares for {holders}; {} open a sum; {} assumed to help the server",
            self.min_contributors, self.threshold, self.colluders
        )?;
        writeln!(
            f,
            "  {} numbers, {} B from each member a round, parameters {}",
            self.dimension, self.body_bytes, self.parameters
        )?;
        match self.epsilon {
            Some(epsilon) => write!(
                f,
                "  epsilon {epsilon:.3} if every round takes all its attempts"
            ),
            None => write!(f, "  no differential privacy"),
        }
    }
}
