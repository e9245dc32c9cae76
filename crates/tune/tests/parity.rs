//! Every backbone and prompt encoder against what transformers and PEFT computed (the
//! fixtures under `shared/fixtures/hf`), and its gradients against finite differences.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor};
use ciphertune_tune::backbone::{self, Backbone, Options, random};
use ciphertune_tune::encoder::Encoder;
use ciphertune_tune::encoder::embedding::Embedding;
use ciphertune_tune::encoder::mlp::Mlp;
use ciphertune_tune::head::{Classifier, Pooling};
use ciphertune_tune::parameters::Trainable;
use ciphertune_tune::{Error, Result};

type Tensors = HashMap<String, Tensor>;

const CPU: Device = Device::Cpu;

fn shared(path: &str) -> Option<PathBuf> {
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")).join(path);
    if !path.exists() {
        eprintln!("SKIPPED: {} is absent", path.display());
        return None;
    }
    Some(path)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    let tensor = tensor.to_dtype(DType::F32).and_then(|t| t.flatten_all());
    tensor.and_then(|t| t.to_vec1()).expect("values")
}

/// max |a − b| / max |b|.
fn distance(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    let top = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    got.iter()
        .zip(want)
        .fold(0f32, |m, (a, b)| m.max((a - b).abs()))
        / top.max(1e-30)
}

#[track_caller]
fn close(what: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    let distance = distance(&values(got), &values(want));
    assert!(
        distance <= tolerance,
        "{what} is off by {distance:e}, more than {tolerance:e}"
    );
}

/// One fixture: the model, what PEFT was given, and what came out.
struct Fixture {
    backbone: Box<dyn Backbone>,
    tensors: Tensors,
    mask: Tensor,
    virtual_tokens: usize,
}

struct Outcome {
    logits: Tensor,
    loss: Tensor,
}

impl Fixture {
    fn open(architecture: &str, options: Options) -> Option<Self> {
        let dir = shared(&format!("fixtures/hf/{architecture}"))?;
        let backbone = backbone::load_with(&dir, &CPU, options).expect("a backbone");
        let tensors = candle_core::safetensors::load(dir.join("ptuning_mlp.safetensors"), &CPU);
        let tensors = tensors.expect("a fixture");
        let virtual_tokens = tensors["encoder.embedding.weight"].dims()[0];
        let mask = tensors["attention_mask"]
            .to_dtype(DType::F32)
            .expect("a mask");
        let ones = Tensor::ones((mask.dims()[0], virtual_tokens), DType::F32, &CPU).expect("ones");
        let mask = Tensor::cat(&[&ones, &mask], 1).expect("a mask");
        Some(Self {
            backbone,
            tensors,
            mask,
            virtual_tokens,
        })
    }

    fn prompts(&self, prompt: &Tensor) -> Result<Tensor> {
        let ids = self.tensors["input_ids"].to_dtype(DType::U32)?;
        let words = self.backbone.embed(&ids)?;
        let shape = (words.dims()[0], self.virtual_tokens, words.dims()[2]);
        Ok(Tensor::cat(&[&prompt.broadcast_as(shape)?, &words], 1)?)
    }

    /// Logits of the real positions `[N, vocabulary]` and the mean loss over the labels that
    /// are not −100, each position predicting the next.
    fn causal(&self, prompt: &Tensor) -> Result<Outcome> {
        let hidden = self.backbone.forward(&self.prompts(prompt)?, &self.mask)?;
        let width = hidden.dims()[1];
        let rows = hidden.flatten_to(1)?;
        let logits = self
            .backbone
            .logits(&rows.index_select(&self.real_rows()?, 0)?)?;
        let labels = self.tensors["labels"].to_vec2::<i64>()?;
        let (mut from, mut targets) = (Vec::new(), Vec::new());
        for (example, labels) in labels.iter().enumerate() {
            for (at, &label) in labels
                .iter()
                .enumerate()
                .filter(|(_, label)| **label != -100)
            {
                from.push((example * width + self.virtual_tokens + at - 1) as u32);
                targets.push(label as u32);
            }
        }
        let count = from.len();
        let rows = rows.index_select(&Tensor::from_vec(from, count, &CPU)?, 0)?;
        let answers = self.backbone.logits(&rows)?;
        let loss = cross_entropy(&answers, &Tensor::from_vec(targets, count, &CPU)?)?;
        Ok(Outcome { logits, loss })
    }

    fn classify(
        &self,
        prompt: &Tensor,
        classifier: &Classifier,
        pooling: Pooling,
    ) -> Result<Outcome> {
        let hidden = self.backbone.forward(&self.prompts(prompt)?, &self.mask)?;
        let features = pooling.features(self.backbone.as_ref(), &hidden, &self.mask)?;
        let logits = classifier.forward(&features)?;
        let labels = self.tensors["labels"].to_dtype(DType::U32)?;
        let loss = cross_entropy(&logits, &labels)?;
        Ok(Outcome { logits, loss })
    }

    /// Indices of the positions that are not padding, among B·T.
    fn real_rows(&self) -> Result<Tensor> {
        let mask = values(&self.mask);
        let rows: Vec<u32> = (0u32..)
            .zip(&mask)
            .filter(|(_, m)| **m == 1.0)
            .map(|(i, _)| i)
            .collect();
        let count = rows.len();
        Ok(Tensor::from_vec(rows, count, &CPU)?)
    }

    fn classifier(&self) -> Classifier {
        let name = |part: &str| format!("trainable.classifier.modules_to_save.default.{part}");
        Classifier::from_tensors(&self.tensors[&name("weight")], &self.tensors[&name("bias")])
            .expect("a classifier")
    }

    fn outcome(&self, prompt: &Tensor) -> Result<Outcome> {
        match self.backbone.kind() {
            "bert" => self.classify(prompt, &self.classifier(), Pooling::First),
            _ => self.causal(prompt),
        }
    }
}

fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    Ok(candle_nn::loss::cross_entropy(logits, targets)?)
}

fn gradient(gradients: &GradStore, of: &Tensor) -> Tensor {
    gradients.get(of).expect("a gradient").clone()
}

fn parity(architecture: &str, options: Options) {
    let Some(fixture) = Fixture::open(architecture, options) else {
        return;
    };
    let tensors = &fixture.tensors;
    let encoder = Mlp::from_tensors(tensors).expect("an encoder");
    let prompt = encoder.forward().expect("prompts");
    let want = &tensors["prompt_embeddings_batch"];
    close("the prompt", &prompt, want, 1e-4);

    let classifier = (architecture == "bert").then(|| fixture.classifier());
    let outcome = match &classifier {
        Some(classifier) => fixture.classify(&prompt, classifier, Pooling::First),
        None => fixture.causal(&prompt),
    };
    let Outcome { logits, loss } = outcome.expect("an outcome");
    let want = if classifier.is_some() {
        tensors["logits"].clone()
    } else {
        let rows = fixture.real_rows().expect("rows");
        tensors["logits"]
            .flatten_to(1)
            .and_then(|t| t.index_select(&rows, 0))
            .expect("logits")
    };
    close("the logits", &logits, &want, 1e-4);
    close("the loss", &loss, &tensors["loss"], 1e-4);

    let gradients = loss.backward().expect("gradients");
    let theta = Trainable::gather(&encoder, classifier.as_ref());
    for (name, variable) in theta.names().iter().zip(theta.variables()) {
        let key = match name.strip_prefix("classifier.") {
            Some(part) => format!("grad.trainable.classifier.modules_to_save.default.{part}"),
            None => format!("grad.{name}"),
        };
        close(&key, &gradient(&gradients, variable), &tensors[&key], 1e-3);
    }

    // The prompt alone as the leaf: plain prompt tuning.
    let plain = Embedding::from_rows(&prompt).expect("an encoder");
    let leaf = plain.forward().expect("prompts");
    let loss = fixture.outcome(&leaf).expect("an outcome").loss;
    let gradients = loss.backward().expect("gradients");
    let want = &tensors["grad.prompt_embeddings"];
    close(
        "the prompt's gradient",
        &gradient(&gradients, &leaf),
        want,
        1e-3,
    );
}

#[test]
fn llama_computes_what_transformers_and_peft_compute() {
    parity("llama", Options::default());
}

#[test]
fn qwen2_computes_what_transformers_and_peft_compute() {
    parity("qwen2", Options::default());
}

#[test]
fn bert_computes_what_transformers_and_peft_compute() {
    parity("bert", Options::default());
}

#[test]
fn recomputing_activations_changes_nothing() {
    for architecture in ["llama", "bert"] {
        parity(architecture, Options { recompute: true });
        let gradient_of = |recompute| -> Option<Vec<f32>> {
            let fixture = Fixture::open(architecture, Options { recompute })?;
            let prompt = fixture.tensors["prompt_embeddings_batch"]
                .squeeze(0)
                .expect("a prompt");
            let leaf = Embedding::from_rows(&prompt)
                .and_then(|e| e.forward())
                .expect("a leaf");
            let loss = fixture.outcome(&leaf).expect("an outcome").loss;
            Some(values(&gradient(
                &loss.backward().expect("gradients"),
                &leaf,
            )))
        };
        assert_eq!(gradient_of(true), gradient_of(false), "{architecture}");
    }
}

/// Slope of the loss along coordinate `at` of the prompt, by central differences.
fn slope(prompt: &Tensor, at: usize, step: f32, loss: &dyn Fn(&Tensor) -> Result<f32>) -> f32 {
    let moved = |by: f32| -> f32 {
        let mut numbers = values(prompt);
        numbers[at] += by;
        let prompt = Tensor::from_vec(numbers, prompt.shape(), &CPU).expect("a prompt");
        loss(&prompt).expect("a loss")
    };
    (moved(step) - moved(-step)) / (2.0 * step)
}

#[test]
fn gradients_agree_with_finite_differences() {
    for (architecture, pooling) in [
        ("llama", None),
        ("qwen2", None),
        ("bert", Some(Pooling::First)),
        ("bert", Some(Pooling::Mean)),
    ] {
        let Some(fixture) = Fixture::open(architecture, Options::default()) else {
            return;
        };
        let run = |prompt: &Tensor| match pooling {
            Some(pooling) => fixture.classify(prompt, &fixture.classifier(), pooling),
            None => fixture.causal(prompt),
        };
        let prompt = fixture.tensors["prompt_embeddings_batch"]
            .squeeze(0)
            .expect("a prompt");
        let leaf = Embedding::from_rows(&prompt)
            .and_then(|e| e.forward())
            .expect("a leaf");
        let gradients = run(&leaf)
            .expect("an outcome")
            .loss
            .backward()
            .expect("gradients");
        let exact = values(&gradient(&gradients, &leaf));
        let top = exact.iter().fold(0f32, |m, x| m.max(x.abs()));
        for at in (0..exact.len()).step_by(exact.len() / 12) {
            let loss = |p: &Tensor| Ok(run(p)?.loss.to_scalar::<f32>()?);
            let slope = slope(&prompt, at, 1e-2, &loss);
            let off = (slope - exact[at]).abs() / top;
            assert!(
                off < 2e-2,
                "{architecture} {pooling:?} [{at}]: {slope} and {}",
                exact[at]
            );
        }
    }
}

#[test]
fn evaluation_without_a_gradient_gives_the_same_numbers() {
    let Some(fixture) = Fixture::open("bert", Options::default()) else {
        return;
    };
    let prompt = fixture.tensors["prompt_embeddings_batch"]
        .squeeze(0)
        .expect("a prompt");
    let tracked = Embedding::from_rows(&prompt)
        .and_then(|e| e.forward())
        .expect("a leaf");
    let plain = fixture.outcome(&prompt).expect("an outcome").logits;
    assert!(!plain.detach().track_op());
    assert_eq!(
        values(&plain),
        values(&fixture.outcome(&tracked).expect("an outcome").logits)
    );
}

#[test]
fn minilm_loads_and_trains_in_finite_numbers() {
    let Some(dir) = shared("models/all-MiniLM-L6-v2") else {
        return;
    };
    let backbone = backbone::load(&dir, &CPU).expect("MiniLM");
    assert_eq!(
        (backbone.hidden(), backbone.vocabulary(), backbone.kind()),
        (384, 30522, "bert")
    );
    let ids = Tensor::new(&[[101u32, 2023, 2003, 102], [101, 2204, 102, 0]], &CPU).expect("ids");
    let mask = [[1f32, 1., 1., 1., 1.], [1., 1., 1., 1., 0.]];
    let mask = Tensor::new(&mask, &CPU).expect("a mask");
    let prompt = Embedding::random(1, 384, 1, &CPU)
        .and_then(|e| e.forward())
        .expect("a prompt");
    let words = backbone.embed(&ids).expect("embeddings");
    let prompts = prompt.broadcast_as((2, 1, 384)).expect("prompts");
    let embeds = Tensor::cat(&[&prompts, &words], 1).expect("embeds");
    let hidden = backbone.forward(&embeds, &mask).expect("hidden states");
    assert_eq!(hidden.dims(), [2, 5, 384]);
    let all = values(&hidden);
    assert!(all.iter().all(|x| x.is_finite()));
    assert!(
        all[9 * 384..].iter().all(|&x| x == 0.0),
        "padding comes out zero"
    );
    let features = Pooling::First
        .features(backbone.as_ref(), &hidden, &mask)
        .expect("features");
    let gradients = features
        .sum_all()
        .and_then(|s| s.backward())
        .expect("gradients");
    let gradient = values(&gradient(&gradients, &prompt));
    assert!(gradient.iter().all(|x| x.is_finite()) && gradient.iter().any(|x| *x != 0.0));
    assert!(matches!(backbone.logits(&features), Err(Error::Misuse(_))));
    let again = backbone::load(&dir, &CPU).expect("MiniLM");
    assert_eq!(backbone.digest(), again.digest());
}

#[test]
fn half_precision_weights_give_nearly_the_same_states() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = random::small_llama(64, 32, 2);
    random::write_random_llama(folder.path(), &config, 5).expect("a model");
    let full = backbone::load(folder.path(), &CPU).expect("f32");
    let path = folder.path().join("model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &CPU).expect("tensors");
    let half: Tensors = tensors
        .into_iter()
        .map(|(name, tensor)| (name, tensor.to_dtype(DType::BF16).expect("bf16")))
        .collect();
    candle_core::safetensors::save(&half, &path).expect("saved");
    let half = backbone::load(folder.path(), &CPU).expect("bf16");
    assert_ne!(full.digest(), half.digest());
    let ids = Tensor::new(&[[1u32, 2, 3, 4, 5, 6, 7]], &CPU).expect("ids");
    let mask = Tensor::ones((1, 7), DType::F32, &CPU).expect("a mask");
    let states = |backbone: &dyn Backbone| {
        let hidden = backbone.forward(&backbone.embed(&ids)?, &mask)?;
        backbone.logits(&hidden.squeeze(0)?)
    };
    let want = states(full.as_ref()).expect("logits");
    close("bf16", &states(half.as_ref()).expect("logits"), &want, 2e-2);
}

#[test]
fn shards_are_read_as_one_model() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = random::small_llama(64, 32, 1);
    random::write_random_llama(folder.path(), &config, 5).expect("a model");
    let ids = Tensor::new(&[[1u32, 2, 3]], &CPU).expect("ids");
    let mask = Tensor::ones((1, 3), DType::F32, &CPU).expect("a mask");
    let states = || {
        let model = backbone::load(folder.path(), &CPU).expect("a backbone");
        values(
            &model
                .forward(&model.embed(&ids).expect("embeds"), &mask)
                .expect("states"),
        )
    };
    let want = states();
    let path = folder.path().join("model.safetensors");
    let tensors = candle_core::safetensors::load(&path, &CPU).expect("tensors");
    std::fs::remove_file(&path).expect("removed");
    let mut map = serde_json::Map::new();
    let (mut first, mut second) = (Tensors::new(), Tensors::new());
    for (index, (name, tensor)) in tensors.into_iter().enumerate() {
        let file = format!("model-0000{}-of-00002.safetensors", 1 + index % 2);
        map.insert(name.clone(), file.into());
        if index % 2 == 0 {
            &mut first
        } else {
            &mut second
        }
        .insert(name, tensor);
    }
    for (tensors, file) in [(first, 1), (second, 2)] {
        let path = folder
            .path()
            .join(format!("model-0000{file}-of-00002.safetensors"));
        candle_core::safetensors::save(&tensors, path).expect("saved");
    }
    let index = serde_json::json!({ "metadata": {}, "weight_map": map }).to_string();
    let path = folder.path().join("model.safetensors.index.json");
    std::fs::write(&path, index).expect("written");
    assert_eq!(states(), want);
    let outside = serde_json::json!({ "weight_map": { "x": "../model.safetensors" } }).to_string();
    std::fs::write(&path, outside).expect("written");
    assert!(matches!(
        backbone::load(folder.path(), &CPU),
        Err(Error::Malformed(_))
    ));
}

fn refused(dir: &Path) -> Error {
    backbone::load(dir, &CPU).err().expect("a refusal")
}

#[test]
fn a_folder_that_is_not_a_known_whole_model_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let dir = folder.path();
    assert!(
        matches!(refused(dir), Error::Malformed(text) if text.contains("config.json is missing"))
    );

    let config = random::small_llama(64, 32, 1);
    random::write_random_llama(dir, &config, 5).expect("a model");
    let weights = dir.join("model.safetensors");
    let bytes = std::fs::read(&weights).expect("bytes");

    std::fs::write(&weights, &bytes[..bytes.len() - 4]).expect("written");
    assert!(matches!(refused(dir), Error::Malformed(text) if text.contains("cut short")));
    std::fs::write(&weights, &bytes[..5]).expect("written");
    assert!(matches!(refused(dir), Error::Malformed(text) if text.contains("header")));
    std::fs::remove_file(&weights).expect("removed");
    assert!(
        matches!(refused(dir), Error::Malformed(text) if text.contains("model.safetensors is missing"))
    );

    std::fs::write(&weights, &bytes).expect("written");
    let mut wrong = config.clone();
    wrong.intermediate_size += 1;
    let text = serde_json::to_string(&wrong).expect("json");
    std::fs::write(dir.join("config.json"), text).expect("written");
    assert!(
        matches!(refused(dir), Error::Malformed(text) if text.contains("mlp.gate_proj.weight has shape [64, 32]"))
    );

    let unknown = r#"{"model_type":"t5","architectures":["T5ForConditionalGeneration"]}"#;
    std::fs::write(dir.join("config.json"), unknown).expect("written");
    assert!(
        matches!(refused(dir), Error::Refused(text) if text.contains("t5") && text.contains("llama"))
    );
    std::fs::write(dir.join("config.json"), "{").expect("written");
    assert!(matches!(refused(dir), Error::Malformed(_)));
}

#[test]
fn inputs_a_backbone_cannot_take_are_misuse() {
    let folder = tempfile::tempdir().expect("a folder");
    random::write_random_llama(folder.path(), &random::small_llama(64, 32, 1), 5).expect("a model");
    let model = backbone::load(folder.path(), &CPU).expect("a backbone");
    let misuse =
        |result: Result<Tensor>| assert!(matches!(result, Err(Error::Misuse(_))), "{result:?}");
    misuse(model.embed(&Tensor::new(&[[64u32]], &CPU).expect("ids")));
    misuse(model.embed(&Tensor::new(&[1u32], &CPU).expect("ids")));
    let zeros = |b, t, h| Tensor::zeros((b, t, h), DType::F32, &CPU).expect("zeros");
    let ones = |b, t| Tensor::ones((b, t), DType::F32, &CPU).expect("ones");
    misuse(model.forward(&zeros(1, 3, 31), &ones(1, 3)));
    misuse(model.forward(&zeros(1, 3, 32), &ones(1, 4)));
    misuse(model.forward(&zeros(1, 513, 32), &ones(1, 513)));
    misuse(model.pool(&Tensor::zeros((1, 32), DType::F32, &CPU).expect("zeros")));
}

#[test]
fn a_random_model_is_the_same_from_the_same_seed() {
    let folders = [5, 5, 6].map(|seed| {
        let folder = tempfile::tempdir().expect("a folder");
        random::write_random_llama(folder.path(), &random::small_llama(64, 32, 1), seed)
            .expect("a model");
        backbone::load(folder.path(), &CPU)
            .expect("a backbone")
            .digest()
    });
    assert_eq!(folders[0], folders[1]);
    assert_ne!(folders[0], folders[2]);
}
