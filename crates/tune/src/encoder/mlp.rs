//! PEFT's `PromptEncoder` with `encoder_reparameterization_type = MLP`.

use std::collections::HashMap;

use candle_core::{Device, Tensor, Var};

use super::{Encoder, variable};
use crate::error::{Error, Result};
use crate::random::SplitMix;

/// P(θ) = W₄·ReLU(W₂·ReLU(W₀·E + b₀) + b₂) + b₄, row by row over E `[V, H]`, with
/// W₀ `[M, H]`, W₂ `[M, M]`, W₄ `[H, M]` (Liu et al., "GPT understands, too", 2021; PEFT
/// 0.21 `PromptEncoder`).
pub struct Mlp {
    embedding: Var,
    layers: [Linear; 3],
}

struct Linear {
    index: usize,
    weight: Var,
    bias: Var,
}

impl Mlp {
    /// A start as torch gives it, from `seed`: E ~ N(0, 1), and every W and b of a layer with
    /// n inputs ~ U(−1/√n, 1/√n). The generator fills E, W₀, b₀, W₂, b₂, W₄, b₄ in turn.
    ///
    /// # Errors
    /// [`Error::Misuse`] for a zero dimension.
    pub fn random(
        virtual_tokens: usize,
        hidden: usize,
        inner: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        if virtual_tokens == 0 || hidden == 0 || inner == 0 {
            return Err(Error::Misuse(format!(
                "an MLP prompt encoder of {virtual_tokens} × {hidden}, inner width {inner}"
            )));
        }
        let mut numbers = SplitMix::new(seed);
        let values = numbers.normal(virtual_tokens * hidden, 1.0);
        let embedding = Var::from_vec(values, (virtual_tokens, hidden), device)?;
        let mut linear = |index, inputs: usize, outputs: usize| -> Result<Linear> {
            let bound = 1.0 / (inputs as f64).sqrt();
            let weight = numbers.uniform(outputs * inputs, bound);
            Ok(Linear {
                index,
                weight: Var::from_vec(weight, (outputs, inputs), device)?,
                bias: Var::from_vec(numbers.uniform(outputs, bound), outputs, device)?,
            })
        };
        let layers = [
            linear(0, hidden, inner)?,
            linear(2, inner, inner)?,
            linear(4, inner, hidden)?,
        ];
        Ok(Self { embedding, layers })
    }

    /// θ from tensors named as PEFT names them (`encoder.embedding.weight`,
    /// `encoder.mlp_head.{0,2,4}.{weight,bias}`).
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the tensor that is missing or does not fit.
    pub fn from_tensors(tensors: &HashMap<String, Tensor>) -> Result<Self> {
        let embedding = variable(tensors, "encoder.embedding.weight", 2)?;
        let hidden = embedding.dims2()?.1;
        let mut width = hidden;
        let mut linear = |index| -> Result<Linear> {
            let weight = variable(tensors, &format!("encoder.mlp_head.{index}.weight"), 2)?;
            let bias = variable(tensors, &format!("encoder.mlp_head.{index}.bias"), 1)?;
            let (outputs, inputs) = weight.dims2()?;
            if inputs != width || bias.dims() != [outputs] {
                return Err(Error::Malformed(format!(
                    "encoder.mlp_head.{index} has weight {:?} and bias {:?} after width {width}",
                    weight.dims(),
                    bias.dims()
                )));
            }
            width = outputs;
            Ok(Linear {
                index,
                weight,
                bias,
            })
        };
        let layers = [linear(0)?, linear(2)?, linear(4)?];
        if width != hidden {
            return Err(Error::Malformed(format!(
                "encoder.mlp_head.4 gives width {width}, not {hidden}"
            )));
        }
        Ok(Self { embedding, layers })
    }
}

impl Encoder for Mlp {
    fn kind(&self) -> &'static str {
        "mlp"
    }

    fn virtual_tokens(&self) -> usize {
        self.embedding.dims().first().copied().unwrap_or(0)
    }

    fn forward(&self) -> Result<Tensor> {
        let mut rows = self.embedding.as_tensor().clone();
        for layer in &self.layers {
            if layer.index > 0 {
                rows = rows.relu()?;
            }
            rows = rows
                .matmul(&layer.weight.t()?)?
                .broadcast_add(&layer.bias)?;
        }
        Ok(rows)
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        let mut named = vec![(
            "encoder.embedding.weight".to_owned(),
            self.embedding.clone(),
        )];
        for Linear {
            index,
            weight,
            bias,
        } in &self.layers
        {
            named.push((format!("encoder.mlp_head.{index}.weight"), weight.clone()));
            named.push((format!("encoder.mlp_head.{index}.bias"), bias.clone()));
        }
        named
    }
}

impl Mlp {
    /// θ as a map of detached tensors, named as in [`Mlp::from_tensors`].
    pub fn tensors(&self) -> HashMap<String, Tensor> {
        self.parameters()
            .into_iter()
            .map(|(name, variable)| (name, variable.as_detached_tensor()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;

    use super::*;

    #[test]
    fn tensors_go_out_and_come_back() {
        let encoder = Mlp::random(3, 8, 5, 1, &Device::Cpu).expect("an encoder");
        let again = Mlp::from_tensors(&encoder.tensors()).expect("the same");
        let prompts = |e: &Mlp| {
            e.forward()
                .and_then(|p| Ok(p.to_vec2::<f32>()?))
                .expect("prompts")
        };
        assert_eq!(prompts(&encoder), prompts(&again));
    }

    #[test]
    fn a_missing_or_misshapen_tensor_is_named() {
        let encoder = Mlp::random(3, 8, 5, 1, &Device::Cpu).expect("an encoder");
        let mut tensors = encoder.tensors();
        let wide = Tensor::zeros((6, 6), DType::F32, &Device::Cpu).expect("a tensor");
        tensors.insert("encoder.mlp_head.2.weight".to_owned(), wide);
        let refused = Mlp::from_tensors(&tensors).err().map(|e| e.to_string());
        assert!(refused.is_some_and(|text| text.contains("mlp_head.2")));
        tensors.remove("encoder.mlp_head.0.bias");
        let refused = Mlp::from_tensors(&tensors).err().map(|e| e.to_string());
        assert!(refused.is_some_and(|text| text.contains("mlp_head.0.bias")));
    }
}
