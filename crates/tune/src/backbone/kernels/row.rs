//! Products with one row or column, as a sequence that grows token by token needs them: bound by memory, so every weight is read
//! once, as it is stored.

use half::bf16;
use rayon::prelude::*;

use super::{sum2, vectorised};

/// Numbers of y that one thread takes at a time.
const PART: usize = 64;

vectorised! {
    /// y ← y + W·x, W `[y, x]` row-major.
    pub(crate) fn add_product<'a>(weight: &'a [f32], x: &'a [f32], y: &'a mut [f32]) {
        for (row, y) in weight.chunks_exact(x.len()).zip(y) {
            *y += sum2(row, x, |w, x| w * x);
        }
    }
}

vectorised! {
    fn add_product_bf16<'a>(weight: &'a [bf16], x: &'a [f32], y: &'a mut [f32]) {
        // A bf16 is the upper half of an f32.
        let wide = |w: bf16| f32::from_bits(u32::from(w.to_bits()) << 16);
        for (row, y) in weight.chunks_exact(x.len()).zip(y) {
            let mut lanes = [0f32; 16];
            let (row, row_rest) = row.as_chunks::<16>();
            let (x, x_rest) = x.as_chunks::<16>();
            for (row, x) in row.iter().zip(x) {
                for ((lane, w), x) in lanes.iter_mut().zip(row).zip(x) {
                    *lane += wide(*w) * x;
                }
            }
            let rest: f32 = row_rest.iter().zip(x_rest).map(|(w, x)| wide(*w) * x).sum();
            *y += lanes.iter().sum::<f32>() + rest;
        }
    }
}

/// W·x on all threads, W `[y, x]` row-major.
pub(in super::super) fn product(weight: &[f32], x: &[f32]) -> Vec<f32> {
    in_parts(weight, x, |weight, y| add_product(weight, x, y))
}

/// The same of half-precision weights, widened as they are read.
pub(in super::super) fn product_bf16(weight: &[bf16], x: &[f32]) -> Vec<f32> {
    in_parts(weight, x, |weight, y| add_product_bf16(weight, x, y))
}

fn in_parts<T: Sync>(weight: &[T], x: &[f32], add: impl Fn(&[T], &mut [f32]) + Sync) -> Vec<f32> {
    let mut y = vec![0f32; weight.len() / x.len().max(1)];
    y.par_chunks_mut(PART)
        .zip(weight.par_chunks(PART * x.len().max(1)))
        .for_each(|(y, weight)| add(weight, y));
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_multiplied_as_in_f64() {
        for (inner, outer) in [(1, 1), (16, 3), (37, 130)] {
            let wave = |count: usize, step: f32| -> Vec<f32> {
                (0..count).map(|i| (i as f32 * step).sin()).collect()
            };
            let (weight, x) = (wave(inner * outer, 0.37), wave(inner, 0.11));
            let half: Vec<bf16> = weight.iter().map(|w| bf16::from_f32(*w)).collect();
            let exact = |w: &dyn Fn(usize) -> f64| -> Vec<f64> {
                (0..outer)
                    .map(|o| (0..inner).map(|i| w(o * inner + i) * f64::from(x[i])).sum())
                    .collect()
            };
            let close = |have: Vec<f32>, want: Vec<f64>| {
                assert_eq!(have.len(), want.len());
                for (have, want) in have.iter().zip(want) {
                    assert!((f64::from(*have) - want).abs() < 1e-5, "{have} {want}");
                }
            };
            close(product(&weight, &x), exact(&|at| f64::from(weight[at])));
            close(product_bf16(&half, &x), exact(&|at| half[at].to_f64()));
        }
    }
}
