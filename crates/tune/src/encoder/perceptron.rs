//! Linear layers with ReLU between them, as `torch.nn.Sequential` numbers them: 0, 2, 4, …

use std::collections::HashMap;

use candle_core::{Device, Tensor, Var};

use super::{plain, variable};
use crate::error::{Error, Result};
use crate::random::SplitMix;

/// x ↦ W₂ₖ·ReLU(… ReLU(W₀·x + b₀) …) + b₂ₖ, row by row. Cloning shares the variables.
#[derive(Clone)]
pub(super) struct Perceptron(Vec<Linear>);

#[derive(Clone)]
struct Linear {
    weight: Var,
    bias: Var,
}

impl Perceptron {
    /// Layers between `widths`, every W and b of a layer with n inputs ~ U(−1/√n, 1/√n), as torch starts them.
    pub(super) fn random(
        widths: &[usize],
        numbers: &mut SplitMix,
        device: &Device,
    ) -> Result<Self> {
        let layers = widths.windows(2).map(|pair| {
            let (inputs, outputs) = (pair[0], pair[1]);
            let bound = 1.0 / (inputs as f64).sqrt();
            let weight = numbers.uniform(outputs * inputs, bound);
            Ok(Linear {
                weight: Var::from_vec(weight, (outputs, inputs), device)?,
                bias: Var::from_vec(numbers.uniform(outputs, bound), outputs, device)?,
            })
        });
        layers.collect::<Result<_>>().map(Self)
    }

    /// As many layers as there are tensors `encoder.mlp_head.{0,2,…}.{weight,bias}`, from `width` back to `out`.
    pub(super) fn from_tensors(
        tensors: &HashMap<String, Tensor>,
        mut width: usize,
        out: usize,
    ) -> Result<Self> {
        let mut layers = Vec::new();
        loop {
            let weight = variable(tensors, &name(layers.len(), "weight"), 2)?;
            let bias = variable(tensors, &name(layers.len(), "bias"), 1)?;
            let (outputs, inputs) = weight.dims2()?;
            if inputs != width || bias.dims() != [outputs] {
                return Err(Error::Malformed(format!(
                    "{} has shape {:?} and its bias {:?} after width {width}",
                    name(layers.len(), "weight"),
                    weight.dims(),
                    bias.dims()
                )));
            }
            width = outputs;
            layers.push(Linear { weight, bias });
            if !tensors.contains_key(&name(layers.len(), "weight")) {
                break;
            }
        }
        if width != out {
            return Err(Error::Malformed(format!(
                "encoder.mlp_head gives width {width}, not {out}"
            )));
        }
        Ok(Self(layers))
    }

    /// Number of layers.
    pub(super) fn depth(&self) -> usize {
        self.0.len()
    }

    /// Width of what comes out.
    pub(super) fn out(&self) -> usize {
        self.0.last().map_or(0, |layer| layer.bias.elem_count())
    }

    /// Number of parameters.
    pub(super) fn dimension(&self) -> usize {
        let each = |layer: &Linear| layer.weight.elem_count() + layer.bias.elem_count();
        self.0.iter().map(each).sum()
    }

    /// W₀, b₀, W₂, b₂, … by name.
    pub(super) fn parameters(&self) -> impl Iterator<Item = (String, Var)> {
        self.0.iter().enumerate().flat_map(|(at, layer)| {
            [
                (name(at, "weight"), layer.weight.clone()),
                (name(at, "bias"), layer.bias.clone()),
            ]
        })
    }

    /// `[V, in]` → `[V, out]`, and what went into each layer.
    pub(super) fn forward(&self, x: Tensor) -> Result<(Tensor, Vec<Tensor>)> {
        let (mut x, mut inputs) = (x, Vec::with_capacity(self.0.len()));
        for (at, layer) in self.0.iter().enumerate() {
            if at > 0 {
                x = x.relu()?;
            }
            let weight = layer.weight.as_detached_tensor();
            let y = x.matmul(&weight.t()?)?;
            inputs.push(x);
            x = y.broadcast_add(&layer.bias.as_detached_tensor())?;
        }
        Ok((x, inputs))
    }

    /// From the slope of what came out, that of what went in and that of the parameters, in their order.
    pub(super) fn pull_back(
        &self,
        inputs: &[Tensor],
        slope: &Tensor,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let mut slope = slope.clone();
        // From the last layer to the first, each one's bias before its weight.
        let mut reversed = Vec::with_capacity(2 * self.0.len());
        for (at, (layer, input)) in self.0.iter().zip(inputs).enumerate().rev() {
            reversed.push(slope.sum(0)?);
            reversed.push(slope.t()?.matmul(input)?);
            slope = slope.matmul(&layer.weight.as_detached_tensor())?;
            if at > 0 {
                // ReLU passes a slope on where it passed its input on.
                slope = slope.mul(&input.gt(0.0)?.to_dtype(slope.dtype())?)?;
            }
        }
        reversed.reverse();
        Ok((slope, reversed))
    }

    /// The same in f64 from a flat θ: as [`super::Encoder::pull_back`].
    pub(super) fn plain(&self, parameters: &[f32]) -> Plain {
        let mut rest = parameters;
        let layers = self.0.iter().map(|layer| {
            let (weight, after) = rest.split_at(layer.weight.elem_count());
            let (bias, after) = after.split_at(layer.bias.elem_count());
            rest = after;
            plain::Layer {
                weight: plain::wide(weight),
                bias: plain::wide(bias),
            }
        });
        Plain(layers.collect())
    }
}

fn name(at: usize, part: &str) -> String {
    format!("encoder.mlp_head.{}.{part}", 2 * at)
}

/// A [`Perceptron`]'s numbers in f64.
pub(super) struct Plain(Vec<plain::Layer>);

impl Plain {
    /// From the slope `g` of what comes out for the rows `x`: that of x, and that of the parameters.
    pub(super) fn pull_back(&self, x: Vec<f64>, g: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let mut inputs = vec![x];
        // Of what the last layer gives, nothing is wanted.
        for layer in &self.0[..self.0.len() - 1] {
            let mut y = layer.forward(&inputs[inputs.len() - 1]);
            y.iter_mut().for_each(|z| *z = z.max(0.0));
            inputs.push(y);
        }
        let mut slope = g.to_vec();
        let mut reversed = Vec::with_capacity(2 * self.0.len());
        for (at, layer) in self.0.iter().enumerate().rev() {
            let gradient = layer.pull_back(&inputs[at], &slope);
            reversed.extend([gradient.bias, gradient.weight]);
            slope = gradient.input;
            if at > 0 {
                let passed = slope.iter_mut().zip(&inputs[at]);
                passed.for_each(|(s, &a)| *s = if a > 0.0 { *s } else { 0.0 });
            }
        }
        (slope, reversed.into_iter().rev().flatten().collect())
    }
}
