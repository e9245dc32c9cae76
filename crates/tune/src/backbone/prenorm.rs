//! The layer of GPT-2 and GPT-NeoX: layer norms before attention and before a GELU
//! feed-forward part, learned or rotary positions, one residual after the other or both at
//! once.

use std::sync::Arc;

use candle_core::Tensor;

use super::frozen::{Block, Kept, Pass};
use super::kernels::activation::Gelu;
use super::kernels::attention::Attention;
use super::kernels::norm::LayerNorm;
use super::kernels::rope::Rope;
use super::linear::Linear;
use super::parts::{activate, add_to, attend, attend_vjp, multiply_by, normalise, normalise_vjp};
use super::rows::Rows;
use super::tensors::update;
use crate::error::Result;

/// a = x + Attention(RoPE(norm₁(x)·Wqkvᵀ + b))·Wₒᵀ + bₒ;
/// y = a + gelu(norm₂(z)·W₁ᵀ + b₁)·W₂ᵀ + b₂ with z = x where the residuals are `parallel`
/// (Wang and Komatsuzaki, GPT-J, 2021), z = a where they are not.
pub(super) struct Layer {
    pub(super) attention: Attention,
    pub(super) rope: Option<Arc<Rope>>,
    pub(super) parallel: bool,
    pub(super) norm_attention: LayerNorm,
    pub(super) qkv: Linear,
    pub(super) out: Linear,
    pub(super) norm_inner: LayerNorm,
    pub(super) up: Linear,
    pub(super) up_bias: Vec<f32>,
    pub(super) gelu: Gelu,
    pub(super) down: Linear,
}

impl Layer {
    /// Rotates q and k, which lie side by side.
    fn rotate(&self, qkv: &Tensor, rows: &Rows, turn: f32) -> Result<()> {
        let (width, heads) = (self.attention.width(), 2 * self.attention.heads);
        match &self.rope {
            Some(rope) => update(qkv, |qkv| rope.rotate(qkv, width, heads, rows, turn)),
            None => Ok(()),
        }
    }
}

impl Block for Layer {
    fn forward(&self, x: &Tensor, rows: &Rows, mut pass: Pass<'_>) -> Result<Tensor> {
        let (y, normed, scales) = normalise(&self.norm_attention, x.copy()?)?;
        let qkv = self.qkv.forward(&y)?;
        drop(y);
        self.rotate(&qkv, rows, 1.0)?;
        let (context, weights) = attend(&self.attention, &qkv, rows, &mut pass)?;
        let middle = self.out.forward(&context)?;
        drop(context);
        add_to(&middle, x)?;

        let z = if self.parallel { x } else { &middle };
        let (y, mut normed_inner, scales_inner) = normalise(&self.norm_inner, z.copy()?)?;
        if self.parallel {
            normed_inner = normed.clone(); // the same numbers, kept once
        }
        let inner = self.up.forward(&y)?;
        drop(y);
        let slope = activate(self.gelu, &inner, &self.up_bias, &pass)?;
        let y = self.down.forward(&inner)?;
        add_to(&y, &middle)?;
        if let (Pass::Keep(kept), Some(slope)) = (pass, slope) {
            kept.put([
                normed,
                scales,
                qkv,
                weights,
                normed_inner,
                scales_inner,
                slope,
            ]);
        }
        Ok(y)
    }

    fn vjp(&self, kept: &Kept, grad: &Tensor, rows: &Rows) -> Result<Tensor> {
        let [
            normed,
            scales,
            qkv,
            weights,
            normed_inner,
            scales_inner,
            slope,
        ] = kept.get()?;
        let d_inner = self.down.vjp(grad)?;
        multiply_by(&d_inner, slope)?;
        let d_y = self.up.vjp(&d_inner)?;
        drop(d_inner);
        // The gradient for a, or for x without attention where the residuals are parallel.
        let d_sum = normalise_vjp(&self.norm_inner, normed_inner, scales_inner, &d_y)?;
        add_to(&d_sum, grad)?;

        let d_middle = if self.parallel { grad } else { &d_sum };
        let d_context = self.out.vjp(d_middle)?;
        let d_qkv = attend_vjp(&self.attention, qkv, weights, &d_context, rows)?;
        self.rotate(&d_qkv, rows, -1.0)?;
        let d_y = self.qkv.vjp(&d_qkv)?;
        let d_x = normalise_vjp(&self.norm_attention, normed, scales, &d_y)?;
        add_to(&d_x, &d_sum)?;
        Ok(d_x)
    }
}

/// The layer norm after the last layer.
pub(super) struct Norm(pub(super) LayerNorm);

impl Block for Norm {
    fn forward(&self, x: &Tensor, _: &Rows, pass: Pass<'_>) -> Result<Tensor> {
        let (y, normed, scales) = normalise(&self.0, x.copy()?)?;
        if let Pass::Keep(kept) = pass {
            kept.put([normed, scales]);
        }
        Ok(y)
    }

    fn vjp(&self, kept: &Kept, grad: &Tensor, _: &Rows) -> Result<Tensor> {
        let [normed, scales] = kept.get()?;
        normalise_vjp(&self.0, normed, scales, grad)
    }
}
