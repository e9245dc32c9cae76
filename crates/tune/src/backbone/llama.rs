//! The Llama family (Touvron et al., 2023): pre-norm layers, rotary positions, grouped-query
//! attention, gated SiLU. Mistral and Qwen2 (biases on q, k and v) share it.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::Options;
use super::causal::{Causal, Parts};
use super::config::{self, LlamaConfig};
use super::frozen::{Block, Kept, Pass};
use super::kernels::attention::Attention;
use super::kernels::rope::Rope;
use super::linear::Linear;
use super::operations::{Operations, RmsNorm};
use super::rows::Rows;
use super::weights::{Part, Weights};
use crate::error::Result;

/// Reads a folder whose `model_type` is `llama`, `mistral` or `qwen2`.
pub(super) fn load(dir: &Path, device: &Device, options: Options) -> Result<Causal> {
    let config: LlamaConfig = config::read(dir)?;
    config.check()?;
    let weights = Weights::open(dir, device, options)?;
    let plain = weights.has("embed_tokens.weight");
    let root = if plain { "" } else { "model." };
    let rope = Arc::new(Rope::new(config.head_size(), config.frequencies()?));
    let mut blocks: Vec<Box<dyn Block>> = Vec::with_capacity(config.num_hidden_layers + 1);
    for index in 0..config.num_hidden_layers {
        let at = format!("{root}layers.{index}");
        blocks.push(Box::new(Layer::load(&weights, &at, &config, &rope)?));
    }
    let norm = rms_norm(&weights, &format!("{root}norm"), &config)?;
    blocks.push(Box::new(Norm(norm, weights.operations())));
    let parts = Parts {
        kind: match config.model_type.as_str() {
            "mistral" => "mistral",
            "qwen2" => "qwen2",
            _ => "llama",
        },
        vocabulary: config.vocab_size,
        hidden: config.hidden_size,
        positions: config.positions(),
        tokens: &format!("{root}embed_tokens"),
        head: (!config.tie_word_embeddings).then_some("lm_head"),
        blocks,
    };
    Causal::assemble(dir, &weights, parts, options)
}

fn rms_norm(weights: &Weights, name: &str, config: &LlamaConfig) -> Result<RmsNorm> {
    Ok(RmsNorm {
        gamma: weights.vector(&format!("{name}.weight"), config.hidden_size)?,
        epsilon: config.rms_norm_eps as f32,
    })
}

/// The norm after the last layer.
struct Norm(RmsNorm, &'static dyn Operations);

impl Block for Norm {
    fn forward(&self, x: &Tensor, _: &Rows, pass: Pass<'_>) -> Result<Tensor> {
        let (y, scales) = self.1.rms_norm(&self.0, x)?;
        if let Pass::Keep(kept) = pass {
            kept.put([x.clone(), scales]);
        }
        Ok(y)
    }

    fn vjp(&self, kept: &Kept, grad: &Tensor, _: &Rows) -> Result<Tensor> {
        let [x, scales] = kept.get()?;
        (self.1).add_rms_norm_vjp(&self.0, x, scales, grad, grad.zeros_like()?)
    }
}

/// a = x + Attention(RoPE(norm₁(x)·Wqkvᵀ))·Wₒᵀ;
/// y = a + (silu(n·W_gᵀ) ∘ n·W_uᵀ)·W_dᵀ with n = norm₂(a); biases where the configuration says so.
struct Layer {
    attention: Attention,
    rope: Arc<Rope>,
    norm_in: RmsNorm,
    qkv: Linear,
    out: Linear,
    norm_middle: RmsNorm,
    gate_up: Linear,
    down: Linear,
    operations: &'static dyn Operations,
}

impl Layer {
    fn load(weights: &Weights, at: &str, config: &LlamaConfig, rope: &Arc<Rope>) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let attention = Attention {
            heads: config.num_attention_heads,
            groups: config.groups(),
            size: config.head_size(),
            causal: true,
            scale: 1.0 / (config.head_size() as f32).sqrt(),
        };
        let across = attention.heads * attention.size;
        let shared = attention.groups * attention.size;
        let q = format!("{at}.self_attn.q_proj");
        let k = format!("{at}.self_attn.k_proj");
        let v = format!("{at}.self_attn.v_proj");
        let qkv =
            [(q, across), (k, shared), (v, shared)].map(|(name, rows)| Part::whole(name, rows));
        let out = format!("{at}.self_attn.o_proj");
        let gate_up = [format!("{at}.mlp.gate_proj"), format!("{at}.mlp.up_proj")]
            .map(|name| Part::whole(name, inner));
        let down = format!("{at}.mlp.down_proj");
        Ok(Self {
            attention,
            rope: Arc::clone(rope),
            norm_in: rms_norm(weights, &format!("{at}.input_layernorm"), config)?,
            qkv: Linear::stacked(weights, &qkv, hidden, config.qkv_bias())?,
            out: Linear::load(weights, &out, (hidden, across), config.attention_bias)?,
            norm_middle: rms_norm(weights, &format!("{at}.post_attention_layernorm"), config)?,
            gate_up: Linear::stacked(weights, &gate_up, hidden, config.mlp_bias)?,
            down: Linear::load(weights, &down, (hidden, inner), config.mlp_bias)?,
            operations: weights.operations(),
        })
    }
}

impl Block for Layer {
    fn forward(&self, x: &Tensor, rows: &Rows, mut pass: Pass<'_>) -> Result<Tensor> {
        let ops = self.operations;
        let (normed, scales) = ops.rms_norm(&self.norm_in, x)?;
        let qkv = self.qkv.forward(&normed)?;
        drop(normed);
        let qkv = ops.rotate(&self.rope, &self.attention, qkv, rows, 1.0)?;
        let (context, weights) = ops.attend(&self.attention, &qkv, rows, &mut pass)?;
        let middle = ops.add(self.out.forward(&context)?, x)?;
        drop(context);

        let (normed, scales_middle) = ops.rms_norm(&self.norm_middle, &middle)?;
        let gated = self.gate_up.forward(&normed)?;
        drop(normed);
        let (inner, slopes) = ops.swiglu(gated)?;
        let y = ops.add(self.down.forward(&inner)?, &middle)?;
        if let Pass::Keep(kept) = pass {
            kept.put([
                x.clone(),
                scales,
                qkv,
                weights,
                middle,
                scales_middle,
                slopes,
            ]);
        }
        Ok(y)
    }

    fn vjp(&self, kept: &Kept, grad: &Tensor, rows: &Rows) -> Result<Tensor> {
        let [x, scales, qkv, weights, middle, scales_middle, slopes] = kept.get()?;
        let ops = self.operations;
        let d_inner = self.down.vjp(grad)?;
        let d_gated = ops.swiglu_vjp(slopes, &d_inner)?;
        drop(d_inner);
        let d_normed = self.gate_up.vjp(&d_gated)?;
        drop(d_gated);
        let sum = grad.copy()?;
        let d_middle =
            ops.add_rms_norm_vjp(&self.norm_middle, middle, scales_middle, &d_normed, sum)?;

        let d_context = self.out.vjp(&d_middle)?;
        let d_qkv = ops.attend_vjp(&self.attention, qkv, weights, &d_context, rows)?;
        let d_qkv = ops.rotate(&self.rope, &self.attention, d_qkv, rows, -1.0)?;
        let d_normed = self.qkv.vjp(&d_qkv)?;
        ops.add_rms_norm_vjp(&self.norm_in, x, scales, &d_normed, d_middle)
    }
}
