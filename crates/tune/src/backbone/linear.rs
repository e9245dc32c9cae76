//! A frozen matrix: x·Wᵀ forwards, dy·W back.

use std::borrow::Cow;

use candle_core::{DType, Tensor};

use crate::error::Result;

/// W `[out, in]`, as stored (f32, bf16 or f16); arithmetic is f32.
pub(super) struct Linear(Tensor);

impl Linear {
    pub(super) fn new(weight: Tensor) -> Self {
        Self(weight)
    }

    /// Half-precision weights are widened for one product at a time: a layer's worth of f32,
    /// never a model's.
    fn weight(&self) -> Result<Cow<'_, Tensor>> {
        Ok(match self.0.dtype() {
            DType::F32 => Cow::Borrowed(&self.0),
            _ => Cow::Owned(self.0.to_dtype(DType::F32)?),
        })
    }

    /// `[N, in]` → x·Wᵀ `[N, out]`, no bias.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        Ok(x.matmul(&self.weight()?.t()?)?)
    }

    /// `[N, out]` → dy·W `[N, in]`.
    pub(super) fn vjp(&self, grad: &Tensor) -> Result<Tensor> {
        Ok(grad.matmul(self.weight()?.as_ref())?)
    }
}
