//! The frozen language model: what every architecture offers to training.

mod bert;
mod cache;
mod causal;
mod config;
mod embedding;
mod frozen;
mod gpt2;
mod gpt_neox;
pub(crate) mod kernels;
mod likelihood;
mod linear;
mod llama;
mod operations;
mod portable;
mod prenorm;
pub mod random;
mod rotary;
mod rows;
mod vectorised;
mod weights;

use std::path::Path;

use candle_core::{Device, Tensor};

pub use cache::Cache;
pub use config::LlamaConfig;
pub(crate) use likelihood::log_likelihood;
pub use rotary::RopeParameters;

use crate::error::{Error, Result};

/// A pretrained language model whose weights never change.
///
/// Notation: B examples, T positions (virtual tokens first), H the hidden size, f32 on the
/// device the backbone was loaded to. Gradients flow to the inputs only, never to weights.
pub trait Backbone: Send + Sync {
    /// H, the length of one embedding.
    fn hidden(&self) -> usize;

    /// Number of token ids the model knows.
    fn vocabulary(&self) -> usize;

    /// Longest sequence, virtual tokens included, that [`Backbone::forward`] takes.
    fn max_positions(&self) -> usize;

    /// The architecture as Hugging Face's `model_type` names it (`"bert"`, `"llama"`, …).
    fn kind(&self) -> &'static str;

    /// Where the weights live.
    fn device(&self) -> &Device;

    /// Token embeddings alone, `[B, T]` u32 → `[B, T, H]`: positions, token types and the
    /// embedding norm are applied by [`Backbone::forward`], so that virtual tokens get
    /// theirs as transformers gives them to `inputs_embeds`.
    ///
    /// # Errors
    /// [`Error::Misuse`] for an id outside the vocabulary or a wrong shape.
    fn embed(&self, ids: &Tensor) -> Result<Tensor>;

    /// Last hidden states, `[B, T, H]` → `[B, T, H]`, differentiable in `embeds`.
    ///
    /// `mask` is `[B, T]`, f32, 1 for a token and 0 for padding, padding on the right, at
    /// least one token a row. Padding is never computed: its hidden states are zero.
    ///
    /// # Errors
    /// [`Error::Misuse`] for wrong shapes, a mask that is not right-padded, or more than
    /// [`Backbone::max_positions`] positions.
    fn forward(&self, embeds: &Tensor, mask: &Tensor) -> Result<Tensor>;

    /// A sequence of no positions yet, for [`Backbone::extend`].
    ///
    /// # Errors
    /// [`Error::Misuse`] where a position's hidden state depends on later ones (BERT).
    fn start(&self) -> Result<Cache> {
        Err(Error::Misuse(format!(
            "{} computes whole sequences alone",
            self.kind()
        )))
    }

    /// Last hidden states of the next positions of one sequence, `[1, T, H]` → `[1, T, H]`:
    /// what [`Backbone::forward`] gives there for the sequence that `cache` and they make up,
    /// at the cost of the T new positions. They join `cache`, which is as before where this
    /// fails. Nothing is differentiated.
    ///
    /// # Errors
    /// [`Error::Misuse`] for a wrong shape, a cache of another backbone, more than
    /// [`Backbone::max_positions`] positions in all, or as [`Backbone::start`].
    fn extend(&self, embeds: &Tensor, cache: &mut Cache) -> Result<Tensor> {
        let _ = (embeds, cache);
        Err(Error::Misuse(format!(
            "{} computes whole sequences alone",
            self.kind()
        )))
    }

    /// The token ids that end a text, as the model's folder gives them: `config.json`'s first, of which the first is what answers
    /// are taught to end with, then those that `generation_config.json` adds; it may give none.
    fn end_of_text(&self) -> &[u32] {
        &[]
    }

    /// Whether there is a language-model head ([`Backbone::logits`]).
    fn speaks(&self) -> bool {
        false
    }

    /// Whether there is a pooler ([`Backbone::pool`]).
    fn pools(&self) -> bool {
        false
    }

    /// The language-model head: `[R, H]` → `[R, vocabulary]`, differentiable in `rows`.
    ///
    /// # Errors
    /// [`Error::Misuse`] where the architecture has no language-model head.
    fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        let _ = rows;
        Err(Error::Misuse(format!(
            "{} has no language-model head",
            self.kind()
        )))
    }

    /// The model's own pooler over first-position states, `[B, H]` → `[B, H]`,
    /// differentiable in `rows`: tanh(W·h + b) for BERT.
    ///
    /// # Errors
    /// [`Error::Misuse`] where the architecture (or this checkpoint) has no pooler.
    fn pool(&self, rows: &Tensor) -> Result<Tensor> {
        let _ = rows;
        Err(Error::Misuse(format!("{} has no pooler", self.kind())))
    }

    /// Whether a pass is short and takes little memory, so that several may run side by side.
    fn is_small(&self) -> bool {
        false
    }

    /// SHA-256 over `config.json` and the weights files: what a plan names the backbone by.
    fn digest(&self) -> [u8; 32];
}

/// The `model_type`s that [`load`] knows.
pub const KNOWN: [&str; 6] = ["bert", "gpt2", "gpt_neox", "llama", "mistral", "qwen2"];

/// How a backbone is run; the results do not depend on it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Recompute each layer's activations in the backward pass instead of keeping them: a
    /// third more arithmetic, a fraction of the memory.
    pub recompute: bool,
    /// Compute with candle's operations, as off the CPU, even where there are kernels: slower, and the same to within rounding.
    pub portable: bool,
}

/// Opens a Hugging Face model folder: `config.json` and `model.safetensors` (or its shards
/// with `model.safetensors.index.json`), as `save_pretrained` writes them.
///
/// # Errors
/// [`Error::Malformed`] naming the file or tensor that is missing, cut short or of a shape the
/// configuration does not give; [`Error::Refused`] for an architecture, activation or number
/// type that is not known here, with the list of those that are.
pub fn load(dir: &Path, device: &Device) -> Result<Box<dyn Backbone>> {
    load_with(dir, device, Options::default())
}

/// [`load`] with options.
///
/// # Errors
/// As [`load`].
pub fn load_with(dir: &Path, device: &Device, options: Options) -> Result<Box<dyn Backbone>> {
    let kind: config::Kind = config::read(dir)?;
    let known: Box<dyn Backbone> = match kind.model_type.as_deref() {
        Some("bert") => Box::new(bert::load(dir, device, options)?),
        Some("gpt2") => Box::new(gpt2::load(dir, device, options)?),
        Some("gpt_neox") => Box::new(gpt_neox::load(dir, device, options)?),
        Some("llama" | "mistral" | "qwen2") => Box::new(llama::load(dir, device, options)?),
        other => {
            return Err(Error::Refused(format!(
                "architecture {:?} (model_type {:?}); known: {}",
                kind.architectures.unwrap_or_default(),
                other.unwrap_or("none"),
                KNOWN.join(", ")
            )));
        }
    };
    Ok(known)
}
