//! The Llama family (Touvron et al., 2023): pre-norm layers, rotary positions, grouped-query
//! attention, gated SiLU. Mistral and Qwen2 (biases on q, k and v) share it.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::config::{self, LlamaConfig};
use super::embedding::{Tokens, check_length};
use super::frozen::{Block, Kept, Stack, apply_rows};
use super::kernels::activation::{swiglu, swiglu_vjp};
use super::kernels::attention::Attention;
use super::kernels::norm::RmsNorm;
use super::kernels::rope::Rope;
use super::kernels::{add, add_bias};
use super::linear::Linear;
use super::rows::Rows;
use super::tensors::{floats, fresh, update};
use super::weights::Weights;
use super::{Backbone, Options};
use crate::error::Result;

/// A frozen Llama, Mistral or Qwen2 with its language-model head.
pub struct Llama {
    config: LlamaConfig,
    kind: &'static str,
    device: Device,
    digest: [u8; 32],
    small: bool,
    tokens: Tokens,
    stack: Arc<Stack>,
    head: Arc<Linear>,
}

impl Llama {
    /// Reads a folder whose `model_type` is `llama`, `mistral` or `qwen2`.
    ///
    /// # Errors
    /// As [`super::load`].
    pub fn load(dir: &Path, device: &Device, options: Options) -> Result<Self> {
        let config: LlamaConfig = config::read(dir)?;
        config.check()?;
        let weights = Weights::open(dir, device)?;
        let root = if weights.has("embed_tokens.weight") {
            ""
        } else {
            "model."
        };
        let (hidden, vocabulary) = (config.hidden_size, config.vocab_size);
        let words = format!("{root}embed_tokens.weight");
        let tokens = Tokens(weights.matrix(&words, vocabulary, hidden)?);
        let head = if config.tie_word_embeddings {
            Linear::new(tokens.0.clone())
        } else {
            Linear::load(&weights, "lm_head.weight", vocabulary, hidden)?
        };
        let rope = Arc::new(Rope::new(config.frequencies()?));
        let mut blocks: Vec<Box<dyn Block>> = Vec::with_capacity(config.num_hidden_layers + 1);
        for index in 0..config.num_hidden_layers {
            blocks.push(Box::new(Layer::load(
                &weights, root, index, &config, &rope,
            )?));
        }
        blocks.push(Box::new(Norm(rms_norm(
            &weights,
            &format!("{root}norm"),
            &config,
        )?)));
        Ok(Self {
            kind: match config.model_type.as_str() {
                "mistral" => "mistral",
                "qwen2" => "qwen2",
                _ => "llama",
            },
            device: weights.device().clone(),
            digest: weights.digest(),
            small: weights.are_small(),
            tokens,
            stack: Stack::new(blocks, options.recompute, weights.are_small()),
            head: Arc::new(head),
            config,
        })
    }
}

impl Backbone for Llama {
    fn hidden(&self) -> usize {
        self.config.hidden_size
    }

    fn vocabulary(&self) -> usize {
        self.config.vocab_size
    }

    fn max_positions(&self) -> usize {
        self.config.positions()
    }

    fn kind(&self) -> &'static str {
        self.kind
    }

    fn device(&self) -> &Device {
        &self.device
    }

    fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        self.tokens.embed(ids)
    }

    fn forward(&self, embeds: &Tensor, mask: &Tensor) -> Result<Tensor> {
        check_length(embeds, self.hidden(), self.max_positions())?;
        self.stack.apply(embeds, mask)
    }

    fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        apply_rows(rows, |rows| {
            let head = Arc::clone(&self.head);
            Ok((self.head.forward(rows)?, move |grad: &Tensor| {
                head.vjp(grad)
            }))
        })
    }

    fn is_small(&self) -> bool {
        self.small
    }

    fn digest(&self) -> [u8; 32] {
        self.digest
    }
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

/// x ← x + y.
fn add_to(x: &Tensor, y: &Tensor) -> Result<()> {
    let (y, layout) = y.storage_and_layout();
    let y = floats(&y, layout)?;
    update(x, |x| add(x, y))
}

/// The norm after the last layer.
struct Norm(RmsNorm);

impl Block for Norm {
    fn forward(&self, x: &Tensor, _: &Rows, kept: Option<&mut Kept>) -> Result<Tensor> {
        let (y, scales) = normalise(&self.0, x)?;
        if let Some(kept) = kept {
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
/// y = a + (silu(n·W_gᵀ) ∘ n·W_uᵀ)·W_dᵀ with n = norm₂(a).
struct Layer {
    attention: Attention,
    rope: Arc<Rope>,
    norm_in: RmsNorm,
    qkv: Linear,
    qkv_bias: Option<Vec<f32>>,
    out: Linear,
    norm_middle: RmsNorm,
    gate_up: Linear,
    down: Linear,
    inner: usize,
}

impl Layer {
    fn load(
        weights: &Weights,
        root: &str,
        index: usize,
        config: &LlamaConfig,
        rope: &Arc<Rope>,
    ) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let attention = Attention {
            heads: config.num_attention_heads,
            groups: config.groups(),
            size: config.head_size(),
            causal: true,
        };
        let across = attention.heads * attention.size;
        let shared = attention.groups * attention.size;
        let at = |name: &str| format!("{root}layers.{index}.{name}");
        let three = |kind: &str| {
            [("q_proj", across), ("k_proj", shared), ("v_proj", shared)]
                .map(|(part, rows)| (at(&format!("self_attn.{part}.{kind}")), rows))
        };
        let gate_up = [
            (at("mlp.gate_proj.weight"), inner),
            (at("mlp.up_proj.weight"), inner),
        ];
        let biased = weights.has(&at("self_attn.q_proj.bias"));
        Ok(Self {
            attention,
            rope: Arc::clone(rope),
            norm_in: rms_norm(weights, &at("input_layernorm"), config)?,
            qkv: Linear::stacked(weights, &three("weight"), hidden)?,
            qkv_bias: if biased {
                Some(weights.vectors(&three("bias"))?)
            } else {
                None
            },
            out: Linear::load(weights, &at("self_attn.o_proj.weight"), hidden, across)?,
            norm_middle: rms_norm(weights, &at("post_attention_layernorm"), config)?,
            gate_up: Linear::stacked(weights, &gate_up, hidden)?,
            down: Linear::load(weights, &at("mlp.down_proj.weight"), hidden, inner)?,
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
    fn forward(&self, x: &Tensor, rows: &Rows, kept: Option<&mut Kept>) -> Result<Tensor> {
        let count = x.dims2()?.0;
        let (normed, scales) = normalise(&self.norm_in, x)?;
        let qkv = self.qkv.forward(&normed)?;
        drop(normed);
        if let Some(bias) = &self.qkv_bias {
            update(&qkv, |qkv| add_bias(qkv, bias))?;
        }
        self.rotate(&qkv, rows, 1.0)?;
        let mut weights = vec![0f32; self.attention.weights(rows)];
        let across = self.attention.heads * self.attention.size;
        let context = {
            let (storage, layout) = qkv.storage_and_layout();
            let values = floats(&storage, layout)?;
            fresh(count, across, x, |out| {
                self.attention.forward(rows, values, out, &mut weights)
            })?
        };
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
        if let Some(kept) = kept {
            let weights = Tensor::from_vec(weights, self.attention.weights(rows), x.device())?;
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
        let d_qkv = {
            let (q, ql) = qkv.storage_and_layout();
            let (w, wl) = weights.storage_and_layout();
            let (g, gl) = d_context.storage_and_layout();
            let (q, w, g) = (floats(&q, ql)?, floats(&w, wl)?, floats(&g, gl)?);
            let width = self.attention.width();
            fresh(count, width, grad, |out| {
                self.attention.vjp(rows, q, w, g, out)
            })?
        };
        self.rotate(&d_qkv, rows, -1.0)?;
        let d_normed = self.qkv.vjp(&d_qkv)?;
        add_vjp(&self.norm_in, x, scales, &d_normed, &d_middle)?;
        Ok(d_middle)
    }
}
