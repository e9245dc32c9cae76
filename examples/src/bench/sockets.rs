//! A whole federation for one round: the server and every member in a process of its own, over sockets with mutual TLS,
//! bodies and sums on disk.

use std::{
    collections::BTreeSet,
    num::NonZeroU8,
    time::{Duration, Instant},
};

use ciphertune_client::{
    draft::Draft,
    learner::Start,
    model::Model,
    report::{Happening, RoundReport, Seconds},
    researcher::Researcher,
    tuning::Tuning,
};
use ciphertune_policy::Policy;
use ciphertune_round::{Digest, Job};
use ciphertune_tune::{spec::TrainingSpec, task::Route};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{
    options::SocketOptions,
    samples::Samples,
    vectors::{backbone, first_model, integers, unit},
};
use crate::{
    Error, Result,
    children::{Child, Heard},
    federation::{self, Federation},
    party::LISTENING,
    setup::free_port,
};

/// Without noise, for there is nothing to hide: it would cost time that is not the sum's.
const POLICY: &str = include_str!("../../../policies/laboratory-no-privacy.toml");
/// How long the round may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What a round took and held.
pub struct Measured {
    dimension: usize,
    members: usize,
    seconds: f64,
    reports: Vec<RoundReport>,
    server_memory: Option<u64>,
}

/// Runs the round; fails unless every member's new model is the old one and the mean of the plain vectors.
pub fn measure(options: &SocketOptions) -> Result<Measured> {
    let dimension = usize::try_from(options.parameters)
        .map_err(|error| Error::Usage(format!("--parameters: {error}")))?;
    let root = tempfile::Builder::new()
        .prefix("ciphertune-bench-")
        .tempdir()
        .map_err(|error| Error::fault("making a temporary folder", error))?;
    let federation = Federation::found(root.path(), options.members, free_port()?, POLICY)?;
    let job = draft(options).job(
        federation::NAME,
        &Policy::parse(POLICY)?,
        backbone(),
        &Start::of_updates(first_model(dimension)),
    )?;
    let runtime =
        tokio::runtime::Runtime::new().map_err(|error| Error::fault("starting", error))?;
    let (digest, measured) = runtime.block_on(Round::run(&federation, options.threads, &job))?;
    hold_to_plaintext(&federation, &job, &digest)?;
    Ok(measured)
}

fn draft(options: &SocketOptions) -> Draft {
    Draft {
        name: "bench".into(),
        rounds: 1,
        max_attempts: 1,
        members: options.members,
        committee: None,
        value_bits: options.value_bits,
        sampling_rate: None,
        nominal_batch: None,
        max_examples: None,
        metrics: BTreeSet::new(),
        contribute_seconds: PATIENCE.as_secs(),
        open_seconds: PATIENCE.as_secs(),
        agree_seconds: PATIENCE.as_secs(),
        tuning: Tuning {
            template: "{sentence}".into(),
            labels: vec!["yes".into(), "no".into()],
            route: Route::Classifier,
            tokenizer: None,
            training: TrainingSpec::default(),
        },
    }
}

/// The round under way.
struct Round<'a> {
    federation: &'a Federation,
    threads: NonZeroU8,
    hearing: mpsc::UnboundedReceiver<Heard>,
    telling: mpsc::UnboundedSender<Heard>,
}

impl<'a> Round<'a> {
    async fn run(
        federation: &'a Federation,
        threads: NonZeroU8,
        job: &Job,
    ) -> Result<(Digest, Measured)> {
        let (telling, hearing) = mpsc::unbounded_channel();
        let mut round = Self {
            federation,
            threads,
            hearing,
            telling,
        };
        let ran = tokio::time::timeout(PATIENCE, round.follow(job));
        ran.await
            .map_err(|_| Error::Fault(format!("not over after {} s", PATIENCE.as_secs())))?
    }

    async fn follow(&mut self, job: &Job) -> Result<(Digest, Measured)> {
        let members = &self.federation.members;
        let number = members.len();
        let server = self.start(number)?;
        while !self.line().await?.contains(LISTENING) {}
        let children = (0..number)
            .map(|member| self.start(member))
            .collect::<Result<Vec<_>>>()?;
        for _ in &children {
            while !matches!(self.happening().await?, Happening::Connected { .. }) {}
        }

        let started = Instant::now();
        let site = self.federation.researcher.site()?;
        let digest = Researcher::connect(site).await?.submit(job.clone()).await?;
        let mut reports = Vec::new();
        while reports.len() < number {
            match self.happening().await? {
                Happening::Finished(report) => reports.push(*report),
                Happening::Considered {
                    refusal: Some(reason),
                    ..
                }
                | Happening::Voided { reason } => return Err(Error::Refused(reason)),
                _ => {}
            }
        }
        let measured = Measured {
            dimension: job.dimension as usize,
            members: number,
            seconds: started.elapsed().as_secs_f64(),
            reports,
            server_memory: server.peak_memory(),
        };
        Ok((digest, measured))
    }

    /// Starts the member of this number, or the server after the last.
    fn start(&self, number: usize) -> Result<Child> {
        let member = self.federation.members.get(number);
        let resident = member.unwrap_or(&self.federation.server);
        let mut arguments = vec![
            if member.is_some() {
                "vectors"
            } else {
                "server"
            }
            .into(),
            "--home".into(),
            resident.home.root().into(),
        ];
        if member.is_some() {
            arguments.extend(["--number".into(), number.to_string().into()]);
            arguments.extend(["--threads".into(), self.threads.to_string().into()]);
        }
        let (name, passphrase) = (&resident.name, &resident.passphrase);
        let telling = self.telling.clone();
        Child::start(number, name, passphrase, arguments, &[], telling)
    }

    /// The next line that somebody says.
    async fn line(&mut self) -> Result<String> {
        loop {
            match self.hearing.recv().await {
                Some(Heard::Said { line, .. }) => return Ok(line),
                Some(Heard::Gone { well: true, .. }) => {}
                Some(Heard::Gone { how, .. }) => {
                    return Err(Error::Fault(format!("a party died: {how}")));
                }
                None => return Err(Error::Fault("nothing is heard of the parties".into())),
            }
        }
    }

    async fn happening(&mut self) -> Result<Happening> {
        let line = self.line().await?;
        serde_json::from_str(&line)
            .map_err(|error| Error::Fault(format!("a member said {line:?}: {error}")))
    }
}

/// Holds every member's model on disk to θ₀ + Σ v / (n·2^s).
fn hold_to_plaintext(federation: &Federation, job: &Job, digest: &Digest) -> Result<()> {
    let (dimension, members) = (job.dimension as usize, federation.members.len());
    let mut sum = vec![0_i64; dimension];
    for member in 0..members {
        for (sum, value) in sum.iter_mut().zip(integers(member, dimension)) {
            *sum += value;
        }
    }
    let divisor = members as f64 / f64::from(unit(job)?);
    let mut expected = first_model(dimension);
    for (parameter, sum) in expected.iter_mut().zip(&sum) {
        *parameter += (*sum as f64 / divisor) as f32;
    }
    for member in &federation.members {
        let path = member.home.job(digest).join("model.safetensors");
        let model = Model::read(&path)?;
        if model.is_none_or(|model| model.state != expected) {
            return Err(Error::Refused(format!(
                "{}'s model is not that of the plain vectors",
                member.name
            )));
        }
    }
    Ok(())
}

impl Measured {
    /// One object; seconds are medians over the members.
    pub fn to_json(&self) -> Value {
        let median = self.medians();
        json!({
            "parameters": self.dimension,
            "members": self.members,
            "seconds": {
                "privatise": median.privatise,
                "seal": median.seal,
                "send": median.send,
                "wait": median.wait,
                "open": median.open,
                "round": self.seconds,
            },
            "bytes_per_parameter_up": self.per_parameter(|report| report.bytes_up),
            "bytes_per_parameter_down": self.per_parameter(|report| report.bytes_down),
            "peak_memory": { "server": self.server_memory, "member": self.member_memory() },
            "sum_equals_plaintext": true,
        })
    }

    /// For people.
    pub fn to_table(&self) -> String {
        let median = self.medians();
        let megabytes = |bytes: Option<u64>| {
            bytes.map_or("unknown".into(), |bytes| {
                format!("{:.1} MB", bytes as f64 / 1e6)
            })
        };
        format!(
            "{} members × {} parameters, processes of their own, mutual TLS on loopback, bodies on disk. Every new model \
             is that of the plain vectors.\n\n\
             privatise {:.2} s, seal {:.2} s, send {:.2} s, wait for the others and the sum {:.2} s, release, fetch and \
             open {:.2} s (medians over the members); job submitted to last model {:.2} s\n\
             Bytes a parameter: {:.3} up, {:.3} down (TLS and the spot check of a foreign body included).\n\
             Peak memory: server {}, member {}; the integers of a vector are {:.1} MB, a model {:.1} MB.\n",
            self.members,
            self.dimension,
            median.privatise,
            median.seal,
            median.send,
            median.wait,
            median.open,
            self.seconds,
            self.per_parameter(|report| report.bytes_up),
            self.per_parameter(|report| report.bytes_down),
            megabytes(self.server_memory),
            megabytes(self.member_memory()),
            8.0 * self.dimension as f64 / 1e6,
            4.0 * self.dimension as f64 / 1e6,
        )
    }

    fn medians(&self) -> Seconds {
        let median = |of: fn(&Seconds) -> f64| {
            Samples::of(
                self.reports
                    .iter()
                    .map(|report| of(&report.seconds))
                    .collect(),
            )
            .median
        };
        Seconds {
            train: median(|seconds| seconds.train),
            privatise: median(|seconds| seconds.privatise),
            seal: median(|seconds| seconds.seal),
            send: median(|seconds| seconds.send),
            wait: median(|seconds| seconds.wait),
            open: median(|seconds| seconds.open),
        }
    }

    fn member_memory(&self) -> Option<u64> {
        self.reports.iter().map(|report| report.peak_memory).max()
    }

    /// Of the member with most.
    fn per_parameter(&self, of: fn(&RoundReport) -> u64) -> f64 {
        let most = self.reports.iter().map(of).max().unwrap_or_default();
        most as f64 / self.dimension as f64
    }
}
