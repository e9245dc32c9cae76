//! A stack of frozen blocks as one differentiable operation.
//!
//! candle's `backward()` would form gradients for frozen weights too, and its fused kernels
//! cut the graph. So the forward pass runs outside the graph and enters it as one `CustomOp1`
//! whose backward pass is each block's own vector–Jacobian product: only the gradient for the
//! input is ever formed.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CustomOp1, Layout, Shape, Storage, Tensor};
use rayon::prelude::*;

use super::cache::{Cache, KeyValues};
use super::rows::Rows;
use crate::error::{Error, Result};

/// One layer, over packed rows `[N, ·]`.
pub(super) trait Block: Send + Sync {
    /// y = f(x).
    fn forward(&self, x: &Tensor, rows: &Rows, pass: Pass<'_>) -> Result<Tensor>;

    /// dx = (∂f/∂x)ᵀ·dy.
    fn vjp(&self, kept: &Kept, grad: &Tensor, rows: &Rows) -> Result<Tensor>;
}

/// What a forward pass is for.
pub(super) enum Pass<'a> {
    /// The result alone.
    Plain,
    /// A backward pass will follow: what [`Block::vjp`] needs goes in here.
    Keep(&'a mut Kept),
    /// The rows continue the sequence whose keys and values these are, and join it.
    Extend(&'a mut KeyValues),
}

impl Pass<'_> {
    /// Whether a backward pass will follow.
    pub(super) fn keeps(&self) -> bool {
        matches!(self, Self::Keep(_))
    }
}

/// Activations kept from a block's forward pass.
#[derive(Default)]
pub(super) struct Kept(Vec<Tensor>);

impl Kept {
    pub(super) fn put<const K: usize>(&mut self, tensors: [Tensor; K]) {
        self.0 = tensors.into();
    }

    pub(super) fn get<const K: usize>(&self) -> Result<&[Tensor; K]> {
        self.0
            .as_slice()
            .try_into()
            .map_err(|_| Error::Fault(format!("{} activations kept, not {K}", self.0.len())))
    }
}

/// Blocks in order, each frozen.
pub(super) struct Stack {
    blocks: Vec<Box<dyn Block>>,
    recompute: bool,
    /// Whether a batch may go through in shares, one a thread.
    shared: bool,
}

impl Stack {
    /// With `recompute`, the backward pass runs each block's forward pass again instead of
    /// keeping its activations (Chen et al., "Training deep nets with sublinear memory cost",
    /// 2016, one segment a block): a third more work, and one `[N, H]` a block kept.
    ///
    /// With `shared`, the examples of a batch are dealt out to the threads, each of which takes
    /// its own through all blocks: threads that share every product wait for each other after
    /// every product. Weights that are widened product by product would be widened by each.
    pub(super) fn new(blocks: Vec<Box<dyn Block>>, recompute: bool, shared: bool) -> Arc<Self> {
        Arc::new(Self {
            blocks,
            recompute,
            shared,
        })
    }

    /// `[B, T, H]` through every block, differentiable in `embeds`; padding comes out zero.
    pub(super) fn apply(self: &Arc<Self>, embeds: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let count = match self.shared {
            true => rayon::current_num_threads(),
            false => 1,
        };
        let shares = Rows::from_mask(mask)?.shares(count);
        let (batch, keep) = (embeds.detach().contiguous()?, embeds.track_op());
        let passes = on_each(shares, |rows| self.forward(&batch, rows, keep))?;
        let (outputs, shares): (Vec<_>, Vec<_>) = passes.into_iter().unzip();
        let result = Tensor::cat(&outputs, 0)?;
        if !keep {
            return Ok(result);
        }
        Ok(embeds.apply_op1(Run {
            stack: Arc::clone(self),
            shares,
            result: Mutex::new(Some(result)),
        })?)
    }

    /// A sequence of no positions yet.
    pub(super) fn start(self: &Arc<Self>) -> Cache {
        Cache::new(Arc::downgrade(self), self.blocks.len())
    }

    /// The next positions of one sequence, `[1, T, H]` through every block, outside the graph.
    /// Where it fails the cache is as before.
    pub(super) fn extend(self: &Arc<Self>, embeds: &Tensor, cache: &mut Cache) -> Result<Tensor> {
        let rows = Rows::continuing(cache.len(), embeds.dims3()?.1);
        let mut x = embeds.detach().squeeze(0)?.contiguous()?;
        cache.extend(self, rows.positions().len(), |past| {
            for (block, past) in self.blocks.iter().zip(past) {
                x = block.forward(&x, &rows, Pass::Extend(past))?;
            }
            Ok(())
        })?;
        Ok(x.unsqueeze(0)?)
    }

    /// One share of a batch, `[B, T, H]` → `[b, T, H]`.
    fn forward(&self, batch: &Tensor, rows: Rows, keep: bool) -> Result<(Tensor, Share)> {
        let mut x = rows.pack(batch)?;
        let mut traces = Vec::new();
        for block in &self.blocks {
            let y;
            if keep && !self.recompute {
                let mut kept = Kept::default();
                y = block.forward(&x, &rows, Pass::Keep(&mut kept))?;
                traces.push(Trace::Kept(kept));
            } else {
                y = block.forward(&x, &rows, Pass::Plain)?;
                if keep {
                    traces.push(Trace::Input(x));
                }
            }
            x = y;
        }
        Ok((rows.unpack(&x)?, Share { rows, traces }))
    }

    fn vjp(&self, share: &Share, grad: &Tensor) -> Result<Tensor> {
        let rows = &share.rows;
        let mut grad = rows.pack(grad)?;
        for (block, trace) in self.blocks.iter().zip(&share.traces).rev() {
            grad = match trace {
                Trace::Kept(kept) => block.vjp(kept, &grad, rows)?,
                Trace::Input(x) => {
                    let mut kept = Kept::default();
                    block.forward(x, rows, Pass::Keep(&mut kept))?;
                    block.vjp(&kept, &grad, rows)?
                }
            };
        }
        rows.unpack(&grad)
    }
}

/// `work` on each of `shares`, side by side where there are several.
fn on_each<S: Send, R: Send>(
    shares: Vec<S>,
    work: impl Fn(S) -> Result<R> + Send + Sync,
) -> Result<Vec<R>> {
    if shares.len() == 1 {
        return shares.into_iter().map(work).collect();
    }
    shares.into_par_iter().with_max_len(1).map(work).collect()
}

enum Trace {
    Kept(Kept),
    Input(Tensor),
}

/// Examples that went through the blocks together.
struct Share {
    rows: Rows,
    traces: Vec<Trace>,
}

/// One forward pass, waiting for its backward pass.
struct Run {
    stack: Arc<Stack>,
    shares: Vec<Share>,
    result: Mutex<Option<Tensor>>,
}

impl CustomOp1 for Run {
    fn name(&self) -> &'static str {
        "frozen-stack"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        hand_over(&self.result)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.detach().contiguous()?;
        let back = on_each(self.shares.iter().collect(), |share| {
            self.stack.vjp(share, &grad)
        });
        let back = back.map_err(candle_core::Error::wrap)?;
        Ok(Some(Tensor::cat(&back, 0)?))
    }
}

/// `[R, H]` through one map on rows, differentiable in `rows`: a head or a pooler.
pub(super) fn apply_rows<F, V>(rows: &Tensor, forward: F) -> Result<Tensor>
where
    F: FnOnce(&Tensor) -> Result<(Tensor, V)>,
    V: Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
{
    let (result, vjp) = forward(&rows.detach().contiguous()?)?;
    if !rows.track_op() {
        return Ok(result);
    }
    Ok(rows.apply_op1(RowMap {
        vjp,
        result: Mutex::new(Some(result)),
    })?)
}

struct RowMap<V> {
    vjp: V,
    result: Mutex<Option<Tensor>>,
}

impl<V: Fn(&Tensor) -> Result<Tensor>> CustomOp1 for RowMap<V> {
    fn name(&self) -> &'static str {
        "frozen-rows"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        hand_over(&self.result)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.detach().contiguous()?;
        (self.vjp)(&grad)
            .map(Some)
            .map_err(candle_core::Error::wrap)
    }
}

/// A result computed outside the graph becomes the operation's output, once.
fn hand_over(result: &Mutex<Option<Tensor>>) -> candle_core::Result<(CpuStorage, Shape)> {
    let Some(result) = result.lock().unwrap_or_else(PoisonError::into_inner).take() else {
        candle_core::bail!("a frozen operation ran twice")
    };
    let (storage, layout) = result.storage_and_layout();
    match storage.try_clone(layout)? {
        Storage::Cpu(values) => Ok((values, result.shape().clone())),
        _ => candle_core::bail!("a frozen operation off the CPU"),
    }
}
