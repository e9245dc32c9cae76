//! candle tensors as slices: read in place, changed in place.

use std::cell::RefCell;

use candle_core::{CpuStorage, Device, InplaceOp1, Layout, Storage, Tensor, Var};

use crate::error::{Error, Result};

/// The numbers of a contiguous f32 tensor on the CPU, given both halves of
/// `storage_and_layout`.
pub(crate) fn floats<'a>(storage: &'a Storage, layout: &Layout) -> Result<&'a [f32]> {
    let Storage::Cpu(CpuStorage::F32(values)) = storage else {
        return Err(Error::Fault(
            "a kernel met a tensor that is not f32 on the CPU".into(),
        ));
    };
    let (start, end) = layout
        .contiguous_offsets()
        .ok_or_else(|| Error::Fault("a kernel met a tensor that is not contiguous".into()))?;
    values
        .get(start..end)
        .ok_or_else(|| Error::Fault("a tensor ends before its layout".into()))
}

/// Applies `change` to the numbers of a contiguous f32 tensor on the CPU, in place.
pub(crate) fn update(tensor: &Tensor, change: impl FnMut(&mut [f32])) -> Result<()> {
    Ok(tensor.inplace_op1(&Update(RefCell::new(change)))?)
}

/// A new tensor `[rows, width]` that `fill` writes.
pub(crate) fn fresh(
    rows: usize,
    width: usize,
    like: &Tensor,
    fill: impl FnOnce(&mut [f32]),
) -> Result<Tensor> {
    let mut values = vec![0f32; rows * width];
    fill(&mut values);
    Ok(Tensor::from_vec(values, (rows, width), like.device())?)
}

/// The numbers of f32 tensors one after the other, each row-major, whatever device they are on.
pub(crate) fn joined(tensors: &[Tensor]) -> Result<Vec<f32>> {
    let mut all = Vec::with_capacity(tensors.iter().map(Tensor::elem_count).sum());
    for tensor in tensors {
        let tensor = tensor.to_device(&Device::Cpu)?.contiguous()?;
        let (storage, layout) = tensor.storage_and_layout();
        all.extend_from_slice(floats(&storage, layout)?);
    }
    Ok(all)
}

/// Gives an f32 variable the numbers in `values`, as many as it has, row-major.
pub(crate) fn assign(variable: &Var, values: &[f32]) -> Result<()> {
    match variable.device() {
        Device::Cpu => update(variable, |held| held.copy_from_slice(values)),
        device => Ok(variable.set(&Tensor::from_slice(values, variable.shape(), device)?)?),
    }
}

struct Update<F>(RefCell<F>);

impl<F: FnMut(&mut [f32])> InplaceOp1 for Update<F> {
    fn name(&self) -> &'static str {
        "update"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> candle_core::Result<()> {
        let CpuStorage::F32(values) = storage else {
            candle_core::bail!("a kernel met a tensor that is not f32")
        };
        let range = layout
            .contiguous_offsets()
            .and_then(|(start, end)| values.get_mut(start..end));
        let Some(values) = range else {
            candle_core::bail!("a kernel met a tensor that is not contiguous")
        };
        (self.0.borrow_mut())(values);
        Ok(())
    }
}
