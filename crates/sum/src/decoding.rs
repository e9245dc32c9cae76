//! How often an honest sum does not open.

use std::f64::consts::{LOG2_E, PI};

use crate::parameters::TAIL;
use crate::{N, Parameters, SIGMA_SQUARED};

/// The odds that the errors of honest members end a round, when all n contribute.
///
/// A sum of n independent discrete Gaussians of parameter σ is subgaussian with parameter σ·√n, as E e^(tX) ≤ e^(σ²t²/2)
/// for each (Canonne, Kamath, Steinke, NeurIPS 2020), so P(|e| > 9·σ·√n) ≤ 2·e^(−81/2). Such a coefficient is
/// seen, and the attempt is void; a value could only be wrong unseen from Δ − 9·σ·√n on, which is rarer still.
///
/// All are log₂ of upper bounds (the union bound over coefficients). The sampler's distance to the ideal, 2⁻¹⁰⁴ a
/// draw, is below their rounding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DecodingFailure {
    /// σ·√n: the standard deviation of a coefficient's error, that of the discrete Gaussian being σ to within 2⁻¹⁰⁰.
    pub deviation: f64,
    /// ⌊9·σ·√n⌋: a larger residual error voids the attempt.
    pub tolerated: u64,
    /// Δ/2 in units of the deviation: where rounding goes to the next value.
    pub rounding_deviations: f64,
    /// One coefficient: 2·e^(−81/2).
    pub coefficient_log2: f64,
    /// One coefficient, if its error were normal of that deviation: 2·φ(9)/9, Mills' bound. What is to be expected,
    /// where the line above is what is proved.
    pub normal_coefficient_log2: f64,
    /// One block of N coefficients.
    pub block_log2: f64,
}

impl Parameters {
    /// The odds that an honest sum does not open.
    #[must_use]
    pub fn decoding_failure(&self) -> DecodingFailure {
        let (numerator, denominator) = SIGMA_SQUARED;
        let deviation = (self.members() as f64 * numerator as f64 / denominator as f64).sqrt();
        let tail = TAIL as f64;
        let exponent = tail * tail / 2.0 * LOG2_E;
        let coefficient_log2 = 1.0 - exponent;
        DecodingFailure {
            deviation,
            tolerated: self.error_bound(self.members()),
            rounding_deviations: f64::from(self.delta_log2() - 1).exp2() / deviation,
            coefficient_log2,
            normal_coefficient_log2: (2.0 / (tail * (2.0 * PI).sqrt())).log2() - exponent,
            block_log2: coefficient_log2 + (N as f64).log2(),
        }
    }
}

impl DecodingFailure {
    /// The opening of a sum of `blocks` blocks: theirs and one more, for the sum of the keys is held to the same
    /// bound.
    #[must_use]
    pub fn opening_log2(&self, blocks: usize) -> f64 {
        self.block_log2 + (blocks as f64 + 1.0).log2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CohortSize, ValueBound};

    fn of(n: usize) -> DecodingFailure {
        let bound = ValueBound::new(2047).unwrap();
        Parameters::derive(CohortSize::new(n).unwrap(), bound)
            .unwrap()
            .decoding_failure()
    }

    #[test]
    fn the_odds_are_those_of_nine_deviations_for_every_cohort() {
        for n in CohortSize::MIN..=CohortSize::MAX {
            let odds = of(n);
            // 2·e^(−81/2) = 5.15·10⁻¹⁸.
            assert!((odds.coefficient_log2.exp2() / 5.153e-18 - 1.0).abs() < 1e-3);
            assert!((odds.block_log2 - odds.coefficient_log2 - 12.0).abs() < 1e-9);
            assert!((odds.deviation * odds.deviation / (40.96 * n as f64) - 1.0).abs() < 1e-12);
            let deviations = odds.tolerated as f64 / odds.deviation;
            assert!((8.8..=9.0).contains(&deviations), "n = {n}: {deviations}");
            assert!((9.0..18.1).contains(&odds.rounding_deviations), "n = {n}");
        }
    }

    /// erfc(9/√2) = 2.2571768119·10⁻¹⁹ (Abramowitz and Stegun, table 26.2: Q(9) = 1.12859·10⁻¹⁹).
    #[test]
    fn the_normal_estimate_is_just_above_the_normal_tail_and_below_the_bound() {
        let odds = of(3);
        let ratio = odds.normal_coefficient_log2.exp2() / 2.257_176_811_9e-19;
        assert!((1.0..1.013).contains(&ratio), "{ratio}");
        assert!(odds.normal_coefficient_log2 < odds.coefficient_log2);
    }

    /// The bound itself, against the exact law: the errors of two members convolved, in doubles.
    #[test]
    fn the_exact_tail_of_two_members_is_below_the_bound() {
        let density = |x: f64| (-x * x / (2.0 * 40.96)).exp();
        let total: f64 = (-200..=200).map(|x| density(f64::from(x))).sum();
        let odds = of(2);
        // P(|x + y| > t) by convolution; the sums are of positive terms, so doubles lose nothing that matters.
        let beyond: f64 = (odds.tolerated as i32 + 1..=400)
            .map(|sum| {
                let ways = (-200..=200)
                    .filter(|x| (sum - x).abs() <= 200)
                    .map(|x| density(f64::from(x)) * density(f64::from(sum - x)));
                ways.sum::<f64>()
            })
            .sum();
        let exact = (2.0 * beyond / (total * total)).log2();
        assert!(exact < odds.coefficient_log2, "{exact}");
        assert!(
            (exact - odds.normal_coefficient_log2).abs() < 1.0,
            "{exact}"
        );
    }

    #[test]
    fn an_opening_counts_its_blocks_and_the_sum_of_the_keys() {
        let odds = of(3);
        assert!((odds.opening_log2(1) - odds.block_log2 - 1.0).abs() < 1e-9);
        assert!((odds.opening_log2(1023) - odds.block_log2 - 10.0).abs() < 1e-9);
    }
}
