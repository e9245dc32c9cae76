//! `ciphertune`: what members, researchers, officers and auditors run.

mod adapter;
mod audit;
mod backbone;
mod budget;
mod eval;
mod generate;
mod identity;
mod job;
mod join;
mod output;
mod params;
mod passphrase;
mod policy;
mod predict;
mod privacy;
mod question;
mod tune;

use std::{io::IsTerminal as _, path::PathBuf, process::ExitCode};

use ciphertune_client::Result;
use ciphertune_identity::Home;
use clap::{Parser, Subcommand};

/// Federated p-tuning through sealed sums: members train, nobody else sees an update.
///
/// Exit codes: 0 done, 1 refused or not verified, 2 usage, 3 fault.
#[derive(Parser)]
#[command(name = "ciphertune", version, propagate_version = true)]
struct Arguments {
    /// This party's folder: keys, certificates, policies, ledger, audit log; ~/.ciphertune unless given.
    #[arg(long, global = true, env = "CIPHERTUNE_HOME", value_name = "DIR")]
    home: Option<PathBuf>,
    /// One JSON object a line on standard output instead of words.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Take part in the federation's jobs as a member, until stopped.
    Join(join::Join),
    /// Submit a job, ask how jobs stand, stop one.
    #[command(subcommand)]
    Job(job::Job),
    /// Who is who: keys made at home, certificates, the manifest, kits, revocation.
    #[command(subcommand)]
    Identity(identity::Command),
    /// Policies: are they valid, what do they mean, what differs, what is the strictest; sign one, say who signed one.
    #[command(subcommand)]
    Policy(policy::Command),
    /// Show the encryption parameters that follow from a cohort and a value bound.
    #[command(subcommand)]
    Params(params::Command),
    /// What a schedule costs in differential privacy, and how much noise an epsilon needs.
    #[command(subcommand)]
    Privacy(privacy::Command),
    /// What this member's datasets have left of their privacy budgets, what each round cost, what would still fit.
    #[command(subcommand)]
    Budget(budget::Command),
    /// P-tune on this machine alone: a baseline, or a federation's prompt continued on a member's own data.
    Tune(Box<tune::Tune>),
    /// How good a tuned prompt is on labelled records: loss, accuracy, macro F1, confusion table.
    Eval(eval::Eval),
    /// Labels for texts, from the command line or standard input.
    Predict(predict::Predict),
    /// Text behind a tuned prompt.
    Generate(generate::Generate),
    /// Write a tuned folder, which PEFT loads too, from another or from a federation's job.
    Export(adapter::Export),
    /// Make a tuned folder of an adapter that PEFT saved.
    Import(adapter::Import),
    /// Check an audit log.
    #[command(subcommand)]
    Audit(audit::Command),
}

/// What every command is given.
struct Common {
    home: Home,
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into()),
        )
        .init();
    let common = Common {
        home: Home::new(arguments.home.unwrap_or_else(default_home)),
        json: arguments.json,
    };
    match run(arguments.command, &common) {
        Ok(code) => code,
        Err(error) => {
            output::error(&error, common.json);
            ExitCode::from(error.exit_code())
        }
    }
}

fn run(command: Command, common: &Common) -> Result<ExitCode> {
    match command {
        Command::Join(join) => output::on_runtime(join.run(common)),
        Command::Job(job) => output::on_runtime(job.run(common)),
        Command::Identity(command) => command.run(common),
        Command::Policy(command) => command.run(common),
        Command::Params(command) => command.run(common),
        Command::Privacy(command) => command.run(common),
        Command::Budget(command) => output::on_runtime(command.run(common)),
        Command::Tune(tune) => tune.run(common),
        Command::Eval(eval) => eval.run(common),
        Command::Predict(predict) => predict.run(common),
        Command::Generate(generate) => generate.run(common),
        Command::Export(export) => export.run(common),
        Command::Import(import) => import.run(common),
        Command::Audit(command) => command.run(common),
    }
}

fn default_home() -> PathBuf {
    std::env::var_os("HOME")
        .map_or_else(PathBuf::new, PathBuf::from)
        .join(".ciphertune")
}
