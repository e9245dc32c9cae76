//! A padded batch as its real rows alone: nothing is ever computed for padding.

use candle_core::{DType, Tensor};

use super::tensors::floats;
use crate::error::{Error, Result};

/// Where each example's tokens lie among the N real rows of a `[B, T]` batch.
#[derive(Clone)]
pub(super) struct Rows {
    width: usize,
    lengths: Vec<usize>,
    total: usize,
    positions: Vec<usize>,
}

impl Rows {
    /// Reads a `[B, T]` mask of ones followed by zeros.
    pub(super) fn from_mask(mask: &Tensor) -> Result<Self> {
        let width = mask.dims2().map_err(|_| bad_mask("is not [B, T]"))?.1;
        let mask = mask.to_dtype(DType::F32)?.to_vec2::<f32>()?;
        let mut lengths = Vec::with_capacity(mask.len());
        for row in mask {
            let length = row.iter().take_while(|&&kept| kept == 1.0).count();
            if length == 0 || row.iter().skip(length).any(|&kept| kept != 0.0) {
                return Err(bad_mask(
                    "must be ones, at least one, then zeros, in every row",
                ));
            }
            lengths.push(length);
        }
        let total = lengths.iter().sum();
        let positions = lengths.iter().flat_map(|&length| 0..length).collect();
        Ok(Self {
            width,
            lengths,
            total,
            positions,
        })
    }

    /// `count` positions of one sequence, after `past` others.
    pub(super) fn continuing(past: usize, count: usize) -> Self {
        Self {
            width: count,
            lengths: vec![count],
            total: count,
            positions: (past..past + count).collect(),
        }
    }

    /// One more than the last position.
    pub(super) fn reach(&self) -> usize {
        self.positions.iter().max().map_or(0, |last| last + 1)
    }

    /// Tokens of each example, in order.
    pub(super) fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// The position of every real row within its example.
    pub(super) fn positions(&self) -> &[usize] {
        &self.positions
    }

    /// `[B, T, H]` → `[N, H]`.
    pub(super) fn pack(&self, batch: &Tensor) -> Result<Tensor> {
        let (examples, width, hidden) = batch
            .dims3()
            .map_err(|_| Error::Misuse(format!("{:?} is not [B, T, H]", batch.dims())))?;
        if (examples, width) != (self.lengths.len(), self.width) {
            return Err(Error::Misuse(format!(
                "a batch of {examples} × {width} with a mask of {} × {}",
                self.lengths.len(),
                self.width
            )));
        }
        let batch = batch.contiguous()?;
        let (storage, layout) = batch.storage_and_layout();
        let mut packed = Vec::with_capacity(self.total * hidden);
        for (example, length) in floats(&storage, layout)?
            .chunks(width * hidden)
            .zip(&self.lengths)
        {
            packed.extend_from_slice(&example[..length * hidden]);
        }
        Ok(Tensor::from_vec(
            packed,
            (self.total, hidden),
            batch.device(),
        )?)
    }

    /// `[N, H]` → `[B, T, H]`, zero at padding.
    pub(super) fn unpack(&self, packed: &Tensor) -> Result<Tensor> {
        let hidden = packed.dims2()?.1;
        let packed = packed.contiguous()?;
        let (storage, layout) = packed.storage_and_layout();
        let mut rest = floats(&storage, layout)?;
        let mut batch = Vec::with_capacity(self.lengths.len() * self.width * hidden);
        for (index, length) in self.lengths.iter().enumerate() {
            let (rows, tail) = rest.split_at(length * hidden);
            batch.extend_from_slice(rows);
            batch.resize((index + 1) * self.width * hidden, 0.0);
            rest = tail;
        }
        Ok(Tensor::from_vec(
            batch,
            (self.lengths.len(), self.width, hidden),
            packed.device(),
        )?)
    }
}

fn bad_mask(why: &str) -> Error {
    Error::Misuse(format!("the attention mask {why}"))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn packing_drops_the_padding_and_unpacking_puts_zeros_there() {
        let mask = Tensor::new(&[[1f32, 1.0, 0.0], [1.0, 1.0, 1.0]], &Device::Cpu).expect("mask");
        let rows = Rows::from_mask(&mask).expect("rows");
        let batch = Tensor::arange(1f32, 13.0, &Device::Cpu).and_then(|t| t.reshape((2, 3, 2)));
        let packed = rows.pack(&batch.expect("a batch")).expect("packed");
        let values = packed
            .flatten_all()
            .and_then(|t| t.to_vec1::<f32>())
            .expect("values");
        assert_eq!(values, [1., 2., 3., 4., 7., 8., 9., 10., 11., 12.]);
        assert_eq!(rows.positions(), [0, 1, 0, 1, 2]);
        let batch = rows
            .unpack(&packed)
            .and_then(|t| Ok(t.flatten_all()?.to_vec1::<f32>()?));
        assert_eq!(
            batch.expect("a batch"),
            [1., 2., 3., 4., 0., 0., 7., 8., 9., 10., 11., 12.]
        );
    }

    #[test]
    fn a_mask_that_is_not_right_padded_is_refused() {
        for row in [
            [0f32, 1.0, 1.0],
            [1.0, 0.0, 1.0],
            [0.0, 0.0, 0.0],
            [1.0, 0.5, 0.0],
        ] {
            let mask = Tensor::new(&[row], &Device::Cpu).expect("mask");
            assert!(
                matches!(Rows::from_mask(&mask), Err(Error::Misuse(_))),
                "{row:?}"
            );
        }
    }
}
