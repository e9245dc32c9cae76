//! [`Operations`] by this crate's own kernels, in place where they may: the CPU.

use candle_core::Tensor;

use super::frozen::Pass;
use super::kernels::activation::{Gelu, bias_gelu, multiply, swiglu, swiglu_vjp};
use super::kernels::attention::Attention;
use super::kernels::norm;
use super::kernels::rope::Rope;
use super::kernels::softmax::{log_softmax_vjp, log_sum_exp};
use super::kernels::{add, add_bias};
use super::operations::{LayerNorm, Operations, RmsNorm};
use super::rows::Rows;
use crate::error::Result;
use crate::tensors::{floats, fresh, update};

pub(super) struct Vectorised;

/// Runs `$body` with the numbers of tensors.
macro_rules! with_floats {
    ($($name:ident = $tensor:expr),+ => $body:expr) => {{
        $(let $name = $tensor.storage_and_layout();)+
        $(let $name = floats(&$name.0, $name.1)?;)+
        $body
    }};
}

impl Operations for Vectorised {
    fn add(&self, x: Tensor, y: &Tensor) -> Result<Tensor> {
        with_floats!(y = y => update(&x, |x| add(x, y)))?;
        Ok(x)
    }

    fn add_bias(&self, x: Tensor, bias: &Tensor) -> Result<Tensor> {
        with_floats!(bias = bias => update(&x, |x| add_bias(x, bias)))?;
        Ok(x)
    }

    fn add_positions(&self, x: &Tensor, table: &Tensor, rows: &Rows) -> Result<Tensor> {
        let (count, width) = x.dims2()?;
        with_floats!(values = x, table = table => fresh(count, width, x, |out| {
            let places = out.chunks_exact_mut(width).zip(values.chunks_exact(width));
            for ((out, value), position) in places.zip(rows.positions()) {
                let place = &table[position * width..(position + 1) * width];
                for ((out, value), place) in out.iter_mut().zip(value).zip(place) {
                    *out = value + place;
                }
            }
        }))
    }

    fn multiply(&self, x: Tensor, y: &Tensor) -> Result<Tensor> {
        with_floats!(y = y => update(&x, |x| multiply(x, y)))?;
        Ok(x)
    }

    fn tanh(&self, x: Tensor) -> Result<Tensor> {
        update(&x, |x| x.iter_mut().for_each(|x| *x = libm::tanhf(*x)))?;
        Ok(x)
    }

    fn layer_norm(&self, norm: &LayerNorm, x: Tensor) -> Result<(Tensor, Tensor, Tensor)> {
        let (count, width) = x.dims2()?;
        let mut scales = vec![0f32; count];
        let y = with_floats!(gamma = norm.gamma, beta = norm.beta => {
            let norm = norm::LayerNorm { gamma, beta, epsilon: norm.epsilon };
            let mut out = vec![0f32; count * width];
            update(&x, |x| norm.forward(x, &mut scales, &mut out))?;
            Tensor::from_vec(out, (count, width), x.device())?
        });
        let scales = Tensor::from_vec(scales, (count, 1), x.device())?;
        Ok((y, x, scales))
    }

    fn layer_norm_vjp(
        &self,
        norm: &LayerNorm,
        normed: &Tensor,
        scales: &Tensor,
        grad: &Tensor,
    ) -> Result<Tensor> {
        let (count, width) = grad.dims2()?;
        with_floats!(gamma = norm.gamma, beta = norm.beta, n = normed, s = scales, g = grad => {
            let norm = norm::LayerNorm { gamma, beta, epsilon: norm.epsilon };
            fresh(count, width, grad, |out| norm.vjp(n, s, g, out))
        })
    }

    fn rms_norm(&self, norm: &RmsNorm, x: &Tensor) -> Result<(Tensor, Tensor)> {
        let (count, width) = x.dims2()?;
        let mut scales = vec![0f32; count];
        let y = with_floats!(gamma = norm.gamma, values = x => {
            let norm = norm::RmsNorm { gamma, epsilon: norm.epsilon };
            fresh(count, width, x, |out| norm.forward(values, &mut scales, out))?
        });
        Ok((y, Tensor::from_vec(scales, (count, 1), x.device())?))
    }

    fn add_rms_norm_vjp(
        &self,
        norm: &RmsNorm,
        x: &Tensor,
        scales: &Tensor,
        grad: &Tensor,
        sum: Tensor,
    ) -> Result<Tensor> {
        with_floats!(gamma = norm.gamma, x = x, s = scales, g = grad => {
            let norm = norm::RmsNorm { gamma, epsilon: norm.epsilon };
            update(&sum, |sum| norm.add_vjp(x, s, g, sum))
        })?;
        Ok(sum)
    }

    fn rotate(
        &self,
        rope: &Rope,
        shape: &Attention,
        qkv: Tensor,
        rows: &Rows,
        turn: f32,
    ) -> Result<Tensor> {
        let (width, heads) = (shape.width(), shape.heads + shape.groups);
        update(&qkv, |qkv| rope.rotate(qkv, width, heads, rows, turn))?;
        Ok(qkv)
    }

    fn attend(
        &self,
        shape: &Attention,
        qkv: &Tensor,
        rows: &Rows,
        pass: &mut Pass<'_>,
    ) -> Result<(Tensor, Tensor)> {
        let (count, across) = (qkv.dims2()?.0, shape.heads * shape.size);
        let (mut weights, keeps) = (Vec::new(), pass.keeps());
        let context = with_floats!(values = qkv => {
            let past = match pass {
                Pass::Extend(past) => Some(past.append(shape, values)?),
                _ => None,
            };
            fresh(count, across, qkv, |out| match past {
                Some(past) => shape.extend(values, past, out),
                None if keeps => {
                    weights = vec![0f32; shape.weights(rows)];
                    shape.forward(rows, values, out, Some(&mut weights));
                }
                None => shape.forward(rows, values, out, None),
            })
        })?;
        let length = weights.len();
        Ok((context, Tensor::from_vec(weights, length, qkv.device())?))
    }

    fn attend_vjp(
        &self,
        shape: &Attention,
        qkv: &Tensor,
        weights: &Tensor,
        grad: &Tensor,
        rows: &Rows,
    ) -> Result<Tensor> {
        let (count, width) = qkv.dims2()?;
        with_floats!(q = qkv, w = weights, g = grad =>
            fresh(count, width, qkv, |out| shape.vjp(rows, q, w, g, out)))
    }

    fn gelu(
        &self,
        gelu: Gelu,
        x: Tensor,
        bias: &Tensor,
        wanted: bool,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let mut slope = wanted.then(|| vec![0f32; x.elem_count()]);
        with_floats!(bias = bias => update(&x, |x| bias_gelu(gelu, x, slope.as_deref_mut(), bias)))?;
        let slope = slope.map(|slope| Tensor::from_vec(slope, x.shape(), x.device()));
        Ok((x, slope.transpose()?))
    }

    fn swiglu(&self, gated: Tensor) -> Result<(Tensor, Tensor)> {
        let (count, both) = gated.dims2()?;
        let inner = both / 2;
        let mut out = vec![0f32; count * inner];
        update(&gated, |gated| swiglu(gated, &mut out, inner))?;
        Ok((
            Tensor::from_vec(out, (count, inner), gated.device())?,
            gated,
        ))
    }

    fn swiglu_vjp(&self, slopes: &Tensor, grad: &Tensor) -> Result<Tensor> {
        let (count, inner) = grad.dims2()?;
        with_floats!(s = slopes, g = grad =>
            fresh(count, 2 * inner, grad, |out| swiglu_vjp(s, g, out, inner)))
    }

    fn log_likelihood(&self, logits: &Tensor, columns: &[u32]) -> Result<(Tensor, Tensor)> {
        let (rows, width) = logits.dims2()?;
        let mut sums = vec![[0f32; 2]; rows];
        let picked: Vec<f32> = with_floats!(values = logits => {
            log_sum_exp(values, width, &mut sums);
            let picked = values.chunks_exact(width).zip(columns).zip(&sums);
            picked
                .map(|((row, column), [top, sum])| (row[*column as usize] - top) - sum)
                .collect()
        });
        let device = logits.device();
        let sums = Tensor::from_vec(sums.into_flattened(), (rows, 2), device)?;
        Ok((Tensor::from_vec(picked, rows, device)?, sums))
    }

    fn log_likelihood_vjp(
        &self,
        logits: &Tensor,
        columns: &[u32],
        sums: &Tensor,
        grad: &Tensor,
    ) -> Result<Tensor> {
        let (rows, width) = logits.dims2()?;
        with_floats!(x = logits, s = sums, g = grad => fresh(rows, width, logits, |out| {
            log_softmax_vjp(x, s.as_chunks().0, columns, g, out);
        }))
    }
}
