//! Many runs of the demonstration, compared: see `--help`.

use std::process::ExitCode;

use ciphertune_examples::{
    experiment::{
        self,
        options::{Arguments, Command},
    },
    party,
};
use clap::Parser as _;

// As in `demo`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Party { party } => return party::play(party),
        Command::Privacy(options) => experiment::privacy::run(&options),
        Command::Canaries(options) => experiment::canaries::run(&options),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
