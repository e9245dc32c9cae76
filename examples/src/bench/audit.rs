//! An audit of a long log: a server's, every object signed, and one whose entries rest on nothing, where the chain is all there is.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use ciphertune_audit::{Evidence, Log, Note};
use ciphertune_client::{draft::Draft, learner::Start, tuning::Tuning, verify::Audit};
use ciphertune_identity::{Certificate, Kit, Passphrase, SigningKey};
use ciphertune_policy::Policy;
use ciphertune_round::{
    Agreement, Context, Digest, Echo, Header, Job, OneTimeKeyOffer, Plan, Release, Roster, Seat,
    Signed, Signer as _,
};
use ciphertune_sum::{CohortSize, Parameters, ValueBound};
use ciphertune_tune::{spec::TrainingSpec, task::Route};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    memory,
    options::{AuditOptions, AuditWorker},
    samples::{Effort, Samples, timed},
};
use crate::{
    Error, Result,
    federation::{Federation, KIT, NAME},
};

/// Entries of a round for each member: contribution, body, echo, release, agreement.
const EACH: usize = 5;
/// Entries of a round beside: plan, roster, complete, checkpoint.
const BESIDE: usize = 4;
/// Entries from one checkpoint to the next where there are no rounds.
const EVERY: usize = 100;

const POLICY: &str = r#"schema = 1
name = "bench"
[privacy]
unit = "none"
clip_norm = "3"
rounds = 1000000
[aggregation]
min_contributors = 3
colluders = 0
[model]
backbones = ["any"]
encoders = ["embedding"]
tasks = ["classification"]
[releases]
metrics = []
"#;

/// One run of `bench audit`.
#[derive(Serialize)]
pub struct Measured {
    members: usize,
    cores: usize,
    logs: Vec<Verified>,
}

/// A log that was verified.
#[derive(Serialize)]
struct Verified {
    what: &'static str,
    entries: u64,
    checkpoints: u64,
    objects: usize,
    log_bytes: u64,
    seconds: Samples,
    /// What the auditor's process held at most.
    peak_memory: Option<u64>,
}

/// Writes logs of so many entries, and verifies each as an auditor would.
pub fn measure(options: &AuditOptions) -> Result<Measured> {
    let root = tempfile::tempdir().map_err(|error| Error::fault("a temporary folder", error))?;
    let scene = Scene::found(root.path(), options)?;
    let mut logs = Vec::new();
    for entries in &options.entries {
        for (what, rounds) in [("a chain", false), ("a server's log", true)] {
            let folder = root.path().join(format!("{entries}-{rounds}"));
            scene.write(&folder, *entries, rounds)?;
            logs.push(verify(what, &folder, options)?);
            let _ = fs::remove_dir_all(&folder);
        }
    }
    Ok(Measured {
        members: options.members,
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        logs,
    })
}

/// Starts this program for each sample: what a process held before tells nothing of the next.
fn verify(what: &'static str, folder: &Path, options: &AuditOptions) -> Result<Verified> {
    let program =
        std::env::current_exe().map_err(|error| Error::fault("this program's path", error))?;
    let mut found = None;
    let effort = Effort {
        repeats: options.repeats,
        seconds: 0.0,
    };
    let seconds = effort.sample(|_| {
        let output = Command::new(&program)
            .arg("audit-worker")
            .arg(folder)
            .output();
        let output = output.map_err(|error| Error::fault("starting the auditor", error))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Error::Fault(said));
        }
        let audited: Audited = serde_json::from_slice(&output.stdout)
            .map_err(|error| Error::fault("reading what the auditor says", error))?;
        let took = Duration::from_secs_f64(audited.seconds);
        found = Some(audited);
        Ok(took)
    })?;
    let audited = found.ok_or_else(|| Error::Fault("nothing was verified".into()))?;
    let fault = |error| Error::fault("reading what was written", error);
    Ok(Verified {
        what,
        entries: audited.entries,
        checkpoints: audited.checkpoints,
        objects: fs::read_dir(folder.join("evidence"))
            .map_err(fault)?
            .count(),
        log_bytes: fs::metadata(folder.join("audit.jsonl"))
            .map_err(fault)?
            .len(),
        seconds,
        peak_memory: audited.peak_memory,
    })
}

/// What an auditor in a process of its own says.
#[derive(Serialize, Deserialize)]
struct Audited {
    seconds: f64,
    entries: u64,
    checkpoints: u64,
    peak_memory: Option<u64>,
}

/// Audits a folder, and prints what it took.
pub fn play(worker: &AuditWorker) -> Result<()> {
    let runtime =
        tokio::runtime::Runtime::new().map_err(|error| Error::fault("starting", error))?;
    let folders = [worker.folder.clone()];
    let (audit, took) =
        timed(|| runtime.block_on(Audit::of(&folders, None, SystemTime::now(), &mut |_, _| {})));
    let audit = audit?;
    if let Some(finding) = audit.findings.first() {
        return Err(Error::Fault(format!("the log does not hold: {finding}")));
    }
    let [node] = audit.nodes.as_slice() else {
        return Err(Error::Fault("not one node".into()));
    };
    let audited = Audited {
        seconds: took.as_secs_f64(),
        entries: node.entries,
        checkpoints: node.checkpoints,
        peak_memory: memory::peak(),
    };
    println!("{}", json!(audited));
    Ok(())
}

/// A federation whose server's log is written.
struct Scene {
    kit: Kit,
    server: SigningKey,
    members: Vec<SigningKey>,
    certificates: Vec<Certificate>,
    researcher: SigningKey,
    policy: Policy,
}

impl Scene {
    fn found(root: &Path, options: &AuditOptions) -> Result<Self> {
        let policy = POLICY;
        let founded = Federation::found(root, options.members, 4711, policy)?;
        let key = |resident: &crate::federation::Resident| -> Result<SigningKey> {
            let passphrase = Passphrase::read(&resident.passphrase)?;
            Ok(SigningKey::load(&resident.home.key(), &passphrase)?)
        };
        Ok(Self {
            kit: Kit::read(&founded.server.home.root().join(KIT))?,
            server: key(&founded.server)?,
            researcher: key(&founded.researcher)?,
            members: founded.members.iter().map(key).collect::<Result<_>>()?,
            certificates: founded
                .members
                .iter()
                .map(|member| Ok(Certificate::read(&member.home.certificate())?))
                .collect::<Result<_>>()?,
            policy: Policy::parse(policy)?,
        })
    }

    fn write(&self, folder: &Path, entries: usize, rounds: bool) -> Result<()> {
        let mut writer = Writer::start(folder, self)?;
        if !rounds {
            for entry in 0..entries.saturating_sub(writer.log.size() as usize) {
                if entry % EVERY == EVERY - 1 {
                    writer.checkpoint(self)?;
                    continue;
                }
                let digest = Digest::sha256(&entry.to_be_bytes()).to_string();
                let fields = [("request", json!(digest)), ("member", json!(digest))];
                writer.note("parcel-call", fields, &[])?;
            }
            return writer.checkpoint(self);
        }
        let count = entries / (EACH * self.members.len() + BESIDE);
        let job = Signed::sign(self.job(count)?, &self.researcher);
        let named = job.digest().to_string();
        writer.note("job", [("job", json!(named))], &[&job.encode()])?;
        let mut model = job.initial_model;
        for round in 1..=count {
            model = self.round(&mut writer, &job, round as u32, model)?;
        }
        Ok(())
    }

    fn job(&self, rounds: usize) -> Result<Job> {
        let draft = Draft {
            name: "bench".into(),
            rounds: u32::try_from(rounds).unwrap_or(u32::MAX),
            max_attempts: 1,
            members: self.members.len(),
            committee: None,
            value_bits: 12,
            sampling_rate: None,
            nominal_batch: None,
            max_examples: None,
            metrics: Default::default(),
            contribute_seconds: 60,
            open_seconds: 60,
            agree_seconds: 60,
            tuning: Tuning {
                template: "{sentence}".into(),
                labels: vec!["yes".into(), "no".into()],
                route: Route::Classifier,
                tokenizer: None,
                training: TrainingSpec::default(),
            },
        };
        let start = Start::of_updates(vec![0.0; 100]);
        Ok(draft.job(NAME, &self.policy, Digest::sha256(b"no backbone"), &start)?)
    }

    fn plan(&self, job: &Signed<Job>, round: u32, model: Digest) -> Result<Plan> {
        let n = self.members.len();
        let terms = job.terms(&self.policy, n, n);
        let terms = terms.map_err(|error| Error::Fault(error.to_string()))?;
        let parameters = CohortSize::new(n)
            .and_then(|size| Parameters::derive(size, ValueBound::new(job.value_bound)?))
            .map_err(|error| Error::Fault(error.to_string()))?;
        let list = self.kit.credentials.revocations();
        let seats = self.members.iter().map(|member| {
            let mut public_key = vec![0; ciphertune_round::PUBLIC_KEY_BYTES];
            if let Some(last) = public_key.last_chunk_mut::<4>() {
                *last = round.to_be_bytes();
            }
            let own = member.verifying_key().fingerprint();
            let offer = OneTimeKeyOffer {
                member: own,
                serial: round.into(),
                public_key,
            };
            Seat {
                member: own,
                one_time_key: Signed::sign(offer, member).envelope().clone(),
            }
        });
        Ok(Plan {
            committee: None,
            federation: NAME.into(),
            manifest: self.kit.manifest.digest(ciphertune_round::label::MANIFEST),
            job: job.digest(),
            round,
            attempt: 1,
            model,
            revocation_number: list.number(),
            revocations: list.digest(),
            policy: Digest::from_bytes(self.policy.digest()),
            policies: vec![self.kit.policy.clone()],
            seats: seats.collect(),
            threshold: terms.threshold,
            min_contributors: terms.min_contributors,
            colluders: terms.colluders,
            parameters: parameters.name(),
            dimension: job.dimension,
            value_bound: job.value_bound,
            nonce: *Digest::sha256(&round.to_be_bytes()).as_bytes(),
        })
    }

    fn round(
        &self,
        writer: &mut Writer,
        job: &Signed<Job>,
        round: u32,
        model: Digest,
    ) -> Result<Digest> {
        let plan = Signed::sign(self.plan(job, round, model)?, &self.server);
        let context: Context = plan.context();
        let at = json!(context.to_string());
        let fields = [
            ("job", json!(plan.job.to_string())),
            ("context", at.clone()),
            ("round", json!(round)),
            ("attempt", json!(1)),
        ];
        writer.note("plan", fields, &[&plan.encode()])?;
        let sender = |member: &SigningKey| json!(member.verifying_key().fingerprint().to_string());
        let mut headers = Vec::new();
        for member in &self.members {
            let body = Digest::sha256(
                &[plan.nonce.as_slice(), member.verifying_key().as_bytes()].concat(),
            );
            let header = Header {
                context,
                body,
                shares: vec![body; self.members.len()],
            };
            let header = Signed::sign(header, member);
            let digest = json!(header.digest().to_string());
            let fields = [
                ("context", at.clone()),
                ("member", sender(member)),
                ("header", digest),
            ];
            writer.note("contribution", fields, &[&header.encode()])?;
            let fields = [
                ("context", at.clone()),
                ("member", sender(member)),
                ("body", json!(body.to_string())),
            ];
            writer.note("body", fields, &[])?;
            headers.push(header.envelope().clone());
        }
        let sum = Digest::sha256(&plan.nonce);
        let roster = Signed::sign(
            Roster {
                context,
                headers,
                sum,
            },
            &self.server,
        );
        let named = roster.digest();
        let fields = [
            ("context", at.clone()),
            ("roster", json!(named.to_string())),
        ];
        writer.note("roster", fields, &[&roster.encode()])?;
        for member in &self.members {
            let echo = Signed::sign(
                Echo {
                    context,
                    roster: named,
                },
                member,
            );
            let fields = [
                ("context", at.clone()),
                ("member", sender(member)),
                ("roster", json!(named.to_string())),
            ];
            writer.note("echo", fields, &[&echo.encode()])?;
        }
        for member in &self.members {
            let release = Release {
                context,
                roster: named,
                shares: vec![sum; self.members.len()],
                check: Some([1, 2]),
                ledger_head: Digest::from_bytes([0; 32]),
            };
            let release = Signed::sign(release, member);
            let fields = [
                ("context", at.clone()),
                ("member", sender(member)),
                ("release", json!(release.digest().to_string())),
                ("roster", json!(named.to_string())),
            ];
            writer.note("release", fields, &[&release.encode()])?;
        }
        let agreed = Digest::sha256(named.as_bytes());
        let shown = writer.signed(self)?.into_bytes();
        for member in &self.members {
            let agreement = Agreement {
                context,
                model: agreed,
                log_head: Digest::sha256(&round.to_be_bytes()),
                log_size: round.into(),
                server_checkpoint: shown.clone(),
            };
            let agreement = Signed::sign(agreement, member);
            let fields = [
                ("context", at.clone()),
                ("member", sender(member)),
                ("model", json!(agreed.to_string())),
            ];
            writer.note("agreement", fields, &[&agreement.encode()])?;
        }
        let fields = [
            ("job", json!(plan.job.to_string())),
            ("round", json!(round)),
            ("model", json!(agreed.to_string())),
        ];
        writer.note("complete", fields, &[])?;
        writer.checkpoint(self)?;
        Ok(agreed)
    }
}

/// A log that is being written.
struct Writer {
    log: Log,
    evidence: Evidence,
    now: SystemTime,
}

impl Writer {
    fn start(folder: &Path, scene: &Scene) -> Result<Self> {
        let path: PathBuf = folder.join("audit.jsonl");
        let evidence = Evidence::beside(&path);
        fs::create_dir_all(evidence.folder()).map_err(|error| Error::fault("a folder", error))?;
        let mut writer = Self {
            log: Log::open(&path).map_err(fault)?,
            evidence,
            now: SystemTime::now(),
        };
        let credentials = &scene.kit.credentials;
        let peer = credentials.certificate().peer();
        let manifest = &scene.kit.manifest;
        let digest = manifest
            .digest(ciphertune_round::label::MANIFEST)
            .to_string();
        let fields = [
            ("role", json!(peer.role.to_string())),
            ("name", json!(peer.name.to_string())),
            ("federation", json!(NAME)),
            ("party", json!(peer.fingerprint.to_string())),
            ("manifest", json!(digest)),
        ];
        let authority = credentials.authority().pem().as_bytes();
        writer.note("started", fields, &[authority, &manifest.encode()])?;
        let certificate = credentials.certificate();
        let fields = [("serial", json!(peer.serial.to_string()))];
        writer.note("certificate", fields, &[certificate.pem().as_bytes()])?;
        let list = credentials.revocations();
        let fields = [
            ("number", json!(list.number())),
            ("digest", json!(list.digest().to_string())),
        ];
        writer.note("revocation-list", fields, &[list.pem().as_bytes()])?;
        let policy = &scene.kit.policy;
        let digest = policy.digest(ciphertune_round::label::POLICY).to_string();
        writer.note(
            "policy",
            [("policies", json!([digest]))],
            &[&policy.encode()],
        )?;
        for certificate in &scene.certificates {
            let peer = certificate.peer();
            let fields = [
                ("party", json!(peer.fingerprint.to_string())),
                ("role", json!(peer.role.to_string())),
                ("name", json!(peer.name.to_string())),
                ("serial", json!(peer.serial.to_string())),
            ];
            writer.note("met", fields, &[certificate.der()])?;
        }
        Ok(writer)
    }

    fn note<const K: usize>(
        &mut self,
        kind: &str,
        fields: [(&str, Value); K],
        objects: &[&[u8]],
    ) -> Result<()> {
        let mut fields: Map<String, Value> = BTreeMap::from(fields)
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        let mut names = Vec::new();
        for object in objects {
            let name = Evidence::name_of(object);
            fs::write(self.evidence.place_of(&name), object)
                .map_err(|error| Error::fault("writing an object", error))?;
            names.push(name);
        }
        if !names.is_empty() {
            fields.insert(Evidence::FIELD.into(), names.into());
        }
        self.log
            .append(kind, fields, self.now)
            .map(drop)
            .map_err(fault)
    }

    fn signed(&self, scene: &Scene) -> Result<String> {
        let name = scene.kit.credentials.certificate().peer().log_name();
        let checkpoint = self.log.checkpoint(&name).map_err(fault)?;
        Ok(Note::sign(checkpoint, &scene.server).to_text())
    }

    fn checkpoint(&mut self, scene: &Scene) -> Result<()> {
        let note = self.signed(scene)?;
        self.note("checkpoint", [("note", json!(note))], &[])
    }
}

fn fault(error: ciphertune_audit::Error) -> Error {
    Error::fault("the log", error)
}

impl Measured {
    /// One object.
    pub fn to_json(&self) -> Value {
        json!(self)
    }

    /// For people.
    pub fn to_table(&self) -> String {
        let mut text = format!("{} members, {} cores\n\n", self.members, self.cores);
        for log in &self.logs {
            let memory = log
                .peak_memory
                .map_or("?".into(), |it| format!("{:.1} MB", it as f64 / 1e6));
            let _ = writeln!(
                text,
                "{:<15} {:>8} entries, {:>6} checkpoints, {:>7} objects, {:>6.1} MB   {:>6.2} s   {memory} of memory",
                log.what,
                log.entries,
                log.checkpoints,
                log.objects,
                log.log_bytes as f64 / 1e6,
                log.seconds.median
            );
        }
        text
    }
}
