//! Steps that layers of several architectures have in common, on packed rows.

use candle_core::Tensor;

use super::frozen::Pass;
use super::kernels::activation::{Gelu, bias_gelu, multiply};
use super::kernels::add;
use super::kernels::attention::Attention;
use super::kernels::norm::LayerNorm;
use super::rows::Rows;
use super::tensors::{floats, fresh, update};
use super::weights::Weights;
use crate::error::Result;

/// x ← x + y.
pub(super) fn add_to(x: &Tensor, y: &Tensor) -> Result<()> {
    let (y, layout) = y.storage_and_layout();
    let y = floats(&y, layout)?;
    update(x, |x| add(x, y))
}

/// The layer norm `name`.weight, `name`.bias of `width` numbers; `gamma` and `beta` in BERTs that came from TensorFlow.
pub(super) fn layer_norm(
    weights: &Weights,
    name: &str,
    width: usize,
    epsilon: f32,
) -> Result<LayerNorm> {
    let (gamma, beta) = match weights.has(&format!("{name}.gamma")) {
        true => ("gamma", "beta"),
        false => ("weight", "bias"),
    };
    Ok(LayerNorm {
        gamma: weights.vector(&format!("{name}.{gamma}"), width)?,
        beta: weights.vector(&format!("{name}.{beta}"), width)?,
        epsilon,
    })
}

/// y = LayerNorm(x) of rows that are no longer needed: → y, x̂, scales `[N, 1]`.
pub(super) fn normalise(norm: &LayerNorm, x: Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let (count, width) = x.dims2()?;
    let mut scales = vec![0f32; count];
    let mut out = vec![0f32; count * width];
    update(&x, |x| norm.forward(x, &mut scales, &mut out))?;
    let device = x.device();
    let y = Tensor::from_vec(out, (count, width), device)?;
    let scales = Tensor::from_vec(scales, (count, 1), device)?;
    Ok((y, x, scales))
}

/// dx of [`normalise`], from the x̂ and the scales it left.
pub(super) fn normalise_vjp(
    norm: &LayerNorm,
    normed: &Tensor,
    scales: &Tensor,
    grad: &Tensor,
) -> Result<Tensor> {
    let (count, width) = grad.dims2()?;
    let (n, nl) = normed.storage_and_layout();
    let (s, sl) = scales.storage_and_layout();
    let (g, gl) = grad.storage_and_layout();
    let (n, s, g) = (floats(&n, nl)?, floats(&s, sl)?, floats(&g, gl)?);
    fresh(count, width, grad, |out| norm.vjp(n, s, g, out))
}

/// c = softmax(s·q·kᵀ)·v of rows q, k, v side by side: → c `[N, h·D]`, and the weights P, which
/// are empty where the rows extend a sequence.
pub(super) fn attend(
    shape: &Attention,
    qkv: &Tensor,
    rows: &Rows,
    pass: &mut Pass<'_>,
) -> Result<(Tensor, Tensor)> {
    let (count, across) = (qkv.dims2()?.0, shape.heads * shape.size);
    let (storage, layout) = qkv.storage_and_layout();
    let values = floats(&storage, layout)?;
    let mut weights = Vec::new();
    let context = fresh(count, across, qkv, |out| {
        if let Pass::Extend(past) = pass {
            shape.extend(values, past.append(shape, values), out);
        } else {
            weights = vec![0f32; shape.weights(rows)];
            shape.forward(rows, values, out, &mut weights);
        }
    })?;
    let length = weights.len();
    Ok((context, Tensor::from_vec(weights, length, qkv.device())?))
}

/// The gradient for q, k, v from that for c and what [`attend`] read and left.
pub(super) fn attend_vjp(
    shape: &Attention,
    qkv: &Tensor,
    weights: &Tensor,
    grad: &Tensor,
    rows: &Rows,
) -> Result<Tensor> {
    let (count, width) = qkv.dims2()?;
    let (q, ql) = qkv.storage_and_layout();
    let (w, wl) = weights.storage_and_layout();
    let (g, gl) = grad.storage_and_layout();
    let (q, w, g) = (floats(&q, ql)?, floats(&w, wl)?, floats(&g, gl)?);
    fresh(count, width, qkv, |out| shape.vjp(rows, q, w, g, out))
}

/// x ← gelu(x + b): → gelu′(x + b), where a backward pass will want it.
pub(super) fn activate(
    gelu: Gelu,
    x: &Tensor,
    bias: &[f32],
    pass: &Pass<'_>,
) -> Result<Option<Tensor>> {
    let mut slope = pass.keeps().then(|| vec![0f32; x.elem_count()]);
    update(x, |x| bias_gelu(gelu, x, slope.as_deref_mut(), bias))?;
    let slope = slope.map(|slope| Tensor::from_vec(slope, x.shape(), x.device()));
    Ok(slope.transpose()?)
}

/// x ← x ∘ y.
pub(super) fn multiply_by(x: &Tensor, y: &Tensor) -> Result<()> {
    let (y, layout) = y.storage_and_layout();
    let y = floats(&y, layout)?;
    update(x, |x| multiply(x, y))
}
