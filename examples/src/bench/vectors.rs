//! Members that have nothing to learn: pseudo-random vectors in the place of updates, which anybody can repeat.

use std::sync::atomic::AtomicBool;

use ciphertune_client::{
    Result,
    learner::{Evaluation, Learner, Progress, Start, Update},
    mechanism::Reckoned,
};
use ciphertune_round::{Digest, Job};

use super::values::values;

/// Of twice so many integers and one, two are not 0 but ±1: so the L2 norm of some hundred million of them is below the
/// clip bound, which is at most B in units of the quantiser; nothing is clipped, and quantising is exact.
const SPARSE: u64 = 255;
/// Who gives the first model; no member.
const NOBODY: usize = usize::MAX / 2;

/// What stands for a backbone.
pub fn backbone() -> Digest {
    Digest::sha256(b"no backbone: plain vectors")
}

/// θ₀ ∈ R^d: small integers.
pub fn first_model(dimension: usize) -> Vec<f32> {
    values(NOBODY, dimension, 7)
        .map(|value| value as f32)
        .collect()
}

/// What member `member` gives, in units of the quantiser.
pub fn integers(member: usize, dimension: usize) -> impl Iterator<Item = i64> {
    values(member, dimension, SPARSE).map(|value| match value {
        0 => 1,
        1 => -1,
        _ => 0,
    })
}

/// One member's.
pub struct Vectors {
    member: usize,
    dimension: usize,
    unit: f32,
}

impl Vectors {
    /// Member `member`'s, from 0. Its length is the job's.
    pub fn of(member: usize) -> Self {
        Self {
            member,
            dimension: 0,
            unit: 0.0,
        }
    }
}

/// 2^−s: what one unit of the quantiser stands for.
pub fn unit(job: &Job) -> Result<f32> {
    let reckoned = Reckoned::of(job, job.min_contributors, job.colluders)?;
    Ok(2_f32.powi(-reckoned.mechanism.scale_log2()))
}

impl Learner for Vectors {
    fn backbone(&self) -> Digest {
        backbone()
    }

    fn prepare(&mut self, job: &Job) -> Result<Start> {
        self.dimension = job.dimension as usize;
        self.unit = unit(job)?;
        Ok(Start::of_updates(first_model(self.dimension)))
    }

    fn records(&self) -> usize {
        0
    }

    fn train(
        &mut self,
        _: &[f32],
        _: u32,
        _: &mut dyn FnMut(Progress),
        _: &AtomicBool,
    ) -> Result<Update> {
        let unit = self.unit;
        let delta = integers(self.member, self.dimension).map(|value| value as f32 * unit);
        Ok(Update {
            delta: delta.collect(),
            loss: None,
        })
    }

    fn evaluate(&mut self, _: &[f32]) -> Result<Option<Evaluation>> {
        Ok(None)
    }
}
