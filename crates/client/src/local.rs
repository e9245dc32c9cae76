//! Tuning on one machine alone: the central or single-site baseline, or a federation's model continued on a member's own data.

use std::{
    collections::{BTreeMap, HashSet},
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::atomic::AtomicBool,
};

use ciphertune_round::Digest;
use ciphertune_tune::{
    data::{Dataset, Record, counts, split},
    evaluate::Evaluation,
    session::{Data, Event, Patience, State},
    task::{Encoded, Route},
    trainer::Trainer,
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    model,
    tuned::{ABOUT, Incompatible, Opened, Origin, Tuned},
    tuning::Tuning,
};

/// Where a run keeps its state.
pub const CHECKPOINT: &str = "checkpoint.safetensors";

/// Records to train on and to validate with.
pub struct Corpus {
    training: Vec<Record>,
    validation: Vec<Record>,
    duplicates: usize,
    /// What decides these records, for a run that goes on.
    origin: Value,
}

impl Corpus {
    /// Reads `data`, and validates with a file of its own or a share of the records, drawn by `seed`. Records that occur twice
    /// count once.
    ///
    /// # Errors
    /// As [`Dataset::read`]; [`Error::Misuse`] for a share that leaves nothing to train on, or a record that is in both files.
    pub fn read(
        tuning: &Tuning,
        data: &Path,
        validation: Option<&Path>,
        hold_out: f64,
        seed: u64,
    ) -> Result<Self> {
        let task = tuning.task()?;
        let schema = task.schema();
        let mut duplicates = 0;
        // What the model would read twice counts once, whatever columns it does not read say.
        let mut read = |path: &Path| -> Result<(Digest, Vec<Record>, HashSet<String>)> {
            let all = Dataset::read(path, &schema)?;
            let (mut records, mut seen) = (Vec::new(), HashSet::new());
            let mut prompts = HashSet::new();
            duplicates += all.duplicates();
            let sha256 = Digest::from_bytes(all.sha256());
            for record in all.into_records() {
                let prompt = task.template().prompt(&record)?;
                if seen.insert((prompt.clone(), record.label.clone())) {
                    records.push(record);
                    prompts.insert(prompt);
                } else {
                    duplicates += 1;
                }
            }
            Ok((sha256, records, prompts))
        };
        let (sha256, records, prompts) = read(data)?;
        let mut origin = json!({ "sha256": sha256.to_string() });
        if let Some(path) = validation {
            let (sha256, held_out, asked) = read(path)?;
            origin["validation"] = sha256.to_string().into();
            let both = prompts.intersection(&asked).count();
            if both > 0 {
                return Err(Error::Misuse(format!(
                    "{both} texts are in both {} and {}: what was trained on validates nothing",
                    data.display(),
                    path.display()
                )));
            }
            return Ok(Self {
                training: records,
                validation: held_out,
                duplicates,
                origin,
            });
        }
        if hold_out == 0.0 {
            return Ok(Self {
                training: records,
                validation: Vec::new(),
                duplicates,
                origin,
            });
        }
        if !(0.0..1.0).contains(&hold_out) {
            return Err(Error::Misuse(format!(
                "a share of {hold_out} to hold out: it is at least 0 and below 1"
            )));
        }
        let held_out = ((records.len() as f64 * hold_out).round() as usize).max(1);
        let Some(kept) = records.len().checked_sub(held_out).filter(|&kept| kept > 0) else {
            return Err(Error::Misuse(format!(
                "{} holds {} records: none is left to train on when {held_out} are held out",
                data.display(),
                records.len()
            )));
        };
        origin["hold_out"] = json!({ "records": held_out, "seed": seed });
        let mut shares = split::federate(records, 1, kept, seed)?;
        Ok(Self {
            training: shares.members.swap_remove(0),
            validation: shares.validation,
            duplicates,
            origin,
        })
    }
}

/// What a corpus holds, for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// Records to train on.
    pub training: usize,
    /// Records held out.
    pub validation: usize,
    /// Lines that repeated another record, and were left out.
    pub duplicates: usize,
    /// Records that were cut to the backbone's context.
    pub truncated: usize,
    /// Of each label: records to train on, and held out. Empty of answers in words.
    pub labels: BTreeMap<String, (usize, usize)>,
}

/// A run that is ready to start, or to go on.
pub struct Local<'b> {
    opened: &'b Opened,
    trainer: Trainer<'b>,
    tuning: Tuning,
    training: Encoded,
    validation: Option<Encoded>,
    counted: Counted,
    patience: Patience,
    folder: PathBuf,
    run: Value,
    state: State,
    start: Vec<f32>,
    origin: Origin,
}

/// How a run ended.
pub struct Finished {
    /// What was tuned; it stands in the folder.
    pub tuned: Tuned,
    /// How good the model was that the run started from, on the same records.
    pub before: Option<Evaluation>,
    /// Why PEFT's files are not in the folder, where they are not.
    pub without_peft: Option<Incompatible>,
}

impl<'b> Local<'b> {
    /// Gets ready to tune into `folder`: from `start`, another folder's θ of the same shape, or from the specification's seed.
    /// Where the folder holds the state of this very run, it goes on from there.
    ///
    /// # Errors
    /// [`Error::Refused`] where the folder holds another run's state, naming what differs, or `start` has another shape.
    pub fn prepare(
        opened: &'b Opened,
        tuning: Tuning,
        corpus: Corpus,
        patience: Patience,
        at_a_time: Option<NonZeroUsize>,
        start: Option<&Tuned>,
        folder: &Path,
    ) -> Result<Self> {
        let mut trainer = opened.trainer(&tuning)?;
        if let Some(at_a_time) = at_a_time {
            trainer = trainer.at_a_time(at_a_time);
        }
        let (training, validation) = (
            trainer.encode(&corpus.training)?,
            trainer.encode(&corpus.validation)?,
        );
        let counted = Counted {
            training: training.len(),
            validation: validation.len(),
            duplicates: corpus.duplicates,
            truncated: training.truncated() + validation.truncated(),
            labels: match tuning.route {
                Route::Generation => BTreeMap::new(),
                _ => by_label(&corpus),
            },
        };
        let (parameters, origin) = match start {
            Some(tuned) if tuned.parameters.len() == trainer.dimension() => (
                tuned.parameters.clone(),
                Origin::Continued(tuned.about.digest.clone()),
            ),
            Some(tuned) => {
                return Err(Error::Refused(format!(
                    "the start has {} parameters and this specification {}",
                    tuned.parameters.len(),
                    trainer.dimension()
                )));
            }
            None => (
                trainer.initial_parameters(tuning.training.seed)?,
                Origin::Local,
            ),
        };
        let run = json!({
            "tuning": tuning,
            "patience": patience,
            "at_a_time": at_a_time,
            "backbone": opened.digest().to_string(),
            "tokenizer": opened.tokenizer_digest().to_string(),
            "end_of_text": opened.backbone.end_of_text(),
            "data": corpus.origin,
            "start": model::digest(&parameters).to_string(),
        });
        std::fs::create_dir_all(folder)
            .map_err(|error| Error::fault(format_args!("making {}", folder.display()), error))?;
        let state = match State::read(&folder.join(CHECKPOINT), &run)? {
            Some(state) => state,
            None if folder.join(ABOUT).exists() => {
                return Err(Error::Refused(format!(
                    "{} holds a θ that this run did not make, and would replace: give an --out of its own",
                    folder.display()
                )));
            }
            None => State::new(&trainer, parameters.clone()),
        };
        Ok(Self {
            opened,
            trainer,
            tuning,
            training,
            validation: Some(validation).filter(|it| !it.is_empty()),
            counted,
            patience,
            folder: folder.to_owned(),
            run,
            state,
            start: parameters,
            origin,
        })
    }

    /// What there is to train on.
    pub fn counted(&self) -> &Counted {
        &self.counted
    }

    /// Steps that an earlier life of this run took.
    pub fn steps_before(&self) -> u64 {
        self.state.place.steps
    }

    /// Number of parameters.
    pub fn dimension(&self) -> usize {
        self.trainer.dimension()
    }

    /// Runs to the end and writes the folder.
    ///
    /// # Errors
    /// [`Error::Stopped`] where `stop` is set: the same run prepared again goes on. As [`Trainer::run`] else.
    pub fn go(
        mut self,
        observer: &mut dyn FnMut(Event<'_>),
        stop: &AtomicBool,
    ) -> Result<Finished> {
        let (path, run) = (self.folder.join(CHECKPOINT), &self.run);
        let mut keep = |state: &State| Ok::<_, Error>(state.write(&path, run)?);
        let before = match &self.validation {
            Some(validation) => Some(self.trainer.evaluate(&self.start, validation)?),
            None => None,
        };
        self.trainer.run(
            &mut self.state,
            &self.patience,
            Data {
                training: &self.training,
                validation: self.validation.as_ref(),
            },
            observer,
            &mut keep,
            stop,
        )?;
        let tuned = Tuned::new(
            self.opened,
            self.tuning,
            self.state.chosen().to_vec(),
            self.origin,
            self.state.found().cloned(),
        );
        let without_peft = tuned.write(&self.folder, self.opened)?;
        Ok(Finished {
            tuned,
            before,
            without_peft,
        })
    }
}

fn by_label(corpus: &Corpus) -> BTreeMap<String, (usize, usize)> {
    let mut labels = BTreeMap::new();
    for (label, count) in counts(&corpus.training) {
        labels.entry(label).or_insert((0, 0)).0 = count;
    }
    for (label, count) in counts(&corpus.validation) {
        labels.entry(label).or_insert((0, 0)).1 = count;
    }
    labels
}
