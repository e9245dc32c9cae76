//! Accounting in zero-concentrated differential privacy (Bun–Steinke 2016).
//!
//! ρ of a round is an exact rational made a float upwards; composition and the conversion to (ε, δ) are opendp's, with
//! directed rounding. All numbers err against us.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ciphertune_gauss::STATISTICAL_DISTANCE_LOG2;
use ciphertune_policy::Decimal;
use opendp::combinators::{CompositionMeasure, ConcentratedMeasure};
use opendp::measures::ZeroConcentratedDivergence;

use crate::rational::Fraction;
use crate::{Error, Mechanism, Result, calibration, misuse, refused};

/// ρ of zCDP, never below the true one.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Rho(f64);

/// ε of (ε, δ)-differential privacy, never below what ρ and δ give.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Epsilon(f64);

/// Bound on the total variation distance between what is released and the ideal mechanism: sampling that is not
/// exactly N_ℤ, and noise beyond B. Booked in δ by [`epsilon_at_distance`].
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Distance(f64);

impl Rho {
    /// Of a ρ that was rounded up already; `None` for what is none.
    pub fn rounded_up(rho: f64) -> Option<Self> {
        (rho.is_finite() && rho >= 0.0).then_some(Self(rho))
    }

    /// ρ as a float, rounded up.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Epsilon {
    /// Of an ε that was rounded up already.
    pub(crate) fn rounded_up(epsilon: f64) -> Self {
        Self(epsilon)
    }

    /// ε as a float, rounded up.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Epsilon {
    /// To four decimals, rounded up.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}", (self.0 * 1e4).ceil() / 1e4)
    }
}

impl Distance {
    /// The bound as a float, rounded up.
    pub fn get(self) -> f64 {
        self.0
    }

    /// Distances add, over rounds as over coordinates.
    pub fn plus(self, other: Self) -> Self {
        Self((self.0 + other.0).next_up())
    }

    /// That of as many equal rounds.
    pub(crate) fn times(self, rounds: u32) -> Self {
        Self((self.0 * f64::from(rounds)).next_up())
    }
}

/// ρ = 1/(2z²) of one round of Gaussian noise with multiplier z = √`squared`.
pub(crate) fn gaussian(squared: &Fraction) -> Rho {
    Rho(squared.clone().inverse().over(2).to_f64_up())
}

/// ρ of one round with `contributors` members, m of them honest shares:
/// ρ = Δ₂²/(2·m·σ_i²) + τ·d/4, τ = 10·Σ_{k=1}^{m−1} exp(−2π²·σ_i²·k/(k + 1))
/// (Kairouz–Liu–Steinke 2021, Theorem 1: ½ε² with ε² = Δ₂²/(m·σ_i²) + ½·τ·d). At σ_i ≥ 4 and d ≤ 2⁴⁰ the second term
/// is below 10⁻⁵². One unit's whole vector, no amplification by sampling.
///
/// Fails (`Misuse`) for unit none, which has no ρ; (`Refused`) below min_contributors.
pub fn per_round(mechanism: &Mechanism, contributors: usize) -> Result<Rho> {
    let Some(variance) = mechanism.share_variance() else {
        return misuse("unit none has no differential privacy to account for");
    };
    let shares = mechanism.honest_shares(contributors)? as u64;
    // Δ₂²·denominator / (2·m·numerator)
    let mut rho = Fraction::integer(mechanism.sensitivity_squared());
    rho.numerator *= variance.denominator();
    rho.denominator *= variance.numerator();
    let ideal = rho.over(2 * shares).to_f64_up();
    let discreteness =
        tau(variance.standard_deviation().powi(2), shares) * mechanism.dimension() as f64 / 4.0;
    Ok(Rho((ideal + discreteness).next_up()))
}

/// τ = 10·Σ_{k=1}^{m−1} exp(−2π²σ²·k/(k + 1)), rounded up: how far m summed discrete Gaussians are from one.
fn tau(variance: f64, shares: u64) -> f64 {
    // A relative 10⁻¹² covers the last places of σ², the sum and, magnified by the exponent (below 300 where the result
    // is a normal float), those of the exponential.
    let exponent = -2.0 * PI_SQUARED_BELOW * variance * (1.0 - 1e-12);
    let sum: f64 = (1..shares)
        .map(|k| (exponent * (k as f64 / (k + 1) as f64)).exp())
        .sum();
    10.0 * sum * (1.0 + 1e-12)
}

const PI_SQUARED_BELOW: f64 = 9.869_604_401_089;

/// How far one round may be from the ideal mechanism: `contributors`·d draws, each within 2⁻¹⁰⁴ of N_ℤ(0, σ_i²) and
/// inside B except with probability 2⁻¹⁰⁷.
pub fn distance(mechanism: &Mechanism, contributors: usize) -> Distance {
    let draws = contributors as f64 * mechanism.dimension() as f64;
    Distance(
        (draws * (2_f64.powi(STATISTICAL_DISTANCE_LOG2) + 2_f64.powi(-107)))
            .next_up()
            .next_up(),
    )
}

/// ρ of all the rounds together, schedule chosen adaptively: their sum, rounded up, by opendp.
pub fn compose(rounds: &[Rho]) -> Result<Rho> {
    let _alone = alone();
    ZeroConcentratedDivergence
        .compose(rounds.iter().map(|rho| rho.0).collect())
        .map(Rho)
        .map_err(|error| fault(&error))
}

/// The least ε that opendp finds with (ε, δ) implied by ρ (Canonne–Kamath–Steinke 2020, Proposition 12:
/// δ = inf_α exp((α − 1)(αρ − ε))·(1 − 1/α)^α/(α − 1)). Fails (`Refused`) unless 0 < δ < 1.
pub fn epsilon(rho: Rho, delta: &Decimal) -> Result<Epsilon> {
    epsilon_below(rho, delta.to_f64_down())
}

/// The same where the release is only within `distance` of the ideal mechanism. Fails (`Refused`) when the distance uses up
/// more than half of δ.
pub fn epsilon_at_distance(rho: Rho, distance: Distance, delta: &Decimal) -> Result<Epsilon> {
    let delta = set_aside(delta.to_f64_down(), distance, |delta| {
        epsilon_below(rho, delta).map(Epsilon::get)
    })?;
    epsilon_below(rho, delta)
}

/// What is left of δ for the ideal mechanism where the release is only within `distance` of it: (ε, δ − (1 + e^ε)·distance)
/// of the ideal is (ε, δ) of the real one. Fails (`Refused`) when the distance uses up more than half of δ.
pub(crate) fn set_aside(
    delta: f64,
    distance: Distance,
    epsilon: impl FnOnce(f64) -> Result<f64>,
) -> Result<f64> {
    // ε at δ/2 is an upper bound on the answer, so what is set aside at that ε is enough.
    let coarse = epsilon(delta / 2.0)?;
    let aside = (1.0 + coarse.exp()) * distance.0 * (1.0 + 1e-12);
    if aside > delta / 2.0 {
        return refused("sampling error would use up more than half of delta");
    }
    Ok((delta - aside).next_down())
}

/// The least noise multiplier z, a multiple of 1/1000, with which `rounds` rounds cost at most (ε, δ).
///
/// ρ of a round is 1/(2z²) at m_min whatever the clip, the adjacency and the cohort. A billionth of ρ and a millionth
/// of δ are kept back for what adding up single rounds rounds up, for τ and for [`distance`]. Fails (`Refused`) when
/// no z up to 10⁶ will do, or without a round, an ε above 0 or a δ in (0, 1).
pub fn calibrate(epsilon: &Decimal, delta: &Decimal, rounds: u32) -> Result<Decimal> {
    if rounds == 0 {
        return refused("calibration needs at least one round");
    }
    let (target, delta) = calibration::kept_back(epsilon, delta)?;
    calibration::least_multiplier(target, FIRST_GUESS, |thousandths| {
        let rho = gaussian(&calibration::squared(thousandths)).0 * f64::from(rounds);
        Ok(epsilon_below(Rho((rho * (1.0 + 1e-9)).next_up()), delta)?.0)
    })
}

/// z = 8: the search finds its way from anywhere.
const FIRST_GUESS: u64 = 8_000;

fn epsilon_below(rho: Rho, delta: f64) -> Result<Epsilon> {
    if !(delta > 0.0 && delta < 1.0) {
        return refused("delta lies strictly between 0 and 1");
    }
    let _alone = alone();
    let profile = ZeroConcentratedDivergence::convert(rho.0).map_err(|error| fault(&error))?;
    let epsilon = profile.epsilon(delta).map_err(|error| fault(&error))?;
    if epsilon.is_finite() {
        Ok(Epsilon(epsilon))
    } else {
        refused("no finite epsilon at that rho and delta")
    }
}

/// One call into opendp at a time: around its arithmetic it swaps the process's panic hook, and two that do so at once
/// can leave the process without one.
fn alone() -> MutexGuard<'static, ()> {
    static OPENDP: Mutex<()> = Mutex::new(());
    OPENDP.lock().unwrap_or_else(PoisonError::into_inner)
}

fn fault(error: &opendp::error::Error) -> Error {
    Error::Fault(format!("opendp: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MechanismSpec;
    use crate::mechanism::tests::{institution, without_privacy};
    use ciphertune_policy::{Adjacency, Placement};

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    fn fifty_rounds(multiplier: &str) -> f64 {
        let mechanism = Mechanism::derive(&institution("1", multiplier, 1000)).unwrap();
        let rho = compose(&[per_round(&mechanism, 3).unwrap(); 50]).unwrap();
        epsilon_at_distance(rho, distance(&mechanism, 3), &decimal("1e-5"))
            .unwrap()
            .get()
    }

    #[test]
    fn calibration_reproduces_the_table_of_the_design() {
        // Noise multipliers of 50 rounds at δ = 1e-5, there to the nearest thousandth, here rounded up.
        for (target, nearest) in [("1", 28.603), ("2", 15.197), ("4", 8.185), ("8", 4.509)] {
            let multiplier = calibrate(&decimal(target), &decimal("1e-5"), 50).unwrap();
            let difference = multiplier.to_f64_up() - nearest;
            assert!(
                (-1e-9..0.001 + 1e-9).contains(&difference),
                "ε = {target}: {multiplier}"
            );
        }
    }

    #[test]
    fn the_calibrated_multiplier_keeps_epsilon_and_a_thousandth_less_does_not() {
        for target in ["1", "2", "4", "8"] {
            let multiplier = calibrate(&decimal(target), &decimal("1e-5"), 50).unwrap();
            let (mantissa, denominator) = multiplier.to_ratio();
            let less = Decimal::new(mantissa * (1000 / denominator as i128) - 1, 3).unwrap();
            let limit = target.parse::<f64>().unwrap();
            assert!(
                fifty_rounds(&multiplier.to_string()) <= limit,
                "ε = {target}"
            );
            assert!(fifty_rounds(&less.to_string()) > limit, "ε = {target}");
        }
    }

    #[test]
    fn rho_is_one_over_two_z_squared_whatever_the_clip_and_the_adjacency() {
        let expected = 1.0 / (2.0 * 4.509_f64.powi(2));
        let variants = [
            institution("1", "4.509", 1000),
            institution("0.37", "4.509", 450_000),
            MechanismSpec {
                adjacency: Adjacency::ReplaceOne,
                ..institution("1", "4.509", 1000)
            },
            MechanismSpec {
                placement: Placement::Local,
                ..institution("1", "4.509", 1000)
            },
            MechanismSpec {
                min_contributors: 9,
                colluders: 3,
                ..institution("1", "4.509", 1000)
            },
        ];
        for spec in variants {
            let mechanism = Mechanism::derive(&spec).unwrap();
            let rho = per_round(&mechanism, spec.min_contributors).unwrap().get();
            assert!((rho / expected - 1.0).abs() < 1e-12, "{spec:?}: {rho}");
        }
    }

    #[test]
    fn more_contributors_than_the_minimum_cost_less() {
        let mechanism = Mechanism::derive(&institution("1", "4.509", 1000)).unwrap();
        let rho = |contributors| per_round(&mechanism, contributors).unwrap().get();
        // m = 2 honest shares at the minimum of three, m = 4 with five.
        assert!((rho(5) / rho(3) - 0.5).abs() < 1e-12);
        assert!(matches!(per_round(&mechanism, 2), Err(Error::Refused(_))));
    }

    #[test]
    fn the_term_for_discreteness_is_kept() {
        // At σ² = 1, m = 3: 10·(e^{−π²} + e^{−4π²/3}) = 10·(5.17232…e−5 + 1.92714…e−6).
        let expected = 10.0 * (5.172_318_6e-5 + 1.927_141_9e-6);
        assert!(
            (tau(1.0, 3) / expected - 1.0).abs() < 1e-7,
            "{}",
            tau(1.0, 3)
        );
        assert_eq!(tau(1.0, 1), 0.0);
        // At the smallest σ_i there is, with the most members and the longest vector: nothing, as the design says.
        assert!(tau(16.0, 999) * 2_f64.powi(40) < 1e-52);
    }

    #[test]
    fn composition_is_the_sum_rounded_up() {
        let tenth = Rho(0.1);
        let composed = compose(&[tenth; 10]).unwrap().get();
        assert!((1.0..1.0 + 1e-14).contains(&composed));
        assert_eq!(compose(&[]).unwrap().get(), 0.0);
    }

    #[test]
    fn epsilon_is_above_what_a_million_alphas_say_and_close_to_it() {
        // δ(α) by the formula, minimised on a grid: an independent, slightly larger value.
        let (rho, delta) = (50.0 / (2.0 * 4.509_f64.powi(2)), 1e-5_f64);
        let found = epsilon(Rho(rho), &decimal("1e-5")).unwrap().get();
        let by_grid = (1..1_000_000)
            .map(|step| 1.0 + f64::from(step) * 1e-4)
            .map(|alpha| {
                alpha * rho
                    + ((1.0 / delta).ln() + alpha * (-1.0 / alpha).ln_1p() - (alpha - 1.0).ln())
                        / (alpha - 1.0)
            })
            .fold(f64::INFINITY, f64::min);
        assert!((found - by_grid).abs() < 1e-6, "{found} {by_grid}");
    }

    #[test]
    fn sampling_error_is_booked_in_delta_and_refused_when_it_matters() {
        let rho = Rho(1.0);
        let plain = epsilon(rho, &decimal("1e-5")).unwrap();
        assert!(epsilon_at_distance(rho, Distance(1e-9), &decimal("1e-5")).unwrap() > plain);
        assert!(matches!(
            epsilon_at_distance(rho, Distance(1e-6), &decimal("1e-5")),
            Err(Error::Refused(_))
        ));
        let mechanism = Mechanism::derive(&institution("1", "4.509", 1_000_000)).unwrap();
        let booked = distance(&mechanism, 3).get();
        assert!(booked > 3e6 * 2_f64.powi(-104) && booked < 1e-23);
    }

    #[test]
    fn nonsense_is_refused() {
        let open = Mechanism::derive(&without_privacy("1", 10)).unwrap();
        assert!(matches!(per_round(&open, 3), Err(Error::Misuse(_))));
        for (target, delta, rounds) in [
            ("0", "1e-5", 50),
            ("1", "0", 50),
            ("1", "1", 50),
            ("1", "1e-5", 0),
            ("1e-9", "1e-20", 1_000_000),
        ] {
            let outcome = calibrate(&decimal(target), &decimal(delta), rounds);
            assert!(
                matches!(outcome, Err(Error::Refused(_))),
                "{target} {delta} {rounds}: {outcome:?}"
            );
        }
        assert!(epsilon(Rho(1.0), &decimal("2")).is_err());
    }
}
