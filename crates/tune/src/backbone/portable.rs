//! [`Operations`] by candle's own: any device.
//!
//! Nothing is overwritten, and every step is a few launches where a kernel would be one.

use std::f32::consts::FRAC_1_SQRT_2;

use candle_core::{D, Tensor};

use super::frozen::Pass;
use super::kernels::activation::Gelu;
use super::kernels::attention::Attention;
use super::kernels::rope::Rope;
use super::operations::{LayerNorm, Operations, RmsNorm};
use super::rows::Rows;
use crate::error::Result;

pub(super) struct Portable;

impl Operations for Portable {
    fn add(&self, x: Tensor, y: &Tensor) -> Result<Tensor> {
        Ok((x + y)?)
    }

    fn add_bias(&self, x: Tensor, bias: &Tensor) -> Result<Tensor> {
        Ok(x.broadcast_add(bias)?)
    }

    fn add_positions(&self, x: &Tensor, table: &Tensor, rows: &Rows) -> Result<Tensor> {
        Ok((x + table.index_select(&rows.places(x.device())?, 0)?)?)
    }

    fn multiply(&self, x: Tensor, y: &Tensor) -> Result<Tensor> {
        Ok((x * y)?)
    }

    fn tanh(&self, x: Tensor) -> Result<Tensor> {
        Ok(x.tanh()?)
    }

    fn layer_norm(&self, norm: &LayerNorm, x: Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let centred = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
        let scales = inverse_root(&centred, norm.epsilon)?;
        let normed = centred.broadcast_mul(&scales)?;
        let y = normed.broadcast_mul(&norm.gamma)?;
        Ok((y.broadcast_add(&norm.beta)?, normed, scales))
    }

    fn layer_norm_vjp(
        &self,
        norm: &LayerNorm,
        normed: &Tensor,
        scales: &Tensor,
        grad: &Tensor,
    ) -> Result<Tensor> {
        let grad = grad.broadcast_mul(&norm.gamma)?;
        let along = (&grad * normed)?.mean_keepdim(D::Minus1)?;
        let centred = grad.broadcast_sub(&grad.mean_keepdim(D::Minus1)?)?;
        let back = (centred - normed.broadcast_mul(&along)?)?;
        Ok(back.broadcast_mul(scales)?)
    }

    fn rms_norm(&self, norm: &RmsNorm, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let scales = inverse_root(x, norm.epsilon)?;
        let y = x.broadcast_mul(&scales)?.broadcast_mul(&norm.gamma)?;
        Ok((y, scales))
    }

    fn add_rms_norm_vjp(
        &self,
        norm: &RmsNorm,
        x: &Tensor,
        scales: &Tensor,
        grad: &Tensor,
        sum: Tensor,
    ) -> Result<Tensor> {
        let grad = grad.broadcast_mul(&norm.gamma)?;
        let normed = x.broadcast_mul(scales)?;
        let along = (&grad * &normed)?.mean_keepdim(D::Minus1)?;
        let back = (grad - normed.broadcast_mul(&along)?)?;
        Ok((sum + back.broadcast_mul(scales)?)?)
    }

    fn rotate(
        &self,
        rope: &Rope,
        shape: &Attention,
        qkv: Tensor,
        rows: &Rows,
        turn: f32,
    ) -> Result<Tensor> {
        let half = rope.half();
        if half == 0 {
            return Ok(qkv);
        }
        let (count, width) = qkv.dims2()?;
        let (size, turned) = (shape.size, shape.heads + shape.groups);
        let (cos, sin) = rope.tensors(rows.reach(), qkv.device())?;
        let places = rows.places(qkv.device())?;
        let cos = cos.index_select(&places, 0)?.unsqueeze(1)?;
        let sin = sin.index_select(&places, 0)?.affine(turn.into(), 0.0)?;
        let sin = sin.unsqueeze(1)?;
        let heads = qkv.reshape((count, width / size, size))?;
        let rotated = heads.narrow(1, 0, turned)?;
        let (a, b) = (rotated.narrow(2, 0, half)?, rotated.narrow(2, half, half)?);
        let first = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let second = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let rest = rotated.narrow(2, 2 * half, size - 2 * half)?;
        let rotated = Tensor::cat(&[first, second, rest], 2)?;
        let values = heads.narrow(1, turned, shape.groups)?;
        Ok(Tensor::cat(&[rotated, values], 1)?.reshape((count, width))?)
    }

    fn attend(
        &self,
        shape: &Attention,
        qkv: &Tensor,
        rows: &Rows,
        pass: &mut Pass<'_>,
    ) -> Result<(Tensor, Tensor)> {
        if let Pass::Extend(past) = pass {
            let (count, own) = (qkv.dims2()?.0, shape.heads * shape.size);
            let seen = past.append_rows(&qkv.narrow(1, own, shape.shared())?.contiguous()?)?;
            let length = seen.dims2()?.0;
            let queries = split(&qkv.narrow(1, 0, own)?.unsqueeze(0)?, shape.size)?;
            let (keys, values) = shared(shape, &seen.unsqueeze(0)?)?;
            let mask = match shape.causal {
                true => Some(not_later(count, length, qkv.device())?),
                false => None,
            };
            let weights = weights(shape, &queries, &keys, mask.as_ref())?;
            let context = join(&weights.matmul(&values)?)?.squeeze(0)?;
            return Ok((context, Tensor::zeros(0, qkv.dtype(), qkv.device())?));
        }
        let (queries, keys, values) = heads(shape, &rows.unpack(qkv)?)?;
        let mask = rows.mask(shape.causal, qkv.device())?;
        let weights = weights(shape, &queries, &keys, Some(&mask))?;
        let context = rows.pack(&join(&weights.matmul(&values)?)?)?;
        Ok((context, weights))
    }

    fn attend_vjp(
        &self,
        shape: &Attention,
        qkv: &Tensor,
        weights: &Tensor,
        grad: &Tensor,
        rows: &Rows,
    ) -> Result<Tensor> {
        let (queries, keys, values) = heads(shape, &rows.unpack(qkv)?)?;
        let d_context = split(&rows.unpack(grad)?, shape.size)?;
        let d_values = weights.transpose(2, 3)?.matmul(&d_context)?;
        let d_weights = d_context.matmul(&values.transpose(2, 3)?)?;
        let along = (&d_weights * weights)?.sum_keepdim(D::Minus1)?;
        let d_scores = (d_weights.broadcast_sub(&along)? * weights)?;
        let d_scores = d_scores.affine(shape.scale.into(), 0.0)?;
        let d_queries = d_scores.matmul(&keys)?;
        let d_keys = d_scores.transpose(2, 3)?.matmul(&queries)?;
        let d_qkv = [
            join(&d_queries)?,
            join(&summed(shape, &d_keys)?)?,
            join(&summed(shape, &d_values)?)?,
        ];
        rows.pack(&Tensor::cat(&d_qkv, 2)?)
    }

    fn gelu(
        &self,
        gelu: Gelu,
        x: Tensor,
        bias: &Tensor,
        wanted: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let x = x.broadcast_add(bias)?;
        // gelu(x) = x·g(x) and gelu′(x) = g(x) + x·g′(x)
        let (gate, slope) = match gelu {
            Gelu::Erf => {
                let gate = (&x * f64::from(FRAC_1_SQRT_2))?.erf()?.affine(0.5, 0.5)?;
                let slope = || x.sqr()?.affine(-0.5, 0.0)?.exp()?.affine(BELL, 0.0);
                (gate, wanted.then(slope).transpose()?)
            }
            Gelu::Tanh => {
                let square = x.sqr()?;
                let twice = (square.affine(TWICE * CUBIC, TWICE)? * &x)?;
                let gate = sigmoid(&twice)?;
                let slope = || {
                    let inner = square.affine(3.0 * TWICE * CUBIC, TWICE)?;
                    &inner * (&gate * gate.affine(-1.0, 1.0)?)?
                };
                let slope = wanted.then(slope).transpose()?;
                (gate, slope)
            }
        };
        let slope = slope.map(|slope| (slope * &x)? + &gate).transpose()?;
        Ok(((x * gate)?, slope))
    }

    fn swiglu(&self, gated: Tensor) -> Result<(Tensor, Tensor)> {
        let inner = gated.dims2()?.1 / 2;
        let gate = gated.narrow(1, 0, inner)?.contiguous()?;
        let up = gated.narrow(1, inner, inner)?.contiguous()?;
        let sigmoid = sigmoid(&gate)?;
        let silu = (&gate * &sigmoid)?;
        // silu′ = σ·(1 + g·(1 − σ))
        let slope = (&sigmoid * ((gate * sigmoid.affine(-1.0, 1.0)?)? + 1.0)?)?;
        let y = (&silu * &up)?;
        Ok((y, Tensor::cat(&[(slope * up)?, silu], 1)?))
    }

    fn swiglu_vjp(&self, slopes: &Tensor, grad: &Tensor) -> Result<Tensor> {
        Ok((Tensor::cat(&[grad, grad], 1)? * slopes)?)
    }

    fn log_likelihood(&self, logits: &Tensor, columns: &[u32]) -> Result<(Tensor, Tensor)> {
        let top = logits.max_keepdim(D::Minus1)?;
        let sum = logits.broadcast_sub(&top)?.exp()?.sum_keepdim(D::Minus1)?;
        let sum = sum.log()?;
        let columns = Tensor::new(columns, logits.device())?.unsqueeze(1)?;
        let picked = ((logits.gather(&columns, 1)? - &top)? - &sum)?;
        Ok((picked.squeeze(1)?, Tensor::cat(&[top, sum], 1)?))
    }

    fn log_likelihood_vjp(
        &self,
        logits: &Tensor,
        columns: &[u32],
        sums: &Tensor,
        grad: &Tensor,
    ) -> Result<Tensor> {
        let (top, sum) = (sums.narrow(1, 0, 1)?, sums.narrow(1, 1, 1)?);
        let log = logits.broadcast_sub(&top)?.broadcast_sub(&sum)?;
        let grad = grad.unsqueeze(1)?.contiguous()?;
        let back = log.exp()?.broadcast_mul(&grad.neg()?)?;
        let columns = Tensor::new(columns, logits.device())?.unsqueeze(1)?;
        Ok(back.scatter_add(&columns, &grad, 1)?)
    }
}

const BELL: f64 = 0.398_942_280_401_432_7; // 1/√(2π)
const TWICE: f64 = 1.595_769_121_605_730_7; // 2√(2/π)
const CUBIC: f64 = 0.044_715;

/// 1/√(mean x² + ε), `[N, 1]`.
fn inverse_root(x: &Tensor, epsilon: f32) -> Result<Tensor> {
    let mean = x.sqr()?.mean_keepdim(D::Minus1)?;
    Ok((mean + f64::from(epsilon))?.sqrt()?.recip()?)
}

fn sigmoid(x: &Tensor) -> candle_core::Result<Tensor> {
    (x.neg()?.exp()? + 1.0)?.recip()
}

/// `[B, T, n·D]` → `[B, n, T, D]`.
fn split(rows: &Tensor, size: usize) -> Result<Tensor> {
    let (batch, length, width) = rows.dims3()?;
    let heads = rows.reshape((batch, length, width / size, size))?;
    Ok(heads.transpose(1, 2)?.contiguous()?)
}

/// `[B, n, T, D]` → `[B, T, n·D]`.
fn join(heads: &Tensor) -> Result<Tensor> {
    Ok(heads.transpose(1, 2)?.flatten_from(2)?)
}

/// `[B, T, (h + 2g)·D]` → q, k, v, each `[B, h, T, D]`.
fn heads(shape: &Attention, qkv: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let own = shape.heads * shape.size;
    let queries = split(&qkv.narrow(2, 0, own)?, shape.size)?;
    let (keys, values) = shared(shape, &qkv.narrow(2, own, shape.shared())?)?;
    Ok((queries, keys, values))
}

/// `[B, L, 2g·D]` → k and v, each `[B, h, L, D]`: once for every head that shares them.
fn shared(shape: &Attention, rows: &Tensor) -> Result<(Tensor, Tensor)> {
    let half = shape.shared() / 2;
    let each = |start| -> Result<Tensor> {
        let heads = split(&rows.narrow(2, start, half)?, shape.size)?;
        let (batch, groups, length, size) = heads.dims4()?;
        let wide = (batch, groups, shape.heads / groups, length, size);
        let heads = heads.unsqueeze(2)?.broadcast_as(wide)?;
        Ok(heads.reshape((batch, shape.heads, length, size))?)
    };
    Ok((each(0)?, each(half)?))
}

/// `[B, h, T, D]` → `[B, g, T, D]`: the sum over those that share.
fn summed(shape: &Attention, heads: &Tensor) -> Result<Tensor> {
    let (batch, count, length, size) = heads.dims4()?;
    if count == shape.groups {
        return Ok(heads.clone());
    }
    let apart = (batch, shape.groups, count / shape.groups, length, size);
    Ok(heads.reshape(apart)?.sum(2)?)
}

/// P = softmax(s·q·kᵀ + mask), `[B, h, T, L]`.
fn weights(
    shape: &Attention,
    queries: &Tensor,
    keys: &Tensor,
    mask: Option<&Tensor>,
) -> Result<Tensor> {
    let scores = queries
        .affine(shape.scale.into(), 0.0)?
        .matmul(&keys.transpose(2, 3)?)?;
    let scores = match mask {
        Some(mask) => scores.broadcast_add(mask)?,
        None => scores,
    };
    let scores = scores.broadcast_sub(&scores.max_keepdim(D::Minus1)?)?;
    let powers = scores.exp()?;
    Ok(powers.broadcast_div(&powers.sum_keepdim(D::Minus1)?)?)
}

/// `[1, 1, count, length]`, −∞ where one of the last `count` of `length` positions would see a later
/// one.
pub(super) fn not_later(
    count: usize,
    length: usize,
    device: &candle_core::Device,
) -> Result<Tensor> {
    let past = length - count;
    let rows = (0..count).flat_map(|i| {
        (0..length).map(move |j| match j <= past + i {
            true => 0.0,
            false => f32::NEG_INFINITY,
        })
    });
    let rows: Vec<f32> = rows.collect();
    Ok(Tensor::from_vec(rows, (1, 1, count, length), device)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::backbone::frozen::Kept;
    use crate::backbone::vectorised::Vectorised;

    fn wave(rows: usize, width: usize, step: f64) -> Tensor {
        let values = Tensor::arange(0f32, (rows * width) as f32, &Device::Cpu).and_then(|t| {
            t.affine(step, 0.3)?
                .sin()?
                .affine(3.0, 1.0)?
                .reshape((rows, width))
        });
        values.expect("rows")
    }

    /// To a few units in the last place of the largest.
    fn close(got: &Tensor, want: &Tensor) {
        assert_eq!(got.dims(), want.dims());
        let top = |t: candle_core::Result<Tensor>| {
            t.and_then(|t| t.abs()?.flatten_all()?.max(0)?.to_scalar::<f32>())
                .expect("numbers")
        };
        let (off, largest) = (top(got - want), top(Ok(want.clone())));
        assert!(off < 2e-6 * largest, "{off} of {largest}");
    }

    /// What the parity tests, which hold whole models to transformers, do not come across.
    #[test]
    fn both_ways_to_compute_likelihoods_agree() {
        let (logits, columns) = (wave(3, 70, 0.7), [69, 0, 5]);
        let logits = (logits * 40.0).expect("large logits");
        let grad = Tensor::new(&[1f32, -0.5, 2.0], &Device::Cpu).expect("a gradient");
        let both: [&dyn Operations; 2] = [&Portable, &Vectorised];
        let [(got, back), (want, want_back)] = both.map(|operations| {
            let (y, sums) = operations.log_likelihood(&logits, &columns).expect("y");
            let back = operations.log_likelihood_vjp(&logits, &columns, &sums, &grad);
            (y, back.expect("dx"))
        });
        close(&got, &want);
        close(&back, &want_back);
    }

    #[test]
    fn a_key_head_shared_by_two_gets_both_gradients() {
        let shape = Attention {
            heads: 4,
            groups: 2,
            size: 6,
            causal: true,
            scale: 0.05,
        };
        let mask = Tensor::new(&[[1f32, 1.0, 0.0], [1.0, 1.0, 1.0]], &Device::Cpu).expect("mask");
        let rows = Rows::from_mask(&mask).expect("rows");
        let (qkv, grad) = (wave(5, shape.width(), 0.31), wave(5, 24, 0.57));
        let both: [&dyn Operations; 2] = [&Portable, &Vectorised];
        let [(got, back), (want, want_back)] = both.map(|operations| {
            let mut kept = Kept::default();
            let mut pass = Pass::Keep(&mut kept);
            let (c, weights) = operations
                .attend(&shape, &qkv, &rows, &mut pass)
                .expect("c");
            let back = operations.attend_vjp(&shape, &qkv, &weights, &grad, &rows);
            (c, back.expect("a gradient"))
        });
        close(&got, &want);
        close(&back, &want_back);
        assert_eq!(got.dtype(), DType::F32);
    }
}
