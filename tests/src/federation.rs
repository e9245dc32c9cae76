//! A whole federation on this machine, by the functions that production calls: an authority, a server, an officer, a
//! researcher and members, each with a home in a temporary folder; sockets and TLS are real.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    num::NonZeroU32,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use ciphertune_client::{
    disk::Disk,
    draft::Draft,
    member::{self, Options, Outcome, all_cores},
    model::Model,
    report::{Happening, RoundReport},
    researcher::Researcher,
    site::Site,
    tuning::Tuning,
};
use ciphertune_identity::{
    Authority, Credentials, Endpoint, Kit, Manifest, Reason, Revocation, RevocationList, Role,
    watch::Watched,
};
use ciphertune_ledger::{Book, Entry, Standing};
use ciphertune_policy::{Metric, Policy};
use ciphertune_round::{Digest, Envelope, Fingerprint, Job, PolicyDocument, Signed};
use ciphertune_tune::{spec::TrainingSpec, task::Route};
use ciphertune_wire::proto::JobState;
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    front::{Front, Lies, Papers, stand_before},
    keys::{self, Holder, passphrase},
    learner::{Vectors, backbone, start},
    lives::Lives,
    network::{Link, Network},
    tap::Tap,
};

/// The federation's name.
pub const NAME: &str = "test";
/// The dataset of every member.
pub const DATASET: &str = "vectors";
/// Longer than anything here takes; a wait that ends with it fails the test.
const LONG: Duration = Duration::from_secs(120);

/// A policy without differential privacy: C = 3, at least three contributors.
pub const LABORATORY: &str = r#"
schema = 1
name = "laboratory"
[privacy]
unit = "none"
clip_norm = "3"
rounds = 10
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

/// A policy at the level of institutions: C = 3, at least two contributors.
pub const INSTITUTION: &str = r#"
schema = 1
name = "institution"
[privacy]
unit = "institution"
adjacency = "zero-out"
epsilon = "8"
delta = "1e-5"
clip_norm = "3"
placement = "distributed"
rounds = 10
[budget]
epsilon = "16"
delta = "2e-5"
[aggregation]
min_contributors = 2
colluders = 0
[model]
backbones = ["any"]
encoders = ["embedding"]
tasks = ["classification"]
[releases]
metrics = []
"#;

/// A policy that hides single records: C = 3, at least two contributors.
pub const RECORD: &str = r#"
schema = 1
name = "record"
[privacy]
unit = "record"
adjacency = "zero-out"
epsilon = "8"
delta = "1e-5"
clip_norm = "3"
placement = "distributed"
rounds = 10
[budget]
epsilon = "16"
delta = "2e-5"
[aggregation]
min_contributors = 2
colluders = 0
[model]
backbones = ["any"]
encoders = ["embedding"]
tasks = ["classification"]
[releases]
metrics = []
"#;

/// What a job at record level says of its batches.
#[derive(Clone, Copy, Debug)]
pub struct Batches {
    /// q.
    pub sampling_rate: &'static str,
    /// What the sum is divided by.
    pub nominal_batch: u32,
    /// The most records of a member.
    pub max_examples: u32,
}

/// What is wished for: a job without what follows from the policy.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Members that the job waits for.
    pub members: usize,
    /// d.
    pub dimension: usize,
    /// Rounds.
    pub rounds: u32,
    /// Attempts at each.
    pub max_attempts: u32,
    /// k, where the policy allows a committee.
    pub committee: Option<usize>,
    /// Bits for one integer.
    pub value_bits: u32,
    /// At record level.
    pub batches: Option<Batches>,
    /// Released with each round, likewise.
    pub metrics: Vec<Metric>,
    /// Seconds for contributing, for opening, for agreeing.
    pub seconds: [u64; 3],
}

impl Wish {
    /// One round of a vector of `dimension`.
    pub fn of(members: usize, dimension: usize) -> Self {
        Self {
            members,
            dimension,
            rounds: 1,
            max_attempts: 1,
            committee: None,
            value_bits: 12,
            batches: None,
            metrics: Vec::new(),
            seconds: [60, 60, 60],
        }
    }

    /// At record level: q = ¼ of up to 40 records, a nominal batch of 20.
    pub fn of_batches(members: usize, dimension: usize) -> Self {
        Self {
            batches: Some(Batches {
                sampling_rate: "0.25",
                nominal_batch: 20,
                max_examples: 40,
            }),
            ..Self::of(members, dimension)
        }
    }

    /// The job that a policy makes of it.
    ///
    /// # Errors
    /// As [`Draft::job`].
    pub fn job(&self, policy: &str) -> ciphertune_client::Result<Job> {
        let draft = Draft {
            name: "plain vectors".into(),
            rounds: self.rounds,
            max_attempts: self.max_attempts,
            members: self.members,
            committee: self.committee,
            value_bits: self.value_bits,
            sampling_rate: self.batches.map(|it| it.sampling_rate.parse().unwrap()),
            nominal_batch: self.batches.map(|it| it.nominal_batch),
            max_examples: self.batches.map(|it| it.max_examples),
            metrics: self.metrics.iter().copied().collect(),
            contribute_seconds: self.seconds[0],
            open_seconds: self.seconds[1],
            agree_seconds: self.seconds[2],
            tuning: Tuning {
                template: "{sentence}".into(),
                labels: vec!["yes".into(), "no".into()],
                route: Route::Classifier,
                tokenizer: None,
                training: TrainingSpec::default(),
            },
        };
        let policy = Policy::parse(policy)?;
        let start = start(self.dimension, draft.in_batches(&policy));
        draft.job(NAME, &policy, backbone(), &start)
    }
}

/// A federation that was founded.
pub struct Federation {
    folder: TempDir,
    authority: Authority,
    /// What the server runs with; what is sent here, it takes.
    credentials: watch::Sender<Credentials>,
    server: Holder,
    officer: Holder,
    researcher: Holder,
    members: Vec<Holder>,
    manifest: Envelope,
    policy: Envelope,
    policy_text: String,
    public: Option<TcpListener>,
}

impl Federation {
    /// With `members` members, all under one policy.
    pub async fn found(members: usize, policy: &str) -> Self {
        Self::found_with(policy, &vec![None; members]).await
    }

    /// With a member for each of `sites`: the policy of its own, if it has one.
    pub async fn found_with(policy: &str, sites: &[Option<&str>]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = keys::authority(NAME);
        let holder = |name: &str, role| Holder::new(&authority, folder.path(), name, role);
        let server = holder("server", Role::Server);
        let officer = holder("officer", Role::Officer);
        let researcher = holder("researcher", Role::Researcher);
        let members: Vec<Holder> = (1..=sites.len())
            .map(|place| holder(&format!("hospital-{place}"), Role::Member))
            .collect();
        let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Endpoint = public.local_addr().unwrap().to_string().parse().unwrap();
        let parties = [&server, &officer, &researcher]
            .into_iter()
            .chain(&members)
            .map(|holder| holder.party.clone())
            .collect();
        let manifest = Manifest::new(
            authority.federation().clone(),
            1,
            SystemTime::now(),
            parties,
            address.clone(),
        )
        .unwrap();
        let manifest = authority
            .sign_manifest(manifest)
            .unwrap()
            .envelope()
            .clone();
        let sign = |toml: &str| {
            let document = PolicyDocument {
                federation: NAME.into(),
                toml: toml.into(),
            };
            Signed::sign(document, &officer.key()).envelope().clone()
        };
        let revocations = keys::empty_list(&authority, 1);
        let policy_envelope = sign(policy);
        let own: Vec<Option<Envelope>> = sites.iter().map(|site| site.map(sign)).collect();
        for (holder, own) in [(&researcher, None)]
            .into_iter()
            .chain(members.iter().zip(own.iter().map(Option::as_ref)))
        {
            let kit = Kit {
                credentials: holder.credentials(&authority, &revocations),
                manifest: manifest.clone(),
                policy: policy_envelope.clone(),
                address: address.clone(),
            };
            if let Err(error) = Site::install(&holder.home, &passphrase(), &kit, own) {
                // A site's policy that this version does not read is in a home where another version put it.
                assert!(own.is_some(), "{error}");
                Site::install(&holder.home, &passphrase(), &kit, None).unwrap();
                let place = holder.home.policy().join("site.policy");
                fs::write(place, own.unwrap().encode()).unwrap();
            }
        }
        Self {
            credentials: watch::channel(server.credentials(&authority, &revocations)).0,
            authority,
            server,
            officer,
            researcher,
            members,
            manifest,
            policy: policy_envelope,
            policy_text: policy.to_owned(),
            public: Some(public),
            folder,
        }
    }

    /// Starts the server.
    pub fn serve(&mut self) -> Server {
        let listener = self.public.take().expect("served once");
        self.serve_on(listener)
    }

    /// Starts the server again, where it was.
    pub async fn serve_again(&self) -> Server {
        let listener = TcpListener::bind(self.address()).await.unwrap();
        self.serve_on(listener)
    }

    /// Starts the server where nobody looks for it, and a front with its certificate where everybody does.
    pub async fn serve_behind(&mut self, lies: Lies) -> (Server, Front) {
        let (server, address, public) = self.serve_hidden().await;
        (server, stand_before(address, public, self.papers(), lies))
    }

    /// Readies a server that is to be a process, behind a front with its certificate. `program` is where `server` of this
    /// package's programs stands.
    pub fn serve_in_lives(&mut self, program: &str, lies: Lies) -> (Lives, Front) {
        let public = self.public.take().expect("served once");
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let kit = self.folder.path().join("server-kit");
        let lives = Lives {
            program: program.into(),
            key: self.server.home.key(),
            data: self.data(),
            socket,
            kit: kit.clone(),
        };
        let endpoint = self.site(0).manifest().endpoint().clone();
        Kit {
            credentials: self.credentials_of(&self.server),
            manifest: self.manifest.clone(),
            policy: self.policy.clone(),
            address: endpoint,
        }
        .write(&kit)
        .unwrap();
        (lives, stand_before(address, public, self.papers(), lies))
    }

    /// Starts the server on a disk that is watched.
    pub fn serve_watched(&mut self, disk: Watched) -> Server {
        let listener = self.public.take().expect("served once");
        self.serve_with(listener, Arc::new(SystemTime::now), disk)
    }

    /// Starts the server behind a tap.
    pub async fn serve_tapped(&mut self) -> (Server, Tap) {
        let (server, address, public) = self.serve_hidden().await;
        (server, Tap::open(address, public, self.papers()))
    }

    /// Starts the server behind a network.
    pub async fn serve_over(&mut self, usual: Link, seed: u64) -> (Server, Network) {
        let (server, address, public) = self.serve_hidden().await;
        (server, Network::open(address, public, usual, seed))
    }

    /// The server where nobody looks for it, its address, and the listener where everybody does.
    async fn serve_hidden(&mut self) -> (Server, String, TcpListener) {
        let public = self.public.take().expect("served once");
        let hidden = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = hidden.local_addr().unwrap().to_string();
        (self.serve_on(hidden), address, public)
    }

    /// Every party's certificate and key.
    fn papers(&self) -> Papers {
        let parties: BTreeMap<Fingerprint, _> = self
            .members
            .iter()
            .chain([&self.officer, &self.researcher])
            .map(|holder| {
                let papers = (self.credentials_of(holder), holder.key());
                (holder.party.fingerprint(), papers)
            })
            .collect();
        Papers {
            server: (self.credentials_of(&self.server), self.server.key()),
            parties,
        }
    }

    /// Starts the server with a clock that is behind by so much.
    pub fn serve_behind_by(&mut self, late: Duration) -> Server {
        let listener = self.public.take().expect("served once");
        let clock = Arc::new(move || SystemTime::now() - late);
        self.serve_with(listener, clock, Watched::default())
    }

    fn serve_on(&self, listener: TcpListener) -> Server {
        self.serve_with(listener, Arc::new(SystemTime::now), Watched::default())
    }

    fn serve_with(
        &self,
        listener: TcpListener,
        clock: ciphertune_server::Clock,
        disk: Watched,
    ) -> Server {
        let data = self.data();
        let config = ciphertune_server::Config {
            credentials: self.credentials.subscribe(),
            key: self.server.key(),
            manifest: self.manifest.clone(),
            policy: self.policy.clone(),
            data: data.clone(),
            outside: None,
            keep_free: 0,
            disk,
            clock,
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(ciphertune_server::run(listener, config, async {
            let _ = stopped.await;
        }));
        Server { data, stop, task }
    }

    /// Another policy, as the officer signs it.
    pub fn sign_policy(&self, toml: &str) -> Envelope {
        let document = PolicyDocument {
            federation: NAME.into(),
            toml: toml.into(),
        };
        Signed::sign(document, &self.officer.key())
            .envelope()
            .clone()
    }

    /// A member's kit, with this federation policy.
    pub fn kit(&self, member: usize, policy: Envelope) -> Kit {
        Kit {
            credentials: self.credentials_of(&self.members[member]),
            manifest: self.manifest.clone(),
            policy,
            address: self.site(member).manifest().endpoint().clone(),
        }
    }

    /// A party's certificate with the list that the server has.
    pub fn credentials_of(&self, holder: &Holder) -> Credentials {
        let list = self.credentials.borrow().revocations().clone();
        holder.credentials(&self.authority, &list)
    }

    /// Issues the next list, which names these members too, and hands it to the running server.
    pub fn revoke(&self, members: &[usize]) -> RevocationList {
        let held = self.credentials.borrow().revocations().clone();
        let mut revoked = held.revoked().clone();
        let at = held.validity().not_before();
        let reason = Reason::KeyCompromise;
        let serial = |&member: &usize| self.members[member].certificate.peer().serial.clone();
        revoked.extend((members.iter().map(serial)).map(|it| (it, Revocation { at, reason })));
        let list = self
            .authority
            .revoke(&revoked, held.number() + 1, keys::validity(90))
            .unwrap();
        self.hand_over(&list);
        list
    }

    /// Hands a list to the running server.
    pub fn hand_over(&self, list: &RevocationList) {
        let credentials = self.server.credentials(&self.authority, list);
        self.credentials.send_replace(credentials);
    }

    /// The server's folder.
    pub fn data(&self) -> PathBuf {
        self.folder.path().join("server-data")
    }

    /// The researcher's key, for lies in its name.
    pub fn researcher_key(&self) -> ciphertune_identity::SigningKey {
        self.researcher.key()
    }

    /// The researcher at home.
    pub fn researchers_site(&self) -> Site {
        Site::open(self.researcher.home.clone(), &passphrase()).unwrap()
    }

    /// A copy of a member's ledger.
    pub async fn copy_of_ledger(&self, member: usize) -> TempDir {
        copy_of_ledger(&self.members[member].home.ledger()).await
    }

    /// The server's key, for lies in its name.
    pub fn server_key(&self) -> ciphertune_identity::SigningKey {
        self.server.key()
    }

    /// Who a member is.
    pub fn fingerprint(&self, member: usize) -> Fingerprint {
        self.members[member].party.fingerprint()
    }

    /// A member and its home.
    pub fn member(&self, member: usize) -> &Holder {
        &self.members[member]
    }

    /// The authority.
    pub fn authority(&self) -> &Authority {
        &self.authority
    }

    /// Where the manifest says that the server is.
    pub fn address(&self) -> String {
        self.site(0).manifest().endpoint().to_string()
    }

    /// A member at home.
    pub fn site(&self, member: usize) -> Site {
        Site::open(self.members[member].home.clone(), &passphrase()).unwrap()
    }

    /// What a member's audit log says of one kind, oldest first: the fields of each entry.
    pub fn log(&self, member: usize, kind: &str) -> Vec<serde_json::Value> {
        let lines = fs::read_to_string(self.members[member].home.audit()).unwrap_or_default();
        lines
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .filter(|line| line["kind"] == kind)
            .map(|mut line| line["fields"].take())
            .collect()
    }

    /// Why a member refused or left something, in the words of its audit log.
    pub fn refused(&self, member: usize) -> Vec<String> {
        self.log(member, "refused")
            .iter()
            .map(|fields| fields["reason"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The serial numbers of the one-time keys that a member holds, and of those that were bound to a context.
    pub fn one_time_keys(&self, member: usize) -> (BTreeSet<u64>, BTreeSet<u64>) {
        let folder = self.members[member].home.root().join("one-time-keys");
        let (mut held, mut bound) = (BTreeSet::new(), BTreeSet::new());
        for entry in fs::read_dir(folder).unwrap() {
            let path = PathBuf::from(entry.unwrap().file_name());
            let serial = || path.file_stem().unwrap().to_str().unwrap().parse().unwrap();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("key") => drop(held.insert(serial())),
                Some("context") => drop(bound.insert(serial())),
                _ => {}
            }
        }
        (held, bound)
    }

    /// A folder for what `dangerous_plaintext` writes.
    pub fn plaintext_folder(&self) -> PathBuf {
        let folder = self.folder.path().join("plaintext");
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    /// Starts a member.
    pub fn join(&self, learner: Vectors) -> Member {
        self.join_with(learner, |options| options)
    }

    /// Starts a member with other options.
    pub fn join_with(&self, learner: Vectors, with: impl FnOnce(Options) -> Options) -> Member {
        self.join_on(Disk::default(), learner, with)
    }

    /// Starts a member whose disk is watched.
    pub fn join_on(
        &self,
        disk: Disk,
        learner: Vectors,
        with: impl FnOnce(Options) -> Options,
    ) -> Member {
        let site = self.site(learner.member).on(disk);
        let happenings = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&happenings);
        let options = with(Options {
            dataset: DATASET.into(),
            one_job: true,
            threads: all_cores(),
            measure_every: NonZeroU32::MIN,
            dangerous_plaintext: None,
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let observer = Box::new(move |happening: &Happening| {
            heard.lock().unwrap().push(happening.clone());
        });
        let task = tokio::spawn(async move {
            member::run(site, Box::new(learner), options, observer, async {
                let _ = stopped.await;
            })
            .await
        });
        Member {
            happenings,
            stop: Some(stop),
            task,
        }
    }

    /// Connects as the researcher.
    pub async fn researcher(&self) -> Researcher {
        Researcher::connect(self.researchers_site()).await.unwrap()
    }

    /// Submits a job, whatever the federation's policy says of it.
    pub async fn submit_job(&self, job: Job) -> (Researcher, Digest) {
        let mut researcher = self.researcher().await;
        let digest = researcher.submit(job).await.unwrap();
        (researcher, digest)
    }

    /// Submits what the federation's policy makes of a wish.
    pub async fn submit(&self, wish: &Wish) -> (Researcher, Digest) {
        let job = wish.job(&self.policy_text).unwrap();
        self.submit_job(job).await
    }

    /// What a member keeps of a job.
    pub fn home_of(&self, member: usize, job: &Digest) -> PathBuf {
        self.members[member].home.job(job)
    }

    /// A member's copy of the model, if it has written one.
    pub fn model(&self, member: usize, job: &Digest) -> Option<Model> {
        let path = self.members[member].home.job(job).join("model.safetensors");
        Model::read(&path).unwrap()
    }

    /// Where a member's dataset stands; `None` while its ledger does not exist.
    pub async fn standing(&self, member: usize) -> Option<Standing> {
        Some(self.book(member).await?.standing(DATASET).unwrap())
    }

    /// What stands in a member's ledger, oldest first.
    pub async fn history(&self, member: usize) -> Vec<Entry> {
        let book = self.book(member).await.expect("a ledger");
        book.entries(DATASET).cloned().collect()
    }

    async fn book(&self, member: usize) -> Option<Book> {
        let path = self.members[member].home.ledger();
        if !path.exists() {
            return None;
        }
        let copy = copy_of_ledger(&path).await;
        Some(
            Book::read(copy.path().join("ledger.sqlite"), &[])
                .await
                .unwrap(),
        )
    }
}

/// A copy to look into. The process of a member that has just stopped may
/// still be closing it, so it is copied until nothing has changed meanwhile.
async fn copy_of_ledger(path: &Path) -> TempDir {
    let parts = ["", "-wal"].map(|suffix| PathBuf::from(format!("{}{suffix}", path.display())));
    let state = || {
        parts.each_ref().map(|part| {
            let metadata = fs::metadata(part).ok()?;
            Some((metadata.len(), metadata.modified().unwrap()))
        })
    };
    let mut whole = None;
    until(|| {
        let (before, copy) = (state(), tempfile::tempdir().unwrap());
        for part in &parts {
            // One that has gone is seen below.
            let _ = fs::copy(part, copy.path().join(part.file_name().unwrap()));
        }
        if state() == before {
            whole = Some(copy);
        }
        whole.is_some()
    })
    .await;
    whole.expect("a copy")
}

/// A server that runs.
pub struct Server {
    data: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<ciphertune_server::Result<()>>,
}

impl Server {
    /// Its audit log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.data.join("audit.jsonl")).unwrap()
    }

    /// Waits until it writes its log.
    pub async fn started(&self) {
        let log = self.data.join("audit.jsonl");
        until(|| log.exists()).await;
    }

    /// A file below `contexts/`, by the end of its name, once it is there.
    pub async fn file(&self, name: &str) -> PathBuf {
        let mut found = None;
        until(|| {
            found = self.holds().into_iter().find(|held| held.ends_with(name));
            found.is_some()
        })
        .await;
        PathBuf::from(found.unwrap_or_default())
    }

    /// What it holds of bodies, shares and sums: file names below `contexts/`.
    pub fn holds(&self) -> Vec<String> {
        let mut names = Vec::new();
        let mut folders = vec![self.data.join("contexts")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                if entry.file_type().unwrap().is_dir() {
                    folders.push(entry.path());
                } else {
                    names.push(entry.path().display().to_string());
                }
            }
        }
        names
    }

    /// Stops it; it must end without an error.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        within(self.task).await.unwrap().unwrap();
    }
}

/// A member that runs.
pub struct Member {
    happenings: Arc<Mutex<Vec<Happening>>>,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<ciphertune_client::Result<Outcome>>,
}

impl Member {
    /// What happened so far.
    pub fn happenings(&self) -> Vec<Happening> {
        self.happenings.lock().unwrap().clone()
    }

    /// Why attempts or plans were left.
    pub fn voided(&self) -> Vec<String> {
        self.happenings()
            .into_iter()
            .filter_map(|happening| match happening {
                Happening::Voided { reason } => Some(reason),
                _ => None,
            })
            .collect()
    }

    /// Why jobs were refused.
    pub fn refusals(&self) -> Vec<String> {
        self.happenings()
            .into_iter()
            .filter_map(|happening| match happening {
                Happening::Considered { refusal, .. } => refusal,
                _ => None,
            })
            .collect()
    }

    /// What was warned of, for this member's eyes.
    pub fn warnings(&self) -> Vec<String> {
        self.happenings()
            .into_iter()
            .filter_map(|happening| match happening {
                Happening::Warning { said } => Some(said),
                _ => None,
            })
            .collect()
    }

    /// Finished rounds.
    pub fn reports(&self) -> Vec<RoundReport> {
        self.happenings()
            .into_iter()
            .filter_map(|happening| match happening {
                Happening::Finished(report) => Some(*report),
                _ => None,
            })
            .collect()
    }

    /// Waits for something to have happened.
    pub async fn waits_for(&self, what: impl Fn(&Happening) -> bool) {
        until(|| self.happenings.lock().unwrap().iter().any(&what)).await;
    }

    /// Waits for its end.
    pub async fn end(&mut self) -> ciphertune_client::Result<Outcome> {
        within(&mut self.task).await.unwrap()
    }

    /// Stops it if it still runs.
    pub async fn stop(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let _ = self.end().await;
    }

    /// Stops it in the middle of whatever it does.
    pub async fn drop_out(&mut self) {
        let _ = self.stop.take().map(|stop| stop.send(()));
        let ended = within(&mut self.task).await.unwrap();
        assert!(
            matches!(ended, Err(ciphertune_client::Error::Stopped)),
            "{ended:?}"
        );
    }
}

/// Waits for a condition.
pub async fn until(mut holds: impl FnMut() -> bool) {
    within(async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

/// Waits for a job to stand as `holds` says.
pub async fn until_job(
    researcher: &mut Researcher,
    job: Digest,
    holds: impl Fn(&JobState) -> bool,
) -> JobState {
    within(async {
        loop {
            let jobs = researcher.status(Some(job)).await.unwrap();
            let state = jobs.into_iter().next().expect("the job");
            if holds(&state) {
                return state;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Waits until the server has a member's whole contribution to the attempt that runs: what the member sent may still be
/// on its way, and is lost if the member drops out then.
pub async fn until_contributed(researcher: &mut Researcher, job: Digest, member: usize) {
    let name = format!("hospital-{}", member + 1);
    until_job(researcher, job, |state| {
        let mut members = state.members.iter();
        members.any(|member| member.name == name && member.progress == "done")
    })
    .await;
}

/// Whether a job is over.
pub fn is_over(state: &JobState) -> bool {
    matches!(state.phase.as_str(), "completed" | "ended")
}

/// Awaits what must not take for ever.
pub async fn within<T>(what: impl Future<Output = T>) -> T {
    timeout(LONG, what).await.expect("in time")
}

/// A policy with one line changed.
pub fn changed(policy: &str, from: &str, to: &str) -> String {
    assert!(policy.contains(from), "{from:?} is not in the policy");
    policy.replacen(from, to, 1)
}
