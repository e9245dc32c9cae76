//! Rotary position embeddings (Su et al., "RoFormer", 2021), halves rotated as transformers
//! does: (x_d, x_{d+D/2}) is one pair, D the head's size or that part of it that is rotated.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::super::rows::Rows;
use crate::error::Result;

/// Angles position·ω_d for one head size; tables grow as longer sequences come.
pub(in super::super) struct Rope {
    size: usize,
    frequencies: Vec<f32>,
    table: Mutex<Arc<Vec<(f32, f32)>>>,
    tensors: Mutex<Option<(Tensor, Tensor)>>,
}

impl Rope {
    /// Heads of `size` numbers, of which the first 2·`frequencies.len()` are rotated; ω in
    /// radians a position.
    pub(in super::super) fn new(size: usize, frequencies: Vec<f32>) -> Self {
        Self {
            size,
            frequencies,
            table: Mutex::new(Arc::new(Vec::new())),
            tensors: Mutex::new(None),
        }
    }

    /// D/2.
    pub(in super::super) fn half(&self) -> usize {
        self.frequencies.len()
    }

    /// cos and sin, each `[positions or more, D/2]`, on the backbone's device.
    pub(in super::super) fn tensors(
        &self,
        positions: usize,
        device: &Device,
    ) -> Result<(Tensor, Tensor)> {
        let mut tensors = self.tensors.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((cos, sin)) = &*tensors
            && cos.dims()[0] >= positions
        {
            return Ok((cos.clone(), sin.clone()));
        }
        let (cos, sin): (Vec<f32>, Vec<f32>) = self.table(positions).iter().copied().unzip();
        let shape = (cos.len() / self.half(), self.half());
        let cos = Tensor::from_vec(cos, shape, device)?;
        let sin = Tensor::from_vec(sin, shape, device)?;
        *tensors = Some((cos.clone(), sin.clone()));
        Ok((cos, sin))
    }

    /// (cos, sin) `[positions or more, D/2]`, angles in f32 as transformers computes them.
    fn table(&self, positions: usize) -> Arc<Vec<(f32, f32)>> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.len() < positions * self.frequencies.len() {
            // Doubled, or a sequence that grows by one would compute its table anew each time.
            let angles = (0..positions.next_power_of_two()).flat_map(|p| {
                self.frequencies
                    .iter()
                    .map(move |frequency| p as f32 * frequency)
            });
            *table = Arc::new(angles.map(|a| (libm::cosf(a), libm::sinf(a))).collect());
        }
        Arc::clone(&table)
    }

    /// Rotates the first `heads` heads of every row of `values`, `width` numbers a row,
    /// forwards (`turn` = 1) or back (`turn` = −1, which is the vector–Jacobian product).
    pub(in super::super) fn rotate(
        &self,
        values: &mut [f32],
        width: usize,
        heads: usize,
        rows: &Rows,
        turn: f32,
    ) {
        let half = self.half();
        if half == 0 {
            return;
        }
        let table = self.table(rows.reach());
        let positions = rows.positions();
        values
            .par_chunks_exact_mut(width)
            .zip(positions)
            .for_each(|(row, position)| {
                let turns = &table[position * half..(position + 1) * half];
                for head in row.chunks_exact_mut(self.size).take(heads) {
                    let (first, second) = head.split_at_mut(half);
                    for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(turns) {
                        let sin = sin * turn;
                        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                    }
                }
            });
    }
}
