//! Accounting in Rényi differential privacy of the Poisson-sampled Gaussian, at fixed integer orders.
//!
//! ε(α) of one step is Mironov–Talwar–Zhang 2019, section 3.3, whose binomial sum holds word for word for the discrete
//! Gaussian; composition adds order by order, whatever the schedule does; the conversion is Canonne–Kamath–Steinke
//! 2020, Proposition 12. Every figure is rounded against us: of a step by a relative `relative_error` (below 10⁻¹⁰),
//! of a sum by its last place, of ε by 2⁻⁴⁷ of the terms it is added up from.

use ciphertune_policy::Decimal;

use crate::rational::Fraction;
use crate::schedule::{FrozenSchedule, SamplingRate, multiplier_squared};
use crate::zcdp::Epsilon;
use crate::{Mechanism, Result, calibration};

/// α: the orders of every curve.
pub const ORDERS: [u32; 74] = [
    2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27,
    28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51,
    52, 53, 54, 55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 72, 80, 96, 128, 160, 192, 256, 320, 384,
    512, 1024,
];

/// ε(α) at each of [`ORDERS`], never below the true one: what steps cost, in a form that composes though later steps
/// depend on earlier ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Curve([f64; ORDERS.len()]);

impl Curve {
    /// Nothing spent.
    pub const ZERO: Self = Self([0.0; ORDERS.len()]);

    /// One step with noise multiplier z = √`squared`: q = 1 gives α/(2z²); below that
    ///
    /// ε(α) = ln(Σ_{k=0}^{α} C(α,k)·(1−q)^{α−k}·q^k·exp(k(k−1)/(2z²)))/(α−1).
    pub(crate) fn of_step(rate: SamplingRate, squared: &Fraction) -> Self {
        let (q, half_inverse) = parameters(rate, squared);
        Self(ORDERS.map(|order| {
            // Also where q rounds to 1.
            if q >= 1.0 {
                (f64::from(order) * half_inverse).next_up()
            } else {
                sampled_gaussian(order, q, half_inverse)
            }
        }))
    }

    /// One round of a mechanism with `contributors` members: what a ledger charges.
    ///
    /// That the sum of m discrete Gaussians is one but for τ (below 10⁻⁵² for all coordinates, see
    /// [`zcdp::per_round`](crate::zcdp::per_round)) is far below what each value is rounded up by. Fails (`Misuse`) for unit
    /// none; (`Refused`) below min_contributors.
    pub fn per_round(
        mechanism: &Mechanism,
        contributors: usize,
        rate: SamplingRate,
    ) -> Result<Self> {
        let squared = multiplier_squared(mechanism, contributors, 0)?;
        Ok(Self::of_step(rate, &squared))
    }

    /// All the steps of a schedule.
    pub fn of(schedule: &FrozenSchedule) -> Self {
        Self::of_step(schedule.rate(), schedule.squared()).times(schedule.steps())
    }

    /// ε(α); `None` for an order that is not among [`ORDERS`].
    pub fn at(&self, order: u32) -> Option<f64> {
        let place = ORDERS.iter().position(|one| *one == order)?;
        self.0.get(place).copied()
    }

    /// All of them, in the order of [`ORDERS`].
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// Both spent.
    pub fn plus(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|place| {
            (self.0[place] + other.0[place]).next_up()
        }))
    }

    /// Spent `steps` times.
    pub fn times(&self, steps: u32) -> Self {
        Self(self.0.map(|spent| (spent * f64::from(steps)).next_up()))
    }

    /// Each value v made v·(1 + relative) + absolute.
    pub(crate) fn widened(&self, relative: f64, absolute: f64) -> Self {
        Self(
            self.0
                .map(|spent| (spent * (1.0 + relative) + absolute).next_up()),
        )
    }

    /// The least ε over the orders at `delta`, and the order that gives it.
    pub(crate) fn epsilon(&self, delta: f64) -> (f64, u32) {
        ORDERS
            .iter()
            .zip(self.0)
            .map(|(order, spent)| (epsilon_at(*order, spent, delta), *order))
            .fold((f64::INFINITY, ORDERS[0]), |least, next| {
                if next.0 < least.0 { next } else { least }
            })
    }

    /// How far above the exact one an ε at `order` may lie that all the steps of `schedule` were charged for.
    pub(crate) fn rounding(&self, order: u32, epsilon: f64, schedule: &FrozenSchedule) -> f64 {
        let (q, half_inverse) = parameters(schedule.rate(), schedule.squared());
        // Twice: an error is compensated for and may have gone the other way. The rounding of q and z changes ε(α) by
        // less than 2α last places.
        let of_sum = if q < 1.0 {
            relative_error(order, q, half_inverse)
        } else {
            0.0
        };
        let relative = 2.0 * of_sum + 8.0 * f64::from(order) * UNIT;
        let spent = self.at(order).unwrap_or(0.0);
        relative * spent + 256.0 * UNIT * (spent + epsilon + f64::from(order))
    }
}

/// What a budget of (ε, δ) allows at one order: the largest ε(α), rounded down, that still implies (ε, δ).
///
/// A millionth of δ is kept back, as by calibration: for the sampler's distance to the ideal mechanism, which no curve
/// holds. 0 or nearly where the order is too small for so small an ε. Fails (`Refused`) without an ε above 0 or a δ in
/// (0, 1).
pub fn allowance(order: u32, epsilon: &Decimal, delta: &Decimal) -> Result<f64> {
    let (target, delta) = calibration::kept_back(epsilon, delta)?;
    // ε ≥ ε(α) + ln(1 − 1/α) for every δ below 1/α, and ln(α)/(α − 1) ≤ ln 2 makes up for the others.
    let (mut enough, mut too_much) = (0.0, target + 2.0);
    for _ in 0..100 {
        let middle = enough + (too_much - enough) / 2.0;
        if epsilon_at(order, middle, delta) <= target {
            enough = middle;
        } else {
            too_much = middle;
        }
    }
    Ok(enough)
}

/// The ε at δ, rounded up, of what has cost `spent` at one order; a millionth of δ is kept back as by [`allowance`].
pub fn epsilon(order: u32, spent: f64, delta: &Decimal) -> Result<Epsilon> {
    let (_, delta) = calibration::kept_back(&Decimal::ONE, delta)?;
    Ok(Epsilon::rounded_up(epsilon_at(order, spent, delta)))
}

/// q and 1/(2z²), rounded up: a curve grows with both.
fn parameters(rate: SamplingRate, squared: &Fraction) -> (f64, f64) {
    (
        rate.get().to_f64_up(),
        squared.clone().inverse().over(2).to_f64_up(),
    )
}

/// ε(α) of a sampled step, 0 < q < 1.
///
/// A − 1 = Σ_{k≥2} C(α,k)·(1−q)^{α−k}·q^k·(exp(k(k−1)/(2z²)) − 1), as the binomial weights sum to 1: every term positive, so
/// nothing cancels where A is near 1.
fn sampled_gaussian(order: u32, q: f64, half_inverse: f64) -> f64 {
    let (kept, taken) = (libm::log1p(-q), libm::log(q));
    // C(α,k): C(1024,512) < 10³⁰⁷ is still a float; one product and one quotient a step, each off by a last place.
    let mut binomial = f64::from(order);
    let logarithms: Vec<f64> = (2..=order)
        .map(|k| {
            binomial *= f64::from(order - k + 1) / f64::from(k);
            let exponent = f64::from(k) * f64::from(k - 1) * half_inverse;
            let power = f64::from(order - k) * kept + f64::from(k) * taken;
            libm::log(binomial) + power + log_expm1(exponent)
        })
        .collect();
    let largest = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logarithms.iter().map(|one| libm::exp(one - largest)).sum();
    let log_rest = largest + libm::log(sum);
    // ln A = ln(1 + e^log_rest)
    let log_a = if log_rest > 0.0 {
        log_rest + libm::log1p(libm::exp(-log_rest))
    } else {
        libm::log1p(libm::exp(log_rest))
    };
    log_a / f64::from(order - 1) * (1.0 + relative_error(order, q, half_inverse))
}

/// Bound on the relative rounding error of [`sampled_gaussian`]: a term's logarithm is added up from parts that are
/// together at most ln C(α,k) + α·|ln(1−q)| + α·|ln q| + α²/(2z²) large, each right to a few last places (2⁻⁵³), C to
/// 2α of them, and the sum of positive terms is not worse than its worst term. A relative error of A − 1 bounds that of
/// ln A.
fn relative_error(order: u32, q: f64, half_inverse: f64) -> f64 {
    let order = f64::from(order);
    // Where the exponent is large ln A is of its size, so that its last places are relative ones.
    let exponent = (order * order * half_inverse).min(1e3);
    let parts = order * (1.0 - libm::log1p(-q) - libm::log(q)) + exponent;
    (8.0 * parts + 4.0 * order + 64.0) * UNIT
}

/// 2⁻⁵³, half a last place of 1.
const UNIT: f64 = f64::EPSILON / 2.0;

/// ln(eˣ − 1), x > 0.
fn log_expm1(x: f64) -> f64 {
    if x > 1.0 {
        x + libm::log1p(-libm::exp(-x))
    } else {
        libm::log(libm::expm1(x))
    }
}

/// The ε at one order: ε(α) + ln(1 − 1/α) − ln(α·δ)/(α − 1) (Canonne–Kamath–Steinke 2020, Proposition 12), and 0 where
/// δ ≥ √(1 − e^{−ε(α)}), the bound on the total variation (Bretagnolle–Huber 1979, with KL ≤ ε(α)).
pub(crate) fn epsilon_at(order: u32, spent: f64, delta: f64) -> f64 {
    if delta * delta * (1.0 - 8.0 * UNIT) > -libm::expm1(-spent) * (1.0 + 8.0 * UNIT) {
        return 0.0;
    }
    let order = f64::from(order);
    let (first, second) = (
        libm::log1p(-1.0 / order),
        libm::log(order * delta) / (order - 1.0),
    );
    let error = 64.0 * UNIT * (spent + first.abs() + second.abs());
    (spent + first - second + error).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mechanism::tests::{institution, without_privacy};
    use crate::{Error, zcdp};

    #[test]
    fn a_round_of_whole_batches_is_alpha_times_rho() {
        let mechanism = Mechanism::derive(&institution("1", "4.509", 1000)).unwrap();
        for contributors in [3, 7] {
            let rho = zcdp::per_round(&mechanism, contributors).unwrap().get();
            let curve = Curve::per_round(&mechanism, contributors, SamplingRate::WHOLE).unwrap();
            for order in ORDERS {
                let ratio = curve.at(order).unwrap() / (f64::from(order) * rho);
                assert!((ratio - 1.0).abs() < 1e-14, "{order}: {ratio}");
            }
        }
        let too_few = Curve::per_round(&mechanism, 2, SamplingRate::WHOLE);
        assert!(matches!(too_few, Err(Error::Refused(_))));
        let open = Mechanism::derive(&without_privacy("1", 10)).unwrap();
        let none = Curve::per_round(&open, 3, SamplingRate::WHOLE);
        assert!(matches!(none, Err(Error::Misuse(_))));
    }

    #[test]
    fn what_a_budget_allows_is_the_most_that_keeps_its_epsilon() {
        for (target, delta) in [
            ("8", "1e-5"),
            ("0.5", "1e-6"),
            ("16", "0.9"),
            ("1000", "1e-12"),
        ] {
            let (target, delta) = (target.parse().unwrap(), delta.parse().unwrap());
            for order in ORDERS {
                let most = allowance(order, &target, &delta).unwrap();
                let reached = epsilon(order, most, &delta).unwrap().get();
                assert!(reached <= target.to_f64_down(), "{order}: {most} {reached}");
                let more = epsilon(order, most * (1.0 + 1e-12) + 1e-12, &delta).unwrap();
                assert!(more.get() > target.to_f64_down(), "{order}: {most}");
            }
        }
        let (one, tiny) = (Decimal::ONE, "1e-9".parse().unwrap());
        assert!(matches!(
            allowance(2, &one, &Decimal::ZERO),
            Err(Error::Refused(_))
        ));
        assert!(matches!(allowance(2, &one, &one), Err(Error::Refused(_))));
        assert!(matches!(
            allowance(2, &Decimal::ZERO, &tiny),
            Err(Error::Refused(_))
        ));
        // ε = 1 cannot be had at order 2 for so small a δ: next to nothing is allowed there.
        assert!(allowance(2, &one, &tiny).unwrap() < 1e-15);
    }

    #[test]
    fn order_two_is_its_closed_form() {
        // A = 1 + q²·(e^{1/z²} − 1)
        for (q, half_inverse) in [(0.1, 0.5), (1e-9, 2.0), (0.999, 0.01), (0.5, 300.0)] {
            let expected = libm::log1p(q * q * libm::expm1(2.0 * half_inverse));
            let found = sampled_gaussian(2, q, half_inverse);
            let bound = 2.0 * relative_error(2, q, half_inverse);
            assert!(found >= expected * (1.0 - 1e-15) && found <= expected * (1.0 + bound));
        }
    }

    #[test]
    fn the_largest_orders_neither_overflow_nor_vanish() {
        for q in [1e-20, 1e-3, 0.5, 1.0 - 1e-16] {
            for half_inverse in [1e-12, 1e-3, 0.5, 1e6] {
                let mut before = 0.0;
                for order in ORDERS {
                    let spent = sampled_gaussian(order, q, half_inverse);
                    // A divergence grows with its order, and sampling never costs more.
                    assert!(
                        spent.is_finite() && spent >= before * (1.0 - 1e-10),
                        "{q} {half_inverse} {order}"
                    );
                    assert!(spent <= f64::from(order) * half_inverse * (1.0 + 1e-9));
                    before = spent;
                }
                assert!(before > 0.0);
            }
        }
    }
}
