//! The Llama family (Touvron et al., 2023): pre-norm layers, rotary positions, grouped-query
//! attention, gated SiLU. Mistral and Qwen2 (biases on q, k and v) share it.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::Options;
use super::causal::{Causal, Parts};
use super::config::{self, LlamaConfig};
use super::frozen::{Block, Kept, Pass};
use super::kernels::activation::{swiglu, swiglu_vjp};
use super::kernels::attention::Attention;
use super::kernels::norm::RmsNorm;
use super::kernels::rope::Rope;
use super::linear::Linear;
use super::parts::{add_to, attend, attend_vjp};
use super::rows::Rows;
use super::tensors::{floats, fresh, update};
use super::weights::{Part, Weights};
use crate::error::Result;

/// Reads a folder whose `model_type` is `llama`, `mistral` or `qwen2`.
pub(super) fn load(dir: &Path, device: &Device, options: Options) -> Result<Causal> {
    let config: LlamaConfig = config::read(dir)?;
    config.check()?;
    let weights = Weights::open(dir, device)?;
    let plain = weights.has("embed_tokens.weight");
    let root = if plain { "" } else { "model." };
    let rope = Arc::new(Rope::new(config.head_size(), config.frequencies()?));
    let mut blocks: Vec<Box<dyn Block>> = Vec::with_capacity(config.num_hidden_layers + 1);
    for index in 0..config.num_hidden_layers {
        let at = format!("{root}layers.{index}");
        blocks.push(Box::new(Layer::load(&weights, &at, &config, &rope)?));
    }
    let norm = rms_norm(&weights, &format!("{root}norm"), &config)?;
    blocks.push(Box::new(Norm(norm)));
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

/// → norm(x), scales `[N, 1]`.
fn normalise(norm: &RmsNorm, x: &Tensor) -> Result<(Tensor, Tensor)> {
    let (count, width) = x.dims2()?;
    let (storage, layout) = x.storage_and_layout();
    let values = floats(&storage, layout)?;
    let mut scales = vec![0f32; count];
    let y = fresh(count, width, x, |out| {
        norm.forward(values, &mut scales, out)
    })?;
    Ok((y, Tensor::from_vec(scales, (count, 1), x.device())?))
}

/// Adds the norm's vector–Jacobian product to `sum`.
fn add_vjp(norm: &RmsNorm, x: &Tensor, scales: &Tensor, grad: &Tensor, sum: &Tensor) -> Result<()> {
    let (x, xl) = x.storage_and_layout();
    let (s, sl) = scales.storage_and_layout();
    let (g, gl) = grad.storage_and_layout();
    let (x, s, g) = (floats(&x, xl)?, floats(&s, sl)?, floats(&g, gl)?);
    update(sum, |sum| norm.add_vjp(x, s, g, sum))
}

/// The norm after the last layer.
struct Norm(RmsNorm);

impl Block for Norm {
    fn forward(&self, x: &Tensor, _: &Rows, pass: Pass<'_>) -> Result<Tensor> {
        let (y, scales) = normalise(&self.0, x)?;
        if let Pass::Keep(kept) = pass {
            kept.put([x.clone(), scales]);
        }
        Ok(y)
    }

    fn vjp(&self, kept: &Kept, grad: &Tensor, _: &Rows) -> Result<Tensor> {
        let [x, scales] = kept.get()?;
        let back = grad.zeros_like()?;
        add_vjp(&self.0, x, scales, grad, &back)?;
        Ok(back)
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
    inner: usize,
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
            inner,
        })
    }

    /// Rotates q and k, which lie side by side.
    fn rotate(&self, qkv: &Tensor, rows: &Rows, turn: f32) -> Result<()> {
        let (width, heads) = (
            self.attention.width(),
            self.attention.heads + self.attention.groups,
        );
        update(qkv, |qkv| self.rope.rotate(qkv, width, heads, rows, turn))
    }
}

impl Block for Layer {
    fn forward(&self, x: &Tensor, rows: &Rows, mut pass: Pass<'_>) -> Result<Tensor> {
        let count = x.dims2()?.0;
        let (normed, scales) = normalise(&self.norm_in, x)?;
        let qkv = self.qkv.forward(&normed)?;
        drop(normed);
        self.rotate(&qkv, rows, 1.0)?;
        let (context, weights) = attend(&self.attention, &qkv, rows, &mut pass)?;
        let middle = self.out.forward(&context)?;
        drop(context);
        add_to(&middle, x)?;

        let (normed, scales_middle) = normalise(&self.norm_middle, &middle)?;
        let gated = self.gate_up.forward(&normed)?;
        drop(normed);
        let mut out = vec![0f32; count * self.inner];
        update(&gated, |gated| swiglu(gated, &mut out, self.inner))?;
        let inner = Tensor::from_vec(out, (count, self.inner), x.device())?;
        let y = self.down.forward(&inner)?;
        add_to(&y, &middle)?;
        if let Pass::Keep(kept) = pass {
            kept.put([
                x.clone(),
                scales,
                qkv,
                weights,
                middle,
                scales_middle,
                gated,
            ]);
        }
        Ok(y)
    }

    fn vjp(&self, kept: &Kept, grad: &Tensor, rows: &Rows) -> Result<Tensor> {
        let [x, scales, qkv, weights, middle, scales_middle, gated] = kept.get()?;
        let count = grad.dims2()?.0;
        let d_inner = self.down.vjp(grad)?;
        let d_gated = {
            let (s, sl) = gated.storage_and_layout();
            let (g, gl) = d_inner.storage_and_layout();
            let (s, g) = (floats(&s, sl)?, floats(&g, gl)?);
            fresh(count, 2 * self.inner, grad, |out| {
                swiglu_vjp(s, g, out, self.inner)
            })?
        };
        drop(d_inner);
        let d_normed = self.gate_up.vjp(&d_gated)?;
        drop(d_gated);
        let d_middle = grad.copy()?;
        add_vjp(
            &self.norm_middle,
            middle,
            scales_middle,
            &d_normed,
            &d_middle,
        )?;

        let d_context = self.out.vjp(&d_middle)?;
        let d_qkv = attend_vjp(&self.attention, qkv, weights, &d_context, rows)?;
        self.rotate(&d_qkv, rows, -1.0)?;
        let d_normed = self.qkv.vjp(&d_qkv)?;
        add_vjp(&self.norm_in, x, scales, &d_normed, &d_middle)?;
        Ok(d_middle)
    }
}
