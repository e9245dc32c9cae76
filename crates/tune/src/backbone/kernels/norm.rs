//! Layer norm and root-mean-square norm, forward and backward, row by row.

use rayon::prelude::*;

use super::{ROWS, fma, sum2, vectorised};

/// γ, β and ε of a layer norm: y = γ ∘ (x − mean x)/√(var x + ε) + β.
#[derive(Clone, Copy)]
pub(in super::super) struct LayerNorm<'a> {
    pub(in super::super) gamma: &'a [f32],
    pub(in super::super) beta: &'a [f32],
    pub(in super::super) epsilon: f32,
}

vectorised! {
    fn layer_norm_rows<'a>(norm: LayerNorm<'a>, values: &'a mut [f32], scales: &'a mut [f32], out: &'a mut [f32]) {
        let width = norm.gamma.len();
        let rows = values.chunks_exact_mut(width).zip(out.chunks_exact_mut(width));
        for ((row, out), scale) in rows.zip(scales) {
            let mean = sum2(row, row, |x, _| x) / width as f32;
            let variance = sum2(row, row, |x, _| (x - mean) * (x - mean)) / width as f32;
            *scale = 1.0 / (variance + norm.epsilon).sqrt();
            let affine = norm.gamma.iter().zip(norm.beta);
            for ((value, out), (gamma, beta)) in row.iter_mut().zip(out).zip(affine) {
                *value = (*value - mean) * *scale;
                *out = fma::<FMA>(*value, *gamma, *beta);
            }
        }
    }
}

vectorised! {
    fn layer_norm_vjp_rows<'a>(norm: LayerNorm<'a>, normed: &'a [f32], scales: &'a [f32], grad: &'a [f32], out: &'a mut [f32]) {
        let width = norm.gamma.len();
        let rows = normed.chunks_exact(width).zip(grad.chunks_exact(width));
        for (((normed, grad), out), scale) in rows.zip(out.chunks_exact_mut(width)).zip(scales) {
            for ((out, grad), gamma) in out.iter_mut().zip(grad).zip(norm.gamma) {
                *out = grad * gamma;
            }
            let mean = sum2(out, out, |d, _| d) / width as f32;
            let along = sum2(out, normed, |d, x| d * x) / width as f32;
            for (out, normed) in out.iter_mut().zip(normed) {
                *out = scale * (*out - mean - normed * along);
            }
        }
    }
}

impl LayerNorm<'_> {
    /// Normalises rows: `values` x becomes x̂, `scales` gets 1/√(var + ε) a row, `out` gets y.
    pub(in super::super) fn forward(
        &self,
        values: &mut [f32],
        scales: &mut [f32],
        out: &mut [f32],
    ) {
        let step = ROWS * self.gamma.len();
        values
            .par_chunks_mut(step)
            .zip(out.par_chunks_mut(step))
            .zip(scales.par_chunks_mut(ROWS))
            .for_each(|((values, out), scales)| layer_norm_rows(*self, values, scales, out));
    }

    /// dx = s·(d − mean d − x̂·mean(d ∘ x̂)) with d = γ ∘ dy, from what [`Self::forward`] left.
    pub(in super::super) fn vjp(
        &self,
        normed: &[f32],
        scales: &[f32],
        grad: &[f32],
        out: &mut [f32],
    ) {
        let step = ROWS * self.gamma.len();
        out.par_chunks_mut(step)
            .zip(normed.par_chunks(step))
            .zip(grad.par_chunks(step))
            .zip(scales.par_chunks(ROWS))
            .for_each(|(((out, normed), grad), scales)| {
                layer_norm_vjp_rows(*self, normed, scales, grad, out);
            });
    }
}

/// γ and ε of a root-mean-square norm: y = γ ∘ x/√(mean x² + ε).
#[derive(Clone, Copy)]
pub(in super::super) struct RmsNorm<'a> {
    pub(in super::super) gamma: &'a [f32],
    pub(in super::super) epsilon: f32,
}

vectorised! {
    fn rms_norm_rows<'a>(norm: RmsNorm<'a>, values: &'a [f32], scales: &'a mut [f32], out: &'a mut [f32]) {
        let width = norm.gamma.len();
        let rows = values.chunks_exact(width).zip(out.chunks_exact_mut(width));
        for ((row, out), scale) in rows.zip(scales) {
            *scale = 1.0 / (sum2(row, row, |x, _| x * x) / width as f32 + norm.epsilon).sqrt();
            for ((value, out), gamma) in row.iter().zip(out).zip(norm.gamma) {
                *out = value * *scale * gamma;
            }
        }
    }
}

vectorised! {
    fn rms_norm_vjp_rows<'a>(norm: RmsNorm<'a>, values: &'a [f32], scales: &'a [f32], grad: &'a [f32], out: &'a mut [f32]) {
        let width = norm.gamma.len();
        let rows = values.chunks_exact(width).zip(grad.chunks_exact(width));
        for (((row, grad), out), &scale) in rows.zip(out.chunks_exact_mut(width)).zip(scales) {
            let mut along = 0.0;
            for ((row, grad), gamma) in
                row.chunks(512).zip(grad.chunks(512)).zip(norm.gamma.chunks(512))
            {
                let mut weighted = [0f32; 512];
                for ((weighted, grad), gamma) in weighted.iter_mut().zip(grad).zip(gamma) {
                    *weighted = grad * gamma;
                }
                along += sum2(row, &weighted[..row.len()], |x, d| x * d);
            }
            let along = along * scale * scale / width as f32;
            for (((out, grad), gamma), value) in
                out.iter_mut().zip(grad).zip(norm.gamma).zip(row)
            {
                *out += scale * fma::<FMA>(-along, *value, grad * gamma);
            }
        }
    }
}

impl RmsNorm<'_> {
    /// Normalises rows of `values` into `out`; `scales` gets 1/√(mean x² + ε) a row.
    pub(in super::super) fn forward(&self, values: &[f32], scales: &mut [f32], out: &mut [f32]) {
        let step = ROWS * self.gamma.len();
        values
            .par_chunks(step)
            .zip(out.par_chunks_mut(step))
            .zip(scales.par_chunks_mut(ROWS))
            .for_each(|((values, out), scales)| rms_norm_rows(*self, values, scales, out));
    }

    /// Adds dx = s·(d − x̂·mean(d ∘ x̂)), d = γ ∘ dy, x̂ = s·x, to `out`: the residual's
    /// gradient is there already.
    pub(in super::super) fn add_vjp(
        &self,
        values: &[f32],
        scales: &[f32],
        grad: &[f32],
        out: &mut [f32],
    ) {
        let step = ROWS * self.gamma.len();
        out.par_chunks_mut(step)
            .zip(values.par_chunks(step))
            .zip(grad.par_chunks(step))
            .zip(scales.par_chunks(ROWS))
            .for_each(|(((out, values), grad), scales)| {
                rms_norm_vjp_rows(*self, values, scales, grad, out);
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDTH: usize = 70;

    fn wave(count: usize, step: f32) -> Vec<f32> {
        (0..count)
            .map(|i| (i as f32 * step).sin() * 1.5 + 0.2)
            .collect()
    }

    /// Σ gradᵢ·fᵢ(x), differentiated by central differences in f32 inputs, f64 sums.
    fn agrees(x: &[f32], grad: &[f32], back: &[f32], f: impl Fn(&[f32]) -> Vec<f32>) {
        let value = |x: &[f32]| -> f64 {
            f(x).iter()
                .zip(grad)
                .map(|(y, g)| f64::from(*y) * f64::from(*g))
                .sum()
        };
        for i in (0..x.len()).step_by(17) {
            let (mut up, mut down) = (x.to_vec(), x.to_vec());
            up[i] += 1e-2;
            down[i] -= 1e-2;
            let slope = (value(&up) - value(&down)) / f64::from(up[i] - down[i]);
            assert!(
                (slope - f64::from(back[i])).abs() < 2e-3,
                "{i}: {slope} and {}",
                back[i]
            );
        }
    }

    #[test]
    fn the_layer_norm_gradient_agrees_with_finite_differences() {
        let norm = LayerNorm {
            gamma: &wave(WIDTH, 0.7),
            beta: &wave(WIDTH, 0.3),
            epsilon: 1e-5,
        };
        let forward = |x: &[f32]| {
            let (mut x, mut scales, mut out) = (x.to_vec(), vec![0.0; 2], vec![0.0; x.len()]);
            norm.forward(&mut x, &mut scales, &mut out);
            (x, scales, out)
        };
        let (x, grad) = (wave(2 * WIDTH, 1.1), wave(2 * WIDTH, 0.9));
        let (normed, scales, _) = forward(&x);
        let mut back = vec![0.0; x.len()];
        norm.vjp(&normed, &scales, &grad, &mut back);
        agrees(&x, &grad, &back, |x| forward(x).2);
    }

    #[test]
    fn the_rms_norm_gradient_agrees_with_finite_differences() {
        let norm = RmsNorm {
            gamma: &wave(WIDTH, 0.7),
            epsilon: 1e-5,
        };
        let forward = |x: &[f32]| {
            let (mut scales, mut out) = (vec![0.0; 2], vec![0.0; x.len()]);
            norm.forward(x, &mut scales, &mut out);
            (scales, out)
        };
        let (x, grad) = (wave(2 * WIDTH, 1.1), wave(2 * WIDTH, 0.9));
        let mut back = vec![0.0; x.len()];
        norm.add_vjp(&x, &forward(&x).0, &grad, &mut back);
        agrees(&x, &grad, &back, |x| forward(x).1);
    }
}
