//! What a training run shows of its own ε: a lower bound from one run (Steinke, Nasr, Jagielski, "Privacy Auditing with
//! One (1) Training Run", NeurIPS 2023).
//!
//! m canaries each enter the data by a fair coin of their own. From what was released an auditor guesses r of the coins
//! and abstains on the rest. Were the run (ε, δ)-differentially private for one canary, v or more right guesses would
//! have probability at most (theorem 5.2)
//!
//! ```text
//! P[B ≥ v] + 2·m·δ·max_{1 ≤ i ≤ v} P[v > B ≥ v − i]/i,   B ~ Binomial(r, e^ε/(e^ε + 1))
//! ```
//!
//! so every ε at which that is at most 1 − confidence is ruled out. A bound above the claimed ε refutes the claim; one
//! below it proves nothing but how good the guesses were.

use crate::{Result, misuse};

/// The guesses of one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guesses {
    /// m: coins thrown.
    pub canaries: u64,
    /// r: coins guessed.
    pub guessed: u64,
    /// v: coins guessed right.
    pub right: u64,
}

impl Guesses {
    /// The largest ε that these guesses rule out at δ, to 10⁻⁶ and rounded down; 0 when they rule out none.
    ///
    /// r must have been fixed before the run was looked at.
    ///
    /// # Errors
    /// [`Error::Misuse`](crate::Error::Misuse) for more guesses than canaries, more right ones than guesses, or a δ or
    /// a confidence outside 0..1.
    pub fn epsilon_ruled_out(&self, delta: f64, confidence: f64) -> Result<f64> {
        if !(self.right <= self.guessed && self.guessed <= self.canaries) {
            return misuse("guesses are at most as many as canaries, right ones as guesses");
        }
        let probability = |x: f64| (0.0..1.0).contains(&x);
        if !(probability(delta) && probability(confidence)) {
            return misuse("delta and confidence lie between 0 and 1");
        }
        let ruled_out = |epsilon: f64| self.probability(epsilon, delta) <= 1.0 - confidence;
        if !ruled_out(0.0) {
            return Ok(0.0);
        }
        // Private at a lower ε is private at this one too: ruling one out rules out all below it.
        let (mut low, mut high) = (0.0, MOST);
        while high - low > PRECISION {
            let middle = (low + high) / 2.0;
            if ruled_out(middle) {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low)
    }

    /// What as many guesses would rule out were all of them right: no claim above it can be refuted.
    ///
    /// # Errors
    /// As [`Guesses::epsilon_ruled_out`].
    pub fn most_ruled_out(&self, delta: f64, confidence: f64) -> Result<f64> {
        let right = self.guessed;
        Self { right, ..*self }.epsilon_ruled_out(delta, confidence)
    }

    /// The bound of theorem 5.2 on the probability of so many right guesses under (ε, δ)-differential privacy.
    fn probability(&self, epsilon: f64, delta: f64) -> f64 {
        // ln p and ln (1 − p) of a guess, p = e^ε/(e^ε + 1).
        let (right, wrong) = (-(-epsilon).exp().ln_1p(), -epsilon.exp().ln_1p());
        let masses = binomial(self.guessed, right, wrong);
        let v = self.right as usize;
        let tail: f64 = masses[v..].iter().rev().sum();
        let (mut below, mut steepest) = (0.0, 0.0_f64);
        for i in 1..=v {
            below += masses[v - i];
            steepest = steepest.max(below / i as f64);
        }
        (tail + 2.0 * self.canaries as f64 * delta * steepest).min(1.0)
    }
}

/// No ε above this is looked at.
const MOST: f64 = 64.0;
const PRECISION: f64 = 1e-6;

/// P[B = k] for k in 0..=n, by the logarithms of both probabilities.
fn binomial(n: u64, success: f64, failure: f64) -> Vec<f64> {
    let mut choose = 0.0; // ln (n over k)
    (0..=n)
        .map(|k| {
            if k > 0 {
                choose += ((n - k + 1) as f64).ln() - (k as f64).ln();
            }
            (choose + k as f64 * success + (n - k) as f64 * failure).exp()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guesses(canaries: u64, guessed: u64, right: u64) -> Guesses {
        Guesses {
            canaries,
            guessed,
            right,
        }
    }

    #[test]
    fn all_right_gives_the_closed_form_and_half_right_gives_nothing() {
        // p^r ≤ 1 − confidence.
        for r in [10, 100, 1000_u64] {
            let p = 0.05_f64.powf(1.0 / r as f64);
            let found = guesses(r, r, r).epsilon_ruled_out(0.0, 0.95).unwrap();
            assert!((found - (p / (1.0 - p)).ln()).abs() < 2e-6, "{r}: {found}");
        }
        let nothing = |m, r, v| guesses(m, r, v).epsilon_ruled_out(1e-5, 0.95).unwrap();
        assert_eq!((nothing(100, 100, 50), nothing(100, 0, 0)), (0.0, 0.0));
        // 4 of 4 right happens once in sixteen: not once in twenty.
        assert_eq!(nothing(4, 4, 4), 0.0);
        let most = guesses(300, 100, 50).most_ruled_out(1e-5, 0.95).unwrap();
        assert!((3.4..3.6).contains(&most), "{most}");
        assert!(nothing(5, 5, 5) > 0.0);
    }

    #[test]
    fn randomised_response_is_not_caught_above_its_epsilon_more_often_than_promised() {
        // Guesses that are right with probability e/(e + 1) each are what ε = 1 allows at most: the probability of a
        // false alarm is that of a v with a bound above 1.
        let (r, epsilon) = (200, 1.0_f64);
        let masses = binomial(r, -(-epsilon).exp().ln_1p(), -epsilon.exp().ln_1p());
        assert!((masses.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        let alarms = |v: &u64| guesses(r, r, *v).epsilon_ruled_out(0.0, 0.95).unwrap() > epsilon;
        let caught: f64 = (0..=r).filter(alarms).map(|v| masses[v as usize]).sum();
        assert!(caught < 0.05 && caught > 0.02, "{caught}");
    }

    #[test]
    fn delta_and_confidence_lower_the_bound_and_right_guesses_raise_it() {
        let of = |v, delta, confidence| {
            let found = guesses(500, 100, v).epsilon_ruled_out(delta, confidence);
            found.unwrap()
        };
        for v in 60..100 {
            assert!(of(v, 1e-5, 0.95) <= of(v + 1, 1e-5, 0.95), "{v}");
            assert!(of(v, 1e-3, 0.95) <= of(v, 1e-5, 0.95), "{v}");
            assert!(of(v, 1e-5, 0.99) <= of(v, 1e-5, 0.95), "{v}");
        }
    }

    #[test]
    fn the_authors_own_code_gives_the_same() {
        // get_eps_audit(m, r, v, delta, 0.05) of the paper's appendix D.
        for (m, r, v, delta, expected) in [
            (500, 100, 90, 1e-5, 1.628_491),
            (500, 100, 75, 1e-5, 0.700_845),
            (1000, 1000, 700, 1e-5, 0.731_740),
            (300, 60, 58, 1e-5, 2.179_757),
            (100, 20, 20, 1e-3, 1.476_282),
        ] {
            let found = guesses(m, r, v).epsilon_ruled_out(delta, 0.95).unwrap();
            assert!((found - expected).abs() < 3e-6, "{m} {r} {v}: {found}");
        }
    }

    #[test]
    fn numbers_that_do_not_fit_are_refused() {
        for wrong in [guesses(5, 6, 1), guesses(5, 5, 6)] {
            assert!(wrong.epsilon_ruled_out(1e-5, 0.95).is_err());
        }
        for (delta, confidence) in [
            (1.0, 0.95),
            (-0.1, 0.95),
            (f64::NAN, 0.95),
            (0.0, 1.0),
            (0.0, f64::NAN),
        ] {
            assert!(
                guesses(5, 5, 5)
                    .epsilon_ruled_out(delta, confidence)
                    .is_err()
            );
        }
    }
}
