//! The keys and values of a sequence so far, so that its next position costs one position.

use std::sync::{Arc, Weak};

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
            layer.rows.truncate(self.positions * layer.width);
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
pub(super) struct KeyValues {
    rows: Vec<f32>,
    width: usize,
}

impl KeyValues {
    /// Appends what attention's rows `[T, (h + 2g)·D]` have after the queries → all rows.
    pub(super) fn append(&mut self, shape: &Attention, values: &[f32]) -> &[f32] {
        self.width = shape.shared();
        for row in values.chunks_exact(shape.width()) {
            self.rows
                .extend_from_slice(&row[shape.width() - shape.shared()..]);
        }
        &self.rows
    }
}
