//! Plain prompt tuning: the virtual-token embeddings are the parameters.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, Var};

use super::{Encoder, Prompt, check_lengths, variable};
use crate::error::{Error, Result};
use crate::random::SplitMix;

/// P(θ) = θ, with θ `[V, H]` (Lester, Al-Rfou, Constant, "The power of scale for
/// parameter-efficient prompt tuning", EMNLP 2021; PEFT's `PromptEmbedding`).
pub struct Embedding {
    weight: Var,
}

impl Embedding {
    const WEIGHT: &'static str = "encoder.embedding.weight";

    /// θ ~ N(0, 1), as torch's `nn.Embedding` starts, from `seed`.
    ///
    /// # Errors
    /// [`Error::Misuse`] for no virtual tokens or no width.
    pub fn random(
        virtual_tokens: usize,
        hidden: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        if virtual_tokens == 0 || hidden == 0 {
            return Err(Error::Misuse(format!(
                "a prompt of {virtual_tokens} × {hidden}"
            )));
        }
        let values = SplitMix::new(seed).normal(virtual_tokens * hidden, 1.0);
        Ok(Self {
            weight: Var::from_vec(values, (virtual_tokens, hidden), device)?,
        })
    }

    /// θ started at given rows `[V, H]`: those of words' embeddings, say.
    ///
    /// # Errors
    /// [`Error::Misuse`] for another rank than two, or an empty tensor.
    pub fn from_rows(rows: &Tensor) -> Result<Self> {
        if rows.rank() != 2 || rows.elem_count() == 0 {
            return Err(Error::Misuse(format!(
                "prompt rows of shape {:?}",
                rows.dims()
            )));
        }
        Ok(Self {
            weight: Var::from_tensor(&rows.detach().to_dtype(DType::F32)?)?,
        })
    }

    /// θ from `encoder.embedding.weight`.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it is missing or not a matrix.
    pub fn from_tensors(tensors: &HashMap<String, Tensor>) -> Result<Self> {
        Ok(Self {
            weight: variable(tensors, Self::WEIGHT, 2)?,
        })
    }
}

impl Encoder for Embedding {
    fn kind(&self) -> &'static str {
        "embedding"
    }

    fn virtual_tokens(&self) -> usize {
        self.weight.dims().first().copied().unwrap_or(0)
    }

    /// P = θ: J is the identity.
    fn forward(&self) -> Result<Prompt> {
        Ok(Prompt::new(
            self.weight.as_detached_tensor().copy()?,
            |gradient| Ok(vec![gradient.clone()]),
        ))
    }

    fn pull_back(&self, parameters: &[f32], gradient: &[f32]) -> Result<Vec<f32>> {
        let length = self.weight.elem_count();
        check_lengths(parameters, length, gradient, length)?;
        Ok(gradient.to_vec())
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        vec![(Self::WEIGHT.to_owned(), self.weight.clone())]
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{flat, slopes_agree};
    use super::*;

    #[test]
    fn one_seed_gives_one_prompt_on_every_machine() {
        let rows = || {
            let prompt = Embedding::random(2, 3, 42, &Device::Cpu).expect("an encoder");
            assert_eq!(prompt.virtual_tokens(), 2);
            flat(&prompt)
        };
        assert_eq!(rows(), rows());
    }

    #[test]
    fn the_gradient_of_a_prompt_is_the_gradient_of_its_parameters() {
        slopes_agree(&Embedding::random(2, 3, 42, &Device::Cpu).expect("an encoder"));
    }

    #[test]
    fn an_empty_prompt_is_refused() {
        assert!(matches!(
            Embedding::random(0, 3, 1, &Device::Cpu),
            Err(Error::Misuse(_))
        ));
    }
}
