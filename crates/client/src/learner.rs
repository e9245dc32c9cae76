//! Whatever turns the global model into an update: the tuning engine in production, plain vectors in tests of the
//! sealed path.

use std::sync::atomic::AtomicBool;

use ciphertune_dp::{ExampleSum, PoissonBatch};
use ciphertune_policy::Metric;
use ciphertune_round::{Digest, Job};

use crate::error::{Error, Result};

/// One member's local work. Called from a thread of its own; may block.
pub trait Learner: Send + 'static {
    /// Digest of the frozen backbone that this member has.
    fn backbone(&self) -> Digest;

    /// Gets ready for a job and returns what it starts from, derived from the seed in the job's specification: the same
    /// on every member.
    ///
    /// # Errors
    /// [`Error::Refused`] when the specification is not one that this learner can follow, or names another task or
    /// encoder than the job does.
    fn prepare(&mut self, job: &Job) -> Result<Start>;

    /// How many records the member has for the job that was prepared. Stays on this machine.
    fn records(&self) -> usize;

    /// SHA-256 of the file that these records were read from, for the ledger; `None` by a learner without a file.
    fn data(&self) -> Option<Digest> {
        None
    }

    /// A job without batches: trains from the state's θ and returns Δθ = θ_local − θ. Ends early with [`Error::Stopped`] once
    /// `stop` is set.
    fn train(
        &mut self,
        model: &[f32],
        round: u32,
        progress: &mut dyn FnMut(Progress),
        stop: &AtomicBool,
    ) -> Result<Update>;

    /// A job with batches: gives `sum` the own gradient of each record in `batch`, at the state, with its measures for the
    /// job's metrics in their order ([`measure`]), one after the other, and returns their mean loss, or `None` for an empty batch. Ends early as [`Learner::train`] does.
    ///
    /// # Errors
    /// [`Error::Refused`] by a learner whose updates have no records behind them.
    fn add_gradients(
        &mut self,
        _state: &[f32],
        _round: u32,
        _batch: &PoissonBatch,
        _sum: &mut ExampleSum,
        _progress: &mut dyn FnMut(Progress),
        _stop: &AtomicBool,
    ) -> Result<Option<f64>> {
        Err(Error::Refused(
            "this learner knows no single records".into(),
        ))
    }

    /// The state after round `round`, from the one before it and the released mean: the same bits on every member, so
    /// arithmetic in a fixed order and nothing of this member's data.
    ///
    /// Without batches: the job's aggregation; θ + mean, elementwise in f32, one IEEE addition each, is what this does unless
    /// it is implemented otherwise. With batches: one step of the job's optimiser.
    fn step(&mut self, state: &[f32], mean: Vec<f32>, _round: u32) -> Result<Vec<f32>> {
        Ok(moved(state, mean))
    }

    /// Evaluates a state on the member's own validation data; `None` when it has none.
    fn evaluate(&mut self, state: &[f32]) -> Result<Option<Evaluation>>;
}

/// What a record with this loss, whose answer was right or not, is measured as for a metric: in −1 … 1, so that half as
/// much of the noise, and of a batch's chance size, is seen in the mean as in 0 … 1.
pub fn measure(metric: Metric, loss: f64, right: bool) -> f64 {
    match metric {
        Metric::TrainingLoss => 2.0 * (loss / MOST_LOSS).clamp(0.0, 1.0) - 1.0,
        Metric::TrainingAccuracy if right => 1.0,
        Metric::TrainingAccuracy => -1.0,
    }
}

/// What a mean of measures says of a metric: noised, so it may lie a little outside.
pub fn measured(metric: Metric, mean: f64) -> f64 {
    let share = (1.0 + mean) / 2.0;
    match metric {
        Metric::TrainingLoss => share * MOST_LOSS,
        Metric::TrainingAccuracy => share,
    }
}

/// What a record's loss is held to, in nats.
const MOST_LOSS: f64 = 4.0;

/// θ + mean, in the mean's own memory.
pub(crate) fn moved(model: &[f32], mut mean: Vec<f32>) -> Vec<f32> {
    mean.iter_mut().zip(model).for_each(|(d, x)| *d += x);
    mean
}

/// What a job starts from.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// What members agree on before round 1: θ₀, and after it the moments of the optimiser or the aggregation.
    pub state: Vec<f32>,
    /// d: the length of an update, or of one record's gradient.
    pub dimension: usize,
}

impl Start {
    /// Of updates of θ₀ ∈ R^d.
    pub fn of_updates(model: Vec<f32>) -> Self {
        Self {
            dimension: model.len(),
            state: model,
        }
    }
}

/// Where training stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps done; at record level, records of the batch.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Loss of the last batch; at record level, of the last record. Stays on this machine.
    pub loss: f64,
}

/// What training gives. Stays on this machine until it is clipped, noised and sealed.
pub struct Update {
    /// Δθ ∈ R^d.
    pub delta: Vec<f32>,
    /// Mean training loss.
    pub loss: Option<f64>,
}

/// How good a model is on the member's own validation data. Stays on this machine.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Evaluation {
    /// Mean loss on the answer.
    pub loss: f64,
    /// Share of right answers.
    pub accuracy: f64,
    /// Examples.
    pub examples: usize,
}
