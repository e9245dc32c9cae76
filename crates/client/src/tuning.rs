//! The tuning engine as a [`Learner`], and the part of a job that it reads.

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use candle_core::Device;
use ciphertune_dp::{ExampleSum, PoissonBatch};
use ciphertune_policy::Metric;
use ciphertune_round::{Digest, Job};
use ciphertune_tune::{
    aggregation::Aggregation,
    backbone::{self, Backbone},
    data::Dataset,
    spec::TrainingSpec,
    task::{Encoded, Route, Task},
    template::Template,
    tokenizer::Tokenizer,
    trainer::Trainer,
};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    learner::{Evaluation, Learner, Progress, Start, Update, measure, moved},
};

/// What a job says to the tuning engine, as JSON in the job. It carries no code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// How a record becomes text, for example `{sentence}`.
    pub template: String,
    /// The labels; none where answers are in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// How answers are scored.
    pub route: Route,
    /// SHA-256, in hex, of the tokenizer.json that every member reads with. Left out of a job's file, it is the
    /// researcher's own ([`Tuner::pin`]); left out of a job, no member's is held to any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokenizer: Option<String>,
    /// Encoder, optimiser, epochs, seed.
    #[serde(default)]
    pub training: TrainingSpec,
}

impl Tuning {
    /// The job's text.
    pub fn to_json(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|error| Error::fault("writing the tuning specification", error))
    }

    /// Reads a job's text.
    pub fn from_json(json: &str) -> Result<Self> {
        let tuning: Self = serde_json::from_str(json)
            .map_err(|error| Error::malformed("tuning specification of the job", error))?;
        tuning.training.check()?;
        Ok(tuning)
    }

    /// The task.
    pub fn task(&self) -> Result<Task> {
        let template = Template::parse(&self.template)?;
        Ok(Task::new(template, self.labels.clone(), self.route)?)
    }
}

/// A backbone, its tokenizer, and this member's records.
pub struct Tuner {
    backbone: Box<dyn Backbone>,
    tokenizer: Tokenizer,
    training: Option<PathBuf>,
    validation: Option<PathBuf>,
    prepared: Option<Prepared>,
}

struct Prepared {
    tuning: Tuning,
    in_batches: bool,
    metrics: Vec<Metric>,
    data: Digest,
    training: Encoded,
    validation: Option<Encoded>,
}

impl Tuner {
    /// Loads a backbone's folder (Hugging Face layout). Data files are read when a job names its labels; a file that
    /// is not there is an error now.
    ///
    /// # Errors
    /// A folder without a file that it needs, or of an unknown architecture, is named.
    pub fn load(
        model: &Path,
        device: &Device,
        training: &Path,
        validation: Option<&Path>,
    ) -> Result<Self> {
        for path in [Some(training), validation].into_iter().flatten() {
            std::fs::metadata(path).map_err(|error| {
                Error::fault(format_args!("data file {}", path.display()), error)
            })?;
        }
        Ok(Self {
            training: Some(training.to_owned()),
            validation: validation.map(Path::to_owned),
            ..Self::on(model, device)?
        })
    }

    /// Loads a backbone's folder without data: enough to draft a job with.
    pub fn for_draft(model: &Path) -> Result<Self> {
        Self::on(model, &Device::Cpu)
    }

    fn on(model: &Path, device: &Device) -> Result<Self> {
        Ok(Self {
            backbone: backbone::load(model, device)?,
            tokenizer: Tokenizer::load(&model.join("tokenizer.json"))?,
            training: None,
            validation: None,
            prepared: None,
        })
    }

    /// SHA-256 of this backbone's tokenizer.json.
    pub fn tokenizer(&self) -> Digest {
        Digest::sha256(self.tokenizer.json())
    }

    /// The specification, held to this backbone's tokenizer.
    ///
    /// # Errors
    /// [`Error::Refused`] where it is held to another.
    pub fn pin(&self, tuning: Tuning) -> Result<Tuning> {
        self.reads_as(&tuning)?;
        let tokenizer = Some(self.tokenizer().to_string());
        Ok(Tuning {
            tokenizer,
            ..tuning
        })
    }

    /// Whether text becomes the tokens here that the specification means.
    fn reads_as(&self, tuning: &Tuning) -> Result<()> {
        let own = self.tokenizer().to_string();
        match &tuning.tokenizer {
            Some(other) if *other != own => Err(Error::Refused(format!(
                "the job reads with the tokenizer.json {other}, and the one beside this backbone is {own}: take the model's folder as \
                 the researcher has it"
            ))),
            _ => Ok(()),
        }
    }

    /// What a job of this specification starts from, with batches of records or without.
    ///
    /// # Errors
    /// [`Error::Refused`] for an aggregation where rounds are the optimiser's own steps.
    pub fn start(&self, tuning: &Tuning, in_batches: bool) -> Result<Start> {
        let (trainer, seed) = (self.trainer(tuning)?, tuning.training.seed);
        let aggregation = &tuning.training.aggregation;
        if in_batches {
            if *aggregation != Aggregation::FedAvg {
                return Err(Error::Refused(
                    "with batches of records a round is a step of training.optimiser, and training.aggregation has no \
                     meaning: leave it out"
                        .into(),
                ));
            }
            return Ok(Start {
                dimension: trainer.gradient_dimension(),
                state: trainer.initial_state(seed)?,
            });
        }
        let mut state = trainer.initial_parameters(seed)?;
        let dimension = state.len();
        state.resize(dimension * (1 + aggregation.moments()), 0.0);
        Ok(Start { state, dimension })
    }

    fn trainer(&self, tuning: &Tuning) -> Result<Trainer<'_>> {
        Ok(Trainer::new(
            &*self.backbone,
            tuning.training.clone(),
            self.tokenizer.clone(),
            tuning.task()?,
        )?)
    }

    fn read(path: &Path, tuning: &Tuning) -> Result<Dataset> {
        Ok(Dataset::read(path, &tuning.task()?.schema())?)
    }

    fn prepared(&self) -> Result<&Prepared> {
        self.prepared
            .as_ref()
            .ok_or_else(|| Error::Misuse("no job was prepared".into()))
    }
}

impl Learner for Tuner {
    fn backbone(&self) -> Digest {
        Digest::from_bytes(self.backbone.digest())
    }

    fn prepare(&mut self, job: &Job) -> Result<Start> {
        let tuning = Tuning::from_json(&job.tuning)?;
        let (task, encoder) = (tuning.route.task(), tuning.training.encoder.kind());
        if job.task != task || job.encoder != encoder {
            return Err(Error::Refused(format!(
                "the job calls itself {} with encoder {}, but specifies {task} with {encoder}",
                job.task, job.encoder
            )));
        }
        self.reads_as(&tuning)?;
        let in_batches = job.mechanism.batches.is_some();
        let metrics = Vec::from_iter(job.mechanism.metrics());
        if metrics.contains(&Metric::TrainingAccuracy) && tuning.route != Route::Classifier {
            return Err(Error::Refused(format!(
                "{} is measured of classifiers; the job has none",
                Metric::TrainingAccuracy
            )));
        }
        let start = self.start(&tuning, in_batches)?;
        let (data, training, validation) = {
            let data = self
                .training
                .as_ref()
                .ok_or_else(|| Error::Misuse("no training data".into()))?;
            let trainer = self.trainer(&tuning)?;
            let data = Self::read(data, &tuning)?;
            let validation = match &self.validation {
                Some(path) => Some(trainer.encode(Self::read(path, &tuning)?.records())?),
                None => None,
            };
            let sha256 = Digest::from_bytes(data.sha256());
            (sha256, trainer.encode(data.records())?, validation)
        };
        self.prepared = Some(Prepared {
            tuning,
            in_batches,
            metrics,
            data,
            training,
            validation,
        });
        Ok(start)
    }

    fn records(&self) -> usize {
        self.prepared.as_ref().map_or(0, |it| it.training.len())
    }

    fn data(&self) -> Option<Digest> {
        self.prepared.as_ref().map(|prepared| prepared.data)
    }

    fn train(
        &mut self,
        model: &[f32],
        round: u32,
        progress: &mut dyn FnMut(Progress),
        stop: &AtomicBool,
    ) -> Result<Update> {
        let prepared = self.prepared()?;
        let mut trainer = self.trainer(&prepared.tuning)?;
        let mut heard = |at: ciphertune_tune::trainer::Progress| {
            progress(Progress {
                step: at.step,
                steps: at.steps,
                loss: at.loss,
            });
        };
        // The engine counts rounds from 0, the protocol from 1.
        let round = round.saturating_sub(1);
        let model = parameters(&trainer, model)?;
        let update = trainer.train(model, &prepared.training, round, &mut heard, stop)?;
        Ok(Update {
            delta: update.delta,
            loss: Some(update.loss),
        })
    }

    fn add_gradients(
        &mut self,
        state: &[f32],
        _: u32,
        batch: &PoissonBatch,
        sum: &mut ExampleSum,
        progress: &mut dyn FnMut(Progress),
        stop: &AtomicBool,
    ) -> Result<Option<f64>> {
        let prepared = self.prepared()?;
        let mut trainer = self.trainer(&prepared.tuning)?;
        let records = batch.records();
        let parameters = parameters(&trainer, state)?;
        let (mut step, mut losses) = (0, 0.0);
        trainer.record_gradients(parameters, &prepared.training, records, |_, gradient| {
            if stop.load(Ordering::Relaxed) {
                return Err(Error::Stopped);
            }
            let right = gradient.right.unwrap_or(false);
            let of = |metric: &Metric| measure(*metric, gradient.loss, right);
            let measures = Vec::from_iter(prepared.metrics.iter().map(of));
            sum.add_measured(&gradient.values, &measures)?;
            step += 1;
            losses += gradient.loss;
            progress(Progress {
                step,
                steps: records.len(),
                loss: gradient.loss,
            });
            Ok(())
        })?;
        Ok((step > 0).then(|| losses / step as f64))
    }

    fn step(&mut self, state: &[f32], mean: Vec<f32>, round: u32) -> Result<Vec<f32>> {
        let prepared = self.prepared()?;
        if !prepared.in_batches {
            return Ok(match prepared.tuning.training.aggregation {
                Aggregation::FedAvg => moved(state, mean), // needs no memory of its own
                other => other.apply(state, &mean)?,
            });
        }
        // The engine counts steps from 0, the protocol rounds from 1.
        let steps = u64::from(round.saturating_sub(1));
        let trainer = self.trainer(&prepared.tuning)?;
        Ok(trainer.apply_release(state, &mean, steps)?)
    }

    fn evaluate(&mut self, state: &[f32]) -> Result<Option<Evaluation>> {
        let prepared = self.prepared()?;
        let Some(validation) = &prepared.validation else {
            return Ok(None);
        };
        let mut trainer = self.trainer(&prepared.tuning)?;
        let found = trainer.evaluate(parameters(&trainer, state)?, validation)?;
        Ok(Some(Evaluation {
            loss: found.loss,
            accuracy: found.accuracy,
            examples: validation.len(),
        }))
    }
}

/// θ, which stands first in a state.
fn parameters<'s>(trainer: &Trainer<'_>, state: &'s [f32]) -> Result<&'s [f32]> {
    let dimension = trainer.dimension();
    state.get(..dimension).ok_or_else(|| {
        Error::Misuse(format!(
            "a state of {} numbers for a model of {dimension}",
            state.len()
        ))
    })
}
