//! What the server writes into its audit log, and the signed objects that it keeps beside it.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use ciphertune_audit::{Evidence, Log, Note, Reader};
use ciphertune_identity::{
    Credentials, Peer, Validity, file,
    watch::{Does, Step, Watched},
};
use ciphertune_round::{Digest, Fingerprint, Signer};
use serde_json::{Map, Value};

use crate::{
    error::{Result, fault},
    federation::Federation,
    moment::Moment,
    outside::History,
    storage::LogEntry,
};

/// The field of an entry that became durable with a step of a job.
const NUMBER: &str = "number";

const LIST: &str = "revocation-list";

const WRITING: &str = "writing the audit log";

/// Characters of a refusal's reason that are noted.
const REASON: usize = 1_000;

/// The audit log, which whoever has it open locks: two servers never share a folder.
pub struct Diary {
    log: Log,
    evidence: Evidence,
    /// What its entries add up to.
    history: Arc<History>,
    path: PathBuf,
    disk: Watched,
    /// What was last noted to be in force.
    noted: Option<Credentials>,
    /// Number of the last step's entry that is in the log.
    last: u64,
}

impl Diary {
    /// Opens the log, or starts it.
    pub fn open(path: &Path, disk: Watched) -> Result<Self> {
        let log = Log::open(path).map_err(|error| fault("opening the audit log", error))?;
        let last = last_number(path)?;
        let evidence = Evidence::beside(path);
        std::fs::create_dir_all(evidence.folder())
            .and_then(|()| file::sync_entry(evidence.folder()))
            .map_err(|error| fault("creating the folder of the evidence", error))?;
        Ok(Self {
            log,
            evidence,
            history: Arc::new(History::read(path)?),
            path: path.to_owned(),
            disk,
            noted: None,
            last,
        })
    }

    /// Number of the last step's entry that is in the log.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// What the log's entries add up to.
    pub fn history(&self) -> Arc<History> {
        Arc::clone(&self.history)
    }

    fn append(&mut self, kind: &str, fields: Map<String, Value>, now: Moment) -> Result<()> {
        self.append_all(&[(0, now, kind.to_owned(), fields)])
    }

    /// Writes entries that became durable with their steps, each under its number, and once however often it is asked for: first
    /// what they rest on, then all of them with one sync. A round that is over gets a checkpoint behind it.
    pub fn write(&mut self, entries: Vec<(u64, Moment, LogEntry)>, key: &dyn Signer) -> Result<()> {
        let last = self.last;
        let entries = entries.into_iter().filter(|(number, ..)| *number > last);
        let mut lines = Vec::new();
        let mut rests = false;
        for (number, at, entry) in entries {
            if let Some(object) = &entry.object {
                self.keep(object)?;
                rests = true;
            }
            let fields = serde_json::from_str(&entry.fields);
            let mut fields: Map<_, _> = fields.map_err(|error| fault(WRITING, error))?;
            fields.insert(NUMBER.into(), number.into());
            lines.push((number, at, entry.kind, fields));
        }
        if rests {
            self.keep_names()?;
        }
        // The last round ends its job in the same step: one checkpoint for both.
        let is_over = |kind: &str| matches!(kind, "complete" | "void" | "ended");
        for run in
            lines.chunk_by(|(_, _, kind, _), (_, _, next, _)| !is_over(kind) || is_over(next))
        {
            self.append_all(run)?;
            if let Some((number, at, kind, _)) = run.last() {
                self.last = *number;
                if is_over(kind) {
                    self.note_checkpoint(key, *at)?;
                }
            }
        }
        Ok(())
    }

    fn append_all(&mut self, lines: &[(u64, Moment, String, Map<String, Value>)]) -> Result<()> {
        let step = Step {
            does: Does::AppendsLine,
            path: &self.path,
            bytes: &[],
        };
        let log = &mut self.log;
        let append = || {
            let entries = lines.iter();
            let entries =
                entries.map(|(_, at, kind, fields)| (&**kind, fields.clone(), at.to_system()));
            log.extend(entries).map_err(io::Error::other)
        };
        (self.disk.step(&step, append)).map_err(|error| fault(WRITING, error))?;
        for (_, at, kind, fields) in lines {
            self.history.take(kind, fields, *at);
        }
        Ok(())
    }

    /// The fields of an entry that rests on these objects.
    pub fn naming(fields: Vec<(&'static str, Value)>, objects: &[&[u8]]) -> Map<String, Value> {
        let mut fields: Map<String, Value> = fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        if !objects.is_empty() {
            let names = objects.iter().map(|object| Evidence::name_of(object));
            fields.insert(Evidence::FIELD.into(), names.collect::<Vec<_>>().into());
        }
        fields
    }

    /// Keeps an object. Its name is durable with [`Self::keep_names`], whoever put it there.
    fn keep(&self, object: &[u8]) -> Result<()> {
        let place = self.evidence.place_of(&Evidence::name_of(object));
        if place.exists() {
            return Ok(());
        }
        let temporary = place.with_extension("new");
        let step = Step {
            does: Does::WritesFile,
            path: &place,
            bytes: object,
        };
        self.disk
            .step(&step, || file::put(&place, &temporary, object, 0o600))
            .map_err(|error| fault("keeping evidence", error))
    }

    fn keep_names(&self) -> Result<()> {
        file::sync_folder(self.evidence.folder()).map_err(|error| fault("keeping evidence", error))
    }

    /// Notes who this is, and what holds from here on.
    pub fn note_start(
        &mut self,
        credentials: &Credentials,
        federation: &Federation,
        now: Moment,
    ) -> Result<()> {
        let peer = credentials.certificate().peer();
        let manifest = federation.manifest();
        let fields = vec![
            ("role", peer.role.to_string().into()),
            ("name", peer.name.to_string().into()),
            ("federation", peer.federation.to_string().into()),
            ("party", peer.fingerprint.to_string().into()),
            ("manifest", manifest.digest().to_string().into()),
            ("version", env!("CARGO_PKG_VERSION").into()),
        ];
        let authority = credentials.authority().pem().as_bytes();
        self.note("started", fields, &[authority, &manifest.encode()], now)?;
        let torn = self.log.torn_bytes();
        if torn > 0 {
            self.note("repaired", vec![("torn_bytes", torn.into())], &[], now)?;
        }
        self.note_credentials(credentials, now)?;
        let policy = federation.document();
        let digests = vec![Value::from(policy.digest().to_string())];
        let fields = vec![("policies", digests.into())];
        self.note("policy", fields, &[&policy.encode()], now)
    }

    /// Notes what is new of the certificate and the revocation list in force.
    pub fn note_credentials(&mut self, credentials: &Credentials, now: Moment) -> Result<()> {
        let certificate = credentials.certificate();
        let is_new = |it: &Credentials| it.certificate() != certificate;
        if self.noted.as_ref().is_none_or(is_new) {
            let validity = certificate.validity();
            let fields = vec![
                ("serial", certificate.peer().serial.to_string().into()),
                ("not_before", validity.start().to_string().into()),
                ("not_after", validity.end().to_string().into()),
            ];
            self.note("certificate", fields, &[certificate.pem().as_bytes()], now)?;
        }
        let list = credentials.revocations();
        let is_new = |it: &Credentials| it.revocations() != list;
        if self.noted.as_ref().is_none_or(is_new) {
            let fields = vec![
                ("number", list.number().into()),
                ("digest", list.digest().to_string().into()),
            ];
            self.note(LIST, fields, &[list.pem().as_bytes()], now)?;
        }
        self.noted = Some(credentials.clone());
        Ok(())
    }

    /// Notes which certificate a party showed, other than the one before.
    pub fn note_met(&mut self, peer: &Peer, certificate: &[u8], now: Moment) -> Result<()> {
        let instant = |seconds| Validity::instant(seconds).to_string();
        let fields = vec![
            ("party", peer.fingerprint.to_string().into()),
            ("role", peer.role.to_string().into()),
            ("name", peer.name.to_string().into()),
            ("serial", peer.serial.to_string().into()),
            ("not_before", instant(peer.issued_at).into()),
            ("not_after", instant(peer.ends_at).into()),
        ];
        self.note("met", fields, &[certificate], now)
    }

    /// What the log is told of a party's object about a job that was not taken.
    pub fn refused(what: &str, job: &Digest, by: &Fingerprint, reason: &str) -> LogEntry {
        let reason: String = reason.chars().take(REASON).collect();
        let fields = vec![
            ("what", what.into()),
            ("job", job.to_string().into()),
            ("by", by.to_string().into()),
            ("reason", reason.into()),
        ];
        LogEntry {
            kind: "refused".into(),
            fields: Value::Object(Self::naming(fields, &[])).to_string(),
            object: None,
        }
    }

    /// The log as it stands, signed by its owner.
    pub fn checkpoint(&self, key: &dyn Signer) -> Result<Note> {
        const DOING: &str = "making a checkpoint";
        let credentials = self.noted.as_ref();
        let name = credentials.map(|it| it.certificate().peer().log_name());
        let checkpoint = self.log.checkpoint(&name.unwrap_or_default());
        let checkpoint = checkpoint.map_err(|error| fault(DOING, error))?;
        Ok(Note::sign(checkpoint, key))
    }

    /// Signs the log as it stands, into the log itself: whoever rewrites what is before needs the key.
    pub fn note_checkpoint(&mut self, key: &dyn Signer, now: Moment) -> Result<()> {
        let note = self.checkpoint(key)?.to_text();
        self.note("checkpoint", vec![("note", note.into())], &[], now)
    }

    fn note(
        &mut self,
        kind: &str,
        fields: Vec<(&'static str, Value)>,
        objects: &[&[u8]],
        now: Moment,
    ) -> Result<()> {
        for object in objects {
            self.keep(object)?;
        }
        if !objects.is_empty() {
            self.keep_names()?;
        }
        self.append(kind, Self::naming(fields, objects), now)
    }
}

/// The number of the last step's entry in a log.
fn last_number(path: &Path) -> Result<u64> {
    let read = || {
        let mut reader = Reader::open(path)?;
        let mut last = 0;
        while let Some(record) = reader.next()? {
            if record.kind == LIST {
                continue; // numbered by the authority
            }
            last = (record.fields.get(NUMBER))
                .and_then(Value::as_u64)
                .map_or(last, |number| number.max(last));
        }
        Ok(last)
    };
    read().map_err(|error: ciphertune_audit::Error| fault("reading the audit log", error))
}
