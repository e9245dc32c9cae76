//! `adapter_config.json`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::error::{Error, Result};
use crate::file;

/// PEFT's `PromptEncoderConfig` or `PromptTuningConfig`, by PEFT's own names, as far as an adapter's use depends on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdapterConfig {
    /// What kind of adapter it is.
    pub peft_type: PeftType,
    /// What the model does with it.
    pub task_type: TaskType,
    /// V.
    pub num_virtual_tokens: usize,
    /// H, the length of one embedding of the backbone.
    pub token_dim: usize,
    /// Layers of the backbone.
    pub num_layers: Option<usize>,
    /// Attention heads of the backbone.
    pub num_attention_heads: Option<usize>,
    /// Parts of the backbone that get a prompt each: 1, or absent, which says the same for the tasks known here.
    pub num_transformer_submodules: Option<usize>,
    /// Where PEFT's `AutoPeftModel` finds the backbone. A path would tell others about the machine that wrote it, so
    /// [`AdapterConfig::new`] leaves it out.
    pub base_model_name_or_path: Option<String>,
    /// Every further key, as it came: they describe how the prompt was made and loaded, and every version of PEFT adds
    /// some.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// The kinds of adapter that are a prompt and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum PeftType {
    /// P-tuning: the prompt came out of an encoder (Liu et al., "GPT understands, too", 2021).
    #[serde(rename = "P_TUNING")]
    PTuning,
    /// The prompt's numbers were trained themselves (Lester, Al-Rfou, Constant, EMNLP 2021).
    #[serde(rename = "PROMPT_TUNING")]
    PromptTuning,
}

/// The tasks that are known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TaskType {
    /// The language-model head says what comes next.
    #[serde(rename = "CAUSAL_LM")]
    CausalLm,
    /// A classifier over one pooled position, saved with the prompt.
    #[serde(rename = "SEQ_CLS")]
    SeqCls,
}

/// What made the prompt: decides the `peft_type` and what PEFT would train on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The prompt itself was trained.
    PromptTuning,
    /// PEFT's three-layer perceptron with inner layers of this width.
    Mlp {
        /// Width of the inner layers.
        hidden: usize,
    },
    /// PEFT's bidirectional LSTM and two-layer perceptron.
    Lstm {
        /// Width of one direction's state.
        hidden: usize,
        /// LSTM layers.
        layers: usize,
    },
}

/// `peft_type` and `task_type` before anything else is believed, so that another kind of adapter is refused by name and not
/// for the keys that it lacks.
#[derive(Deserialize)]
struct Kind {
    peft_type: Option<String>,
    task_type: Option<String>,
}

pub(super) const FILE: &str = "adapter_config.json";
const PEFT_TYPES: [&str; 2] = ["P_TUNING", "PROMPT_TUNING"];
const TASK_TYPES: [&str; 2] = ["CAUSAL_LM", "SEQ_CLS"];
/// The version of PEFT whose keys [`AdapterConfig::new`] writes.
const PEFT_VERSION: &str = "0.21.2";
/// A configuration longer than this is not one (a plain text file of a thousand bytes).
const MOST_BYTES: u64 = 1 << 20;

impl AdapterConfig {
    /// The configuration of `num_virtual_tokens` tuned for the backbone in `model_dir` (its `config.json` is read), with every
    /// key that PEFT 0.21 writes.
    ///
    /// # Errors
    /// [`Error::Malformed`] if `config.json` is missing or does not state width, layers and heads.
    pub fn new(
        model_dir: &Path,
        method: Method,
        task_type: TaskType,
        num_virtual_tokens: usize,
    ) -> Result<Self> {
        let path = model_dir.join("config.json");
        let base: Value = parse(&path, &file::read(&path, MOST_BYTES)?)?;
        // transformers has several names for one thing; PEFT looks for them in this order.
        let size = |names: [&str; 2]| {
            let size = names.into_iter().find_map(|name| base.get(name)?.as_u64());
            let size = size.and_then(|size| usize::try_from(size).ok());
            size.ok_or_else(|| {
                let names = names.join(" or ");
                Error::Malformed(format!("{}: no {names}", path.display()))
            })
        };
        let (peft_type, mut other) = method.keys();
        other.extend(keys([
            ("auto_mapping", Value::Null),
            ("inference_mode", json!(true)),
            (
                "modules_to_save",
                match task_type {
                    TaskType::CausalLm => Value::Null,
                    TaskType::SeqCls => json!(["classifier", "score"]),
                },
            ),
            ("peft_version", json!(PEFT_VERSION)),
            ("revision", Value::Null),
        ]));
        Ok(Self {
            peft_type,
            task_type,
            num_virtual_tokens,
            token_dim: size(["hidden_size", "n_embd"])?,
            num_layers: Some(size(["num_hidden_layers", "n_layer"])?),
            num_attention_heads: Some(size(["num_attention_heads", "n_head"])?),
            num_transformer_submodules: Some(1),
            base_model_name_or_path: None,
            other,
        })
    }

    /// Reads `adapter_config.json` of an adapter's folder.
    pub(super) fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let bytes = file::read(&path, MOST_BYTES)?;
        let kind: Kind = parse(&path, &bytes)?;
        let known = |key: &str, value: Option<&str>, values: &[&str]| match value {
            Some(value) if values.contains(&value) => Ok(()),
            other => Err(Error::Refused(format!(
                "{}: {key} {:?}; known: {}",
                path.display(),
                other.unwrap_or("none"),
                values.join(", ")
            ))),
        };
        known("peft_type", kind.peft_type.as_deref(), &PEFT_TYPES)?;
        known("task_type", kind.task_type.as_deref(), &TASK_TYPES)?;
        let config: Self = parse(&path, &bytes)?;
        if let Some(parts) = config
            .num_transformer_submodules
            .filter(|parts| *parts != 1)
        {
            return Err(Error::Refused(format!(
                "{}: num_transformer_submodules {parts}; known: 1",
                path.display()
            )));
        }
        Ok(config)
    }

    /// Writes `adapter_config.json` as PEFT does: keys in order, two spaces.
    pub(super) fn write(&self, dir: &Path) -> Result<()> {
        let text = serde_json::to_value(self)
            .and_then(|sorted| serde_json::to_vec_pretty(&sorted))
            .map_err(|error| Error::Misuse(format!("{FILE}: {error}")))?;
        file::replace(&dir.join(FILE), &text)
    }
}

impl Method {
    /// The kind, and the keys that it alone has, at PEFT's defaults.
    fn keys(self) -> (PeftType, BTreeMap<String, Value>) {
        let encoder = |kind: &str, hidden: usize, layers: usize| {
            keys([
                ("encoder_dropout", json!(0.0)),
                ("encoder_hidden_size", json!(hidden)),
                ("encoder_num_layers", json!(layers)),
                ("encoder_reparameterization_type", json!(kind)),
            ])
        };
        match self {
            Self::PromptTuning => (
                PeftType::PromptTuning,
                keys([
                    ("prompt_tuning_init", json!("RANDOM")),
                    ("prompt_tuning_init_text", Value::Null),
                    ("tokenizer_kwargs", Value::Null),
                    ("tokenizer_name_or_path", Value::Null),
                ]),
            ),
            // PEFT's perceptron always has two inner layers, and says so.
            Self::Mlp { hidden } => (PeftType::PTuning, encoder("MLP", hidden, 2)),
            Self::Lstm { hidden, layers } => (PeftType::PTuning, encoder("LSTM", hidden, layers)),
        }
    }
}

fn keys<const N: usize>(of: [(&str, Value); N]) -> BTreeMap<String, Value> {
    of.map(|(key, value)| (key.to_owned(), value)).into()
}

fn parse<'a, T: Deserialize<'a>>(path: &Path, bytes: &'a [u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::Malformed(format!("{}: {error}", path.display())))
}
