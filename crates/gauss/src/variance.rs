//! σ² as an exact rational.

use std::cmp::Ordering;
use std::fmt;

use crate::{Error, Result};

/// σ² = numerator / denominator in lowest terms, the parameter of N_ℤ(0, σ²): P(x) ∝ exp(−x²/(2σ²)) over the integers.
///
/// From 1/4 to 2⁸⁰. σ² is the *parameter*; the variance of the discrete Gaussian itself is never above it
/// (Canonne–Kamath–Steinke 2020, Corollary 9) and equals it to within 2⁻¹⁰⁰ from σ = 2 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Variance {
    numerator: u128,
    denominator: u128,
}

impl Variance {
    /// numerator / denominator, reduced. Fails (`Misuse`) on a zero denominator or outside [1/4, 2⁸⁰].
    pub fn new(numerator: u128, denominator: u128) -> Result<Self> {
        if denominator == 0 {
            return Err(Error::Misuse("a variance with denominator 0".into()));
        }
        let divisor = greatest_common_divisor(numerator, denominator);
        let reduced = Self {
            numerator: numerator / divisor,
            denominator: denominator / divisor,
        };
        // σ² ≥ 1/4 ⇔ ⌊4σ²⌋ ≥ 1; where 4·numerator overflows, σ² is certainly not small against a u128 denominator / 4.
        let large_enough = reduced.numerator >= reduced.denominator.div_ceil(4);
        let floor = reduced.floor();
        let small_enough = floor < LARGEST || (floor == LARGEST && reduced.denominator == 1);
        if !large_enough || !small_enough {
            return Err(Error::Misuse(format!(
                "variance {reduced} is outside [1/4, 2^80]"
            )));
        }
        Ok(reduced)
    }

    /// σ² an integer.
    pub fn integer(value: u128) -> Result<Self> {
        Self::new(value, 1)
    }

    /// The numerator, in lowest terms.
    pub fn numerator(&self) -> u128 {
        self.numerator
    }

    /// The denominator, in lowest terms.
    pub fn denominator(&self) -> u128 {
        self.denominator
    }

    /// ⌊σ²⌋.
    pub fn floor(&self) -> u128 {
        self.numerator / self.denominator
    }

    /// ⌈multiple · σ⌉, exactly: the smallest integer t with t² ≥ multiple²·σ². `multiple` up to 1,000.
    pub fn deviations(&self, multiple: u16) -> Result<u128> {
        if multiple > 1000 {
            return Err(Error::Misuse(format!(
                "{multiple} standard deviations are more than 1000"
            )));
        }
        // t² ≥ m²·n/d ⇔ t² ≥ ⌈m²·n/d⌉ for integer t. m²·n/d is split as m²·⌊n/d⌋ + ⌈m²·(n mod d)/d⌉.
        let square = u128::from(multiple).pow(2);
        let rest = self.numerator % self.denominator;
        let rest = match square.checked_mul(rest) {
            Some(product) => product.div_ceil(self.denominator),
            // rest < denominator, so m²·rest/d < m²: the next integer bound up is m² itself.
            None => square,
        };
        let target = square * self.floor() + rest;
        let root = target.isqrt();
        Ok(if root * root == target {
            root
        } else {
            root + 1
        })
    }

    /// σ in double precision: for display and reports only.
    pub fn standard_deviation(&self) -> f64 {
        (self.numerator as f64 / self.denominator as f64).sqrt()
    }
}

const LARGEST: u128 = 1 << 80;

impl PartialOrd for Variance {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Variance {
    /// Exact, by continued fractions: no product that could overflow.
    fn cmp(&self, other: &Self) -> Ordering {
        let (mut a, mut b) = (self.numerator, self.denominator);
        let (mut c, mut d) = (other.numerator, other.denominator);
        loop {
            match (a / b).cmp(&(c / d)) {
                Ordering::Equal => {}
                unequal => return unequal,
            }
            match (a % b, c % d) {
                (0, 0) => return Ordering::Equal,
                (0, _) => return Ordering::Less,
                (_, 0) => return Ordering::Greater,
                // r/b < s/d ⇔ d/s < b/r
                (r, s) => (a, b, c, d) = (d, s, b, r),
            }
        }
    }
}

impl fmt::Display for Variance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.denominator == 1 {
            write!(f, "{}", self.numerator)
        } else {
            write!(f, "{}/{}", self.numerator, self.denominator)
        }
    }
}

fn greatest_common_divisor(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variance_is_reduced_and_printed_in_lowest_terms() {
        let lattice = Variance::new(4096, 100).unwrap();
        assert_eq!((lattice.numerator(), lattice.denominator()), (1024, 25));
        assert_eq!(lattice.to_string(), "1024/25");
        assert_eq!(Variance::integer(16).unwrap().to_string(), "16");
    }

    #[test]
    fn variances_outside_the_range_are_refused() {
        for (numerator, denominator) in [
            (0, 1),
            (1, 0),
            (1, 5),
            (u128::MAX, 1),
            ((1 << 80) * 3 + 1, 3),
            (1, u128::MAX),
        ] {
            assert!(
                Variance::new(numerator, denominator).is_err(),
                "{numerator}/{denominator}"
            );
        }
        assert!(Variance::new(1, 4).is_ok());
        assert!(Variance::new(1 << 80, 1).is_ok());
        assert!(Variance::new(u128::MAX, u128::MAX - 1).is_ok());
    }

    #[test]
    fn deviations_are_rounded_up_exactly() {
        assert_eq!(Variance::integer(16).unwrap().deviations(12).unwrap(), 48);
        assert_eq!(Variance::integer(17).unwrap().deviations(12).unwrap(), 50); // 12·√17 = 49.47…
        assert_eq!(
            Variance::new(4096, 100).unwrap().deviations(10).unwrap(),
            64
        );
        assert_eq!(
            Variance::new(4097, 100).unwrap().deviations(10).unwrap(),
            65
        );
        assert_eq!(
            Variance::integer(1 << 80).unwrap().deviations(12).unwrap(),
            12 << 40
        );
        assert!(Variance::integer(16).unwrap().deviations(1001).is_err());
    }

    #[test]
    fn the_order_is_exact_where_products_would_overflow() {
        let just_above_one = Variance::new(u128::MAX, u128::MAX - 1).unwrap();
        let further_above = Variance::new(u128::MAX - 1, u128::MAX - 2).unwrap();
        let one = Variance::integer(1).unwrap();
        assert!(one < just_above_one && just_above_one < further_above);
        assert_eq!(one.cmp(&Variance::new(7, 7).unwrap()), Ordering::Equal);
        assert!(Variance::new(5, 2).unwrap() < Variance::new(8, 3).unwrap());
        assert!(Variance::integer(3).unwrap() > Variance::new(8, 3).unwrap());
    }
}
