//! What this machine does with the parts of a round: see `--help`.

use std::process::ExitCode;

use ciphertune_examples::{
    bench::{
        self,
        options::{Arguments, Command},
    },
    party,
};
use clap::Parser as _;

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Party { party } => return party::play(party),
        Command::Seal(options) => bench::seal(&options),
        Command::Sockets(options) => bench::sockets(&options),
        Command::Load(options) => bench::load(&options),
        Command::Committee(options) => bench::committee(&options),
        Command::Account(options) => bench::account(&options),
        Command::Privatise(options) => bench::privatise(&options),
        Command::Step(options) => bench::step(&options),
        Command::Audit(options) => bench::audit(&options),
        Command::AuditWorker(worker) => bench::audit::play(&worker),
        Command::Tune(options) => bench::tune(&options),
        Command::TuneWorker(worker) => bench::tune::worker::play(&worker),
        Command::Child(child) => bench::memory::play(&child),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
