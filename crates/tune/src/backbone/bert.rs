//! BERT (Devlin et al., NAACL 2019) as transformers computes it without dropout: post-norm
//! layers, GELU by erf, learned positions. MiniLM is one.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::config::{self, BertConfig};
use super::embedding::{Tokens, check_length};
use super::frozen::{Block, Kept, Pass, Stack, apply_rows};
use super::kernels::activation::Gelu;
use super::kernels::attention::Attention;
use super::linear::Linear;
use super::operations::{LayerNorm, Operations};
use super::rows::Rows;
use super::weights::{Part, Weights};
use super::{Backbone, Options};
use crate::error::{Error, Result};

/// A frozen BERT encoder with its pooler, where the checkpoint has one.
pub(super) struct Bert {
    config: BertConfig,
    device: Device,
    digest: [u8; 32],
    small: bool,
    operations: &'static dyn Operations,
    tokens: Tokens,
    stack: Arc<Stack>,
    pooler: Option<Arc<Linear>>,
}

/// Reads a folder whose `model_type` is `bert`.
pub(super) fn load(dir: &Path, device: &Device, options: Options) -> Result<Bert> {
    let config: BertConfig = config::read(dir)?;
    config.check()?;
    let weights = Weights::open(dir, device, options)?;
    let plain = weights.has("embeddings.word_embeddings.weight");
    let root = if plain { "" } else { "bert." };
    let hidden = config.hidden_size;
    let words = format!("{root}embeddings.word_embeddings");
    let tokens = Tokens(weights.matrix(&words, config.vocab_size, hidden)?);
    let mut blocks: Vec<Box<dyn Block>> = vec![Box::new(Positions::load(&weights, root, &config)?)];
    for index in 0..config.num_hidden_layers {
        let at = format!("{root}encoder.layer.{index}");
        blocks.push(Box::new(Layer::load(&weights, &at, &config)?));
    }
    let pooler = format!("{root}pooler.dense");
    let pooler = if weights.has(&format!("{pooler}.weight")) {
        let pooler = Linear::load(&weights, &pooler, (hidden, hidden), true)?;
        Some(Arc::new(pooler))
    } else {
        None
    };
    Ok(Bert {
        device: weights.device().clone(),
        digest: weights.digest(),
        small: weights.are_small(),
        operations: weights.operations(),
        tokens,
        stack: Stack::new(blocks, options.recompute),
        pooler,
        config,
    })
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
        check_length(embeds, self.hidden(), 0, self.max_positions())?;
        self.stack.apply(embeds, mask)
    }

    fn pools(&self) -> bool {
        self.pooler.is_some()
    }

    fn pool(&self, rows: &Tensor) -> Result<Tensor> {
        let pooler = self
            .pooler
            .as_ref()
            .ok_or_else(|| Error::Misuse("this BERT checkpoint has no pooler".into()))?;
        apply_rows(rows, |rows| {
            let y = self.operations.tanh(pooler.forward(rows)?)?;
            let (pooler, kept) = (Arc::clone(pooler), y.clone());
            let vjp = move |grad: &Tensor| {
                let slope = kept.sqr()?.affine(-1.0, 1.0)?;
                pooler.vjp(&grad.mul(&slope)?)
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

/// LayerNorm(x + position + token type 0).
struct Positions {
    table: Tensor,
    norm: LayerNorm,
    operations: &'static dyn Operations,
}

impl Positions {
    fn load(weights: &Weights, root: &str, config: &BertConfig) -> Result<Self> {
        let hidden = config.hidden_size;
        let name = format!("{root}embeddings.position_embeddings.weight");
        let places = weights.table(&name, config.max_position_embeddings, hidden)?;
        let name = format!("{root}embeddings.token_type_embeddings.weight");
        let types = weights.table(&name, config.type_vocab_size, hidden)?;
        let table = places.broadcast_add(&types.narrow(0, 0, 1)?)?;
        let norm = format!("{root}embeddings.LayerNorm");
        let norm = LayerNorm::load(weights, &norm, hidden, config.epsilon())?;
        let operations = weights.operations();
        Ok(Self {
            table,
            norm,
            operations,
        })
    }
}

impl Block for Positions {
    fn forward(&self, x: &Tensor, rows: &Rows, pass: Pass<'_>) -> Result<Tensor> {
        let sum = self.operations.add_positions(x, &self.table, rows)?;
        let (y, normed, scales) = self.operations.layer_norm(&self.norm, sum)?;
        if let Pass::Keep(kept) = pass {
            kept.put([normed, scales]);
        }
        Ok(y)
    }

    fn vjp(&self, kept: &Kept, grad: &Tensor, _: &Rows) -> Result<Tensor> {
        let [normed, scales] = kept.get()?;
        (self.operations).layer_norm_vjp(&self.norm, normed, scales, grad)
    }
}

/// a = LayerNorm₁(x + Attention(x)·Wₒᵀ + bₒ); y = LayerNorm₂(a + gelu(a·W₁ᵀ + b₁)·W₂ᵀ + b₂).
struct Layer {
    attention: Attention,
    qkv: Linear,
    out: Linear,
    norm_attention: LayerNorm,
    up: Linear,
    up_bias: Tensor,
    gelu: Gelu,
    down: Linear,
    norm_out: LayerNorm,
    operations: &'static dyn Operations,
}

impl Layer {
    fn load(weights: &Weights, at: &str, config: &BertConfig) -> Result<Self> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let at = |name: &str| format!("{at}.{name}");
        let qkv = ["query", "key", "value"]
            .map(|name| Part::whole(at(&format!("attention.self.{name}")), hidden));
        let out = at("attention.output.dense");
        let up = at("intermediate.dense");
        let norm = |name: &str| LayerNorm::load(weights, &at(name), hidden, config.epsilon());
        let heads = config.num_attention_heads;
        Ok(Self {
            attention: Attention {
                heads,
                groups: heads,
                size: hidden / heads,
                causal: false,
                scale: 1.0 / ((hidden / heads) as f32).sqrt(),
            },
            qkv: Linear::stacked(weights, &qkv, hidden, true)?,
            out: Linear::load(weights, &out, (hidden, hidden), true)?,
            norm_attention: norm("attention.output.LayerNorm")?,
            up: Linear::load(weights, &up, (inner, hidden), false)?,
            up_bias: weights.vector(&format!("{up}.bias"), inner)?,
            gelu: config.gelu()?,
            down: Linear::load(weights, &at("output.dense"), (hidden, inner), true)?,
            norm_out: norm("output.LayerNorm")?,
            operations: weights.operations(),
        })
    }
}

impl Block for Layer {
    fn forward(&self, x: &Tensor, rows: &Rows, mut pass: Pass<'_>) -> Result<Tensor> {
        let ops = self.operations;
        let qkv = self.qkv.forward(x)?;
        let (context, weights) = ops.attend(&self.attention, &qkv, rows, &mut pass)?;
        let sum = ops.add(self.out.forward(&context)?, x)?;
        drop(context);
        let (middle, normed, scales) = ops.layer_norm(&self.norm_attention, sum)?;

        let inner = self.up.forward(&middle)?;
        let (inner, slope) = ops.gelu(self.gelu, inner, &self.up_bias, pass.keeps())?;
        let sum = ops.add(self.down.forward(&inner)?, &middle)?;
        let (y, normed_out, scales_out) = ops.layer_norm(&self.norm_out, sum)?;
        if let (Pass::Keep(kept), Some(slope)) = (pass, slope) {
            kept.put([qkv, weights, normed, scales, slope, normed_out, scales_out]);
        }
        Ok(y)
    }

    fn vjp(&self, kept: &Kept, grad: &Tensor, rows: &Rows) -> Result<Tensor> {
        let [qkv, weights, normed, scales, slope, normed_out, scales_out] = kept.get()?;
        let ops = self.operations;
        let d_sum = ops.layer_norm_vjp(&self.norm_out, normed_out, scales_out, grad)?;
        let d_inner = ops.multiply(self.down.vjp(&d_sum)?, slope)?;
        let d_middle = ops.add(self.up.vjp(&d_inner)?, &d_sum)?;
        drop(d_inner);
        let d_sum = ops.layer_norm_vjp(&self.norm_attention, normed, scales, &d_middle)?;
        let d_context = self.out.vjp(&d_sum)?;
        let d_qkv = ops.attend_vjp(&self.attention, qkv, weights, &d_context, rows)?;
        ops.add(self.qkv.vjp(&d_qkv)?, &d_sum)
    }
}
