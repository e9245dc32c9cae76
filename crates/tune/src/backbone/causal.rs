//! A decoder with its language-model head, whatever its layers.

use std::path::Path;
use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::cache::Cache;
use super::config::end_of_text;
use super::embedding::{Tokens, check_length};
use super::frozen::{Block, Stack, apply_rows};
use super::linear::Linear;
use super::weights::Weights;
use super::{Backbone, Options};
use crate::error::{Error, Result};

/// A frozen decoder: what llama.rs, gpt2.rs and gpt_neox.rs load.
pub(super) struct Causal {
    kind: &'static str,
    positions: usize,
    device: Device,
    digest: [u8; 32],
    small: bool,
    end_of_text: Vec<u32>,
    tokens: Tokens,
    stack: Arc<Stack>,
    /// None where the weights have none: a model of embeddings, or of a classifier alone.
    head: Option<Arc<Linear>>,
}

/// What an architecture's own loading gives: of the token embeddings `[vocabulary, H]` the
/// name, of the head the name unless it is the token embeddings, and every block.
pub(super) struct Parts<'a> {
    pub(super) kind: &'static str,
    pub(super) vocabulary: usize,
    pub(super) hidden: usize,
    pub(super) positions: usize,
    pub(super) tokens: &'a str,
    pub(super) head: Option<&'a str>,
    pub(super) blocks: Vec<Box<dyn Block>>,
}

impl Causal {
    /// Reads the token embeddings, the head and the ids that end a text.
    pub(super) fn assemble(
        dir: &Path,
        weights: &Weights,
        parts: Parts<'_>,
        options: Options,
    ) -> Result<Self> {
        let (vocabulary, hidden) = (parts.vocabulary, parts.hidden);
        let tokens = Tokens(weights.matrix(parts.tokens, vocabulary, hidden)?);
        let head = match parts.head {
            Some(name) if !weights.has(&format!("{name}.weight")) => None,
            Some(name) => Some(Linear::load(weights, name, (vocabulary, hidden), false)?),
            None => Some(Linear::new(weights, tokens.0.clone())),
        };
        Ok(Self {
            kind: parts.kind,
            positions: parts.positions,
            device: weights.device().clone(),
            digest: weights.digest(),
            small: weights.are_small(),
            end_of_text: end_of_text(dir)?,
            tokens,
            stack: Stack::new(parts.blocks, options.recompute),
            head: head.map(Arc::new),
        })
    }
}

impl Backbone for Causal {
    fn hidden(&self) -> usize {
        self.tokens.hidden()
    }

    fn vocabulary(&self) -> usize {
        self.tokens.vocabulary()
    }

    fn max_positions(&self) -> usize {
        self.positions
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
        check_length(embeds, self.hidden(), 0, self.positions)?;
        self.stack.apply(embeds, mask)
    }

    fn start(&self) -> Result<Cache> {
        Ok(self.stack.start())
    }

    fn extend(&self, embeds: &Tensor, cache: &mut Cache) -> Result<Tensor> {
        check_length(embeds, self.hidden(), cache.len(), self.positions)?;
        match embeds.dims() {
            [1, positions, _] if *positions > 0 => self.stack.extend(embeds, cache),
            other => Err(Error::Misuse(format!(
                "{other:?} is not one sequence [1, T, H] of at least one position"
            ))),
        }
    }

    fn speaks(&self) -> bool {
        self.head.is_some()
    }

    fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        let head = self.head.as_ref().ok_or_else(|| {
            Error::Misuse(format!("this {} has no language-model head", self.kind))
        })?;
        apply_rows(rows, |rows| {
            let (y, head) = (head.forward(rows)?, Arc::clone(head));
            Ok((y, move |grad: &Tensor| head.vjp(grad)))
        })
    }

    fn end_of_text(&self) -> &[u32] {
        &self.end_of_text
    }

    fn is_small(&self) -> bool {
        self.small
    }

    fn digest(&self) -> [u8; 32] {
        self.digest
    }
}
