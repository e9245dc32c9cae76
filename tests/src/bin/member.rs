//! A member with plain vectors, as a process of its own that a test can kill:
//! `member HOME MEMBER DIMENSION PLAINTEXT [STEP]`. With STEP it aborts at its STEP-th durable write.
//!
//! It says on standard output what attempts it left, in words, and how it ended.

use std::{num::NonZeroU32, path::PathBuf, process::ExitCode, sync::Arc};

use ciphertune_client::{
    disk::Disk,
    member::{self, Options, all_cores},
    report::Happening,
    site::Site,
};
use ciphertune_identity::Home;
use ciphertune_tests::{
    cut::{Cut, End, Where},
    federation::DATASET,
    keys::passphrase,
    learner::Vectors,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [home, member, dimension, plaintext, step @ ..] = arguments.as_slice() else {
        eprintln!("usage: member HOME MEMBER DIMENSION PLAINTEXT [STEP]");
        return ExitCode::from(2);
    };
    let number = |text: &String| text.parse::<usize>().expect("a number");
    let disk = match step {
        [step, ..] => Disk::watched(Arc::new(Cut::at(number(step), Where::Before, End::Aborts))),
        [] => Disk::default(),
    };
    let site = Site::open(Home::new(home), &passphrase()).expect("a home");
    let learner = Vectors::of(number(member), number(dimension));
    let options = Options {
        dataset: DATASET.into(),
        one_job: true,
        threads: all_cores(),
        measure_every: NonZeroU32::MIN,
        dangerous_plaintext: Some(PathBuf::from(plaintext)),
    };
    let observer = Box::new(|happening: &Happening| {
        if let Happening::Voided { reason } = happening {
            println!("left: {reason}");
        }
    });
    let ran = member::run(
        site.on(disk),
        Box::new(learner),
        options,
        observer,
        std::future::pending(),
    )
    .await;
    match ran {
        Ok(outcome) if outcome.completed => println!("completed"),
        Ok(outcome) => println!("ended: {}", outcome.reason),
        Err(error) => {
            println!("error: {error}");
            return ExitCode::from(error.exit_code());
        }
    }
    ExitCode::SUCCESS
}
