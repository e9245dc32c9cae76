//! Prompt encoders: V learned indices become V virtual-token embeddings `[V, H]`.

pub mod embedding;
pub mod mlp;

use std::collections::HashMap;

use candle_core::{DType, Tensor, Var};

use crate::error::{Error, Result};

/// What p-tuning trains in place of the backbone.
pub trait Encoder: Send + Sync {
    /// The name policies and plans know it by (`"embedding"`, `"mlp"`).
    fn kind(&self) -> &'static str;

    /// V, the number of virtual tokens.
    fn virtual_tokens(&self) -> usize;

    /// The virtual-token embeddings P(θ), `[V, H]`, differentiable in θ.
    ///
    /// # Errors
    /// [`Error::Fault`] if the tensor library fails.
    fn forward(&self) -> Result<Tensor>;

    /// Jᵀ·G with J = ∂P/∂θ at `parameters` (as [`Encoder::parameters`] lays them out) and G
    /// `[V, H]`, a gradient of the prompt, both row-major: the same bits on every machine, so
    /// scalar arithmetic in a fixed order, without fused multiply–add, whatever device trains.
    ///
    /// # Errors
    /// [`Error::Misuse`] for lengths that do not fit.
    fn pull_back(&self, parameters: &[f32], gradient: &[f32]) -> Result<Vec<f32>>;

    /// θ by name, as PEFT names it, in the order of PEFT's `state_dict`.
    fn parameters(&self) -> Vec<(String, Var)>;
}

/// Takes one `[dims]` tensor out of a map as a trainable f32 variable.
fn variable(tensors: &HashMap<String, Tensor>, key: &str, rank: usize) -> Result<Var> {
    let tensor = tensors
        .get(key)
        .ok_or_else(|| Error::Malformed(format!("no encoder tensor {key}")))?;
    if tensor.rank() != rank {
        return Err(Error::Malformed(format!(
            "{key} has shape {:?}, not rank {rank}",
            tensor.dims()
        )));
    }
    Ok(Var::from_tensor(&tensor.to_dtype(DType::F32)?)?)
}
