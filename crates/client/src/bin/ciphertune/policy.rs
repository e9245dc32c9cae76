//! `ciphertune policy`: an officer's commands.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use ciphertune_client::{
    Error, Result,
    officer::{self, Trust},
    outlook::{Assumed, Outlook},
};
use ciphertune_identity::{AuthorityCertificate, Certificate};
use ciphertune_policy::{Decimal, Finding, Policy, json_schema, markdown_table};
use ciphertune_round::Digest;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::{Common, output, passphrase::passphrase};

/// Subcommands of `ciphertune policy`.
#[derive(Subcommand)]
pub enum Command {
    /// Say whether a policy is valid, every problem at once with line and column; and what of a valid one cannot work.
    Check(Check),
    /// Say in plain language what a policy promises: what can leave, who can see what, what happens when a member drops out.
    Explain {
        /// The policy's TOML file.
        file: PathBuf,
    },
    /// What differs between two policies, each change stricter, weaker or other. Exit code 1 when the second is weaker
    /// anywhere, or incomparable.
    Diff {
        /// The policy's TOML file.
        before: PathBuf,
        /// The one that is to take its place.
        after: PathBuf,
    },
    /// Sign a policy with the officer's key in this home.
    Sign {
        /// The policy's TOML file.
        file: PathBuf,
        /// Where the signed policy goes; beside the file, ending in `.signed`, unless given. Never overwritten.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Say who signed a policy: chain, role, validity, digest. By this home's authority and manifest unless told otherwise.
    Verify(Verify),
    /// The strictest of several policies; what cannot be settled, and how their officers can.
    Merge {
        /// The policies' TOML files.
        #[arg(required = true, num_args = 2..)]
        files: Vec<PathBuf>,
    },
    /// Print the policy language: a JSON Schema for editors, or the table of all keys.
    Schema {
        /// The table in Markdown instead, as policies/README.md has it.
        #[arg(long)]
        table: bool,
    },
}

/// Arguments of `ciphertune policy check`.
#[derive(Args)]
pub struct Check {
    /// The policy's TOML file.
    file: PathBuf,
    /// Members of the federation; without it they are the fewest that a round needs.
    #[arg(long, value_name = "N")]
    members: Option<usize>,
    /// Numbers of an update, or of a record's gradient: a prompt of 20 virtual tokens at width 384 unless given.
    #[arg(long, value_name = "D", default_value_t = 7_680)]
    dimension: u64,
    /// At record level: the probability with which a record enters a round; the policy's limit unless given.
    #[arg(long, value_name = "Q")]
    sampling_rate: Option<Decimal>,
    /// At record level: the records of a batch, all members' together.
    #[arg(long, value_name = "N")]
    nominal_batch: Option<u32>,
}

/// Arguments of `ciphertune policy verify`.
#[derive(Args)]
pub struct Verify {
    /// The signed policy.
    file: PathBuf,
    /// The authority's certificate.
    #[arg(long, value_name = "PEM")]
    authority: Option<PathBuf>,
    /// The federation's signed manifest: the signer must be an officer of it.
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// The officer's certificate, where there is no manifest yet, or beside it.
    #[arg(long, value_name = "PEM")]
    certificate: Option<PathBuf>,
    /// The digest that the policy must have.
    #[arg(long, value_name = "HEX")]
    digest: Option<String>,
    /// Print the policy's text, once it is verified, and nothing else.
    #[arg(long)]
    show: bool,
}

impl Command {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        match self {
            Self::Check(check) => return check.run(common),
            Self::Explain { file } => explain(&parse(&file)?, common)?,
            Self::Diff { before, after } => return diff(&before, &after, common),
            Self::Sign { file, out } => sign(&file, out, common)?,
            Self::Verify(verify) => verify.run(common)?,
            Self::Merge { files } => explain(&merge(&files)?, common)?,
            Self::Schema { table: false } => print!("{}", json_schema()),
            Self::Schema { table: true } => print!("{}", markdown_table()),
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Check {
    fn run(self, common: &Common) -> Result<ExitCode> {
        let policy = parse(&self.file)?;
        let digest = Digest::from_bytes(policy.digest());
        let limit = policy.max_sampling_rate().unwrap_or(Decimal::ONE);
        if let Some(rate) = self
            .sampling_rate
            .filter(|rate| rate.is_zero() || *rate > limit)
        {
            return Err(Error::Misuse(format!(
                "--sampling-rate {rate} is not above 0 and at most {limit}, which is what this policy allows"
            )));
        }
        let mut findings = policy.findings(self.members, SystemTime::now().into());
        let assumed = Assumed {
            dimension: self.dimension,
            members: self.members.unwrap_or(policy.min_cohort() as usize),
            sampling_rate: self
                .sampling_rate
                .or(policy.max_sampling_rate())
                .unwrap_or(Decimal::ONE),
            nominal_batch: self.nominal_batch,
        };
        let outlook = match Outlook::of(&policy, &assumed) {
            Ok(outlook) => outlook,
            Err(error) => {
                let fewer = Outlook::of_rounds(&policy, &assumed, 1).is_ok();
                findings.push(Finding {
                    key: "privacy.epsilon",
                    fatal: !fewer,
                    said: match fewer {
                        true => format!(
                            "a job of all {} rounds cannot keep to it, one of fewer can: {error}",
                            policy.rounds()
                        ),
                        false => format!("no noise gives it: {error}; allow more"),
                    },
                });
                None
            }
        };
        findings.extend(outlook.iter().flat_map(Outlook::findings));
        let fatal = findings.iter().any(|finding| finding.fatal);
        if common.json {
            output::json(&json!({
                "valid": true,
                "digest": digest.to_string(),
                "works": !fatal,
                "findings": findings,
                "outlook": outlook,
            }))?;
        } else {
            output::say(&format!("{}: valid, digest {digest}", self.file.display()))?;
            if let Some(outlook) = &outlook {
                output::say(&in_words(outlook, &assumed, &policy))?;
            }
            for finding in &findings {
                output::say(&format!("  {finding}"))?;
            }
        }
        Ok(ExitCode::from(u8::from(fatal)))
    }
}

fn in_words(outlook: &Outlook, assumed: &Assumed, policy: &Policy) -> String {
    let signal = match outlook.signal_clips {
        Some(signal) => format!("what is summed is at most {signal:.0} long"),
        None => "--nominal-batch says how long what is summed may be".into(),
    };
    let sampled = match policy.unit() {
        ciphertune_policy::Unit::Record => format!(", sampling rate {}", assumed.sampling_rate),
        _ => String::new(),
    };
    format!(
        "  a job of all {} rounds{sampled}: noise multiplier {:.3}; with {} numbers and {} members a round's noise is {:.1} \
         clips long, {signal}\n  a dataset's budget lasts for {} such {}",
        outlook.rounds,
        outlook.noise_multiplier,
        assumed.dimension,
        assumed.members,
        outlook.noise_clips,
        outlook.jobs,
        if outlook.jobs == 1 { "job" } else { "jobs" }
    )
}

/// The strictest of all; an error names the first file that does not go with those before it.
fn merge(files: &[PathBuf]) -> Result<Policy> {
    let mut merged: Option<Policy> = None;
    for file in files {
        let policy = parse(file)?;
        merged = Some(match merged {
            None => policy,
            Some(before) => Policy::merge(&[&before, &policy])
                .map_err(|error| Error::Refused(format!("{}: {error}", file.display())))?,
        });
    }
    merged.ok_or_else(|| Error::Misuse("no policy to merge".into()))
}

fn diff(before: &Path, after: &Path, common: &Common) -> Result<ExitCode> {
    let (first, second) = (parse(before)?, parse(after)?);
    let changes = first.diff(&second);
    let as_strict = second.is_as_strict_as(&first);
    if common.json {
        output::json(&json!({"changes": changes, "as_strict": as_strict}))?;
    } else {
        for change in &changes {
            output::say(&change.to_string())?;
        }
        output::say(&match (changes.is_empty(), as_strict) {
            (true, _) => "no difference".to_owned(),
            (_, true) => format!(
                "{} allows nothing that {} does not",
                after.display(),
                before.display()
            ),
            (_, false) => format!(
                "{} allows what {} does not",
                after.display(),
                before.display()
            ),
        })?;
    }
    Ok(ExitCode::from(u8::from(!as_strict)))
}

fn sign(file: &Path, out: Option<PathBuf>, common: &Common) -> Result<()> {
    let text = output::read(file)?;
    let policy = parse_text(file, &text)?;
    let signed = officer::sign(&common.home, &passphrase()?, &text, SystemTime::now())?;
    let out = out.unwrap_or_else(|| file.with_extension("signed"));
    output::write_new(&out, &signed.encode())?;
    let digest = Digest::from_bytes(policy.digest());
    if common.json {
        output::json(&json!({
            "signed": out.display().to_string(),
            "federation": signed.federation,
            "signer": signed.signer().to_string(),
            "digest": digest.to_string(),
        }))
    } else {
        output::say(&format!(
            "{}: policy of federation {}, digest {digest}, signed by {}",
            out.display(),
            signed.federation,
            signed.signer()
        ))?;
        for finding in policy.findings(None, SystemTime::now().into()) {
            output::say(&format!("  {finding}"))?;
        }
        output::say(&format!(
            "next: ciphertune policy verify {} --certificate {}",
            out.display(),
            common.home.certificate().display()
        ))
    }
}

impl Verify {
    fn run(self, common: &Common) -> Result<()> {
        let home = &common.home;
        let authority = self.authority.unwrap_or_else(|| home.authority());
        let manifest = match (self.manifest, &self.certificate) {
            (Some(path), _) => Some(path),
            (None, Some(_)) => None,
            (None, None) => Some(home.manifest()),
        };
        let trust = Trust {
            authority: AuthorityCertificate::read(&authority)?,
            manifest: manifest.as_deref().map(output::envelope).transpose()?,
            certificate: self
                .certificate
                .as_deref()
                .map(Certificate::read)
                .transpose()?,
        };
        let verified = officer::verify(&output::envelope(&self.file)?, &trust, SystemTime::now())?;
        let digest = Digest::from_bytes(verified.policy.digest());
        if let Some(wanted) = &self.digest
            && Digest::from_hex(wanted)? != digest
        {
            return Err(Error::Refused(format!(
                "{}: its digest is {digest}, not {wanted}: another policy was signed than the one you know",
                self.file.display()
            )));
        }
        let document = &verified.document;
        if self.show {
            return output::say(document.toml.trim_end());
        }
        let names: Vec<&str> = verified.policy.names().collect();
        if common.json {
            output::json(&json!({
                "verified": true,
                "policy": names,
                "federation": document.federation,
                "officer": verified.officer.to_string(),
                "signer": document.signer().to_string(),
                "certificate_checked": trust.certificate.is_some(),
                "digest": digest.to_string(),
            }))
        } else {
            let certificate = match &trust.certificate {
                Some(_) => "by a certificate that holds",
                None => {
                    "by the manifest; --certificate asks whether the officer's certificate holds, too"
                }
            };
            output::say(&format!(
                "{}: policy {:?} of federation {}, signed by officer {} ({}), {certificate}; digest {digest}",
                self.file.display(),
                names.join(" + "),
                document.federation,
                verified.officer,
                document.signer()
            ))
        }
    }
}

fn explain(policy: &Policy, common: &Common) -> Result<()> {
    if common.json {
        output::say(&policy.canonical_json())
    } else {
        output::say(policy.explain().trim_end())
    }
}

fn parse(file: &Path) -> Result<Policy> {
    parse_text(file, &output::read(file)?)
}

fn parse_text(file: &Path, text: &str) -> Result<Policy> {
    Policy::parse(text).map_err(|error| Error::Malformed {
        what: file.display().to_string(),
        detail: error.to_string(),
    })
}
