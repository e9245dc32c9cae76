//! A padded batch as its real rows alone: nothing is ever computed for padding.

use std::sync::OnceLock;

use candle_core::{DType, Device, Tensor};

use super::portable::not_later;
use crate::error::{Error, Result};
use crate::tensors::floats;

/// Where each example's tokens lie among the N real rows of a `[B, T]` batch.
#[derive(Clone)]
pub(super) struct Rows {
    width: usize,
    lengths: Vec<usize>,
    total: usize,
    positions: Vec<usize>,
    on_device: OnDevice,
}

/// The same as tensors, made when operations on a device first ask for them.
#[derive(Clone, Default)]
struct OnDevice {
    places: OnceLock<Tensor>,
    packing: OnceLock<Tensor>,
    unpacking: OnceLock<Tensor>,
    mask: OnceLock<Tensor>,
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
            on_device: OnDevice::default(),
        })
    }

    /// `count` positions of one sequence, after `past` others.
    pub(super) fn continuing(past: usize, count: usize) -> Self {
        Self {
            width: count,
            lengths: vec![count],
            total: count,
            positions: (past..past + count).collect(),
            on_device: OnDevice::default(),
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

    /// [`Rows::positions`], `[N]` u32.
    pub(super) fn places(&self, device: &Device) -> Result<Tensor> {
        once(&self.on_device.places, || {
            let places: Vec<u32> = self.positions.iter().map(|&p| p as u32).collect();
            Ok(Tensor::new(places, device)?)
        })
    }

    /// `[B, 1, T, T]`, or `[B, 1, 1, T]` where every position sees all: 0 where a position sees another, −∞ where it does not,
    /// being padding or, if `causal`, later. One backbone is causal or is not.
    pub(super) fn mask(&self, causal: bool, device: &Device) -> Result<Tensor> {
        once(&self.on_device.mask, || {
            let each = self.lengths.iter().flat_map(|&length| {
                let column = move |j| if j < length { 0.0 } else { f32::NEG_INFINITY };
                (0..self.width).map(column)
            });
            let shape = (self.lengths.len(), 1, 1, self.width);
            let padding = Tensor::from_vec(each.collect::<Vec<f32>>(), shape, device)?;
            Ok(match causal {
                true => padding.broadcast_add(&not_later(self.width, self.width, device)?)?,
                false => padding,
            })
        })
    }

    /// Of every real row, its place among the B·T of the batch: `[N]` u32.
    fn packing(&self, device: &Device) -> Result<Tensor> {
        once(&self.on_device.packing, || {
            let each = self.lengths.iter().enumerate();
            let places = each.flat_map(|(b, &length)| {
                let first = b * self.width;
                (first..first + length).map(|place| place as u32)
            });
            Ok(Tensor::new(places.collect::<Vec<u32>>(), device)?)
        })
    }

    /// Of each of the B·T rows of the batch, its place among the real rows, N for padding: `[B·T]` u32.
    fn unpacking(&self, device: &Device) -> Result<Tensor> {
        once(&self.on_device.unpacking, || {
            let mut places = Vec::with_capacity(self.lengths.len() * self.width);
            let mut next = 0;
            for length in &self.lengths {
                places.extend((next..next + length).map(|place| place as u32));
                next += length;
                places.extend(std::iter::repeat_n(self.total as u32, self.width - length));
            }
            Ok(Tensor::new(places, device)?)
        })
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
        if !batch.device().is_cpu() {
            return self.pack_by_index(batch);
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

    fn pack_by_index(&self, batch: &Tensor) -> Result<Tensor> {
        let places = self.packing(batch.device())?;
        Ok(batch.flatten_to(1)?.index_select(&places, 0)?)
    }

    /// `[N, H]` → `[B, T, H]`, zero at padding.
    pub(super) fn unpack(&self, packed: &Tensor) -> Result<Tensor> {
        if !packed.device().is_cpu() {
            return self.unpack_by_index(packed);
        }
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

    fn unpack_by_index(&self, packed: &Tensor) -> Result<Tensor> {
        let hidden = packed.dims2()?.1;
        let padded = packed.pad_with_zeros(0, 0, 1)?;
        let batch = padded.index_select(&self.unpacking(packed.device())?, 0)?;
        Ok(batch.reshape((self.lengths.len(), self.width, hidden))?)
    }
}

/// What `cell` holds, after `make` where it holds nothing yet.
fn once(cell: &OnceLock<Tensor>, make: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
    if let Some(made) = cell.get() {
        return Ok(made.clone());
    }
    let made = make()?;
    Ok(cell.get_or_init(|| made).clone())
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
        let by_index = rows.unpack_by_index(&packed).expect("a batch");
        let again = rows.pack_by_index(&by_index).expect("packed");
        let pair = |t: &Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>());
        assert_eq!(pair(&again).expect("values"), values);
        let unpacked = rows.unpack(&packed).expect("a batch");
        let unpacked = pair(&unpacked).expect("values");
        assert_eq!(pair(&by_index).expect("values"), unpacked);
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
