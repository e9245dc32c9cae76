//! P-tunes one backbone on one labelled file, centrally or as simulated members with plain
//! averaging, and prints what a member would need to choose hyper-parameters.
//!
//! No sealing, no noise, no policy: a measurement, not a federation.
//!
//! ```text
//! central MODEL_DIR DATA_FILE [key=value …]
//!   members=1 per_member=1800 rounds=1   more than one member: FedAvg over `rounds`
//!   encoder=words|embedding|mlp|mlp:HIDDEN  tokens=4  pooling=mean|first  length=8|none
//!   head=zeros|random  prompt=0.01  classifier=0.03  batch=32  epochs=1  seed=0  split=0
//!   schedule=constant|cosine  template="{sentence}"
//! ```

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use candle_core::Device;
use ciphertune_tune::data::{Dataset, Schema, split};
use ciphertune_tune::head::Pooling;
use ciphertune_tune::optimiser::Schedule;
use ciphertune_tune::spec::{EncoderSpec, HeadStart, TrainingSpec};
use ciphertune_tune::task::{Route, Task};
use ciphertune_tune::template::Template;
use ciphertune_tune::tokenizer::Tokenizer;
use ciphertune_tune::trainer::Trainer;
use ciphertune_tune::{Error, Result, backbone};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let usage = || Error::Misuse("usage: central MODEL_DIR DATA_FILE [key=value …]".to_owned());
    let model = arguments.next().ok_or_else(usage)?;
    let file = arguments.next().ok_or_else(usage)?;
    let options = Options::parse(arguments)?;

    let data = Dataset::read(Path::new(&file), &Schema::default())?;
    println!(
        "{:?}, {} duplicates left out",
        data.counts(),
        data.duplicates()
    );
    let labels: Vec<String> = data.counts().into_keys().collect();
    let members = options.number("members", 1)?;
    let shares = split::federate(
        data.into_records(),
        members,
        options.number("per_member", 1800)?,
        options.number("split", 0)?,
    )?;

    let folder = Path::new(&model);
    let backbone = backbone::load(folder, &Device::Cpu)?;
    let tokenizer = Tokenizer::load(&folder.join("tokenizer.json"))?;
    let (route, template) = match backbone.kind() {
        "bert" => (Route::Classifier, "{sentence}"),
        _ => (Route::Verbalizer, "{sentence} sentiment: {label}"),
    };
    let template = Template::parse(&options.text("template", template))?;
    let task = Task::new(template, labels, route)?;
    let spec = options.spec()?;
    println!("{spec:?}");
    let rounds = spec.rounds;
    let mut trainer = Trainer::new(backbone.as_ref(), spec, tokenizer, task)?;
    let encoded = shares
        .members
        .iter()
        .map(|m| trainer.encode(m))
        .collect::<Result<Vec<_>>>()?;
    let validation = trainer.encode(&shares.validation)?;
    println!(
        "{} parameters; {} validation records, {} records cut",
        trainer.dimension(),
        validation.len(),
        encoded.iter().map(|e| e.truncated()).sum::<usize>()
    );

    let mut global = trainer.initial_parameters(options.number("seed", 0)?)?;
    let go = AtomicBool::new(false);
    for round in 0..rounds {
        let start = Instant::now();
        let mut sum = vec![0_f64; global.len()];
        let mut norms = Vec::new();
        let mut loss = 0.0;
        for data in &encoded {
            let update = trainer.train(&global, data, round, &mut |_| {}, &go)?;
            norms.push((update.norm() * 1e3).round() / 1e3);
            loss += update.loss / members as f64;
            sum.iter_mut()
                .zip(&update.delta)
                .for_each(|(s, d)| *s += f64::from(*d));
        }
        for (g, s) in global.iter_mut().zip(&sum) {
            *g += (s / members as f64) as f32;
        }
        let trained = start.elapsed();
        let evaluation = trainer.evaluate(&global, &validation)?;
        println!(
            "round {:2}: training loss {loss:.4}, validation loss {:.4} accuracy {:.2} % macro F1 \
             {:.3}; ‖Δθ‖ {norms:?}; {:.1} s training, {:.1} s evaluation",
            round + 1,
            evaluation.loss,
            100.0 * evaluation.accuracy,
            evaluation.macro_f1,
            trained.as_secs_f64(),
            (start.elapsed() - trained).as_secs_f64()
        );
    }
    Ok(())
}

/// `key=value` arguments.
struct Options(HashMap<String, String>);

impl Options {
    fn parse(arguments: impl Iterator<Item = String>) -> Result<Self> {
        let pair = |argument: String| match argument.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
            None => Err(Error::Misuse(format!("{argument:?} is not key=value"))),
        };
        Ok(Self(arguments.map(pair).collect::<Result<_>>()?))
    }

    fn text(&self, key: &str, default: &str) -> String {
        self.0.get(key).map_or(default, String::as_str).to_owned()
    }

    fn number<T: std::str::FromStr>(&self, key: &str, default: T) -> Result<T> {
        self.0.get(key).map_or(Ok(default), |value| {
            value
                .parse()
                .map_err(|_| Error::Misuse(format!("{key}={value} is no number")))
        })
    }

    fn choice<T>(&self, key: &str, default: T, known: &[(&str, T)]) -> Result<T>
    where
        T: Copy,
    {
        let Some(value) = self.0.get(key) else {
            return Ok(default);
        };
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        (known
            .iter()
            .find(|(name, _)| name == value)
            .map(|&(_, choice)| choice))
        .ok_or_else(|| Error::Misuse(format!("{key}={value}; expected one of {names:?}")))
    }

    fn spec(&self) -> Result<TrainingSpec> {
        let base = TrainingSpec::default();
        let encoder = match self.text("encoder", "words").split_once(':') {
            Some(("mlp", hidden)) => EncoderSpec::Mlp {
                hidden: hidden
                    .parse()
                    .map_err(|_| Error::Misuse("mlp:HIDDEN".to_owned()))?,
            },
            _ => self.choice(
                "encoder",
                base.encoder,
                &[
                    ("words", EncoderSpec::Words),
                    ("embedding", EncoderSpec::Embedding),
                    ("mlp", EncoderSpec::Mlp { hidden: 384 }),
                ],
            )?,
        };
        let feature_length = match self.text("length", "8").as_str() {
            "none" => None,
            _ => Some(self.number("length", 8.0)?),
        };
        let poolings = [("mean", Pooling::Mean), ("first", Pooling::First)];
        let starts = [("zeros", HeadStart::Zeros), ("random", HeadStart::Random)];
        let schedules = [
            ("constant", Schedule::Constant),
            ("cosine", Schedule::Cosine { warmup: 5 }),
        ];
        Ok(TrainingSpec {
            encoder,
            feature_length,
            virtual_tokens: self.number("tokens", base.virtual_tokens)?,
            pooling: self.choice("pooling", base.pooling, &poolings)?,
            head_start: self.choice("head", base.head_start, &starts)?,
            prompt_rate: self.number("prompt", base.prompt_rate)?,
            classifier_rate: self.number("classifier", base.classifier_rate)?,
            schedule: self.choice("schedule", base.schedule, &schedules)?,
            rounds: self.number("rounds", 1)?,
            batch_size: self.number("batch", base.batch_size)?,
            local_epochs: self.number("epochs", 1)?,
            seed: self.number("seed", 0)?,
            ..base
        })
    }
}
