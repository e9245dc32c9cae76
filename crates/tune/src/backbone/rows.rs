//! A padded batch as its real rows alone: nothing is ever computed for padding.

use candle_core::{DType, Tensor};

use super::tensors::floats;
use crate::error::{Error, Result};

/// Where the tokens of examples that lie side by side in a `[B, T]` batch lie among their N real
/// rows: of all B, or of a share of them.
#[derive(Clone)]
pub(super) struct Rows {
    batch: usize,
    first: usize,
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
        Ok(Self::of(lengths.len(), 0, width, lengths))
    }

    fn of(batch: usize, first: usize, width: usize, lengths: Vec<usize>) -> Self {
        Self {
            batch,
            first,
            width,
            total: lengths.iter().sum(),
            positions: lengths.iter().flat_map(|&length| 0..length).collect(),
            lengths,
        }
    }

    /// At most `count` runs of neighbours, in order, of about as many tokens each; none empty.
    pub(super) fn shares(self, count: usize) -> Vec<Self> {
        if count.min(self.lengths.len()) <= 1 {
            return vec![self];
        }
        let mut shares = Vec::with_capacity(count);
        let (mut first, mut before) = (0, 0);
        for share in 1..=count {
            // An example is of the share in which its middle lies.
            let end = share * self.total;
            let mut last = first;
            while (self.lengths.get(last)).is_some_and(|l| (2 * before + l) * count <= 2 * end) {
                before += self.lengths[last];
                last += 1;
            }
            if last > first {
                let lengths = self.lengths[first..last].to_vec();
                let first = self.first + first;
                shares.push(Self::of(self.batch, first, self.width, lengths));
            }
            first = last;
        }
        shares
    }

    /// `count` positions of one sequence, after `past` others.
    pub(super) fn continuing(past: usize, count: usize) -> Self {
        Self {
            positions: (past..past + count).collect(),
            ..Self::of(1, 0, count, vec![count])
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

    /// `[B, T, H]` → `[N, H]`, of these examples.
    pub(super) fn pack(&self, batch: &Tensor) -> Result<Tensor> {
        let (examples, width, hidden) = batch
            .dims3()
            .map_err(|_| Error::Misuse(format!("{:?} is not [B, T, H]", batch.dims())))?;
        if (examples, width) != (self.batch, self.width) {
            return Err(Error::Misuse(format!(
                "a batch of {examples} × {width} with a mask of {} × {}",
                self.batch, self.width
            )));
        }
        let batch = batch.contiguous()?;
        let (storage, layout) = batch.storage_and_layout();
        let mut packed = Vec::with_capacity(self.total * hidden);
        for (example, length) in floats(&storage, layout)?
            .chunks(width * hidden)
            .skip(self.first)
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

    /// `[N, H]` → `[b, T, H]`, b of them, zero at padding.
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
    fn shares_are_about_equal_and_join_to_the_whole() {
        let lengths = [3usize, 1, 4, 1, 5, 2, 6, 5];
        let mask: Vec<f32> = lengths
            .iter()
            .flat_map(|&l| (0..6).map(move |i| f32::from(u8::from(i < l))))
            .collect();
        let mask = Tensor::from_vec(mask, (8, 6), &Device::Cpu).expect("a mask");
        let batch = Tensor::arange(1f32, 97.0, &Device::Cpu).and_then(|t| t.reshape((8, 6, 2)));
        let batch = batch.expect("a batch");
        let whole = || Rows::from_mask(&mask).expect("rows");
        let values = |t: Tensor| t.flatten_all().and_then(|t| t.to_vec1::<f32>());
        for count in 1..=10 {
            let shares = whole().shares(count);
            assert!(!shares.is_empty() && shares.len() <= count);
            let most = 27_usize.div_ceil(count) + 6;
            let mut joined = Vec::new();
            for share in &shares {
                assert!(
                    (1..=most).contains(&share.total),
                    "{count}: {}",
                    share.total
                );
                let packed = share.pack(&batch).expect("packed");
                joined.extend(values(packed).expect("values"));
            }
            let packed = whole().pack(&batch).expect("packed");
            assert_eq!(joined, values(packed).expect("values"), "{count}");
        }
        let equal = Tensor::ones((4, 6), DType::F32, &Device::Cpu).expect("a mask");
        let halves = Rows::from_mask(&equal).expect("rows").shares(2);
        assert!(halves.len() == 2 && halves.iter().all(|half| half.total == 12));
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
