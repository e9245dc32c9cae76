//! The layer of GPT-2 and GPT-NeoX: layer norms before attention and before a GELU
//! feed-forward part, learned or rotary positions, one residual after the other or both at
//! once.

use std::sync::Arc;

use candle_core::Tensor;

use super::frozen::{Block, Kept, Pass};
use super::kernels::activation::Gelu;
use super::kernels::attention::Attention;
use super::kernels::rope::Rope;
use super::linear::Linear;
use super::operations::{LayerNorm, Operations};
use super::rows::Rows;
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
    pub(super) up_bias: Tensor,
    pub(super) gelu: Gelu,
    pub(super) down: Linear,
    pub(super) operations: &'static dyn Operations,
}

impl Layer {
    /// Rotates q and k, which lie side by side.
    fn rotate(&self, qkv: Tensor, rows: &Rows, turn: f32) -> Result<Tensor> {
        match &self.rope {
            Some(rope) => (self.operations).rotate(rope, &self.attention, qkv, rows, turn),
            None => Ok(qkv),
        }
    }
}

impl Block for Layer {
    fn forward(&self, x: &Tensor, rows: &Rows, mut pass: Pass<'_>) -> Result<Tensor> {
        let ops = self.operations;
        let (y, normed, scales) = ops.layer_norm(&self.norm_attention, x.copy()?)?;
        let qkv = self.rotate(self.qkv.forward(&y)?, rows, 1.0)?;
        drop(y);
        let (context, weights) = ops.attend(&self.attention, &qkv, rows, &mut pass)?;
        let middle = ops.add(self.out.forward(&context)?, x)?;
        drop(context);

        let z = if self.parallel { x } else { &middle };
        let (y, mut normed_inner, scales_inner) = ops.layer_norm(&self.norm_inner, z.copy()?)?;
        if self.parallel {
            normed_inner = normed.clone(); // the same numbers, kept once
        }
        let inner = self.up.forward(&y)?;
        drop(y);
        let (inner, slope) = ops.gelu(self.gelu, inner, &self.up_bias, pass.keeps())?;
        let y = ops.add(self.down.forward(&inner)?, &middle)?;
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
        let ops = self.operations;
        let d_inner = ops.multiply(self.down.vjp(grad)?, slope)?;
        let d_y = self.up.vjp(&d_inner)?;
        drop(d_inner);
        // The gradient for a, or for x without attention where the residuals are parallel.
        let d_z = ops.layer_norm_vjp(&self.norm_inner, normed_inner, scales_inner, &d_y)?;
        let d_sum = ops.add(d_z, grad)?;

        let d_middle = if self.parallel { grad } else { &d_sum };
        let d_context = self.out.vjp(d_middle)?;
        let d_qkv = ops.attend_vjp(&self.attention, qkv, weights, &d_context, rows)?;
        let d_y = self.qkv.vjp(&self.rotate(d_qkv, rows, -1.0)?)?;
        let d_x = ops.layer_norm_vjp(&self.norm_attention, normed, scales, &d_y)?;
        ops.add(d_x, &d_sum)
    }
}

/// The layer norm after the last layer.
pub(super) struct Norm(pub(super) LayerNorm, pub(super) &'static dyn Operations);

impl Block for Norm {
    fn forward(&self, x: &Tensor, _: &Rows, pass: Pass<'_>) -> Result<Tensor> {
        let (y, normed, scales) = self.1.layer_norm(&self.0, x.copy()?)?;
        if let Pass::Keep(kept) = pass {
            kept.put([normed, scales]);
        }
        Ok(y)
    }

    fn vjp(&self, kept: &Kept, grad: &Tensor, _: &Rows) -> Result<Tensor> {
        let [normed, scales] = kept.get()?;
        self.1.layer_norm_vjp(&self.0, normed, scales, grad)
    }
}
