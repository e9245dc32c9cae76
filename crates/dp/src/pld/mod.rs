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

#[cfg(test)]
mod tests {
    use super::*;

    fn step(q: &str, z: &str) -> Step {
        let rate = crate::SamplingRate::new(q.parse().unwrap()).unwrap();
        let multiplier = crate::rational::Fraction::of(&z.parse().unwrap());
        Step::new(rate, &multiplier.squared())
    }

    /// δ(ε) = E_{x∼first}[h(ε − L(x))] of two steps, by the midpoint rule over the first; h is `curve`, also below 0.
    fn two(q: f64, z: f64, remove: bool, epsilon: f64, curve: impl Fn(f64) -> f64) -> f64 {
        let (points, from, to) = (400_000, -14.0 * z, 14.0 * z + 1.0);
        let width = (to - from) / f64::from(points);
        (0..points)
            .map(|point| {
                let x = from + (f64::from(point) + 0.5) * width;
                let normal = (-(x / z).powi(2) / 2.0).exp() / (z * std::f64::consts::TAU.sqrt());
                let ratio = 1.0 - q + q * ((2.0 * x - 1.0) / (2.0 * z * z)).exp();
                let (mass, loss) = if remove {
                    (normal * ratio, ratio.ln())
                } else {
                    (normal, -ratio.ln())
                };
                mass * curve(epsilon - loss) * width
            })
            .sum()
    }

    #[test]
    fn each_direction_of_two_steps_is_its_integral() {
        for (q, z, float_q, float_z) in [("0.2", "0.8", 0.2, 0.8), ("0.6", "1.4", 0.6, 1.4)] {
            let step = step(q, z);
            let grid = Grid::of(&step, 1e-4, 1e-20).unwrap();
            for remove in [true, false] {
                let curve = |epsilon: f64| {
                    // h(ε) = 1 − e^ε + e^ε·h′(−ε), h′ of the other direction.
                    let at = |remove, epsilon| {
                        if remove {
                            step.removed(epsilon)
                        } else {
                            step.added(epsilon)
                        }
                    };
                    if epsilon >= 0.0 {
                        at(remove, epsilon)
                    } else {
                        1.0 - epsilon.exp() * (1.0 - at(!remove, -epsilon))
                    }
                };
                let losses = if remove { grid.removed() } else { grid.added() };
                for delta in [1e-2, 1e-4] {
                    let found = Powers::default().epsilon(&losses, 2, delta).unwrap();
                    let exact = |epsilon| two(float_q, float_z, remove, epsilon, curve);
                    assert!(found.below <= found.above && found.above - found.below < 1e-7);
                    assert!(
                        exact(found.above) <= delta,
                        "{q} {remove} {delta}: {found:?}"
                    );
                    assert!(
                        exact(found.above - 1e-5) > delta,
                        "{q} {remove} {delta}: {found:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn masses_and_what_is_lost_add_up_to_one_in_both_directions() {
        for (q, z) in [("1", "3"), ("0.3", "0.6"), ("0.00001", "2")] {
            let grid = Grid::of(&step(q, z), 1e-4, 1e-12).unwrap();
            for losses in [grid.removed(), grid.added()] {
                let total: f64 = losses.masses.iter().sum();
                // What is missing from 1 is a loss of −∞: less than what the other direction has at ∞.
                assert!(
                    (total + losses.infinite - 1.0).abs() < 2e-12,
                    "{q} {z}: {total}"
                );
                assert!(losses.infinite <= 1e-12);
            }
        }
    }

    #[test]
    fn the_answer_does_not_hang_on_where_the_transform_looks() {
        // 1,000 steps at once, or four convolved by hand and 250 of those.
        let step = step("0.02", "1.1");
        let grid = Grid::of(&step, 1e-3, 1e-22).unwrap();
        let once = grid.removed();
        let square = convolved(&once.masses, &once.masses);
        let four = grid::Losses {
            first: 4 * once.first,
            masses: convolved(&square, &square),
            infinite: 4.0 * once.infinite,
            ..grid.removed()
        };
        for delta in [1e-3, 1e-6, 1e-12] {
            let all = Powers::default().epsilon(&once, 1000, delta).unwrap();
            let quarters = Powers::default().epsilon(&four, 250, delta).unwrap();
            // The same distribution: what each may be off by covers what the other found.
            assert!(
                all.below <= quarters.above && quarters.below <= all.above,
                "{delta}: {all:?} {quarters:?}"
            );
            assert!(all.above - all.below < 1e-6, "{delta}: {all:?}");
        }
    }

    fn convolved(a: &[f64], b: &[f64]) -> Vec<f64> {
        let mut product = vec![0.0; a.len() + b.len() - 1];
        for (i, x) in a.iter().enumerate().filter(|(_, x)| **x > 0.0) {
            for (j, y) in b.iter().enumerate() {
                product[i + j] += x * y;
            }
        }
        product
    }
}
