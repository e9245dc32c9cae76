//! What can go wrong, by who must act.

use ciphertune_wire::Refusal;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file that the operator gave is not what it must be.
    #[error("malformed {0}")]
    Malformed(String),
    /// A peer was turned down.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The operator's configuration does not fit together.
    #[error("misuse: {0}")]
    Misuse(String),
    /// The disk, the database or the network failed.
    #[error("fault: {0}")]
    Fault(String),
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A peer was turned down: it hears the code and its fixed sentence; the detail goes to our own log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", code.sentence())]
pub struct Refused {
    /// What the peer is told.
    pub code: Refusal,
    /// What our log is told.
    pub detail: String,
}

impl Refused {
    pub(crate) fn new(code: Refusal, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
        }
    }

    pub(crate) fn malformed(detail: impl ToString) -> Self {
        Self::new(Refusal::Malformed, detail.to_string())
    }
}

impl Error {
    /// What a peer is told when this comes of its call.
    pub(crate) fn code(&self) -> Refusal {
        match self {
            Self::Refused(refused) => refused.code,
            Self::Malformed(_) | Self::Misuse(_) | Self::Fault(_) => Refusal::Fault,
        }
    }
}

pub(crate) fn fault(doing: &str, error: impl std::fmt::Display) -> Error {
    Error::Fault(format!("{doing}: {error}"))
}
