//! One step's loss on a grid: the dots connected.

use super::step::Step;

/// What a step's loss is on a grid of interval h, in both directions at once: the chords of the curve of (P, Q) are, swapped,
/// those of (Q, P).
pub(super) struct Grid {
    h: f64,
    /// j of the first point: the loss is j·h.
    first: i64,
    /// P of each point.
    over: Vec<f64>,
    /// Q of each point.
    under: Vec<f64>,
    /// P of an infinite loss.
    over_infinite: f64,
    /// Q of a loss of −∞.
    under_infinite: f64,
    relative_error: f64,
    displacement: f64,
}

/// A loss distribution: a mass at each j·h, and at ∞.
pub(super) struct Losses {
    pub(super) h: f64,
    /// j of the first mass.
    pub(super) first: i64,
    /// The masses of j = first, first + 1, …
    pub(super) masses: Vec<f64>,
    /// The mass at ∞.
    pub(super) infinite: f64,
    /// Bound on the relative error of any hockey stick of it.
    pub(super) relative_error: f64,
    /// Bound on how far a loss may have been moved.
    pub(super) displacement: f64,
}

impl Grid {
    /// Between the points beyond which each curve is below `lost`; `None` where these are more than [`MOST_POINTS`].
    ///
    /// With E = e^h the chords of a curve δ_j = h(e^{jh}) have the masses
    /// P_j = ((δ_{j+1} − δ_j) − E·(δ_j − δ_{j−1}))/(E − 1), E·(δ_{j−1} − δ_j)/(E − 1) at the last point, where δ_j is left
    /// for ∞. They are taken from the curve of removal above 0 and, as Q_j, from that of addition below, as each is small
    /// where the other is nearly 1 and right to relative last places there. A mass is a second difference and less exact
    /// than that; but a hockey stick of any composition is a mean of the δ_j, with weights that sum to at most 1
    /// (summation by parts), and keeps their relative error, once for each step.
    pub(super) fn of(step: &Step, h: f64, lost: f64) -> Option<Self> {
        // Whole batches have one curve for both directions.
        let last = last_point(h, lost, |epsilon| step.removed(epsilon))?;
        let lowest = if step.is_whole() {
            last
        } else {
            last_point(h, lost, |epsilon| step.added(epsilon))?
        };
        let curve = |points: usize, value: &dyn Fn(f64) -> f64| -> Vec<f64> {
            (0..=points).map(|j| value(j as f64 * h)).collect()
        };
        let removed = curve(last, &|epsilon| step.removed(epsilon));
        let added = if step.is_whole() {
            removed.clone()
        } else {
            curve(lowest, &|epsilon| step.added(epsilon))
        };
        let (growth, rise) = (libm::exp(h), libm::expm1(h));

        // Both start with the point 0, where the two curves meet: δ_{−1} = (γ_1 + E − 1)/E.
        let middle = 1.0 + (removed[1] + added[1] - (1.0 + growth) * removed[0]) / rise;
        let side = |curve: &[f64]| -> Vec<f64> {
            let inner = curve
                .windows(3)
                .map(|d| ((d[2] - d[1]) - growth * (d[1] - d[0])) / rise);
            let outer = (curve[curve.len() - 2] - curve[curve.len() - 1]) * growth / rise;
            // Where the curve is straight a difference of roundings can fall below 0.
            inner.chain([outer]).map(|mass| mass.max(0.0)).collect()
        };
        let (upper, lower) = (side(&removed), side(&added));
        let discounted = |masses: &[f64]| -> Vec<f64> {
            masses
                .iter()
                .enumerate()
                .map(|(j, mass)| mass * libm::exp(-((j + 1) as f64 * h)))
                .collect()
        };
        let joined = |below: Vec<f64>, above: Vec<f64>| -> Vec<f64> {
            below
                .into_iter()
                .rev()
                .chain([middle.max(0.0)])
                .chain(above)
                .collect()
        };
        Some(Self {
            h,
            first: -(lowest as i64),
            over: joined(discounted(&lower), upper.clone()),
            under: joined(lower, discounted(&upper)),
            over_infinite: removed[last],
            under_infinite: added[lowest],
            relative_error: step.relative_error(),
            displacement: step.displacement(last.max(lowest) as f64 * h),
        })
    }

    /// ln(P/Q) under P.
    pub(super) fn removed(&self) -> Losses {
        self.losses(self.first, self.over.clone(), self.over_infinite)
    }

    /// ln(Q/P) under Q.
    pub(super) fn added(&self) -> Losses {
        let last = self.first + self.under.len() as i64 - 1;
        let masses = self.under.iter().rev().copied().collect();
        self.losses(-last, masses, self.under_infinite)
    }

    fn losses(&self, first: i64, masses: Vec<f64>, infinite: f64) -> Losses {
        Losses {
            h: self.h,
            first,
            masses,
            infinite,
            relative_error: self.relative_error,
            displacement: self.displacement,
        }
    }
}

/// The first j ≥ 1 where a falling curve is at most `lost`; `None` beyond [`MOST_POINTS`].
fn last_point(h: f64, lost: f64, curve: impl Fn(f64) -> f64) -> Option<usize> {
    let beyond = |j: usize| curve(j as f64 * h) <= lost;
    let mut outside = 1;
    while !beyond(outside) {
        outside *= 2;
        if outside > MOST_POINTS {
            return None;
        }
    }
    let mut inside = outside / 2;
    while outside - inside > 1 {
        let middle = inside + (outside - inside) / 2;
        if beyond(middle) {
            outside = middle;
        } else {
            inside = middle;
        }
    }
    Some(outside)
}

/// The most points on either side of 0.
const MOST_POINTS: usize = 1 << 20;
