//! Exact fractions of big integers, and the ways from them to a float: upwards and downwards.

use ciphertune_gauss::Variance;
use ciphertune_policy::Decimal;
use num_bigint::BigUint;

use crate::{Error, Result};

/// numerator / denominator, not reduced; the denominator is never 0.
#[derive(Clone, Debug)]
pub(crate) struct Fraction {
    pub(crate) numerator: BigUint,
    pub(crate) denominator: BigUint,
}

impl Fraction {
    pub(crate) fn of(decimal: &Decimal) -> Self {
        let (numerator, denominator) = decimal.to_ratio();
        // A `Decimal` is never negative.
        Self {
            numerator: numerator.unsigned_abs().into(),
            denominator: denominator.into(),
        }
    }

    pub(crate) fn integer(value: impl Into<BigUint>) -> Self {
        Self {
            numerator: value.into(),
            denominator: 1_u8.into(),
        }
    }

    pub(crate) fn times(self, other: &Self) -> Self {
        Self {
            numerator: self.numerator * &other.numerator,
            denominator: self.denominator * &other.denominator,
        }
    }

    pub(crate) fn squared(&self) -> Self {
        self.clone().times(self)
    }

    /// 1 / self; self > 0.
    pub(crate) fn inverse(self) -> Self {
        Self {
            numerator: self.denominator,
            denominator: self.numerator,
        }
    }

    /// self / divisor; divisor > 0.
    pub(crate) fn over(self, divisor: u64) -> Self {
        Self {
            denominator: self.denominator * divisor,
            ..self
        }
    }

    /// self · 2^exponent.
    pub(crate) fn shifted(self, exponent: i32) -> Self {
        let bits = exponent.unsigned_abs();
        if exponent >= 0 {
            Self {
                numerator: self.numerator << bits,
                ..self
            }
        } else {
            Self {
                denominator: self.denominator << bits,
                ..self
            }
        }
    }

    pub(crate) fn floor(&self) -> BigUint {
        &self.numerator / &self.denominator
    }

    pub(crate) fn at_least(&self, integer: u64) -> bool {
        self.numerator >= &self.denominator * integer
    }

    /// As a variance, exactly. Fails (`Refused`) outside the sampler's range or beyond 128 bits.
    pub(crate) fn to_variance(&self) -> Result<Variance> {
        let divisor = greatest_common_divisor(&self.numerator, &self.denominator);
        let part = |value: &BigUint| {
            u128::try_from(value / &divisor)
                .map_err(|_| Error::Refused("the noise variance needs more than 128 bits: fewer digits in clip_norm or noise".into()))
        };
        Variance::new(part(&self.numerator)?, part(&self.denominator)?)
            .map_err(|error| Error::Refused(error.to_string()))
    }

    /// The least float that is certainly ≥ the fraction: 62 bits of the quotient, rounded up twice.
    pub(crate) fn to_f64_up(&self) -> f64 {
        let (quotient, power) = self.leading_bits();
        if quotient == 0 {
            return 0.0;
        }
        ((quotient + 1) as f64).next_up() * power
    }

    /// A float that is certainly ≤ the fraction: 62 bits of the quotient, rounded down twice.
    pub(crate) fn to_f64_down(&self) -> f64 {
        let (quotient, power) = self.leading_bits();
        (quotient as f64).next_down().max(0.0) * power
    }

    /// (⌊self / p⌋, p), where p is the power of two that gives the quotient 62 or 63 bits; (0, 1) for 0.
    fn leading_bits(&self) -> (u64, f64) {
        if self.numerator == BigUint::ZERO {
            return (0, 1.0);
        }
        let shift = 62 - (self.numerator.bits() as i64 - self.denominator.bits() as i64);
        let quotient = self.clone().shifted(shift as i32).floor();
        (
            u64::try_from(quotient).unwrap_or(u64::MAX - 1),
            2_f64.powi(-shift as i32),
        )
    }
}

fn greatest_common_divisor(a: &BigUint, b: &BigUint) -> BigUint {
    let (mut a, mut b) = (a.clone(), b.clone());
    while b != BigUint::ZERO {
        (a, b) = (b.clone(), a % b);
    }
    a
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fraction_becomes_a_float_above_it_by_no_more_than_two_places() {
        for (numerator, denominator) in [
            (1_u64, 3_u64),
            (1, 7),
            (2, 1),
            (u64::MAX, 3),
            (1, u64::MAX),
            (355, 113),
        ] {
            let fraction = Fraction::integer(numerator).over(denominator);
            let float = fraction.to_f64_up();
            let nearest = numerator as f64 / denominator as f64;
            assert!(
                float > nearest.next_down() && float <= nearest.next_up().next_up().next_up(),
                "{numerator}/{denominator}"
            );
            // float ≥ fraction, exactly: float = mantissa · 2^exponent.
            let exponent = 52 - float.log2().floor() as i32;
            let mantissa = (float * 2_f64.powi(exponent)) as u64;
            let exact = Fraction::integer(mantissa).shifted(-exponent);
            assert!(
                exact.numerator * &fraction.denominator >= &fraction.numerator * exact.denominator
            );
        }
        assert_eq!(Fraction::integer(0_u8).to_f64_up(), 0.0);
    }

    #[test]
    fn downwards_and_upwards_enclose_a_fraction_and_its_inverse() {
        for (numerator, denominator) in [(1_u64, 3_u64), (4, 1), (7, u64::MAX), (u64::MAX, 7)] {
            let fraction = Fraction::integer(numerator).over(denominator);
            let (below, above) = (fraction.to_f64_down(), fraction.to_f64_up());
            assert!(below < above && above / below < 1.0 + 1e-15);
            let inverse = fraction.inverse();
            assert!(inverse.to_f64_down() * below < 1.0 && inverse.to_f64_up() * above > 1.0);
        }
        assert_eq!(Fraction::integer(0_u8).to_f64_down(), 0.0);
    }

    #[test]
    fn a_variance_is_exact_or_refused() {
        let variance = Fraction::of(&"4.509".parse().unwrap())
            .squared()
            .over(2)
            .to_variance()
            .unwrap();
        assert_eq!(
            (variance.numerator(), variance.denominator()),
            (20_331_081, 2_000_000)
        );
        assert!(
            Fraction::integer(BigUint::from(1_u8) << 200_u32)
                .to_variance()
                .is_err()
        );
    }
}
