//! exp, GELU and SiLU with their derivatives.

use rayon::prelude::*;

use super::{ROWS, fma, vectorised};

/// eˣ to about one unit in the last place for x in [−87, 88], clamped there; NaN stays NaN.
/// x = n·ln 2 + r with |r| ≤ ½ ln 2, a polynomial of degree six in r (Cephes `expf`), and n
/// added to the exponent bits.
#[inline(always)]
pub(crate) fn exp<const FMA: bool>(x: f32) -> f32 {
    const ROUND: f32 = 12_582_912.0; // 1.5 · 2²³: adding it rounds to an integer
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = fma::<FMA>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = fma::<FMA>(n, -0.693_359_4, x);
    let r = fma::<FMA>(n, 2.121_944_4e-4, r);
    let mut p = 1.987_569_1e-4;
    p = fma::<FMA>(p, r, 1.398_2e-3);
    p = fma::<FMA>(p, r, 8.333_452e-3);
    p = fma::<FMA>(p, r, 4.166_579_6e-2);
    p = fma::<FMA>(p, r, 1.666_666_5e-1);
    p = fma::<FMA>(p, r, 0.5);
    let y = fma::<FMA>(p * r, r, r + 1.0);
    y * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

/// (gelu(x), gelu′(x)) with gelu(x) = x·Φ(x) and gelu′(x) = Φ(x) + x·φ(x), from one
/// exponential: erf by Abramowitz and Stegun 7.1.26 (absolute error below 1.5e-7).
#[inline(always)]
fn gelu<const FMA: bool>(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let bell = exp::<FMA>(-0.5 * x * x);
    let t = 1.0 / fma::<FMA>(0.327_591_1, z, 1.0);
    let mut p = 1.061_405_4;
    p = fma::<FMA>(p, t, -1.453_152_1);
    p = fma::<FMA>(p, t, 1.421_413_8);
    p = fma::<FMA>(p, t, -0.284_496_72);
    p = fma::<FMA>(p, t, 0.254_829_6);
    // Φ(−|x|) = ½ erfc(|x|/√2)
    let tail = 0.5 * p * t * bell;
    let phi = if x < 0.0 { tail } else { 1.0 - tail };
    (x * phi, fma::<FMA>(x * 0.398_942_3, bell, phi))
}

/// (gelu(x), gelu′(x)) with gelu(x) = ½x·(1 + tanh u), u = √(2/π)·(x + 0.044715x³): since
/// ½(1 + tanh u) = σ(2u), one exponential.
#[inline(always)]
fn gelu_tanh<const FMA: bool>(x: f32) -> (f32, f32) {
    const TWICE: f32 = 1.595_769_2; // 2√(2/π)
    const CUBIC: f32 = TWICE * 0.044_715;
    let square = x * x;
    let tail = exp::<FMA>(-x * fma::<FMA>(CUBIC, square, TWICE));
    let sigmoid = 1.0 / (1.0 + tail);
    let slope = x * fma::<FMA>(3.0 * CUBIC, square, TWICE); // x·d(2u)/dx
    // 1 − σ = σ·e^(−2u), without cancellation.
    let slope = sigmoid * fma::<FMA>(slope, sigmoid * tail, 1.0);
    (x * sigmoid, slope)
}

/// Which GELU (Hendrycks and Gimpel, 2016) a model was trained with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(in super::super) enum Gelu {
    /// x·Φ(x).
    Erf,
    /// Its approximation by tanh.
    Tanh,
}

#[inline(always)]
fn with_slope(
    values: &mut [f32],
    slope: &mut [f32],
    bias: &[f32],
    gelu: impl Fn(f32) -> (f32, f32),
) {
    let width = bias.len();
    let rows = values.chunks_exact_mut(width);
    for (row, slope) in rows.zip(slope.chunks_exact_mut(width)) {
        for ((value, slope), bias) in row.iter_mut().zip(slope).zip(bias) {
            (*value, *slope) = gelu(*value + bias);
        }
    }
}

#[inline(always)]
fn without_slope(values: &mut [f32], bias: &[f32], gelu: impl Fn(f32) -> (f32, f32)) {
    for row in values.chunks_exact_mut(bias.len()) {
        for (value, bias) in row.iter_mut().zip(bias) {
            *value = gelu(*value + bias).0;
        }
    }
}

vectorised! {
    fn gelu_rows<'a>(form: Gelu, values: &'a mut [f32], slope: &'a mut [f32], bias: &'a [f32]) {
        match form {
            Gelu::Erf => with_slope(values, slope, bias, gelu::<FMA>),
            Gelu::Tanh => with_slope(values, slope, bias, gelu_tanh::<FMA>),
        }
    }
}

vectorised! {
    fn gelu_only_rows<'a>(form: Gelu, values: &'a mut [f32], bias: &'a [f32]) {
        match form {
            Gelu::Erf => without_slope(values, bias, gelu::<FMA>),
            Gelu::Tanh => without_slope(values, bias, gelu_tanh::<FMA>),
        }
    }
}

/// x ← gelu(x + b) on every row; gelu′(x + b) into `slope` where it is wanted.
pub(in super::super) fn bias_gelu(
    form: Gelu,
    values: &mut [f32],
    slope: Option<&mut [f32]>,
    bias: &[f32],
) {
    let step = ROWS * bias.len();
    match slope {
        Some(slope) => values
            .par_chunks_mut(step)
            .zip(slope.par_chunks_mut(step))
            .for_each(|(rows, slope)| gelu_rows(form, rows, slope, bias)),
        None => values
            .par_chunks_mut(step)
            .for_each(|rows| gelu_only_rows(form, rows, bias)),
    }
}

vectorised! {
    fn multiply_rows<'a>(values: &'a mut [f32], factor: &'a [f32]) {
        for (value, factor) in values.iter_mut().zip(factor) {
            *value *= factor;
        }
    }
}

/// x ← x ∘ y.
pub(in super::super) fn multiply(values: &mut [f32], factor: &[f32]) {
    let step = 16_384;
    values
        .par_chunks_mut(step)
        .zip(factor.par_chunks(step))
        .for_each(|(values, factor)| multiply_rows(values, factor));
}

vectorised! {
    fn swiglu_rows<'a>(gated: &'a mut [f32], out: &'a mut [f32], width: usize) {
        for (gated, out) in gated.chunks_exact_mut(2 * width).zip(out.chunks_exact_mut(width)) {
            let (gate, up) = gated.split_at_mut(width);
            // Two loops: all in one, it is not vectorised for AVX2.
            for (gate, out) in gate.iter().zip(out.iter_mut()) {
                *out = 1.0 / (1.0 + exp::<FMA>(-*gate));
            }
            for ((gate, up), out) in gate.iter_mut().zip(up).zip(out) {
                let sigmoid = *out;
                let silu = *gate * sigmoid;
                let slope = sigmoid * fma::<FMA>(*gate, 1.0 - sigmoid, 1.0);
                *out = silu * *up;
                *gate = slope * *up;
                *up = silu;
            }
        }
    }
}

/// Rows (g, u) of width 2·I → silu(g) ∘ u in `out` `[N, I]`, and in place of (g, u) the two
/// derivatives (silu′(g) ∘ u, silu(g)).
pub(in super::super) fn swiglu(gated: &mut [f32], out: &mut [f32], width: usize) {
    gated
        .par_chunks_mut(2 * ROWS * width)
        .zip(out.par_chunks_mut(ROWS * width))
        .for_each(|(gated, out)| swiglu_rows(gated, out, width));
}

vectorised! {
    fn swiglu_vjp_rows<'a>(slopes: &'a [f32], grad: &'a [f32], out: &'a mut [f32], width: usize) {
        let rows = slopes.chunks_exact(2 * width).zip(out.chunks_exact_mut(2 * width));
        for ((slopes, out), grad) in rows.zip(grad.chunks_exact(width)) {
            for half in 0..2 {
                let range = half * width..(half + 1) * width;
                let (slopes, out) = (&slopes[range.clone()], &mut out[range]);
                for ((out, slope), grad) in out.iter_mut().zip(slopes).zip(grad) {
                    *out = slope * grad;
                }
            }
        }
    }
}

/// The gradient for (g, u) `[N, 2·I]` from that of [`swiglu`]'s output and its derivatives.
pub(in super::super) fn swiglu_vjp(slopes: &[f32], grad: &[f32], out: &mut [f32], width: usize) {
    out.par_chunks_mut(2 * ROWS * width)
        .zip(slopes.par_chunks(2 * ROWS * width))
        .zip(grad.par_chunks(ROWS * width))
        .for_each(|((out, slopes), grad)| swiglu_vjp_rows(slopes, grad, out, width));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grid() -> Vec<f32> {
        (-8000..8000).map(|i| i as f32 / 800.0).collect()
    }

    #[test]
    fn exp_is_exact_to_a_relative_four_parts_in_ten_million() {
        for x in (-870..880).map(|i| i as f32 / 10.0) {
            let exact = libm::exp(f64::from(x));
            for y in [exp::<true>(x), exp::<false>(x)] {
                let error = (f64::from(y) - exact).abs() / exact;
                assert!(error < 4e-7, "exp({x}) = {y}, off by {error}");
            }
        }
        assert!(exp::<false>(f32::NAN).is_nan());
        assert!(exp::<false>(-1000.0) < 1e-37 && exp::<false>(1000.0).is_finite());
    }

    /// Both outputs of `form` on the grid, shifted by a bias of a quarter, against `exact`.
    fn check(form: Gelu, exact: impl Fn(f64) -> (f64, f64)) {
        let mut values = grid();
        let mut slopes = vec![0.0; values.len()];
        let bias = vec![0.25; 100];
        bias_gelu(form, &mut values, Some(&mut slopes), &bias);
        let mut again = grid();
        bias_gelu(form, &mut again, None, &bias);
        assert_eq!(values, again);
        for ((x, value), slope) in grid().iter().zip(values).zip(slopes) {
            let x = f64::from(*x) + 0.25;
            let (want, want_slope) = exact(x);
            let tolerance = 1e-6 * x.abs().max(1.0);
            assert!(
                (f64::from(value) - want).abs() < tolerance,
                "{form:?} gelu({x}) = {value}"
            );
            assert!(
                (f64::from(slope) - want_slope).abs() < 1e-6,
                "{form:?} gelu'({x}) = {slope}"
            );
        }
    }

    #[test]
    fn gelu_and_its_slope_are_exact_to_a_millionth() {
        check(Gelu::Erf, |x| {
            let phi = 0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
            let density = libm::exp(-0.5 * x * x) / libm::sqrt(2.0 * std::f64::consts::PI);
            (x * phi, phi + x * density)
        });
        check(Gelu::Tanh, |x| {
            let root = libm::sqrt(2.0 / std::f64::consts::PI);
            let t = libm::tanh(root * (x + 0.044715 * x * x * x));
            let inner = root * (1.0 + 3.0 * 0.044715 * x * x);
            let slope = 0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * inner;
            (0.5 * x * (1.0 + t), slope)
        });
    }

    #[test]
    fn swiglu_and_its_gradient_agree_with_f64() {
        let width = 40;
        let mut gated: Vec<f32> = (0..width * 6)
            .map(|i| (i as f32 * 0.37).sin() * 4.0)
            .collect();
        let before = gated.clone();
        let mut out = vec![0.0; width * 3];
        swiglu(&mut gated, &mut out, width);
        let grad: Vec<f32> = (0..width * 3).map(|i| (i as f32 * 0.11).cos()).collect();
        let mut back = vec![0.0; width * 6];
        swiglu_vjp(&gated, &grad, &mut back, width);
        for row in 0..3 {
            for i in 0..width {
                let (g, u) = (row * 2 * width + i, row * 2 * width + width + i);
                let (x, up) = (f64::from(before[g]), f64::from(before[u]));
                let sigmoid = 1.0 / (1.0 + libm::exp(-x));
                let slope = sigmoid * (1.0 + x * (1.0 - sigmoid));
                let d = f64::from(grad[row * width + i]);
                let close = |got: f32, want: f64| (f64::from(got) - want).abs() < 4e-6;
                assert!(close(out[row * width + i], x * sigmoid * up));
                assert!(
                    close(back[g], d * slope * up),
                    "{} {}",
                    back[g],
                    d * slope * up
                );
                assert!(close(back[u], d * x * sigmoid));
            }
        }
    }
}
