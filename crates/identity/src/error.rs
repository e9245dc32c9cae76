//! What can be wrong with an identity.

/// Errors of this crate, by who must act.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not such an object: their author must mend them.
    #[error("malformed {0}")]
    Malformed(String),
    /// Well formed, and not accepted: who asks must ask for something else.
    #[error("refused: {0}")]
    Refused(String),
    /// The caller passed what it must not.
    #[error("misuse: {0}")]
    Misuse(String),
    /// The disk, the operating system or a library failed.
    #[error("fault: {0}")]
    Fault(String),
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The same, of the file at `path`.
    pub(crate) fn within(self, path: &std::path::Path) -> Self {
        match self {
            Self::Malformed(detail) => Self::Malformed(format!("{}: {detail}", path.display())),
            other => other,
        }
    }
}

pub(crate) fn malformed(object: &str, detail: impl std::fmt::Display) -> Error {
    Error::Malformed(format!("{object}: {detail}"))
}

pub(crate) fn fault(doing: &str, error: impl std::fmt::Display) -> Error {
    Error::Fault(format!("{doing}: {error}"))
}

impl From<ciphertune_round::Error> for Error {
    fn from(error: ciphertune_round::Error) -> Self {
        match error {
            ciphertune_round::Error::Malformed { object, detail } => malformed(object, detail),
            ciphertune_round::Error::Misuse(detail) => Self::Misuse(detail),
            other => Self::Refused(other.to_string()),
        }
    }
}
