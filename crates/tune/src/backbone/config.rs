//! `config.json`, as far as a forward pass needs it.

use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::kernels::activation::Gelu;
use super::rotary::{RopeParameters, frequencies};
use super::weights::read_text;
use crate::error::{Error, Result};

/// What every `config.json` says first.
#[derive(Deserialize)]
pub(super) struct Kind {
    pub(super) model_type: Option<String>,
    pub(super) architectures: Option<Vec<String>>,
}

/// Reads `config.json` of a model folder as `T`.
pub(super) fn read<T: DeserializeOwned>(dir: &Path) -> Result<T> {
    read_file(dir, "config.json")
}

fn read_file<T: DeserializeOwned>(dir: &Path, name: &str) -> Result<T> {
    let path = dir.join(name);
    serde_json::from_str(&read_text(&path)?)
        .map_err(|error| Error::Malformed(format!("{}: {error}", path.display())))
}

#[derive(Deserialize)]
struct Ends {
    eos_token_id: Option<Ids>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Several(Vec<u32>),
}

/// The ids that end a text: `eos_token_id` of `config.json`, which a backbone's digest covers and members share, then what
/// `generation_config.json` adds where there is one.
pub(super) fn end_of_text(dir: &Path) -> Result<Vec<u32>> {
    let generation = "generation_config.json";
    let mut ids = read::<Ends>(dir)?.ids();
    if dir.join(generation).exists() {
        let more = read_file::<Ends>(dir, generation)?.ids();
        ids.extend(
            more.into_iter()
                .filter(|id| !ids.contains(id))
                .collect::<Vec<_>>(),
        );
    }
    Ok(ids)
}

impl Ends {
    fn ids(self) -> Vec<u32> {
        match self.eos_token_id {
            None => Vec::new(),
            Some(Ids::One(id)) => vec![id],
            Some(Ids::Several(ids)) => ids,
        }
    }
}

/// BERT: the keys of transformers' `BertConfig`.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct BertConfig {
    pub(super) vocab_size: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    pub(super) num_attention_heads: usize,
    pub(super) max_position_embeddings: usize,
    #[serde(default = "two")]
    pub(super) type_vocab_size: usize,
    #[serde(default = "bert_epsilon")]
    pub(super) layer_norm_eps: f64,
    #[serde(default = "gelu_name")]
    pub(super) hidden_act: String,
    pub(super) position_embedding_type: Option<String>,
    pub(super) is_decoder: Option<bool>,
}

/// transformers' defaults, for configurations that leave them out.
fn two() -> usize {
    2
}

fn bert_epsilon() -> f64 {
    1e-12
}

fn gelu_name() -> String {
    "gelu".into()
}

impl BertConfig {
    pub(super) fn check(&self) -> Result<()> {
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
            ("type_vocab_size", self.type_vocab_size, MOST_ROWS),
        ])?;
        divides(
            "num_attention_heads",
            self.num_attention_heads,
            "hidden_size",
            self.hidden_size,
        )?;
        self.gelu()?;
        let positions = self
            .position_embedding_type
            .as_deref()
            .unwrap_or("absolute");
        known("position_embedding_type", positions, &["absolute"])?;
        if self.is_decoder == Some(true) {
            return Err(Error::Refused("a BERT with is_decoder".into()));
        }
        if self.type_vocab_size == 0 || self.intermediate_size == 0 {
            return Err(Error::Malformed(
                "a BERT without token types or inner width".into(),
            ));
        }
        Ok(())
    }

    pub(super) fn gelu(&self) -> Result<Gelu> {
        gelu("hidden_act", &self.hidden_act)
    }

    pub(super) fn epsilon(&self) -> f32 {
        self.layer_norm_eps as f32
    }
}

/// The Llama family (Llama, Mistral, Qwen2): the keys of transformers' configurations.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LlamaConfig {
    /// `"llama"`, `"mistral"` or `"qwen2"`.
    pub model_type: String,
    /// Token ids.
    pub vocab_size: usize,
    /// H.
    pub hidden_size: usize,
    /// Inner width of the feed-forward part.
    pub intermediate_size: usize,
    /// Layers.
    pub num_hidden_layers: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads; as many as query heads where absent.
    #[serde(default)]
    pub num_key_value_heads: Option<usize>,
    /// Numbers a head; H over the query heads where absent.
    #[serde(default)]
    pub head_dim: Option<usize>,
    /// Longest sequence.
    pub max_position_embeddings: usize,
    /// ε of the norms.
    pub rms_norm_eps: f64,
    /// Base of the rotary angles (10,000 where absent).
    #[serde(default)]
    pub rope_theta: Option<f64>,
    /// Rotary settings as transformers 5 writes them.
    #[serde(default)]
    pub rope_parameters: Option<RopeParameters>,
    /// Rotary settings as transformers 4 writes them.
    #[serde(default)]
    pub rope_scaling: Option<RopeParameters>,
    /// Activation of the feed-forward part: `"silu"`.
    pub hidden_act: String,
    /// Whether the language-model head is the token embedding.
    #[serde(default)]
    pub tie_word_embeddings: bool,
    /// Positions a token sees, where the model limits them.
    #[serde(default)]
    pub sliding_window: Option<usize>,
    /// Whether that limit is used (Qwen2).
    #[serde(default)]
    pub use_sliding_window: Option<bool>,
    /// Whether q, k, v and the attention's output have biases (Llama).
    #[serde(default)]
    pub attention_bias: bool,
    /// Whether the feed-forward part has biases (Llama).
    #[serde(default)]
    pub mlp_bias: bool,
    /// Part of each head that is rotated: all of it, or the model is refused.
    #[serde(default)]
    pub partial_rotary_factor: Option<f64>,
}

impl LlamaConfig {
    pub(super) fn groups(&self) -> usize {
        self.num_key_value_heads.unwrap_or(self.num_attention_heads)
    }

    pub(super) fn head_size(&self) -> usize {
        self.head_dim
            .unwrap_or(self.hidden_size / self.num_attention_heads.max(1))
    }

    pub(super) fn check(&self) -> Result<()> {
        bounded(&[
            ("vocab_size", self.vocab_size, MOST_ROWS),
            ("hidden_size", self.hidden_size, MOST_WIDE),
            ("intermediate_size", self.intermediate_size, MOST_WIDE),
            ("num_hidden_layers", self.num_hidden_layers, MOST_LAYERS),
            ("num_attention_heads", self.num_attention_heads, MOST_WIDE),
            ("head_dim", self.head_size(), MOST_WIDE),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                MOST_ROWS,
            ),
        ])?;
        known("hidden_act", &self.hidden_act, &["silu"])?;
        divides(
            "num_key_value_heads",
            self.groups(),
            "num_attention_heads",
            self.num_attention_heads,
        )?;
        if self.hidden_size == 0
            || self.head_size() == 0
            || !self.head_size().is_multiple_of(2)
            || self.intermediate_size == 0
        {
            return Err(Error::Malformed(format!(
                "hidden_size {}, head_dim {} (an even number), intermediate_size {}",
                self.hidden_size,
                self.head_size(),
                self.intermediate_size
            )));
        }
        self.frequencies().map(drop)
    }

    /// Whether q, k and v have biases: always in a Qwen2.
    pub(super) fn qkv_bias(&self) -> bool {
        self.attention_bias || self.model_type == "qwen2"
    }

    /// Longest sequence computed exactly: beyond a sliding window attention would differ.
    pub(super) fn positions(&self) -> usize {
        // As transformers uses it: a Qwen2 where it says so, a Llama never.
        let used = match self.model_type.as_str() {
            "qwen2" => self.use_sliding_window == Some(true),
            "llama" => false,
            _ => self.use_sliding_window != Some(false),
        };
        let window = self.sliding_window.filter(|_| used);
        window.map_or(self.max_position_embeddings, |w| {
            w.min(self.max_position_embeddings)
        })
    }

    /// Angles a position, half a head of them.
    pub(super) fn frequencies(&self) -> Result<Vec<f32>> {
        let settings = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let part = settings.and_then(|s| s.partial_rotary_factor);
        if let Some(part) = part.or(self.partial_rotary_factor).filter(|p| *p != 1.0) {
            return Err(Error::Refused(format!(
                "partial_rotary_factor {part} in a {}",
                self.model_type
            )));
        }
        frequencies(settings, self.rope_theta, self.head_size())
    }
}

/// The largest sizes that are believed of a configuration, far beyond any published model: what is allocated or
/// multiplied by one before the weights are looked at stays small.
pub(super) const MOST_ROWS: usize = 1 << 24;
pub(super) const MOST_WIDE: usize = 1 << 20;
pub(super) const MOST_LAYERS: usize = 1 << 12;

pub(super) fn bounded(sizes: &[(&str, usize, usize)]) -> Result<()> {
    match sizes.iter().find(|(_, size, most)| size > most) {
        Some((key, size, most)) => Err(Error::Malformed(format!(
            "{key} {size} is more than {most}"
        ))),
        None => Ok(()),
    }
}

/// The GELU of this name in transformers' `ACT2FN`.
pub(super) fn gelu(key: &str, name: &str) -> Result<Gelu> {
    const ERF: [&str; 2] = ["gelu", "gelu_python"];
    const TANH: [&str; 3] = ["gelu_new", "gelu_fast", "gelu_pytorch_tanh"];
    known(key, name, &[ERF.as_slice(), &TANH].concat())?;
    Ok(if ERF.contains(&name) {
        Gelu::Erf
    } else {
        Gelu::Tanh
    })
}

/// Refuses a value that is not among `values`, with the list of them.
pub(super) fn known(key: &str, value: &str, values: &[&str]) -> Result<()> {
    if values.contains(&value) {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "{key} {value:?}; known: {}",
        values.join(", ")
    )))
}

pub(super) fn divides(small_key: &str, small: usize, large_key: &str, large: usize) -> Result<()> {
    if small > 0 && large > 0 && large.is_multiple_of(small) {
        return Ok(());
    }
    Err(Error::Malformed(format!(
        "{small_key} {small} does not divide {large_key} {large}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(extra: &str) -> LlamaConfig {
        let text = format!(
            r#"{{"model_type":"llama","vocab_size":8,"hidden_size":16,"intermediate_size":8,
            "num_hidden_layers":1,"num_attention_heads":2,"max_position_embeddings":64,
            "rms_norm_eps":1e-5,"hidden_act":"silu"{extra}}}"#
        );
        serde_json::from_str(&text).expect("a configuration")
    }

    #[test]
    fn unknown_rotations_and_activations_are_refused_by_name() {
        for (extra, name) in [
            (r#","rope_scaling":{"type":"yarn","factor":4.0}"#, "yarn"),
            (
                r#","rope_parameters":{"partial_rotary_factor":0.5}"#,
                "partial_rotary_factor",
            ),
            (r#","partial_rotary_factor":0.5"#, "partial_rotary_factor"),
        ] {
            let refused = config(extra).check();
            assert!(matches!(refused, Err(Error::Refused(text)) if text.contains(name)));
        }
        assert!(config(r#","partial_rotary_factor":1.0"#).check().is_ok());
        let mut relu = config("");
        relu.hidden_act = "relu".into();
        assert!(matches!(relu.check(), Err(Error::Refused(text)) if text.contains("relu")));
        let mut odd = config("");
        odd.num_key_value_heads = Some(3);
        assert!(matches!(odd.check(), Err(Error::Malformed(_))));
        let mut empty = config("");
        (empty.hidden_size, empty.head_dim) = (0, Some(8));
        assert!(matches!(empty.check(), Err(Error::Malformed(_))));
    }

    #[test]
    fn sizes_beyond_any_model_are_refused_before_anything_is_allocated() {
        let head = config(r#","head_dim":1099511627776"#).check();
        assert!(matches!(head, Err(Error::Malformed(text)) if text.contains("head_dim")));
        let mut deep = config("");
        deep.num_hidden_layers = usize::MAX;
        assert!(matches!(deep.check(), Err(Error::Malformed(text)) if text.contains("layers")));
    }

    #[test]
    fn a_sliding_window_bounds_the_positions() {
        let positions = |kind: &str, used: Option<bool>| {
            let mut config = config(r#","sliding_window":32"#);
            config.model_type = kind.into();
            config.use_sliding_window = used;
            config.positions()
        };
        assert_eq!(
            [None, Some(false)].map(|it| positions("mistral", it)),
            [32, 64]
        );
        assert_eq!(
            [None, Some(true)].map(|it| positions("qwen2", it)),
            [64, 32]
        );
        assert_eq!(positions("llama", None), 64);
    }

    #[test]
    fn the_ends_of_a_text_are_one_several_or_none() {
        let folder = tempfile::tempdir().expect("a folder");
        let dir = folder.path();
        let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("written");
        for (text, want) in [
            ("{}", vec![]),
            (r#"{"eos_token_id":null}"#, vec![]),
            (r#"{"eos_token_id":2}"#, vec![2]),
            (r#"{"eos_token_id":[2,7]}"#, vec![2, 7]),
        ] {
            write("config.json", text);
            assert_eq!(end_of_text(dir).expect("ids"), want);
        }
        write("generation_config.json", r#"{"eos_token_id":5}"#);
        assert_eq!(end_of_text(dir).expect("ids"), [2, 7, 5]);
        write("generation_config.json", r#"{"bos_token_id":1}"#);
        assert_eq!(end_of_text(dir).expect("ids"), [2, 7]);
        write("generation_config.json", r#"{"eos_token_id":-1}"#);
        assert!(matches!(end_of_text(dir), Err(Error::Malformed(_))));
    }
}
