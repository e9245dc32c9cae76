//! What a round must come to, written from privacy.md §1 and §2 and protocol.md §3 alone, in exact arithmetic: no code
//! of `dp` or `seal`.
//!
//! Clip, round to nearest (halves to the even one), integer-clip; add up; one division; one addition. The quantiser
//! works on squares of exact rationals, so that no float decides anything before the last two steps, which the design
//! fixes to IEEE operations.

use num_bigint::BigUint;
use num_traits::{ToPrimitive, Zero};

/// The noise that a plan states, as far as the scale depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Noise {
    /// z in thousandths (calibration rounds it up to them).
    pub multiplier_thousandths: u64,
    /// m_min = min_contributors − max(colluders, 1); 1 for local noise.
    pub shares: u64,
    /// Δ₂²/D2sq: 1 for zero-out, 4 for replace-one.
    pub adjacency_factor: u64,
}

/// Scale 2^s and D2sq of a clip bound C that is a whole number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quantiser {
    /// s.
    pub scale_log2: i32,
    /// ⌊(2^s·C)²⌋.
    pub d2sq: u64,
}

/// σ_i² = numerator/denominator.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    numerator: u128,
    denominator: u128,
}

impl Share {
    /// σ_i².
    pub fn variance(self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }

    /// ⌈12·σ_i⌉.
    fn reach(self) -> u128 {
        let square = (144 * self.numerator).div_ceil(self.denominator);
        let root = square.isqrt();
        root + u128::from(root * root < square)
    }
}

impl Quantiser {
    /// "The largest power of two for which B(D2sq, σ_i) fits the slot budget, and at least the one that gives
    /// D ≥ ½√d", with σ_i ≥ 4. B = 2^b − 1 covers D + 12·σ_i; the budget is 2^(value_bits − 1) − 1.
    pub fn derive(clip: u64, noise: Option<Noise>, value_bits: u32, dimension: usize) -> Self {
        let budget = (1_u128 << (value_bits - 1)) - 1;
        let mut chosen = None;
        for scale_log2 in -30..30 {
            let Some(quantiser) = Self::at(clip, scale_log2) else {
                continue;
            };
            let share = noise.map(|noise| quantiser.share(noise));
            let fine = 4 * u128::from(quantiser.d2sq) >= dimension as u128
                && share.is_none_or(|share| share.numerator >= 16 * share.denominator);
            let reach = u128::from(quantiser.d2sq.isqrt()) + share.map_or(0, |share| share.reach());
            // The first that is fine enough is taken whatever it needs; later ones while they fit.
            if fine && (chosen.is_none() || reach <= budget) {
                chosen = Some(quantiser);
            }
        }
        chosen.expect("a scale")
    }

    fn at(clip: u64, scale_log2: i32) -> Option<Self> {
        let square = u128::from(clip).pow(2);
        let d2sq = if scale_log2 >= 0 {
            square.checked_mul(1 << (2 * scale_log2))?
        } else {
            square >> (-2 * scale_log2)
        };
        let d2sq = u64::try_from(d2sq).ok().filter(|d2sq| *d2sq > 0)?;
        Some(Self { scale_log2, d2sq })
    }

    /// σ_i² = z²·Δ₂²/m.
    pub fn share(self, noise: Noise) -> Share {
        Share {
            numerator: u128::from(noise.multiplier_thousandths).pow(2)
                * u128::from(self.d2sq)
                * u128::from(noise.adjacency_factor),
            denominator: 1_000_000 * u128::from(noise.shares),
        }
    }

    /// The un-noised integers of an update: v = round(2^s·x·f), where f = C/‖x‖ if ‖x‖ > C and 1 otherwise, and then,
    /// "while Σ v² > D2sq, multiply x by √(D2sq/Σv²)·(1 − 2⁻²⁰) and round again", the shrink doubling each pass.
    pub fn quantise(self, update: &[f32]) -> Vec<i64> {
        let magnitudes: Vec<BigUint> = update.iter().map(|x| in_smallest_units(*x)).collect();
        let squares: Vec<BigUint> = magnitudes.iter().map(|m| m * m).collect();
        let norm_squared: BigUint = squares.iter().sum();
        let d2sq = BigUint::from(self.d2sq);
        // (2^s)² over (2^149)²: the square of what turns units of 2^−149 into steps of the scale.
        let (up, down) = (self.scale_log2.max(0) * 2, (-self.scale_log2).max(0) * 2);
        let scale = BigUint::from(1_u8) << up;
        let units = BigUint::from(1_u8) << (2 * SMALLEST_EXPONENT + down as usize);
        let outside = &norm_squared * &scale > &d2sq * &units;
        let (mut numerator, mut denominator) = if outside {
            (d2sq.clone(), norm_squared)
        } else {
            (scale, units)
        };
        let limit = self.d2sq.isqrt();
        for pass in 0..=20 {
            let values: Vec<u64> = squares
                .iter()
                .map(|square| root_to_nearest(&(square * &numerator), &denominator).min(limit))
                .collect();
            let sum: u128 = values.iter().map(|v| u128::from(*v).pow(2)).sum();
            if sum <= u128::from(self.d2sq) {
                return values
                    .iter()
                    .zip(update)
                    .map(|(v, x)| if *x < 0.0 { -(*v as i64) } else { *v as i64 })
                    .collect();
            }
            let shrink = (1_u64 << 20) - (1 << pass);
            numerator = numerator * &d2sq * BigUint::from(shrink).pow(2);
            denominator = (denominator * BigUint::from(sum)) << 40_u8;
        }
        vec![0; update.len()]
    }

    /// [`Quantiser::quantise`] of an update that lies inside of the ball, in little memory: 2^s·x is exact in f64.
    pub fn quantise_inside(self, update: &[f32]) -> Vec<i64> {
        let scale = f64::exp2(self.scale_log2.into());
        let scaled = || update.iter().map(|x| f64::from(*x) * scale);
        let square: f64 = scaled().map(|x| x * x).sum();
        assert!(square < 0.99 * self.d2sq as f64, "outside, or nearly");
        let values: Vec<i64> = scaled().map(|x| x.round_ties_even() as i64).collect();
        let sum: i128 = values.iter().map(|v| i128::from(*v).pow(2)).sum();
        assert!(sum <= i128::from(self.d2sq), "rounding leads outside");
        values
    }

    /// θ + Σ/(2^s·|U|): one division in f64, one rounding to f32, one addition in f32.
    pub fn average_onto(self, model: &[f32], sum: &[i64], contributors: usize) -> Vec<f32> {
        let divisor = f64::exp2(self.scale_log2.into()) * contributors as f64;
        model
            .iter()
            .zip(sum)
            .map(|(theta, sum)| theta + (*sum as f64 / divisor) as f32)
            .collect()
    }
}

/// Σ, coordinate by coordinate.
pub fn add_up(vectors: &[Vec<i64>]) -> Vec<i64> {
    let mut sum = vec![0; vectors[0].len()];
    for vector in vectors {
        assert_eq!(vector.len(), sum.len());
        for (total, value) in sum.iter_mut().zip(vector) {
            *total += value;
        }
    }
    sum
}

/// Every finite f32 is a whole multiple of 2^−149.
const SMALLEST_EXPONENT: usize = 149;

/// |x|·2^149.
fn in_smallest_units(x: f32) -> BigUint {
    assert!(x.is_finite());
    let bits = x.to_bits();
    let (exponent, fraction) = ((bits >> 23) & 0xFF, bits & 0x7F_FFFF);
    match exponent {
        0 => BigUint::from(fraction),
        exponent => BigUint::from(fraction | 0x80_0000) << (exponent - 1),
    }
}

/// √(numerator/denominator) to the nearest whole number, halves to the even one.
fn root_to_nearest(numerator: &BigUint, denominator: &BigUint) -> u64 {
    if numerator.is_zero() {
        return 0;
    }
    let floor = (numerator / denominator)
        .to_u128()
        .expect("a small root")
        .isqrt() as u64;
    // Against (floor + ½)².
    let middle = BigUint::from(2 * floor + 1).pow(2) * denominator;
    match (numerator * 4_u8).cmp(&middle) {
        std::cmp::Ordering::Less => floor,
        std::cmp::Ordering::Greater => floor + 1,
        std::cmp::Ordering::Equal => floor + floor % 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_inside_the_ball_is_rounded_halves_to_even() {
        let quantiser = Quantiser {
            scale_log2: 1,
            d2sq: 10_000,
        };
        let update = [
            0.25,
            0.75,
            -0.25,
            -0.75,
            1.0,
            0.3,
            1.25,
            0.0,
            -0.0,
            f32::MIN_POSITIVE,
        ];
        assert_eq!(quantiser.quantise(&update), [0, 2, 0, -2, 2, 1, 2, 0, 0, 0]);
        assert_eq!(
            quantiser.quantise_inside(&update),
            quantiser.quantise(&update)
        );
    }

    #[test]
    fn what_lies_outside_ends_inside_and_in_the_same_direction() {
        // 512·(0.6, 0.8) = (307.2, 409.6) → (307, 410), outside; one pass later inside.
        let quantiser = Quantiser {
            scale_log2: 9,
            d2sq: 512 * 512,
        };
        assert_eq!(quantiser.quantise(&[3000.0, -4000.0]), [307, -409]);
    }

    #[test]
    fn the_scale_fills_the_slot_budget() {
        let quantiser = Quantiser::derive(3, None, 12, 4);
        assert_eq!((quantiser.scale_log2, quantiser.d2sq), (9, 1536 * 1536));
        // ½√d = 2048 wants more than the budget of 11 bits allows: the slot grows.
        let fine = Quantiser::derive(3, None, 12, 1 << 24);
        assert_eq!(fine.scale_log2, 10);
    }

    #[test]
    fn a_mean_is_one_division_and_one_addition() {
        let quantiser = Quantiser {
            scale_log2: 9,
            d2sq: 1,
        };
        let model = quantiser.average_onto(&[1.0, 0.0], &[1536, 1], 3);
        assert_eq!(model, [2.0, (1.0_f64 / 1536.0) as f32]);
    }
}
