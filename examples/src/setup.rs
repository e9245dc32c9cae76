//! Everything before the first process is started: files read and checked, the job drafted and held to the policy,
//! the federation founded, the data dealt out.

use std::{
    fs,
    net::TcpListener,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::SystemTime,
};

use ciphertune_client::{
    draft::Draft,
    learner::Learner as _,
    tuning::{Tuner, Tuning},
};
use ciphertune_policy::{Decimal, Policy, Role, Unit};
use ciphertune_round::{Digest, Job};
use ciphertune_tune::{optimiser::OptimiserSpec, spec::TrainingSpec, task::Route};

use crate::{
    corpus::{self, Corpus},
    error::{Error, Result},
    federation::{self, Federation, Resident},
    headlines,
    options::Options,
};

/// The policy when none is named.
const LABORATORY: &str = include_str!("../../policies/laboratory-no-privacy.toml");

/// Rounds of members' own training, and rounds that are one step each.
const ROUNDS: u32 = 10;
const STEPS: u32 = 100;
/// Measuring takes longer than a step.
const STEPS_MEASURED: NonZeroU32 = NonZeroU32::new(5).unwrap();
/// One record in ten enters a batch.
pub const SAMPLING_RATE: &str = "0.1";
const VALUE_BITS: u32 = 16;
const OPEN_SECONDS: u64 = 120;
const AGREE_SECONDS: u64 = 120;

/// What the processes are started with.
pub struct Setup {
    /// Where everything is.
    pub root: PathBuf,
    /// The backbone's folder.
    pub model: PathBuf,
    /// Its architecture, as its `config.json` says.
    pub kind: String,
    /// Its digest.
    pub backbone: Digest,
    /// The records.
    pub corpus: Corpus,
    /// The policies' name.
    pub policy: String,
    /// The parties.
    pub federation: Federation,
    /// The job, still to be signed.
    pub job: Job,
    /// Rounds from one measurement of the model to the next.
    pub measure_every: NonZeroU32,
}

impl Setup {
    /// Reads, checks and lays everything out.
    ///
    /// # Errors
    /// What is wrong with a file is said before anything is started.
    pub fn prepare(options: &Options, corpus: Corpus) -> Result<Self> {
        let toml = policy_text(options.policy.as_deref(), LABORATORY)?;
        let policy = Policy::parse(&toml)?;
        let given = options.model.as_deref().map(open).transpose()?;
        let root = root(options.out.as_deref())?;
        let model = root.join("model");
        let (model, tuner) = match (given, &options.model) {
            (Some(tuner), Some(folder)) => (absolute(folder)?, tuner),
            _ => {
                headlines::write_model(&model)?;
                let tuner = Tuner::for_draft(&model)?;
                (model, tuner)
            }
        };
        let drafted = draft(options, &policy, &corpus, &tuner);
        if drafted.is_err() && options.model.is_none() {
            let _ = fs::remove_dir_all(&model); // an empty folder may be used again
        }
        let (backbone, job) = drafted?;
        drop(tuner);

        let federation = Federation::found(&root, options.members, free_port()?, &toml)?;
        write(&root.join("policy.toml"), &toml)?;
        federation::folder(&root.join("plaintext"))?;
        for (member, records) in federation.members.iter().zip(&corpus.members) {
            federation::folder(&member.home.root().join("data"))?;
            corpus::write(records, &training_of(member))?;
        }
        if let Some(first) = federation.members.first() {
            corpus::write(&corpus.validation, &validation_of(first))?;
        }
        Ok(Self {
            kind: kind(&model)?,
            root,
            model,
            backbone,
            corpus,
            policy: policy.names().collect::<Vec<_>>().join(" + "),
            federation,
            measure_every: options
                .measure_every
                .unwrap_or(match job.mechanism.batches {
                    Some(_) => STEPS_MEASURED,
                    None => NonZeroU32::MIN,
                }),
            job,
        })
    }

    /// Where members write what a production member never writes.
    pub fn plaintext(&self) -> PathBuf {
        self.root.join("plaintext")
    }
}

/// A port that was free a moment ago; the server takes it as soon as it starts.
pub fn free_port() -> Result<u16> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Error::fault("looking for a free port", error))
}

/// The policy of this file, or the one that stands in when none is named.
pub fn policy_text(file: Option<&Path>, default: &str) -> Result<String> {
    let Some(path) = file else {
        return Ok(default.to_owned());
    };
    fs::read_to_string(path)
        .map_err(|error| Error::Usage(format!("policy file {}: {error}", path.display())))
}

/// A member's own records.
pub fn training_of(member: &Resident) -> PathBuf {
    member.home.root().join("data").join("training.jsonl")
}

/// The common validation records, with the one member that measures.
pub fn validation_of(member: &Resident) -> PathBuf {
    member.home.root().join("data").join("validation.jsonl")
}

/// Opens a model folder, or says what it lacks.
fn open(folder: &Path) -> Result<Tuner> {
    if !folder.is_dir() {
        return Err(Error::Usage(format!(
            "model folder {}: no such folder",
            folder.display()
        )));
    }
    Ok(Tuner::for_draft(folder)?)
}

fn draft(
    options: &Options,
    policy: &Policy,
    corpus: &Corpus,
    tuner: &Tuner,
) -> Result<(Digest, Job)> {
    let batches = match (policy.unit(), options.sampling_rate) {
        (Unit::Record, rate) => Some(Batches::of(rate, corpus)?),
        (Unit::None, Some(rate)) => Some(Batches::of(Some(rate), corpus)?),
        (_, None) => None,
        (Unit::Institution, Some(_)) => {
            return Err(Error::Usage(
                "--sampling-rate is for policies that hide single records, or nothing; this one's unit is institution"
                    .into(),
            ));
        }
    };
    let rounds = options
        .rounds
        .unwrap_or(if batches.is_some() { STEPS } else { ROUNDS });
    let tuning = Tuning {
        template: corpus.template.clone(),
        labels: corpus.labels.clone(),
        route: Route::Classifier,
        training: TrainingSpec {
            rounds,
            seed: options.seed,
            aggregation: options.aggregation.aggregation(),
            ..if batches.is_some() {
                one_step_a_round()
            } else if options.model.is_none() {
                headlines::training()
            } else {
                TrainingSpec::default()
            }
        },
        tokenizer: None,
    };
    let tuning = tuner.pin(tuning)?;
    let start = tuner.start(&tuning, batches.is_some())?;
    let draft = Draft {
        name: "demo".into(),
        rounds,
        max_attempts: 1,
        members: options.members,
        committee: None,
        value_bits: VALUE_BITS,
        sampling_rate: batches.as_ref().map(|batches| batches.rate),
        nominal_batch: batches.as_ref().map(|batches| batches.nominal),
        max_examples: batches.as_ref().map(|batches| batches.most),
        metrics: options.metrics.iter().copied().collect(),
        contribute_seconds: options.deadline,
        open_seconds: OPEN_SECONDS,
        agree_seconds: AGREE_SECONDS,
        tuning,
    };
    let backbone = tuner.backbone();
    let job = draft.job(federation::NAME, policy, backbone, &start)?;
    let terms = job
        .terms(policy, options.members, options.members)
        .map_err(|error| Error::Refused(error.to_string()))?;
    policy
        .admit(&job.proposal(&terms, Role::Researcher, SystemTime::now().into()))
        .map_err(|refusal| Error::Refused(refusal.to_string()))?;
    Ok((backbone, job))
}

/// How rounds draw their batches.
struct Batches {
    rate: Decimal,
    nominal: u32,
    most: u32,
}

impl Batches {
    /// The nominal batch is what the coins give on average, as all members' numbers of records are public here.
    fn of(rate: Option<Decimal>, corpus: &Corpus) -> Result<Self> {
        let rate = match rate {
            Some(rate) => rate,
            None => SAMPLING_RATE.parse()?,
        };
        let records = corpus.members.iter().map(Vec::len);
        let nominal = (rate.to_f64_down() * records.clone().sum::<usize>() as f64).round();
        Ok(Self {
            rate,
            nominal: (nominal as u32).max(1),
            most: records.max().unwrap_or(0) as u32,
        })
    }
}

/// Adam as it served best along noised gradients of a sentence encoder, one step a round.
pub fn one_step_a_round() -> TrainingSpec {
    TrainingSpec {
        optimiser: OptimiserSpec::AdamW {
            beta1: 0.9,
            beta2: 0.99,
            epsilon: 1e-8,
            weight_decay: 0.0,
        },
        ..TrainingSpec::default()
    }
}

/// `out`, which must be new or empty, or a temporary folder, which stays.
fn root(out: Option<&Path>) -> Result<PathBuf> {
    let Some(out) = out else {
        return tempfile::Builder::new()
            .prefix("ciphertune-demo-")
            .tempdir()
            .map(tempfile::TempDir::keep)
            .map_err(|error| Error::fault("making a temporary folder", error));
    };
    federation::folder(out)?;
    let occupied = fs::read_dir(out)
        .map_err(|error| Error::fault(format_args!("reading {}", out.display()), error))?
        .next()
        .is_some();
    if occupied {
        return Err(Error::Usage(format!(
            "{} is not empty: --out wants a folder of its own",
            out.display()
        )));
    }
    absolute(out)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    fs::canonicalize(path).map_err(|error| Error::fault(format_args!("{}", path.display()), error))
}

fn kind(model: &Path) -> Result<String> {
    let path = model.join("config.json");
    let failed = |error: &dyn std::fmt::Display| {
        Error::fault(format_args!("reading {}", path.display()), error)
    };
    let text = fs::read_to_string(&path).map_err(|error| failed(&error))?;
    let config: serde_json::Value = serde_json::from_str(&text).map_err(|error| failed(&error))?;
    Ok(config["model_type"]
        .as_str()
        .unwrap_or("unknown")
        .to_owned())
}

/// Writes a text.
pub fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)
        .map_err(|error| Error::fault(format_args!("writing {}", path.display()), error))
}
