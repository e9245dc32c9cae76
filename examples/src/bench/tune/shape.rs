//! The models that a step is timed on.

use ciphertune_tune::{
    backbone::{LlamaConfig, random::small_llama},
    spec::EncoderSpec,
};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A model, and a batch for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// A Llama of one layer: whether everything runs.
    Tiny,
    /// A Llama of 4 layers, hidden size 256, vocabulary 8,192.
    Small,
    /// A Llama of GPT-2's size: 12 layers, hidden size 768, vocabulary 50,257, 124 million parameters.
    Medium,
    /// The sentence encoder of `--model`, a BERT with a pooler, classifying.
    Minilm,
}

/// Who is in a batch.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Examples.
    pub examples: usize,
    /// V.
    pub virtual_tokens: usize,
    /// Tokens of an example's text, answer and special tokens included.
    pub text_tokens: usize,
}

impl Shape {
    /// An untrained Llama; `None` for a model that is read.
    pub fn llama(self) -> Option<LlamaConfig> {
        let (hidden, inner, layers, heads, vocabulary) = match self {
            Self::Tiny => (32, 64, 1, 4, 64),
            Self::Small => (256, 688, 4, 4, 8_192),
            Self::Medium => (768, 2_048, 12, 12, 50_257),
            Self::Minilm => return None,
        };
        Some(LlamaConfig {
            intermediate_size: inner,
            num_attention_heads: heads,
            num_key_value_heads: Some(heads),
            ..small_llama(vocabulary, hidden, layers)
        })
    }

    /// Its batch.
    pub fn batch(self) -> Batch {
        let (examples, virtual_tokens, text_tokens) = match self {
            Self::Tiny => (2, 4, 12),
            Self::Small | Self::Medium => (8, 16, 64),
            Self::Minilm => (32, 16, 48),
        };
        Batch {
            examples,
            virtual_tokens,
            text_tokens,
        }
    }
}

impl Batch {
    /// Positions of a step, virtual tokens included.
    pub fn positions(self) -> usize {
        self.examples * (self.virtual_tokens + self.text_tokens)
    }
}

/// PEFT's encoders, by its names; inner layers are as wide as the embeddings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EncoderKind {
    /// A perceptron of three layers.
    Mlp,
}

impl EncoderKind {
    /// The encoder for embeddings of length `hidden`.
    pub fn spec(self, hidden: usize) -> EncoderSpec {
        match self {
            Self::Mlp => EncoderSpec::Mlp { hidden },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_medium_model_has_gpt2s_size() {
        let config = Shape::Medium.llama().unwrap();
        let (h, inner) = (config.hidden_size, config.intermediate_size);
        let layer = 4 * h * h + 3 * h * inner + 2 * h;
        let parameters = config.vocab_size * h + config.num_hidden_layers * layer + h;
        assert!((120_000_000..126_000_000).contains(&parameters));
        assert_eq!(Shape::Medium.batch().positions(), 640);
    }
}
