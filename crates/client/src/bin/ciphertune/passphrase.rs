//! The pass-phrase of the party's key: from a file or a prompt, never from the command line.

use std::path::PathBuf;

use ciphertune_client::{Error, Result};
use ciphertune_identity::Passphrase;

/// A new pass-phrase: as [`passphrase`], but typed twice.
pub fn new_passphrase() -> Result<Passphrase> {
    let first = passphrase()?;
    if std::env::var_os("CIPHERTUNE_PASSPHRASE_FILE").is_some() {
        return Ok(first);
    }
    let again = ask("The same again: ")?;
    match first.is_like(&again) {
        true => Ok(first),
        false => Err(Error::Misuse(
            "the two pass-phrases differ; nothing was made".into(),
        )),
    }
}

/// Reads the file that CIPHERTUNE_PASSPHRASE_FILE names, else asks.
pub fn passphrase() -> Result<Passphrase> {
    if let Some(path) = std::env::var_os("CIPHERTUNE_PASSPHRASE_FILE") {
        return Passphrase::read(&PathBuf::from(path)).map_err(|error| match Error::from(error) {
            Error::Fault(said) => {
                Error::Misuse(format!("{said} (CIPHERTUNE_PASSPHRASE_FILE names it)"))
            }
            other => other,
        });
    }
    ask("Pass-phrase of this party's key: ")
}

fn ask(prompt: &str) -> Result<Passphrase> {
    let typed = rpassword::prompt_password(prompt).map_err(|error| {
        Error::Misuse(format!(
            "cannot ask for the pass-phrase ({error}); set CIPHERTUNE_PASSPHRASE_FILE to a file of mode 0600"
        ))
    })?;
    Ok(Passphrase::new(typed)?)
}
