//! Adapters against those that PEFT saved (the fixtures that `HF_FIXTURES` names, or those under `shared/fixtures/hf`), and
//! against folders that are none.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, Var};
use ciphertune_tune::adapter::{
    Adapter, AdapterConfig, ClassifierWeights, Method, PeftType, TaskType,
};
use ciphertune_tune::backbone::{self, Backbone, random};
use ciphertune_tune::head::Pooling;
use ciphertune_tune::{Error, Result};
use serde_json::{Value, json};

type Tensors = HashMap<String, Tensor>;

const CPU: Device = Device::Cpu;
const ARCHITECTURES: [&str; 5] = ["llama", "qwen2", "gpt2", "gpt_neox", "bert"];
const CONFIG: &str = "adapter_config.json";
const TENSORS: &str = "adapter_model.safetensors";
const PROMPT: &str = "prompt_embeddings";

/// The folder of an architecture's fixtures, where there is one.
fn fixture(architecture: &str) -> Option<PathBuf> {
    let root = std::env::var_os("HF_FIXTURES").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/fixtures/hf"),
        PathBuf::from,
    );
    let dir = root.join(architecture);
    if !dir.join("peft_adapter").exists() {
        eprintln!("SKIPPED: {} is absent", dir.display());
        return None;
    }
    Some(dir)
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    let values = tensor.flatten_all().and_then(|it| it.to_vec1::<f32>());
    values.expect("f32").into_iter().map(f32::to_bits).collect()
}

#[track_caller]
fn same(what: &str, got: &Tensor, want: &Tensor) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    assert_eq!(got.dtype(), want.dtype(), "{what}");
    assert_eq!(bits(got), bits(want), "{what}");
}

/// max |a − b| / max |b|.
fn distance(got: &Tensor, want: &Tensor) -> f32 {
    assert_eq!(got.dims(), want.dims());
    let numbers = |it: &Tensor| it.flatten_all()?.to_vec1::<f32>();
    let (got, want) = (numbers(got).expect("f32"), numbers(want).expect("f32"));
    let top = want.iter().fold(0f32, |m, x| m.max(x.abs()));
    let off = got
        .iter()
        .zip(&want)
        .fold(0f32, |m, (a, b)| m.max((a - b).abs()));
    off / top
}

fn open(path: &Path) -> Tensors {
    candle_core::safetensors::load(path, &CPU).expect("tensors")
}

fn document(dir: &Path) -> Value {
    serde_json::from_slice(&fs::read(dir.join(CONFIG)).expect("a file")).expect("JSON")
}

#[test]
fn an_adapter_that_peft_saved_is_read_to_the_bit() {
    for dir in ARCHITECTURES.into_iter().filter_map(fixture) {
        let adapter = Adapter::read(&dir.join("peft_adapter")).expect("an adapter");
        let config = adapter.config();
        assert_eq!(config.peft_type, PeftType::PTuning);
        assert_eq!(config.other["encoder_reparameterization_type"], "MLP");
        let tensors = open(&dir.join("ptuning_mlp.safetensors"));
        let prompt = tensors["prompt_embeddings_batch"].squeeze(0);
        same(PROMPT, adapter.prompt(), &prompt.expect("a prompt"));
        assert!(!adapter.prompt().track_op());

        let Some(classifier) = adapter.classifier() else {
            assert_eq!(config.task_type, TaskType::CausalLm);
            continue;
        };
        assert_eq!(config.task_type, TaskType::SeqCls);
        let trained =
            |part| &tensors[&format!("trainable.classifier.modules_to_save.default.{part}")];
        same("W", &classifier.weight, trained("weight"));
        same("b", classifier.bias.as_ref().expect("b"), trained("bias"));
    }
}

#[test]
fn an_adapter_written_anew_has_the_files_that_peft_wrote() {
    for dir in ARCHITECTURES.into_iter().filter_map(fixture) {
        let theirs = dir.join("peft_adapter");
        let read = Adapter::read(&theirs).expect("an adapter");
        let task = read.config().task_type;
        let config = AdapterConfig::new(&dir, Method::Mlp { hidden: 40 }, task, 5).expect("one");
        let adapter = Adapter::new(read.prompt(), read.classifier().cloned(), config);
        let folder = tempfile::tempdir().expect("a folder");
        let ours = folder.path().join("made/on/the/way");
        adapter.expect("an adapter").write(&ours).expect("written");

        let (want, got) = (open(&theirs.join(TENSORS)), open(&ours.join(TENSORS)));
        let names = |of: &Tensors| of.keys().cloned().collect::<BTreeSet<String>>();
        assert_eq!(names(&got), names(&want));
        want.iter()
            .for_each(|(name, it)| same(name, &got[name], it));
        // The header too: its order and its metadata.
        let bytes = |dir: &Path| fs::read(dir.join(TENSORS)).expect("bytes");
        assert!(bytes(&ours) == bytes(&theirs));

        let (mut got, want) = (document(&ours), document(&theirs));
        if let Value::Array(modules) = &want["modules_to_save"] {
            // PEFT adds its two names each time that it meets the configuration.
            let once =
                |of: &[Value]| -> BTreeSet<String> { of.iter().map(Value::to_string).collect() };
            let ours = got["modules_to_save"].as_array().expect("names");
            assert_eq!(once(ours), once(modules));
            got["modules_to_save"] = want["modules_to_save"].clone();
        }
        assert_eq!(got, want);
        let left: Vec<_> = fs::read_dir(&ours).expect("a listing").collect();
        assert_eq!(left.len(), 2, "{left:?}");
    }
}

#[test]
fn an_adapter_read_and_written_is_the_same_to_the_byte() {
    for dir in ARCHITECTURES.into_iter().filter_map(fixture) {
        let from = dir.join("peft_adapter");
        let folder = tempfile::tempdir().expect("a folder");
        let adapter = Adapter::read(&from).expect("an adapter");
        // Twice: over an adapter that is there.
        for _ in 0..2 {
            adapter.write(folder.path()).expect("written");
            for file in [CONFIG, TENSORS] {
                let bytes = |dir: &Path| fs::read(dir.join(file)).expect("bytes");
                assert!(bytes(folder.path()) == bytes(&from), "{file}");
            }
        }
    }
}

/// Logits of the positions that are not padding, or a classifier's, behind the adapter's prompt.
fn logits(backbone: &dyn Backbone, adapter: &Adapter, tensors: &Tensors) -> Result<Tensor> {
    let ids = tensors["input_ids"].to_dtype(DType::U32)?;
    let (batch, _) = ids.dims2()?;
    let (virtual_tokens, width) = adapter.prompt().dims2()?;
    let prompts = adapter
        .prompt()
        .broadcast_as((batch, virtual_tokens, width))?;
    let embeds = Tensor::cat(&[&prompts, &backbone.embed(&ids)?], 1)?;
    let mask = tensors["attention_mask"].to_dtype(DType::F32)?;
    let ones = Tensor::ones((batch, virtual_tokens), DType::F32, &CPU)?;
    let mask = Tensor::cat(&[&ones, &mask], 1)?;
    let hidden = backbone.forward(&embeds, &mask)?;
    match adapter.classifier() {
        Some(classifier) => {
            let features = Pooling::First.features(backbone, &hidden, &mask)?;
            classifier.classifier()?.forward(&features)
        }
        None => backbone.logits(&kept(&hidden, &mask)?),
    }
}

/// The rows of `[B, T, …]` that the mask keeps.
fn kept(of: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let mask = mask.flatten_all()?.to_vec1::<f32>()?;
    let rows: Vec<u32> = (0u32..)
        .zip(mask)
        .filter_map(|(row, keep)| (keep > 0.0).then_some(row))
        .collect();
    Ok(of
        .flatten_to(1)?
        .index_select(&Tensor::new(rows, &CPU)?, 0)?)
}

#[test]
fn a_backbone_behind_peft_s_prompt_says_what_transformers_says() {
    for architecture in ARCHITECTURES {
        let Some(dir) = fixture(architecture) else {
            continue;
        };
        if !backbone::KNOWN.contains(&architecture) {
            eprintln!("SKIPPED: no backbone {architecture}");
            continue;
        }
        let backbone = backbone::load(&dir, &CPU).expect("a backbone");
        let adapter = Adapter::read(&dir.join("peft_adapter")).expect("an adapter");
        adapter.check(backbone.as_ref()).expect("they fit");
        let tensors = open(&dir.join("ptuning_mlp.safetensors"));
        let got = logits(backbone.as_ref(), &adapter, &tensors).expect("logits");
        let want = &tensors["logits"];
        let want = match adapter.classifier() {
            Some(_) => want.clone(),
            None => {
                let mask = tensors["attention_mask"].to_dtype(DType::F32).expect("f32");
                let ones = Tensor::ones((mask.dims()[0], 5), DType::F32, &CPU).expect("ones");
                let mask = Tensor::cat(&[&ones, &mask], 1).expect("a mask");
                kept(want, &mask).expect("rows")
            }
        };
        let off = distance(&got, &want);
        assert!(off <= 1e-4, "{architecture}: off by {off:e}");
    }
}

// From here on without fixtures.

/// A small llama's folder.
fn model() -> (tempfile::TempDir, Box<dyn Backbone>) {
    let folder = tempfile::tempdir().expect("a folder");
    random::write_random_llama(folder.path(), &random::small_llama(64, 32, 1), 5).expect("a model");
    let backbone = backbone::load(folder.path(), &CPU).expect("a backbone");
    (folder, backbone)
}

fn ramp(shape: &[usize]) -> Tensor {
    let count = shape.iter().product::<usize>();
    let values: Vec<f32> = (0..count).map(|at| at as f32 / 7.0 - 1.5).collect();
    Tensor::from_vec(values, shape, &CPU).expect("a tensor")
}

fn config(method: Method, task: TaskType) -> AdapterConfig {
    AdapterConfig::new(model().0.path(), method, task, 3).expect("a configuration")
}

const MLP: Method = Method::Mlp { hidden: 8 };

fn causal() -> Adapter {
    Adapter::new(&ramp(&[3, 32]), None, config(MLP, TaskType::CausalLm)).expect("an adapter")
}

fn classifying(bias: bool) -> Adapter {
    let weights = ClassifierWeights {
        weight: ramp(&[2, 32]),
        bias: bias.then(|| ramp(&[2])),
    };
    let config = config(Method::PromptTuning, TaskType::SeqCls);
    Adapter::new(&ramp(&[3, 32]), Some(weights), config).expect("an adapter")
}

#[test]
fn every_kind_survives_the_round_trip_under_peft_s_names() {
    let lstm = Method::Lstm {
        hidden: 8,
        layers: 3,
    };
    let lstm = Adapter::new(&ramp(&[3, 32]), None, config(lstm, TaskType::CausalLm));
    let head = ["base_model.classifier.weight", "base_model.classifier.bias"];
    for (adapter, names) in [
        (causal(), &[][..]),
        (lstm.expect("an adapter"), &[]),
        (classifying(true), &head),
        (classifying(false), &["base_model.score.weight"]),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        adapter.write(folder.path()).expect("written");
        let tensors = open(&folder.path().join(TENSORS));
        let got: BTreeSet<&str> = tensors.keys().map(String::as_str).collect();
        assert_eq!(got, names.iter().copied().chain([PROMPT]).collect());
        let read = Adapter::read(folder.path()).expect("an adapter");
        assert_eq!(read.config(), adapter.config());
        same(PROMPT, read.prompt(), adapter.prompt());
        assert_eq!(read.classifier().is_some(), adapter.classifier().is_some());
        if let (Some(read), Some(written)) = (read.classifier(), adapter.classifier()) {
            same("W", &read.weight, &written.weight);
            assert_eq!(read.bias.is_some(), written.bias.is_some());
            let trained = ClassifierWeights::of(&read.classifier().expect("a classifier"));
            same("W", &trained.weight, &written.weight);
        }
    }
}

#[test]
fn an_adapter_keeps_its_values_while_training_goes_on() {
    let variable = Var::from_tensor(&ramp(&[3, 32])).expect("a variable");
    let adapter = Adapter::new(&variable, None, config(MLP, TaskType::CausalLm)).expect("one");
    variable
        .set(&variable.zeros_like().expect("zeros"))
        .expect("set");
    same(PROMPT, adapter.prompt(), &ramp(&[3, 32]));
}

#[test]
fn half_precision_is_widened() {
    let folder = tempfile::tempdir().expect("a folder");
    causal().write(folder.path()).expect("written");
    for dtype in [DType::BF16, DType::F16] {
        let half = ramp(&[3, 32]).to_dtype(dtype).expect("half");
        let tensors = HashMap::from([(PROMPT, half.clone())]);
        candle_core::safetensors::save(&tensors, folder.path().join(TENSORS)).expect("saved");
        let read = Adapter::read(folder.path()).expect("an adapter");
        same(
            PROMPT,
            read.prompt(),
            &half.to_dtype(DType::F32).expect("f32"),
        );
    }
}

#[test]
fn keys_of_another_version_are_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    causal().write(folder.path()).expect("written");
    let mut changed = document(folder.path());
    changed["from_the_future"] = json!({ "a": [1, 2.5, null] });
    for absent in ["revision", "num_transformer_submodules", "num_layers"] {
        changed.as_object_mut().expect("an object").remove(absent);
    }
    fs::write(folder.path().join(CONFIG), changed.to_string()).expect("written");
    let read = Adapter::read(folder.path()).expect("an adapter");
    assert_eq!(read.config().num_layers, None);
    read.write(folder.path()).expect("written");
    assert_eq!(
        document(folder.path())["from_the_future"],
        changed["from_the_future"]
    );
}

/// What reading says after `change` was made to a sound folder.
#[track_caller]
fn refusal(adapter: &Adapter, change: impl FnOnce(&Path)) -> Error {
    let folder = tempfile::tempdir().expect("a folder");
    adapter.write(folder.path()).expect("written");
    change(folder.path());
    Adapter::read(folder.path()).expect_err("a refusal")
}

#[track_caller]
fn malformed(error: &Error, parts: &[&str]) {
    let said = matches!(error, Error::Malformed(text) if parts.iter().all(|it| text.contains(it)));
    assert!(said, "{error} without {parts:?}");
}

#[track_caller]
fn refused(error: &Error, parts: &[&str]) {
    let said = matches!(error, Error::Refused(text) if parts.iter().all(|it| text.contains(it)));
    assert!(said, "{error} without {parts:?}");
}

#[test]
fn a_configuration_that_is_not_a_prompt_s_is_refused_by_name() {
    let set = |key: &'static str, value: Value| {
        refusal(&causal(), move |dir| {
            let mut changed = document(dir);
            changed[key] = value;
            fs::write(dir.join(CONFIG), changed.to_string()).expect("written");
        })
    };
    let known = ["LORA", "P_TUNING", "PROMPT_TUNING"];
    refused(&set("peft_type", json!("LORA")), &known);
    refused(&set("peft_type", Value::Null), &["none", "P_TUNING"]);
    let known = ["SEQ_2_SEQ_LM", "CAUSAL_LM", "SEQ_CLS"];
    refused(&set("task_type", json!("SEQ_2_SEQ_LM")), &known);
    refused(
        &set("num_transformer_submodules", json!(2)),
        &["num_transformer_submodules 2"],
    );
    let both = ["[3, 32]", "num_virtual_tokens 4", "token_dim 32"];
    malformed(&set("num_virtual_tokens", json!(4)), &both);
    let both = ["[3, 32]", "num_virtual_tokens 3", "token_dim 64"];
    malformed(&set("token_dim", json!(64)), &both);
    // V·H overflows: nothing may be allocated for it.
    let huge = ["18446744073709551615"];
    malformed(&set("num_virtual_tokens", json!(u64::MAX)), &huge);
    malformed(&set("num_virtual_tokens", json!(-1)), &["-1"]);
    malformed(&set("num_virtual_tokens", Value::Null), &["null"]);
    malformed(&set("task_type", json!("SEQ_CLS")), &["SEQ_CLS without"]);

    let text = |text: &'static str| {
        refusal(&causal(), move |dir| {
            fs::write(dir.join(CONFIG), text).expect("written")
        })
    };
    malformed(&text("{"), &[CONFIG]);
    malformed(&text("[]"), &[CONFIG]);
    malformed(&text("{\"peft_type\": NaN}"), &[CONFIG]);
    let gone = refusal(&causal(), |dir| {
        fs::remove_file(dir.join(CONFIG)).expect("removed")
    });
    malformed(&gone, &[CONFIG, "is missing"]);
    let long = refusal(&causal(), |dir| {
        let file = fs::OpenOptions::new().write(true).open(dir.join(CONFIG));
        file.and_then(|file| file.set_len(1 << 40)).expect("longer");
    });
    malformed(&long, &[CONFIG, "more than"]);
}

#[test]
fn tensors_that_are_not_a_prompt_s_are_refused_by_name() {
    let save = |adapter: &Adapter, tensors: &[(&str, Tensor)]| {
        let tensors: HashMap<&str, Tensor> = tensors.iter().cloned().collect();
        refusal(adapter, |dir| {
            candle_core::safetensors::save(&tensors, dir.join(TENSORS)).expect("saved");
        })
    };
    let (prompt, weight, bias) = (ramp(&[3, 32]), ramp(&[2, 32]), ramp(&[2]));
    let prompt = (PROMPT, prompt);
    let weight = ("base_model.classifier.weight", weight);
    let bias = ("base_model.classifier.bias", bias);
    let score = ("base_model.score.weight", weight.1.clone());
    malformed(&save(&causal(), &[]), &["no tensor prompt_embeddings"]);
    let lora = ("base_model.model.lora_A.weight", prompt.1.clone());
    refused(
        &save(&causal(), &[prompt.clone(), lora]),
        &["lora_A", PROMPT],
    );
    let both = [prompt.clone(), weight.clone(), bias.clone()];
    malformed(&save(&causal(), &both), &["CAUSAL_LM with a classifier"]);
    let classifying = classifying(true);
    let alone = save(&classifying, std::slice::from_ref(&prompt));
    malformed(&alone, &["SEQ_CLS without"]);
    let half = save(&classifying, &[prompt.clone(), weight.clone()]);
    malformed(&half, &["classifier.bias"]);
    let two = save(&classifying, &[prompt.clone(), weight.clone(), bias, score]);
    malformed(&two, &["classifier.weight", "score.weight"]);
    let long = ("base_model.classifier.bias", ramp(&[3]));
    malformed(
        &save(&classifying, &[prompt.clone(), weight, long]),
        &["[3]"],
    );
    let narrow = ("base_model.score.weight", ramp(&[2, 31]));
    malformed(&save(&classifying, &[prompt, narrow]), &["[2, 31]"]);

    let whole = Tensor::zeros((3, 32), DType::I64, &CPU).expect("a tensor");
    refused(&save(&causal(), &[(PROMPT, whole)]), &["I64", "F32"]);
    for (value, name) in [(f32::NAN, "NaN"), (f32::INFINITY, "inf")] {
        let mut values = vec![0f32; 96];
        values[40] = value;
        let tensor = Tensor::from_vec(values, (3, 32), &CPU).expect("a tensor");
        malformed(&save(&causal(), &[(PROMPT, tensor)]), &[PROMPT, name, "40"]);
    }
}

#[test]
fn a_file_cut_anywhere_or_claiming_too_much_is_malformed() {
    let folder = tempfile::tempdir().expect("a folder");
    causal().write(folder.path()).expect("written");
    let path = folder.path().join(TENSORS);
    let bytes = fs::read(&path).expect("bytes");
    let read = |bytes: &[u8]| {
        fs::write(&path, bytes).expect("written");
        Adapter::read(folder.path()).expect_err("a refusal")
    };
    for length in 0..bytes.len() {
        malformed(&read(&bytes[..length]), &[TENSORS]);
    }
    malformed(&read(&[&bytes[..], b"more"].concat()), &[TENSORS]);

    let claim = |header: &str| {
        let length = (header.len() as u64).to_le_bytes();
        [&length, header.as_bytes(), &[0; 384]].concat()
    };
    let header = |shape: &str, end: &str| {
        claim(&format!(
            r#"{{"{PROMPT}":{{"dtype":"F32","shape":{shape},"data_offsets":[0,{end}]}}}}"#
        ))
    };
    malformed(&read(&header("[3,32]", "385")), &[TENSORS]);
    malformed(&read(&header("[1000000000000,1000000]", "384")), &[TENSORS]);
    let most = u64::MAX.to_string();
    malformed(&read(&header("[3,32]", &most)), &[TENSORS]);
    malformed(
        &read(&header(&format!("[{most},{most}]"), "384")),
        &[TENSORS],
    );
    malformed(&read(&header("[-3,32]", "384")), &[TENSORS]);
    malformed(&read(&u64::MAX.to_le_bytes()), &[TENSORS]);
    malformed(&read(&header("[96]", "384")), &["[96]", "token_dim 32"]);

    // A sparse terabyte: reading it would take all memory.
    let file = fs::OpenOptions::new().write(true).open(&path);
    file.and_then(|file| file.set_len(1 << 40)).expect("longer");
    let long = Adapter::read(folder.path()).expect_err("a refusal");
    malformed(&long, &[TENSORS, "more than"]);
    fs::remove_file(&path).expect("removed");
    let gone = Adapter::read(folder.path()).expect_err("a refusal");
    malformed(&gone, &[TENSORS, "is missing"]);
}

#[test]
fn parts_that_do_not_fit_together_are_misuse() {
    let misuse = |prompt: &[usize], weight: Option<&[usize]>, task| {
        let weights = weight.map(|shape| ClassifierWeights {
            weight: ramp(shape),
            bias: None,
        });
        let made = Adapter::new(&ramp(prompt), weights, config(MLP, task));
        assert!(matches!(made, Err(Error::Misuse(_))), "{made:?}");
    };
    misuse(&[4, 32], None, TaskType::CausalLm);
    misuse(&[96], None, TaskType::CausalLm);
    misuse(&[3, 32], Some(&[2, 32]), TaskType::CausalLm);
    misuse(&[3, 32], None, TaskType::SeqCls);
    misuse(&[3, 32], Some(&[2, 31]), TaskType::SeqCls);
    misuse(&[3, 32], Some(&[64]), TaskType::SeqCls);
    let broken = (ramp(&[3, 32]) / 0.0).expect("infinities");
    let made = Adapter::new(&broken, None, config(MLP, TaskType::CausalLm));
    assert!(matches!(made, Err(Error::Misuse(text)) if text.contains("inf")));
}

#[test]
fn an_adapter_for_another_backbone_is_refused_with_both_widths() {
    let (folder, backbone) = model();
    causal().check(backbone.as_ref()).expect("they fit");
    let other = tempfile::tempdir().expect("a folder");
    random::write_random_llama(other.path(), &random::small_llama(64, 64, 1), 5).expect("a model");
    let wide = backbone::load(other.path(), &CPU).expect("a backbone");
    let said = causal().check(wide.as_ref()).expect_err("a refusal");
    refused(&said, &["length 32", "llama", "64"]);

    let tokens = backbone.max_positions();
    let config = AdapterConfig::new(folder.path(), MLP, TaskType::CausalLm, tokens).expect("one");
    let long = Adapter::new(&ramp(&[tokens, 32]), None, config).expect("an adapter");
    let said = long.check(backbone.as_ref()).expect_err("a refusal");
    refused(&said, &["no room", &tokens.to_string()]);

    let scored = classifying(false);
    scored.check(backbone.as_ref()).expect("a decoder's");
    let said = classifying(true).check(backbone.as_ref());
    refused(
        &said.expect_err("a refusal"),
        &["classifier.weight", "llama"],
    );
    if let Some(dir) = fixture("bert") {
        let bert = backbone::load(&dir, &CPU).expect("a backbone");
        let read = Adapter::read(&dir.join("peft_adapter")).expect("an adapter");
        read.check(bert.as_ref()).expect("they fit");
        let said = read.check(backbone.as_ref()).expect_err("a refusal");
        refused(&said, &["length 64", "llama", "32"]);
    }
}

#[test]
fn a_model_folder_without_its_sizes_gives_no_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let new = || AdapterConfig::new(folder.path(), MLP, TaskType::CausalLm, 3);
    malformed(&new().expect_err("a refusal"), &["config.json is missing"]);
    let path = folder.path().join("config.json");
    let sizes = r#"{"n_embd": 8, "n_layer": 2, "n_head": 4, "model_type": "gpt2"}"#;
    fs::write(&path, sizes).expect("written");
    let config = new().expect("a configuration");
    let sizes = (
        config.token_dim,
        config.num_layers,
        config.num_attention_heads,
    );
    assert_eq!(sizes, (8, Some(2), Some(4)));
    fs::write(&path, r#"{"n_embd": 8, "n_layer": 2}"#).expect("written");
    malformed(&new().expect_err("a refusal"), &["num_attention_heads"]);
}
