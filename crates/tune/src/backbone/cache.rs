//! The keys and values of a sequence so far, so that its next position costs one position.

use std::sync::{Arc, Weak};

use candle_core::Tensor;

use super::frozen::Stack;
use super::kernels::attention::Attention;
use crate::error::{Error, Result};

/// One sequence as one backbone has seen it: every layer's keys and values, f32.
///
/// A clone continues on its own: a tuned prompt is computed once and every text starts from a
/// clone of it.
#[derive(Clone)]
pub struct Cache {
    stack: Weak<Stack>,
    layers: Vec<KeyValues>,
    positions: usize,
}

impl Cache {
    pub(super) fn new(stack: Weak<Stack>, blocks: usize) -> Self {
        Self {
            stack,
            layers: vec![KeyValues::default(); blocks],
            positions: 0,
        }
    }

    /// Positions seen so far.
    pub fn len(&self) -> usize {
        self.positions
    }

    /// Whether no position was seen yet.
    pub fn is_empty(&self) -> bool {
        self.positions == 0
    }

    /// Forgets all but the first `positions`; fewer than that are left as they are.
    pub fn truncate(&mut self, positions: usize) {
        self.positions = self.positions.min(positions);
        for layer in &mut self.layers {
            layer.truncate(self.positions);
        }
    }

    /// Lets `step` add `count` positions to every layer of `stack`; forgets what it added where
    /// it fails.
    pub(super) fn extend(
        &mut self,
        stack: &Arc<Stack>,
        count: usize,
        step: impl FnOnce(&mut [KeyValues]) -> Result<()>,
    ) -> Result<()> {
        if !std::ptr::eq(self.stack.as_ptr(), Arc::as_ptr(stack)) {
            return Err(Error::Misuse("a cache of another backbone".into()));
        }
        // What a step left that panicked is forgotten, too.
        self.truncate(self.positions);
        let done = step(&mut self.layers);
        match done {
            Ok(()) => self.positions += count,
            Err(_) => self.truncate(self.positions),
        }
        done
    }
}

/// One layer's keys and values, `[L, 2g·D]`, a row k₀…k_{g−1}, v₀…v_{g−1}.
#[derive(Clone, Default)]
pub(super) enum KeyValues {
    /// Of no position yet.
    #[default]
    Empty,
    /// For the kernels.
    Rows { values: Vec<f32>, width: usize },
    /// On a device; the first `length` rows count.
    Tensor { values: Tensor, length: usize },
}

impl KeyValues {
    fn truncate(&mut self, positions: usize) {
        match self {
            Self::Empty => {}
            Self::Rows { values, width } => values.truncate(positions * *width),
            Self::Tensor { length, .. } => *length = positions.min(*length),
        }
    }

    /// Appends what attention's rows `[T, (h + 2g)·D]` have after the queries → all rows.
    pub(super) fn append(&mut self, shape: &Attention, rows: &[f32]) -> Result<&[f32]> {
        if matches!(self, Self::Empty) {
            *self = Self::Rows {
                values: Vec::new(),
                width: shape.shared(),
            };
        }
        let Self::Rows { values, .. } = self else {
            return Err(other_kind());
        };
        for row in rows.chunks_exact(shape.width()) {
            values.extend_from_slice(&row[shape.width() - shape.shared()..]);
        }
        Ok(values)
    }

    /// Appends rows `[T, 2g·D]` → all rows.
    pub(super) fn append_rows(&mut self, rows: &Tensor) -> Result<Tensor> {
        let all = match self {
            Self::Empty => rows.clone(),
            Self::Tensor { values, length } => {
                Tensor::cat(&[&values.narrow(0, 0, *length)?, rows], 0)?
            }
            Self::Rows { .. } => return Err(other_kind()),
        };
        *self = Self::Tensor {
            values: all.clone(),
            length: all.dims2()?.0,
        };
        Ok(all)
    }
}

fn other_kind() -> Error {
    Error::Fault("keys and values of another device's".into())
}
