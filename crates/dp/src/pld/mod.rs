//! Accounting by privacy loss distributions of the Poisson-sampled Gaussian, for schedules that are frozen.
//!
//! The pair of one step (Zhu–Dong–Wang 2022): P = (1 − q)·N(0, z²) + q·N(1, z²) against Q = N(0, z²) where a record is
//! removed, Q against P where it is added. The loss ln(P/Q) is discretised by connecting the dots (Doroshenko–Ghazi–
//! Kamath–Kumar–Manurangsi 2022): the hockey-stick curve h(t) = sup P − t·Q is replaced by its chords between t = e^{jh}, the
//! least curve above it that a loss on that grid can have. T steps are the T-th convolution power, by FFT; at q = 1 they
//! are one step with z/√T. ε is the larger of both directions.
//!
//! How far off the floats are: each thing that ε is made of (the curves of a `Step`, the masses of a `Grid`, their
//! convolution power) has a bound on its relative error. Their sum is booked in δ, against us, before δ is converted, and
//! an account says how much that can have added. The transform is of the *tilted* distribution, whose middle is
//! where the answer lies, so that its rounding errors are small beside δ, however small δ is.
//!
//! A bound for a composition fixed beforehand is no filter for an adaptive one. So nothing here adds what was spent to
//! what was spent: a whole [`FrozenSchedule`] goes in ([`accounting`](crate::accounting)), one ε
//! comes out, and ε has no sum.

mod convolution;
mod grid;
mod step;
mod tilt;

use ciphertune_policy::Decimal;

use crate::{FrozenSchedule, Result, refused};
use convolution::Powers;
use grid::Grid;
pub(crate) use step::Step;

/// h, the interval of the grid on which losses are discretised: 10⁻⁹ to 0.1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval(f64);

impl Interval {
    /// 10⁻⁴. Pessimistic where a step's loss hardly spreads over it (q of a thousandth and less): then a finer one is
    /// tighter.
    pub const DEFAULT: Self = Self(1e-4);

    /// Fails (`Refused`) outside 10⁻⁹ to 0.1.
    pub fn new(interval: &Decimal) -> Result<Self> {
        let float = interval.to_f64_up();
        if (1e-9..=0.100_000_1).contains(&float) {
            Ok(Self(float))
        } else {
            refused(format!(
                "a grid interval of {interval}, where 1e-9 to 0.1 is useful"
            ))
        }
    }

    /// Whether a step's loss spreads over so few points that a finer grid is visibly tighter.
    pub fn is_coarse_for(self, schedule: &FrozenSchedule) -> bool {
        let (step, _) = Step::of(schedule).merged(schedule.steps());
        step.spread() < 32.0 * self.0
    }

    /// A grid with an eighth of the points.
    pub(crate) fn coarser(self) -> Self {
        Self(self.0 * 8.0)
    }

    /// h.
    pub fn get(self) -> f64 {
        self.0
    }
}

impl Eq for Interval {}

/// Bounds on the ε of a grid.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Enclosure {
    /// Never below it: what is reported. Infinite where so little noise was added that no grid holds the losses.
    pub(crate) above: f64,
    /// Never above it.
    pub(crate) below: f64,
    /// The interval: as asked for, doubled as often as its points would have been too many.
    pub(crate) interval: f64,
}

/// Composes steps; keeps the tables of the transforms for the next call.
#[derive(Default)]
pub(crate) struct Composer(Powers);

impl Composer {
    /// ε at `delta`, 0 < δ < 1, of so many equal steps.
    pub(crate) fn epsilon(
        &mut self,
        step: &Step,
        steps: u32,
        delta: f64,
        interval: Interval,
    ) -> Enclosure {
        let (step, steps) = step.merged(steps);
        let mut h = interval.0;
        while h <= COARSEST {
            if let Some(found) = self.on_grid(&step, steps, delta, h) {
                return found;
            }
            h *= 2.0;
        }
        Enclosure {
            above: f64::INFINITY,
            below: 0.0,
            interval: h,
        }
    }

    /// The same on a given grid; `None` where that takes too many points.
    fn on_grid(&mut self, step: &Step, steps: u32, delta: f64, h: f64) -> Option<Enclosure> {
        let grid = Grid::of(step, h, delta * LOST / f64::from(steps))?;
        let mut found = self.0.epsilon(&grid.removed(), steps, delta)?;
        // Whole batches have the same loss in both directions.
        if !step.is_whole() {
            let added = self.0.epsilon(&grid.added(), steps, delta)?;
            found.above = found.above.max(added.above);
            found.below = found.below.max(added.below);
        }
        Some(found)
    }
}

/// The coarsest grid that is tried: with the most points it reaches losses of a million.
const COARSEST: f64 = 1.0;
/// The share of δ that may be lost at either end of the grid of all steps together. It goes to an infinite loss, where it
/// counts in full.
const LOST: f64 = 1.0 / (1_u64 << 40) as f64;
