//! Every backbone and prompt encoder against what transformers and PEFT computed (the
//! fixtures under `shared/fixtures/hf`, or where `HF_FIXTURES` says), and its gradients
//! against finite differences: by the CPU's kernels, by the operations for other devices on the
//! CPU and, with the feature `cuda`, on a GPU.

#[path = "parity/continuation.rs"]
mod continuation;
#[path = "parity/loading.rs"]
mod loading;
mod places;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::backprop::GradStore;
use candle_core::{DType, Device, Tensor, Var};
use ciphertune_tune::backbone::{self, Backbone, Options};
use ciphertune_tune::encoder::Encoder;
use ciphertune_tune::encoder::embedding::Embedding;
use ciphertune_tune::encoder::lstm::Lstm;
use ciphertune_tune::encoder::mlp::Mlp;
use ciphertune_tune::head::{Classifier, Pooling};
use ciphertune_tune::parameters::Trainable;
use ciphertune_tune::{Error, Result};
use places::{Place, places};

type Tensors = HashMap<String, Tensor>;

const CPU: Device = Device::Cpu;

const CAUSAL: [&str; 4] = ["llama", "qwen2", "gpt2", "gpt_neox"];
const ALL: [&str; 5] = ["llama", "qwen2", "gpt2", "gpt_neox", "bert"];

fn shared(path: &str) -> Option<PathBuf> {
    present(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared")).join(path))
}

/// The folder of one architecture's fixture.
fn fixture(architecture: &str) -> Option<PathBuf> {
    match std::env::var_os("HF_FIXTURES") {
        Some(root) => present(PathBuf::from(root).join(architecture)),
        None => shared(&format!("fixtures/hf/{architecture}")),
    }
}

fn present(path: PathBuf) -> Option<PathBuf> {
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
    // `max` would pass over a NaN.
    assert!(got.iter().chain(want).all(|x| x.is_finite()));
    let top = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    got.iter()
        .zip(want)
        .fold(0f32, |m, (a, b)| m.max((a - b).abs()))
        / top.max(1e-30)
}

#[track_caller]
fn close(what: &str, got: &Tensor, want: &Tensor, tolerance: f32) {
    let distance = distance(&values(got), &values(want));
    println!("{what} is off by {distance:e}");
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
    /// The model of one architecture and what PEFT's `encoder` (`"mlp"`, `"lstm"`) gave.
    fn open(architecture: &str, encoder: &str, place: &Place) -> Option<Self> {
        Some(Self::of(&fixture(architecture)?, encoder, place))
    }

    fn of(dir: &Path, encoder: &str, (device, options): &Place) -> Self {
        let backbone = backbone::load_with(dir, device, *options).expect("a backbone");
        let file = dir.join(format!("ptuning_{encoder}.safetensors"));
        let tensors = candle_core::safetensors::load(file, &CPU).expect("a fixture");
        let virtual_tokens = tensors["prompt_embeddings_batch"].dims()[1];
        let mask = tensors["attention_mask"]
            .to_dtype(DType::F32)
            .expect("a mask");
        let ones = Tensor::ones((mask.dims()[0], virtual_tokens), DType::F32, &CPU).expect("ones");
        let mask = Tensor::cat(&[&ones, &mask], 1).and_then(|mask| mask.to_device(device));
        let mask = mask.expect("a mask");
        Self {
            backbone,
            tensors,
            mask,
            virtual_tokens,
        }
    }

    /// The prompt `[V, H]` that PEFT's encoder computed.
    fn prompt(&self) -> Tensor {
        let prompt = self.tensors["prompt_embeddings_batch"].squeeze(0);
        prompt.expect("a prompt")
    }

    /// It as a leaf: plain prompt tuning.
    fn leaf(&self) -> Tensor {
        leaf_of(&self.prompt())
    }

    /// The logits that transformers computed: of the real positions, or of the examples.
    fn logits(&self) -> Tensor {
        let logits = &self.tensors["logits"];
        if self.backbone.kind() == "bert" {
            return logits.clone();
        }
        let rows = self.real_rows().and_then(|rows| Ok(rows.to_device(&CPU)?));
        let rows = rows.expect("rows");
        let logits = logits.flatten_to(1).and_then(|t| t.index_select(&rows, 0));
        logits.expect("logits")
    }

    fn device(&self) -> &Device {
        self.backbone.device()
    }

    fn prompts(&self, prompt: &Tensor) -> Result<Tensor> {
        let ids = self.tensors["input_ids"].to_dtype(DType::U32)?;
        let words = self.backbone.embed(&ids.to_device(self.device())?)?;
        let shape = (words.dims()[0], self.virtual_tokens, words.dims()[2]);
        let prompt = prompt.to_device(self.device())?.broadcast_as(shape)?;
        Ok(Tensor::cat(&[&prompt, &words], 1)?)
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
        let rows = rows.index_select(&Tensor::from_vec(from, count, self.device())?, 0)?;
        let answers = self.backbone.logits(&rows)?;
        let loss = cross_entropy(&answers, &Tensor::from_vec(targets, count, self.device())?)?;
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
        let labels = labels.to_device(self.device())?;
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
        Ok(Tensor::from_vec(rows, count, self.device())?)
    }

    fn classifier(&self) -> Classifier {
        let name = |part: &str| format!("trainable.classifier.modules_to_save.default.{part}");
        let part = |part: &str| self.tensors[&name(part)].to_device(self.device());
        let (weight, bias) = (part("weight").expect("W"), part("bias").expect("b"));
        Classifier::from_tensors(&weight, &bias).expect("a classifier")
    }

    fn outcome(&self, prompt: &Tensor) -> Result<Outcome> {
        match self.backbone.kind() {
            "bert" => self.classify(prompt, &self.classifier(), Pooling::First),
            _ => self.causal(prompt),
        }
    }
}

/// Every architecture in every place.
fn everywhere(architectures: &[&'static str]) -> Vec<(&'static str, Place)> {
    let each = |place: Place| architectures.iter().map(move |&name| (name, place.clone()));
    places().into_iter().flat_map(each).collect()
}

fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    Ok(candle_nn::loss::cross_entropy(logits, targets)?)
}

fn leaf_of(prompt: &Tensor) -> Tensor {
    Var::from_tensor(prompt).expect("a leaf").into_inner()
}

fn gradient(gradients: &GradStore, of: &Tensor) -> Tensor {
    gradients.get(of).expect("a gradient").clone()
}

/// The backbone alone: the prompt is given, whatever encoder made it.
fn backbone_parity(architecture: &str, place: &Place) {
    for encoder in ["mlp", "lstm"] {
        let Some(fixture) = Fixture::open(architecture, encoder, place) else {
            return;
        };
        let leaf = fixture.leaf();
        let Outcome { logits, loss } = fixture.outcome(&leaf).expect("an outcome");
        let name = |what: &str| format!("{architecture}, {encoder}: {what}");
        close(&name("the logits"), &logits, &fixture.logits(), 1e-4);
        close(&name("the loss"), &loss, &fixture.tensors["loss"], 1e-4);
        let gradients = loss.backward().expect("gradients");
        let got = gradient(&gradients, &leaf);
        let want = &fixture.tensors["grad.prompt_embeddings"];
        close(&name("the prompt's gradient"), &got, want, 1e-3);
    }
}

/// An encoder before it, both its ways back, and the classifier after it where there is one.
fn encoder_parity(architecture: &str, name: &str, place: &Place) {
    let Some(fixture) = Fixture::open(architecture, name, place) else {
        return;
    };
    let tensors = &fixture.tensors;
    let encoder: Box<dyn Encoder> = match name {
        "lstm" => Box::new(Lstm::from_tensors(tensors).expect("an encoder")),
        _ => Box::new(Mlp::from_tensors(tensors).expect("an encoder")),
    };
    let prompt = encoder.forward().expect("prompts");
    let want = &tensors["prompt_embeddings_batch"];
    close("the prompt", prompt.embeddings(), want, 1e-4);

    let leaf = leaf_of(prompt.embeddings());
    let classifier = (architecture == "bert").then(|| fixture.classifier());
    let outcome = match &classifier {
        Some(classifier) => fixture.classify(&leaf, classifier, Pooling::First),
        None => fixture.causal(&leaf),
    };
    let Outcome { logits, loss } = outcome.expect("an outcome");
    close("the logits", &logits, &fixture.logits(), 1e-4);
    let gradients = loss.backward().expect("gradients");
    let of_prompt = gradient(&gradients, &leaf);
    let theta = Trainable::gather(&*encoder, None);
    let exact = encoder.pull_back(&theta.flatten().expect("θ"), &values(&of_prompt));
    let fast = prompt.pull_back(&of_prompt).expect("a gradient");
    let fast = fast.iter().flat_map(values).collect();
    for pulled in [fast, exact.expect("a gradient")] {
        let mut rest = pulled.as_slice();
        for (name, variable) in theta.names().iter().zip(theta.variables()) {
            let (own, tail) = rest.split_at(variable.elem_count());
            rest = tail;
            let own = Tensor::from_slice(own, variable.shape(), &CPU).expect("a gradient");
            let key = format!("grad.{name}");
            close(&key, &own, &tensors[&key], 1e-3);
        }
        assert!(rest.is_empty());
    }
    for (name, variable) in classifier.iter().flat_map(Classifier::parameters) {
        let part = name.trim_start_matches("classifier.");
        let key = format!("grad.trainable.classifier.modules_to_save.default.{part}");
        close(&key, &gradient(&gradients, &variable), &tensors[&key], 1e-3);
    }
}

fn parity(architecture: &str) {
    for place in places() {
        backbone_parity(architecture, &place);
        encoder_parity(architecture, "mlp", &place);
        encoder_parity(architecture, "lstm", &place);
    }
}

#[test]
fn llama_computes_what_transformers_and_peft_compute() {
    parity("llama");
}

#[test]
fn qwen2_computes_what_transformers_and_peft_compute() {
    parity("qwen2");
}

#[test]
fn gpt2_computes_what_transformers_and_peft_compute() {
    parity("gpt2");
}

#[test]
fn gpt_neox_computes_what_transformers_and_peft_compute() {
    parity("gpt_neox");
}

#[test]
fn bert_computes_what_transformers_and_peft_compute() {
    parity("bert");
}

#[test]
fn recomputing_activations_changes_nothing() {
    for (architecture, (device, options)) in everywhere(&ALL) {
        let gradient_of = |recompute| -> Option<Vec<f32>> {
            let options = Options {
                recompute,
                ..options
            };
            let fixture = Fixture::open(architecture, "mlp", &(device.clone(), options))?;
            let leaf = fixture.leaf();
            let loss = fixture.outcome(&leaf).expect("an outcome").loss;
            let gradients = loss.backward().expect("gradients");
            Some(values(&gradient(&gradients, &leaf)))
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

/// A sample of the prompt's gradient, to 2 % of its largest entry.
fn differences(what: &str, fixture: &Fixture, run: &dyn Fn(&Tensor) -> Result<Outcome>) {
    let (prompt, leaf) = (fixture.prompt(), fixture.leaf());
    let loss = run(&leaf).expect("an outcome").loss;
    let gradients = loss.backward().expect("gradients");
    let exact = values(&gradient(&gradients, &leaf));
    let top = exact.iter().fold(0f32, |m, x| m.max(x.abs()));
    for at in (0..exact.len()).step_by(exact.len().div_ceil(12)) {
        let loss = |p: &Tensor| Ok(run(p)?.loss.to_scalar::<f32>()?);
        let slope = slope(&prompt, at, 1e-2, &loss);
        let off = (slope - exact[at]).abs() / top;
        assert!(off < 2e-2, "{what} [{at}]: {slope} and {}", exact[at]);
    }
}

#[test]
fn gradients_agree_with_finite_differences() {
    for (architecture, place) in everywhere(&ALL) {
        let Some(fixture) = Fixture::open(architecture, "mlp", &place) else {
            return;
        };
        differences(architecture, &fixture, &|prompt| fixture.outcome(prompt));
        if architecture == "bert" {
            let (fixture, classifier) = (&fixture, fixture.classifier());
            differences("bert, mean", fixture, &|prompt| {
                fixture.classify(prompt, &classifier, Pooling::Mean)
            });
        }
    }
}

#[test]
fn a_gpt_neox_with_one_residual_after_the_other_agrees_with_finite_differences() {
    let Some(dir) = fixture("gpt_neox") else {
        return;
    };
    let serial = loading::altered(&dir, |config| {
        config["use_parallel_residual"] = false.into();
    });
    for place in places() {
        let fixture = Fixture::of(serial.path(), "mlp", &place);
        differences("serial residuals", &fixture, &|prompt| {
            fixture.outcome(prompt)
        });
        let outcome = fixture.outcome(&fixture.prompt()).expect("an outcome");
        let off = distance(&values(&outcome.logits), &values(&fixture.logits()));
        assert!(off > 1e-2, "parallel residuals give other logits: {off}");
    }
}

#[test]
fn evaluation_without_a_gradient_gives_the_same_numbers() {
    for (architecture, place) in everywhere(&ALL) {
        let Some(fixture) = Fixture::open(architecture, "mlp", &place) else {
            return;
        };
        let plain = fixture
            .outcome(&fixture.prompt())
            .expect("an outcome")
            .logits;
        let tracked = fixture.outcome(&fixture.leaf()).expect("an outcome").logits;
        // BERT's classifier is trained, whatever the prompt is.
        assert_eq!(plain.track_op(), architecture == "bert");
        assert_eq!(values(&plain), values(&tracked));
    }
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
    let encoder = Embedding::random(1, 384, 1, &CPU).expect("an encoder");
    let prompt = leaf_of(encoder.forward().expect("a prompt").embeddings());
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
