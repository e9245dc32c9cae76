//! Privacy loss in whole numbers.

use std::fmt;

use crate::error::{Error, Result};

/// ρ of zero-concentrated differential privacy (Bun–Steinke 2016), in units of 2⁻⁴⁰.
///
/// ρ adds up under composition, so a ledger of it needs integer addition alone. Costs are rounded up to a
/// unit, budgets down. At most 2⁶³ − 1 units, ρ < 2²³.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rho(u64);

/// 2⁴⁰
const UNITS: f64 = (1_u64 << 40) as f64;

impl Rho {
    /// ρ = 0
    pub const ZERO: Self = Self(0);

    /// So many units of 2⁻⁴⁰.
    ///
    /// # Errors
    /// `Misuse` above 2⁶³ − 1.
    pub fn from_units(units: u64) -> Result<Self> {
        if i64::try_from(units).is_err() {
            return Err(Error::Misuse("ρ of 2^23 or more".into()));
        }
        Ok(Self(units))
    }

    /// A cost: ⌈ρ · 2⁴⁰⌉ units. (Scaling a float by a power of two and rounding it up are exact.)
    ///
    /// # Errors
    /// `Misuse` when ρ is not a number, negative, or 2²³ or more.
    pub fn cost(rho: f64) -> Result<Self> {
        Self::from_whole((rho * UNITS).ceil())
    }

    /// A budget: ⌊ρ · 2⁴⁰⌋ units.
    ///
    /// # Errors
    /// As [`Self::cost`].
    pub fn budget(rho: f64) -> Result<Self> {
        Self::from_whole((rho * UNITS).floor())
    }

    fn from_whole(units: f64) -> Result<Self> {
        // 2⁶³ is a float; every whole float from 0 to below it is an i64.
        if !(0.0..9_223_372_036_854_775_808.0).contains(&units) {
            return Err(Error::Misuse(format!(
                "ρ = {} is not from 0 to below 2^23",
                units / UNITS
            )));
        }
        Ok(Self(units as u64))
    }

    /// In units of 2⁻⁴⁰.
    #[must_use]
    pub fn units(self) -> u64 {
        self.0
    }

    /// As a float: exact below 2⁵³ units, ρ < 8,192.
    #[must_use]
    pub fn to_f64(self) -> f64 {
        self.0 as f64 / UNITS
    }

    pub(crate) fn plus(self, other: Self) -> Option<Self> {
        Self::from_units(self.0.checked_add(other.0)?).ok()
    }

    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }
}

impl fmt::Display for Rho {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ρ = {:.6}", self.to_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_rounded_up_and_budgets_down() {
        let unit = 1.0 / UNITS;
        assert_eq!(Rho::cost(1.0).unwrap().units(), 1 << 40);
        assert_eq!(Rho::budget(1.0).unwrap().units(), 1 << 40);
        assert_eq!(Rho::cost(1.5 * unit).unwrap().units(), 2);
        assert_eq!(Rho::budget(1.5 * unit).unwrap().units(), 1);
        assert_eq!(Rho::cost(f64::MIN_POSITIVE).unwrap().units(), 1);
        assert_eq!(Rho::budget(f64::MIN_POSITIVE).unwrap().units(), 0);
    }

    #[test]
    fn what_is_not_a_loss_is_refused() {
        for rho in [
            -1.0,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            8_388_608.0,
        ] {
            assert!(
                Rho::cost(rho).is_err() && Rho::budget(rho).is_err(),
                "{rho}"
            );
        }
        assert!(Rho::from_units(1 << 63).is_err());
        assert!(
            Rho::from_units((1 << 63) - 1)
                .unwrap()
                .plus(Rho(1))
                .is_none()
        );
    }
}
