//! A whole federation on this machine: see `--help`.

use std::process::ExitCode;

use ciphertune_examples::{
    demo,
    options::{Arguments, Child},
    party,
};
use clap::Parser as _;

// An allocator that keeps what a training step gives back for the next one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Some(Child::Party { party }) = arguments.child {
        return party::play(party);
    }
    match demo::run(&arguments.options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
