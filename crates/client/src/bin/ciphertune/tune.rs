//! `ciphertune tune`: p-tuning on this machine alone.

mod report;

use std::{
    num::{NonZeroU32, NonZeroUsize},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ciphertune_client::{
    Error, Result,
    local::{Corpus, Local},
    tuned::{Opened, Tuned},
    tuning::Tuning,
};
use ciphertune_tune::{
    backbone::Options,
    data::{Dataset, Schema},
    device::name,
    head::Pooling,
    optimiser::{OptimiserSpec, Schedule},
    session::{Event, Patience},
    spec::{EncoderSpec, HeadStart, TrainingSpec},
    task::Route,
    template::Template,
};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

pub use report::{summary, table};

use crate::{Common, backbone::BackboneFlags, output};
use report::{report, told};

/// Flags of `ciphertune tune`.
#[derive(Args)]
pub struct Tune {
    #[command(flatten)]
    backbone: BackboneFlags,
    /// Records to train on: `sentence@label`, JSON Lines or CSV. Duplicates count once.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// The folder for what is tuned. Where an earlier run with the same flags was stopped, it goes on.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Validate with this file, and not with a share of the data.
    #[arg(long, value_name = "FILE", conflicts_with = "hold_out")]
    validation: Option<PathBuf>,
    /// The share of the records that is held out to validate with; 0: none.
    #[arg(long, value_name = "SHARE", default_value_t = 0.2)]
    hold_out: f64,
    /// Go on from the θ of another tuned folder, which stays as it is: a federation's prompt, say, on a member's own data. Task
    /// and encoder are then that folder's.
    #[arg(long, value_name = "DIR", conflicts_with_all = ["template", "labels", "route", "encoder", "virtual_tokens", "encoder_hidden", "encoder_layers", "pooling", "feature_length", "head"])]
    from: Option<PathBuf>,
    #[command(flatten)]
    task: TaskFlags,
    #[command(flatten)]
    training: TrainingFlags,
    /// End after N evaluations in a row without a lower validation loss. The best model is kept in any case.
    #[arg(long, value_name = "N")]
    patience: Option<NonZeroU32>,
    /// Steps between evaluations; each epoch's end unless given.
    #[arg(long, value_name = "STEPS")]
    evaluate_every: Option<NonZeroUsize>,
    /// Compute a batch's gradient of N examples at a time and add (gradient accumulation): less memory, the same step.
    #[arg(long, value_name = "N")]
    at_a_time: Option<NonZeroUsize>,
    /// Recompute activations instead of keeping them (checkpointing): less memory, a third more work, the same bits.
    #[arg(long)]
    recompute: bool,
}

/// What is asked.
#[derive(Args)]
struct TaskFlags {
    /// How a record becomes text, e.g. "{sentence} sentiment: {label}", "{context} {question} Answer: {answer}"; by default
    /// the only column, and for a language model "Label:" or "Answer:" after it.
    #[arg(long, value_name = "TEXT")]
    template: Option<String>,
    /// The labels, separated by commas; by default those that occur.
    #[arg(long, value_name = "A,B,…", value_delimiter = ',')]
    labels: Vec<String>,
    /// How answers are scored; by default a classifier for BERT, and a language model's own words for others.
    #[arg(long, value_enum)]
    route: Option<RouteFlag>,
}

/// How it is trained. The defaults are the engine's own.
#[derive(Args)]
struct TrainingFlags {
    /// What makes the virtual tokens: themselves from noise (embedding) or from words, or a network over them.
    #[arg(long, value_enum, default_value_t = EncoderFlag::Words)]
    encoder: EncoderFlag,
    /// V.
    #[arg(long, value_name = "V", default_value_t = 4)]
    virtual_tokens: usize,
    /// Inner width of an mlp, nemo-mlp or lstm; the backbone's own unless given.
    #[arg(long, value_name = "M")]
    encoder_hidden: Option<usize>,
    /// Layers of an lstm.
    #[arg(long, value_name = "N", default_value_t = 2)]
    encoder_layers: usize,
    /// A classifier's features: the mean over all positions, or the model's own pooler over the first (as PEFT does).
    #[arg(long, value_enum, default_value_t = PoolingFlag::Mean)]
    pooling: PoolingFlag,
    /// Features are scaled to this length; "none": left as they are.
    #[arg(long, value_name = "LENGTH", default_value = "8")]
    feature_length: String,
    /// How a classifier starts.
    #[arg(long, value_enum, default_value_t = HeadFlag::Zeros)]
    head: HeadFlag,
    /// Learning rate of the prompt encoder.
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    rate: f64,
    /// Learning rate of a classifier; three times the prompt encoder's unless given.
    #[arg(long, value_name = "RATE")]
    classifier_rate: Option<f64>,
    /// The optimiser.
    #[arg(long, value_enum, default_value_t = OptimiserFlag::Adamw)]
    optimiser: OptimiserFlag,
    /// AdamW's decoupled decay.
    #[arg(long, value_name = "LAMBDA", default_value_t = 0.0)]
    weight_decay: f64,
    /// SGD's momentum.
    #[arg(long, value_name = "MU", default_value_t = 0.0)]
    momentum: f64,
    /// How the learning rates move.
    #[arg(long, value_enum, default_value_t = ScheduleFlag::Constant)]
    schedule: ScheduleFlag,
    /// Steps until the full rate.
    #[arg(long, value_name = "STEPS", default_value_t = 0)]
    warmup: u64,
    /// Passes over the records.
    #[arg(long, value_name = "N", default_value_t = 4)]
    epochs: u32,
    /// Examples a step.
    #[arg(long, value_name = "N", default_value_t = 32)]
    batch: usize,
    /// Decides the start, the order and what is held out.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum RouteFlag {
    /// A trained layer over pooled hidden states.
    Classifier,
    /// The language model says one of the labels.
    Verbalizer,
    /// The language model answers in words of its own.
    Generation,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum EncoderFlag {
    Embedding,
    Words,
    Mlp,
    NemoMlp,
    Lstm,
}

#[derive(Clone, Copy, ValueEnum)]
enum PoolingFlag {
    Mean,
    First,
}

#[derive(Clone, Copy, ValueEnum)]
enum HeadFlag {
    Zeros,
    Random,
}

#[derive(Clone, Copy, ValueEnum)]
enum OptimiserFlag {
    Adamw,
    Sgd,
}

#[derive(Clone, Copy, ValueEnum)]
enum ScheduleFlag {
    Constant,
    Cosine,
}

impl Tune {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        let options = Options {
            recompute: self.recompute,
            ..Options::default()
        };
        let opened = self.backbone.open(options)?;
        let start = match &self.from {
            Some(folder) => Some(Tuned::read(folder, &opened)?.0),
            None => None,
        };
        let tuning = match &start {
            Some(tuned) => Tuning {
                training: self.training.further(&tuned.about.tuning.training)?,
                ..tuned.about.tuning.clone()
            },
            None => self.tuning(&opened)?,
        };
        let corpus = Corpus::read(
            &tuning,
            &self.data,
            self.validation.as_deref(),
            self.hold_out,
            tuning.training.seed,
        )?;
        let patience = Patience {
            evaluations: self.patience.map(NonZeroU32::get),
            evaluate_every: self.evaluate_every.map(|steps| steps.get() as u64),
        };
        if patience.evaluations.is_some() && self.hold_out == 0.0 && self.validation.is_none() {
            return Err(Error::Misuse(
                "--patience waits for a lower validation loss: hold a share out, or give --validation".into(),
            ));
        }
        let local = Local::prepare(
            &opened,
            tuning.clone(),
            corpus,
            patience,
            self.at_a_time,
            start.as_ref(),
            &self.out,
        )?;
        if common.json {
            output::json(
                &json!({"data": local.counted(), "tuning": tuning, "parameters": local.dimension(), "device": name(opened.backbone.device()), "steps_before": local.steps_before()}),
            )?;
        } else {
            output::say(&told(local.counted(), &tuning))?;
            output::say(&format!(
                "{} parameters before a frozen {} on {}",
                local.dimension(),
                opened.backbone.kind(),
                name(opened.backbone.device())
            ))?;
            if local.steps_before() > 0 {
                output::say(&format!("going on after step {}", local.steps_before()))?;
            }
        }
        let mut observer = if common.json { machine() } else { human() };
        let stop = stop_flag()?;
        let finished = local.go(&mut *observer, &stop);
        drop(observer);
        let finished = finished.inspect_err(|error| {
            if matches!(error, Error::Stopped) && !common.json {
                eprintln!(
                    "what was done is kept: the same command goes on in {}",
                    self.out.display()
                );
            }
        })?;
        report(&finished, &self.out, common)?;
        Ok(ExitCode::SUCCESS)
    }

    /// The specification that the flags and the data give.
    fn tuning(&self, opened: &Opened) -> Result<Tuning> {
        let flags = &self.task;
        let template = flags.template.as_deref().map(Template::parse).transpose()?;
        let answers = template.as_ref().and_then(Template::answer_column);
        let route = match flags.route {
            Some(RouteFlag::Classifier) => Route::Classifier,
            Some(RouteFlag::Verbalizer) => Route::Verbalizer,
            Some(RouteFlag::Generation) => Route::Generation,
            None if answers == Some("answer") && flags.labels.is_empty() => Route::Generation,
            None if opened.backbone.kind() == "bert" => Route::Classifier,
            None => Route::Verbalizer,
        };
        let column = answers.unwrap_or(match route {
            Route::Generation => "answer",
            _ => "label",
        });
        let schema = Schema {
            label_column: column.to_owned(),
            labels: Vec::new(),
        };
        let data = Dataset::read(&self.data, &schema)?;
        let template = match &flags.template {
            Some(template) => template.clone(),
            None => default_template(&data, route, column, &self.data)?,
        };
        let labels = match (route, flags.labels.is_empty()) {
            (Route::Generation, _) | (_, false) => flags.labels.clone(),
            (_, true) => data.counts().into_keys().collect(),
        };
        let training = self.training.spec(opened.backbone.hidden())?;
        Ok(Tuning {
            template,
            labels,
            route,
            tokenizer: None,
            training,
        })
    }
}

/// The only column, and where a language model answers, what it is asked for.
fn default_template(data: &Dataset, route: Route, column: &str, path: &Path) -> Result<String> {
    let columns: Vec<&str> = data
        .records()
        .first()
        .map_or_else(Vec::new, |it| it.columns().collect());
    let [only] = columns.as_slice() else {
        return Err(Error::Misuse(format!(
            "{} has the columns {columns:?}: --template says how they become one text, e.g. \"{{{}}} … {{{column}}}\"",
            path.display(),
            columns.first().unwrap_or(&"column")
        )));
    };
    Ok(match route {
        Route::Classifier => format!("{{{only}}}"),
        Route::Verbalizer => format!("{{{only}}} Label: {{{column}}}"),
        Route::Generation => format!("{{{only}}} Answer: {{{column}}}"),
    })
}

impl TrainingFlags {
    fn spec(&self, width: usize) -> Result<TrainingSpec> {
        let hidden = self.encoder_hidden.unwrap_or(width);
        let spec = TrainingSpec {
            encoder: match self.encoder {
                EncoderFlag::Embedding => EncoderSpec::Embedding,
                EncoderFlag::Words => EncoderSpec::Words,
                EncoderFlag::Mlp => EncoderSpec::Mlp { hidden },
                EncoderFlag::NemoMlp => EncoderSpec::NemoMlp { hidden },
                EncoderFlag::Lstm => EncoderSpec::Lstm {
                    hidden,
                    layers: self.encoder_layers,
                },
            },
            virtual_tokens: self.virtual_tokens,
            pooling: match self.pooling {
                PoolingFlag::Mean => Pooling::Mean,
                PoolingFlag::First => Pooling::First,
            },
            feature_length: match self.feature_length.as_str() {
                "none" => None,
                length => Some(length.parse().map_err(|_| {
                    Error::Misuse(format!("--feature-length {length}: a number, or none"))
                })?),
            },
            head_start: match self.head {
                HeadFlag::Zeros => HeadStart::Zeros,
                HeadFlag::Random => HeadStart::Random,
            },
            ..TrainingSpec::default()
        };
        self.further(&spec)
    }

    /// The same encoder and classifier, trained as these flags say.
    fn further(&self, spec: &TrainingSpec) -> Result<TrainingSpec> {
        let warmup = self.warmup;
        let spec = TrainingSpec {
            prompt_rate: self.rate,
            classifier_rate: self.classifier_rate.unwrap_or(3.0 * self.rate),
            optimiser: match (self.optimiser, OptimiserSpec::default()) {
                (
                    OptimiserFlag::Adamw,
                    OptimiserSpec::AdamW {
                        beta1,
                        beta2,
                        epsilon,
                        ..
                    },
                ) => OptimiserSpec::AdamW {
                    beta1,
                    beta2,
                    epsilon,
                    weight_decay: self.weight_decay,
                },
                _ => OptimiserSpec::Sgd {
                    momentum: self.momentum,
                },
            },
            schedule: match (self.schedule, warmup) {
                (ScheduleFlag::Constant, 0) => Schedule::Constant,
                (ScheduleFlag::Constant, _) => Schedule::Warmup { warmup },
                (ScheduleFlag::Cosine, _) => Schedule::Cosine { warmup },
            },
            rounds: 1,
            batch_size: self.batch,
            local_epochs: self.epochs,
            proximal: 0.0,
            seed: self.seed,
            ..spec.clone()
        };
        spec.check()?;
        Ok(spec)
    }
}

/// Set by Ctrl-C or SIGTERM.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&stop);
    std::thread::spawn(move || {
        output::on_runtime(async move {
            output::asked_to_stop().await;
            set.store(true, Ordering::Relaxed);
            // Who asks again does not want to wait for the step or the evaluation under way.
            output::asked_to_stop().await;
            std::process::exit(3)
        })
    });
    Ok(stop)
}

fn machine() -> Box<dyn FnMut(Event<'_>)> {
    Box::new(|event| {
        let line = match event {
            Event::Step {
                step,
                steps,
                epoch,
                loss,
                tokens,
                took,
            } => {
                json!({"step": step, "steps": steps, "epoch": epoch + 1, "loss": loss, "tokens_per_second": tokens as f64 / took.as_secs_f64()})
            }
            Event::Evaluated { step, found, best } => {
                json!({"step": step, "validation": found, "best": best})
            }
        };
        let _ = output::json(&line);
    })
}

fn human() -> Box<dyn FnMut(Event<'_>)> {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("  step {pos}/{len} [{bar:30}] {msg}  {eta}") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    Box::new(move |event| match event {
        Event::Step {
            step,
            steps,
            epoch,
            loss,
            tokens,
            took,
        } => {
            bar.set_length(steps);
            bar.set_position(step);
            bar.set_message(format!(
                "epoch {}, loss {loss:.3}, {:.0} tokens/s",
                epoch + 1,
                tokens as f64 / took.as_secs_f64()
            ));
        }
        Event::Evaluated { step, found, best } => {
            let line = format!(
                "step {step}: validation loss {:.4}, accuracy {:.1} %{}",
                found.loss,
                100.0 * found.accuracy,
                if best { "" } else { ", no lower loss" }
            );
            // Where no bar is drawn, nothing would be printed above it.
            if bar.is_hidden() {
                let _ = output::say(&line);
            } else {
                bar.println(line);
            }
        }
    })
}
