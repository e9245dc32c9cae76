//! What a policy's numbers come to: how much noise its ε asks for beside what there is to learn from, and how many jobs a
//! dataset's budget lasts.

use ciphertune_dp::{
    FrozenSchedule, SamplingRate,
    accounting::{self, Accountant},
};
use ciphertune_policy::{Adjacency, Decimal, Finding, Placement, Policy, Unit};
use serde::Serialize;

use crate::error::Result;

/// Noise so many times as long as all that is summed will drown it.
const HOPELESS: f64 = 10.0;
/// The most jobs that are counted.
const MOST_JOBS: u32 = 1_000;

/// What is assumed of a job beside what the policy says.
#[derive(Clone, Copy, Debug)]
pub struct Assumed {
    /// d, the numbers of an update, or of a record's gradient.
    pub dimension: u64,
    /// n, members that contribute.
    pub members: usize,
    /// q; at record level.
    pub sampling_rate: Decimal,
    /// Records in a batch, all members' together; at record level.
    pub nominal_batch: Option<u32>,
}

/// A job that takes all that a policy allows.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Outlook {
    /// z = σ/Δ₂, by Rényi accounting.
    pub noise_multiplier: f64,
    /// The expected length of the noise in one round's sum, in clip norms: z·(Δ₂/C)·√d, and √n times that for local noise.
    pub noise_clips: f64,
    /// The most that the sum can be long without noise, in clip norms: n, or the nominal batch.
    pub signal_clips: Option<f64>,
    /// How many such jobs fit a dataset's budget.
    pub jobs: u32,
    /// Rounds of each.
    pub rounds: u32,
}

impl Outlook {
    /// Of a policy that promises privacy; `None` of one that does not.
    ///
    /// # Errors
    /// [`crate::Error::Refused`] where no noise gives the promised ε.
    pub fn of(policy: &Policy, assumed: &Assumed) -> Result<Option<Self>> {
        Self::of_rounds(policy, assumed, policy.rounds())
    }

    /// The same of jobs of so many rounds.
    ///
    /// # Errors
    /// As [`Outlook::of`].
    pub fn of_rounds(policy: &Policy, assumed: &Assumed, rounds: u32) -> Result<Option<Self>> {
        let (Some(job), Some(budget), Some(adjacency)) =
            (policy.job_limit(), policy.budget(), policy.adjacency())
        else {
            return Ok(None);
        };
        let is_of_records = policy.unit() == Unit::Record;
        let rate = if is_of_records {
            assumed.sampling_rate
        } else {
            Decimal::ONE
        };
        let rate = SamplingRate::new(rate)?;
        let multiplier = accounting::calibrate(
            Accountant::Rdp,
            &job.epsilon,
            &job.delta,
            rate,
            rounds,
            adjacency,
        )?;
        let fits = |jobs: u32| -> bool {
            let Some(steps) = rounds.checked_mul(jobs) else {
                return false;
            };
            FrozenSchedule::planned(rate, &multiplier, steps, adjacency)
                .and_then(|schedule| accounting::epsilon(Accountant::Rdp, &schedule, &budget.delta))
                .is_ok_and(|account| account.epsilon.get() <= budget.epsilon.to_f64_down())
        };
        let members = assumed.members as f64;
        let sensitivity = match adjacency {
            Adjacency::ZeroOut => 1.0,
            Adjacency::ReplaceOne => 2.0,
        };
        let shares = match policy.placement() {
            Some(Placement::Local) => members.sqrt(),
            _ => 1.0,
        };
        let noise_multiplier = multiplier.to_f64_up();
        Ok(Some(Self {
            noise_multiplier,
            noise_clips: noise_multiplier
                * sensitivity
                * shares
                * (assumed.dimension as f64).sqrt(),
            signal_clips: match is_of_records {
                true => assumed.nominal_batch.map(f64::from),
                false => Some(members),
            },
            jobs: most(fits),
            rounds,
        }))
    }

    /// What of it cannot work, or hardly.
    pub fn findings(&self) -> Vec<Finding> {
        let mut found = Vec::new();
        if let Some(signal) = self
            .signal_clips
            .filter(|it| self.noise_clips > HOPELESS * it)
        {
            found.push(Finding {
                key: "privacy.epsilon",
                fatal: false,
                said: format!(
                    "after {} rounds at this ε the noise of each is {:.0} clips long, and what is summed at most {signal:.0}: \
                     hardly anything will be learnt; allow fewer rounds, a smaller encoder, record level, or a larger ε",
                    self.rounds, self.noise_clips
                ),
            });
        }
        if self.jobs == 0 {
            found.push(Finding {
                key: "budget.epsilon",
                fatal: true,
                said: format!(
                    "not one job of {} rounds that takes all of privacy.epsilon fits: raise the budget",
                    self.rounds
                ),
            });
        }
        found
    }
}

/// The largest number, up to [`MOST_JOBS`], that fits, where each smaller one does.
fn most(fits: impl Fn(u32) -> bool) -> u32 {
    let (mut low, mut high) = (0, MOST_JOBS);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if fits(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}
