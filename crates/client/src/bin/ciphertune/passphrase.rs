//! The pass-phrase of the party's key: from a file or a prompt, never from the command line.

use std::path::PathBuf;

use ciphertune_client::{Error, Result};
use ciphertune_identity::Passphrase;

/// Reads the file that CIPHERTUNE_PASSPHRASE_FILE names, else asks.
pub fn passphrase() -> Result<Passphrase> {
    if let Some(path) = std::env::var_os("CIPHERTUNE_PASSPHRASE_FILE") {
        return Ok(Passphrase::read(&PathBuf::from(path))?);
    }
    let typed = rpassword::prompt_password("Pass-phrase of this party's key: ").map_err(|error| {
        Error::Misuse(format!(
            "cannot ask for the pass-phrase ({error}); set CIPHERTUNE_PASSPHRASE_FILE to a file of mode 0600"
        ))
    })?;
    Ok(Passphrase::new(typed)?)
}
