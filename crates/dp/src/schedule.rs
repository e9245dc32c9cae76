//! A job as accountants see it: T equal steps, all of them fixed before the first.

use ciphertune_policy::{Adjacency, Decimal};
use num_bigint::BigUint;

use crate::rational::Fraction;
use crate::zcdp::{self, Distance, Rho};
use crate::{Mechanism, Result, misuse, refused};

/// q, the probability with which each record enters a batch, on its own (Poisson sampling): 0 < q ≤ 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SamplingRate(Decimal);

impl SamplingRate {
    /// Everybody is in every batch: no sampling.
    pub const WHOLE: Self = Self(Decimal::ONE);

    /// Fails (`Refused`) unless 0 < q ≤ 1.
    pub fn new(rate: Decimal) -> Result<Self> {
        if rate.is_zero() || rate > Decimal::ONE {
            return refused(format!(
                "sampling rate {rate}: a record enters a batch with a probability above 0 and up to 1"
            ));
        }
        Ok(Self(rate))
    }

    /// q, exactly.
    pub fn get(self) -> Decimal {
        self.0
    }

    /// Whether q = 1.
    pub fn is_whole(self) -> bool {
        self.0 == Decimal::ONE
    }
}

/// Whether a proof carries the ε of a schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A theorem does.
    Proved,
    /// Poisson sampling under replace-one: that the sampled pair at sensitivity 2·C is no worse than add/remove at that
    /// sensitivity is supported numerically (`tests/replace_one.rs`); we know of no theorem.
    Numerical,
}

/// T steps of the Gaussian mechanism with one noise multiplier and one sampling rate, none of which depends on what an
/// earlier step gave.
///
/// Only such a schedule has an ε by privacy loss distributions: those bound a composition that is fixed beforehand, and
/// are no filter for one that adapts. What adapts composes in [`zcdp`](crate::zcdp::compose) or as
/// [`rdp::Curve`](crate::rdp::Curve)s.
#[derive(Clone, Debug)]
pub struct FrozenSchedule {
    rate: SamplingRate,
    adjacency: Adjacency,
    steps: u32,
    /// z².
    squared: Fraction,
    /// z² of the continuous Gaussian of which this noise is a rounding.
    continuous_squared: Fraction,
    rho: Rho,
    distance: Option<Distance>,
}

/// T ≤ 10⁶.
pub const MOST_STEPS: u32 = 1_000_000;

impl FrozenSchedule {
    /// A schedule to come, of continuous noise: z = σ_total/Δ₂, where Δ₂ is the clip under zero-out and twice the clip
    /// under replace-one.
    ///
    /// Fails (`Refused`) without noise, or with no step or more than [`MOST_STEPS`].
    pub fn planned(
        rate: SamplingRate,
        noise_multiplier: &Decimal,
        steps: u32,
        adjacency: Adjacency,
    ) -> Result<Self> {
        check_steps(steps)?;
        if noise_multiplier.is_zero() {
            return refused("noise_multiplier is 0: without noise there is no epsilon");
        }
        let squared = Fraction::of(noise_multiplier).squared();
        Ok(Self {
            rate,
            adjacency,
            steps,
            rho: zcdp::gaussian(&squared),
            continuous_squared: squared.clone(),
            squared,
            distance: None,
        })
    }

    /// Steps of a mechanism on integers, in each of which the fewest members answered (more is only better): for the
    /// report of a finished job whose noise was never below this.
    ///
    /// σ² = m_min·σ_i² of the sum. N_ℤ(0, σ²) is N(0, σ² − 4) rounded by noise of variance 4, and not rotation-invariant
    /// itself: for privacy loss distributions z = √(σ² − 4)/Δ₂. Fails (`Refused`) as [`FrozenSchedule::planned`] does;
    /// (`Misuse`) for unit none.
    pub fn of(mechanism: &Mechanism, rate: SamplingRate, steps: u32) -> Result<Self> {
        check_steps(steps)?;
        let contributors = mechanism.spec().min_contributors;
        Ok(Self {
            rate,
            adjacency: mechanism.spec().adjacency,
            steps,
            squared: multiplier_squared(mechanism, contributors, 0)?,
            continuous_squared: multiplier_squared(mechanism, contributors, 4)?,
            rho: zcdp::per_round(mechanism, contributors)?,
            distance: Some(zcdp::distance(mechanism, contributors).times(steps)),
        })
    }

    /// q.
    pub fn rate(&self) -> SamplingRate {
        self.rate
    }

    /// T.
    pub fn steps(&self) -> u32 {
        self.steps
    }

    /// What neighbouring means.
    pub fn adjacency(&self) -> Adjacency {
        self.adjacency
    }

    /// Whether a proof carries the ε of this schedule.
    pub fn standing(&self) -> Standing {
        if self.adjacency == Adjacency::ReplaceOne && !self.rate.is_whole() {
            Standing::Numerical
        } else {
            Standing::Proved
        }
    }

    /// z².
    pub(crate) fn squared(&self) -> &Fraction {
        &self.squared
    }

    /// z² of the continuous Gaussian of which this noise is a rounding.
    pub(crate) fn continuous_squared(&self) -> &Fraction {
        &self.continuous_squared
    }

    /// ρ of one step, were q = 1.
    pub(crate) fn rho(&self) -> Rho {
        self.rho
    }

    /// How far all the steps together may be from the ideal mechanism; none for continuous noise.
    pub(crate) fn distance(&self) -> Option<Distance> {
        self.distance
    }
}

/// (m·σ_i² − less)/Δ₂², m the honest shares among `contributors`; less < 16. Fails (`Misuse`) for unit none; (`Refused`)
/// below min_contributors.
pub(crate) fn multiplier_squared(
    mechanism: &Mechanism,
    contributors: usize,
    less: u64,
) -> Result<Fraction> {
    let Some(variance) = mechanism.share_variance() else {
        return misuse("unit none has no differential privacy to account for");
    };
    let shares = mechanism.honest_shares(contributors)?;
    // σ_i² = numerator/denominator ≥ 16.
    let numerator = BigUint::from(variance.numerator()) * shares;
    let denominator = BigUint::from(variance.denominator());
    Ok(Fraction {
        numerator: numerator - &denominator * less,
        denominator: denominator * mechanism.sensitivity_squared(),
    })
}

fn check_steps(steps: u32) -> Result<()> {
    if (1..=MOST_STEPS).contains(&steps) {
        Ok(())
    } else {
        refused(format!(
            "{steps} steps, where 1 to {MOST_STEPS} are accounted for"
        ))
    }
}

#[cfg(test)]
mod tests {
    use ciphertune_policy::Unit;

    use super::*;
    use crate::accounting::{self, Accountant};
    use crate::mechanism::tests::{institution, without_privacy};
    use crate::{Error, MechanismSpec, pld::Interval};

    const PLD: Accountant = Accountant::Pld(Interval::DEFAULT);

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    fn rate(q: &str) -> SamplingRate {
        SamplingRate::new(decimal(q)).unwrap()
    }

    fn epsilon(accountant: Accountant, schedule: &FrozenSchedule) -> f64 {
        let account = accounting::epsilon(accountant, schedule, &decimal("1e-5"));
        account.unwrap().epsilon.get()
    }

    #[test]
    fn a_mechanism_costs_what_was_planned_and_the_variance_lost_by_rounding() {
        for adjacency in [Adjacency::ZeroOut, Adjacency::ReplaceOne] {
            let spec = MechanismSpec {
                adjacency,
                ..institution("1", "4.509", 1000)
            };
            let mechanism = Mechanism::derive(&spec).unwrap();
            let real = FrozenSchedule::of(&mechanism, SamplingRate::WHOLE, 50).unwrap();
            let planned =
                FrozenSchedule::planned(SamplingRate::WHOLE, &decimal("4.509"), 50, adjacency)
                    .unwrap();
            for accountant in [Accountant::Zcdp, Accountant::Rdp] {
                let above = epsilon(accountant, &real) - epsilon(accountant, &planned);
                assert!((-1e-9..1e-9).contains(&above), "{accountant}: {above}");
            }
            // z² − 4/Δ₂² instead of z².
            let less = 4.509_f64.powi(2) - 4.0 / mechanism.sensitivity_squared() as f64;
            let continuous = real.continuous_squared().to_f64_up();
            assert!(
                (continuous / less - 1.0).abs() < 1e-12,
                "{continuous} {less}"
            );
            assert!(epsilon(PLD, &real) > epsilon(PLD, &planned));
        }
    }

    #[test]
    fn the_distance_of_a_sampler_is_booked_by_every_accountant() {
        let mechanism = Mechanism::derive(&institution("1", "4.509", 1000)).unwrap();
        let near = FrozenSchedule::of(&mechanism, SamplingRate::WHOLE, 50).unwrap();
        let far = |times| FrozenSchedule {
            // 2⁻⁹² a round, or so.
            distance: near
                .distance
                .map(|distance| (0..times).fold(distance, |sum, _| sum.plus(sum))),
            ..near.clone()
        };
        for accountant in Accountant::ALL {
            assert!(
                epsilon(accountant, &far(48)) > epsilon(accountant, &near),
                "{accountant}"
            );
            let outcome = accounting::epsilon(accountant, &far(64), &decimal("1e-5"));
            assert!(
                matches!(outcome, Err(Error::Refused(_))),
                "{accountant}: {outcome:?}"
            );
        }
    }

    #[test]
    fn record_level_schedules_are_sampled() {
        let spec = MechanismSpec {
            unit: Unit::Record,
            max_examples: 180,
            ..institution("1", "1.289", 2691)
        };
        let mechanism = Mechanism::derive(&spec).unwrap();
        let sampled = FrozenSchedule::of(&mechanism, rate("0.0533"), 937).unwrap();
        let (by_renyi, by_loss) = (epsilon(Accountant::Rdp, &sampled), epsilon(PLD, &sampled));
        assert!(
            by_loss < by_renyi && (7.9..8.1).contains(&by_renyi),
            "{by_loss} {by_renyi}"
        );
        assert!(sampled.rate() == rate("0.0533") && sampled.steps() == 937);
        let five = |rate| FrozenSchedule::of(&mechanism, rate, 5).unwrap();
        let (whole, sampled) = (five(SamplingRate::WHOLE), five(rate("0.0533")));
        assert!(epsilon(Accountant::Rdp, &whole) > 5.0 * epsilon(Accountant::Rdp, &sampled));
        // Whole batches for all the steps: an ε so large that the sampler's distance, times e^ε, is no longer negligible.
        let hopeless = FrozenSchedule::of(&mechanism, SamplingRate::WHOLE, 937).unwrap();
        let outcome = accounting::epsilon(Accountant::Rdp, &hopeless, &decimal("1e-5"));
        assert!(matches!(outcome, Err(Error::Refused(_))), "{outcome:?}");
    }

    #[test]
    fn without_privacy_there_is_no_schedule() {
        let open = Mechanism::derive(&without_privacy("1", 10)).unwrap();
        let outcome = FrozenSchedule::of(&open, SamplingRate::WHOLE, 5);
        assert!(matches!(outcome, Err(Error::Misuse(_))));
        let mechanism = Mechanism::derive(&institution("1", "4.509", 1000)).unwrap();
        let outcome = FrozenSchedule::of(&mechanism, SamplingRate::WHOLE, 0);
        assert!(matches!(outcome, Err(Error::Refused(_))));
    }
}
