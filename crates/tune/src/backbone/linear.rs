//! A frozen affine map: x·Wᵀ + b forwards, dy·W back.

use std::borrow::Cow;

use candle_core::{CpuStorage, DType, Storage, Tensor};

use super::kernels::row::{product, product_bf16};
use super::operations::Operations;
use super::weights::{Part, Weights};
use crate::error::Result;
use crate::tensors::floats;

/// W `[out, in]` or, as GPT-2 stores it, Wᵀ `[in, out]`, in the type it is stored in (f32, bf16
/// or f16). Arithmetic is f32; off the CPU, products with a matrix of bf16 round the rows to bf16
/// and sum in f32, as the hardware does.
pub(super) struct Linear {
    stored: Tensor,
    /// Whether what is stored is Wᵀ.
    input_first: bool,
    /// The other orientation as it lies. A matrix whose rows run along the sum is rearranged
    /// before every product, which over the thirty rows of one record takes longer than the
    /// product; of a small model there is room for both.
    copy: Option<Tensor>,
    bias: Option<Tensor>,
    operations: &'static dyn Operations,
}

impl Linear {
    /// W `[out, in]`, one of the `weights`, without a second copy.
    pub(super) fn new(weights: &Weights, stored: Tensor) -> Self {
        Self {
            stored,
            input_first: false,
            copy: None,
            bias: None,
            operations: weights.operations(),
        }
    }

    /// `name`.weight `[out, in]`, and `name`.bias where it is to be `biased`.
    pub(super) fn load(
        weights: &Weights,
        name: &str,
        (out, width): (usize, usize),
        biased: bool,
    ) -> Result<Self> {
        let whole = Part::whole(name.to_owned(), out);
        Self::stacked(weights, &[whole], width, biased)
    }

    /// Rows of matrices `[outᵢ, in]` one below the other.
    pub(super) fn stacked(
        weights: &Weights,
        parts: &[Part],
        width: usize,
        biased: bool,
    ) -> Result<Self> {
        let stored = weights.stacked(parts, width)?;
        let bias = biased.then(|| weights.biases(parts)).transpose()?;
        Self::keep(weights, stored, false, bias)
    }

    /// `name`.weight `[in, out]` and `name`.bias: GPT-2's `Conv1D`.
    pub(super) fn input_first(
        weights: &Weights,
        name: &str,
        (out, width): (usize, usize),
        biased: bool,
    ) -> Result<Self> {
        let bias = biased.then(|| weights.vector(&format!("{name}.bias"), out));
        let stored = weights.matrix(name, width, out)?;
        Self::keep(weights, stored, true, bias.transpose()?)
    }

    fn keep(
        weights: &Weights,
        stored: Tensor,
        input_first: bool,
        bias: Option<Tensor>,
    ) -> Result<Self> {
        let copies = weights.are_small() && stored.dtype() == DType::F32;
        let copy = copies.then(|| stored.t()?.contiguous()).transpose()?;
        Ok(Self {
            stored,
            input_first,
            copy,
            bias,
            operations: weights.operations(),
        })
    }

    /// Half-precision weights are widened for one product at a time: a layer's worth of f32,
    /// never a model's.
    fn widened(&self) -> Result<Cow<'_, Tensor>> {
        Ok(match self.stored.dtype() {
            DType::F32 => Cow::Borrowed(&self.stored),
            _ => Cow::Owned(self.stored.to_dtype(DType::F32)?),
        })
    }

    /// x times the matrix as stored, or times the other orientation.
    fn product(&self, x: &Tensor, as_stored: bool) -> Result<Tensor> {
        if !x.device().is_cpu() {
            return self.product_on_device(x, as_stored);
        }
        Ok(match &self.copy {
            _ if as_stored => x.matmul(self.widened()?.as_ref())?,
            Some(copy) => x.matmul(copy)?,
            None if x.dims2()?.0 == 1 => match self.row(x)? {
                Some(y) => y,
                None => x.matmul(&self.widened()?.t()?)?,
            },
            None => x.matmul(&self.widened()?.t()?)?,
        })
    }

    fn product_on_device(&self, x: &Tensor, as_stored: bool) -> Result<Tensor> {
        let matrix = match self.stored.dtype() {
            DType::BF16 => Cow::Borrowed(&self.stored),
            _ => self.widened()?, // f16 has too few exponents for gradients
        };
        let matrix = match as_stored {
            true => matrix.into_owned(),
            false => matrix.t()?,
        };
        let y = x.to_dtype(matrix.dtype())?.matmul(&matrix)?;
        Ok(y.to_dtype(DType::F32)?)
    }

    /// One row times the other orientation, without rearranging or widening the matrix first; none of a type that has no kernel
    /// of its own.
    fn row(&self, x: &Tensor) -> Result<Option<Tensor>> {
        if x.dims().last() != self.stored.dims().last() {
            return Ok(None);
        }
        let (weight, layout) = self.stored.storage_and_layout();
        let offsets = layout.contiguous_offsets();
        let x = x.contiguous()?;
        let y = {
            let (x, x_layout) = x.storage_and_layout();
            let x = floats(&x, x_layout)?;
            match (&*weight, offsets) {
                (Storage::Cpu(CpuStorage::F32(w)), Some((from, to))) => product(&w[from..to], x),
                (Storage::Cpu(CpuStorage::BF16(w)), Some((from, to))) => {
                    product_bf16(&w[from..to], x)
                }
                _ => return Ok(None),
            }
        };
        let width = y.len();
        Ok(Some(Tensor::from_vec(y, (1, width), x.device())?))
    }

    /// `[N, in]` → x·Wᵀ + b `[N, out]`.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let y = self.product(x, self.input_first)?;
        match &self.bias {
            Some(bias) => self.operations.add_bias(y, bias),
            None => Ok(y),
        }
    }

    /// `[N, out]` → dy·W `[N, in]`.
    pub(super) fn vjp(&self, grad: &Tensor) -> Result<Tensor> {
        self.product(grad, !self.input_first)
    }
}
