//! How long evidence is kept: what policies no longer ask for is removed, and the log says so.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::Path,
    time::SystemTime,
};

use ciphertune_audit::{Evidence, Log, Reader, Record};
use ciphertune_policy::Instant;
use ciphertune_round::{Envelope, Object as _, PolicyDocument};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    rules::strictest_of,
};

/// What was removed, or would be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// The jobs that ended longer ago than the policies keep what they left, by digest.
    pub jobs: Vec<String>,
    /// Objects of theirs that nothing else rests on.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Removes the evidence of jobs that ended longer ago than the strictest policies that the node held while they ran keep it, but for
/// their signed ends, and notes that in the log, which must not be open elsewhere: the node is stopped. With `dry_run` nothing is touched.
///
/// # Errors
/// [`Error::Refused`] where the policies keep evidence for ever; [`Error::Misuse`] while the node runs; [`Error::Fault`] from the disk.
pub fn prune(folder: &Path, now: SystemTime, dry_run: bool) -> Result<Pruned> {
    let path = folder.join("audit.jsonl");
    let evidence = Evidence::beside(&path);
    let mut log = match dry_run {
        true => None,
        false => Some(Log::open(&path).map_err(unreadable)?),
    };
    let known = Known::read(&path)?;
    let now_at = Instant::from(now);
    let is_due = |(job, at): &(&String, &Instant)| {
        let days = known.kept.get(*job).copied().flatten();
        days.is_some_and(|days| at.after_days(days) < now_at)
    };
    let due: HashSet<&str> = (known.ended.iter())
        .filter(is_due)
        .map(|(job, _)| job.as_str())
        .collect();
    if known.kept.values().all(Option::is_none) {
        return Err(Error::Refused(format!(
            "the policies that the jobs of {} ran under keep evidence for ever: policies with audit.retention_days let it be removed",
            folder.display()
        )));
    }
    let names = known.only_of(&path, &due)?;
    let places: Vec<_> = names.iter().map(|name| evidence.place_of(name)).collect();
    let sizes = places.iter().filter_map(|place| fs::metadata(place).ok());
    let sizes: Vec<u64> = sizes.map(|metadata| metadata.len()).collect();
    let mut jobs: Vec<String> = due.iter().map(ToString::to_string).collect();
    jobs.sort();
    let pruned = Pruned {
        jobs,
        objects: sizes.len() as u64,
        bytes: sizes.iter().sum(),
    };
    if let Some(log) = log.as_mut().filter(|_| pruned.objects > 0) {
        // Said first: what is gone without a word looks like history that was changed.
        let fields: Map<String, Value> = [
            ("jobs".to_owned(), pruned.jobs.clone().into()),
            ("objects".to_owned(), pruned.objects.into()),
        ]
        .into_iter()
        .collect();
        log.append("pruned", fields, now).map_err(unreadable)?;
        for place in places.iter().filter(|place| place.exists()) {
            fs::remove_file(place).map_err(|error| {
                Error::fault(format_args!("removing {}", place.display()), error)
            })?;
        }
    }
    Ok(pruned)
}

/// What a log says that decides what is kept.
struct Known {
    /// Days that each job's evidence is kept, by the strictest policies while it ran; `None`: for ever.
    kept: HashMap<String, Option<u32>>,
    /// When each job ended, by digest, where its end is signed.
    ended: HashMap<String, Instant>,
    /// The job of each attempt.
    jobs: HashMap<String, String>,
}

impl Known {
    fn read(path: &Path) -> Result<Self> {
        let evidence = Evidence::beside(path);
        let mut known = Self {
            kept: HashMap::new(),
            ended: HashMap::new(),
            jobs: HashMap::new(),
        };
        let mut now = None;
        let mut reader = Reader::open(path).map_err(unreadable)?;
        while let Some(record) = reader.next().map_err(unreadable)? {
            let text = |field: &str| record.text(field).unwrap_or_default().to_owned();
            match record.kind.as_str() {
                "policy" => now = retention(&evidence, &record)?,
                "ended" if record.evidence().next().is_some() => {
                    let at = Instant::from_seconds(record.time / 1000).unwrap_or(Instant::EPOCH);
                    known.ended.insert(text("job"), at);
                }
                "plan" => drop(known.jobs.insert(text("context"), text("job"))),
                _ => {}
            }
            if let Some(job) = known.job_of(&record).map(str::to_owned) {
                let kept = known.kept.entry(job).or_insert(now);
                *kept = kept.zip(now).map(|(a, b)| a.max(b));
            }
        }
        Ok(known)
    }

    /// Whose an entry is.
    fn job_of<'a>(&'a self, record: &'a Record) -> Option<&'a str> {
        let of_attempt = || self.jobs.get(record.text("context")?).map(String::as_str);
        record.text("job").or_else(of_attempt)
    }

    /// Names of objects that entries of these jobs alone rest on, once each.
    fn only_of(&self, path: &Path, jobs: &HashSet<&str>) -> Result<Vec<String>> {
        let (mut theirs, mut others) = (HashSet::new(), HashSet::new());
        let mut reader = Reader::open(path).map_err(unreadable)?;
        while let Some(record) = reader.next().map_err(unreadable)? {
            let is_theirs = record.kind != "ended"
                && self.job_of(&record).is_some_and(|job| jobs.contains(job));
            let names = record.evidence().map(str::to_owned);
            match is_theirs {
                true => theirs.extend(names),
                false => others.extend(names),
            }
        }
        Ok(theirs.difference(&others).cloned().collect())
    }
}

/// Days that the strictest of a `policy` entry's documents asks for; `None`: for ever.
fn retention(evidence: &Evidence, record: &Record) -> Result<Option<u32>> {
    let policies = record
        .evidence()
        .map(|name| {
            let envelope = Envelope::decode(&evidence.get(name).map_err(unreadable)?)?;
            Ok(PolicyDocument::parse(envelope.payload())?.toml)
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(strictest_of(policies.iter().map(String::as_str))?.retention_days())
}

fn unreadable(error: ciphertune_audit::Error) -> Error {
    match error {
        ciphertune_audit::Error::Malformed(said) => Error::Refused(said),
        ciphertune_audit::Error::Misuse(said) => {
            Error::Misuse(format!("{said}: stop the node first"))
        }
        other => Error::Fault(other.to_string()),
    }
}
