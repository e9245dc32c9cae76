//! log softmax at one column of each row, forward and backward.

use rayon::prelude::*;

use super::activation::exp;
use super::{largest, sum2, vectorised};

vectorised! {
    fn log_sum_exp_row<'a>(row: &'a [f32], out: &'a mut [f32; 2]) {
        let top = largest(row);
        let mut sum = 0.0;
        for row in row.chunks(512) {
            let mut powers = [0f32; 512];
            for (power, x) in powers.iter_mut().zip(row) {
                *power = exp::<FMA>(x - top);
            }
            let powers = &powers[..row.len()];
            sum += sum2(powers, powers, |p, _| p);
        }
        *out = [top, libm::logf(sum)];
    }
}

/// m = max x and ln Σ e^(x−m) of every row, `[R, width]` → `[R, 2]` in `out`: apart, for together they would be rounded at the
/// size of the logits.
pub(in super::super) fn log_sum_exp(values: &[f32], width: usize, out: &mut [[f32; 2]]) {
    values
        .par_chunks_exact(width)
        .zip(out)
        .for_each(|(row, out)| log_sum_exp_row(row, out));
}

vectorised! {
    fn weighted_softmax_row<'a>(row: &'a [f32], sum: [f32; 2], weight: f32, out: &'a mut [f32]) {
        for (out, x) in out.iter_mut().zip(row) {
            *out = weight * exp::<FMA>((x - sum[0]) - sum[1]);
        }
    }
}

/// The gradient of x_c − ln Σ eˣ times `grad`, a row: `grad`·(1_c − softmax x), from what
/// [`log_sum_exp`] gave.
pub(in super::super) fn log_softmax_vjp(
    values: &[f32],
    sums: &[[f32; 2]],
    columns: &[u32],
    grad: &[f32],
    out: &mut [f32],
) {
    let width = values.len() / sums.len().max(1);
    values
        .par_chunks_exact(width)
        .zip(out.par_chunks_exact_mut(width))
        .zip(sums.par_iter().zip(columns).zip(grad))
        .for_each(|((row, out), ((sum, column), grad))| {
            weighted_softmax_row(row, *sum, -grad, out);
            out[*column as usize] += grad;
        });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_softmax_and_its_gradient_agree_with_f64() {
        let width = 1_100;
        let values: Vec<f32> = (0..2 * width)
            .map(|i| (i as f32 * 0.37).sin() * 4.0 + (i / width) as f32 * 1e3)
            .collect();
        let (columns, grad) = ([7, 1_099], [1.0, -0.5]);
        let mut sums = [[0.0; 2]; 2];
        log_sum_exp(&values, width, &mut sums);
        let mut back = vec![0.0; values.len()];
        log_softmax_vjp(&values, &sums, &columns, &grad, &mut back);
        for (r, row) in values.chunks(width).enumerate() {
            let total: f64 = row.iter().map(|&x| libm::exp(f64::from(x - row[0]))).sum();
            let sum = f64::from(row[0]) + libm::log(total);
            let [top, rest] = sums[r];
            assert!((f64::from(top) + f64::from(rest) - sum).abs() < 1e-6 * sum.abs().max(10.0));
            for (c, &x) in row.iter().enumerate() {
                let softmax = libm::exp(f64::from(x) - sum);
                let one = f64::from(u8::from(c == columns[r] as usize));
                let want = f64::from(grad[r]) * (one - softmax);
                let got = f64::from(back[r * width + c]);
                assert!((got - want).abs() < 2e-6, "{r}, {c}: {got} {want}");
            }
        }
    }
}
