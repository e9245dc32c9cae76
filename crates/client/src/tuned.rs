//! What tuning leaves: a folder with θ, all that is needed to use it, and the same as PEFT saves it where PEFT can compute it.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use candle_core::Device;
use ciphertune_round::Digest;
use ciphertune_tune::{
    adapter::{Adapter, AdapterConfig, ClassifierWeights, Method, TaskType},
    backbone::{self, Backbone, Options},
    evaluate::Evaluation,
    file,
    head::Pooling,
    spec::{EncoderSpec, HeadStart, TrainingSpec},
    task::Route,
    tokenizer::Tokenizer,
    trainer::Trainer,
};
use serde::{Deserialize, Serialize};

use crate::{
    desk::KeptJob,
    error::{Error, Result},
    model,
    tuning::Tuning,
};

/// What says that a folder holds a θ.
pub const ABOUT: &str = "ciphertune.json";
const PARAMETERS: &str = "theta.safetensors";

/// A backbone's folder, opened: the frozen model and its tokenizer.
pub struct Opened {
    /// The model.
    pub backbone: Box<dyn Backbone>,
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// The folder.
    pub folder: PathBuf,
}

impl Opened {
    /// Opens a folder in Hugging Face layout.
    ///
    /// # Errors
    /// A folder without a file that it needs, or of an unknown architecture, is named.
    pub fn open(folder: &Path, device: &Device, options: Options) -> Result<Self> {
        Ok(Self {
            backbone: backbone::load_with(folder, device, options)?,
            tokenizer: Tokenizer::load(&folder.join("tokenizer.json"))?,
            folder: folder.to_owned(),
        })
    }

    /// Its digest, by which jobs and tuned folders name it.
    pub fn digest(&self) -> Digest {
        Digest::from_bytes(self.backbone.digest())
    }

    /// SHA-256 of its tokenizer.json.
    pub fn tokenizer_digest(&self) -> Digest {
        Digest::sha256(self.tokenizer.json())
    }

    /// A trainer of a specification on it.
    ///
    /// # Errors
    /// As [`Trainer::new`].
    pub fn trainer(&self, tuning: &Tuning) -> Result<Trainer<'_>> {
        Ok(Trainer::new(
            &*self.backbone,
            tuning.training.clone(),
            self.tokenizer.clone(),
            tuning.task()?,
        )?)
    }
}

/// What stands in `ciphertune.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct About {
    /// Task, encoder, training.
    pub tuning: Tuning,
    /// The digest of the backbone it was tuned before.
    pub backbone: String,
    /// SHA-256 of the backbone's tokenizer.json.
    pub tokenizer: String,
    /// Where θ comes from.
    pub origin: Origin,
    /// SHA-256 over θ, as rounds name a model.
    pub digest: String,
    /// How good it was on what was held out, where anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Evaluation>,
}

/// Where a θ comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Origin {
    /// Tuned on one machine alone.
    Local,
    /// Tuned further on one machine, from the θ of this digest.
    Continued(String),
    /// A federation's job of this digest, after so many rounds.
    Job {
        /// The job.
        job: String,
        /// Rounds.
        rounds: u32,
    },
    /// An adapter that PEFT saved.
    Peft,
}

/// A tuned folder's contents.
#[derive(Clone, Debug)]
pub struct Tuned {
    /// All but the numbers.
    pub about: About,
    /// θ.
    pub parameters: Vec<f32>,
}

/// Why PEFT could not compute what was tuned here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incompatible(&'static str);

impl fmt::Display for Incompatible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Tuned {
    /// θ of a specification on a backbone.
    pub fn new(
        opened: &Opened,
        tuning: Tuning,
        parameters: Vec<f32>,
        origin: Origin,
        validation: Option<Evaluation>,
    ) -> Self {
        Self {
            about: About {
                tuning,
                backbone: opened.digest().to_string(),
                tokenizer: opened.tokenizer_digest().to_string(),
                origin,
                digest: model::digest(&parameters).to_string(),
                validation,
            },
            parameters,
        }
    }

    /// What a member and its fellows agreed on last in a job, from the job's folder at home.
    ///
    /// # Errors
    /// [`Error::Misuse`] where no job is kept there; [`Error::Refused`] for a job before another backbone.
    pub fn of_job(folder: &Path, opened: &Opened) -> Result<Self> {
        let kept = KeptJob::read(folder)?.ok_or_else(|| {
            Error::Misuse(format!(
                "{} holds no job with a model: `ciphertune job status` lists jobs, --home says where they are kept",
                folder.display()
            ))
        })?;
        let digest = kept.digest;
        if kept.job.backbone != opened.digest() {
            return Err(Error::Refused(format!(
                "job {digest} is tuned before the backbone {}, and {} holds {}",
                kept.job.backbone,
                opened.folder.display(),
                opened.digest()
            )));
        }
        let tuning = Tuning::from_json(&kept.job.tuning)?;
        let dimension = opened.trainer(&tuning)?.dimension();
        let mut parameters = kept.model.state;
        if parameters.len() < dimension {
            return Err(Error::Fault(format!(
                "the model of job {digest} has {} numbers, not {dimension}",
                parameters.len()
            )));
        }
        // What follows θ are moments.
        parameters.truncate(dimension);
        let origin = Origin::Job {
            job: digest.to_string(),
            rounds: kept.model.round,
        };
        Ok(Self::new(opened, tuning, parameters, origin, None))
    }

    /// Reads a folder and gets a trainer ready at its θ.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what is no such folder; [`Error::Refused`] for one that was tuned before another backbone.
    pub fn read<'b>(folder: &Path, opened: &'b Opened) -> Result<(Self, Trainer<'b>)> {
        let path = folder.join(ABOUT);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            Error::Misuse(format!(
                "cannot read {}: {error}; `ciphertune tune`, `export` and `import` write such folders",
                path.display()
            ))
        })?;
        let about: About = serde_json::from_str(&text)
            .map_err(|error| Error::malformed(path.display().to_string(), error))?;
        about.tuning.training.check()?;
        if about.backbone != opened.digest().to_string() {
            return Err(Error::Refused(format!(
                "{} was tuned before the backbone {}, and {} holds {}: give the folder of that backbone with --model",
                folder.display(),
                about.backbone,
                opened.folder.display(),
                opened.digest()
            )));
        }
        if about.tokenizer != opened.tokenizer_digest().to_string() {
            return Err(Error::Refused(format!(
                "{} was tuned with another tokenizer.json than the one in {}",
                folder.display(),
                opened.folder.display()
            )));
        }
        let trainer = opened.trainer(&about.tuning)?;
        trainer.trainable().load(&folder.join(PARAMETERS))?;
        let parameters = trainer.trainable().flatten()?;
        let digest = model::digest(&parameters).to_string();
        if digest != about.digest {
            return Err(Error::malformed(
                folder.join(PARAMETERS).display().to_string(),
                format!("its digest is {digest}, {ABOUT} says {}", about.digest),
            ));
        }
        Ok((Self { about, parameters }, trainer))
    }

    /// Refuses a folder that holds another θ, which would be lost.
    ///
    /// # Errors
    /// [`Error::Refused`] naming both.
    pub fn would_replace_another(&self, folder: &Path) -> Result<()> {
        let text = std::fs::read_to_string(folder.join(ABOUT));
        match text.map(|text| serde_json::from_str::<About>(&text)) {
            Ok(Ok(about)) if about.digest == self.about.digest => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(Error::Refused(format!(
                "{} holds another θ than {}: give an --out of its own",
                folder.display(),
                self.about.digest
            ))),
        }
    }

    /// Writes the folder, and PEFT's files where PEFT computes the same; where not, says why.
    ///
    /// # Errors
    /// [`Error::Fault`] where something cannot be written.
    pub fn write(&self, folder: &Path, opened: &Opened) -> Result<Option<Incompatible>> {
        std::fs::create_dir_all(folder)
            .map_err(|error| Error::fault(format_args!("making {}", folder.display()), error))?;
        let trainer = opened.trainer(&self.about.tuning)?;
        trainer.trainable().assign(&self.parameters)?;
        trainer.trainable().save(&folder.join(PARAMETERS))?;
        let peft = match incompatible(&self.about.tuning, &*opened.backbone) {
            Some(reason) => {
                // An earlier θ's would be loaded in its place.
                Adapter::remove(folder)?;
                Some(reason)
            }
            None => {
                adapter(&trainer, &opened.folder)?.write(folder)?;
                None
            }
        };
        let text = serde_json::to_string_pretty(&self.about)
            .map_err(|error| Error::fault("writing what was tuned", error))?;
        file::replace(&folder.join(ABOUT), text.as_bytes())?;
        Ok(peft)
    }

    /// What PEFT saved, as an encoder of plain embeddings, for a task.
    ///
    /// # Errors
    /// [`Error::Refused`] for an adapter that does not fit the backbone or the task.
    pub fn import(
        peft: &Path,
        opened: &Opened,
        template: String,
        labels: Vec<String>,
    ) -> Result<Self> {
        let adapter = Adapter::read(peft)?;
        adapter.check(&*opened.backbone)?;
        let route = match (adapter.config().task_type, labels.is_empty()) {
            (TaskType::SeqCls, _) => Route::Classifier,
            (_, false) => Route::Verbalizer,
            (_, true) => Route::Generation,
        };
        let tuning = Tuning {
            template,
            labels,
            route,
            tokenizer: None,
            training: TrainingSpec {
                encoder: EncoderSpec::Embedding,
                virtual_tokens: adapter.config().num_virtual_tokens,
                pooling: Pooling::First,
                feature_length: None,
                head_start: HeadStart::Random,
                ..TrainingSpec::default()
            },
        };
        let trainer = opened.trainer(&tuning)?;
        let mut parameters = numbers(adapter.prompt())?;
        if let Some(classifier) = adapter.classifier() {
            let classifier = classifier.classifier()?;
            for (_, values) in classifier.parameters() {
                parameters.extend(numbers(values.as_tensor())?);
            }
        }
        if parameters.len() != trainer.dimension() {
            return Err(Error::Refused(format!(
                "{} holds {} numbers, and {} labels on this backbone take {}: name its labels, in its order, with --labels",
                peft.display(),
                parameters.len(),
                trainer.task().labels().len(),
                trainer.dimension()
            )));
        }
        Ok(Self::new(opened, tuning, parameters, Origin::Peft, None))
    }
}

/// Why PEFT would compute something else.
fn incompatible(tuning: &Tuning, backbone: &dyn Backbone) -> Option<Incompatible> {
    let training = &tuning.training;
    if tuning.route != Route::Classifier {
        return None;
    }
    if backbone.kind() != "bert" {
        return Some(Incompatible(
            "PEFT's sequence classification reads the last token of this architecture, and a classifier here never does",
        ));
    }
    if training.pooling != Pooling::First {
        return Some(Incompatible(
            "PEFT's sequence classification pools the first position, and this classifier was trained on the mean \
             (--pooling first --feature-length none is what PEFT computes)",
        ));
    }
    if training.feature_length.is_some() {
        return Some(Incompatible(
            "PEFT's sequence classification does not scale features, and this classifier was trained on scaled ones \
             (--feature-length none is what PEFT computes)",
        ));
    }
    None
}

/// The trainer's prompt and classifier as PEFT saves them.
fn adapter(trainer: &Trainer<'_>, model: &Path) -> Result<Adapter> {
    let (method, task_type) = (
        method(trainer.spec()),
        match trainer.task().route() {
            Route::Classifier => TaskType::SeqCls,
            Route::Verbalizer | Route::Generation => TaskType::CausalLm,
        },
    );
    let config = AdapterConfig::new(model, method, task_type, trainer.spec().virtual_tokens)?;
    let prompt = trainer.encoder().forward()?;
    let classifier = trainer.classifier().map(ClassifierWeights::of);
    Ok(Adapter::new(prompt.embeddings(), classifier, config)?)
}

/// What PEFT calls it; of what it has no name for, the prompt alone.
fn method(spec: &TrainingSpec) -> Method {
    match spec.encoder {
        EncoderSpec::Mlp { hidden } => Method::Mlp { hidden },
        EncoderSpec::Lstm { hidden, layers } => Method::Lstm { hidden, layers },
        _ => Method::PromptTuning,
    }
}

fn numbers(tensor: &candle_core::Tensor) -> Result<Vec<f32>> {
    let flat = tensor.flatten_all().and_then(|flat| flat.to_vec1());
    flat.map_err(|error| Error::fault("reading a tensor", error))
}
