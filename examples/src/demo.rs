//! A run from its start to its end: prepare, start a process for every party, submit the job as the researcher, follow
//! it, hold every opened sum to the plain one, tell.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use ciphertune_client::{
    desk::Desk,
    inbox::{Inbox, kind},
    member::all_cores,
    report::Happening,
    researcher::Researcher,
    site::Site,
    tuned::{Opened, Tuned},
};
use ciphertune_identity::Role;
use ciphertune_policy::Unit;
use ciphertune_round::{Digest, Ended, Job};
use ciphertune_tune::device::Device;
use ciphertune_wire::{
    Meter,
    proto::{Event, EventKind},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
};

use crate::{
    children::{Child, Heard},
    corpus::Corpus,
    error::{Error, Result},
    options::Options,
    party::LISTENING,
    progress::Progress,
    setup::{Setup, training_of, validation_of, write},
    summary::{self, Backbone, Data, PeakMemory, Summary, Validation},
    table,
    tally::Tally,
};

/// How long parties may take to start.
const START: Duration = Duration::from_secs(180);
/// How long the last members may take once the job has ended.
const LAST: Duration = Duration::from_secs(120);
/// How long a job that lost too many members may go on before the researcher stops it.
const FORLORN: Duration = Duration::from_secs(60);
/// How long a child may take to end once it was asked to.
const FAREWELL: Duration = Duration::from_secs(10);

/// What a run leaves.
pub struct Finished {
    /// Its figures.
    pub summary: Summary,
    /// The job that was run.
    pub job: Job,
    /// The table, and where everything is.
    pub words: String,
}

/// Runs a federation on these records.
///
/// # Errors
/// What is wrong with an option or a file is said before anything is started; Ctrl-C ends every party first.
pub fn run(options: &Options, corpus: Corpus) -> Result<Finished> {
    warn(options);
    let setup = Setup::prepare(options, corpus)?;
    let names: Vec<String> = setup
        .federation
        .members
        .iter()
        .map(|member| member.name.clone())
        .collect();
    let progress = Progress::new(&names, options.json);
    progress.note(&format!(
        "everything of this run is in {}",
        setup.root.display()
    ));
    let runtime =
        tokio::runtime::Runtime::new().map_err(|error| Error::fault("starting", error))?;
    let result = runtime.block_on(async {
        let mut run = Run::start(&setup, &names, &progress)?;
        let followed = tokio::select! {
            followed = run.follow() => followed,
            () = interrupted() => Err(Error::Stopped),
        };
        let server = run.children.last().and_then(Child::peak_memory);
        run.end_all().await;
        progress.finish();
        followed?;
        run.compare(true)?;
        run.summary(options, server)
    });
    progress.finish();
    if setup.plaintext().exists() {
        std::fs::remove_dir_all(setup.plaintext())
            .map_err(|error| Error::fault("removing the plain integers", error))?;
    }
    let summary = result?;
    let words = keep(&summary, &setup, &progress)?;
    Ok(Finished {
        summary,
        job: setup.job,
        words,
    })
}

fn warn(options: &Options) {
    if options.data.is_none() || options.model.is_none() {
        eprintln!(
            "THIS IS A SMOKE RUN: {}. It shows that the path works; its accuracy says nothing.",
            match (&options.data, &options.model) {
                (None, None) =>
                    "embedded headlines, and a small model made from a seed and never trained",
                (None, _) => "embedded headlines",
                _ => "a small model made from a seed and never trained",
            }
        );
    }
    if options.policy.is_none() {
        eprintln!(
            "THIS RUN IS WITHOUT DIFFERENTIAL PRIVACY (policy laboratory-no-privacy): for public data only. \
             Choose another with --policy."
        );
    }
}

/// A run under way.
struct Run<'a> {
    setup: &'a Setup,
    names: &'a [String],
    progress: &'a Progress,
    site: Site,
    /// The members in the manifest's order, then the server.
    children: Vec<Child>,
    hearing: mpsc::UnboundedReceiver<Heard>,
    telling: mpsc::UnboundedSender<Heard>,
    connected: BTreeSet<usize>,
    living: BTreeSet<usize>,
    died: BTreeSet<usize>,
    refused: BTreeSet<usize>,
    server_lives: bool,
    tally: Tally,
    start: Option<Validation>,
    sealing: Option<String>,
    submitted: Option<(Digest, Instant)>,
    ended: Option<(Ended, Duration)>,
}

impl<'a> Run<'a> {
    fn start(setup: &'a Setup, names: &'a [String], progress: &'a Progress) -> Result<Self> {
        let (telling, hearing) = mpsc::unbounded_channel();
        Ok(Self {
            site: setup.federation.researcher.site()?,
            setup,
            names,
            progress,
            children: Vec::new(),
            hearing,
            telling,
            connected: BTreeSet::new(),
            living: BTreeSet::new(),
            died: BTreeSet::new(),
            refused: BTreeSet::new(),
            server_lives: false,
            tally: Tally::default(),
            start: None,
            sealing: None,
            submitted: None,
            ended: None,
        })
    }

    /// Starts the parties, submits the job, follows it to its end.
    async fn follow(&mut self) -> Result<()> {
        self.start_server().await?;
        self.start_members()?;
        let gathered = tokio::time::timeout(START, self.gather()).await;
        gathered.map_err(|_| {
            Error::Fault(format!(
                "a party did not start within {} s",
                START.as_secs()
            ))
        })??;

        let client = self.site.connect(Meter::default()).await?;
        let mut inbox = Inbox::open(&client);
        let mut researcher = Researcher::connect(self.setup.federation.researcher.site()?).await?;
        let job = researcher.submit(self.setup.job.clone()).await?;
        self.submitted = Some((job, Instant::now()));
        self.progress
            .note(&format!("job {} submitted by the researcher", job.short()));

        let mut forlorn: Option<tokio::time::Instant> = None;
        let mut last: Option<tokio::time::Instant> = None;
        while !self.is_over() {
            let deadline = last.or(forlorn);
            tokio::select! {
                heard = self.hearing.recv() => {
                    let heard = heard.ok_or_else(|| Error::Fault("nothing is heard of the parties".into()))?;
                    self.hear(heard)?;
                }
                event = inbox.next(), if self.ended.is_none() => self.event(&event?),
                () = tokio::time::sleep_until(deadline.unwrap_or_else(tokio::time::Instant::now)), if deadline.is_some() => {
                    if last.is_some() {
                        return Ok(()); // the job has ended; who is still busy is ended with the rest
                    }
                    forlorn = None;
                    // The server may have ended it in the same moment; either way its end is on its way.
                    let _ran: bool = researcher.abort(job, "too few members are left").await?;
                    last = Some(tokio::time::Instant::now() + LAST);
                }
            }
            if self.ended.is_some() && last.is_none() {
                last = Some(tokio::time::Instant::now() + LAST);
            }
            let left = self.names.len() - self.died.len();
            let too_few = left < self.setup.job.min_contributors;
            if too_few && self.ended.is_none() && forlorn.is_none() && last.is_none() {
                let patience = FORLORN.min(Duration::from_secs(
                    self.setup.job.deadlines.contribute.as_secs(),
                ));
                self.progress.note(&format!(
                    "{left} of {} members are left, the policy wants {}: the job is stopped in {} s unless it ends before",
                    self.names.len(),
                    self.setup.job.min_contributors,
                    patience.as_secs()
                ));
                forlorn = Some(tokio::time::Instant::now() + patience);
            }
            self.compare(false)?;
        }
        Ok(())
    }

    /// Everybody who can still be waited for is gone.
    fn is_over(&self) -> bool {
        self.ended.is_some()
            && self
                .living
                .iter()
                .all(|member| self.refused.contains(member))
    }

    async fn start_server(&mut self) -> Result<()> {
        let server = &self.setup.federation.server;
        let arguments = vec!["server".into(), "--home".into(), server.home.root().into()];
        let number = self.names.len();
        let child = self.child(number, &server.name, &server.passphrase, arguments, &[])?;
        // The members' places come first; they are filled below.
        self.children.push(child);
        self.server_lives = true;
        let listening = async {
            loop {
                match self.hearing.recv().await {
                    Some(Heard::Said { line, .. }) if line.contains(LISTENING) => return Ok(()),
                    Some(Heard::Gone { how, .. }) => {
                        self.server_lives = false;
                        return Err(Error::Fault(format!("the server did not start: {how}")));
                    }
                    Some(Heard::Said { .. }) => {}
                    None => return Err(Error::Fault("nothing is heard of the server".into())),
                }
            }
        };
        tokio::time::timeout(START, listening).await.map_err(|_| {
            Error::Fault(format!(
                "the server did not start within {} s",
                START.as_secs()
            ))
        })??;
        let endpoint = self.site.manifest().endpoint();
        self.progress
            .note(&format!("the server listens on {endpoint}"));
        Ok(())
    }

    fn start_members(&mut self) -> Result<()> {
        let cores = all_cores().get();
        // Every party has its share of this machine.
        let threads = (cores / self.names.len()).max(1).to_string();
        let environment: Vec<(&str, String)> = match std::env::var_os("RAYON_NUM_THREADS") {
            Some(_) => Vec::new(),
            None => vec![("RAYON_NUM_THREADS", threads.clone())],
        };
        for (number, member) in self.setup.federation.members.iter().enumerate() {
            let mut arguments: Vec<OsString> = vec!["member".into()];
            let mut option = |name: &str, value: OsString| arguments.extend([name.into(), value]);
            option("--home", member.home.root().into());
            option("--model", self.setup.model.clone().into());
            option("--training", training_of(member).into());
            option("--dataset", format!("{}-records", member.name).into());
            option("--threads", threads.clone().into());
            option(
                "--measure-every",
                self.setup.measure_every.to_string().into(),
            );
            option("--dangerous-plaintext", self.setup.plaintext().into());
            if number == 0 {
                option("--validation", validation_of(member).into());
            }
            let child = self.child(
                number,
                &member.name,
                &member.passphrase,
                arguments,
                &environment,
            )?;
            let last = self.children.len() - 1;
            self.children.insert(last, child);
            self.living.insert(number);
        }
        Ok(())
    }

    fn child(
        &self,
        number: usize,
        name: &str,
        passphrase: &Path,
        arguments: Vec<OsString>,
        environment: &[(&str, String)],
    ) -> Result<Child> {
        Child::start(
            number,
            name,
            passphrase,
            arguments,
            environment,
            self.telling.clone(),
        )
    }

    /// Waits until every member is connected.
    async fn gather(&mut self) -> Result<()> {
        while self.connected.len() < self.names.len() {
            let heard = self.hearing.recv().await;
            let heard =
                heard.ok_or_else(|| Error::Fault("nothing is heard of the parties".into()))?;
            if let Heard::Gone { party, how, .. } = &heard {
                self.living.remove(party);
                let name = self.name(*party);
                return Err(Error::Fault(format!("{name} did not start: {how}")));
            }
            self.hear(heard)?;
        }
        Ok(())
    }

    fn hear(&mut self, heard: Heard) -> Result<()> {
        match heard {
            Heard::Said { party, line } => {
                match serde_json::from_str::<Happening>(&line) {
                    Ok(happening) if party < self.names.len() => self.happened(party, happening),
                    _ => self.progress.note(&format!("{}: {line}", self.name(party))),
                }
                Ok(())
            }
            Heard::Gone { party, how, .. } if party == self.names.len() => {
                self.server_lives = false;
                Err(Error::Fault(format!("the server died: {how}")))
            }
            Heard::Gone { party, well, how } => {
                self.living.remove(&party);
                if !well {
                    self.died.insert(party);
                    let name = self.name(party);
                    self.progress
                        .event(&serde_json::json!({ "event": "died", "party": name, "how": how }));
                    self.progress.note(&format!("{name} is gone: {how}"));
                }
                Ok(())
            }
        }
    }

    fn happened(&mut self, member: usize, happening: Happening) {
        self.progress
            .happening(member, self.name(member), &happening);
        match happening {
            Happening::Connected { .. } => {
                self.connected.insert(member);
            }
            Happening::Considered {
                refusal: Some(_), ..
            } => {
                self.refused.insert(member);
            }
            Happening::Started {
                validation: Some(start),
            } => {
                self.start = Some(Validation {
                    loss: start.loss,
                    accuracy: start.accuracy,
                });
            }
            Happening::Planned { parameters, .. } => self.sealing = Some(parameters),
            Happening::Finished(report) => self.tally.report(member, *report),
            _ => {}
        }
    }

    /// The server's events, verified as any party verifies them.
    fn event(&mut self, event: &Event) {
        match kind(event) {
            EventKind::Plan => self.tally.plan(&self.site, &event.envelope),
            EventKind::Roster => self.tally.roster(&self.site, &event.envelope),
            EventKind::Ended => {
                let ended = self.site.verify_as::<Ended>(&event.envelope, Role::Server);
                if let (Ok(ended), Some((job, since))) = (ended, self.submitted)
                    && ended.job == job
                {
                    self.ended = Some((ended.value().clone(), since.elapsed()));
                }
            }
            _ => {}
        }
    }

    fn compare(&mut self, over: bool) -> Result<()> {
        for round in self
            .tally
            .compare(&self.setup.plaintext(), &self.living, over)?
        {
            let equal = self.tally.equal.get(&round).copied().unwrap_or(false);
            self.progress.compared(round, equal);
        }
        Ok(())
    }

    /// Members first, the server last; who does not end in time is killed.
    async fn end_all(&mut self) {
        let members = self.children.len().saturating_sub(1);
        let (members, server) = self.children.split_at_mut(members);
        members.iter_mut().for_each(Child::end);
        if tokio::time::timeout(
            FAREWELL,
            gone(
                &mut self.hearing,
                &mut self.living,
                &mut self.server_lives,
                false,
            ),
        )
        .await
        .is_err()
        {
            members.iter_mut().for_each(Child::kill);
        }
        server.iter_mut().for_each(Child::end);
        let all = gone(
            &mut self.hearing,
            &mut self.living,
            &mut self.server_lives,
            true,
        );
        if tokio::time::timeout(FAREWELL, all).await.is_err() {
            self.children.iter_mut().for_each(Child::kill);
            let all = gone(
                &mut self.hearing,
                &mut self.living,
                &mut self.server_lives,
                true,
            );
            let _ = tokio::time::timeout(FAREWELL, all).await;
        }
    }

    /// The job's model as the first member keeps it.
    fn model(&self) -> Option<PathBuf> {
        let (first, (job, _)) = (self.setup.federation.members.first()?, self.submitted?);
        Some(Desk::model_in(&first.home.job(&job)))
    }

    fn name(&self, party: usize) -> &str {
        self.names.get(party).map_or("server", String::as_str)
    }

    fn summary(&self, options: &Options, server: Option<u64>) -> Result<Summary> {
        let (ended, seconds) = self
            .ended
            .as_ref()
            .map_or((None, None), |(ended, seconds)| {
                (Some(ended), Some(*seconds))
            });
        let rounds = summary::rounds(&self.tally, self.names);
        let spent = rounds
            .iter()
            .filter_map(|round| round.epsilon)
            .reduce(f64::max);
        let members = rounds.iter().flat_map(|round| round.members.values());
        let corpus = &self.setup.corpus;
        Ok(Summary {
            completed: ended.is_some_and(|ended| ended.completed)
                && rounds.len() == self.setup.job.rounds as usize,
            reason: ended.map_or("the job did not end".into(), |ended| ended.reason.clone()),
            smoke_run: options.data.is_none() || options.model.is_none(),
            job: self
                .submitted
                .map_or(String::new(), |(job, _)| job.to_string()),
            backbone: Backbone {
                folder: self.setup.model.display().to_string(),
                kind: self.setup.kind.clone(),
                digest: self.setup.backbone.to_string(),
            },
            parameters: self.setup.job.dimension,
            data: Data {
                source: corpus.source.clone(),
                labels: corpus.labels.clone(),
                duplicates: corpus.duplicates,
                members: self.names.len(),
                per_member: corpus.members.first().map_or(0, Vec::len),
                validation: corpus.validation.len(),
            },
            majority_class: corpus.majority_class(),
            start: self.start,
            peak_memory: PeakMemory {
                server,
                member: members.map(|report| report.peak_memory).max(),
            },
            privacy: summary::privacy(&self.setup.job, &self.setup.policy, spent),
            rounds,
            sealing: self.sealing.clone(),
            model: self.model(),
            seconds: seconds.unwrap_or_default().as_secs_f64(),
        })
    }
}

/// Waits until the members, and the server if `all`, are gone.
async fn gone(
    hearing: &mut mpsc::UnboundedReceiver<Heard>,
    living: &mut BTreeSet<usize>,
    server_lives: &mut bool,
    all: bool,
) {
    while !living.is_empty() || (all && *server_lives) {
        match hearing.recv().await {
            Some(Heard::Gone { party, .. }) if !living.remove(&party) => *server_lives = false,
            Some(_) => {}
            None => return,
        }
    }
}

/// Ready at Ctrl-C, or when the process is asked to end.
async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Writes what the members agreed on last as a folder to use, from the first member's home.
fn keep_tuned(setup: &Setup) -> Result<()> {
    let Some(member) = setup.federation.members.first() else {
        return Ok(());
    };
    let failed = |error| Error::fault("looking for the job", error);
    let mut jobs = std::fs::read_dir(member.home.jobs()).map_err(failed)?;
    let Some(job) = jobs.next() else {
        return Ok(());
    };
    let opened = Opened::open(&setup.model, &Device::Cpu, Default::default())?;
    let tuned = Tuned::of_job(&job.map_err(failed)?.path(), &opened)?;
    tuned.write(&setup.root.join("tuned"), &opened)?;
    Ok(())
}

/// Writes the figures and the table to the run's folder, and returns what is to be said.
fn keep(summary: &Summary, setup: &Setup, progress: &Progress) -> Result<String> {
    let text = serde_json::to_string_pretty(summary)
        .map_err(|error| Error::fault("writing the summary", error))?;
    write(&setup.root.join("summary.json"), &(text + "\n"))?;
    let table = table::render(summary);
    write(&setup.root.join("table.txt"), &table)?;
    progress.event(&serde_json::json!({ "event": "summary", "summary": summary }));
    let mut said = table;
    if summary.privacy.unit == Unit::None {
        said.push_str("THIS RUN WAS WITHOUT DIFFERENTIAL PRIVACY.\n");
    }
    if summary.smoke_run {
        said.push_str("THIS WAS A SMOKE RUN: its accuracy says nothing.\n");
    }
    if !summary.completed {
        said.push_str(&format!("NOT COMPLETED: {}\n", summary.reason));
    }
    let root = setup.root.display();
    if summary.completed {
        let kept = match keep_tuned(setup) {
            Ok(()) => format!(
                "what was tuned: `ciphertune eval|predict --adapter {root}/tuned --model {}`",
                setup.model.display()
            ),
            Err(error) => format!("NOT WRITTEN: {error}"),
        };
        said.push_str(&format!("\n{root}/tuned/                 {kept}"));
    }
    said.push_str(&format!(
        "\n{root}/summary.json           every figure\n\
         {root}/policy.toml            the policy in force (signed: parties/*/policy/)\n\
         {root}/parties/NAME/          each party's keys, ledger, models and audit log (audit.jsonl)\n"
    ));
    Ok(said)
}
