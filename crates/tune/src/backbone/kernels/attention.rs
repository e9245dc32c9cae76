//! Scaled dot-product attention over packed rows, forward and backward, example by example.
//!
//! Rows are q₀…q_{h−1}, k₀…k_{g−1}, v₀…v_{g−1}, each D wide: h query heads share g key heads
//! (grouped-query attention where g < h). Per head: P = softmax(s·q·kᵀ), c = P·v; s is 1/√D.

use rayon::prelude::*;

use super::super::rows::Rows;
use super::activation::exp;
use super::product::{COLUMNS, product, product_transposed};
use super::{largest, sum2, vectorised};

/// The shape of one attention layer.
#[derive(Clone, Copy)]
pub(in super::super) struct Attention {
    /// h, query heads.
    pub(in super::super) heads: usize,
    /// g, key and value heads; divides h.
    pub(in super::super) groups: usize,
    /// D, numbers a head.
    pub(in super::super) size: usize,
    /// Whether position i sees positions up to i alone.
    pub(in super::super) causal: bool,
    /// What scores q·kᵀ are multiplied by: 1/√D in most models.
    pub(in super::super) scale: f32,
}

/// The rows that queries see: `width` numbers a row, k₀ from number `start`, v₀ after all keys.
#[derive(Clone, Copy)]
struct Seen<'a> {
    rows: &'a [f32],
    width: usize,
    start: usize,
}

/// Rounds up to whole blocks.
fn padded(count: usize) -> usize {
    count.next_multiple_of(COLUMNS)
}

/// Head `offset / D` of every row, padded to whole blocks: `[L, padded(D)]`.
#[inline(always)]
fn gather(rows: &[f32], width: usize, offset: usize, size: usize, out: &mut [f32]) {
    for (row, out) in rows
        .chunks_exact(width)
        .zip(out.chunks_exact_mut(padded(size)))
    {
        out[..size].copy_from_slice(&row[offset..offset + size]);
    }
}

/// The same, transposed: `[D, padded(L)]`.
#[inline(always)]
fn gather_transposed(rows: &[f32], width: usize, offset: usize, size: usize, out: &mut [f32]) {
    let columns = padded(rows.len() / width);
    for (i, row) in rows.chunks_exact(width).enumerate() {
        for (d, value) in row[offset..offset + size].iter().enumerate() {
            out[d * columns + i] = *value;
        }
    }
}

/// softmax over the first `kept` of a row of scores · scale; zero after them.
#[inline(always)]
fn softmax<const FMA: bool>(row: &mut [f32], kept: usize, scale: f32) {
    let (scores, rest) = row.split_at_mut(kept);
    let top = largest(scores);
    for score in scores.iter_mut() {
        *score = exp::<FMA>((*score - top) * scale);
    }
    let inverse = 1.0 / sum2(scores, scores, |p, _| p);
    for score in scores.iter_mut() {
        *score *= inverse;
    }
    rest.fill(0.0);
}

/// Rows whose weights are computed at a time: all that is held of them where they are not kept.
const BLOCK: usize = 128;

// `weights` has room for all P, or for one block where they are not to `keep`.
vectorised! {
    fn forward_example<'a>(shape: Attention, rows: &'a [f32], seen: Seen<'a>, out: &'a mut [f32], weights: &'a mut [f32], keep: bool) {
        let (size, width) = (shape.size, shape.width());
        let (count, length) = (rows.len() / width, seen.rows.len() / seen.width);
        let (across, past) = (shape.heads * size, length - count);
        let (columns, wide) = (padded(length), padded(size));
        let mut keys = vec![0f32; size * columns];
        let mut values = vec![0f32; length * wide];
        let mut context = vec![0f32; count.min(BLOCK) * wide];
        let per_group = shape.heads / shape.groups;
        for head in 0..shape.heads {
            if head % per_group == 0 {
                let key = seen.start + head / per_group * size;
                gather_transposed(seen.rows, seen.width, key, size, &mut keys);
                gather(seen.rows, seen.width, key + shape.groups * size, size, &mut values);
            }
            let blocks = rows.chunks(BLOCK * width).zip(out.chunks_mut(BLOCK * across));
            for (index, (rows, out)) in blocks.enumerate() {
                let (first, block) = (index * BLOCK, rows.len() / width);
                let place = if keep { (head * count + first) * columns } else { 0 };
                let weights = &mut weights[place..place + block * columns];
                product(&rows[head * size..], width, size, &keys, weights, columns);
                for (i, row) in weights.chunks_exact_mut(columns).enumerate() {
                    let kept = if shape.causal { past + first + i + 1 } else { length };
                    softmax::<FMA>(row, kept, shape.scale);
                }
                let context = &mut context[..block * wide];
                product(weights, columns, length, &values, context, wide);
                for (out, context) in out.chunks_exact_mut(across).zip(context.chunks_exact(wide)) {
                    out[head * size..(head + 1) * size].copy_from_slice(&context[..size]);
                }
            }
        }
    }
}

vectorised! {
    fn vjp_example<'a>(shape: Attention, rows: &'a [f32], weights: &'a [f32], grad: &'a [f32], out: &'a mut [f32]) {
        let (size, width) = (shape.size, shape.width());
        let (length, across) = (rows.len() / width, shape.heads * size);
        let (columns, wide) = (padded(length), padded(size));
        let narrow = || vec![0f32; length * wide];
        let (mut context, mut queries, mut keys, mut product_out) = (narrow(), narrow(), narrow(), narrow());
        let mut values = vec![0f32; size * columns];
        let mut scores = vec![0f32; length * columns];
        let per_group = shape.heads / shape.groups;
        for (head, weights) in weights.chunks_exact(length * columns).enumerate() {
            let group = head / per_group;
            if head % per_group == 0 {
                gather(rows, width, shape.key(group), size, &mut keys);
                gather_transposed(rows, width, shape.value(group), size, &mut values);
            }
            gather(rows, width, head * size, size, &mut queries);
            gather(grad, across, head * size, size, &mut context);
            // dv += Pᵀ·dc
            product_transposed(weights, columns, length, &context, &mut product_out, wide);
            scatter(&product_out, out, width, shape.value(group), size);
            // dP = dc·vᵀ; dS = s·P ∘ (dP − Σ dP ∘ P)
            product(&context, wide, size, &values, &mut scores, columns);
            for (score, weight) in scores.chunks_exact_mut(columns).zip(weights.chunks_exact(columns)) {
                let along = sum2(score, weight, |s, p| s * p);
                for (score, weight) in score.iter_mut().zip(weight) {
                    *score = (*score - along) * weight * shape.scale;
                }
            }
            // dq = dS·k; dk += dSᵀ·q
            product(&scores, columns, length, &keys, &mut product_out, wide);
            scatter(&product_out, out, width, head * size, size);
            product_transposed(&scores, columns, length, &queries, &mut product_out, wide);
            scatter(&product_out, out, width, shape.key(group), size);
        }
    }
}

/// Adds `[L, padded(D)]` to one head of every row.
#[inline(always)]
fn scatter(head: &[f32], out: &mut [f32], width: usize, offset: usize, size: usize) {
    for (out, head) in out
        .chunks_exact_mut(width)
        .zip(head.chunks_exact(padded(size)))
    {
        for (out, head) in out[offset..offset + size].iter_mut().zip(head) {
            *out += head;
        }
    }
}

impl Attention {
    /// Numbers in one row of q, k and v together: (h + 2g)·D.
    pub(in super::super) fn width(&self) -> usize {
        (self.heads + 2 * self.groups) * self.size
    }

    /// Numbers in all attention weights P of a batch, rows padded to whole blocks.
    pub(in super::super) fn weights(&self, rows: &Rows) -> usize {
        rows.lengths()
            .iter()
            .map(|&length| self.heads * length * padded(length))
            .sum()
    }

    fn key(&self, group: usize) -> usize {
        (self.heads + group) * self.size
    }

    fn value(&self, group: usize) -> usize {
        (self.heads + self.groups + group) * self.size
    }

    /// q, k, v rows `[N, (h + 2g)·D]` → c `[N, h·D]` in `out`, P in `weights` where they are wanted.
    pub(in super::super) fn forward(
        &self,
        rows: &Rows,
        values: &[f32],
        out: &mut [f32],
        weights: Option<&mut [f32]>,
    ) {
        let mut jobs = Vec::with_capacity(rows.lengths().len());
        let (mut values, mut out, mut weights) = (values, out, weights);
        for &length in rows.lengths() {
            let (v, o);
            (v, values) = values.split_at(length * self.width());
            (o, out) = out.split_at_mut(length * self.heads * self.size);
            let w = match weights.take() {
                Some(all) => {
                    let (w, rest) = all.split_at_mut(self.heads * length * padded(length));
                    weights = Some(rest);
                    Some(w)
                }
                None => None,
            };
            jobs.push((v, o, w));
        }
        jobs.into_par_iter().for_each(|(v, o, w)| {
            let seen = Seen {
                rows: v,
                width: self.width(),
                start: self.key(0),
            };
            match w {
                Some(w) => forward_example(*self, v, seen, o, w, true),
                None => {
                    let length = v.len() / self.width();
                    let mut block = vec![0f32; length.min(BLOCK) * padded(length)];
                    forward_example(*self, v, seen, o, &mut block, false);
                }
            }
        });
    }

    /// Numbers in the k and v of one row: 2g·D.
    pub(in super::super) fn shared(&self) -> usize {
        2 * self.groups * self.size
    }

    /// The last T positions of one sequence of L: their q, k, v rows `[T, (h + 2g)·D]` and the
    /// k, v rows `[L, 2g·D]` of all → c `[T, h·D]` in `out`.
    pub(in super::super) fn extend(&self, values: &[f32], keys_values: &[f32], out: &mut [f32]) {
        let seen = Seen {
            rows: keys_values,
            width: self.shared(),
            start: 0,
        };
        let (count, length) = (
            values.len() / self.width(),
            keys_values.len() / self.shared(),
        );
        let mut block = vec![0f32; count.min(BLOCK) * padded(length)];
        forward_example(*self, values, seen, out, &mut block, false);
    }

    /// Adds the gradient for q, k and v to `out` (zeros at the start), from that for c and
    /// what [`Self::forward`] read and left.
    pub(in super::super) fn vjp(
        &self,
        rows: &Rows,
        values: &[f32],
        weights: &[f32],
        grad: &[f32],
        out: &mut [f32],
    ) {
        let mut jobs = Vec::with_capacity(rows.lengths().len());
        let (mut values, mut weights, mut grad, mut out) = (values, weights, grad, out);
        for &length in rows.lengths() {
            let (v, w, g, o);
            (v, values) = values.split_at(length * self.width());
            (w, weights) = weights.split_at(self.heads * length * padded(length));
            (g, grad) = grad.split_at(length * self.heads * self.size);
            (o, out) = out.split_at_mut(length * self.width());
            jobs.push((v, w, g, o));
        }
        jobs.into_par_iter()
            .for_each(|(v, w, g, o)| vjp_example(*self, v, w, g, o));
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;

    /// The definition, in f64, one number at a time.
    fn reference(shape: Attention, rows: &Rows, values: &[f32]) -> Vec<f64> {
        let (size, width) = (shape.size, shape.width());
        let mut out = Vec::new();
        let mut start = 0;
        for &length in rows.lengths() {
            let at = |i: usize, offset: usize, d: usize| {
                f64::from(values[(start + i) * width + offset + d])
            };
            for i in 0..length {
                for head in 0..shape.heads {
                    let group = head / (shape.heads / shape.groups);
                    let kept = if shape.causal { i + 1 } else { length };
                    let weights: Vec<f64> = (0..kept)
                        .map(|j| {
                            (0..size)
                                .map(|d| at(i, head * size, d) * at(j, shape.key(group), d))
                                .sum::<f64>()
                        })
                        .map(|s| libm::exp(s * f64::from(shape.scale)))
                        .collect();
                    let total: f64 = weights.iter().sum();
                    for d in 0..size {
                        let c = (0..kept)
                            .map(|j| weights[j] * at(j, shape.value(group), d))
                            .sum::<f64>();
                        out.push(c / total);
                    }
                }
            }
            start += length;
        }
        out
    }

    fn check(shape: Attention) {
        let width = 19;
        let mask: Vec<f32> = [19, 1, 7]
            .iter()
            .flat_map(|&l| (0..width).map(move |i| f32::from(u8::from(i < l))))
            .collect();
        let mask = Tensor::from_vec(mask, (3, width), &Device::Cpu).expect("a mask");
        let rows = Rows::from_mask(&mask).expect("rows");
        let values: Vec<f32> = (0..27 * shape.width())
            .map(|i| (i as f32 * 0.61).sin())
            .collect();
        let mut out = vec![0.0; 27 * shape.heads * shape.size];
        let mut weights = vec![0.0; shape.weights(&rows)];
        shape.forward(&rows, &values, &mut out, Some(&mut weights));
        for (got, want) in out.iter().zip(reference(shape, &rows, &values)) {
            assert!((f64::from(*got) - want).abs() < 2e-6, "{got} {want}");
        }
        let grad: Vec<f32> = (0..out.len()).map(|i| (i as f32 * 0.37).cos()).collect();
        let mut back = vec![0.0; values.len()];
        shape.vjp(&rows, &values, &weights, &grad, &mut back);
        let loss = |values: &[f32]| -> f64 {
            reference(shape, &rows, values)
                .iter()
                .zip(&grad)
                .map(|(c, g)| c * f64::from(*g))
                .sum()
        };
        for i in (0..values.len()).step_by(values.len() / 40) {
            let (mut up, mut down) = (values.clone(), values.clone());
            up[i] += 1e-3;
            down[i] -= 1e-3;
            let slope = (loss(&up) - loss(&down)) / f64::from(up[i] - down[i]);
            assert!(
                (slope - f64::from(back[i])).abs() < 2e-5,
                "{i}: {slope} and {}",
                back[i]
            );
        }
    }

    #[test]
    fn attention_and_its_gradient_agree_with_the_definition() {
        check(Attention {
            heads: 2,
            groups: 2,
            size: 16,
            causal: false,
            scale: 1.0 / 16_f32.sqrt(),
        });
        check(Attention {
            heads: 3,
            groups: 3,
            size: 6,
            causal: false,
            scale: 0.3,
        });
    }

    #[test]
    fn causal_grouped_attention_and_its_gradient_agree_with_the_definition() {
        check(Attention {
            heads: 4,
            groups: 2,
            size: 20,
            causal: true,
            scale: 1.0 / 20_f32.sqrt(),
        });
        check(Attention {
            heads: 3,
            groups: 1,
            size: 32,
            causal: true,
            scale: 1.0 / 32_f32.sqrt(),
        });
    }

    #[test]
    fn the_end_of_a_sequence_attends_as_in_the_whole() {
        let shape = Attention {
            heads: 4,
            groups: 2,
            size: 20,
            causal: true,
            scale: 0.2,
        };
        const ALL: usize = 2 * BLOCK + 37;
        let rows = Rows::continuing(0, ALL);
        let values: Vec<f32> = (0..ALL * shape.width())
            .map(|i| (i as f32 * 0.61).sin())
            .collect();
        let mut whole = vec![0.0; ALL * shape.heads * shape.size];
        let mut weights = vec![0.0; shape.weights(&rows)];
        shape.forward(&rows, &values, &mut whole, Some(&mut weights));
        let mut without = vec![0.0; whole.len()];
        shape.forward(&rows, &values, &mut without, None);
        assert_eq!(without, whole);
        let keys_values: Vec<f32> = values
            .chunks_exact(shape.width())
            .flat_map(|row| &row[shape.key(0)..])
            .copied()
            .collect();
        for count in [1, 5, BLOCK + 3, ALL] {
            let mut end = vec![0.0; count * shape.heads * shape.size];
            let last = &values[(ALL - count) * shape.width()..];
            shape.extend(last, &keys_values, &mut end);
            for (got, want) in end.iter().zip(&whole[whole.len() - end.len()..]) {
                assert!((got - want).abs() < 1e-6, "{got} {want}");
            }
        }
    }
}
