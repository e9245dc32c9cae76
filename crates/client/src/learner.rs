//! Whatever turns the global model into an update: the tuning engine in production, plain vectors in tests of the
//! sealed path.

use std::sync::atomic::AtomicBool;

use ciphertune_round::{Digest, Job};

use crate::error::Result;

/// One member's local work. Called from a thread of its own; may block.
pub trait Learner: Send + 'static {
    /// Digest of the frozen backbone that this member has.
    fn backbone(&self) -> Digest;

    /// Gets ready for a job and returns its first model θ₀ ∈ R^d, derived from the seed in the job's specification:
    /// the same on every member.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) when the specification is not one that this learner can follow, or
    /// names another task or encoder than the job does.
    fn prepare(&mut self, job: &Job) -> Result<Vec<f32>>;

    /// Trains from θ and returns Δθ = θ_local − θ. Ends early with [`Error::Stopped`](crate::Error::Stopped) once
    /// `stop` is set.
    fn train(
        &mut self,
        model: &[f32],
        round: u32,
        progress: &mut dyn FnMut(Progress),
        stop: &AtomicBool,
    ) -> Result<Update>;

    /// Evaluates θ on the member's own validation data; `None` when it has none.
    fn evaluate(&mut self, model: &[f32]) -> Result<Option<Evaluation>>;
}

/// Where training stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Loss of the last batch. Stays on this machine.
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
