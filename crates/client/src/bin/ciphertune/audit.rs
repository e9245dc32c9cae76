//! `ciphertune audit`: an auditor's commands.

mod fetch;
mod prune;
mod report;
mod verify;

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use ciphertune_audit::{Proof, Reader};
use ciphertune_client::{Error, Result};
use ciphertune_round::Digest;
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::{Common, output};

/// How often a log that is followed is looked at.
const LOOK: Duration = Duration::from_millis(250);

/// The longest file that is taken for a proof.
const PROOF_BYTES: u64 = 1 << 20;

/// Subcommands of `ciphertune audit`.
#[derive(Subcommand)]
pub enum Command {
    /// Recompute everything, offline, from the folders of any number of nodes: chains, signatures, certificates, policies, plans,
    /// rosters, releases, charges, ledgers, and each log against the others. Says what is wrong first, where, and since when.
    Verify(verify::Verify),
    /// One job as a page and as JSON: who took part, what was trained, what left, what it cost, digests, refusals, the verdict.
    Report(report::Report),
    /// Get the server's log, and the objects that it rests on, over the network: for whom the policy's roles.read_log lets.
    Fetch(fetch::Fetch),
    /// Remove the signed objects of jobs that ended longer ago than the policies keep them (audit.retention_days); the log stays.
    Prune(prune::Prune),
    /// Read a whole log: every line well-formed and in sequence; prints its Merkle root.
    Head {
        /// The log, `audit.jsonl` in a party's home.
        log: PathBuf,
    },
    /// The last entries of a log; with --follow, those to come.
    Tail(Tail),
    /// One entry of a log, every field on a line.
    Show {
        /// The log.
        log: PathBuf,
        /// The entry's sequence number, from 0.
        entry: u64,
    },
    /// A proof that an entry is in a log, which `inclusion` checks without the log.
    Prove {
        /// The log.
        log: PathBuf,
        /// The entry's sequence number, from 0.
        entry: u64,
        /// Where the proof goes; standard output unless given.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Check a proof that an entry is in a log, without the log.
    Inclusion {
        /// The proof, as `prove` made it.
        proof: PathBuf,
        /// The log's root, as somebody whom you believe says it: the proof must lead there.
        #[arg(long, value_name = "HEX")]
        root: Option<String>,
    },
}

/// Flags of `ciphertune audit tail`.
#[derive(Args)]
pub struct Tail {
    /// The log.
    log: PathBuf,
    /// How many entries.
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    entries: usize,
    /// Go on with what is appended, until stopped.
    #[arg(short, long)]
    follow: bool,
}

impl Command {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        match self {
            Self::Verify(verify) => return verify.run(common),
            Self::Report(report) => return report.run(common),
            Self::Fetch(fetch) => return fetch.run(common),
            Self::Prune(prune) => return prune.run(common),
            Self::Head { log } => head(&log, common)?,
            Self::Tail(tail) => tail.run(common)?,
            Self::Show { log, entry } => show(&log, entry, common)?,
            Self::Prove { log, entry, out } => prove(&log, entry, out.as_deref(), common)?,
            Self::Inclusion { proof, root } => inclusion(&proof, root.as_deref(), common)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn refused(error: ciphertune_audit::Error) -> Error {
    match error {
        ciphertune_audit::Error::Malformed(said) => Error::Refused(said),
        ciphertune_audit::Error::Misuse(said) => Error::Misuse(said),
        other => Error::Fault(other.to_string()),
    }
}

fn head(log: &Path, common: &Common) -> Result<()> {
    let (entries, root) = ciphertune_audit::verify_file(log).map_err(refused)?;
    let root = Digest::from_bytes(root);
    if common.json {
        output::json(&json!({"entries": entries, "root": root.to_string()}))
    } else {
        output::say(&format!("{entries} entries, root {root}"))
    }
}

impl Tail {
    fn run(self, common: &Common) -> Result<()> {
        let mut reader = Reader::open(&self.log).map_err(refused)?;
        let mut last = VecDeque::new();
        while reader.next().map_err(refused)?.is_some() {
            last.push_back(reader.line().to_vec());
            if last.len() > self.entries {
                last.pop_front();
            }
        }
        for line in last {
            tell(&line, common)?;
        }
        match self.follow {
            true => self.follow(reader.bytes(), common),
            false => Ok(()),
        }
    }

    /// Tells each whole line behind the first `read` bytes. A log only grows: one that shrinks was changed.
    fn follow(&self, mut read: u64, common: &Common) -> Result<()> {
        let fault =
            |error: std::io::Error| Error::Fault(format!("{}: {error}", self.log.display()));
        loop {
            let mut file = File::open(&self.log).map_err(fault)?;
            if file.metadata().map_err(fault)?.len() < read {
                return Err(Error::Refused(format!(
                    "{}: it is shorter than it was: a log only grows",
                    self.log.display()
                )));
            }
            file.seek(SeekFrom::Start(read)).map_err(fault)?;
            let mut lines = BufReader::new(file);
            loop {
                let mut line = Vec::new();
                lines.read_until(b'\n', &mut line).map_err(fault)?;
                let Some(whole) = line.strip_suffix(b"\n") else {
                    break; // not yet all of it
                };
                tell(whole, common)?;
                read += line.len() as u64;
            }
            std::thread::sleep(LOOK);
        }
    }
}

/// One entry on one line: as it stands in the log, or its time, kind and fields.
fn tell(line: &[u8], common: &Common) -> Result<()> {
    let line = String::from_utf8_lossy(line);
    if common.json {
        return output::say(&line);
    }
    let entry = parsed(&line)?;
    let fields = entry["fields"].as_object().into_iter().flatten();
    let fields: Vec<String> = fields
        .map(|(name, value)| format!("{name}={}", shortened(&plain(value))))
        .collect();
    output::say(&format!(
        "{:>6}  {}  {:<14} {}",
        entry["sequence"],
        plain(&entry["time"]),
        plain(&entry["kind"]),
        fields.join(" ")
    ))
}

fn parsed(line: &str) -> Result<Value> {
    serde_json::from_str(line)
        .map_err(|error| Error::Refused(format!("a line that is no entry: {error}")))
}

/// A value in words: text without quotes, and nothing that moves a terminal's cursor.
fn plain(value: &Value) -> String {
    let text = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Digests by their first characters: `show` has them whole.
fn shortened(text: &str) -> String {
    match text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => format!("{}…", &text[..12]),
        false => text.to_owned(),
    }
}

fn show(log: &Path, entry: u64, common: &Common) -> Result<()> {
    let mut reader = Reader::open(log).map_err(refused)?;
    let mut line = None;
    while let Some(record) = reader.next().map_err(refused)? {
        if record.sequence == entry {
            line = Some(String::from_utf8_lossy(reader.line()).into_owned());
        }
    }
    let line = line.ok_or_else(|| {
        Error::Misuse(format!(
            "{}: there is no entry {entry}: it has {}, counted from 0",
            log.display(),
            reader.size()
        ))
    })?;
    if common.json {
        return output::say(&line);
    }
    let parsed = parsed(&line)?;
    output::say(&format!(
        "entry {entry}  {}  {}",
        plain(&parsed["time"]),
        plain(&parsed["kind"])
    ))?;
    for (name, value) in parsed["fields"].as_object().into_iter().flatten() {
        output::say(&format!("  {name:<18} {}", plain(value)))?;
    }
    Ok(())
}

fn prove(log: &Path, entry: u64, out: Option<&Path>, common: &Common) -> Result<()> {
    let proof = Proof::of(log, entry).map_err(refused)?;
    let json = proof.to_json().map_err(refused)?;
    let Some(out) = out else {
        return output::say(&json);
    };
    output::write_new(out, format!("{json}\n").as_bytes())?;
    if common.json {
        return output::json(&json!({"proof": out.display().to_string(), "root": proof.root}));
    }
    output::say(&format!(
        "{}: entry {entry} of {}, root {}\nnext, without the log: ciphertune audit inclusion {} --root HEX",
        out.display(),
        proof.size,
        proof.root,
        out.display()
    ))
}

fn inclusion(path: &Path, root: Option<&str>, common: &Common) -> Result<()> {
    let wrong =
        |error: std::io::Error| Error::Misuse(format!("cannot read {}: {error}", path.display()));
    let mut json = String::new();
    File::open(path)
        .map_err(wrong)?
        .take(PROOF_BYTES)
        .read_to_string(&mut json)
        .map_err(wrong)?;
    let proof = Proof::parse(&json).map_err(refused)?;
    let found = Digest::from_bytes(proof.verify().map_err(refused)?);
    if let Some(root) = root
        && Digest::from_hex(root.trim())? != found
    {
        return Err(Error::Refused(format!(
            "the proof leads to the root {found}, not to {}: it is of another log, or of another length of it",
            root.trim()
        )));
    }
    if common.json {
        return output::json(&json!({
            "entry": proof.sequence,
            "size": proof.size,
            "root": found.to_string(),
            "root_compared": root.is_some(),
            "line": proof.line,
        }));
    }
    let entry = parsed(&proof.line)?;
    output::say(&format!(
        "entry {} ({}, {}) is in the log with root {found}{}",
        proof.sequence,
        plain(&entry["kind"]),
        plain(&entry["time"]),
        match root {
            Some(_) => "",
            None => "; compare that root with one that was signed, or --root HEX",
        }
    ))
}
