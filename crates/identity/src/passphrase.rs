//! The pass-phrase that a key file is encrypted under.

use std::path::Path;

use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    file,
};

/// A pass-phrase: 8 to 1024 bytes. Wiped on drop; never printed.
pub struct Passphrase(Zeroizing<String>);

impl Passphrase {
    /// The shortest that is taken, in bytes: against slips, not against guessing. The key file's scrypt does that.
    pub const MIN_BYTES: usize = 8;
    /// The longest.
    pub const MAX_BYTES: usize = 1024;

    /// Takes what a prompt returned.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = Zeroizing::new(text.into());
        if !(Self::MIN_BYTES..=Self::MAX_BYTES).contains(&text.len()) {
            return Err(Error::Refused(format!(
                "a pass-phrase has {} to {} bytes, this one {}",
                Self::MIN_BYTES,
                Self::MAX_BYTES,
                text.len()
            )));
        }
        Ok(Self(text))
    }

    /// Whether both were typed alike.
    pub fn is_like(&self, other: &Self) -> bool {
        *self.0 == *other.0
    }

    /// Reads the first line of a file that nobody else may read (`CIPHERTUNE_PASSPHRASE_FILE`).
    pub fn read(path: &Path) -> Result<Self> {
        let bytes = Zeroizing::new(file::read_private(path, 2 * Self::MAX_BYTES as u64)?);
        let text = std::str::from_utf8(&bytes)
            .map_err(|_| Error::Malformed(format!("{}: not UTF-8", path.display())))?;
        Self::new(text.lines().next().unwrap_or_default())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    static_assertions::assert_not_impl_any!(
        Passphrase: Clone, Copy, std::fmt::Debug, std::fmt::Display, PartialEq, serde::Serialize
    );

    #[test]
    fn an_empty_or_short_passphrase_is_refused() {
        assert!(Passphrase::new("").is_err());
        assert!(Passphrase::new("seven77").is_err());
        assert!(Passphrase::new("eight888").is_ok());
        assert!(Passphrase::new("x".repeat(1025)).is_err());
    }

    #[test]
    fn a_passphrase_file_gives_its_first_line_and_must_be_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("passphrase");
        fs::write(&path, "correct horse\nbattery\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Passphrase::read(&path), Err(Error::Refused(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(
            Passphrase::read(&path).unwrap().as_bytes(),
            b"correct horse"
        );
    }
}
