//! Perceptrons over an embedding: PEFT's `PromptEncoder` with `encoder_reparameterization_type = MLP`, and NeMo's.

use std::collections::HashMap;

use candle_core::{Device, Tensor, Var};

use super::perceptron::Perceptron;
use super::{Encoder, Prompt, check_lengths, plain, variable};
use crate::error::{Error, Result};
use crate::random::SplitMix;

/// P(θ) = W₄·ReLU(W₂·ReLU(W₀·E + b₀) + b₂) + b₄, row by row over E `[V, H]`, with
/// W₀ `[M, H]`, W₂ `[M, M]`, W₄ `[H, M]` (Liu et al., "GPT understands, too", 2021; PEFT
/// 0.21 `PromptEncoder`); or, of two layers, W₂·ReLU(W₀·E + b₀) + b₂ with W₂ `[H, M]` (NeMo's
/// `PromptEncoder`, type `mlp`, with the two layers it recommends).
pub struct Mlp {
    embedding: Var,
    layers: Perceptron,
}

/// Whose perceptron it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// PEFT's three layers.
    Peft,
    /// NeMo's two.
    Nemo,
}

const EMBEDDING: &str = "encoder.embedding.weight";

impl Mlp {
    /// A start as torch gives it, from `seed`: E ~ N(0, 1), and every W and b of a layer with
    /// n inputs ~ U(−1/√n, 1/√n). The generator fills E, W₀, b₀, W₂, b₂, … in turn.
    ///
    /// # Errors
    /// [`Error::Misuse`] for a zero dimension.
    pub fn random(
        virtual_tokens: usize,
        hidden: usize,
        inner: usize,
        depth: Depth,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        if virtual_tokens == 0 || hidden == 0 || inner == 0 {
            return Err(Error::Misuse(format!(
                "an MLP prompt encoder of {virtual_tokens} × {hidden}, inner width {inner}"
            )));
        }
        let mut random = SplitMix::new(seed);
        let values = random.normal(virtual_tokens * hidden, 1.0);
        let widths: &[usize] = match depth {
            Depth::Peft => &[hidden, inner, inner, hidden],
            Depth::Nemo => &[hidden, inner, hidden],
        };
        Ok(Self {
            embedding: Var::from_vec(values, (virtual_tokens, hidden), device)?,
            layers: Perceptron::random(widths, &mut random, device)?,
        })
    }

    /// θ from tensors named as PEFT names them (`encoder.embedding.weight`,
    /// `encoder.mlp_head.{0,2,4}.{weight,bias}`); without the fourth, NeMo's.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the tensor that is missing or does not fit.
    pub fn from_tensors(tensors: &HashMap<String, Tensor>) -> Result<Self> {
        let embedding = variable(tensors, EMBEDDING, 2)?;
        let hidden = embedding.dims2()?.1;
        let layers = Perceptron::from_tensors(tensors, hidden, hidden)?;
        if !(2..=3).contains(&layers.depth()) {
            return Err(Error::Malformed(format!(
                "encoder.mlp_head has {} layers; known: 3 (PEFT) and 2 (NeMo)",
                layers.depth()
            )));
        }
        Ok(Self { embedding, layers })
    }
}

impl Encoder for Mlp {
    fn kind(&self) -> &'static str {
        match self.layers.depth() {
            2 => "nemo-mlp",
            _ => "mlp",
        }
    }

    fn virtual_tokens(&self) -> usize {
        self.embedding.dims().first().copied().unwrap_or(0)
    }

    fn forward(&self) -> Result<Prompt> {
        let (prompt, inputs) =
            (self.layers).forward(self.embedding.as_detached_tensor().copy()?)?;
        let layers = self.layers.clone();
        Ok(Prompt::new(prompt, move |gradient| {
            let (embedding, rest) = layers.pull_back(&inputs, gradient)?;
            Ok([vec![embedding], rest].concat())
        }))
    }

    fn pull_back(&self, parameters: &[f32], gradient: &[f32]) -> Result<Vec<f32>> {
        let all = self.embedding.elem_count() + self.layers.dimension();
        check_lengths(
            parameters,
            all,
            gradient,
            self.virtual_tokens() * self.layers.out(),
        )?;
        let (embedding, layers) = parameters.split_at(self.embedding.elem_count());
        let layers = self.layers.plain(layers);
        let (mut slope, rest) = layers.pull_back(plain::wide(embedding), &plain::wide(gradient));
        slope.extend(rest);
        Ok(slope.into_iter().map(|x| x as f32).collect())
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        let mut named = vec![(EMBEDDING.to_owned(), self.embedding.clone())];
        named.extend(self.layers.parameters());
        named
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{flat, slopes_agree};
    use super::*;

    fn encoder(depth: Depth) -> Mlp {
        Mlp::random(3, 8, 5, depth, 1, &Device::Cpu).expect("an encoder")
    }

    #[test]
    fn tensors_go_out_and_come_back_and_slopes_agree() {
        for (depth, kind) in [(Depth::Peft, "mlp"), (Depth::Nemo, "nemo-mlp")] {
            let encoder = encoder(depth);
            let again = Mlp::from_tensors(&encoder.tensors().expect("tensors")).expect("the same");
            assert_eq!(flat(&encoder), flat(&again));
            assert_eq!((again.kind(), again.virtual_tokens()), (kind, 3));
            slopes_agree(&encoder);
        }
    }

    #[test]
    fn what_is_pulled_back_has_these_bits_on_every_machine() {
        let encoder = Mlp::random(2, 3, 2, Depth::Peft, 1, &Device::Cpu).expect("an encoder");
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
    fn a_missing_or_ill_fitting_tensor_is_named() {
        let tensors = encoder(Depth::Peft).tensors().expect("tensors");
        let mut missing = tensors.clone();
        missing.remove("encoder.mlp_head.2.bias");
        let mut wide = tensors;
        let rows = Tensor::zeros((7, 5), candle_core::DType::F32, &Device::Cpu).expect("a tensor");
        wide.insert("encoder.mlp_head.4.weight".into(), rows);
        for (tensors, name) in [(missing, "mlp_head.2.bias"), (wide, "mlp_head.4.weight")] {
            let refused = Mlp::from_tensors(&tensors).err().expect("a refusal");
            assert!(
                matches!(&refused, Error::Malformed(what) if what.contains(name)),
                "{refused}"
            );
        }
    }
}
