//! How commands speak: words or JSON, and one way to fail.

use std::{
    fs::OpenOptions,
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::ExitCode,
};

use ciphertune_client::{Error, Result};
use ciphertune_round::Envelope;
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

/// Words of another's on one line of ours.
pub fn one_line(words: &str) -> String {
    // What turns the direction of writing could turn our words around.
    let turns = |c: char| matches!(c, '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    let clean = |c: char| if c.is_control() || turns(c) { ' ' } else { c };
    words.chars().map(clean).collect()
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
pub fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::Misuse(format!("cannot read {}: {error}", path.display())))
}

/// Writes a file that must not be there yet, to its last byte.
pub fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    let wrong =
        |error: std::io::Error| Error::Misuse(format!("cannot write {}: {error}", path.display()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o644)
        .open(path)
        .map_err(wrong)?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .map_err(wrong)
}

/// Reads a signed object.
pub fn envelope(path: &Path) -> Result<Envelope> {
    let bytes = std::fs::read(path)
        .map_err(|error| Error::Misuse(format!("cannot read {}: {error}", path.display())))?;
    Envelope::decode(&bytes).map_err(|_| Error::Malformed {
        what: path.display().to_string(),
        detail: "not a signed object: `ciphertune policy sign` makes one of a policy's TOML".into(),
    })
}
