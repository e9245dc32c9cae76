//! `ciphertune join`: a member's one command.

use std::{
    io::IsTerminal as _,
    num::{NonZeroU32, NonZeroUsize},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use ciphertune_client::{
    Result,
    member::{self, Observer, Options},
    report::{Happening, RoundReport},
    site::Site,
    tuning::Tuner,
};
use ciphertune_identity::Kit;
use ciphertune_policy::Policy;
use ciphertune_round::Digest;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use crate::{
    Common, backbone::BackboneFlags, identity::party::check_authority, output,
    passphrase::passphrase,
};

/// Flags of `ciphertune join`.
#[derive(Args)]
pub struct Join {
    /// This member's training data: `sentence@label`, JSON Lines or CSV. It never leaves this machine.
    #[arg(long, value_name = "FILE")]
    data: PathBuf,
    /// Validation data, for this member's own eyes.
    #[arg(long, value_name = "FILE")]
    validation: Option<PathBuf>,
    #[command(flatten)]
    backbone: BackboneFlags,
    /// The dataset's name, under which its privacy budget is kept.
    #[arg(long, value_name = "NAME", default_value = "default")]
    dataset: String,
    /// Install this kit from the federation's authority first.
    #[arg(long, value_name = "DIR")]
    kit: Option<PathBuf>,
    /// With --kit: the site's own policy, as `ciphertune policy sign` made it.
    #[arg(long, value_name = "FILE", requires = "kit", alias = "site-policy")]
    policy: Option<PathBuf>,
    /// With --kit: the authority's fingerprint, as its people read it out: any other authority's kit is refused.
    #[arg(long, value_name = "HEX", requires = "kit")]
    authority: Option<String>,
    /// Leave when the first job has ended.
    #[arg(long)]
    one_job: bool,
    /// Threads that seal, check and open; all cores unless given. Training takes RAYON_NUM_THREADS.
    #[arg(long, value_name = "N", default_value_t = member::all_cores(), hide_default_value = true)]
    threads: NonZeroUsize,
    /// Measure the model on the validation data after every Nth round, and after the last.
    #[arg(long, value_name = "N", default_value_t = NonZeroU32::MIN)]
    measure_every: NonZeroU32,
}

impl Join {
    pub async fn run(self, common: &Common) -> Result<ExitCode> {
        let passphrase = passphrase()?;
        if let Some(folder) = &self.kit {
            let site_policy = match &self.policy {
                Some(path) => Some(output::envelope(path)?),
                None => None,
            };
            let kit = Kit::read(folder)?;
            check_authority(&kit.credentials, self.authority.as_deref())?;
            Site::install(&common.home, &passphrase, &kit, site_policy.as_ref())?;
        }
        let site = Site::open(common.home.clone(), &passphrase)?;
        if self.kit.is_some() {
            installed(&site, common)?;
        }
        let learner = Tuner::load(
            &self.backbone.model,
            &self.backbone.device()?,
            &self.data,
            self.validation.as_deref(),
        )?;
        let options = Options {
            dataset: self.dataset,
            one_job: self.one_job,
            threads: self.threads,
            measure_every: self.measure_every,
            dangerous_plaintext: None,
        };
        let observer = if common.json { machine() } else { human() };
        let outcome = member::run(
            site,
            Box::new(learner),
            options,
            observer,
            output::asked_to_stop(),
        )
        .await?;
        Ok(ExitCode::from(u8::from(!outcome.completed)))
    }
}

/// Says what a kit brought, to be compared with what an officer says by another way.
pub fn installed(site: &Site, common: &Common) -> Result<()> {
    let policy = Policy::parse(&site.federation_policy().toml)?;
    let digest = Digest::from_bytes(policy.digest()).to_string();
    let names: Vec<&str> = policy.names().collect();
    let names = names.join(" + ");
    if common.json {
        return output::json(&json!({"installed": {"policy": names, "digest": digest}}));
    }
    output::say(&format!(
        "installed: the federation's policy {names:?}, digest {digest}; ask an officer whether it is this one"
    ))
}

fn machine() -> Observer {
    Box::new(|happening| {
        let _ = output::json(happening);
    })
}

fn human() -> Observer {
    // A bar draws nothing where nobody watches: a log gets lines.
    if !std::io::stderr().is_terminal() {
        return Box::new(|happening| {
            if !matches!(happening, Happening::Training { .. }) {
                let _ = output::say(&words(happening));
            }
        });
    }
    let bar = ProgressBar::new(0);
    if let Ok(style) =
        ProgressStyle::with_template("  training [{bar:30}] {pos}/{len}  {msg}  {eta}")
    {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_millis(500));
    Box::new(move |happening| {
        if let Happening::Training { step, steps, loss } = happening {
            bar.set_length(*steps as u64);
            bar.set_position(*step as u64);
            bar.set_message(format!("loss {loss:.3}"));
        } else {
            bar.println(words(happening));
        }
    })
}

fn words(happening: &Happening) -> String {
    match happening {
        Happening::Waiting { reason, seconds } => {
            let seconds = seconds.max(1.0);
            format!("{reason}; trying again in {seconds:.0} s, and so on")
        }
        Happening::Connected { server } => format!("connected to {server}; waiting for jobs"),
        Happening::Considered { job, refusal: None } => format!("job {job}: admitted"),
        Happening::Considered {
            job,
            refusal: Some(reason),
        } => format!("job {job}: refused: {reason}"),
        Happening::Started { validation } => match validation {
            Some(found) => format!("start: validation accuracy {:.1} %", found.accuracy * 100.0),
            None => "start".into(),
        },
        Happening::CatchingUp { from, to } => format!(
            "this member stands after round {from}: asking a fellow member for the model of round {to}"
        ),
        Happening::Planned {
            round,
            rounds,
            attempt,
            cohort,
            parameters,
        } => {
            format!("round {round} of {rounds}, attempt {attempt}: {cohort} members, {parameters}")
        }
        Happening::Training { step, steps, .. } => format!("step {step} of {steps}"),
        Happening::Warning { said } => format!("warning: {said}"),
        Happening::Voided { reason } => format!("no model from this attempt: {reason}"),
        Happening::Finished(report) => finished(report),
        Happening::Ended {
            completed,
            rounds,
            reason,
        } => format!(
            "job {} after {rounds} rounds: {reason}",
            if *completed { "completed" } else { "ended" }
        ),
    }
}

/// A round as this member alone sees it: nothing of it was sent.
fn finished(report: &RoundReport) -> String {
    let mut said = format!(
        "round {} done: {} contributors",
        report.round, report.contributors
    );
    if let Some(loss) = report.training_loss {
        said.push_str(&format!(", training loss {loss:.3}"));
    }
    if let Some(found) = &report.validation {
        let accuracy = found.accuracy * 100.0;
        said.push_str(&format!(", validation accuracy {accuracy:.1} %"));
    }
    match report.epsilon {
        Some(epsilon) => said.push_str(&format!("; epsilon {epsilon:.3} spent")),
        None => said.push_str("; no differential privacy"),
    }
    if let Some(left) = report.budget_left {
        let left = (left * 100.0).floor();
        said.push_str(&format!(", {left} % of the dataset's budget left"));
    }
    let (up, down) = (report.bytes_up, report.bytes_down);
    said.push_str(&format!("; {up} B up, {down} B down"));
    said
}
