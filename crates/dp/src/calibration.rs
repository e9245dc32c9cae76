//! Accountants run backwards: the least noise that keeps an ε.

use ciphertune_policy::Decimal;

use crate::rational::Fraction;
use crate::{Error, Result, refused};

/// The ε and δ that a calibration aims at: rounded down, and a millionth of δ kept back for the sampler's distance to the
/// ideal mechanism. Fails (`Refused`) without an ε above 0 or a δ in (0, 1).
pub(crate) fn kept_back(epsilon: &Decimal, delta: &Decimal) -> Result<(f64, f64)> {
    if epsilon.is_zero() {
        return refused("calibration needs an epsilon above 0");
    }
    if delta.is_zero() || *delta >= Decimal::ONE {
        return refused("delta lies strictly between 0 and 1");
    }
    Ok((epsilon.to_f64_down(), delta.to_f64_down() * (1.0 - 1e-6)))
}

/// The least z, a multiple of 1/1000, with which `epsilon_of` (which falls as z grows; infinite where there is none; asked
/// in thousandths) is at most `target`: it was asked at z and at z − 1/1000.
///
/// Fails (`Refused`) when no z up to 10⁶ will do.
pub(crate) fn least_multiplier(
    target: f64,
    guess: u64,
    mut epsilon_of: impl FnMut(u64) -> Result<f64>,
) -> Result<Decimal> {
    // z = 0 is too little; what lies above MOST is not looked at.
    let (mut too_little, mut enough) = (Sample::at(0, f64::INFINITY), Sample::at(MOST + 1, 0.0));
    let mut next = guess.clamp(1, MOST);
    for asked in 1.. {
        let sample = Sample::at(next, epsilon_of(next)?);
        if sample.epsilon <= target {
            enough = sample;
        } else {
            too_little = sample;
        }
        if enough.thousandths - too_little.thousandths <= 1 {
            break;
        }
        let proposed = if asked % HALVE_EVERY == 0 {
            between(&too_little, &enough)
        } else {
            propose(target, &too_little, &enough)
        };
        next = proposed.clamp(too_little.thousandths + 1, enough.thousandths - 1);
    }
    if enough.thousandths > MOST {
        return refused("no noise multiplier up to 1,000,000 gives that epsilon and delta");
    }
    Decimal::new(enough.thousandths.into(), 3).map_err(|error| Error::Fault(error.to_string()))
}

/// z² of so many thousandths.
pub(crate) fn squared(thousandths: u64) -> Fraction {
    Fraction::integer(thousandths).over(1000).squared()
}

/// z ≤ 10⁶.
const MOST: u64 = 1_000_000_000;
/// Interpolation can creep towards one end: every so often the bracket is halved.
const HALVE_EVERY: u32 = 6;

/// ε at a noise multiplier.
struct Sample {
    thousandths: u64,
    epsilon: f64,
}

impl Sample {
    fn at(thousandths: u64, epsilon: f64) -> Self {
        Self {
            thousandths,
            epsilon,
        }
    }

    /// Whether ln ε can be interpolated from here: both ends of the bracket cannot before they were asked.
    fn tells(&self) -> bool {
        self.epsilon.is_finite() && self.epsilon > 0.0
    }
}

/// Where ε should be `target`, rounded up: ln ε is nearly linear in ln z, with a slope of about −1 where only one end of
/// the bracket is known.
fn propose(target: f64, too_little: &Sample, enough: &Sample) -> u64 {
    let scaled = |sample: &Sample| {
        let factor = (sample.epsilon / target).clamp(1.0 / 16.0, 16.0);
        // A little further than the slope says, to have the answer between two ends.
        (sample.thousandths as f64 * factor.powf(1.02)).ceil() as u64
    };
    match (too_little.tells(), enough.tells()) {
        (true, true) => {
            let (from, to) = (
                (too_little.thousandths as f64).ln(),
                (enough.thousandths as f64).ln(),
            );
            let share =
                (too_little.epsilon / target).ln() / (too_little.epsilon / enough.epsilon).ln();
            (from + share * (to - from)).exp().ceil() as u64
        }
        (true, false) => scaled(too_little),
        (false, true) => scaled(enough),
        (false, false) => between(too_little, enough),
    }
}

/// The geometric middle.
fn between(too_little: &Sample, enough: &Sample) -> u64 {
    (too_little.thousandths.max(1) as f64 * enough.thousandths as f64).sqrt() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(target: f64, guess: u64, epsilon_of: impl Fn(f64) -> f64) -> (Result<Decimal>, usize) {
        let mut asked = 0;
        let answer = least_multiplier(target, guess, |thousandths| {
            asked += 1;
            Ok(epsilon_of(thousandths as f64 / 1e3))
        });
        (answer, asked)
    }

    #[test]
    fn the_least_thousandth_is_found_in_few_steps_from_any_guess() {
        for guess in [1, 700, 8_000, 1_000_000_000] {
            for target in [0.001, 0.5, 1.0, 8.0, 1000.0] {
                let (answer, asked) = found(target, guess, |z| 3.0 / z + 1.0 / (z * z));
                let z = answer.unwrap().to_f64_up();
                let epsilon_of = |z: f64| 3.0 / z + 1.0 / (z * z);
                assert!(
                    epsilon_of(z) <= target && epsilon_of(z - 0.001) > target,
                    "{target} {z}"
                );
                assert!(asked <= 40, "{asked} from {guess} to {target}");
            }
        }
        let (_, asked) = found(8.0, 900, |z| 7.0 / z + 1.0 / (z * z));
        assert!(asked <= 6, "{asked} from nearby");
    }

    #[test]
    fn steps_cliffs_and_zeros_do_not_stop_the_search() {
        let cliff = |z: f64| if z < 2.5 { f64::INFINITY } else { 0.0 };
        assert_eq!(found(1.0, 1, cliff).0.unwrap().to_string(), "2.5");
        assert_eq!(found(1.0, 1_000_000, cliff).0.unwrap().to_string(), "2.5");
        let stairs = |z: f64| (10.0 / z).ceil();
        assert_eq!(found(3.0, 1_000, stairs).0.unwrap().to_string(), "3.334");
        assert_eq!(found(1.0, 1_000, |_| 0.0).0.unwrap().to_string(), "0.001");
    }

    #[test]
    fn what_no_noise_reaches_is_refused() {
        assert!(matches!(
            found(1.0, 1_000, |_| 2.0).0,
            Err(Error::Refused(_))
        ));
        assert!(matches!(
            found(1.0, 1_000, |_| f64::INFINITY).0,
            Err(Error::Refused(_))
        ));
    }
}
