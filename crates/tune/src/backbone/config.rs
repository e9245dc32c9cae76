//! `config.json`, as far as a forward pass needs it.

use std::f64::consts::PI;
use std::path::Path;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::weights::read_text;
use crate::error::{Error, Result};

/// What every `config.json` says first.
#[derive(Deserialize)]
pub(super) struct Kind {
    pub(super) model_type: Option<String>,
    #[serde(default)]
    pub(super) architectures: Vec<String>,
}

/// Reads `config.json` of a model folder as `T`.
pub(super) fn read<T: DeserializeOwned>(dir: &Path) -> Result<T> {
    let path = dir.join("config.json");
    serde_json::from_str(&read_text(&path)?)
        .map_err(|error| Error::Malformed(format!("{}: {error}", path.display())))
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
    pub(super) type_vocab_size: usize,
    pub(super) layer_norm_eps: f64,
    pub(super) hidden_act: String,
    pub(super) position_embedding_type: Option<String>,
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
        known("hidden_act", &self.hidden_act, &["gelu"])?;
        let positions = self
            .position_embedding_type
            .as_deref()
            .unwrap_or("absolute");
        known("position_embedding_type", positions, &["absolute"])?;
        if self.type_vocab_size == 0 || self.intermediate_size == 0 {
            return Err(Error::Malformed(
                "a BERT without token types or inner width".into(),
            ));
        }
        Ok(())
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
}

/// Rotary position settings; further keys belong to kinds that are refused.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct RopeParameters {
    /// `"default"`, `"linear"` or `"llama3"`.
    #[serde(alias = "type")]
    pub rope_type: Option<String>,
    /// Base of the rotary angles.
    pub rope_theta: Option<f64>,
    /// Stretch of the positions (linear, llama3).
    pub factor: Option<f64>,
    /// llama3.
    pub low_freq_factor: Option<f64>,
    /// llama3.
    pub high_freq_factor: Option<f64>,
    /// llama3.
    pub original_max_position_embeddings: Option<f64>,
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

    /// Longest sequence computed exactly: beyond a sliding window attention would differ.
    pub(super) fn positions(&self) -> usize {
        let window = self
            .sliding_window
            .filter(|_| self.use_sliding_window != Some(false));
        window.map_or(self.max_position_embeddings, |w| {
            w.min(self.max_position_embeddings)
        })
    }

    /// ω_d = θ^(−2d/D) for d < D/2, stretched as `rope_type` says (transformers'
    /// `modeling_rope_utils`).
    pub(super) fn frequencies(&self) -> Result<Vec<f32>> {
        let settings = self.rope_parameters.as_ref().or(self.rope_scaling.as_ref());
        let theta = settings
            .and_then(|s| s.rope_theta)
            .or(self.rope_theta)
            .unwrap_or(10_000.0);
        let size = self.head_size();
        let plain = (0..size / 2).map(|d| libm::pow(theta, -2.0 * d as f64 / size as f64));
        let rope_type = settings
            .and_then(|s| s.rope_type.as_deref())
            .unwrap_or("default");
        known("rope_type", rope_type, &["default", "linear", "llama3"])?;
        let need = |value: Option<f64>, key: &str| {
            value
                .filter(|v| v.is_finite() && *v > 0.0)
                .ok_or_else(|| Error::Malformed(format!("rope_type {rope_type} without {key}")))
        };
        let Some(settings) = settings.filter(|_| rope_type != "default") else {
            return Ok(plain.map(|w| w as f32).collect());
        };
        let factor = need(settings.factor, "factor")?;
        if rope_type == "linear" {
            return Ok(plain.map(|w| (w / factor) as f32).collect());
        }
        let low = need(settings.low_freq_factor, "low_freq_factor")?;
        let high = need(settings.high_freq_factor, "high_freq_factor")?;
        let original = need(
            settings.original_max_position_embeddings,
            "original_max_position_embeddings",
        )?;
        let stretched = plain.map(|w| {
            let turns = original * w / (2.0 * PI);
            let smooth = ((turns - low) / (high - low)).clamp(0.0, 1.0);
            ((1.0 - smooth) * w / factor + smooth * w) as f32
        });
        Ok(stretched.collect())
    }
}

/// The largest sizes that are believed of a configuration, far beyond any published model: what is allocated or
/// multiplied by one before the weights are looked at stays small.
const MOST_ROWS: usize = 1 << 24;
const MOST_WIDE: usize = 1 << 20;
const MOST_LAYERS: usize = 1 << 12;

fn bounded(sizes: &[(&str, usize, usize)]) -> Result<()> {
    match sizes.iter().find(|(_, size, most)| size > most) {
        Some((key, size, most)) => Err(Error::Malformed(format!(
            "{key} {size} is more than {most}"
        ))),
        None => Ok(()),
    }
}

fn known(key: &str, value: &str, values: &[&str]) -> Result<()> {
    if values.contains(&value) {
        return Ok(());
    }
    Err(Error::Refused(format!(
        "{key} {value:?}; known: {}",
        values.join(", ")
    )))
}

fn divides(small_key: &str, small: usize, large_key: &str, large: usize) -> Result<()> {
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
    fn rotary_frequencies_fall_from_one() {
        let plain = config("").frequencies().expect("frequencies");
        assert_eq!(plain.len(), 4);
        for (got, want) in plain.iter().zip([1.0, 0.1, 0.01, 0.001]) {
            assert!((got - want).abs() < 1e-6 * want);
        }
    }

    #[test]
    fn llama3_keeps_fast_angles_and_stretches_slow_ones() {
        let settings = r#","rope_scaling":{"rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,
            "high_freq_factor":4.0,"original_max_position_embeddings":8192}"#;
        let stretched = config(settings).frequencies().expect("frequencies");
        assert!((stretched[0] - 1.0).abs() < 1e-6);
        // 8192·0.001/2π = 1.3038 turns: smooth = 0.10127, so ω = 0.001·(0.89873/8 + 0.10127).
        assert!((stretched[3] - 2.1361e-4).abs() < 1e-7, "{}", stretched[3]);
    }

    #[test]
    fn unknown_rotations_and_activations_are_refused_by_name() {
        let refused = config(r#","rope_scaling":{"type":"yarn","factor":4.0}"#).check();
        assert!(matches!(refused, Err(Error::Refused(text)) if text.contains("yarn")));
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
        assert_eq!(config(r#","sliding_window":32"#).positions(), 32);
        assert_eq!(
            config(r#","sliding_window":32,"use_sliding_window":false"#).positions(),
            64
        );
    }
}
