//! A frozen matrix: x·Wᵀ forwards, dy·W back.

use std::borrow::Cow;

use candle_core::{DType, Tensor};

use super::weights::Weights;
use crate::error::Result;

/// W `[out, in]`, as stored (f32, bf16 or f16); arithmetic is f32.
pub(super) struct Linear {
    weight: Tensor,
    /// Wᵀ as it lies, `[in, out]`. A matrix whose rows run along the sum is rearranged before
    /// every product, which over the thirty rows of one record takes longer than the product;
    /// of a small model there is room for both.
    transposed: Option<Tensor>,
}

impl Linear {
    /// Without a second copy.
    pub(super) fn new(weight: Tensor) -> Self {
        Self {
            weight,
            transposed: None,
        }
    }

    /// The matrix of this name.
    pub(super) fn load(weights: &Weights, name: &str, out: usize, width: usize) -> Result<Self> {
        Self::stacked(weights, &[(name.to_owned(), out)], width)
    }

    /// Matrices `[outᵢ, in]` one below the other.
    pub(super) fn stacked(
        weights: &Weights,
        parts: &[(String, usize)],
        width: usize,
    ) -> Result<Self> {
        let weight = weights.stacked(parts, width)?;
        let copies = weights.are_small() && weight.dtype() == DType::F32;
        let transposed = copies.then(|| weight.t()?.contiguous()).transpose()?;
        Ok(Self { weight, transposed })
    }

    /// Half-precision weights are widened for one product at a time: a layer's worth of f32,
    /// never a model's.
    fn weight(&self) -> Result<Cow<'_, Tensor>> {
        Ok(match self.weight.dtype() {
            DType::F32 => Cow::Borrowed(&self.weight),
            _ => Cow::Owned(self.weight.to_dtype(DType::F32)?),
        })
    }

    /// `[N, in]` → x·Wᵀ `[N, out]`, no bias.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(match &self.transposed {
            Some(transposed) => x.matmul(transposed)?,
            None => x.matmul(&self.weight()?.t()?)?,
        })
    }

    /// `[N, out]` → dy·W `[N, in]`.
    pub(super) fn vjp(&self, grad: &Tensor) -> Result<Tensor> {
        Ok(grad.matmul(self.weight()?.as_ref())?)
    }
}
