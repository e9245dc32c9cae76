//! A stack of frozen blocks as one differentiable operation.
//!
//! candle's `backward()` would form gradients for frozen weights too, and its fused kernels
//! cut the graph. So the forward pass runs outside the graph and enters it as one `CustomOp1`
//! whose backward pass is each block's own vector–Jacobian product: only the gradient for the
//! input is ever formed.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{CpuStorage, CudaStorage, CustomOp1, Layout, Shape, Storage, Tensor};

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
}

impl Stack {
    /// With `recompute`, the backward pass runs each block's forward pass again instead of
    /// keeping its activations (Chen et al., "Training deep nets with sublinear memory cost",
    /// 2016, one segment a block): a third more work, and one `[N, H]` a block kept.
    pub(super) fn new(blocks: Vec<Box<dyn Block>>, recompute: bool) -> Arc<Self> {
        Arc::new(Self { blocks, recompute })
    }

    /// `[B, T, H]` through every block, differentiable in `embeds`; padding comes out zero.
    pub(super) fn apply(self: &Arc<Self>, embeds: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let rows = Rows::from_mask(mask)?;
        let mut x = rows.pack(&embeds.detach())?;
        if !embeds.track_op() {
            for block in &self.blocks {
                x = block.forward(&x, &rows, Pass::Plain)?;
            }
            return rows.unpack(&x);
        }
        let mut traces = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            let y;
            if self.recompute {
                y = block.forward(&x, &rows, Pass::Plain)?;
                traces.push(Trace::Input(x));
            } else {
                let mut kept = Kept::default();
                y = block.forward(&x, &rows, Pass::Keep(&mut kept))?;
                traces.push(Trace::Kept(kept));
            }
            x = y;
        }
        let result = Mutex::new(Some(rows.unpack(&x)?));
        Ok(embeds.apply_op1(Run {
            stack: Arc::clone(self),
            rows,
            traces,
            result,
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

    fn vjp(&self, traces: &[Trace], rows: &Rows, grad: &Tensor) -> Result<Tensor> {
        let mut grad = rows.pack(&grad.detach())?;
        for (block, trace) in self.blocks.iter().zip(traces).rev() {
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

enum Trace {
    Kept(Kept),
    Input(Tensor),
}

/// One forward pass, waiting for its backward pass.
struct Run {
    stack: Arc<Stack>,
    rows: Rows,
    traces: Vec<Trace>,
    result: Mutex<Option<Tensor>>,
}

impl CustomOp1 for Run {
    fn name(&self) -> &'static str {
        "frozen-stack"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> candle_core::Result<(CpuStorage, Shape)> {
        hand_over_cpu(&self.result)
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        hand_over_cuda(&self.result)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let back = self.stack.vjp(&self.traces, &self.rows, grad);
        back.map(Some).map_err(candle_core::Error::wrap)
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
        hand_over_cpu(&self.result)
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> candle_core::Result<(CudaStorage, Shape)> {
        hand_over_cuda(&self.result)
    }

    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> candle_core::Result<Option<Tensor>> {
        let grad = grad.detach().contiguous()?;
        (self.vjp)(&grad)
            .map(Some)
            .map_err(candle_core::Error::wrap)
    }
}

/// A result computed outside the graph becomes the operation's output, once.
fn hand_over(result: &Mutex<Option<Tensor>>) -> candle_core::Result<(Storage, Shape)> {
    let Some(result) = result.lock().unwrap_or_else(PoisonError::into_inner).take() else {
        candle_core::bail!("a frozen operation ran twice")
    };
    let result = result.contiguous()?;
    let (storage, layout) = result.storage_and_layout();
    Ok((storage.try_clone(layout)?, result.shape().clone()))
}

fn hand_over_cpu(result: &Mutex<Option<Tensor>>) -> candle_core::Result<(CpuStorage, Shape)> {
    match hand_over(result)? {
        (Storage::Cpu(values), shape) => Ok((values, shape)),
        _ => elsewhere(),
    }
}

fn hand_over_cuda(result: &Mutex<Option<Tensor>>) -> candle_core::Result<(CudaStorage, Shape)> {
    match hand_over(result)? {
        (Storage::Cuda(values), shape) => Ok((values, shape)),
        _ => elsewhere(),
    }
}

fn elsewhere<T>() -> candle_core::Result<T> {
    candle_core::bail!("a frozen operation's result is on another device than its input")
}
