//! AdamW and SGD with schedules, elementwise over one flat vector.
//!
//! Scalar f32 arithmetic in a fixed order, without fused multiply–add; the
//! schedule's cosine and Adam's powers come from `libm` and repeated
//! multiplication in f64. So the same gradients give the same bits on every
//! machine.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Which step is taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum OptimiserSpec {
    /// m ← β₁m + (1−β₁)g; v ← β₂v + (1−β₂)g²; θ ← θ − η·(m̂/(√v̂ + ε) + λθ), decoupled
    /// decay (Loshchilov, Hutter 2019, algorithm 2).
    AdamW {
        /// β₁, in [0, 1).
        beta1: f64,
        /// β₂, in [0, 1).
        beta2: f64,
        /// ε > 0.
        epsilon: f64,
        /// λ ≥ 0.
        weight_decay: f64,
    },
    /// b ← μb + g; θ ← θ − η·b.
    Sgd {
        /// μ, in [0, 1); 0: plain gradient steps.
        momentum: f64,
    },
}

impl Default for OptimiserSpec {
    /// AdamW as Kingma and Ba set Adam (0.9, 0.999, 1e-8), without decay.
    fn default() -> Self {
        Self::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.0,
        }
    }
}

impl OptimiserSpec {
    /// Refuses constants outside their ranges.
    ///
    /// # Errors
    /// [`Error::Misuse`] naming the constant.
    pub fn check(&self) -> Result<()> {
        let fraction = |name: &str, x: f64| in_range(name, x, (0.0..1.0).contains(&x));
        match *self {
            Self::AdamW {
                beta1,
                beta2,
                epsilon,
                weight_decay,
            } => {
                fraction("beta1", beta1)?;
                fraction("beta2", beta2)?;
                in_range("epsilon", epsilon, epsilon > 0.0 && epsilon.is_finite())?;
                let decay = weight_decay >= 0.0 && weight_decay.is_finite();
                in_range("weight_decay", weight_decay, decay)
            }
            Self::Sgd { momentum } => fraction("momentum", momentum),
        }
    }

    /// How many numbers its state holds for each parameter.
    pub fn moments(&self) -> usize {
        match self {
            Self::AdamW { .. } => 2,
            Self::Sgd { .. } => 1,
        }
    }
}

fn in_range(name: &str, value: f64, ok: bool) -> Result<()> {
    if ok {
        return Ok(());
    }
    Err(Error::Misuse(format!("{name} = {value} is out of range")))
}

/// How the learning rate moves over a run of T steps.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum Schedule {
    /// η(s) = η.
    #[default]
    Constant,
    /// η(s) = η·min(1, (s + 1)/warmup).
    Warmup {
        /// Steps until the full rate.
        warmup: u64,
    },
    /// Warm-up, then η·(1 + cos(π·(s − warmup)/(T − warmup)))/2.
    Cosine {
        /// Steps until the full rate; 0: none.
        warmup: u64,
    },
}

impl Schedule {
    /// The factor on the learning rate at step `step` (from 0) of `total`.
    pub fn factor(&self, step: u64, total: u64) -> f64 {
        let rise = |warmup: u64| (step + 1) as f64 / warmup as f64;
        match *self {
            Self::Constant => 1.0,
            Self::Warmup { warmup } | Self::Cosine { warmup } if step < warmup => rise(warmup),
            Self::Warmup { .. } => 1.0,
            Self::Cosine { warmup } => {
                let length = total.saturating_sub(warmup).max(1);
                let done = (step - warmup).min(length) as f64 / length as f64;
                0.5 * (1.0 + libm::cos(std::f64::consts::PI * done))
            }
        }
    }
}

/// An optimiser's state for one flat vector of parameters.
#[derive(Debug, Clone)]
pub struct Optimiser {
    spec: OptimiserSpec,
    steps: u64,
    /// Adam's m, or SGD's momentum.
    first: Vec<f32>,
    /// Adam's v; empty for SGD.
    second: Vec<f32>,
    /// β₁ᵗ and β₂ᵗ.
    powers: (f64, f64),
}

impl Optimiser {
    /// A fresh state for `length` parameters.
    ///
    /// # Errors
    /// As [`OptimiserSpec::check`].
    pub fn new(spec: OptimiserSpec, length: usize) -> Result<Self> {
        spec.check()?;
        let second = match spec {
            OptimiserSpec::AdamW { .. } => vec![0.0; length],
            OptimiserSpec::Sgd { .. } => Vec::new(),
        };
        Ok(Self {
            spec,
            steps: 0,
            first: vec![0.0; length],
            second,
            powers: (1.0, 1.0),
        })
    }

    /// The state after `steps` steps, from the moments that [`Optimiser::moments`] gave then.
    ///
    /// # Errors
    /// As [`OptimiserSpec::check`]; [`Error::Misuse`] for moments of another length than
    /// [`OptimiserSpec::moments`] runs of `length`.
    pub fn resumed(
        spec: OptimiserSpec,
        length: usize,
        moments: &[f32],
        steps: u64,
    ) -> Result<Self> {
        let mut optimiser = Self::new(spec, length)?;
        if moments.len() != length * spec.moments() {
            return Err(Error::Misuse(format!(
                "{} moments for {length} parameters",
                moments.len()
            )));
        }
        let (first, second) = moments.split_at(length);
        optimiser.first.copy_from_slice(first);
        optimiser.second.copy_from_slice(second);
        optimiser.steps = steps;
        if let OptimiserSpec::AdamW { beta1, beta2, .. } = spec {
            // One multiplication a step, as steps themselves do it: the same bits.
            for _ in 0..steps {
                optimiser.powers.0 *= beta1;
                optimiser.powers.1 *= beta2;
            }
        }
        Ok(optimiser)
    }

    /// Adam's m and v, or SGD's momentum.
    pub fn moments(&self) -> impl Iterator<Item = f32> {
        self.first.iter().chain(&self.second).copied()
    }

    /// Steps taken so far.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One step in place. `rates` says the learning rate of each run of
    /// parameters: (length, η), in order, covering the vector.
    ///
    /// # Errors
    /// [`Error::Misuse`] where the lengths differ; [`Error::Refused`] where a
    /// gradient is not finite (nothing is changed then).
    pub fn step(
        &mut self,
        parameters: &mut [f32],
        gradient: &[f32],
        rates: &[(usize, f64)],
    ) -> Result<()> {
        let length = self.first.len();
        let covered: usize = rates.iter().map(|&(run, _)| run).sum();
        if parameters.len() != length || gradient.len() != length || covered != length {
            return Err(Error::Misuse(format!(
                "the optimiser holds {length} parameters; given {} parameters, {} gradients, \
                 rates for {covered}",
                parameters.len(),
                gradient.len()
            )));
        }
        // Without a branch for each number: this looks at all of them at every step.
        let finite = |part: &[f32]| part.iter().fold(true, |all, g| all & g.is_finite());
        if !gradient.par_chunks(CHUNK).all(finite)
            && let Some(at) = gradient.iter().position(|g| !g.is_finite())
        {
            return Err(Error::Refused(format!(
                "the gradient of parameter {at} is {}: the training diverged; lower the learning \
                 rate",
                gradient[at]
            )));
        }
        self.steps += 1;
        let mut start = 0;
        match self.spec {
            OptimiserSpec::AdamW {
                beta1,
                beta2,
                epsilon,
                weight_decay,
            } => {
                self.powers.0 *= beta1;
                self.powers.1 *= beta2;
                let adam = Adam {
                    beta1: beta1 as f32,
                    beta2: beta2 as f32,
                    rest1: (1.0 - beta1) as f32,
                    rest2: (1.0 - beta2) as f32,
                    correction1: (1.0 - self.powers.0) as f32,
                    correction2: (1.0 - self.powers.1) as f32,
                    epsilon: epsilon as f32,
                };
                for &(run, rate) in rates {
                    let range = start..start + run;
                    adam.step(
                        &mut parameters[range.clone()],
                        &gradient[range.clone()],
                        &mut self.first[range.clone()],
                        &mut self.second[range],
                        rate as f32,
                        (rate * weight_decay) as f32,
                    );
                    start += run;
                }
            }
            OptimiserSpec::Sgd { momentum } => {
                let momentum = momentum as f32;
                for &(run, rate) in rates {
                    let rate = rate as f32;
                    for i in start..start + run {
                        self.first[i] = momentum * self.first[i] + gradient[i];
                        parameters[i] -= rate * self.first[i];
                    }
                    start += run;
                }
            }
        }
        Ok(())
    }
}

/// Parameters that one thread takes at a time.
const CHUNK: usize = 1 << 16;

/// Adam's constants at one step.
struct Adam {
    beta1: f32,
    beta2: f32,
    rest1: f32,
    rest2: f32,
    correction1: f32,
    correction2: f32,
    epsilon: f32,
}

impl Adam {
    /// Each parameter's own arithmetic, whoever takes it: the same bits with any number of threads.
    fn step(&self, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32], rate: f32, decay: f32) {
        p.par_chunks_mut(CHUNK)
            .zip(g.par_chunks(CHUNK))
            .zip(m.par_chunks_mut(CHUNK))
            .zip(v.par_chunks_mut(CHUNK))
            .for_each(|(((p, g), m), v)| self.step_chunk(p, g, m, v, rate, decay));
    }

    fn step_chunk(
        &self,
        p: &mut [f32],
        g: &[f32],
        m: &mut [f32],
        v: &mut [f32],
        rate: f32,
        decay: f32,
    ) {
        for (((p, &g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
            *m = self.beta1 * *m + self.rest1 * g;
            *v = self.beta2 * *v + self.rest2 * g * g;
            let scale = (*v / self.correction2).sqrt() + self.epsilon;
            let step = rate * (*m / self.correction1 / scale);
            *p = *p - decay * *p - step;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn adamw(weight_decay: f64) -> OptimiserSpec {
        OptimiserSpec::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay,
        }
    }

    #[test]
    fn adamw_follows_its_formula_in_f64() {
        let mut optimiser = Optimiser::new(adamw(0.01), 2).unwrap();
        let mut p = [1.0_f32, -2.0];
        let (mut q, mut m, mut v) = ([1.0_f64, -2.0], [0.0_f64; 2], [0.0_f64; 2]);
        for t in 1..=50 {
            let g = [2.0 * q[0] + 0.1, f64::from(t % 3) - 1.0];
            optimiser
                .step(&mut p, &[g[0] as f32, g[1] as f32], &[(1, 0.01), (1, 0.1)])
                .unwrap();
            for i in 0..2 {
                let rate = [0.01, 0.1][i];
                m[i] = 0.9 * m[i] + 0.1 * g[i];
                v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
                let (mh, vh) = (
                    m[i] / (1.0 - 0.9_f64.powi(t)),
                    v[i] / (1.0 - 0.999_f64.powi(t)),
                );
                q[i] -= rate * (mh / (vh.sqrt() + 1e-8) + 0.01 * q[i]);
            }
        }
        for i in 0..2 {
            assert!((f64::from(p[i]) - q[i]).abs() < 1e-4, "{p:?} {q:?}");
        }
        assert_eq!(optimiser.steps(), 50);
    }

    #[test]
    fn an_optimiser_resumed_from_its_moments_takes_the_same_steps() {
        for spec in [adamw(0.01), OptimiserSpec::Sgd { momentum: 0.5 }] {
            let mut straight = Optimiser::new(spec, 2).unwrap();
            let (mut p, mut q) = ([1.0_f32, -2.0], [1.0_f32, -2.0]);
            let mut moments = vec![0.0; 2 * spec.moments()];
            for step in 0..20_u64 {
                let gradient = [0.3 - 0.1 * step as f32, 0.7];
                straight.step(&mut p, &gradient, &[(2, 0.1)]).unwrap();
                let mut resumed = Optimiser::resumed(spec, 2, &moments, step).unwrap();
                resumed.step(&mut q, &gradient, &[(2, 0.1)]).unwrap();
                moments = resumed.moments().collect();
                assert_eq!(p.map(f32::to_bits), q.map(f32::to_bits), "step {step}");
                assert!(straight.moments().eq(moments.iter().copied()));
            }
            let short = Optimiser::resumed(spec, 2, &moments[1..], 1);
            assert!(matches!(short, Err(Error::Misuse(_))));
        }
    }

    #[test]
    fn sgd_with_momentum_follows_its_formula() {
        let mut optimiser = Optimiser::new(OptimiserSpec::Sgd { momentum: 0.5 }, 1).unwrap();
        let mut p = [1.0_f32];
        optimiser.step(&mut p, &[1.0], &[(1, 0.25)]).unwrap();
        assert_eq!(p, [0.75]);
        optimiser.step(&mut p, &[1.0], &[(1, 0.25)]).unwrap();
        assert_eq!(p, [0.375]); // b = 0.5 + 1
    }

    #[test]
    fn schedules_warm_up_and_fall() {
        let cosine = Schedule::Cosine { warmup: 4 };
        let factors: Vec<f64> = (0..13).map(|s| cosine.factor(s, 12)).collect();
        assert_eq!(factors[..5], [0.25, 0.5, 0.75, 1.0, 1.0]);
        assert!((factors[8] - 0.5).abs() < 1e-12 && factors[12].abs() < 1e-12);
        assert!(factors[4..].windows(2).all(|w| w[1] < w[0]));
        assert!(cosine.factor(99, 12).abs() < 1e-12);
        assert_eq!(Schedule::Warmup { warmup: 2 }.factor(0, 9), 0.5);
        assert_eq!(Schedule::Warmup { warmup: 2 }.factor(7, 9), 1.0);
        assert_eq!(Schedule::Constant.factor(0, 0), 1.0);
        assert!(Schedule::Cosine { warmup: 0 }.factor(0, 0).is_finite());
    }

    #[test]
    fn wrong_lengths_wrong_constants_and_infinite_gradients_are_refused() {
        let mut optimiser = Optimiser::new(adamw(0.0), 2).unwrap();
        let mut p = [1.0_f32, 2.0];
        let before = p;
        assert!(matches!(
            optimiser.step(&mut p, &[0.0], &[(2, 0.1)]),
            Err(Error::Misuse(_))
        ));
        assert!(matches!(
            optimiser.step(&mut p, &[0.0, 0.0], &[(1, 0.1)]),
            Err(Error::Misuse(_))
        ));
        let error = optimiser
            .step(&mut p, &[0.0, f32::NAN], &[(2, 0.1)])
            .unwrap_err();
        assert!(error.to_string().contains("parameter 1 is NaN"), "{error}");
        assert_eq!((p, optimiser.steps()), (before, 0));
        for spec in [
            adamw(-1.0),
            adamw(f64::NAN),
            OptimiserSpec::Sgd { momentum: 1.0 },
        ] {
            assert!(matches!(Optimiser::new(spec, 1), Err(Error::Misuse(_))));
        }
    }
}
