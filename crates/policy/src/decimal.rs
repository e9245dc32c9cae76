//! Exact decimals: the numbers of a policy, without binary rounding.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A non-negative decimal number x = m · 10⁻ˢ, exactly as written: `"8"`, `"0.5"`, `"1e-5"`.
///
/// Range: x < 10¹⁸, at most 20 decimals. So x · 10²⁰ fits an `i128`, and comparison, ratio and
/// printing are exact. Kept in lowest form (no trailing zeros), so equal numbers are equal values
/// and print alike, however they were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Decimal {
    mantissa: i128,
    scale: u32,
}

/// Most digits before the decimal point.
const INTEGER_DIGITS: u32 = 18;
/// Most digits after the decimal point.
const FRACTION_DIGITS: u32 = 20;
/// Longest text looked at; the longest useful one is far shorter.
const TEXT_BYTES: usize = 64;

impl Decimal {
    /// 0
    pub const ZERO: Self = Self {
        mantissa: 0,
        scale: 0,
    };
    /// 1
    pub const ONE: Self = Self {
        mantissa: 1,
        scale: 0,
    };

    /// mantissa · 10^(−scale).
    ///
    /// # Errors
    /// `Malformed` when negative, ≥ 10¹⁸, or with more than 20 decimals in lowest form.
    pub fn new(mut mantissa: i128, mut scale: u32) -> Result<Self, Error> {
        if mantissa < 0 {
            return Err(Error::Malformed("a quantity is never negative".into()));
        }
        if mantissa == 0 {
            return Ok(Self::ZERO);
        }
        while scale > 0 && mantissa % 10 == 0 {
            mantissa /= 10;
            scale -= 1;
        }
        if scale > FRACTION_DIGITS {
            return Err(Error::Malformed(format!(
                "more than {FRACTION_DIGITS} decimals"
            )));
        }
        if mantissa / 10_i128.pow(scale) >= 10_i128.pow(INTEGER_DIGITS) {
            return Err(Error::Malformed(format!("10^{INTEGER_DIGITS} or more")));
        }
        Ok(Self { mantissa, scale })
    }

    /// Whether x = 0.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    /// x as an exact fraction: (m, 10ˢ). Not reduced; the denominator is at most 10²⁰.
    #[must_use]
    pub fn to_ratio(&self) -> (i128, u128) {
        (self.mantissa, 10_u128.pow(self.scale))
    }

    /// A float ≥ x: x itself where a float can hold it, else at most two units in the last place above.
    #[must_use]
    pub fn to_f64_up(&self) -> f64 {
        let nearest = self.to_f64_nearest();
        if self.is_a_float() {
            nearest
        } else {
            nearest.next_up()
        }
    }

    /// A float ≤ x: x itself where a float can hold it, else at most two units in the last place below.
    #[must_use]
    pub fn to_f64_down(&self) -> f64 {
        let nearest = self.to_f64_nearest();
        if self.is_a_float() {
            nearest
        } else {
            nearest.next_down()
        }
    }

    /// The float nearest to x (the standard library parses correctly rounded): what the digits mean to a reader of JSON.
    #[must_use]
    pub fn to_f64_nearest(&self) -> f64 {
        let text = format!("{}e-{}", self.mantissa, self.scale);
        text.parse().expect("digits, e, digits: a float's grammar")
    }

    /// x = (m / 5ˢ) / 2ˢ is a float when 5ˢ divides m and the quotient is below 2⁵³.
    fn is_a_float(&self) -> bool {
        let fives = 5_i128.pow(self.scale);
        self.mantissa % fives == 0 && self.mantissa / fives < 1 << 53
    }

    /// x · 10²⁰, an integer below 10³⁸.
    fn in_smallest_parts(&self) -> i128 {
        self.mantissa * 10_i128.pow(FRACTION_DIGITS - self.scale)
    }
}

impl From<u32> for Decimal {
    fn from(value: u32) -> Self {
        Self {
            mantissa: i128::from(value),
            scale: 0,
        }
    }
}

impl FromStr for Decimal {
    type Err = Error;

    /// digits [ "." digits ] [ ("e"|"E") ["+"|"-"] digits ]
    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = |why: &str| {
            let shown: String = text.chars().take(TEXT_BYTES).collect();
            Error::Malformed(format!("\"{shown}\" is not a decimal number: {why}"))
        };
        if text.len() > TEXT_BYTES {
            return Err(wrong("too long"));
        }
        let (number, exponent) = match text.split_once(['e', 'E']) {
            None => (text, 0),
            Some((number, exponent)) => {
                let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(wrong("digits must follow the e"));
                }
                let value: i32 = exponent
                    .parse()
                    .map_err(|_| wrong("exponent out of range"))?;
                (number, value)
            }
        };
        let (integer, fraction) = match number.split_once('.') {
            None => (number, ""),
            Some((_, "")) => return Err(wrong("digits must follow the point")),
            Some(parts) => parts,
        };
        if integer.starts_with('-') {
            return Err(wrong("a quantity is never negative"));
        }
        let digits = format!("{integer}{fraction}");
        if integer.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong("write it like \"8\", \"0.5\" or \"1e-5\""));
        }
        let significant = digits.trim_start_matches('0');
        if significant.is_empty() {
            return Ok(Self::ZERO);
        }
        if significant.len() > (INTEGER_DIGITS + FRACTION_DIGITS) as usize {
            return Err(wrong("too many digits"));
        }
        let mut mantissa: i128 = significant.parse().map_err(|_| wrong("too many digits"))?;
        let mut scale = i64::try_from(fraction.len()).unwrap_or(i64::MAX) - i64::from(exponent);
        while scale < 0 {
            mantissa = mantissa.checked_mul(10).ok_or_else(|| wrong("too large"))?;
            scale += 1;
        }
        let scale = u32::try_from(scale).map_err(|_| wrong("too many decimals"))?;
        Self::new(mantissa, scale).map_err(|error| match error {
            Error::Malformed(why) => wrong(&why),
            other => other,
        })
    }
}

impl fmt::Display for Decimal {
    /// Plain (`8`, `0.5`, `0.0001`) from 10⁻⁴ up, scientific (`1e-5`, `2.5e-7`) below. One text a value:
    /// the policy's digest is taken over it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.mantissa.to_string();
        let scale = self.scale as usize;
        if scale == 0 {
            return f.write_str(&digits);
        }
        let leading_power = digits.len() as i64 - 1 - i64::from(self.scale);
        if leading_power < -4 {
            let (first, rest) = digits.split_at(1);
            let point = if rest.is_empty() { "" } else { "." };
            return write!(f, "{first}{point}{rest}e{leading_power}");
        }
        let padded = format!("{digits:0>width$}", width = scale + 1);
        let (integer, fraction) = padded.split_at(padded.len() - scale);
        write!(f, "{integer}.{fraction}")
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        self.in_smallest_parts().cmp(&other.in_smallest_parts())
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl TryFrom<String> for Decimal {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Decimal> for String {
    fn from(value: Decimal) -> Self {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn one_number_has_one_text() {
        for (written, printed) in [
            ("8", "8"),
            ("8.0", "8"),
            ("08", "8"),
            ("0.50", "0.5"),
            ("1e-5", "1e-5"),
            ("0.00001", "1e-5"),
            ("10E-6", "1e-5"),
            ("2.5e-7", "2.5e-7"),
            ("0.0001", "0.0001"),
            ("1e3", "1000"),
            ("1.5e+1", "15"),
            ("0e-9", "0"),
            (
                "999999999999999999.99999999999999999999",
                "999999999999999999.99999999999999999999",
            ),
        ] {
            assert_eq!(decimal(written).to_string(), printed, "{written}");
        }
    }

    #[test]
    fn what_is_not_a_decimal_is_refused() {
        for text in [
            "",
            " 8",
            "8 ",
            "-1",
            "+1",
            ".5",
            "5.",
            "1e",
            "1e+-5",
            "e5",
            "1_000",
            "inf",
            "NaN",
            "0x8",
            "1.2.3",
            "٣",
            "1e18",
            "1e-21",
            "1e999999999999",
            "1000000000000000000",
            "1e-2147483648",
        ] {
            assert!(text.parse::<Decimal>().is_err(), "{text:?}");
        }
        assert!("9".repeat(100_000).parse::<Decimal>().is_err());
        assert!(Decimal::new(-1, 0).is_err());
        assert!(Decimal::new(1, u32::MAX).is_err());
    }

    #[test]
    fn directed_floats_enclose_the_number() {
        assert_eq!(decimal("0.5").to_f64_up(), 0.5);
        assert_eq!(decimal("0.5").to_f64_down(), 0.5);
        assert_eq!(Decimal::from(7).to_f64_up(), 7.0);
        // 0.1 lies below its nearest float, 1e-5 above or below its own: both sides must hold anyway.
        for text in ["0.1", "0.3", "1e-5", "123456789.987654321", "1e-20"] {
            let x = decimal(text);
            assert!(x.to_f64_down() < x.to_f64_up(), "{text}");
            assert!(
                x.to_f64_down() <= x.to_f64_nearest() && x.to_f64_nearest() <= x.to_f64_up(),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn text_and_number_round_trip(mantissa in 0..10_i128.pow(18), scale in 0..=20_u32) {
            let x = Decimal::new(mantissa, scale).unwrap();
            prop_assert_eq!(decimal(&x.to_string()), x);
            let (numerator, denominator) = x.to_ratio();
            prop_assert_eq!(numerator * 10_i128.pow(scale), mantissa * denominator as i128);
        }

        #[test]
        fn order_is_the_order_of_the_fractions(
            a in 0..10_i128.pow(12), s in 0..=6_u32, b in 0..10_i128.pow(12), t in 0..=6_u32
        ) {
            let exact = (a * 10_i128.pow(t)).cmp(&(b * 10_i128.pow(s)));
            prop_assert_eq!(Decimal::new(a, s).unwrap().cmp(&Decimal::new(b, t).unwrap()), exact);
        }
    }
}
