//! Prompt encoders: V learned indices become V virtual-token embeddings `[V, H]`.
//!
//! None of them is a part of candle's graph: the prompt is a leaf there, and [`Prompt::pull_back`] takes its gradient on to
//! the parameters.

pub mod embedding;
pub mod lstm;
pub mod mlp;
mod perceptron;
mod plain;

use std::collections::HashMap;

use candle_core::{DType, Tensor, Var};

use crate::error::{Error, Result};

/// What p-tuning trains in place of the backbone.
pub trait Encoder: Send + Sync {
    /// The name policies and plans know it by (`"embedding"`, `"mlp"`, `"lstm"`).
    fn kind(&self) -> &'static str;

    /// V, the number of virtual tokens.
    fn virtual_tokens(&self) -> usize;

    /// P(θ) and the way back from it, as fast as this machine can.
    ///
    /// # Errors
    /// [`Error::Fault`] if the tensor library fails.
    fn forward(&self) -> Result<Prompt>;

    /// Jᵀ·G with J = ∂P/∂θ at `parameters` (as [`Encoder::parameters`] lays them out) and G
    /// `[V, H]`, a gradient of the prompt, both row-major: the same bits on every machine, so
    /// scalar arithmetic in a fixed order, without fused multiply–add, whatever device trains.
    ///
    /// # Errors
    /// [`Error::Misuse`] for lengths that do not fit.
    fn pull_back(&self, parameters: &[f32], gradient: &[f32]) -> Result<Vec<f32>>;

    /// θ by name, as PEFT names it, in the order of PEFT's `state_dict`.
    fn parameters(&self) -> Vec<(String, Var)>;

    /// θ as a map of tensors of its own, named as [`Encoder::parameters`] names them.
    ///
    /// # Errors
    /// [`Error::Fault`] if memory cannot be had.
    fn tensors(&self) -> Result<HashMap<String, Tensor>> {
        let parameters = self.parameters().into_iter();
        parameters
            .map(|(name, variable)| Ok((name, variable.as_detached_tensor().copy()?)))
            .collect()
    }
}

/// Virtual-token embeddings, and how a gradient of them becomes one of the parameters.
pub struct Prompt {
    embeddings: Tensor,
    pull_back: Pullback,
}

/// G `[V, H]` → Jᵀ·G, as many numbers as [`Encoder::parameters`] have, in their order.
type Pullback = Box<dyn Fn(&Tensor) -> Result<Vec<Tensor>> + Send + Sync>;

impl Prompt {
    fn new(
        embeddings: Tensor,
        pull_back: impl Fn(&Tensor) -> Result<Vec<Tensor>> + Send + Sync + 'static,
    ) -> Self {
        Self {
            embeddings,
            pull_back: Box::new(pull_back),
        }
    }

    /// P `[V, H]`, f32, no part of a graph.
    pub fn embeddings(&self) -> &Tensor {
        &self.embeddings
    }

    /// Jᵀ·G for a gradient G `[V, H]`, in f32, in the order of [`Encoder::parameters`]: for one machine's own training. The step
    /// that all members must take alike is [`Encoder::pull_back`]'s.
    ///
    /// # Errors
    /// [`Error::Misuse`] for another shape.
    pub fn pull_back(&self, gradient: &Tensor) -> Result<Vec<Tensor>> {
        if gradient.dims() != self.embeddings.dims() {
            return Err(Error::Misuse(format!(
                "a gradient of shape {:?} for a prompt of {:?}",
                gradient.dims(),
                self.embeddings.dims()
            )));
        }
        (self.pull_back)(&gradient.detach().contiguous()?)
    }
}

/// Takes one tensor of a given rank out of a map as a trainable f32 variable.
fn variable(tensors: &HashMap<String, Tensor>, key: &str, rank: usize) -> Result<Var> {
    let tensor = tensors
        .get(key)
        .ok_or_else(|| Error::Malformed(format!("no encoder tensor {key}")))?;
    if tensor.rank() != rank || tensor.elem_count() == 0 {
        return Err(Error::Malformed(format!(
            "{key} has shape {:?}, not rank {rank}",
            tensor.dims()
        )));
    }
    Ok(Var::from_tensor(&tensor.to_dtype(DType::F32)?)?)
}

/// Refuses vectors that are not as long as θ and the prompt.
fn check_lengths(
    parameters: &[f32],
    expected: usize,
    gradient: &[f32],
    prompt: usize,
) -> Result<()> {
    if parameters.len() == expected && gradient.len() == prompt {
        return Ok(());
    }
    Err(Error::Misuse(format!(
        "{} parameters and a gradient of {} for {expected} parameters of a prompt of {prompt}",
        parameters.len(),
        gradient.len()
    )))
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::tensors::joined;

    /// θ of an encoder, flat.
    pub(super) fn flat(encoder: &dyn Encoder) -> Vec<f32> {
        let parameters = encoder.parameters().into_iter();
        let each: Vec<Tensor> = parameters.map(|(_, it)| it.as_detached_tensor()).collect();
        joined(&each).expect("θ")
    }

    /// Moves an encoder to θ.
    fn assign(encoder: &dyn Encoder, theta: &[f32]) {
        let mut rest = theta;
        for (_, variable) in encoder.parameters() {
            let (head, tail) = rest.split_at(variable.elem_count());
            let value = Tensor::from_slice(head, variable.shape(), &Device::Cpu).expect("a tensor");
            variable.set(&value).expect("assigned");
            rest = tail;
        }
    }

    /// Both ways back agree with one another, and with the slope along random directions.
    pub(super) fn slopes_agree(encoder: &dyn Encoder) {
        let theta = flat(encoder);
        let prompt = encoder.forward().expect("a prompt");
        let shape = prompt.embeddings().dims2().expect("a matrix");
        let gradient: Vec<f32> = (0..shape.0 * shape.1)
            .map(|at| (at * 37 % 23) as f32 / 23.0 - 0.4)
            .collect();
        let weights = Tensor::from_slice(&gradient, shape, &Device::Cpu).expect("a gradient");
        let fast = prompt.pull_back(&weights).expect("a gradient");
        let fast = joined(&fast).expect("numbers");
        let exact = encoder.pull_back(&theta, &gradient).expect("a gradient");
        assert_eq!((fast.len(), exact.len()), (theta.len(), theta.len()));
        let top = exact.iter().fold(0_f32, |top, x| top.max(x.abs()));
        for (at, (f, e)) in fast.iter().zip(&exact).enumerate() {
            assert!((f - e).abs() <= 1e-5 * top, "{at}: {f} {e}");
        }
        let loss = |theta: &[f32]| -> f64 {
            assign(encoder, theta);
            let prompt = encoder.forward().expect("a prompt");
            let values = joined(std::slice::from_ref(prompt.embeddings())).expect("numbers");
            let products = values.iter().zip(&gradient);
            products.map(|(p, g)| f64::from(*p) * f64::from(*g)).sum()
        };
        let mut random = crate::random::SplitMix::new(3);
        for _ in 0..8 {
            let direction = random.uniform(theta.len(), 1.0);
            let moved = |by: f32| -> Vec<f32> {
                let pairs = theta.iter().zip(&direction);
                pairs.map(|(t, d)| t + by * d).collect()
            };
            let slope = (loss(&moved(1e-3)) - loss(&moved(-1e-3))) / 2e-3;
            let pairs = exact.iter().zip(&direction);
            let along: f64 = pairs.map(|(e, d)| f64::from(*e) * f64::from(*d)).sum();
            assert!(
                (slope - along).abs() < 2e-2 * along.abs().max(1.0),
                "{slope} and {along}"
            );
        }
        assign(encoder, &theta);
        let short = encoder.pull_back(&theta[1..], &gradient);
        assert!(matches!(short, Err(Error::Misuse(_))));
        let wide = weights.unsqueeze(0).expect("another shape");
        assert!(matches!(prompt.pull_back(&wide), Err(Error::Misuse(_))));
    }
}
