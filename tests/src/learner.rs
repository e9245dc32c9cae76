//! Members that "train" by giving plain vectors, when a test lets them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ciphertune_client::{
    Error, Result,
    learner::{Evaluation, Learner, Progress, Start, Update, measure},
};
use ciphertune_dp::{ExampleSum, PoissonBatch};
use ciphertune_policy::Metric;
use ciphertune_round::{Digest, Job};

use crate::plaintext::{Quantiser, add_up};

/// What stands for a backbone.
pub fn backbone() -> Digest {
    Digest::sha256(b"no backbone: plain vectors")
}

/// A job's first model.
pub fn first_model(dimension: usize) -> Vec<f32> {
    vector(0xF1_05, dimension, 1.0)
}

/// What member `member` gives in `round`: a vector of length `norm`.
pub fn update(member: usize, round: u32, dimension: usize, norm: f64) -> Vec<f32> {
    vector(1_000 * u64::from(round) + member as u64, dimension, norm)
}

/// What a job starts from: with batches, and a moment of zero for each parameter.
pub fn start(dimension: usize, in_batches: bool) -> Start {
    let mut start = Start::of_updates(first_model(dimension));
    if in_batches {
        start.state.resize(2 * dimension, 0.0);
    }
    start
}

/// The gradient of one record of a member: the same in every round, of length `norm`.
pub fn gradient(member: usize, record: usize, dimension: usize, norm: f64) -> Vec<f32> {
    vector(
        1_000_000 * (member as u64 + 1) + record as u64,
        dimension,
        norm,
    )
}

/// The loss of every record.
pub const LOSS: f64 = 1.0;

/// Whether a record's answer is right: three in four are.
pub fn is_right(record: usize) -> bool {
    !record.is_multiple_of(4)
}

/// The state θ ‖ b after a step along a mean: b ← b/2 + mean, θ ← θ − b/4.
pub fn stepped(state: &[f32], mean: &[f32]) -> Vec<f32> {
    let (model, moments) = state.split_at(mean.len());
    let moments: Vec<f32> = moments.iter().zip(mean).map(|(b, d)| 0.5 * b + d).collect();
    let model = model.iter().zip(&moments).map(|(x, b)| x - 0.25 * b);
    model.chain(moments.iter().copied()).collect()
}

/// The model after a round of the laboratory's policy in which these members contributed what [`Vectors::of`] them sends,
/// in plaintext.
pub fn average_of(members: &[usize], dimension: usize) -> Vec<f32> {
    let quantiser = Quantiser::derive(3, None, 12, dimension);
    let quantised: Vec<Vec<i64>> = members
        .iter()
        .map(|member| quantiser.quantise(&Vectors::of(*member, dimension).update(1)))
        .collect();
    quantiser.average_onto(&first_model(dimension), &add_up(&quantised), members.len())
}

/// A pseudo-random vector, uniform in a cube and scaled to a length (SplitMix64; Steele, Lea, Flood 2014).
pub fn vector(seed: u64, dimension: usize, norm: f64) -> Vec<f32> {
    let mut state = seed;
    let raw: Vec<f64> = (0..dimension)
        .map(|_| {
            state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^= z >> 31;
            (z >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
        })
        .collect();
    let length = raw.iter().map(|x| x * x).sum::<f64>().sqrt();
    raw.iter().map(|x| (x / length * norm) as f32).collect()
}

/// Holds a member's training until the test opens it; tells whether training has begun.
#[derive(Clone, Default)]
pub struct Gate(Arc<(AtomicBool, AtomicBool)>);

impl Gate {
    /// Lets training end.
    pub fn open(&self) {
        self.0.0.store(true, Ordering::SeqCst);
    }

    /// Whether training has begun.
    pub fn is_reached(&self) -> bool {
        self.0.1.load(Ordering::SeqCst)
    }

    fn pass(&self, stop: &AtomicBool) -> Result<()> {
        self.0.1.store(true, Ordering::SeqCst);
        let begun = Instant::now();
        while !self.0.0.load(Ordering::SeqCst) {
            if stop.load(Ordering::Relaxed) || begun.elapsed() > Duration::from_secs(90) {
                return Err(Error::Stopped);
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }
}

/// One member's: updates, or at record level gradients of records.
#[derive(Clone)]
pub struct Vectors {
    /// Which member, from 0.
    pub member: usize,
    /// d.
    pub dimension: usize,
    /// Length of each update, or gradient.
    pub norm: f64,
    /// Records at record level.
    pub records: usize,
    /// The round after which its state differs in the last bit of its last number.
    pub differs_after: Option<u32>,
    /// Of the job that was prepared.
    pub in_batches: bool,
    /// Likewise.
    pub metrics: Vec<Metric>,
    /// What training waits for, from which round on.
    pub gate: Option<(u32, Gate)>,
    /// Whether its training is refused by its data.
    pub refuses: bool,
    /// What the evaluation of a new model waits for.
    pub evaluation: Option<Gate>,
}

impl Vectors {
    /// Member `member`'s, of `dimension` numbers, with no clipping for C > 1.
    pub fn of(member: usize, dimension: usize) -> Self {
        Self {
            member,
            dimension,
            norm: 1.0,
            records: 40,
            differs_after: None,
            in_batches: false,
            metrics: Vec::new(),
            refuses: false,
            gate: None,
            evaluation: None,
        }
    }

    /// With updates of this length.
    pub fn long(self, norm: f64) -> Self {
        Self { norm, ..self }
    }

    /// With so many records.
    pub fn with_records(self, records: usize) -> Self {
        Self { records, ..self }
    }

    /// With a state that is one bit off after `round`.
    pub fn differing_after(self, round: u32) -> Self {
        Self {
            differs_after: Some(round),
            ..self
        }
    }

    /// Behind a gate.
    pub fn behind(self, gate: &Gate) -> Self {
        self.behind_in(1, gate)
    }

    /// Behind a gate from `round` on.
    pub fn behind_in(self, round: u32, gate: &Gate) -> Self {
        Self {
            gate: Some((round, gate.clone())),
            ..self
        }
    }

    /// With the evaluation of every model but the first behind a gate.
    pub fn evaluating_behind(self, gate: &Gate) -> Self {
        Self {
            evaluation: Some(gate.clone()),
            ..self
        }
    }

    /// What it gives in a round.
    pub fn update(&self, round: u32) -> Vec<f32> {
        update(self.member, round, self.dimension, self.norm)
    }
}

impl Learner for Vectors {
    fn backbone(&self) -> Digest {
        backbone()
    }

    fn prepare(&mut self, job: &Job) -> Result<Start> {
        self.in_batches = job.mechanism.batches.is_some();
        self.metrics = Vec::from_iter(job.mechanism.metrics());
        Ok(start(self.dimension, self.in_batches))
    }

    fn records(&self) -> usize {
        self.records
    }

    fn data(&self) -> Option<Digest> {
        Some(Digest::sha256(&self.member.to_le_bytes()))
    }

    fn train(
        &mut self,
        _: &[f32],
        round: u32,
        _: &mut dyn FnMut(Progress),
        stop: &AtomicBool,
    ) -> Result<Update> {
        self.pass(round, stop)?;
        if self.refuses {
            return Err(Error::Refused("training diverged".into()));
        }
        Ok(Update {
            delta: self.update(round),
            loss: None,
        })
    }

    fn add_gradients(
        &mut self,
        _: &[f32],
        round: u32,
        batch: &PoissonBatch,
        sum: &mut ExampleSum,
        progress: &mut dyn FnMut(Progress),
        stop: &AtomicBool,
    ) -> Result<Option<f64>> {
        self.pass(round, stop)?;
        for (step, record) in (1..).zip(batch.records()) {
            let gradient = gradient(self.member, *record, self.dimension, self.norm);
            let measures = self
                .metrics
                .iter()
                .map(|it| measure(*it, LOSS, is_right(*record)));
            sum.add_measured(&gradient, &Vec::from_iter(measures))?;
            progress(Progress {
                step,
                steps: batch.records().len(),
                loss: 0.0,
            });
        }
        Ok(None)
    }

    fn step(&mut self, state: &[f32], mean: Vec<f32>, round: u32) -> Result<Vec<f32>> {
        let mut next = if self.in_batches {
            stepped(state, &mean)
        } else {
            state.iter().zip(mean).map(|(x, d)| x + d).collect()
        };
        if self.differs_after == Some(round)
            && let Some(last) = next.last_mut()
        {
            *last = f32::from_bits(last.to_bits() ^ 1);
        }
        Ok(next)
    }

    fn evaluate(&mut self, state: &[f32]) -> Result<Option<Evaluation>> {
        if let Some(gate) = &self.evaluation
            && *state != start(self.dimension, self.in_batches).state
        {
            gate.pass(&AtomicBool::new(false))?;
        }
        Ok(None)
    }
}

impl Vectors {
    /// Waits for the gate, if there is one in this round.
    fn pass(&self, round: u32, stop: &AtomicBool) -> Result<()> {
        match self.gate.as_ref().filter(|(from, _)| round >= *from) {
            Some((_, gate)) => gate.pass(stop),
            None => Ok(()),
        }
    }
}
