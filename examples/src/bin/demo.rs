//! A whole federation on this machine: see `--help`.

use std::process::ExitCode;

use ciphertune_examples::{
    corpus::Corpus,
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
    let options = &arguments.options;
    match Corpus::of(options).and_then(|corpus| demo::run(options, corpus)) {
        Ok(finished) => {
            if options.json {
                eprint!("\n{}", finished.words);
            } else {
                print!("\n{}", finished.words);
            }
            ExitCode::from(u8::from(!finished.summary.holds()))
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
