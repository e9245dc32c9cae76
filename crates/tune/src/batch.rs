//! Batches by length: which examples meet, and their tensors.

use candle_core::{Device, Tensor};

use crate::Result;
use crate::random::SplitMix;

/// How many batches' worth of shuffled examples are sorted by length together.
const BUCKET: usize = 16;

/// One epoch's batches: every index of `lengths` once, `size` a batch (the last may be smaller).
///
/// All examples are shuffled; each run of `BUCKET` batches is sorted by
/// length, so that neighbours need little padding; the batches are shuffled.
/// The order is the generator's and the lengths' alone.
pub fn training_order(lengths: &[usize], size: usize, random: &mut SplitMix) -> Vec<Vec<usize>> {
    let size = size.max(1);
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    random.shuffle(&mut order);
    let mut batches = Vec::with_capacity(lengths.len().div_ceil(size));
    for bucket in order.chunks_mut(size.saturating_mul(BUCKET)) {
        bucket.sort_by_key(|&i| lengths[i]); // stable: equal lengths stay shuffled
        batches.extend(bucket.chunks(size).map(<[usize]>::to_vec));
    }
    random.shuffle(&mut batches);
    batches
}

/// Batches for evaluation: sorted by length, least padding.
pub fn evaluation_order(lengths: &[usize], size: usize) -> Vec<Vec<usize>> {
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|&i| lengths[i]);
    order.chunks(size.max(1)).map(<[usize]>::to_vec).collect()
}

/// Token sequences as tensors: `ids` `[B, T]` u32 and `mask` `[B, T]` f32, padded on the right
/// with token 0 under mask 0; T is the longest sequence.
///
/// # Errors
/// [`crate::Error::Fault`] if the tensor library fails.
pub fn pad(sequences: &[&[u32]], device: &Device) -> Result<(Tensor, Tensor)> {
    let longest = sequences.iter().map(|s| s.len()).max().unwrap_or(0);
    let shape = (sequences.len(), longest);
    let mut ids = Vec::with_capacity(shape.0 * shape.1);
    let mut mask = Vec::with_capacity(shape.0 * shape.1);
    for sequence in sequences {
        let padding = longest - sequence.len();
        ids.extend_from_slice(sequence);
        ids.extend(std::iter::repeat_n(0_u32, padding));
        mask.extend(std::iter::repeat_n(1_f32, sequence.len()));
        mask.extend(std::iter::repeat_n(0_f32, padding));
    }
    Ok((
        Tensor::from_vec(ids, shape, device)?,
        Tensor::from_vec(mask, shape, device)?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lengths(n: usize) -> Vec<usize> {
        let mut random = SplitMix::new(5);
        (0..n).map(|_| 5 + random.below(40)).collect()
    }

    #[test]
    fn every_example_comes_once_and_the_seed_decides_the_order() {
        let lengths = lengths(605);
        let order = |seed| training_order(&lengths, 32, &mut SplitMix::new(seed));
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        for batches in [order(1), evaluation_order(&lengths, 32)] {
            assert_eq!(batches.len(), 19);
            let mut all: Vec<usize> = batches.concat();
            all.sort_unstable();
            assert_eq!(all, (0..605).collect::<Vec<_>>());
        }
    }

    #[test]
    fn batches_by_length_need_little_padding() {
        let lengths = lengths(1024);
        let batches = training_order(&lengths, 32, &mut SplitMix::new(1));
        let padded: usize = batches
            .iter()
            .map(|b| b.len() * b.iter().map(|&i| lengths[i]).max().unwrap())
            .sum();
        let tokens: usize = lengths.iter().sum();
        // Unsorted, a batch of 32 of these lengths would pad to about 44/24.5 = 1.8 times.
        assert!(
            (padded as f64) < 1.1 * tokens as f64,
            "{padded} for {tokens}"
        );
    }

    #[test]
    fn no_examples_make_no_batches_and_size_zero_counts_as_one() {
        assert!(training_order(&[], 32, &mut SplitMix::new(1)).is_empty());
        assert_eq!(evaluation_order(&[3, 1], 0), [vec![1], vec![0]]);
        assert_eq!(training_order(&[3, 1], 0, &mut SplitMix::new(1)).len(), 2);
    }

    #[test]
    fn sequences_are_padded_on_the_right() {
        let (ids, mask) = pad(&[&[7, 8, 9], &[5]], &Device::Cpu).unwrap();
        assert_eq!(ids.to_vec2::<u32>().unwrap(), [[7, 8, 9], [5, 0, 0]]);
        assert_eq!(
            mask.to_vec2::<f32>().unwrap(),
            [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
        );
    }
}
