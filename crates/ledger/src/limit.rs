//! What a dataset's budget allows: the number that the filter holds every charge to.

use std::fmt;

use ciphertune_dp::rdp::{self, ORDERS};
use ciphertune_policy::{Decimal, Loss};

use crate::cost::{Cost, UNITS};
use crate::error::{Error, Result};

/// A budget, opened: (ε, δ) as the policy writes them, the one order of Rényi privacy that charges are held to, and how
/// much of it they may add up to there.
///
/// A filter at one order that was fixed beforehand needs no more than addition: whatever adapts, the sum of ε(α) stays
/// below the allowance, and that implies (ε, δ).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    loss: Loss,
    order: u32,
    units: u64,
}

impl Limit {
    /// The budget of `loss` at the order at which `planned` fits most often into what is left of it beside `held`: the
    /// planned use picks the order, before anything is spent.
    ///
    /// # Errors
    /// `Misuse` without an ε above 0 or a δ in (0, 1).
    pub fn for_use(loss: Loss, planned: &Cost, held: &Cost) -> Result<Self> {
        let mut best: Option<(u64, u64, Self)> = None;
        for (place, order) in ORDERS.into_iter().enumerate() {
            let limit = Self::at_order(loss, order)?;
            let left = limit.units.saturating_sub(held.units()[place]);
            let cost = planned.units()[place].max(1);
            let is_better = best.is_none_or(|(most, by, _)| {
                u128::from(left) * u128::from(by) > u128::from(most) * u128::from(cost)
            });
            if is_better {
                best = Some((left, cost, limit));
            }
        }
        best.map(|(_, _, limit)| limit)
            .ok_or_else(|| Error::Misuse("there are no orders".into()))
    }

    /// The limit under a policy as strict as this or stricter.
    ///
    /// # Errors
    /// `Refused` when `asked` allows more ε or δ.
    pub fn under(&self, asked: Loss) -> Result<Self> {
        let Loss { epsilon, delta } = asked;
        if epsilon > self.loss.epsilon || delta > self.loss.delta {
            return Err(Error::Refused(format!(
                "the dataset's budget is {self}, fixed when it was first used, and cannot be raised to epsilon = {epsilon} at \
                 delta = {delta}"
            )));
        }
        self.lowered_to(asked)
    }

    /// The same order for a budget that was lowered; never more than before.
    pub(crate) fn lowered_to(&self, loss: Loss) -> Result<Self> {
        let lower = Self::at_order(loss, self.order)?;
        Ok(Self {
            units: lower.units.min(self.units),
            ..lower
        })
    }

    fn at_order(loss: Loss, order: u32) -> Result<Self> {
        let most = rdp::allowance(order, &loss.epsilon, &loss.delta)
            .map_err(|error| Error::Misuse(format!("budget: {error}")))?;
        // Rounded down, and below what stands for "without bound".
        let units = ((most * UNITS) as u64).min(u64::MAX - 1);
        Ok(Self { loss, order, units })
    }

    /// (ε, δ) of the dataset's whole life: what is promised.
    #[must_use]
    pub fn loss(&self) -> Loss {
        self.loss
    }

    /// α, the order that the filter decides at.
    #[must_use]
    pub fn order(&self) -> u32 {
        self.order
    }

    /// What charges may add up to at that order, in units of 2⁻⁴⁰.
    #[must_use]
    pub fn units(&self) -> u64 {
        self.units
    }

    /// What `cost` is at that order, in units of 2⁻⁴⁰.
    #[must_use]
    pub fn cost_of(&self, cost: &Cost) -> u64 {
        cost.at(self.order).unwrap_or(u64::MAX)
    }

    /// Whether it allows no more units than its (ε, δ) give at its order.
    #[must_use]
    pub fn is_within_its_loss(&self) -> bool {
        Self::at_order(self.loss, self.order).is_ok_and(|most| self.units <= most.units)
    }

    /// As it is stored: ε, δ, α and units, one space between.
    pub(crate) fn to_text(self) -> String {
        format!(
            "{} {} {} {}",
            self.loss.epsilon, self.loss.delta, self.order, self.units
        )
    }

    /// Exactly what [`Self::to_text`] writes.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let mut decimal = || words.next()?.parse::<Decimal>().ok();
        let loss = Loss {
            epsilon: decimal()?,
            delta: decimal()?,
        };
        let limit = Self {
            loss,
            order: words.next()?.parse().ok()?,
            units: words.next()?.parse().ok()?,
        };
        let is_whole = words.next().is_none()
            && ORDERS.contains(&limit.order)
            && limit.units < u64::MAX
            && limit.to_text() == text;
        is_whole.then_some(limit)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loss { epsilon, delta } = self.loss;
        let most = in_words(self.units, f64::floor);
        write!(
            f,
            "epsilon = {epsilon} at delta = {delta}, which is {most} at Rényi order {}",
            self.order
        )
    }
}

/// Units as a decimal number, rounded to six places by `round`.
pub fn in_words(units: u64, round: impl Fn(f64) -> f64) -> String {
    if units == u64::MAX {
        return "more than any budget".into();
    }
    format!("{:.6}", round(units as f64 / UNITS * 1e6) / 1e6)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loss(epsilon: &str, delta: &str) -> Loss {
        Loss {
            epsilon: epsilon.parse().unwrap(),
            delta: delta.parse().unwrap(),
        }
    }

    #[test]
    fn the_planned_use_picks_the_order() {
        let budget = loss("8", "1e-5");
        // ρ of a fiftieth or so of ε = 8: the whole budget goes at a small order. Little use at a large one would be waste.
        let fiftieth = Cost::of_rho((0.0245 * UNITS) as u64);
        let job = Limit::for_use(budget, &fiftieth.times(50), &Cost::ZERO).unwrap();
        let round = Limit::for_use(budget, &fiftieth, &Cost::ZERO).unwrap();
        assert_eq!(job.order(), round.order(), "as many of both fit");
        assert_eq!(job.units() / job.cost_of(&fiftieth.times(50)), 1);
        for order in ORDERS {
            let other = Limit::at_order(budget, order).unwrap();
            let fit = |limit: &Limit| limit.units() / limit.cost_of(&fiftieth);
            assert!(fit(&other) <= fit(&job), "{order}");
        }
        // What is held already is no longer there to be used.
        let most = Cost::of_rho(job.units() / u64::from(job.order()));
        let rest = Limit::for_use(budget, &fiftieth, &most).unwrap();
        assert_ne!(rest.order(), job.order());
    }

    #[test]
    fn a_lowered_budget_keeps_its_order_and_allows_less() {
        let limit = Limit::for_use(loss("8", "1e-5"), &Cost::of_rho(1), &Cost::ZERO).unwrap();
        for lower in [loss("4", "1e-5"), loss("8", "1e-6")] {
            let lowered = limit.lowered_to(lower).unwrap();
            assert_eq!((lowered.order(), lowered.loss()), (limit.order(), lower));
            assert!(lowered.units() < limit.units());
        }
    }

    #[test]
    fn what_is_stored_is_read_back_and_nothing_else() {
        let limit = Limit::for_use(loss("0.5", "1e-5"), &Cost::of_rho(9), &Cost::ZERO).unwrap();
        let text = limit.to_text();
        assert_eq!(Limit::parse(&text), Some(limit));
        let order = limit.order();
        for other in [
            String::new(),
            format!("{text} "),
            format!("{text} 1"),
            format!(" {text}"),
            text.replacen("0.5", "0.50", 1),
            text.replacen("1e-5", "-1", 1),
            text.replacen(&format!(" {order} "), " 65 ", 1),
            format!("0.5 1e-5 {order} {}", u64::MAX),
            format!("0.5 1e-5 {order}"),
        ] {
            assert_eq!(Limit::parse(&other), None, "{other:?}");
        }
    }

    #[test]
    fn a_budget_of_nothing_is_misuse() {
        for nothing in [loss("0", "1e-5"), loss("1", "0"), loss("1", "1")] {
            let limit = Limit::for_use(nothing, &Cost::of_rho(1), &Cost::ZERO);
            assert!(matches!(limit, Err(Error::Misuse(_))), "{nothing:?}");
        }
    }
}
