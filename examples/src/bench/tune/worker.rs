//! Our side in a process of its own: a step for every line that it is sent.

use std::{
    io::{BufRead as _, Write as _},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use ciphertune_tune::{
    backbone::{self, Options},
    data::Record,
    device,
    head::Pooling,
    optimiser::OptimiserSpec,
    spec::{HeadStart, TrainingSpec},
    task::{Route, Task},
    template::Template,
    tokenizer::Tokenizer,
    trainer::Trainer,
};
use serde_json::{Value, json};

use super::case::Case;
use crate::{
    Error, Result,
    bench::{memory, options::TuneWorker},
};

/// Takes steps until standard input ends; tells of each on standard output, as `tune_torch.py` does.
pub fn play(worker: &TuneWorker) -> Result<()> {
    let case = Case::read(&worker.case)?;
    let options = Options {
        recompute: worker.recompute,
        ..Options::default()
    };
    let backbone = backbone::load_with(&case.model, &device::find(&case.device)?, options)?;
    let tokenizer = Tokenizer::load(&case.model.join("tokenizer.json"))?;
    let route = match case.classes {
        Some(_) => Route::Classifier,
        None => Route::Verbalizer,
    };
    let task = Task::new(Template::parse(&case.template)?, case.names.clone(), route)?;
    let examples = case.sentences.len();
    let spec = TrainingSpec {
        encoder: case.encoder.spec(case.encoder_hidden),
        virtual_tokens: case.virtual_tokens,
        pooling: Pooling::First,
        feature_length: None,
        head_start: HeadStart::Random,
        prompt_rate: case.learning_rate,
        classifier_rate: case.learning_rate,
        optimiser: OptimiserSpec::AdamW {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
        },
        batch_size: examples,
        // The whole batch is a step, and steps end when the input does.
        local_epochs: u32::MAX,
        ..TrainingSpec::default()
    };
    let mut trainer = Trainer::new(&*backbone, spec, tokenizer, task)?;
    let label = |&label: &usize| case.names[label].clone();
    let records: Vec<Record> = (case.sentences.iter())
        .zip(case.labels.iter().map(label))
        .map(|(sentence, label)| Record::sentence(sentence, label))
        .collect();
    let batch = trainer.encode(&records)?;
    if !(batch.examples().iter().map(|example| &example.ids)).eq(&case.inputs) {
        return Err(Error::Refused("other tokens than the case says".into()));
    }
    let global = trainer.initial_parameters(1)?;

    // A GPU's memory is not this process's.
    let on_cpu = backbone.device().is_cpu();
    let here = |bytes: Option<u64>| bytes.filter(|_| on_cpu);
    say(&json!({ "loaded_bytes": here(memory::resident()) }))?;
    memory::forget_peak();
    // PyTorch's loss is the mean over the answers' tokens.
    let tokens = case.answers.first().map_or(1, Vec::len) as f64;
    let stop = AtomicBool::new(!asked()?);
    let mut start = Instant::now();
    let mut failed = None;
    let mut told = |loss: f64| -> Result<bool> {
        say(&json!({ "seconds": start.elapsed().as_secs_f64(), "loss": loss / tokens }))?;
        let more = asked()?;
        start = Instant::now();
        Ok(more)
    };
    let mut progress = |step: ciphertune_tune::trainer::Progress| {
        let more = told(step.loss).unwrap_or_else(|error| {
            failed = Some(error);
            false
        });
        stop.store(!more, Ordering::Relaxed);
    };
    match trainer.train(&global, &batch, 0, &mut progress, &stop) {
        Ok(_) | Err(ciphertune_tune::Error::Stopped) => {}
        Err(error) => return Err(error.into()),
    }
    failed.map_or(Ok(()), Err)?;
    say(&json!({ "peak_bytes": here(memory::peak()) }))
}

/// Whether another step is asked for.
fn asked() -> Result<bool> {
    let mut line = String::new();
    let read = std::io::stdin().lock().read_line(&mut line);
    Ok(read.map_err(|error| Error::fault("standard input", error))? > 0)
}

fn say(what: &Value) -> Result<()> {
    writeln!(std::io::stdout(), "{what}").map_err(|error| Error::fault("standard output", error))
}
