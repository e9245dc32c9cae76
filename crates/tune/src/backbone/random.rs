//! A small untrained Llama from a seed: for demonstrations and tests that need no download.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{Device, Tensor};

use super::LlamaConfig;
use crate::error::{Error, Result};
use crate::random::SplitMix;

/// A configuration of a few thousand parameters a layer: four query heads over two key heads.
pub fn small_llama(vocabulary: usize, hidden: usize, layers: usize) -> LlamaConfig {
    LlamaConfig {
        model_type: "llama".into(),
        vocab_size: vocabulary,
        hidden_size: hidden,
        intermediate_size: hidden * 2,
        num_hidden_layers: layers,
        num_attention_heads: 4,
        num_key_value_heads: Some(2),
        head_dim: None,
        max_position_embeddings: 512,
        rms_norm_eps: 1e-5,
        rope_theta: Some(10_000.0),
        rope_parameters: None,
        rope_scaling: None,
        hidden_act: "silu".into(),
        tie_word_embeddings: true,
        sliding_window: None,
        use_sliding_window: None,
        attention_bias: false,
        mlp_bias: false,
        partial_rotary_factor: None,
    }
}

/// Writes `config.json` and `model.safetensors` of a Llama whose matrices are N(0, 0.02²) and
/// whose norms are one: the same bytes from the same seed on every machine. The folder is made
/// where it is absent; a tokenizer is not written.
///
/// # Errors
/// [`Error::Malformed`] or [`Error::Refused`] for a configuration that cannot be;
/// [`Error::Fault`] if the folder cannot be written.
pub fn write_random_llama(dir: &Path, config: &LlamaConfig, seed: u64) -> Result<()> {
    config.check()?;
    let fault = |error: &dyn std::fmt::Display| Error::Fault(format!("{}: {error}", dir.display()));
    let mut numbers = SplitMix::new(seed);
    let mut tensors = HashMap::new();
    let mut matrix = |name: String, rows: usize, columns: usize| -> Result<()> {
        let values = numbers.normal(rows * columns, 0.02);
        tensors.insert(
            name,
            Tensor::from_vec(values, (rows, columns), &Device::Cpu)?,
        );
        Ok(())
    };
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let across = config.num_attention_heads * config.head_size();
    let shared = config.groups() * config.head_size();
    matrix(
        "model.embed_tokens.weight".into(),
        config.vocab_size,
        hidden,
    )?;
    if !config.tie_word_embeddings {
        matrix("lm_head.weight".into(), config.vocab_size, hidden)?;
    }
    for layer in 0..config.num_hidden_layers {
        for (name, rows, columns) in [
            ("self_attn.q_proj", across, hidden),
            ("self_attn.k_proj", shared, hidden),
            ("self_attn.v_proj", shared, hidden),
            ("self_attn.o_proj", hidden, across),
            ("mlp.gate_proj", inner, hidden),
            ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        ] {
            matrix(format!("model.layers.{layer}.{name}.weight"), rows, columns)?;
        }
    }
    let ones = Tensor::ones(hidden, candle_core::DType::F32, &Device::Cpu)?;
    tensors.insert("model.norm.weight".into(), ones.clone());
    for layer in 0..config.num_hidden_layers {
        for name in ["input_layernorm", "post_attention_layernorm"] {
            tensors.insert(format!("model.layers.{layer}.{name}.weight"), ones.clone());
        }
    }
    std::fs::create_dir_all(dir).map_err(|error| fault(&error))?;
    let text = serde_json::to_string_pretty(config).map_err(|error| fault(&error))?;
    std::fs::write(dir.join("config.json"), text + "\n").map_err(|error| fault(&error))?;
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors"))
        .map_err(|error| fault(&error))
}
