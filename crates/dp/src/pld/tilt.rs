//! Where in the composition the answer lies, and the exponential tilt that brings it to the middle.

use super::grid::Losses;

/// θ, and where T steps tilted by it lie: masses p_j·e^{θjh}, normalised.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tilt {
    pub(super) theta: f64,
    /// Of the sum of T tilted losses.
    pub(super) mean: f64,
    /// Of the same.
    pub(super) deviation: f64,
}

impl Tilt {
    /// The θ > 0 for which the moment bound of ε at `delta` is least (Canonne–Kamath–Steinke 2020, Proposition 12, with
    /// α = θ + 1): T·(θ·K′(θ) − K(θ)) + ln(θ + 1) + ln δ = 0, K the logarithm of the moment generating function. The left
    /// side grows with θ, from ln δ to ∞. Any θ is sound, so a few digits do.
    pub(super) fn of(losses: &Losses, steps: u32, delta: f64) -> Self {
        let steps = f64::from(steps);
        let blocks = Blocks::of(losses);
        let at = |theta: f64| {
            let moments = blocks.moments(losses, theta);
            let value = steps * (theta * moments.mean - moments.logarithm)
                + libm::log1p(theta)
                + libm::log(delta);
            (value, moments)
        };
        let spread = blocks.moments(losses, 0.0).variance;
        // What a normal distribution of that variance asks for.
        let mut theta = (2.0 * libm::log(1.0 / delta) / (steps * spread))
            .sqrt()
            .clamp(LEAST, MOST);
        let (mut low, mut high) = (LEAST, MOST);
        let (mut value, mut moments) = at(theta);
        for _ in 0..60 {
            if value.abs() < 0.01 * libm::log(1.0 / delta).max(1.0) {
                break;
            }
            if value < 0.0 {
                low = theta;
            } else {
                high = theta;
            }
            let slope = steps * theta * moments.variance + 1.0 / (theta + 1.0);
            let newton = theta - value / slope;
            theta = if newton > low && newton < high {
                newton
            } else {
                (low * high.min(16.0 * low.max(theta))).sqrt()
            };
            (value, moments) = at(theta);
        }
        Self {
            theta,
            mean: steps * moments.mean,
            deviation: (steps * moments.variance).sqrt(),
        }
    }
}

/// The least θ that is considered.
const LEAST: f64 = 1e-9;
/// The largest.
const MOST: f64 = 1e12;

/// ln of the largest mass of each [`BLOCK`], by which a sum of exponentials keeps within the range of a float.
struct Blocks(Vec<f64>);

struct Moments {
    /// K(θ).
    logarithm: f64,
    mean: f64,
    variance: f64,
}

const BLOCK: usize = 64;

impl Blocks {
    fn of(losses: &Losses) -> Self {
        let largest = |masses: &[f64]| masses.iter().copied().fold(0.0, f64::max);
        Self(
            losses
                .masses
                .chunks(BLOCK)
                .map(|masses| libm::log(largest(masses)))
                .collect(),
        )
    }

    fn moments(&self, losses: &Losses, theta: f64) -> Moments {
        let h = losses.h;
        let start = |block: usize| (losses.first + (block * BLOCK) as i64) as f64 * h;
        let logarithm = |block: usize| self.0[block] + theta * start(block);
        // The block that weighs most is the origin of both the exponent and the loss.
        let heaviest = (0..self.0.len())
            .max_by(|a, b| logarithm(*a).total_cmp(&logarithm(*b)))
            .unwrap_or(0);
        let (shift, origin) = (logarithm(heaviest), start(heaviest));
        let ratio = libm::exp(theta * h);
        let (mut sum, mut first, mut second) = (0.0, 0.0, 0.0);
        for (block, masses) in losses.masses.chunks(BLOCK).enumerate() {
            if logarithm(block) - shift < -NEGLIGIBLE - theta * h * BLOCK as f64 {
                continue;
            }
            let mut weight = libm::exp(theta * start(block) - shift);
            let mut loss = start(block) - origin;
            for mass in masses {
                let part = mass * weight;
                sum += part;
                first += part * loss;
                second += part * loss * loss;
                weight *= ratio;
                loss += h;
            }
        }
        let mean = first / sum;
        Moments {
            logarithm: shift + libm::log(sum),
            mean: origin + mean,
            variance: (second / sum - mean * mean).max(0.0),
        }
    }
}

/// e⁻⁶⁰ of the heaviest block is not looked at.
const NEGLIGIBLE: f64 = 60.0;
