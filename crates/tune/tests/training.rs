//! The whole local step on real architectures: a small untrained Llama with a word-level
//! tokenizer, and MiniLM on Financial PhraseBank where they are at hand.

mod places;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use candle_core::Device;
use ciphertune_tune::RecordGradient;
use ciphertune_tune::backbone::random::{small_llama, write_random_llama};
use ciphertune_tune::backbone::{self, Backbone, Options};
use ciphertune_tune::data::{Dataset, Record, Schema, split};
use ciphertune_tune::generate::Sampling;
use ciphertune_tune::spec::{EncoderSpec, TrainingSpec};
use ciphertune_tune::task::{Route, Task};
use ciphertune_tune::template::Template;
use ciphertune_tune::tokenizer::{Tokenizer, word_level};
use ciphertune_tune::trainer::Trainer;
use places::{Place, places};

const LABELS: [&str; 3] = ["negative", "neutral", "positive"];

fn task(template: &str, route: Route) -> Task {
    let template = Template::parse(template).expect("a template");
    Task::new(template, LABELS.map(str::to_owned).to_vec(), route).expect("a task")
}

/// Sixty made-up headlines: five subjects, three moods of four verbs.
fn headlines() -> Vec<Record> {
    let moods = [
        ("positive", ["rose", "improved", "doubled", "recovered"]),
        ("negative", ["fell", "shrank", "halved", "collapsed"]),
        (
            "neutral",
            [
                "were reported",
                "stayed flat",
                "are due today",
                "did not change",
            ],
        ),
    ];
    let subjects = [
        "sales",
        "exports of pulp",
        "profits",
        "orders at the yard",
        "margins",
    ];
    (subjects.iter())
        .flat_map(|subject| moods.iter().map(move |mood| (subject, mood)))
        .flat_map(|(subject, (label, verbs))| {
            verbs
                .iter()
                .map(move |verb| Record::sentence(format!("{subject} {verb}"), *label))
        })
        .collect()
}

/// A random Llama in a folder with its word-level tokenizer, read back from there.
fn small_model((device, options): &Place) -> (Box<dyn Backbone>, Tokenizer) {
    let mut sentences: Vec<String> = headlines()
        .into_iter()
        .map(|r| format!("{} {}", r.fields["sentence"], r.label))
        .collect();
    sentences.push("sentiment:".to_owned());
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("tokenizer.json");
    word_level(&sentences, 64)
        .and_then(|t| t.save(&file))
        .expect("a tokenizer");
    let tokenizer = Tokenizer::load(&file).expect("the tokenizer");
    let config = small_llama(64, 32, 2);
    write_random_llama(folder.path(), &config, 1).expect("a model");
    (
        backbone::load_with(folder.path(), device, *options).expect("the model"),
        tokenizer,
    )
}

fn spec(encoder: EncoderSpec, seed: u64) -> TrainingSpec {
    TrainingSpec {
        encoder,
        virtual_tokens: 4,
        prompt_rate: 0.02,
        classifier_rate: 0.02,
        batch_size: 10,
        local_epochs: 5,
        seed,
        ..TrainingSpec::default()
    }
}

/// Loss on the headlines before and after the local epochs of one round: nearly the same in every place.
fn one_round(task: &Task, spec: TrainingSpec) -> (f64, f64) {
    let mut found = places()
        .into_iter()
        .map(|place| one_round_in(&place, task, spec.clone()));
    let (before, after) = found.next().expect("a place");
    for (other_before, other_after) in found {
        assert!(
            (other_before - before).abs() < 1e-4,
            "{before} {other_before}"
        );
        assert!((other_after - after).abs() < 1e-3, "{after} {other_after}");
    }
    (before, after)
}

fn one_round_in(place: &Place, task: &Task, spec: TrainingSpec) -> (f64, f64) {
    let (llama, tokenizer) = small_model(place);
    let seed = spec.seed;
    let mut trainer =
        Trainer::new(llama.as_ref(), spec, tokenizer, task.clone()).expect("a trainer");
    let data = trainer.encode(&headlines()).expect("tokens");
    let global = trainer.initial_parameters(seed).expect("parameters");
    let before = trainer.evaluate(&global, &data).expect("an evaluation");
    let go = AtomicBool::new(false);
    let update = trainer
        .train(&global, &data, 0, &mut |_| {}, &go)
        .expect("an update");
    let local: Vec<f32> = global
        .iter()
        .zip(&update.delta)
        .map(|(g, d)| g + d)
        .collect();
    let after = trainer.evaluate(&local, &data).expect("an evaluation");
    println!(
        "{:.3} then {:.3}, accuracy {:.2}",
        before.loss, after.loss, after.accuracy
    );
    (before.loss, after.loss)
}

#[test]
fn a_small_llama_learns_headlines_with_a_classifier_from_three_seeds() {
    let task = task("{sentence}", Route::Classifier);
    let encoders = [
        EncoderSpec::Embedding,
        EncoderSpec::Words,
        EncoderSpec::Mlp { hidden: 32 },
    ];
    for (seed, encoder) in (1..).zip(encoders) {
        let (before, after) = one_round(&task, spec(encoder, seed));
        assert!(after < 0.9 * before, "seed {seed}: {before} {after}");
    }
}

#[test]
fn a_small_llama_learns_to_say_the_answers_from_three_seeds() {
    // Its logits are h·e with ‖h‖ = √32 and ‖e‖ ≈ 0.02·√32, tied and untrained: no word can
    // gain more than 0.64 over the uniform ln 64 = 4.16, so the loss falls by less than that.
    let task = task("{sentence} sentiment: {label}", Route::Verbalizer);
    let encoders = [
        EncoderSpec::Embedding,
        EncoderSpec::Words,
        EncoderSpec::Mlp { hidden: 32 },
    ];
    for (seed, encoder) in (1..).zip(encoders) {
        let spec = TrainingSpec {
            prompt_rate: 0.1,
            ..spec(encoder, seed)
        };
        let (before, after) = one_round(&task, spec);
        assert!(after < before - 0.05, "seed {seed}: {before} {after}");
    }
}

#[test]
fn a_small_llama_repeats_its_bits() {
    let bits = || {
        let (llama, tokenizer) = small_model(&(Device::Cpu, Options::default()));
        let task = task("{sentence} sentiment: {label}", Route::Verbalizer);
        let spec = spec(EncoderSpec::Mlp { hidden: 32 }, 7);
        let mut trainer = Trainer::new(llama.as_ref(), spec, tokenizer, task).expect("a trainer");
        let data = trainer.encode(&headlines()).expect("tokens");
        let global = trainer.initial_parameters(7).expect("parameters");
        let go = AtomicBool::new(false);
        let update = trainer
            .train(&global, &data, 3, &mut |_| {}, &go)
            .expect("an update");
        update.delta.iter().map(|d| d.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(bits(), bits());
}

/// Each record's own gradient, and what is written behind a text, in every place.
#[test]
fn records_gradients_and_texts_are_the_same_everywhere() {
    let found = places().into_iter().map(|place| {
        let (llama, tokenizer) = small_model(&place);
        let says = task("{sentence} sentiment: {label}", Route::Verbalizer);
        let spec = spec(EncoderSpec::Embedding, 3);
        let mut trainer = Trainer::new(llama.as_ref(), spec, tokenizer, says).expect("a trainer");
        let data = trainer.encode(&headlines()).expect("tokens");
        let theta = trainer.initial_parameters(3).expect("parameters");
        let mut gradients: Vec<f32> = Vec::new();
        let mut keep = |_, gradient: RecordGradient| {
            gradients.extend(gradient.values);
            Ok::<_, ciphertune_tune::Error>(())
        };
        let indices = [0, 17, 59];
        trainer
            .record_gradients(&theta, &data, &indices, &mut keep)
            .expect("gradients");
        let writer = trainer.writer(&theta).expect("a writer");
        let sampling = Sampling {
            most_tokens: 12,
            ..Sampling::default()
        };
        let written = writer.write(&headlines()[5], &sampling, &mut |_| true);
        (gradients, written.expect("a text").tokens)
    });
    let found: Vec<_> = found.collect();
    let (first, text) = &found[0];
    let top = first.iter().fold(0_f32, |top, x| top.max(x.abs()));
    assert!(top > 0.0 && !text.is_empty());
    for (other, written) in &found[1..] {
        assert_eq!((other.len(), written), (first.len(), text));
        for (a, b) in first.iter().zip(other) {
            assert!((a - b).abs() <= 1e-3 * top, "{a} {b}");
        }
    }
}

/// MiniLM and PhraseBank, where they lie beside the repository.
fn minilm() -> Option<(PathBuf, PathBuf)> {
    let shared = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared"));
    let model = shared.join("models/all-MiniLM-L6-v2");
    let data = shared.join("data/phrasebank/Sentences_AllAgree.txt");
    if model.exists() && data.exists() {
        return Some((model, data));
    }
    eprintln!(
        "SKIPPED: no MiniLM or PhraseBank under {}",
        shared.display()
    );
    None
}

#[test]
fn minilm_learns_sentences_of_phrasebank() {
    let Some((model, data)) = minilm() else {
        return;
    };
    let data = Dataset::read(&data, &Schema::with_labels(LABELS)).expect("PhraseBank");
    let shares = split::federate(data.into_records(), 1, 200, 0).expect("shares");
    let tokenizer = Tokenizer::load(&model.join("tokenizer.json")).expect("a tokenizer");
    let backbone = backbone::load(&model, &Device::Cpu).expect("MiniLM");
    let spec = TrainingSpec {
        batch_size: 20,
        ..TrainingSpec::default()
    };
    let task = task("{sentence}", Route::Classifier);
    let mut trainer = Trainer::new(backbone.as_ref(), spec, tokenizer, task).expect("a trainer");
    let train = trainer.encode(&shares.members[0]).expect("tokens");
    let validation = trainer.encode(&shares.validation[..100]).expect("tokens");
    let global = trainer.initial_parameters(0).expect("parameters");
    let before = trainer
        .evaluate(&global, &validation)
        .expect("an evaluation");
    // A classifier of zeros: every label equally likely.
    assert!((before.loss - 3_f64.ln()).abs() < 1e-4, "{}", before.loss);
    let go = AtomicBool::new(false);
    let update = trainer
        .train(&global, &train, 0, &mut |_| {}, &go)
        .expect("an update");
    let local: Vec<f32> = global
        .iter()
        .zip(&update.delta)
        .map(|(g, d)| g + d)
        .collect();
    let after = trainer
        .evaluate(&local, &validation)
        .expect("an evaluation");
    println!(
        "{:.3} then {:.3}, accuracy {:.2}",
        before.loss, after.loss, after.accuracy
    );
    assert!(
        after.loss < 0.8 * before.loss,
        "{} {}",
        before.loss,
        after.loss
    );
}
