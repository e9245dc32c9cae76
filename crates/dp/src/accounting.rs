//! ε of a frozen schedule by any of the accountants, and back to the noise.

use std::{fmt, str::FromStr};

use ciphertune_policy::{Adjacency, Decimal};

use crate::pld::{self, Interval};
use crate::rdp::Curve;
use crate::schedule::{FrozenSchedule, SamplingRate};
use crate::zcdp::{self, Epsilon, Rho};
use crate::{Error, Result, calibration, refused};

/// How an ε is come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accountant {
    /// Zero-concentrated privacy, composed and converted by opendp. No sampling.
    Zcdp,
    /// Rényi privacy at fixed integer orders.
    Rdp,
    /// Privacy loss distributions on a grid of this interval: the tightest, for frozen schedules alone.
    Pld(Interval),
}

impl Accountant {
    /// Every one, with its defaults.
    pub const ALL: [Self; 3] = [Self::Zcdp, Self::Rdp, Self::Pld(Interval::DEFAULT)];

    /// Its name: `zcdp`, `rdp`, `pld`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Zcdp => "zcdp",
            Self::Rdp => "rdp",
            Self::Pld(_) => "pld",
        }
    }
}

impl fmt::Display for Accountant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Accountant {
    type Err = Error;

    /// With its defaults.
    fn from_str(text: &str) -> Result<Self> {
        match Self::ALL.into_iter().find(|one| one.name() == text) {
            Some(accountant) => Ok(accountant),
            None => Err(Error::Misuse(
                "the accountants are zcdp, rdp and pld".into(),
            )),
        }
    }
}

/// What a schedule costs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Account {
    /// ε at the δ asked for, rounded up.
    pub epsilon: Epsilon,
    /// What it rests on.
    pub basis: Basis,
}

/// What an ε rests on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Basis {
    /// ρ of all the steps together. opendp rounds every operation of the conversion upwards.
    Zcdp {
        /// ρ.
        rho: Rho,
    },
    /// Rényi privacy.
    Rdp {
        /// α, the order with the least ε.
        order: u32,
        /// ε lies at most this far above the accountant's exact figure.
        rounding: f64,
    },
    /// A privacy loss distribution.
    Pld {
        /// The interval of its grid: as asked for, or coarser where that would have taken too many points.
        interval: f64,
        /// ε lies at most this far above the exact figure of that grid (which lies above the true one).
        rounding: f64,
    },
}

/// ε of the whole schedule at δ, rounded up; where the schedule is of a [`Mechanism`](crate::Mechanism), its distance to
/// the ideal one is booked in δ.
///
/// Fails (`Refused`) unless 0 < δ < 1; where the accountant does not know the schedule ([`covers`]); where there is no
/// finite ε at that δ, or none below a million for `pld`.
pub fn epsilon(
    accountant: Accountant,
    schedule: &FrozenSchedule,
    delta: &Decimal,
) -> Result<Account> {
    covers(accountant, schedule.rate(), schedule.adjacency())?;
    if delta.is_zero() || *delta >= Decimal::ONE {
        return refused("delta lies strictly between 0 and 1");
    }
    match accountant {
        Accountant::Zcdp => {
            let rho = zcdp::compose(&vec![schedule.rho(); schedule.steps() as usize])?;
            let epsilon = match schedule.distance() {
                Some(distance) => zcdp::epsilon_at_distance(rho, distance, delta)?,
                None => zcdp::epsilon(rho, delta)?,
            };
            Ok(Account {
                epsilon,
                basis: Basis::Zcdp { rho },
            })
        }
        Accountant::Rdp => {
            let spent = Curve::of(schedule);
            let delta = ideal_delta(schedule, delta, |delta| spent.epsilon(delta).0)?;
            let (epsilon, order) = spent.epsilon(delta);
            Ok(Account {
                epsilon: finite(epsilon)?,
                basis: Basis::Rdp {
                    order,
                    rounding: spent.rounding(order, epsilon, schedule),
                },
            })
        }
        Accountant::Pld(interval) => {
            let mut composer = pld::Composer::default();
            let step = pld::Step::of(schedule);
            let mut enclose = |delta| composer.epsilon(&step, schedule.steps(), delta, interval);
            let delta = ideal_delta(schedule, delta, |delta| enclose(delta).above)?;
            let found = enclose(delta);
            Ok(Account {
                epsilon: finite(found.above)?,
                basis: Basis::Pld {
                    interval: found.interval,
                    rounding: found.above - found.below,
                },
            })
        }
    }
}

/// The least noise multiplier z, a multiple of 1/1000, with which so many steps cost at most (ε, δ).
///
/// z = σ_total/Δ₂ of continuous noise. A millionth of δ is kept back for the sampler's distance, and of what a step costs
/// a billionth and 2⁻⁴⁰ for what a ledger rounds up (`pld` books no steps: it keeps back nothing there). Fails
/// (`Refused`) as [`epsilon`] does, without an ε above 0, and where no z up to 10⁶ will do.
pub fn calibrate(
    accountant: Accountant,
    epsilon: &Decimal,
    delta: &Decimal,
    rate: SamplingRate,
    steps: u32,
    adjacency: Adjacency,
) -> Result<Decimal> {
    covers(accountant, rate, adjacency)?;
    // Any multiplier serves to have the rest checked.
    FrozenSchedule::planned(rate, &Decimal::ONE, steps, adjacency)?;
    let by_rdp = || {
        let (target, delta) = calibration::kept_back(epsilon, delta)?;
        calibration::least_multiplier(target, FIRST_GUESS, |thousandths| {
            let step = Curve::of_step(rate, &calibration::squared(thousandths));
            let spent = step.widened(1e-9, 2_f64.powi(-40)).times(steps);
            Ok(spent.epsilon(delta).0)
        })
    };
    match accountant {
        Accountant::Zcdp => zcdp::calibrate(epsilon, delta, steps),
        Accountant::Rdp => by_rdp(),
        Accountant::Pld(interval) => {
            let (target, delta) = calibration::kept_back(epsilon, delta)?;
            // Rényi privacy asks for a few in a hundred more, if it finds an answer.
            let guess = by_rdp().map_or(FIRST_GUESS, |multiplier| {
                (multiplier.to_f64_up() * 1e3 * PLD_OF_RDP) as u64
            });
            let mut composer = pld::Composer::default();
            let mut search = |guess, interval| {
                calibration::least_multiplier(target, guess, |thousandths| {
                    let step = pld::Step::new(rate, &calibration::squared(thousandths));
                    Ok(composer.epsilon(&step, steps, delta, interval).above)
                })
            };
            // A coarse grid is cheap and nearly right.
            let guess = search(guess, interval.coarser())
                .map_or(guess, |multiplier| (multiplier.to_f64_up() * 1e3) as u64);
            search(guess, interval)
        }
    }
}

/// Whether the accountant knows such a schedule. Fails (`Refused`), saying why, where not.
pub fn covers(accountant: Accountant, rate: SamplingRate, adjacency: Adjacency) -> Result<()> {
    match accountant {
        Accountant::Zcdp if !rate.is_whole() => refused(format!(
            "zcdp gains nothing by sampling: at sampling rate {} use rdp, or pld for a schedule that is fixed beforehand",
            rate.get()
        )),
        Accountant::Pld(_) if adjacency == Adjacency::ReplaceOne && !rate.is_whole() => refused(
            "pld under replace-one is for whole batches (sampling rate 1) alone: for sampled ones use rdp, \
             which is supported numerically there",
        ),
        _ => Ok(()),
    }
}

/// δ rounded down, less what the distance of the schedule's mechanism to the ideal one takes of it.
fn ideal_delta(
    schedule: &FrozenSchedule,
    delta: &Decimal,
    epsilon: impl FnOnce(f64) -> f64,
) -> Result<f64> {
    let delta = delta.to_f64_down();
    match schedule.distance() {
        None => Ok(delta),
        Some(distance) => zcdp::set_aside(delta, distance, |delta| Ok(epsilon(delta))),
    }
}

fn finite(epsilon: f64) -> Result<Epsilon> {
    if epsilon.is_finite() {
        Ok(Epsilon::rounded_up(epsilon))
    } else {
        refused("so little noise gives no meaningful epsilon at that delta")
    }
}

/// Where the search for a noise multiplier begins, in thousandths.
const FIRST_GUESS: u64 = 1_000;
/// z by privacy loss distributions over z by Rényi privacy, usually.
const PLD_OF_RDP: f64 = 0.93;
