//! BERT (Devlin et al., NAACL 2019) as transformers computes it without dropout: post-norm
//! layers, GELU by erf, learned positions. MiniLM is one.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::config::{self, BertConfig};
use super::embedding::{Tokens, check_length};
use super::frozen::{Block, Kept, Stack, apply_rows};
use super::kernels::activation::{bias_gelu, multiply};
use super::kernels::attention::Attention;
use super::kernels::norm::LayerNorm;
use super::kernels::{add, add_bias};
use super::linear::Linear;
use super::rows::Rows;
use super::tensors::{floats, fresh, update};
use super::weights::Weights;
use super::{Backbone, Options};
use crate::error::{Error, Result};

/// A frozen BERT encoder with its pooler, where the checkpoint has one.
pub struct Bert {
    config: BertConfig,
    device: Device,
    digest: [u8; 32],
    small: bool,
    tokens: Tokens,
    stack: Arc<Stack>,
    pooler: Option<Arc<(Linear, Vec<f32>)>>,
}

impl Bert {
    /// Reads a folder whose `model_type` is `bert`.
    ///
    /// # Errors
    /// As [`super::load`].
    pub fn load(dir: &Path, device: &Device, options: Options) -> Result<Self> {
        let config: BertConfig = config::read(dir)?;
        config.check()?;
        let weights = Weights::open(dir, device)?;
        let plain = weights.has("embeddings.word_embeddings.weight");
        let root = if plain { "" } else { "bert." };
        let hidden = config.hidden_size;
        let words = format!("{root}embeddings.word_embeddings.weight");
        let tokens = Tokens(weights.matrix(&words, config.vocab_size, hidden)?);
        let mut blocks: Vec<Box<dyn Block>> =
            vec![Box::new(Positions::load(&weights, root, &config)?)];
        for index in 0..config.num_hidden_layers {
            blocks.push(Box::new(Layer::load(&weights, root, index, &config)?));
        }
        let pooler = format!("{root}pooler.dense.weight");
        let pooler = if weights.has(&pooler) {
            let weight = Linear::load(&weights, &pooler, hidden, hidden)?;
            let bias = weights.vector(&format!("{root}pooler.dense.bias"), hidden)?;
            Some(Arc::new((weight, bias)))
        } else {
            None
        };
        Ok(Self {
            device: weights.device().clone(),
            digest: weights.digest(),
            small: weights.are_small(),
            tokens,
            stack: Stack::new(blocks, options.recompute, weights.are_small()),
            pooler,
            config,
        })
    }
}

impl Backbone for Bert {
    fn hidden(&self) -> usize {
        self.config.hidden_size
    }

    fn vocabulary(&self) -> usize {
        self.config.vocab_size
    }

    fn max_positions(&self) -> usize {
        self.config.max_position_embeddings
    }

    fn kind(&self) -> &'static str {
        "bert"
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

    fn pool(&self, rows: &Tensor) -> Result<Tensor> {
        let pooler = self
            .pooler
            .as_ref()
            .ok_or_else(|| Error::Misuse("this BERT checkpoint has no pooler".into()))?;
        apply_rows(rows, |rows| {
            let y = pooler.0.forward(rows)?;
            update(&y, |y| {
                for row in y.chunks_exact_mut(pooler.1.len()) {
                    for (y, bias) in row.iter_mut().zip(&pooler.1) {
                        *y = libm::tanhf(*y + bias);
                    }
                }
            })?;
            let (pooler, kept) = (Arc::clone(pooler), y.clone());
            let vjp = move |grad: &Tensor| {
                let slope = kept.sqr()?.affine(-1.0, 1.0)?;
                pooler.0.vjp(&grad.mul(&slope)?)
            };
            Ok((y, vjp))
        })
    }

    fn is_small(&self) -> bool {
        self.small
    }

    fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

fn layer_norm(weights: &Weights, name: &str, config: &BertConfig) -> Result<LayerNorm> {
    Ok(LayerNorm {
        gamma: weights.vector(&format!("{name}.weight"), config.hidden_size)?,
        beta: weights.vector(&format!("{name}.bias"), config.hidden_size)?,
        epsilon: config.layer_norm_eps as f32,
    })
}

/// y = LayerNorm(x) of rows that are no longer needed: → y, x̂, scales `[N, 1]`.
fn normalise(norm: &LayerNorm, x: Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let (count, width) = x.dims2()?;
    let mut scales = vec![0f32; count];
    let mut out = vec![0f32; count * width];
    update(&x, |x| norm.forward(x, &mut scales, &mut out))?;
    let device = x.device();
    let y = Tensor::from_vec(out, (count, width), device)?;
    let scales = Tensor::from_vec(scales, (count, 1), device)?;
    Ok((y, x, scales))
}

fn normalise_vjp(
    norm: &LayerNorm,
    normed: &Tensor,
    scales: &Tensor,
    grad: &Tensor,
) -> Result<Tensor> {
    let (count, width) = grad.dims2()?;
    let (n, nl) = normed.storage_and_layout();
    let (s, sl) = scales.storage_and_layout();
    let (g, gl) = grad.storage_and_layout();
    let (n, s, g) = (floats(&n, nl)?, floats(&s, sl)?, floats(&g, gl)?);
    fresh(count, width, grad, |out| norm.vjp(n, s, g, out))
}

/// x ← x + y.
fn add_to(x: &Tensor, y: &Tensor) -> Result<()> {
    let (y, layout) = y.storage_and_layout();
    let y = floats(&y, layout)?;
    update(x, |x| add(x, y))
}

/// LayerNorm(x + position + token type 0).
struct Positions {
    table: Vec<f32>,
    norm: LayerNorm,
}

impl Positions {
    fn load(weights: &Weights, root: &str, config: &BertConfig) -> Result<Self> {
        let hidden = config.hidden_size;
        let shape = [config.max_position_embeddings, hidden];
        let name = format!("{root}embeddings.position_embeddings.weight");
        let mut table = weights.floats(&name, &shape)?;
        let shape = [config.type_vocab_size, hidden];
        let name = format!("{root}embeddings.token_type_embeddings.weight");
        let types = weights.floats(&name, &shape)?;
        for row in table.chunks_exact_mut(hidden) {
            row.iter_mut()
                .zip(&types)
                .for_each(|(value, first)| *value += first);
        }
        let norm = layer_norm(weights, &format!("{root}embeddings.LayerNorm"), config)?;
        Ok(Self { table, norm })
    }
}

impl Block for Positions {
    fn forward(&self, x: &Tensor, rows: &Rows, kept: Option<&mut Kept>) -> Result<Tensor> {
        let (count, width) = x.dims2()?;
        let (storage, layout) = x.storage_and_layout();
        let values = floats(&storage, layout)?;
        let sum = fresh(count, width, x, |out| {
            let places = out.chunks_exact_mut(width).zip(values.chunks_exact(width));
            for ((out, value), position) in places.zip(rows.positions()) {
                let place = &self.table[position * width..(position + 1) * width];
                for ((out, value), place) in out.iter_mut().zip(value).zip(place) {
                    *out = value + place;
                }
            }
        })?;
        let (y, normed, scales) = normalise(&self.norm, sum)?;
        if let Some(kept) = kept {
            kept.put([normed, scales]);
        }
        Ok(y)
    }

    fn vjp(&self, kept: &Kept, grad: &Tensor, _: &Rows) -> Result<Tensor> {
        let [normed, scales] = kept.get()?;
        normalise_vjp(&self.norm, normed, scales, grad)
    }
}

/// a = LayerNorm₁(x + Attention(x)·Wₒᵀ + bₒ); y = LayerNorm₂(a + gelu(a·W₁ᵀ + b₁)·W₂ᵀ + b₂).
struct Layer {
    attention: Attention,
    qkv: Linear,
    qkv_bias: Vec<f32>,
    out: Linear,
    out_bias: Vec<f32>,
    norm_attention: LayerNorm,
    up: Linear,
    up_bias: Vec<f32>,
    down: Linear,
    down_bias: Vec<f32>,
    norm_out: LayerNorm,
}

impl Layer {
    fn load(weights: &Weights, root: &str, index: usize, config: &BertConfig) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let at = |name: &str| format!("{root}encoder.layer.{index}.{name}");
        let three = |kind: &str| {
            ["query", "key", "value"]
                .map(|part| (at(&format!("attention.self.{part}.{kind}")), hidden))
        };
        let heads = config.num_attention_heads;
        Ok(Self {
            attention: Attention {
                heads,
                groups: heads,
                size: hidden / heads,
                causal: false,
            },
            qkv: Linear::stacked(weights, &three("weight"), hidden)?,
            qkv_bias: weights.vectors(&three("bias"))?,
            out: Linear::load(
                weights,
                &at("attention.output.dense.weight"),
                hidden,
                hidden,
            )?,
            out_bias: weights.vector(&at("attention.output.dense.bias"), hidden)?,
            norm_attention: layer_norm(weights, &at("attention.output.LayerNorm"), config)?,
            up: Linear::load(weights, &at("intermediate.dense.weight"), inner, hidden)?,
            up_bias: weights.vector(&at("intermediate.dense.bias"), inner)?,
            down: Linear::load(weights, &at("output.dense.weight"), hidden, inner)?,
            down_bias: weights.vector(&at("output.dense.bias"), hidden)?,
            norm_out: layer_norm(weights, &at("output.LayerNorm"), config)?,
        })
    }
}

impl Block for Layer {
    fn forward(&self, x: &Tensor, rows: &Rows, kept: Option<&mut Kept>) -> Result<Tensor> {
        let (count, hidden) = x.dims2()?;
        let qkv = self.qkv.forward(x)?;
        update(&qkv, |qkv| add_bias(qkv, &self.qkv_bias))?;
        let mut weights = vec![0f32; self.attention.weights(rows)];
        let context = {
            let (storage, layout) = qkv.storage_and_layout();
            let values = floats(&storage, layout)?;
            fresh(count, hidden, x, |out| {
                self.attention.forward(rows, values, out, &mut weights)
            })?
        };
        let sum = self.out.forward(&context)?;
        drop(context);
        update(&sum, |sum| add_bias(sum, &self.out_bias))?;
        add_to(&sum, x)?;
        let (middle, normed, scales) = normalise(&self.norm_attention, sum)?;

        let inner = self.up.forward(&middle)?;
        let mut slope = kept.is_some().then(|| vec![0f32; inner.elem_count()]);
        update(&inner, |inner| {
            bias_gelu(inner, slope.as_deref_mut(), &self.up_bias)
        })?;
        let sum = self.down.forward(&inner)?;
        update(&sum, |sum| add_bias(sum, &self.down_bias))?;
        add_to(&sum, &middle)?;
        let (y, normed_out, scales_out) = normalise(&self.norm_out, sum)?;
        if let (Some(kept), Some(slope)) = (kept, slope) {
            let weights = Tensor::from_vec(weights, self.attention.weights(rows), x.device())?;
            let slope = Tensor::from_vec(slope, inner.shape(), x.device())?;
            kept.put([qkv, weights, normed, scales, slope, normed_out, scales_out]);
        }
        Ok(y)
    }

    fn vjp(&self, kept: &Kept, grad: &Tensor, rows: &Rows) -> Result<Tensor> {
        let [qkv, weights, normed, scales, slope, normed_out, scales_out] = kept.get()?;
        let d_sum = normalise_vjp(&self.norm_out, normed_out, scales_out, grad)?;
        let d_inner = self.down.vjp(&d_sum)?;
        {
            let (storage, layout) = slope.storage_and_layout();
            let slope = floats(&storage, layout)?;
            update(&d_inner, |inner| multiply(inner, slope))?;
        }
        let d_middle = self.up.vjp(&d_inner)?;
        drop(d_inner);
        add_to(&d_middle, &d_sum)?;
        let d_sum = normalise_vjp(&self.norm_attention, normed, scales, &d_middle)?;
        let d_context = self.out.vjp(&d_sum)?;
        let d_qkv = {
            let (q, ql) = qkv.storage_and_layout();
            let (w, wl) = weights.storage_and_layout();
            let (g, gl) = d_context.storage_and_layout();
            let (q, w, g) = (floats(&q, ql)?, floats(&w, wl)?, floats(&g, gl)?);
            let (count, width) = qkv.dims2()?;
            fresh(count, width, qkv, |out| {
                self.attention.vjp(rows, q, w, g, out)
            })?
        };
        let d_x = self.qkv.vjp(&d_qkv)?;
        add_to(&d_x, &d_sum)?;
        Ok(d_x)
    }
}
