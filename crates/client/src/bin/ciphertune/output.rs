//! How commands speak: words or JSON, and one way to fail.

use std::{
    io::{ErrorKind, Write as _},
    process::ExitCode,
};

use ciphertune_client::{Error, Result};
use serde::Serialize;

/// Prints a value as one line of JSON.
pub fn json(value: &impl Serialize) -> Result<()> {
    let line = serde_json::to_string(value)
        .map_err(|error| Error::Fault(format!("writing JSON: {error}")))?;
    say(&line)
}

/// Prints a line. Whoever reads standard output may have read enough and gone: then it ends here, without a word.
pub fn say(line: &str) -> Result<()> {
    match writeln!(std::io::stdout(), "{line}") {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Error::Fault(format!("writing to standard output: {error}"))),
    }
}

/// Prints an error: words on standard error, or JSON on standard output.
pub fn error(error: &Error, as_json: bool) {
    if as_json {
        println!(
            "{}",
            serde_json::json!({"error": error.to_string(), "exit_code": error.exit_code()})
        );
    } else {
        eprintln!("error: {error}");
    }
}

/// Runs a command on a runtime of its own.
pub fn on_runtime(command: impl Future<Output = Result<ExitCode>>) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::Fault(format!("starting the runtime: {error}")))?;
    let outcome = runtime.block_on(command);
    // A thread that still trains is told to stop and not waited for.
    runtime.shutdown_background();
    outcome
}

/// Resolves on Ctrl-C or SIGTERM.
pub async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut terminate) = signal(SignalKind::terminate()) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

/// Reads a text file, naming it in the error.
pub fn read(path: &std::path::Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::Misuse(format!("cannot read {}: {error}", path.display())))
}
