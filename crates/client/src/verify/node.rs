//! One node's log, entry by entry: who it is, what holds at the time, and that the log is its own.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    path::{Path, PathBuf},
};

use ciphertune_audit::{Evidence, Note, Reader, Record, glance};
use ciphertune_identity::{
    AuthorityCertificate, Certificate, Manifest, Peer, RevocationList, Role, Serial,
};
use ciphertune_round::{
    Context, Digest, Envelope, Fingerprint, Object, Plan, PolicyDocument, Signed,
};
use serde::Serialize;

use super::{
    case::Case,
    finding::{Breaks, Check, Finding, Rule, Wrong, demand},
    seen::{self, Seen, SeenBy},
};
use crate::{
    budget::LEDGER_HEAD,
    rules::{Rules, strictest_of},
    site::verify_policy,
};

/// How far clocks may be apart, in milliseconds.
pub(super) const SKEW: u64 = 300_000;

/// Plans that are held in memory: rounds come one after the other.
const PLANS: usize = 4;

/// Entries that are read, with their objects, before the first of them is looked at.
const AHEAD: usize = 256;

/// Bytes of their objects, about.
const AHEAD_BYTES: u64 = 32 << 20;

/// What was read of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Its folder.
    pub folder: PathBuf,
    /// `ROLE NAME`; the folder where the log does not say.
    pub name: String,
    /// Who.
    pub party: Option<String>,
    /// Whether its log could be read to its end.
    pub is_whole: bool,
    /// Whole entries of its log.
    pub entries: u64,
    /// The root of the Merkle tree over them.
    pub root: String,
    /// When the first and the last were written.
    pub from: Option<String>,
    /// See `from`.
    pub until: Option<String>,
    /// Bytes behind the last whole line: an append that was under way, or that a crash cut short.
    pub unfinished_bytes: u64,
    /// Entries whose objects its policies no longer keep (audit.retention_days): of these the chain alone was checked.
    pub pruned_entries: u64,
    /// Its own signed checkpoints.
    pub checkpoints: u64,
    /// Entries that the last of them is about.
    pub signed_entries: u64,
    /// Heads of it that stand in other logs that were audited, and that it was held to.
    pub known_to_others: u64,
    /// The certificate in force at the end: serial number and validity.
    pub certificate: Option<String>,
    /// The revocation list in force at the end.
    pub revocation_list: Option<u64>,
}

/// Reads a node's log, and holds each entry to what comes before.
pub(super) struct Examiner<'a> {
    pub(super) case: &'a mut Case,
    /// The node's place.
    pub(super) place: usize,
    pub(super) evidence: Evidence,
    pub(super) name: String,
    pub(super) in_force: InForce,
    /// Certificates that others showed this node: serial, validity in seconds, its server's log alone.
    pub(super) met: HashMap<Fingerprint, Met>,
    /// The job's strictest plan so far, and its rules, by job.
    pub(super) rules: HashMap<Digest, (Plan, Rules)>,
    /// The server's last round that ended with a model, and the model's digest, by job.
    pub(super) completed: HashMap<Digest, (u32, Digest)>,
    plans: VecDeque<(Context, Signed<Plan>)>,
    seen: Seen,
    /// The server's note that was verified last: many members are shown the same.
    pub(super) shown: Option<Note>,
    checkpoints: u64,
    signed: Option<(u64, String)>,
    /// Attempts of jobs whose evidence was removed, and when those jobs ended.
    pruned: HashMap<Context, Digest>,
    pub(super) ended: HashMap<Digest, u64>,
    /// Days that evidence is kept: by the policies in force, and by the strictest while each such job ran; `None`: for ever.
    retention: Option<u32>,
    kept: HashMap<Digest, Option<u32>>,
    pruned_entries: u64,
    /// Whether an entry was found that is later than now.
    is_ahead: bool,
}

/// What holds for the node.
#[derive(Default)]
pub(super) struct InForce {
    pub party: Option<Fingerprint>,
    pub role: Option<Role>,
    pub log_name: String,
    pub manifest: Option<Signed<Manifest>>,
    pub certificate: Option<Certificate>,
    pub list: Option<RevocationList>,
    /// The federation's policy, and the site's own.
    pub policies: Vec<Signed<PolicyDocument>>,
}

/// A certificate that a party showed the server.
pub(super) struct Met {
    pub serial: String,
    pub validity: (u64, u64),
}

/// The party that a log says, in its first entry, that it is of.
pub(super) fn party_of(folder: &Path) -> Option<Fingerprint> {
    let first = Reader::open(folder.join("audit.jsonl"))
        .ok()?
        .next()
        .ok()??;
    let party = Digest::from_hex(first.text("party")?).ok()?;
    Some(Fingerprint::from_digest(party))
}

/// The jobs whose evidence a log says was removed.
pub(super) fn pruned_in(folder: &Path) -> HashSet<Digest> {
    // What is wrong with the log is said when it is examined.
    let records = glance(folder.join("audit.jsonl"), "pruned").unwrap_or_default();
    let jobs = records
        .iter()
        .filter_map(|record| record.fields.get("jobs")?.as_array());
    let jobs = jobs.flatten().filter_map(|job| job.as_str());
    jobs.filter_map(|job| Digest::from_hex(job).ok()).collect()
}

impl<'a> Examiner<'a> {
    /// Of the node in `folder`, the `place`th.
    pub fn new(case: &'a mut Case, place: usize, folder: &Path) -> Self {
        Self {
            evidence: Evidence::beside(&folder.join("audit.jsonl")),
            name: folder.display().to_string(),
            case,
            place,
            in_force: InForce::default(),
            met: HashMap::new(),
            rules: HashMap::new(),
            completed: HashMap::new(),
            plans: VecDeque::new(),
            seen: Seen::default(),
            shown: None,
            checkpoints: 0,
            signed: None,
            pruned: HashMap::new(),
            ended: HashMap::new(),
            retention: None,
            kept: HashMap::new(),
            pruned_entries: 0,
            is_ahead: false,
        }
    }

    /// Reads the whole log. What does not hold is among the case's findings.
    pub fn read(mut self, folder: &Path, progress: &mut dyn FnMut(u64)) -> Node {
        let path = folder.join("audit.jsonl");
        let mut node = Node {
            folder: folder.to_owned(),
            name: self.name.clone(),
            party: None,
            is_whole: false,
            entries: 0,
            root: String::new(),
            from: None,
            until: None,
            unfinished_bytes: 0,
            pruned_entries: 0,
            checkpoints: 0,
            signed_entries: 0,
            known_to_others: 0,
            certificate: None,
            revocation_list: None,
        };
        let mut reader = match Reader::open(&path) {
            Ok(reader) => reader,
            Err(error) => {
                self.find(Rule::Missing, None, 0, format!("there is no log: {error}"));
                return node;
            }
        };
        let broken = loop {
            let (records, roots, end) = ahead(&mut reader, &self.evidence);
            let manifest = self.in_force.manifest.as_ref().map(Signed::value);
            let loaded = seen::load(&self.evidence, manifest, &records, &mut self.seen);
            for ((record, root), objects) in records.iter().zip(roots).zip(loaded) {
                let when = record.when();
                node.from.get_or_insert_with(|| when.clone());
                node.until = Some(when);
                self.entry(record, &root, objects);
            }
            if self.in_force.party.is_none() && reader.size() > 0 {
                // Whose log it is is not known: nothing that follows could be believed.
                node.entries = reader.size();
                return node;
            }
            progress(reader.bytes());
            match end {
                Some(end) => break end,
                None => continue,
            }
        };
        match broken {
            Ok(()) => node.is_whole = true,
            Err(error) => {
                let (size, time) = (reader.size(), reader.last_time());
                self.find(Rule::Chain, Some((size, None)), time, error.to_string());
            }
        }
        node.unfinished_bytes = reader.unfinished();
        if reader.size() == 0 {
            self.find(Rule::Missing, None, 0, "its log is empty".into());
        } else if node.is_whole && self.signed.is_none() {
            let said = "nothing in this log is signed by its owner".to_owned();
            self.find(Rule::Checkpoint, None, reader.last_time(), said);
        }
        node.name.clone_from(&self.name);
        node.party = self.in_force.party.map(|party| party.to_string());
        node.entries = reader.size();
        node.root = Digest::from_bytes(reader.root()).to_string();
        node.checkpoints = self.checkpoints;
        node.pruned_entries = self.pruned_entries;
        node.signed_entries = self.signed.as_ref().map_or(0, |(size, _)| *size);
        node.certificate = self.in_force.certificate.as_ref().map(|certificate| {
            let (peer, validity) = (certificate.peer(), certificate.validity());
            format!(
                "{}, {} to {}",
                peer.serial,
                validity.start(),
                validity.end()
            )
        });
        node.revocation_list = self.in_force.list.as_ref().map(RevocationList::number);
        node
    }

    fn entry(&mut self, record: &Record, root: &[u8; 32], objects: Check<Vec<Vec<u8>>>) {
        if record.time > self.case.now.saturating_add(SKEW) && !self.is_ahead {
            self.is_ahead = true;
            let at = (record.sequence, Some(record.when()));
            let said = "it is later than now".to_owned();
            self.find(Rule::Time, Some(at), record.time, said);
        }
        if self.is_pruned(record) {
            self.pruned_entries += 1;
            if let (Ok(head), Some(own)) = (digest(record, LEDGER_HEAD), self.in_force.party) {
                let heads = self.case.ledger_heads.entry(own).or_default();
                heads.push(*head.as_bytes());
            }
            // The end stays: by it the rest was removed.
            if record.kind != "ended" {
                return;
            }
        }
        let checked = objects.and_then(|objects| {
            let first = record.sequence == 0;
            demand(!first || record.kind == "started", Rule::Chain, || {
                "the first entry does not say whose log it is".into()
            })?;
            match record.kind.as_str() {
                "started" => self.started(record, &objects),
                "certificate" => self.certificate(record, &objects),
                "revocation-list" => self.revocation_list(record, &objects),
                "policy" => self.policy(record, &objects),
                "met" => self.met(record, &objects),
                "checkpoint" => self.checkpoint(record, root),
                "pruned" => self.pruned(record),
                _ => self.of_a_job(record, &objects),
            }
        });
        if let Err(Wrong(rule, detail)) = checked {
            let at = (record.sequence, Some(record.when()));
            self.find(rule, Some(at), record.time, detail);
        }
    }

    pub(super) fn find(
        &mut self,
        rule: Rule,
        at: Option<(u64, Option<String>)>,
        time: u64,
        detail: String,
    ) {
        let since = match (&self.signed, rule) {
            (Some((size, when)), Rule::Chain | Rule::Checkpoint) => Some(format!(
                "its first {size} entries, up to {when}, are as its owner signed them"
            )),
            (None, Rule::Chain | Rule::Checkpoint) => Some("no checkpoint before it holds".into()),
            _ => None,
        };
        let (entry, when) = match at {
            Some((entry, when)) => (Some(entry), when),
            None => (None, None),
        };
        let finding = Finding {
            rule,
            node: self.name.clone(),
            entry,
            time: when,
            since,
            detail,
        };
        self.case.find(time, finding);
    }

    fn started(&mut self, record: &Record, objects: &[Vec<u8>]) -> Check {
        let [authority, manifest] = objects else {
            return Err(evidence("authority and manifest"));
        };
        let authority =
            AuthorityCertificate::from_pem(text(authority)?).breaks(Rule::Certificate)?;
        let fingerprint = authority.key().fingerprint();
        if let Some(expected) = self.case.expected_authority {
            demand(fingerprint == expected, Rule::Certificate, || {
                format!("its authority is {fingerprint}, not {expected}")
            })?;
        }
        let known = self.case.authority.get_or_insert_with(|| authority.clone());
        demand(known.key() == authority.key(), Rule::Certificate, || {
            format!(
                "its authority is {fingerprint}, that of the others {}",
                known.key().fingerprint()
            )
        })?;
        demand(
            authority.validity().contains(record.at()),
            Rule::Certificate,
            || "its authority's certificate does not hold at the time".into(),
        )?;
        let envelope = Envelope::decode(manifest).breaks(Rule::Evidence)?;
        let manifest = Manifest::verify(envelope, &authority).breaks(Rule::Certificate)?;
        same(record, "manifest", &manifest.digest())?;
        let party = digest(record, "party").map(Fingerprint::from_digest)?;
        let entry = manifest.party(&party).ok_or_else(|| {
            Wrong(
                Rule::Certificate,
                "the manifest does not name whom the log says that it is of".into(),
            )
        })?;
        let (role, name) = (entry.role, entry.name.to_string());
        let says = (record.text("role"), record.text("name"));
        demand(
            says == (Some(&role.to_string()), Some(&name)),
            Rule::Certificate,
            || format!("the manifest says that this party is {role} {name}"),
        )?;
        if let Some(before) = self.in_force.party {
            demand(before == party, Rule::Chain, || {
                format!("from here on the log is another party's: {role} {name}")
            })?;
        }
        if let Some(before) = &self.in_force.manifest
            && before.digest() != manifest.digest()
        {
            manifest.check_succeeds(before).breaks(Rule::Certificate)?;
        }
        self.name = format!("{role} {name}");
        self.in_force.party = Some(party);
        self.in_force.role = Some(role);
        self.in_force.log_name = format!("ciphertune/{}/{role}/{name}", manifest.federation());
        let newest = self.case.manifest.as_ref().map(|it| it.serial());
        if newest.is_none_or(|newest| newest < manifest.serial()) {
            self.case.manifest = Some(manifest.clone());
        }
        self.in_force.manifest = Some(manifest);
        Ok(())
    }

    fn certificate(&mut self, record: &Record, objects: &[Vec<u8>]) -> Check {
        let [pem] = objects else {
            return Err(evidence("a certificate"));
        };
        let certificate = Certificate::from_pem(text(pem)?).breaks(Rule::Certificate)?;
        let authority = self.case.authority.as_ref().ok_or_else(no_start)?;
        certificate.verify(authority).breaks(Rule::Certificate)?;
        let peer: &Peer = certificate.peer();
        demand(
            Some(peer.fingerprint) == self.in_force.party,
            Rule::Certificate,
            || {
                format!(
                    "a certificate of another party: {} {}",
                    peer.role, peer.name
                )
            },
        )?;
        let serial = peer.serial.to_string();
        demand(
            record.text("serial") == Some(&serial),
            Rule::Evidence,
            || format!("the certificate's serial number is {serial}"),
        )?;
        self.in_force.certificate = Some(certificate);
        self.check_dates(record).map(drop)
    }

    fn revocation_list(&mut self, record: &Record, objects: &[Vec<u8>]) -> Check {
        let [pem] = objects else {
            return Err(evidence("a revocation list"));
        };
        let list = RevocationList::from_pem(text(pem)?).breaks(Rule::Revocation)?;
        let authority = self.case.authority.as_ref().ok_or_else(no_start)?;
        list.verify(authority).breaks(Rule::Revocation)?;
        same(record, "digest", &list.digest())?;
        if let Some(before) = &self.in_force.list {
            demand(list.number() >= before.number(), Rule::Revocation, || {
                format!(
                    "the node went back from revocation list {} to list {}",
                    before.number(),
                    list.number()
                )
            })?;
        }
        self.in_force.list = Some(list);
        Ok(())
    }

    fn policy(&mut self, record: &Record, objects: &[Vec<u8>]) -> Check {
        let manifest = self.manifest()?;
        let documents = objects
            .iter()
            .map(|bytes| {
                let envelope = Envelope::decode(bytes).breaks(Rule::Evidence)?;
                verify_policy(manifest, envelope).breaks(Rule::Policy)
            })
            .collect::<Check<Vec<_>>>()?;
        let digests = record.fields.get("policies").and_then(|it| it.as_array());
        let said = digests.into_iter().flatten().map(|it| it.as_str());
        let found: Vec<String> = documents.iter().map(|it| it.digest().to_string()).collect();
        demand(
            said.eq(found.iter().map(|it| Some(it.as_str()))),
            Rule::Evidence,
            || "the policies are others than the entry names".into(),
        )?;
        let strictest = strictest_of(documents.iter().map(|document| document.toml.as_str()));
        self.retention = strictest.breaks(Rule::Policy)?.retention_days();
        self.in_force.policies = documents;
        Ok(())
    }

    fn met(&mut self, record: &Record, objects: &[Vec<u8>]) -> Check {
        let [der] = objects else {
            return Err(evidence("the certificate that the party showed"));
        };
        let authority = self.case.authority.as_ref().ok_or_else(no_start)?;
        let peer = authority.certified(der).breaks(Rule::Certificate)?;
        let party = digest(record, "party").map(Fingerprint::from_digest)?;
        let says = (party, record.text("serial"));
        demand(
            says == (peer.fingerprint, Some(peer.serial.to_string().as_str())),
            Rule::Evidence,
            || format!("the certificate is another: of {} {}", peer.role, peer.name),
        )?;
        let met = Met {
            serial: peer.serial.to_string(),
            validity: (peer.issued_at, peer.ends_at),
        };
        self.met.insert(party, met);
        self.check_other(&party, record)
    }

    fn checkpoint(&mut self, record: &Record, root: &[u8; 32]) -> Check {
        let text = record.text("note").unwrap_or_default();
        let note = Note::parse(text).breaks(Rule::Checkpoint)?;
        let party = self.in_force.party.ok_or_else(no_start)?;
        let key = self.manifest()?.party(&party).map(|party| party.key);
        let key = key.ok_or_else(no_start)?;
        let checkpoint = note.verify(&key).breaks(Rule::Checkpoint)?.clone();
        demand(
            checkpoint.origin() == self.in_force.log_name,
            Rule::Checkpoint,
            || format!("it is of the log {}", checkpoint.origin()),
        )?;
        demand(
            checkpoint.size() == record.sequence && checkpoint.root() == root,
            Rule::Checkpoint,
            || {
                format!(
                    "the {} entries before it are not those that it signs: one of them was edited, deleted, inserted or moved",
                    record.sequence
                )
            },
        )?;
        self.checkpoints += 1;
        self.signed = Some((record.sequence, record.when()));
        Ok(())
    }

    /// Whether an entry is of a job whose evidence the node says, later in its log, to have removed.
    fn is_pruned(&mut self, record: &Record) -> bool {
        let of_the_node = [
            "started",
            "certificate",
            "revocation-list",
            "policy",
            "met",
            "checkpoint",
            "pruned",
            "repaired",
        ];
        if of_the_node.contains(&record.kind.as_str()) {
            return false;
        }
        let field = |name: &str| Digest::from_hex(record.text(name)?).ok();
        let context = field("context").map(Context::from_digest);
        let of_attempt = context.and_then(|context| self.pruned.get(&context).copied());
        let named = field("job").filter(|job| self.has_pruned(job));
        let Some(job) = named.or(of_attempt) else {
            return false;
        };
        self.pruned.extend(context.map(|context| (context, job)));
        let now = self.retention;
        let kept = self.kept.entry(job).or_insert(now);
        *kept = kept.zip(now).map(|(a, b)| a.max(b));
        true
    }

    /// Whether this log says that a job's evidence was removed.
    pub(super) fn has_pruned(&self, job: &Digest) -> bool {
        let pruned = self.case.pruned.get(self.place);
        pruned.is_some_and(|pruned| pruned.contains(job))
    }

    /// Evidence was removed: only of jobs that ended long enough ago for the policies.
    fn pruned(&mut self, record: &Record) -> Check {
        let jobs = record.fields.get("jobs").and_then(|it| it.as_array());
        for job in jobs.into_iter().flatten() {
            let job = Digest::from_hex(job.as_str().unwrap_or_default()).breaks(Rule::Chain)?;
            // By the strictest policy that was in force while the job ran.
            let days = self.kept.get(&job).copied().flatten();
            let kept = days.zip(self.ended.get(&job)).is_some_and(|(days, ended)| {
                ended.saturating_add(u64::from(days) * 86_400_000) <= record.time
            });
            demand(kept, Rule::Evidence, || {
                format!(
                    "the evidence of job {} was removed before its time",
                    job.short()
                )
            })?;
        }
        Ok(())
    }

    /// The manifest that holds.
    pub(super) fn manifest(&self) -> Check<&Signed<Manifest>> {
        self.in_force.manifest.as_ref().ok_or_else(no_start)
    }

    /// The keys of the manifest that holds, without verifying anew what was.
    pub(super) fn keyring(&self) -> Check<SeenBy<'_>> {
        let (manifest, seen) = (self.manifest()?.value(), &self.seen);
        Ok(SeenBy { manifest, seen })
    }

    /// Whether this is the server's log.
    pub(super) fn is_server(&self) -> bool {
        self.in_force.role == Some(Role::Server)
    }

    /// Whether this node's certificate lets it act at the entry's time, by its dates and by the revocation list.
    pub(super) fn check_own(&self, record: &Record) -> Check {
        let serial = self.check_dates(record)?;
        let list = self.list()?;
        demand(!list.names(serial), Rule::Revocation, || {
            format!("the node's certificate {serial} is revoked")
        })
    }

    /// Whether this node's certificate holds at the entry's time; its serial number.
    fn check_dates(&self, record: &Record) -> Check<&Serial> {
        let certificate = self.in_force.certificate.as_ref().ok_or_else(|| {
            Wrong(
                Rule::Certificate,
                "no certificate of the node is in the log before".into(),
            )
        })?;
        let (serial, validity) = (&certificate.peer().serial, certificate.validity());
        demand(validity.contains(record.at()), Rule::Certificate, || {
            format!(
                "the node's certificate {serial} holds from {} until {}, and not at the time",
                validity.start(),
                validity.end()
            )
        })?;
        Ok(serial)
    }

    /// The revocation list in force.
    pub(super) fn list(&self) -> Check<&RevocationList> {
        self.in_force.list.as_ref().ok_or_else(|| {
            Wrong(
                Rule::Revocation,
                "no revocation list is in the log before".into(),
            )
        })
    }

    /// Whether the certificate that a party last showed lets it act at the entry's time: in the server's log.
    pub(super) fn check_other(&self, party: &Fingerprint, record: &Record) -> Check {
        let name = self.case.name_of(party);
        let Some(met) = self.met.get(party) else {
            let said =
                format!("the server took this of {name}, and no certificate of it is in the log");
            return Err(Wrong(Rule::Certificate, said));
        };
        let seconds = record.time / 1000;
        demand(
            (met.validity.0..=met.validity.1).contains(&seconds),
            Rule::Certificate,
            || {
                format!(
                    "the certificate of {name}, {}, does not hold at the time",
                    met.serial
                )
            },
        )?;
        let mut revoked = self.list()?.revoked().keys();
        demand(
            !revoked.any(|serial| serial.to_string() == met.serial),
            Rule::Revocation,
            || format!("the certificate of {name}, {}, is revoked", met.serial),
        )
    }

    /// A signed object of a party with this role.
    pub(super) fn signed<T: Object>(&self, bytes: &[u8], role: Role) -> Check<Signed<T>> {
        let envelope = Envelope::decode(bytes).breaks(Rule::Evidence)?;
        let manifest = self.manifest()?;
        let signed = Signed::<T>::verify(envelope, &self.keyring()?).breaks(Rule::Signature)?;
        let has_role = manifest.party_as(&signed.signer(), role).is_some();
        demand(has_role, Rule::Signature, || {
            format!(
                "{} was signed by {}, who is not {}",
                T::LABEL,
                self.case.name_of(&signed.signer()),
                role.with_article()
            )
        })?;
        Ok(signed)
    }

    /// The plan of a context that was logged before.
    pub(super) fn plan(&mut self, context: &Context) -> Check<Signed<Plan>> {
        if let Some((_, plan)) = self.plans.iter().find(|(held, _)| held == context) {
            return Ok(plan.clone());
        }
        let attempt = self.case.attempts.get(context);
        let name = attempt.map(|attempt| attempt.plan.clone()).ok_or_else(|| {
            let said = format!(
                "no plan of the attempt {} was logged before",
                context.digest().short()
            );
            Wrong(Rule::Missing, said)
        })?;
        let bytes = self.evidence.get(&name).breaks(Rule::Evidence)?;
        let plan = self.signed::<Plan>(&bytes, Role::Server)?;
        self.hold(plan.clone());
        Ok(plan)
    }

    pub(super) fn hold(&mut self, plan: Signed<Plan>) {
        self.plans.push_back((plan.context(), plan));
        if self.plans.len() > PLANS {
            self.plans.pop_front();
        }
    }
}

/// The next entries, each with the root before it where it is a checkpoint, and how the log ends if it does there.
fn ahead(
    reader: &mut Reader,
    evidence: &Evidence,
) -> (
    Vec<Record>,
    Vec<[u8; 32]>,
    Option<ciphertune_audit::Result<()>>,
) {
    let (mut records, mut roots) = (Vec::with_capacity(AHEAD), Vec::with_capacity(AHEAD));
    let mut bytes = 0;
    while records.len() < AHEAD && bytes < AHEAD_BYTES {
        match reader.next() {
            Ok(None) => return (records, roots, Some(Ok(()))),
            Err(error) => return (records, roots, Some(Err(error))),
            Ok(Some(record)) => {
                let is_checkpoint = record.kind == "checkpoint";
                roots.push(if is_checkpoint {
                    reader.root_before()
                } else {
                    [0; 32]
                });
                bytes += seen::bytes_of(evidence, &record);
                records.push(record);
            }
        }
    }
    (records, roots, None)
}

fn no_start() -> Wrong {
    Wrong(
        Rule::Chain,
        "the log does not say before whose it is".into(),
    )
}

pub(super) fn evidence(what: &str) -> Wrong {
    Wrong(Rule::Evidence, format!("the entry does not rest on {what}"))
}

fn text(bytes: &[u8]) -> Check<&str> {
    std::str::from_utf8(bytes).breaks(Rule::Evidence)
}

/// A digest in a field.
pub(super) fn digest(record: &Record, field: &str) -> Check<Digest> {
    let text = record.text(field).unwrap_or_default();
    Digest::from_hex(text).map_err(|_| Wrong(Rule::Chain, format!("no {field} in the entry")))
}

/// The attempt that an entry is of.
pub(super) fn context(record: &Record) -> Check<Context> {
    digest(record, "context").map(Context::from_digest)
}

/// Whether a field names what its evidence is.
pub(super) fn same(record: &Record, field: &str, found: &Digest) -> Check {
    demand(digest(record, field)? == *found, Rule::Evidence, || {
        format!("what the entry rests on is another {field} than it says: {found}")
    })
}
