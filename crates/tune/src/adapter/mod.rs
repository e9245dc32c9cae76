//! Adapters as PEFT saves and reads them, so that `PeftModel.from_pretrained` in Python takes a prompt that was tuned here,
//! and the other way round.
//!
//! A folder with two files (PEFT 0.21, `peft/utils/save_and_load.py`, `peft/config.py`):
//!
//! - `adapter_model.safetensors`: the finished prompt, `prompt_embeddings` `[V, H]`, whatever encoder made it; for sequence
//!   classification also the layer that was trained with it: `base_model.classifier.weight` `[L, H]` and
//!   `base_model.classifier.bias` `[L]`, or, as transformers calls it in decoders, where it has no bias,
//!   `base_model.score.weight` `[L, H]`. f32, with the metadata `format: pt`.
//! - `adapter_config.json`: the fields of `PromptEncoderConfig` (`peft_type: P_TUNING`) or `PromptTuningConfig`
//!   (`PROMPT_TUNING`), see [`AdapterConfig`].
//!
//! The encoder's own parameters θ are in neither: an adapter is for use, and training goes on from what
//! [`Trainable::save`](crate::parameters::Trainable::save) wrote.
//!
//! In Python a classifier is applied as transformers applies it: to BERT's pooled first position
//! ([`Pooling::First`](crate::head::Pooling::First)). The format has no place for another pooling or a feature length: a
//! classifier trained with those loads in PEFT, but scores differently there.

mod classifier;
mod config;

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

pub use classifier::ClassifierWeights;
pub use config::{AdapterConfig, Method, PeftType, TaskType};

use crate::backbone::Backbone;
use crate::error::{Error, Result};
use crate::file;

/// A tuned prompt and, for [`TaskType::SeqCls`], its classifier: f32 on the CPU, without a graph, every number finite, of the
/// shapes that its configuration gives.
#[derive(Clone, Debug)]
pub struct Adapter {
    prompt: Tensor,
    classifier: Option<ClassifierWeights>,
    config: AdapterConfig,
}

const FILE: &str = "adapter_model.safetensors";
const PROMPT: &str = "prompt_embeddings";
const CLASSIFIER_WEIGHT: &str = "base_model.classifier.weight";
const CLASSIFIER_BIAS: &str = "base_model.classifier.bias";
const SCORE_WEIGHT: &str = "base_model.score.weight";
const KNOWN: [&str; 4] = [PROMPT, CLASSIFIER_WEIGHT, CLASSIFIER_BIAS, SCORE_WEIGHT];
/// Far beyond any prompt: 4,096 virtual tokens of a model 16,384 wide are a quarter of it.
const MOST_BYTES: u64 = 1 << 30;

impl Adapter {
    /// An adapter of `prompt` `[V, H]` and, for sequence classification, the classifier that was trained with it.
    ///
    /// # Errors
    /// [`Error::Misuse`] for shapes that `config` does not give, a classifier too many or too few, or a number that is not
    /// finite.
    pub fn new(
        prompt: &Tensor,
        classifier: Option<ClassifierWeights>,
        config: AdapterConfig,
    ) -> Result<Self> {
        let classifier = classifier.map(|it| it.settled()).transpose()?;
        let shapes = classifier.as_ref().map(|it| {
            let bias = it.bias.as_ref().map(Tensor::dims);
            (it.weight.dims(), bias)
        });
        fits(&config, prompt.dims(), shapes).map_err(Error::Misuse)?;
        let adapter = Self {
            prompt: settled(prompt)?,
            classifier,
            config,
        };
        adapter.finite(Error::Misuse)
    }

    /// Reads an adapter's folder. Half precision is widened to f32.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the file and what is wrong in it: missing, cut short, a tensor that is missing or of a
    /// shape that the configuration does not give, a number that is not finite; [`Error::Refused`] for another kind of
    /// adapter or task, a tensor that is none of a prompt's, or another number type.
    pub fn read(dir: &Path) -> Result<Self> {
        let config = AdapterConfig::read(dir)?;
        let path = dir.join(FILE);
        let name = path.display();
        let malformed = |why: String| Error::Malformed(format!("{name}: {why}"));
        let bytes = file::read(&path, MOST_BYTES)?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|e| malformed(e.to_string()))?;
        // Left out in silence, it would be missed when the adapter is used.
        if let Some(other) = tensors.names().into_iter().find(|it| !KNOWN.contains(it)) {
            return Err(Error::Refused(format!(
                "{name}: tensor {other:?}; known: {}",
                KNOWN.join(", ")
            )));
        }
        let view = |key: &str| tensors.tensor(key).ok();
        let prompt = view(PROMPT).ok_or_else(|| malformed(format!("no tensor {PROMPT}")))?;
        let (weight, bias) = (view(CLASSIFIER_WEIGHT), view(CLASSIFIER_BIAS));
        let classifier = match (weight, bias, view(SCORE_WEIGHT)) {
            (None, None, None) => None,
            (Some(weight), Some(bias), None) => Some((weight, Some(bias))),
            (None, None, Some(weight)) => Some((weight, None)),
            _ => {
                return Err(malformed(format!(
                    "neither {CLASSIFIER_WEIGHT} with {CLASSIFIER_BIAS} nor {SCORE_WEIGHT} alone"
                )));
            }
        };
        let shapes = classifier.as_ref().map(|(weight, bias)| {
            let bias = bias.as_ref().map(TensorView::shape);
            (weight.shape(), bias)
        });
        fits(&config, prompt.shape(), shapes).map_err(malformed)?;
        let widened = |key: &str, view: &TensorView<'_>| {
            let dtype = match view.dtype() {
                Dtype::F32 => DType::F32,
                Dtype::BF16 => DType::BF16,
                Dtype::F16 => DType::F16,
                other => {
                    return Err(Error::Refused(format!(
                        "{name}: {key} is of type {other:?}; known: F32, BF16, F16"
                    )));
                }
            };
            let stored = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)?;
            Ok(stored.to_dtype(DType::F32)?)
        };
        let adapter = Self {
            prompt: widened(PROMPT, &prompt)?,
            classifier: match &classifier {
                None => None,
                Some((weight, None)) => Some(ClassifierWeights {
                    weight: widened(SCORE_WEIGHT, weight)?,
                    bias: None,
                }),
                Some((weight, Some(bias))) => Some(ClassifierWeights {
                    weight: widened(CLASSIFIER_WEIGHT, weight)?,
                    bias: Some(widened(CLASSIFIER_BIAS, bias)?),
                }),
            },
            config,
        };
        adapter.finite(malformed)
    }

    /// Writes the folder, which is made if it is not there. Each file appears whole or not at all, the configuration last:
    /// a folder that never had an adapter is none before it has both.
    ///
    /// # Errors
    /// [`Error::Fault`] with what the file system says.
    pub fn write(&self, dir: &Path) -> Result<()> {
        fs::create_dir_all(dir)
            .map_err(|error| Error::Fault(format!("{}: {error}", dir.display())))?;
        file::sync_entry(dir)?;
        // The metadata that PEFT writes.
        let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let bytes = safetensors::serialize(self.named(), Some(format))
            .map_err(|error| Error::Fault(format!("{FILE}: {error}")))?;
        file::replace(&dir.join(FILE), &bytes)?;
        self.config.write(dir)
    }

    /// Removes an adapter's files from a folder, where they are.
    ///
    /// # Errors
    /// [`Error::Fault`] with what the file system says.
    pub fn remove(dir: &Path) -> Result<()> {
        for name in [config::FILE, FILE] {
            match fs::remove_file(dir.join(name)) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::Fault(format!("removing {name}: {error}")));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// P, `[V, H]`.
    pub fn prompt(&self) -> &Tensor {
        &self.prompt
    }

    /// The classifier, for sequence classification alone.
    pub fn classifier(&self) -> Option<&ClassifierWeights> {
        self.classifier.as_ref()
    }

    /// What `adapter_config.json` says.
    pub fn config(&self) -> &AdapterConfig {
        &self.config
    }

    /// Whether the adapter can be used before `backbone`, here and in PEFT.
    ///
    /// # Errors
    /// [`Error::Refused`] for another embedding length, a prompt that leaves no room in the backbone's positions, or a
    /// classifier by a name that transformers does not give it in this architecture (PEFT would not find it).
    pub fn check(&self, backbone: &dyn Backbone) -> Result<()> {
        let (config, kind) = (&self.config, backbone.kind());
        if config.token_dim != backbone.hidden() {
            return Err(Error::Refused(format!(
                "the adapter is for embeddings of length {}, those of this {kind} have {}",
                config.token_dim,
                backbone.hidden()
            )));
        }
        if config.num_virtual_tokens >= backbone.max_positions() {
            return Err(Error::Refused(format!(
                "{} virtual tokens leave no room in the {} positions of this {kind}",
                config.num_virtual_tokens,
                backbone.max_positions()
            )));
        }
        let bias = self.classifier.as_ref().map(|it| it.bias.is_some());
        match (kind, bias) {
            ("bert", Some(false)) => Err(Error::Refused(format!(
                "the adapter has {SCORE_WEIGHT}, a {kind} has a classifier with a bias"
            ))),
            ("bert", _) | (_, None | Some(false)) => Ok(()),
            (_, Some(true)) => Err(Error::Refused(format!(
                "the adapter has {CLASSIFIER_WEIGHT}, a {kind} has a score without a bias"
            ))),
        }
    }

    /// The tensors as PEFT names them.
    fn named(&self) -> Vec<(&'static str, &Tensor)> {
        let mut named = vec![(PROMPT, &self.prompt)];
        match &self.classifier {
            None => {}
            Some(ClassifierWeights { weight, bias: None }) => named.push((SCORE_WEIGHT, weight)),
            Some(ClassifierWeights {
                weight,
                bias: Some(bias),
            }) => named.extend([(CLASSIFIER_WEIGHT, weight), (CLASSIFIER_BIAS, bias)]),
        }
        named
    }

    /// The adapter, or the error that `wrong` makes of a number that is not finite.
    fn finite(self, wrong: impl FnOnce(String) -> Error) -> Result<Self> {
        for (name, tensor) in self.named() {
            let values = tensor.flatten_all()?.to_vec1::<f32>()?;
            if let Some(at) = values.iter().position(|x| !x.is_finite()) {
                return Err(wrong(format!("{name} has {} at {at}", values[at])));
            }
        }
        Ok(self)
    }
}

/// A copy of the values alone, f32 on the CPU, without a graph: a variable that is trained further keeps its own.
fn settled(tensor: &Tensor) -> Result<Tensor> {
    let tensor = tensor.detach().to_device(&Device::Cpu)?;
    Ok(tensor.to_dtype(DType::F32)?.force_contiguous()?)
}

/// Whether the shapes of the prompt and of the classifier's W and b are those of the configuration.
fn fits(
    config: &AdapterConfig,
    prompt: &[usize],
    classifier: Option<(&[usize], Option<&[usize]>)>,
) -> std::result::Result<(), String> {
    let (tokens, width) = (config.num_virtual_tokens, config.token_dim);
    if prompt != [tokens, width] {
        return Err(format!(
            "{PROMPT} has shape {prompt:?}, the configuration says num_virtual_tokens {tokens} and token_dim {width}"
        ));
    }
    if tokens == 0 || width == 0 {
        return Err(format!("an empty prompt of {tokens} × {width}"));
    }
    match (config.task_type, classifier) {
        (TaskType::CausalLm, None) => Ok(()),
        (TaskType::CausalLm, Some(_)) => Err("task_type CAUSAL_LM with a classifier".to_owned()),
        (TaskType::SeqCls, None) => Err(format!(
            "task_type SEQ_CLS without {CLASSIFIER_WEIGHT} or {SCORE_WEIGHT}"
        )),
        (TaskType::SeqCls, Some((weight, bias))) => match weight {
            &[labels, columns]
                if labels > 0 && columns == width && bias.is_none_or(|it| it == [labels]) =>
            {
                Ok(())
            }
            _ => Err(format!(
                "a classifier of shapes {weight:?} and {bias:?} for token_dim {width}"
            )),
        },
    }
}
