//! Fixed-point numbers with 192 fractional bits: what table probabilities are computed in.

/// A non-negative number below 2⁶⁴ in units of 2⁻¹⁹²: four little-endian words, the last one the integer part.
///
/// Every product and quotient is rounded down, so one operation is off by less than 2⁻¹⁹²·(1 + operands). A table needs
/// a few thousand operations in a row on numbers up to 1: its absolute error stays under 2⁻¹⁶⁰, far below the 2⁻¹²⁸ it
/// is then rounded to. The test of the sampler's distance measures the result and does not rely on this estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fixed([u64; 4]);

impl Fixed {
    pub(crate) const ZERO: Self = Self([0; 4]);
    pub(crate) const ONE: Self = Self([0, 0, 0, 1]);

    /// e^{−numerator/(2·denominator)} for numerator ≤ 4·denominator.
    ///
    /// The argument is halved once, put through the series Σ (−v)ⁿ/n! (even and odd terms summed apart), and squared.
    pub(crate) fn exp_of_minus_half(numerator: u128, denominator: u128) -> Self {
        let two = |x: Self| x.plus(x);
        let half = Self::integer(numerator).divided_by(two(two(Self::integer(denominator))));
        let (mut even, mut odd) = (Self::ZERO, Self::ZERO);
        let mut term = Self::ONE;
        for n in 1_u64.. {
            if term == Self::ZERO {
                break;
            }
            if n % 2 == 1 {
                even = even.plus(term)
            } else {
                odd = odd.plus(term)
            }
            term = term.times(half).over(n);
        }
        let root = even.minus(odd);
        root.times(root)
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        let mut sum = [0; 4];
        let mut carry = 0;
        for (word, (&a, &b)) in sum.iter_mut().zip(self.0.iter().zip(&other.0)) {
            let total = u128::from(a) + u128::from(b) + carry;
            *word = total as u64;
            carry = total >> 64;
        }
        Self(sum)
    }

    /// self − other, for other ≤ self.
    pub(crate) fn minus(self, other: Self) -> Self {
        let mut difference = [0; 4];
        let mut borrow = false;
        for (word, (&a, &b)) in difference.iter_mut().zip(self.0.iter().zip(&other.0)) {
            let (partial, under) = a.overflowing_sub(b);
            let (result, under_again) = partial.overflowing_sub(u64::from(borrow));
            *word = result;
            borrow = under || under_again;
        }
        Self(difference)
    }

    /// Rounded down.
    pub(crate) fn times(self, other: Self) -> Self {
        let mut product = [0_u64; 8];
        for (i, &a) in self.0.iter().enumerate() {
            let mut carry = 0;
            for (j, &b) in other.0.iter().enumerate() {
                let total = u128::from(a) * u128::from(b) + u128::from(product[i + j]) + carry;
                product[i + j] = total as u64;
                carry = total >> 64;
            }
            product[i + 4] = carry as u64;
        }
        Self([product[3], product[4], product[5], product[6]])
    }

    /// Rounded down; other > 0, below 2⁶³, and self/other < 2⁶⁴. Schoolbook binary long division.
    pub(crate) fn divided_by(self, other: Self) -> Self {
        let mut quotient = Self::ZERO;
        let mut remainder = Self::ZERO;
        for step in (0..256 + 192).rev() {
            remainder = remainder.plus(remainder);
            if step >= 192 && self.0[(step - 192) / 64] >> ((step - 192) % 64) & 1 == 1 {
                remainder.0[0] |= 1;
            }
            quotient = quotient.plus(quotient);
            if !remainder.is_less_than(other) {
                remainder = remainder.minus(other);
                quotient.0[0] |= 1;
            }
        }
        quotient
    }

    /// self mod 1 in units of 2⁻¹²⁸, to the nearest; self < 1 − 2⁻¹²⁹.
    pub(crate) fn to_128_bits(self) -> u128 {
        let rounded = self.plus(Self([1 << 63, 0, 0, 0]));
        u128::from(rounded.0[2]) << 64 | u128::from(rounded.0[1])
    }

    /// A raw integer as the same number of units of 2⁻¹⁹²: only ratios of two such are used.
    fn integer(value: u128) -> Self {
        Self([value as u64, (value >> 64) as u64, 0, 0])
    }

    /// Rounded down; divisor > 0.
    fn over(self, divisor: u64) -> Self {
        let mut quotient = [0; 4];
        let mut remainder = 0_u128;
        for (word, &digit) in quotient.iter_mut().zip(&self.0).rev() {
            let partial = remainder << 64 | u128::from(digit);
            *word = (partial / u128::from(divisor)) as u64;
            remainder = partial % u128::from(divisor);
        }
        Self(quotient)
    }

    fn is_less_than(self, other: Self) -> bool {
        self.0.iter().rev().lt(other.0.iter().rev())
    }
}

#[cfg(test)]
mod tests {
    use num_bigint::BigUint;

    use super::*;

    impl Fixed {
        /// The number in units of 2⁻¹⁹².
        fn units(self) -> BigUint {
            self.0
                .iter()
                .rev()
                .fold(BigUint::ZERO, |units, &word| (units << 64) + word)
        }
    }

    #[test]
    fn e_to_minus_one_has_its_known_digits() {
        // 1/e = 0.36787944117144232159552377016146086744581113103176783450783680169746…
        let known: BigUint = "36787944117144232159552377016146086744581113103176783450783680"
            .parse()
            .unwrap();
        let computed =
            (Fixed::exp_of_minus_half(2, 1).units() * BigUint::from(10_u8).pow(62)) >> 192;
        let off = if computed > known {
            &computed - &known
        } else {
            &known - &computed
        };
        // 192 bits are 57 decimal digits: the last five of 62 are not expected to agree.
        assert!(off < BigUint::from(10_u8).pow(6), "{computed}");
        assert_eq!(Fixed::exp_of_minus_half(0, 7), Fixed::ONE);
    }

    #[test]
    fn arithmetic_agrees_with_big_integers() {
        let a = Fixed::exp_of_minus_half(3, 7).plus(Fixed::ONE);
        let b = Fixed::exp_of_minus_half(11, 9).plus(Fixed([5, 0, u64::MAX, 77]));
        assert_eq!(a.times(b).units(), (a.units() * b.units()) >> 192);
        assert_eq!(b.divided_by(a).units(), (b.units() << 192) / a.units());
        assert_eq!(b.minus(a).units(), b.units() - a.units());
        assert_eq!(b.over(13).units(), b.units() / 13_u8);
        assert!(a.is_less_than(b) && !b.is_less_than(a) && !a.is_less_than(a));
    }
}
