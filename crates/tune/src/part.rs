//! A batch in parts: a few hundred tokens at a time go through the backbone and back, side by side on
//! the threads there are.
//!
//! Activations are kept for a part alone, and threads meet when a part is done, not after every
//! product.

use std::ops::Range;

use candle_core::{Tensor, Var};
use rayon::prelude::*;

use crate::head::Classifier;
use crate::model::{Model, no_gradient};
use crate::task::Example;
use crate::tensors::joined;
use crate::{Error, Result};

/// Tokens of a part, about: enough rows that rearranging a matrix before its product is little
/// beside the product.
const TOKENS: usize = 320;

impl Model<'_> {
    /// The mean loss of a batch and its gradient, in θ's order; no more than `at_a_time` examples
    /// are in memory at once.
    pub(crate) fn gradient(
        &self,
        examples: &[&Example],
        at_a_time: usize,
    ) -> Result<(f64, Vec<f32>)> {
        let prompt = self.prompt()?;
        let share = 1.0 / examples.len() as f64;
        let (mut loss, mut sums) = (0.0, Vec::new());
        for group in examples.chunks(at_a_time.max(1)) {
            let parts = self.in_parts(group, |part| {
                self.part_gradient(prompt.embeddings(), part, share)
            });
            for (of_part, gradients) in parts? {
                loss += of_part;
                sums = match sums.is_empty() {
                    true => gradients,
                    false => added(&sums, &gradients)?,
                };
            }
        }
        let mut sums = sums.into_iter();
        let of_prompt = sums.next().ok_or_else(no_gradient)?;
        let mut gradient = prompt.pull_back(&of_prompt)?;
        gradient.extend(sums);
        Ok((loss * share, joined(&gradient)?))
    }

    /// The losses' sum, and its gradients times `share`: for P `[V, H]`, then for the
    /// classifier's parameters.
    fn part_gradient(
        &self,
        prompt: &Tensor,
        examples: &[&Example],
        share: f64,
    ) -> Result<(f64, Vec<Tensor>)> {
        let leaf = Var::from_tensor(prompt)?;
        let sum = self.losses(leaf.as_tensor(), examples)?.sum_all()?;
        let loss = f64::from(sum.to_scalar::<f32>()?);
        let gradients = (sum * share)?.backward()?;
        let classifier = self.classifier().map(Classifier::parameters);
        let classifier = classifier.into_iter().flatten().map(|(_, leaf)| leaf);
        let of = |leaf: Var| gradients.get(&leaf).cloned().ok_or_else(no_gradient);
        let gradients = std::iter::once(leaf).chain(classifier).map(of);
        Ok((loss, gradients.collect::<Result<_>>()?))
    }

    /// `work` on each part of a batch, in order. A large model takes it whole: it keeps its cores
    /// busy with one, and has no memory for more.
    pub(crate) fn in_parts<R: Send>(
        &self,
        examples: &[&Example],
        work: impl Fn(&[&Example]) -> Result<R> + Sync,
    ) -> Result<Vec<R>> {
        let virtual_tokens = self.encoder().virtual_tokens();
        let lengths = examples.iter().map(|e| virtual_tokens + e.ids.len());
        let lengths: Vec<usize> = lengths.collect();
        let threads = rayon::current_num_threads();
        let count = match self.backbone().is_small() {
            // A multiple of the threads, or some would wait for the others at the end.
            true => (lengths.iter().sum::<usize>().div_ceil(TOKENS)).next_multiple_of(threads),
            false => 1,
        };
        let parts: Vec<_> = (runs(&lengths, count).into_iter())
            .map(|run| &examples[run])
            .collect();
        match parts.as_slice() {
            [whole] => Ok(vec![work(whole)?]),
            parts => (parts.par_iter().with_max_len(1))
                .map(|part| work(part))
                .collect(),
        }
    }
}

fn added(sums: &[Tensor], more: &[Tensor]) -> Result<Vec<Tensor>> {
    (sums.iter().zip(more))
        .map(|(sum, more)| (sum + more).map_err(Error::from))
        .collect()
}

/// At most `count` runs of neighbours, in order, of about as many tokens each; none empty.
fn runs(lengths: &[usize], count: usize) -> Vec<Range<usize>> {
    let (total, count) = (lengths.iter().sum::<usize>(), count.max(1));
    let mut runs: Vec<Range<usize>> = Vec::with_capacity(count.min(lengths.len()));
    let mut before = 0;
    let mut last = 0;
    for (index, length) in lengths.iter().enumerate() {
        // An example is of the run in which its middle lies.
        let run = (2 * before + length) * count / (2 * total).max(1);
        match runs.last_mut() {
            Some(range) if run == last => range.end = index + 1,
            _ => runs.push(index..index + 1),
        }
        (last, before) = (run, before + length);
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_about_equal_and_cover_all() {
        let lengths = [3, 1, 4, 1, 5, 2, 6, 5];
        for count in 1..=10 {
            let runs = runs(&lengths, count);
            assert!(!runs.is_empty() && runs.len() <= count);
            let all: Vec<usize> = runs.iter().cloned().flatten().collect();
            assert_eq!(all, (0..8).collect::<Vec<_>>(), "{count}");
            for run in runs {
                let tokens: usize = lengths[run].iter().sum();
                assert!((1..=27_usize.div_ceil(count) + 6).contains(&tokens));
            }
        }
        assert_eq!(runs(&[80; 8], 2), [0..4, 4..8]);
        assert_eq!(runs(&[80; 3], 8), [0..1, 1..2, 2..3]);
        assert!(runs(&[], 2).is_empty());
    }
}
