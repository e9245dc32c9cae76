//! Privacy loss in whole numbers.

use ciphertune_dp::rdp::{Curve, ORDERS};

use crate::error::{Error, Result};

/// A cost: ε(α) of Rényi differential privacy at each of [`ORDERS`], in units of 2⁻⁴⁰, rounded up.
///
/// Curves add up under composition, so a ledger of them needs integer addition alone. What is beyond 2⁶⁴ − 2 units at an
/// order (ε(α) ≥ 2²⁴) is without bound there, and stays so: no budget allows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost([u64; ORDERS.len()]);

/// 2⁴⁰: so many units are a loss of 1.
pub const UNITS: f64 = (1_u64 << 40) as f64;
/// Stands for every larger number.
const UNBOUNDED: u64 = u64::MAX;

impl Cost {
    /// Nothing.
    pub const ZERO: Self = Self([0; ORDERS.len()]);

    /// ⌈ε(α)·2⁴⁰⌉ units at each order. (Scaling a float by a power of two and rounding it up are exact.)
    ///
    /// # Errors
    /// `Misuse` for a curve that is negative somewhere, or no number.
    pub fn of(curve: &Curve) -> Result<Self> {
        let mut units = [0; ORDERS.len()];
        for (units, spent) in units.iter_mut().zip(curve.values()) {
            if spent.is_nan() || *spent < 0.0 {
                return Err(Error::Misuse(format!("a privacy loss of {spent}")));
            }
            *units = (spent * UNITS).ceil() as u64; // saturates
        }
        Ok(Self(units))
    }

    /// The curve α·ρ of zero-concentrated differential privacy, ρ in units of 2⁻⁴⁰.
    #[cfg(test)]
    pub(crate) fn of_rho(units: u64) -> Self {
        Self(ORDERS.map(|order| units.saturating_mul(order.into())))
    }

    /// In units of 2⁻⁴⁰, in the order of [`ORDERS`].
    #[must_use]
    pub fn units(&self) -> &[u64] {
        &self.0
    }

    /// In units of 2⁻⁴⁰; `None` for an order that is not among [`ORDERS`].
    #[must_use]
    pub fn at(&self, order: u32) -> Option<u64> {
        let place = ORDERS.iter().position(|one| *one == order)?;
        self.0.get(place).copied()
    }

    /// Both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    /// So many times.
    #[must_use]
    pub fn times(&self, count: u64) -> Self {
        Self(self.0.map(|units| units.saturating_mul(count)))
    }

    /// What is left without `other`, at least 0; what is without bound stays so.
    pub(crate) fn minus(&self, other: &Self) -> Self {
        self.with(other, |units, less| match units {
            UNBOUNDED => UNBOUNDED,
            units => units.saturating_sub(less),
        })
    }

    /// The larger at each order.
    pub(crate) fn max(&self, other: &Self) -> Self {
        self.with(other, u64::max)
    }

    /// Whether it is no more than `other` at any order.
    pub(crate) fn is_within(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).all(|(one, most)| *one <= most)
    }

    /// Whether it is more than 0 at every order, as every private release is.
    pub(crate) fn is_private(&self) -> bool {
        self.0.iter().all(|units| *units > 0)
    }

    /// Every order's units as 8 bytes, most significant first.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.0
            .iter()
            .flat_map(|units| units.to_be_bytes())
            .collect()
    }

    /// `None` unless it is as long as what [`Self::to_bytes`] gives.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let (words, rest) = bytes.as_chunks::<8>();
        let units = <[[u8; 8]; ORDERS.len()]>::try_from(words).ok()?;
        rest.is_empty().then(|| Self(units.map(u64::from_be_bytes)))
    }

    fn with(&self, other: &Self, combine: impl Fn(u64, u64) -> u64) -> Self {
        Self(std::array::from_fn(|place| {
            combine(self.0[place], other.0[place])
        }))
    }
}

#[cfg(test)]
mod tests {
    use ciphertune_dp::{FrozenSchedule, SamplingRate};
    use ciphertune_policy::Adjacency;

    use super::*;

    fn curve(multiplier: &str, steps: u32) -> Curve {
        let schedule = FrozenSchedule::planned(
            SamplingRate::WHOLE,
            &multiplier.parse().unwrap(),
            steps,
            Adjacency::ZeroOut,
        );
        Curve::of(&schedule.unwrap())
    }

    #[test]
    fn a_curve_is_rounded_up_to_a_unit_at_every_order() {
        let curve = curve("4.509", 3);
        let cost = Cost::of(&curve).unwrap();
        for (units, spent) in cost.units().iter().zip(curve.values()) {
            let rounded = *units as f64 / UNITS;
            assert!(rounded >= *spent && rounded < spent + 1.0 / UNITS);
        }
        assert_eq!(cost.at(2), Some(cost.units()[0]));
        assert_eq!(cost.at(1024), cost.units().last().copied());
        assert_eq!(cost.at(65), None);
        assert!(cost.is_private() && !Cost::ZERO.is_private());
        assert_eq!(Cost::of(&Curve::ZERO).unwrap(), Cost::ZERO);
        assert_eq!(Cost::parse(&cost.to_bytes()), Some(cost.clone()));
        assert_eq!(Cost::parse(&cost.to_bytes()[1..]), None);
        assert_eq!(Cost::parse(&[]), None);
    }

    #[test]
    fn what_cannot_be_counted_is_without_bound_for_ever() {
        // 1024/(2z²) is above 2²⁴ where z is a thousandth.
        let endless = Cost::of(&curve("0.001", 1)).unwrap();
        assert_eq!(endless.at(1024), Some(UNBOUNDED));
        assert!(endless.at(2) < Some(UNBOUNDED));
        let one = Cost::of_rho(1);
        for more in [
            endless.plus(&one),
            endless.times(7),
            endless.minus(&one),
            endless.max(&one),
        ] {
            assert_eq!(more.at(1024), Some(UNBOUNDED));
        }
    }

    #[test]
    fn zero_concentrated_privacy_is_alpha_times_rho() {
        let cost = Cost::of_rho(7);
        assert!(
            ORDERS
                .iter()
                .all(|order| cost.at(*order) == Some(7 * u64::from(*order)))
        );
        assert_eq!(Cost::of_rho(1 << 62).at(1024), Some(UNBOUNDED));
    }

    #[test]
    fn costs_are_compared_at_every_order() {
        let (one, two) = (Cost::of_rho(1), Cost::of_rho(2));
        assert!(one.is_within(&two) && one.is_within(&one) && !two.is_within(&one));
        assert_eq!(two.minus(&one), one);
        assert_eq!(one.minus(&two), Cost::ZERO);
        assert_eq!(one.plus(&one), two);
        assert_eq!(one.times(2), two);
    }
}
