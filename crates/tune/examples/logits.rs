//! What a backbone computes behind an adapter, for `python/peft_adapter.py` to compare with what PEFT computes.
//!
//! ```text
//! logits MODEL_DIR ADAPTER_DIR OUT.safetensors [new=mlp|lstm|prompt_tuning] [labels=L]
//! ```
//!
//! With `new=`, an adapter of seeded random numbers is written to ADAPTER_DIR first: with `labels=` one for sequence
//! classification. OUT gets `input_ids` `[B, T]` and `attention_mask` `[B, T]` (i64, padded on the right) and `logits`:
//! `[N, vocabulary]` of the N positions that are not padding, virtual tokens included, examples in turn; of a classifier
//! `[B, L]`.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use ciphertune_tune::adapter::{Adapter, AdapterConfig, ClassifierWeights, Method, TaskType};
use ciphertune_tune::backbone::{self, Backbone};
use ciphertune_tune::encoder::Encoder;
use ciphertune_tune::encoder::mlp::{Depth, Mlp};
use ciphertune_tune::head::{Classifier, Pooling};
use ciphertune_tune::{Error, Result};

/// Tokens of each example, the longest first.
const LENGTHS: [usize; 3] = [11, 8, 5];
const VIRTUAL_TOKENS: usize = 5;
const ENCODER_WIDTH: usize = 40;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (paths, options): (Vec<&str>, Vec<&str>) = (arguments.iter().map(String::as_str))
        .partition(|it| !it.starts_with("new=") && !it.starts_with("labels="));
    let &[model_dir, adapter_dir, out] = paths.as_slice() else {
        return Err(Error::Misuse(
            "logits MODEL_DIR ADAPTER_DIR OUT.safetensors [new=METHOD] [labels=L]".into(),
        ));
    };
    let (model_dir, adapter_dir) = (Path::new(model_dir), Path::new(adapter_dir));
    let option = |key: &str| (options.iter()).find_map(|it| it.strip_prefix(key));
    let backbone = backbone::load(model_dir, &Device::Cpu)?;
    if let Some(method) = option("new=") {
        let labels = option("labels=").map(|it| it.parse().unwrap_or(0));
        let adapter = random(model_dir, backbone.as_ref(), method, labels)?;
        adapter.write(adapter_dir)?;
    }
    let adapter = Adapter::read(adapter_dir)?;
    adapter.check(backbone.as_ref())?;
    let tensors = compute(backbone.as_ref(), &adapter)?;
    println!(
        "{}: {:?} logits of {:?}",
        backbone.kind(),
        adapter.config().task_type,
        tensors["logits"].dims()
    );
    Ok(candle_core::safetensors::save(&tensors, out)?)
}

/// The prompt of a random perceptron, whatever the method says made it, and a random classifier.
fn random(
    model_dir: &Path,
    backbone: &dyn Backbone,
    method: &str,
    labels: Option<usize>,
) -> Result<Adapter> {
    let method = match method {
        "mlp" => Method::Mlp {
            hidden: ENCODER_WIDTH,
        },
        "lstm" => Method::Lstm {
            hidden: ENCODER_WIDTH,
            layers: 2,
        },
        "prompt_tuning" => Method::PromptTuning,
        other => return Err(Error::Misuse(format!("method {other}"))),
    };
    let (hidden, device) = (backbone.hidden(), backbone.device());
    let encoder = Mlp::random(
        VIRTUAL_TOKENS,
        hidden,
        ENCODER_WIDTH,
        Depth::Peft,
        1,
        device,
    )?;
    let classifier = labels
        .map(|labels| Classifier::random(labels, hidden, 2, device))
        .transpose()?;
    let task = match classifier {
        Some(_) => TaskType::SeqCls,
        None => TaskType::CausalLm,
    };
    let config = AdapterConfig::new(model_dir, method, task, VIRTUAL_TOKENS)?;
    let classifier = classifier.as_ref().map(ClassifierWeights::of);
    Adapter::new(encoder.forward()?.embeddings(), classifier, config)
}

fn compute(backbone: &dyn Backbone, adapter: &Adapter) -> Result<HashMap<String, Tensor>> {
    let device = backbone.device();
    let (batch, longest) = (LENGTHS.len(), LENGTHS[0]);
    let (virtual_tokens, width) = adapter.prompt().dims2()?;
    let mut ids = vec![0u32; batch * longest];
    let mut mask = vec![0f32; batch * longest];
    for (row, length) in LENGTHS.iter().enumerate() {
        for at in row * longest..row * longest + length {
            ids[at] = 1 + (at * 7919 % (backbone.vocabulary() - 1)) as u32;
            mask[at] = 1.0;
        }
    }
    let ids = Tensor::from_vec(ids, (batch, longest), device)?;
    let mask = Tensor::from_vec(mask, (batch, longest), device)?;
    let prompts = adapter
        .prompt()
        .broadcast_as((batch, virtual_tokens, width))?;
    let ones = Tensor::ones((batch, virtual_tokens), DType::F32, device)?;
    let whole = Tensor::cat(&[&ones, &mask], 1)?;
    let embeds = Tensor::cat(&[&prompts, &backbone.embed(&ids)?], 1)?;
    let hidden = backbone.forward(&embeds, &whole)?;
    let logits = match adapter.classifier() {
        Some(classifier) => {
            let features = Pooling::First.features(backbone, &hidden, &whole)?;
            classifier.classifier()?.forward(&features)?
        }
        None => {
            let kept = whole.flatten_all()?.to_vec1::<f32>()?;
            let rows: Vec<u32> = (0u32..)
                .zip(kept)
                .filter_map(|(row, keep)| (keep > 0.0).then_some(row))
                .collect();
            let rows = Tensor::new(rows, device)?;
            backbone.logits(&hidden.flatten_to(1)?.index_select(&rows, 0)?)?
        }
    };
    Ok(HashMap::from([
        ("input_ids".to_owned(), ids.to_dtype(DType::I64)?),
        ("attention_mask".to_owned(), mask.to_dtype(DType::I64)?),
        ("logits".to_owned(), logits.detach()),
    ]))
}
