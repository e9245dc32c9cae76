//! GPT-2 (Radford et al., 2019): pre-norm layers, learned positions, GELU by tanh, matrices
//! stored input first, the token embeddings as the head.

use std::path::Path;

use candle_core::{Device, Tensor};
use serde::Deserialize;

use super::Options;
use super::causal::{Causal, Parts};
use super::config::{self, MOST_LAYERS, MOST_ROWS, MOST_WIDE, bounded, divides, gelu};
use super::frozen::{Block, Kept, Pass};
use super::kernels::activation::Gelu;
use super::kernels::attention::Attention;
use super::linear::Linear;
use super::operations::{LayerNorm, Operations};
use super::prenorm::{Layer, Norm};
use super::rows::Rows;
use super::weights::Weights;
use crate::error::{Error, Result};

/// GPT-2: the keys of transformers' `GPT2Config`.
#[derive(Deserialize)]
struct Config {
    vocab_size: usize,
    n_positions: usize,
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    #[serde(default)]
    n_inner: Option<usize>,
    #[serde(default)]
    activation_function: Option<String>,
    #[serde(default)]
    layer_norm_epsilon: Option<f64>,
    #[serde(default)]
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    scale_attn_weights: Option<bool>,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
    #[serde(default)]
    add_cross_attention: bool,
}

impl Config {
    fn check(&self) -> Result<()> {
        bounded(&[
            ("vocab_size", self.vocab_size, MOST_ROWS),
            ("n_positions", self.n_positions, MOST_ROWS),
            ("n_embd", self.n_embd, MOST_WIDE),
            ("n_inner", self.inner(), MOST_WIDE),
            ("n_layer", self.n_layer, MOST_LAYERS),
        ])?;
        divides("n_head", self.n_head, "n_embd", self.n_embd)?;
        if self.inner() == 0 {
            return Err(Error::Malformed("n_inner 0".into()));
        }
        if self.add_cross_attention {
            return Err(Error::Refused("add_cross_attention in a GPT-2".into()));
        }
        self.gelu().map(drop)
    }

    fn inner(&self) -> usize {
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }

    fn epsilon(&self) -> f32 {
        self.layer_norm_epsilon.unwrap_or(1e-5) as f32
    }

    fn gelu(&self) -> Result<Gelu> {
        let name = self.activation_function.as_deref();
        gelu("activation_function", name.unwrap_or("gelu_new"))
    }

    /// What scores are multiplied by in layer `index`. (`reorder_and_upcast_attn` computes the
    /// same in f32, as everything is here.)
    fn scale(&self, index: usize) -> f32 {
        let size = if self.scale_attn_weights == Some(false) {
            1
        } else {
            self.n_embd / self.n_head
        };
        let depth = if self.scale_attn_by_inverse_layer_idx {
            index + 1
        } else {
            1
        };
        1.0 / (size as f32).sqrt() / depth as f32
    }
}

/// Reads a folder whose `model_type` is `gpt2`.
pub(super) fn load(dir: &Path, device: &Device, options: Options) -> Result<Causal> {
    let config: Config = config::read(dir)?;
    config.check()?;
    let weights = Weights::open(dir, device, options)?;
    let plain = weights.has("wte.weight");
    let root = if plain { "" } else { "transformer." };
    let (hidden, epsilon) = (config.n_embd, config.epsilon());
    let operations = weights.operations();
    let places = weights.table(&format!("{root}wpe.weight"), config.n_positions, hidden)?;
    let mut blocks: Vec<Box<dyn Block>> = vec![Box::new(Positions(places, operations))];
    for index in 0..config.n_layer {
        let at = format!("{root}h.{index}");
        blocks.push(Box::new(layer(&weights, &at, index, &config)?));
    }
    let norm = LayerNorm::load(&weights, &format!("{root}ln_f"), hidden, epsilon)?;
    blocks.push(Box::new(Norm(norm, operations)));
    let parts = Parts {
        kind: "gpt2",
        vocabulary: config.vocab_size,
        hidden,
        positions: config.n_positions,
        tokens: &format!("{root}wte"),
        head: (config.tie_word_embeddings == Some(false)).then_some("lm_head"),
        blocks,
    };
    Causal::assemble(dir, &weights, parts, options)
}

fn layer(weights: &Weights, at: &str, index: usize, config: &Config) -> Result<Layer> {
    let (hidden, inner) = (config.n_embd, config.inner());
    let norm =
        |name: &str| LayerNorm::load(weights, &format!("{at}.{name}"), hidden, config.epsilon());
    let linear = |name: &str, out: usize, width: usize, biased: bool| {
        Linear::input_first(weights, &format!("{at}.{name}"), (out, width), biased)
    };
    Ok(Layer {
        attention: Attention {
            heads: config.n_head,
            groups: config.n_head,
            size: hidden / config.n_head,
            causal: true,
            scale: config.scale(index),
        },
        rope: None,
        parallel: false,
        norm_attention: norm("ln_1")?,
        qkv: linear("attn.c_attn", 3 * hidden, hidden, true)?,
        out: linear("attn.c_proj", hidden, hidden, true)?,
        norm_inner: norm("ln_2")?,
        up: linear("mlp.c_fc", inner, hidden, false)?,
        up_bias: weights.vector(&format!("{at}.mlp.c_fc.bias"), inner)?,
        gelu: config.gelu()?,
        down: linear("mlp.c_proj", hidden, inner, true)?,
        operations: weights.operations(),
    })
}

/// x + position, `[positions, H]`.
struct Positions(Tensor, &'static dyn Operations);

impl Block for Positions {
    fn forward(&self, x: &Tensor, rows: &Rows, _: Pass<'_>) -> Result<Tensor> {
        self.1.add_positions(x, &self.0, rows)
    }

    fn vjp(&self, _: &Kept, grad: &Tensor, _: &Rows) -> Result<Tensor> {
        Ok(grad.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpt2(extra: &str) -> Config {
        let text = format!(
            r#"{{"vocab_size":8,"n_positions":16,"n_embd":16,"n_layer":1,"n_head":2{extra}}}"#
        );
        serde_json::from_str(&text).expect("a configuration")
    }

    #[test]
    fn a_gpt2_fills_in_what_transformers_fills_in() {
        let plain = gpt2("");
        plain.check().expect("a GPT-2");
        assert_eq!(
            (plain.inner(), plain.gelu().expect("a gelu")),
            (64, Gelu::Tanh)
        );
        assert_eq!(plain.scale(3), 1.0 / 8f32.sqrt());
        let other = gpt2(
            r#","n_inner":null,"activation_function":"gelu","scale_attn_weights":false,
            "scale_attn_by_inverse_layer_idx":true"#,
        );
        assert_eq!(
            (other.inner(), other.gelu().expect("a gelu")),
            (64, Gelu::Erf)
        );
        assert_eq!((other.scale(0), other.scale(3)), (1.0, 0.25));
    }

    #[test]
    fn a_gpt2_beyond_what_is_computed_is_refused_by_name() {
        let relu = gpt2(r#","activation_function":"relu""#).check();
        assert!(
            matches!(relu, Err(Error::Refused(text)) if text.contains("relu") && text.contains("gelu_new"))
        );
        let cross = gpt2(r#","add_cross_attention":true"#).check();
        assert!(matches!(cross, Err(Error::Refused(text)) if text.contains("cross_attention")));
        let wide = gpt2(r#","n_inner":1099511627776"#).check();
        assert!(matches!(wide, Err(Error::Malformed(text)) if text.contains("n_inner")));
    }
}
