//! `ciphertune job`: a researcher's commands.

mod preview;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use ciphertune_client::{
    Error, Result, draft::Draft, learner::Learner, researcher::Researcher, site::Site,
    tuning::Tuner,
};
use ciphertune_round::Digest;
use ciphertune_wire::proto::{JobState, MemberState};
use clap::Subcommand;
use serde_json::json;

use preview::Preview;

use crate::{
    Common,
    output::{self, asked_to_stop},
    passphrase::passphrase,
};

/// Subcommands of `ciphertune job`.
#[derive(Subcommand)]
pub enum Job {
    /// Derive a job's numbers from the federation's policy, and say what would come of it: nothing is sent.
    Check {
        /// The job's TOML file, as for submit.
        file: PathBuf,
        /// The backbone's folder: for its digest and the first model.
        #[arg(long, value_name = "DIR")]
        model: PathBuf,
    },
    /// Derive a job's numbers from the federation's policy, sign it, submit it.
    Submit {
        /// The job's TOML file. Where the policy hides single records (and may, where it hides nothing), it says
        /// sampling_rate, nominal_batch and max_examples; metrics, where the policy lists them.
        file: PathBuf,
        /// The backbone's folder: for its digest and the first model.
        #[arg(long, value_name = "DIR")]
        model: PathBuf,
    },
    /// Every job that the server knows, a line each.
    List,
    /// How one job stands, or all of them: the phase, who is in, who is waited for, and why a member refused.
    Status {
        /// The job's digest, or its first eight digits and more.
        job: Option<String>,
    },
    /// Status again and again, until the job has ended.
    Watch {
        /// The job's digest, or its first eight digits and more.
        job: String,
    },
    /// Stop a job.
    Abort {
        /// The job's digest, or its first eight digits and more.
        job: String,
        /// Why, for the log.
        #[arg(long, default_value = "no reason given")]
        reason: String,
    },
}

impl Job {
    pub async fn run(self, common: &Common) -> Result<ExitCode> {
        let site = Site::open(common.home.clone(), &passphrase()?)?;
        match self {
            Self::Check { file, model } => {
                let job = draft(&site, &file, &model)?;
                let preview = Preview::of(&site, &job)?;
                if common.json {
                    output::json(&preview)?;
                } else {
                    output::say(&preview.to_string())?;
                }
            }
            Self::Submit { file, model } => {
                let job = draft(&site, &file, &model)?;
                let digest = Researcher::connect(site).await?.submit(job).await?;
                if common.json {
                    output::json(&json!({"job": digest.to_string()}))?;
                } else {
                    output::say(&format!(
                        "submitted {digest}\nnext: ciphertune job watch {digest}"
                    ))?;
                }
            }
            Self::List => {
                for state in Researcher::connect(site).await?.status(None).await? {
                    list(&state, common.json)?;
                }
            }
            Self::Status { job } => {
                let mut researcher = Researcher::connect(site).await?;
                let job = match job {
                    Some(job) => Some(researcher.find(&job).await?),
                    None => None,
                };
                for state in researcher.status(job).await? {
                    show(&state, common.json)?;
                }
            }
            Self::Watch { job } => return watch(site, &job, common.json).await,
            Self::Abort { job, reason } => {
                let mut researcher = Researcher::connect(site).await?;
                let job = researcher.find(&job).await?;
                let ran = researcher.abort(job, &reason).await?;
                if common.json {
                    output::json(&json!({"job": job.to_string(), "aborted": ran}))?;
                } else if ran {
                    output::say(&format!("stopped {job}"))?;
                } else {
                    output::say(&format!(
                        "{job} had ended before\nhow: ciphertune job status {job}"
                    ))?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The job that a file asks for, which the policies here admit.
fn draft(site: &Site, file: &Path, model: &Path) -> Result<ciphertune_round::Job> {
    let mut draft = Draft::from_toml(&output::read(file)?)?;
    let tuner = Tuner::for_draft(model)?;
    draft.tuning = tuner.pin(draft.tuning)?;
    let policy = site.policy()?;
    let start = tuner.start(&draft.tuning, draft.in_batches(&policy))?;
    let federation = site.manifest().federation().to_string();
    let job = draft.job(&federation, &policy, tuner.backbone(), &start)?;
    let members = site.manifest().members().count();
    if job.expected_members > members {
        return Err(Error::Refused(format!(
            "the job waits for {} members, and the manifest names {members}: set `members` in {}",
            job.expected_members,
            file.display()
        )));
    }
    site.admits(&job, &policy, SystemTime::now().into())?;
    Ok(job)
}

async fn watch(site: Site, job: &str, as_json: bool) -> Result<ExitCode> {
    let mut researcher = Researcher::connect(site).await?;
    let job = researcher.find(job).await?;
    let mut last = None;
    loop {
        let state = researcher
            .status(Some(job))
            .await?
            .into_iter()
            .next()
            .ok_or_else(|| Error::Refused(format!("the server has no job {job}")))?;
        // Time that passes is no news.
        let told = JobState {
            seconds_left: 0,
            ..state.clone()
        };
        if last.as_ref() != Some(&told) {
            show(&state, as_json)?;
        }
        match state.phase.as_str() {
            "completed" => return Ok(ExitCode::SUCCESS),
            "ended" => return Ok(ExitCode::from(1)),
            _ => last = Some(told),
        }
        tokio::select! {
            () = asked_to_stop() => return Err(Error::Stopped),
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
        }
    }
}

/// One line.
fn list(state: &JobState, as_json: bool) -> Result<()> {
    if as_json {
        return show(state, true);
    }
    let digest = Digest::parse(&state.job)?;
    let accepted = |member: &&MemberState| member.admission == "accepted";
    output::say(&format!(
        "{digest}  {}  {}{}  round {} of {}  {} in",
        output::one_line(&state.name),
        state.phase,
        if state.paused.is_empty() {
            ""
        } else {
            ", paused"
        },
        state.round,
        state.rounds,
        state.members.iter().filter(accepted).count()
    ))
}

fn show(state: &JobState, as_json: bool) -> Result<()> {
    let digest = Digest::parse(&state.job)?;
    if as_json {
        let members: Vec<_> = state
            .members
            .iter()
            .map(|member| {
                json!({
                    "name": member.name,
                    "admission": member.admission,
                    "refusal": member.refusal,
                    "present": member.present,
                    "progress": member.progress,
                    "waited_for": member.waited_for,
                    "late": is_late(state, member),
                })
            })
            .collect();
        return output::json(&json!({
            "job": digest.to_string(),
            "name": state.name,
            "phase": state.phase,
            "round": state.round,
            "rounds": state.rounds,
            "attempt": state.attempt,
            "seconds": state.seconds,
            "seconds_left": state.seconds_left,
            "paused": state.paused,
            "members": members,
            "reason": state.reason,
        }));
    }
    let left = match state.seconds {
        0 => String::new(),
        seconds => format!(", {} s of {seconds} s left", state.seconds_left),
    };
    output::say(&format!(
        "{}  {}  {}  round {} of {}, attempt {}{left}",
        digest.short(),
        output::one_line(&state.name),
        state.phase,
        state.round,
        state.rounds,
        state.attempt
    ))?;
    if !state.paused.is_empty() {
        output::say(&format!("  paused: {}", output::one_line(&state.paused)))?;
    }
    for member in &state.members {
        let presence = if member.present { "present" } else { "absent" };
        let waiting = match (is_late(state, member), member.waited_for) {
            (true, _) => "late",
            (false, true) => "waited for",
            (false, false) => "",
        };
        let line = format!(
            "  {:<24} {:<8} {presence:<8} {:<8} {waiting} {}",
            output::one_line(&member.name),
            member.admission,
            member.progress,
            output::one_line(&member.refusal)
        );
        output::say(line.trim_end())?;
    }
    if !state.reason.is_empty() {
        for line in state.reason.lines() {
            output::say(&format!("  {}", output::one_line(line)))?;
        }
    }
    Ok(())
}

/// Whether the phase waits for this member when more than half of its time is gone.
fn is_late(state: &JobState, member: &MemberState) -> bool {
    member.waited_for && state.seconds > 0 && state.seconds_left * 2 < state.seconds
}
