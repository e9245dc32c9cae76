//! The T-th convolution power of a loss, and the ε at which its hockey stick is δ.

use realfft::{RealFftPlanner, num_complex::Complex};

use super::{Enclosure, grid::Losses, tilt::Tilt};

/// Convolution powers; keeps the tables of the transforms.
pub(super) struct Powers(RealFftPlanner<f64>);

impl Default for Powers {
    fn default() -> Self {
        Self(RealFftPlanner::new())
    }
}

impl Powers {
    /// Bounds on the ε at `delta` of `steps` losses; `None` where that takes too many points.
    pub(super) fn epsilon(&mut self, losses: &Losses, steps: u32, delta: f64) -> Option<Enclosure> {
        let composed = if steps == 1 {
            Composed::once(losses, delta)
        } else {
            self.power(losses, steps, delta)?
        };
        Some(composed.enclose(losses, steps, delta))
    }

    /// p_θ^{∗T} by one transform there and one back, p_θ the loss tilted so that the answer lies in its middle.
    ///
    /// The transform is cyclic. Mass that leaves the window at its lower end comes back at the upper one, where it only adds;
    /// what lies above the window is bounded by e^{T·K(θ) − θ·x} and goes to ∞.
    fn power(&mut self, losses: &Losses, steps: u32, delta: f64) -> Option<Composed> {
        let (h, count) = (losses.h, f64::from(steps));
        let tilt = Tilt::of(losses, steps, delta);
        let half = (DEVIATIONS * tilt.deviation).max(DECADES / tilt.theta);
        let points = 2.0 * (half / h) + 64.0;
        if points > MOST_POINTS as f64 {
            return None;
        }
        let length = (points as usize).next_power_of_two().max(1 << 10);

        // Tilted about the mean of one step, folded into the window, and made to add up to 1.
        let centre = tilt.mean / count;
        let mut tilted = vec![0.0; length];
        for (place, mass) in losses.masses.iter().enumerate() {
            let loss = (losses.first + place as i64) as f64 * h;
            let weight = mass * libm::exp(tilt.theta * (loss - centre));
            // A subnormal number takes a processor a hundred times as long, and is below every error that is booked.
            if weight > f64::MIN_POSITIVE {
                tilted[place % length] += weight;
            }
        }
        let total: f64 = tilted.iter().sum();
        tilted.iter_mut().for_each(|weight| *weight /= total);
        let norm = tilted
            .iter()
            .map(|weight| weight * weight)
            .sum::<f64>()
            .sqrt();

        let forward = self.0.plan_fft_forward(length);
        let mut spectrum = forward.make_output_vec();
        forward.process(&mut tilted, &mut spectrum).ok()?;
        let error = raise(&mut spectrum, steps, length, norm);
        let backward = self.0.plan_fft_inverse(length);
        backward.process(&mut spectrum, &mut tilted).ok()?;

        let first = (tilt.mean / h).round() as i64 - (length / 2) as i64;
        let (scale, theta) = (1.0 / length as f64, tilt.theta);
        // T·K(θ) − θ·x, for x relative to T times the centre.
        let log_mgf = count * libm::log(total);
        let untilt = |index: i64| libm::exp(log_mgf - theta * (index as f64 * h - tilt.mean));
        let origin = losses.first * i64::from(steps);
        let weights = (first..first + length as i64)
            .map(|index| {
                let place = (index - origin).rem_euclid(length as i64) as usize;
                let factor = untilt(index);
                (tilted[place] * scale * factor, error * factor)
            })
            .collect();
        let last = first + length as i64;
        Some(Composed {
            first,
            weights,
            above: untilt(last),
            given_away: (NOISE + NOISE_A_STEP * count).min(delta * NOTICEABLE * theta.min(10.0)),
            exponent: log_mgf.abs()
                + theta * (last as f64 * h - tilt.mean).abs().max(tilt.mean.abs()),
        })
    }
}

/// p̂ ↦ p̂^T in place; what an entry of the power may be wrong by after the transform back.
///
/// A transform of n = 2^k points is off by at most 8k·2⁻⁵³ =: e of its l₂ norm (Higham 2002, Theorem 24.2, its constant 7
/// for radix 2 and less for the higher ones used here; twice that is booked). So p̂ is off by d_ω with ‖d‖₂ ≤ e·√n·‖p‖₂, its power
/// by T·(|p̂| + |d|)^{T−1}·|d| and by T·2⁻⁵⁰ of itself for the multiplications, and an entry by the mean of these over ω
/// (the first, by Cauchy–Schwarz, T·e·‖p‖₂·√(mean of (|p̂| + |d|)^{2T−2})) and the error of the transform back.
fn raise(spectrum: &mut [Complex<f64>], steps: u32, length: usize, norm: f64) -> f64 {
    let (count, points) = (f64::from(steps), length as f64);
    let transform = 16.0 * points.log2() * UNIT;
    // No d_ω is larger.
    let off = transform * points.sqrt() * norm;
    // Frequencies whose power is below e⁻⁸⁰ count as none.
    let cut = libm::exp(-CUT / count);
    let (mut of_power, mut of_product, mut squares) = (0.0, 0.0, 0.0);
    let end = spectrum.len() - 1;
    for (place, value) in spectrum.iter_mut().enumerate() {
        // All but the first and the last stand for two.
        let twice = if place == 0 || place == end { 1.0 } else { 2.0 };
        let size = value.norm();
        if size > cut {
            *value = value.powu(steps);
            let power = value.norm();
            of_power += twice * libm::exp(2.0 * (count - 1.0) * libm::log(size + off));
            of_product += twice * power;
            squares += twice * power * power;
        } else {
            *value = Complex::ZERO;
            of_power += twice * libm::exp(2.0 * (count - 1.0) * libm::log(cut + off));
        }
    }
    for place in [0, end] {
        spectrum[place].im = 0.0;
    }
    count * transform * norm * (of_power / points).sqrt()
        + count * 8.0 * UNIT * of_product / points
        + libm::exp(-CUT)
        + transform * (squares / points).sqrt()
}

/// T losses together, on the part of the grid where the answer lies.
struct Composed {
    /// j of the first weight.
    first: i64,
    /// The mass at each j·h, and what it may be wrong by.
    weights: Vec<(f64, f64)>,
    /// Bound on the mass above the last.
    above: f64,
    /// Mass sent to ∞ besides, see [`NOISE`].
    given_away: f64,
    /// Size of the exponents that untilting took.
    exponent: f64,
}

impl Composed {
    /// One step is its own power.
    fn once(losses: &Losses, delta: f64) -> Self {
        Self {
            first: losses.first,
            weights: losses.masses.iter().map(|mass| (*mass, 0.0)).collect(),
            above: 0.0,
            given_away: TRUNCATED.min(delta * 1e-5),
            exponent: 0.0,
        }
    }

    /// ε at δ with every error against us, and with every error for us.
    fn enclose(&self, losses: &Losses, steps: u32, delta: f64) -> Enclosure {
        let steps = f64::from(steps);
        // 1 − (1 − p_∞)^T
        let infinite = -libm::expm1(steps * libm::log1p(-losses.infinite));
        // The curves', once a step; last places of products and sums; of untilting.
        let relative = steps * losses.relative_error
            + 16.0 * UNIT * (steps + self.weights.len() as f64 + self.exponent)
            + 1e-12;
        let slack = libm::exp(relative);
        let moved = steps * losses.displacement;
        let above = self.crossing(
            losses.h,
            infinite * (1.0 + 1e-12) + self.above + self.given_away,
            delta / slack,
            |(weight, error)| weight.max(0.0) + error,
        );
        let below = self.crossing(
            losses.h,
            infinite * (1.0 - 1e-12),
            delta * slack,
            |(weight, error)| (weight - error).max(0.0),
        );
        Enclosure {
            above: if above > 0.0 { above + moved } else { 0.0 },
            below: (below - moved).max(0.0),
            interval: losses.h,
        }
    }

    /// The least ε ≥ 0 with infinite + Σ_j w_j·(1 − e^{ε−jh})⁺ ≤ δ.
    ///
    /// From the top down, D_j the sum at ε = jh: D_{j−1} = e^{−h}·D_j + (1 − e^{−h})·Σ_{i≥j} w_i, all of it positive.
    fn crossing(
        &self,
        h: f64,
        infinite: f64,
        delta: f64,
        weight: impl Fn((f64, f64)) -> f64,
    ) -> f64 {
        if infinite >= delta {
            return f64::INFINITY;
        }
        let (decay, rise) = (libm::exp(-h), -libm::expm1(-h));
        let (mut stick, mut mass) = (0.0, 0.0);
        for (place, both) in self.weights.iter().enumerate().rev() {
            let index = self.first + place as i64;
            let next = stick * decay + rise * mass;
            if infinite + next > delta {
                // Between this point and the one above: mass − (mass − stick)·e^{−y} = δ − infinite.
                let down = libm::log((mass - stick) / (mass + infinite - delta));
                return ((index + 1) as f64 * h - down).max(0.0);
            }
            if index <= 0 {
                return 0.0;
            }
            stick = next;
            mass += weight(*both);
        }
        // Even there δ is enough.
        self.first as f64 * h
    }
}

/// Half the window, in standard deviations of the tilted sum: P(beyond) is about e⁻⁵⁰.
const DEVIATIONS: f64 = 10.0;
/// Half the window at least, in units of 1/θ: the bound on what lies above is then e⁻⁴⁰ of that on the answer's δ.
const DECADES: f64 = 40.0;
/// The most points of a window.
const MOST_POINTS: usize = 1 << 22;
/// 2⁻⁵³, half a last place of 1.
const UNIT: f64 = f64::EPSILON / 2.0;
/// See [`raise`].
const CUT: f64 = 80.0;
/// dp-accounting 0.6 sends so much to ∞ when it truncates tails. As much is sent there here, so that no ε is below its own for
/// that, or a hundred-thousandth of δ.
const TRUNCATED: f64 = 1e-15;
/// Likewise for sums: it does not tilt, and what rounding leaves of δ in its transform is about so much, either way, …
const NOISE: f64 = 1e-13;
/// … and so much more a step, …
const NOISE_A_STEP: f64 = UNIT / 2.0;
/// … but only what makes so much of ε: near the answer ln δ falls with ε by about θ.
const NOTICEABLE: f64 = 8e-7;
