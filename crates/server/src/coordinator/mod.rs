//! Between the pure machines and the world: one step at a time, durable before it is announced.
//!
//! [`steps`] takes inputs and carries out effects, [`conduct`] wakes jobs, [`restart`] takes up what an earlier run left,
//! [`room`] pauses for want of disk, [`revocations`] follows the authority's list, [`notes`] writes the audit log, [`look`] only reads.

mod conduct;
mod look;
mod notes;
mod restart;
mod revocations;
mod room;
mod steps;

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};

use ciphertune_identity::{SigningKey, watch::Watched};
use ciphertune_round::{Context, Digest, Envelope, label::Label};
use tokio::sync::{Mutex, Notify, watch};

use crate::{
    config::Clock,
    diary::Diary,
    error::{Result, fault},
    events::Events,
    federation::Federation,
    gate::Gate,
    moment::Moment,
    outside::History,
    phase::Machine,
    presence::Presence,
    storage::{Bulk, Database},
};
use room::Held;

/// All jobs of a server.
pub struct Coordinator {
    federation: Arc<Federation>,
    gate: Arc<Gate>,
    key: Arc<SigningKey>,
    clock: Clock,
    database: Database,
    bulk: Bulk,
    log: PathBuf,
    history: Arc<History>,
    /// Held over a whole step: steps come one after the other.
    jobs: Mutex<Jobs>,
    presence: Arc<Presence>,
    events: Events,
    diary: std::sync::Mutex<Diary>,
    /// Held by whoever moves entries to the log.
    writing: Mutex<()>,
    /// Contexts that are over, and still have files.
    over: Mutex<Vec<Context>>,
    /// Contexts whose bodies are being added.
    adding: std::sync::Mutex<HashSet<Context>>,
    /// The last event that a step made durable.
    committed: watch::Sender<u64>,
    /// The last event that members hear of: the log knows why it was.
    announced: watch::Sender<u64>,
    poke: Arc<Notify>,
    closing: watch::Sender<bool>,
    /// Why nothing is taken for the moment.
    paused: watch::Sender<Option<String>>,
}

struct Jobs {
    running: HashMap<Digest, Machine>,
    /// Jobs that wait for disk.
    held: HashMap<Digest, Held>,
    /// Refusals that this run has noted.
    refusals: usize,
}

impl Coordinator {
    /// Takes up what is stored under `data`.
    pub async fn open(
        federation: Federation,
        gate: Arc<Gate>,
        key: Arc<SigningKey>,
        clock: Clock,
        data: &Path,
        disk: Watched,
        keep_free: u64,
    ) -> Result<Arc<Self>> {
        std::fs::create_dir_all(data).map_err(|error| fault("creating the data folder", error))?;
        let log = data.join("audit.jsonl");
        let diary = Diary::open(&log, disk.clone())?;
        let database = Database::open(&data.join("server.sqlite"), disk.clone()).await?;
        database.number_behind(diary.last()).await?;
        let members = federation.members().len();
        let bulk = Bulk::in_folder(data.join("contexts"), disk, keep_free, members)?;
        let poke = Arc::new(Notify::new());
        let coordinator = Self {
            history: diary.history(),
            diary: std::sync::Mutex::new(diary),
            committed: watch::channel(database.last_event().await?).0,
            announced: watch::channel(0).0,
            writing: Mutex::default(),
            over: Mutex::default(),
            adding: std::sync::Mutex::default(),
            jobs: Mutex::new(Jobs {
                running: HashMap::new(),
                held: HashMap::new(),
                refusals: 0,
            }),
            presence: Presence::new(Arc::clone(&poke)),
            events: Events::default(),
            federation: Arc::new(federation),
            gate,
            key,
            clock,
            database,
            bulk,
            log,
            poke,
            closing: watch::channel(false).0,
            paused: watch::channel(None).0,
        };
        coordinator.look_at_disk();
        coordinator.note_start()?;
        coordinator.resume().await?;
        Ok(Arc::new(coordinator))
    }

    /// Ends streams and refuses calls from now on.
    pub fn close(&self) {
        self.closing.send_replace(true);
    }

    /// Becomes true when the server closes.
    pub fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }

    /// The last event's number, as it grows.
    pub fn announced(&self) -> watch::Receiver<u64> {
        self.announced.subscribe()
    }

    /// Who has an event stream open.
    pub fn presence(&self) -> &Arc<Presence> {
        &self.presence
    }

    /// Manifest and policy.
    pub fn federation(&self) -> &Federation {
        &self.federation
    }

    /// Bodies, shares, parcels and sums.
    pub fn bulk(&self) -> &Bulk {
        &self.bulk
    }

    /// Where the audit log is.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The database.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// What the audit log adds up to.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// The time, as steps see it.
    pub fn now(&self) -> Moment {
        (self.clock)().into()
    }

    /// Who may call.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    fn diary(&self) -> std::sync::MutexGuard<'_, Diary> {
        self.diary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sign(&self, label: Label, payload: Vec<u8>) -> Vec<u8> {
        Envelope::sign(label, payload, &*self.key).encode()
    }
}
