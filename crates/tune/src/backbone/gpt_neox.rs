//! GPT-NeoX (Black et al., 2022; Pythia): pre-norm layers, rotary positions over a part of
//! every head, attention and feed-forward part side by side, a head of its own.

use std::path::Path;
use std::sync::Arc;

use candle_core::Device;
use serde::Deserialize;

use super::Options;
use super::causal::{Causal, Parts};
use super::config::{self, MOST_LAYERS, MOST_ROWS, MOST_WIDE, bounded, divides, gelu};
use super::frozen::Block;
use super::kernels::activation::Gelu;
use super::kernels::attention::Attention;
use super::kernels::rope::Rope;
use super::linear::Linear;
use super::operations::LayerNorm;
use super::prenorm::{Layer, Norm};
use super::rotary::{RopeParameters, frequencies};
use super::weights::{Part, Weights};
use crate::error::{Error, Result};

/// GPT-NeoX: the keys of transformers' `GPTNeoXConfig`.
#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    #[serde(default)]
    hidden_act: Option<String>,
    #[serde(default)]
    layer_norm_eps: Option<f64>,
    #[serde(default)]
    use_parallel_residual: Option<bool>,
    #[serde(default)]
    attention_bias: Option<bool>,
    #[serde(default)]
    tie_word_embeddings: bool,
    /// Rotary settings as transformers 5 writes them.
    #[serde(default)]
    rope_parameters: Option<RopeParameters>,
    /// Rotary settings as transformers 4 writes them, with the next four.
    #[serde(default)]
    rope_scaling: Option<RopeParameters>,
    #[serde(default)]
    rotary_pct: Option<f64>,
    #[serde(default)]
    partial_rotary_factor: Option<f64>,
    #[serde(default)]
    rotary_emb_base: Option<f64>,
    #[serde(default)]
    rope_theta: Option<f64>,
}

impl Config {
    fn check(&self) -> Result<()> {
        bounded(&[
            ("vocab_size", self.vocab_size, MOST_ROWS),
            ("hidden_size", self.hidden_size, MOST_WIDE),
            ("intermediate_size", self.intermediate_size, MOST_WIDE),
            ("num_hidden_layers", self.num_hidden_layers, MOST_LAYERS),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                MOST_ROWS,
            ),
        ])?;
        divides(
            "num_attention_heads",
            self.num_attention_heads,
            "hidden_size",
            self.hidden_size,
        )?;
        if self.intermediate_size == 0 {
            return Err(Error::Malformed("intermediate_size 0".into()));
        }
        self.gelu()?;
        self.frequencies().map(drop)
    }

    fn head_size(&self) -> usize {
        self.hidden_size / self.num_attention_heads
    }

    fn epsilon(&self) -> f32 {
        self.layer_norm_eps.unwrap_or(1e-5) as f32
    }

    fn gelu(&self) -> Result<Gelu> {
        gelu("hidden_act", self.hidden_act.as_deref().unwrap_or("gelu"))
    }

    /// Whether attention and feed-forward part both read the layer's input.
    fn parallel(&self) -> bool {
        self.use_parallel_residual != Some(false)
    }

    /// Whether q, k, v and the attention's output have biases.
    fn attention_bias(&self) -> bool {
        self.attention_bias != Some(false)
    }

    /// Angles a position, half as many as the numbers of a head that are rotated.
    fn frequencies(&self) -> Result<Vec<f32>> {
        let settings = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let part = settings
            .and_then(|s| s.partial_rotary_factor)
            .or(self.rotary_pct)
            .or(self.partial_rotary_factor)
            .unwrap_or(0.25);
        let rotated = self.head_size() as f64 * part;
        if !(0.0..=1.0).contains(&part) || !(rotated as usize).is_multiple_of(2) {
            return Err(Error::Malformed(format!(
                "{part} of a head of {} is not an even number of them",
                self.head_size()
            )));
        }
        let theta = self.rotary_emb_base.or(self.rope_theta);
        frequencies(settings, theta, rotated as usize)
    }
}

/// Reads a folder whose `model_type` is `gpt_neox`.
pub(super) fn load(dir: &Path, device: &Device, options: Options) -> Result<Causal> {
    let config: Config = config::read(dir)?;
    config.check()?;
    let weights = Weights::open(dir, device, options)?;
    let plain = weights.has("embed_in.weight");
    let root = if plain { "" } else { "gpt_neox." };
    let (hidden, epsilon) = (config.hidden_size, config.epsilon());
    let rope = Arc::new(Rope::new(config.head_size(), config.frequencies()?));
    let mut blocks: Vec<Box<dyn Block>> = Vec::with_capacity(config.num_hidden_layers + 1);
    for index in 0..config.num_hidden_layers {
        let at = format!("{root}layers.{index}");
        blocks.push(Box::new(layer(&weights, &at, &config, &rope)?));
    }
    let norm = format!("{root}final_layer_norm");
    let norm = LayerNorm::load(&weights, &norm, hidden, epsilon)?;
    blocks.push(Box::new(Norm(norm, weights.operations())));
    let parts = Parts {
        kind: "gpt_neox",
        vocabulary: config.vocab_size,
        hidden,
        positions: config.max_position_embeddings,
        tokens: &format!("{root}embed_in"),
        head: (!config.tie_word_embeddings).then_some("embed_out"),
        blocks,
    };
    Causal::assemble(dir, &weights, parts, options)
}

fn layer(weights: &Weights, at: &str, config: &Config, rope: &Arc<Rope>) -> Result<Layer> {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (heads, size) = (config.num_attention_heads, config.head_size());
    let norm =
        |name: &str| LayerNorm::load(weights, &format!("{at}.{name}"), hidden, config.epsilon());
    let linear = |name: &str, out: usize, width: usize, biased: bool| {
        Linear::load(weights, &format!("{at}.{name}"), (out, width), biased)
    };
    let fused = interleaved(&format!("{at}.attention.query_key_value"), heads, size);
    let biased = config.attention_bias();
    Ok(Layer {
        attention: Attention {
            heads,
            groups: heads,
            size,
            causal: true,
            scale: 1.0 / (size as f32).sqrt(),
        },
        rope: Some(Arc::clone(rope)),
        parallel: config.parallel(),
        norm_attention: norm("input_layernorm")?,
        qkv: Linear::stacked(weights, &fused, hidden, biased)?,
        out: linear("attention.dense", hidden, hidden, biased)?,
        norm_inner: norm("post_attention_layernorm")?,
        up: linear("mlp.dense_h_to_4h", inner, hidden, false)?,
        up_bias: weights.vector(&format!("{at}.mlp.dense_h_to_4h.bias"), inner)?,
        gelu: config.gelu()?,
        down: linear("mlp.dense_4h_to_h", hidden, inner, true)?,
        operations: weights.operations(),
    })
}

/// The file's rows q₀ k₀ v₀ q₁ k₁ v₁ …, `size` rows each, in the order q₀ q₁ … k₀ k₁ … v₀ v₁ ….
fn interleaved(name: &str, heads: usize, size: usize) -> Vec<Part> {
    let part = |row: usize| Part {
        name: name.to_owned(),
        rows: 3 * heads * size,
        taken: row..row + size,
    };
    (0..3)
        .flat_map(|kind| (0..heads).map(move |head| part((3 * head + kind) * size)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn neox(extra: &str) -> Config {
        let text = format!(
            r#"{{"vocab_size":8,"hidden_size":64,"num_hidden_layers":1,"num_attention_heads":4,
            "intermediate_size":64,"max_position_embeddings":64{extra}}}"#
        );
        serde_json::from_str(&text).expect("a configuration")
    }

    #[test]
    fn rotary_settings_of_transformers_4_and_5_mean_the_same() {
        let newer = neox(
            r#","rope_parameters":{"rope_type":"default","rope_theta":500.0,
            "partial_rotary_factor":0.5}"#,
        );
        let older = neox(r#","rotary_pct":0.5,"rotary_emb_base":500.0"#);
        let newer = newer.frequencies().expect("frequencies");
        assert_eq!(newer, older.frequencies().expect("frequencies"));
        assert_eq!(newer.len(), 4);
        assert_eq!(neox("").frequencies().expect("frequencies").len(), 2);
    }

    #[test]
    fn an_odd_part_of_a_head_cannot_be_rotated() {
        for part in ["0.2", "1.5", "-0.5"] {
            let malformed = neox(&format!(r#","rotary_pct":{part}"#)).check();
            assert!(matches!(malformed, Err(Error::Malformed(_))), "{part}");
        }
    }
}
