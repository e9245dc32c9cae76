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

    /// Forward and backward in f64, rounded to f32 at the end.
    fn pull_back(&self, parameters: &[f32], gradient: &[f32]) -> Result<Vec<f32>> {
        let rows = self.virtual_tokens();
        let prompt = rows * self.layers[2].weight.dims()[0];
        let all = self.embedding.elem_count()
            + (self.layers.iter())
                .map(|layer| layer.weight.elem_count() + layer.bias.elem_count())
                .sum::<usize>();
        if parameters.len() != all || gradient.len() != prompt {
            return Err(Error::Misuse(format!(
                "{} parameters and a gradient of {} for {all} parameters of a prompt of {prompt}",
                parameters.len(),
                gradient.len()
            )));
        }
        let wide = |values: &[f32]| -> Vec<f64> { values.iter().map(|&x| x.into()).collect() };
        let (embedding, mut rest) = parameters.split_at(self.embedding.elem_count());
        let mut inputs = vec![wide(embedding)];
        let mut layers = Vec::new();
        for layer in &self.layers {
            let (weight, after) = rest.split_at(layer.weight.elem_count());
            let (bias, after) = after.split_at(layer.bias.elem_count());
            rest = after;
            let layer = Plain {
                weight: wide(weight),
                bias: wide(bias),
            };
            // Of what the last layer gives, nothing is wanted.
            if inputs.len() < self.layers.len() {
                let mut outputs = layer.forward(&inputs[inputs.len() - 1], rows);
                outputs.iter_mut().for_each(|z| *z = z.max(0.0));
                inputs.push(outputs);
            }
            layers.push(layer);
        }
        let mut slope = wide(gradient);
        // Of the last layer's bias and weight, of the one's before, …: then turned round.
        let mut reversed = Vec::with_capacity(2 * layers.len() + 1);
        for (at, layer) in layers.iter().enumerate().rev() {
            let (bias, weight, back) = layer.pull_back(&inputs[at], &slope, rows);
            reversed.extend([bias, weight]);
            slope = back;
            if at > 0 {
                // ReLU passes a slope on where it passed its input on.
                let passed = slope.iter_mut().zip(&inputs[at]);
                passed.for_each(|(s, &a)| *s = if a > 0.0 { *s } else { 0.0 });
            }
        }
        reversed.push(slope);
        let pulled = reversed.into_iter().rev().flatten();
        Ok(pulled.map(|x| x as f32).collect())
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

/// A layer's numbers, row-major: W `[outputs, inputs]`, b `[outputs]`.
struct Plain {
    weight: Vec<f64>,
    bias: Vec<f64>,
}

impl Plain {
    fn inputs(&self) -> usize {
        self.weight.len() / self.bias.len()
    }

    /// a·Wᵀ + b, for each row of a.
    fn forward(&self, a: &[f64], rows: usize) -> Vec<f64> {
        let mut out = Vec::with_capacity(rows * self.bias.len());
        for a in a.chunks_exact(self.inputs()) {
            for (w, b) in self.weight.chunks_exact(self.inputs()).zip(&self.bias) {
                out.push(a.iter().zip(w).fold(*b, |sum, (a, w)| sum + a * w));
            }
        }
        out
    }

    /// With G the slope of what came out: Σ G over rows, Gᵀ·a, and G·W.
    fn pull_back(&self, a: &[f64], g: &[f64], rows: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
        let (outputs, inputs) = (self.bias.len(), self.inputs());
        let mut bias = vec![0.0; outputs];
        let mut weight = vec![0.0; self.weight.len()];
        let mut back = vec![0.0; rows * inputs];
        let rows = g.chunks_exact(outputs).zip(a.chunks_exact(inputs));
        for ((g, a), back) in rows.zip(back.chunks_exact_mut(inputs)) {
            for (output, &g) in g.iter().enumerate() {
                bias[output] += g;
                let run = output * inputs..(output + 1) * inputs;
                let sums = weight[run.clone()].iter_mut().zip(a);
                sums.for_each(|(sum, a)| *sum += g * a);
                let sums = back.iter_mut().zip(&self.weight[run]);
                sums.for_each(|(sum, w)| *sum += g * w);
            }
        }
        (bias, weight, back)
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
    fn what_is_pulled_back_is_the_gradient_that_the_tensor_library_finds() {
        let encoder = Mlp::random(3, 8, 5, 1, &Device::Cpu).expect("an encoder");
        let gradient: Vec<f32> = (0..24).map(|at| (at % 7) as f32 / 7.0 - 0.4).collect();
        let theta: Vec<f32> = (encoder.parameters().iter())
            .flat_map(|(_, it)| it.flatten_all().and_then(|it| it.to_vec1::<f32>()).unwrap())
            .collect();
        let pulled = encoder.pull_back(&theta, &gradient).expect("a gradient");
        let weights = Tensor::from_slice(&gradient, (3, 8), &Device::Cpu).unwrap();
        let loss = (encoder.forward().unwrap() * weights)
            .unwrap()
            .sum_all()
            .unwrap();
        let gradients = loss.backward().unwrap();
        let found: Vec<f32> = (encoder.parameters().iter())
            .flat_map(|(_, it)| {
                let gradient = gradients.get(it).expect("a gradient").flatten_all();
                gradient.and_then(|it| it.to_vec1::<f32>()).unwrap()
            })
            .collect();
        assert_eq!(pulled.len(), found.len());
        assert!(found.iter().any(|x| x.abs() > 1e-2));
        for (pulled, found) in pulled.iter().zip(&found) {
            assert!((pulled - found).abs() < 1e-5, "{pulled} {found}");
        }
        let misuse = |theta: &[f32], gradient: &[f32]| {
            matches!(encoder.pull_back(theta, gradient), Err(Error::Misuse(_)))
        };
        assert!(misuse(&theta[1..], &gradient) && misuse(&theta, &gradient[1..]));
    }

    #[test]
    fn what_is_pulled_back_has_these_bits_on_every_machine() {
        let encoder = Mlp::random(2, 3, 2, 1, &Device::Cpu).expect("an encoder");
        let theta: Vec<f32> = (0..29)
            .map(|at| (at * 7 % 23) as f32 / 23.0 - 0.4)
            .collect();
        let gradient: Vec<f32> = (0..6).map(|at| (at * 5 % 11) as f32 / 11.0 - 0.5).collect();
        let pulled = encoder.pull_back(&theta, &gradient).expect("a gradient");
        let bits = [0, 3, 6, 12, 14, 18, 20, 27].map(|at: usize| pulled[at].to_bits());
        // Worked out in Python's doubles, operation by operation in the same order.
        let expected = [
            0x3C54_A0C3,
            0xBCB3_A220,
            0xBD8A_7090,
            0xBD89_E150,
            0x3DC2_9AEE,
            0x3E86_5FEC,
            0xBDB0_D23A,
            0x3E8B_A2E9,
        ];
        assert_eq!(bits, expected, "{bits:#010X?}");
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
