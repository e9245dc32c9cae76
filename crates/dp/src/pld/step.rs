//! The hockey-stick curves of one step, with a bound on their rounding.

use crate::rational::Fraction;
use crate::schedule::{FrozenSchedule, SamplingRate};

/// One Poisson-sampled Gaussian step: P = (1 − q)·N(0, z²) + q·N(1, z²), Q = N(0, z²).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    q: f64,
    z: f64,
}

impl Step {
    /// z = √`squared`. q is rounded up and z down, and z is cut to a million: each only makes P and Q easier to tell apart.
    pub(crate) fn new(rate: SamplingRate, squared: &Fraction) -> Self {
        Self {
            q: rate.get().to_f64_up().min(1.0),
            z: squared.to_f64_down().sqrt().next_down().min(MOST),
        }
    }

    /// A step of a schedule; of discrete noise, the continuous one that it rounds.
    pub(crate) fn of(schedule: &FrozenSchedule) -> Self {
        Self::new(schedule.rate(), schedule.continuous_squared())
    }

    /// So many steps as fewer: T whole batches are one with z/√T.
    pub(crate) fn merged(self, steps: u32) -> (Self, u32) {
        if self.is_whole() && steps > 1 {
            let z = (self.z / f64::from(steps).sqrt().next_up()).next_down();
            (Self { z, ..self }, 1)
        } else {
            (self, steps)
        }
    }

    /// Whether q = 1 (as a float).
    pub(crate) fn is_whole(&self) -> bool {
        self.q >= 1.0
    }

    /// About the standard deviation of the loss: that of P/Q under Q, q·√(e^{1/z²} − 1).
    pub(super) fn spread(&self) -> f64 {
        self.q * libm::expm1(1.0 / (self.z * self.z)).sqrt()
    }

    /// sup P(S) − e^ε·Q(S), ε ≥ 0: q·δ_G(ε′) with e^ε = 1 − q + q·e^ε′.
    pub(crate) fn removed(&self, epsilon: f64) -> f64 {
        let amplified = if epsilon < 1.0 {
            libm::log1p(libm::expm1(epsilon) / self.q)
        } else {
            epsilon - libm::log(self.q) + libm::log1p((self.q - 1.0) * libm::exp(-epsilon))
        };
        self.q * self.gaussian(amplified)
    }

    /// sup Q(S) − e^ε·P(S), ε ≥ 0: (1 − (1 − q)·e^ε)·δ_G(ε′) with e^−ε = 1 − q + q·e^−ε′, and 0 from ε = −ln(1 − q) on.
    pub(crate) fn added(&self, epsilon: f64) -> f64 {
        // e^−ε′
        let inverse = if epsilon < 1.0 {
            1.0 + libm::expm1(-epsilon) / self.q
        } else {
            (libm::exp(-epsilon) - (1.0 - self.q)) / self.q
        };
        if inverse <= 0.0 {
            return 0.0;
        }
        let amplified = if epsilon < 1.0 {
            -libm::log1p(libm::expm1(-epsilon) / self.q)
        } else {
            -libm::log(inverse)
        };
        self.q * libm::exp(epsilon) * inverse * self.gaussian(amplified)
    }

    /// δ_G(ε) = Φᶜ(a) − e^ε·Φᶜ(b), a = ε·z − 1/(2z), b = a + 1/z: the curve of N(1, z²) against N(0, z²)
    /// (Balle–Wang 2018, Theorem 8). e^ε·Φᶜ(b) = e^{−a²/2}·(e^{b²/2}·Φᶜ(b)).
    fn gaussian(&self, epsilon: f64) -> f64 {
        let half = 0.5 / self.z;
        let (a, b) = (epsilon * self.z - half, epsilon * self.z + half);
        (upper_tail(a) - libm::exp(-a * a / 2.0) * scaled_upper_tail(b)).max(0.0)
    }

    /// Bound on the relative error of both curves where they matter, |a| ≤ 12: a and the tails are each right to a few last
    /// places times a² and ab (2⁻⁴⁴ together), and what the difference cancels is at most Φᶜ(a)/δ_G ≤ 1 + 13·z. The
    /// rounding of ε itself moves a loss and is [`Step::displacement`].
    pub(crate) fn relative_error(&self) -> f64 {
        2_f64.powi(-43) * (1.0 + 13.0 * self.z)
    }

    /// Bound on how far rounding may have moved a loss of the size `largest`.
    pub(crate) fn displacement(&self, largest: f64) -> f64 {
        8.0 * f64::EPSILON * largest
    }
}

/// Φᶜ(x).
fn upper_tail(x: f64) -> f64 {
    0.5 * libm::erfc(x * std::f64::consts::FRAC_1_SQRT_2)
}

/// e^{x²/2}·Φᶜ(x), x > 0.
fn scaled_upper_tail(x: f64) -> f64 {
    if x < ASYMPTOTIC {
        return libm::exp(x * x / 2.0) * upper_tail(x);
    }
    // (1 − 1/x² + 1·3/x⁴ − 1·3·5/x⁶ + …)/(x√(2π)): from x = 12 on sixteen terms leave less than 31!!/x³² < 10⁻¹⁶.
    let inverse_square = 1.0 / (x * x);
    let series = (0..16_u32).rev().fold(1.0, |rest, n| {
        1.0 - f64::from(2 * n + 1) * inverse_square * rest
    });
    series * FRAC_1_SQRT_2PI / x
}

/// The largest z: beyond, the difference of two tails would be lost in their rounding.
const MOST: f64 = 1e6;
/// From here on the asymptotic series is as good as a float.
const ASYMPTOTIC: f64 = 12.0;
/// 1/√(2π)
const FRAC_1_SQRT_2PI: f64 = 0.398_942_280_401_432_7;

#[cfg(test)]
mod tests {
    use super::*;

    fn step(q: f64, z: f64) -> Step {
        Step { q, z }
    }

    /// ∫ max(p − e^ε·q, 0) by the midpoint rule.
    fn integral(q: f64, z: f64, epsilon: f64, remove: bool) -> f64 {
        let points = 2_000_000;
        let (from, to) = (-14.0 * z, 14.0 * z + 1.0);
        let width = (to - from) / f64::from(points);
        (0..points)
            .map(|point| {
                let x = from + (f64::from(point) + 0.5) * width;
                let normal =
                    |mean: f64| (-((x - mean) / z).powi(2) / 2.0).exp() * FRAC_1_SQRT_2PI / z;
                let (base, mixture) = (normal(0.0), (1.0 - q) * normal(0.0) + q * normal(1.0));
                let (over, under) = if remove {
                    (mixture, base)
                } else {
                    (base, mixture)
                };
                (over - epsilon.exp() * under).max(0.0) * width
            })
            .sum()
    }

    #[test]
    fn the_curves_are_the_integrals_they_stand_for() {
        for (q, z) in [(1.0, 1.0), (0.2, 0.7), (0.9, 2.0), (0.01, 0.5), (0.3, 12.5)] {
            for epsilon in [0.0, 0.003, 0.09, 0.5, 1.5] {
                let step = step(q, z);
                let removed = integral(q, z, epsilon, true);
                let found = step.removed(epsilon);
                assert!(
                    (found - removed).abs() < 1e-11 + 1e-7 * removed,
                    "{q} {z} {epsilon}: {found} {removed}"
                );
                let added = integral(q, z, epsilon, false);
                let found = step.added(epsilon);
                assert!(
                    (found - added).abs() < 1e-11 + 1e-7 * added,
                    "{q} {z} {epsilon}: {found} {added}"
                );
            }
        }
    }

    #[test]
    fn the_tail_is_one_function_on_both_sides_of_the_switch() {
        let below = scaled_upper_tail(ASYMPTOTIC.next_down());
        assert!((scaled_upper_tail(ASYMPTOTIC) / below - 1.0).abs() < 5e-14);
        assert!(scaled_upper_tail(1e6) > 0.0);
    }

    #[test]
    fn a_record_that_is_added_is_never_worse_than_its_sampling_rate_allows() {
        let edge = -(-0.3_f64).ln_1p();
        assert_eq!(step(0.3, 0.1).added(edge + 1e-9), 0.0);
        assert!(step(0.3, 0.1).added(edge - 1e-3) > 0.0);
        assert!(step(0.3, 0.1).removed(edge + 1.0) > 0.0);
    }
}
