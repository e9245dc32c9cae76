//! How the mean of the members' updates moves the model. The server sees no mean, so every member moves its own copy, alike:
//! scalar f32 arithmetic in a fixed order, without fused multiply–add.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// The step along Δ̄, the released mean of the members' updates. Its moments follow θ in what members agree on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
pub enum Aggregation {
    /// θ ← θ + Δ̄ (McMahan et al., AISTATS 2017).
    #[default]
    FedAvg,
    /// v ← βv + Δ̄; θ ← θ + η·v (Hsu, Qi, Brown, "Measuring the effects of non-identical data distribution", 2019).
    FedAvgM {
        /// η > 0.
        rate: f64,
        /// β, in [0, 1).
        momentum: f64,
    },
    /// m ← β₁m + (1−β₁)Δ̄; v ← β₂v + (1−β₂)Δ̄²; θ ← θ + η·m/(√v + τ) (Reddi et al., "Adaptive federated optimization", ICLR
    /// 2021, algorithm 2, from v = 0).
    FedAdam {
        /// η > 0.
        rate: f64,
        /// β₁, in [0, 1).
        beta1: f64,
        /// β₂, in [0, 1).
        beta2: f64,
        /// τ > 0: how little of a change still counts as one.
        tau: f64,
    },
}

impl Aggregation {
    /// Refuses constants outside their ranges.
    ///
    /// # Errors
    /// [`Error::Misuse`] naming the constant.
    pub fn check(&self) -> Result<()> {
        let refused = |name: &str, value: f64, ok: bool| match ok {
            true => Ok(()),
            false => Err(Error::Misuse(format!(
                "aggregation.{name} = {value} is out of range"
            ))),
        };
        let positive = |name, x: f64| refused(name, x, x > 0.0 && x.is_finite());
        let fraction = |name, x: f64| refused(name, x, (0.0..1.0).contains(&x));
        match *self {
            Self::FedAvg => Ok(()),
            Self::FedAvgM { rate, momentum } => {
                positive("rate", rate).and_then(|()| fraction("momentum", momentum))
            }
            Self::FedAdam {
                rate,
                beta1,
                beta2,
                tau,
            } => positive("rate", rate)
                .and_then(|()| fraction("beta1", beta1))
                .and_then(|()| fraction("beta2", beta2))
                .and_then(|()| positive("tau", tau)),
        }
    }

    /// How many numbers it remembers of each parameter.
    pub fn moments(&self) -> usize {
        match self {
            Self::FedAvg => 0,
            Self::FedAvgM { .. } => 1,
            Self::FedAdam { .. } => 2,
        }
    }

    /// The state, θ and its moments, after a step along `mean`.
    ///
    /// # Errors
    /// [`Error::Misuse`] for lengths that do not fit.
    pub fn apply(&self, state: &[f32], mean: &[f32]) -> Result<Vec<f32>> {
        let dimension = mean.len();
        if state.len() != dimension * (1 + self.moments()) {
            return Err(Error::Misuse(format!(
                "a state of {} numbers for a mean of {dimension} and {} moments",
                state.len(),
                self.moments()
            )));
        }
        let mut next = state.to_vec();
        let (theta, moments) = next.split_at_mut(dimension);
        match *self {
            Self::FedAvg => theta.iter_mut().zip(mean).for_each(|(t, d)| *t += d),
            Self::FedAvgM { rate, momentum } => {
                let (rate, momentum) = (rate as f32, momentum as f32);
                for ((t, v), d) in theta.iter_mut().zip(moments).zip(mean) {
                    *v = momentum * *v + d;
                    *t += rate * *v;
                }
            }
            Self::FedAdam {
                rate,
                beta1,
                beta2,
                tau,
            } => {
                let (rest1, rest2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
                let (rate, tau) = (rate as f32, tau as f32);
                let (beta1, beta2) = (beta1 as f32, beta2 as f32);
                let (first, second) = moments.split_at_mut(dimension);
                let moments = first.iter_mut().zip(second);
                for ((t, (m, v)), d) in theta.iter_mut().zip(moments).zip(mean) {
                    *m = beta1 * *m + rest1 * d;
                    *v = beta2 * *v + rest2 * d * d;
                    *t += rate * (*m / (v.sqrt() + tau));
                }
            }
        }
        Ok(next)
    }

    pub(crate) fn is_fed_avg(&self) -> bool {
        *self == Self::FedAvg
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three rounds of the same mean.
    fn rounds(aggregation: Aggregation) -> Vec<f32> {
        let mut state = vec![0.0; 2 * (1 + aggregation.moments())];
        for _ in 0..3 {
            state = aggregation.apply(&state, &[1.0, -0.5]).unwrap();
        }
        state
    }

    #[test]
    fn each_step_is_that_of_its_paper() {
        assert_eq!(rounds(Aggregation::FedAvg), [3.0, -1.5]);
        // v = 1, 1.5, 1.75; θ = 0.5·(1 + 1.5 + 1.75).
        let momentum = Aggregation::FedAvgM {
            rate: 0.5,
            momentum: 0.5,
        };
        assert_eq!(rounds(momentum), [2.125, -1.0625, 1.75, -0.875]);
        let adam = Aggregation::FedAdam {
            rate: 0.1,
            beta1: 0.5,
            beta2: 0.75,
            tau: 1e-3,
        };
        let (mut theta, mut m, mut v) = (0.0_f64, 0.0, 0.0);
        for _ in 0..3 {
            m = 0.5 * m + 0.5;
            v = 0.75 * v + 0.25;
            theta += 0.1 * m / (f64::sqrt(v) + 1e-3);
        }
        let state = rounds(adam);
        for (have, want) in [state[0], state[2], state[4]]
            .into_iter()
            .zip([theta, m, v])
        {
            assert!((f64::from(have) - want).abs() < 1e-6, "{have} {want}");
        }
    }

    #[test]
    fn wrong_lengths_and_constants_are_refused() {
        let adam = Aggregation::FedAdam {
            rate: 0.1,
            beta1: 0.9,
            beta2: 0.99,
            tau: 1e-3,
        };
        assert!(adam.check().is_ok());
        assert!(matches!(
            adam.apply(&[0.0; 5], &[0.0; 2]),
            Err(Error::Misuse(_))
        ));
        for (wrong, name) in [
            (
                Aggregation::FedAvgM {
                    rate: 0.0,
                    momentum: 0.5,
                },
                "rate",
            ),
            (
                Aggregation::FedAvgM {
                    rate: 1.0,
                    momentum: 1.0,
                },
                "momentum",
            ),
            (
                Aggregation::FedAdam {
                    rate: 1.0,
                    beta1: 0.9,
                    beta2: f64::NAN,
                    tau: 1.0,
                },
                "beta2",
            ),
            (
                Aggregation::FedAdam {
                    rate: 1.0,
                    beta1: 0.9,
                    beta2: 0.9,
                    tau: 0.0,
                },
                "tau",
            ),
        ] {
            assert!(wrong.check().unwrap_err().to_string().contains(name));
        }
    }
}
