//! What can go wrong, by who must act.

/// Errors of the demonstration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What a party's own code said.
    #[error(transparent)]
    Client(#[from] ciphertune_client::Error),
    /// A policy, or the evidence, said no.
    #[error("{0}")]
    Refused(String),
    /// The command line asks for what cannot be.
    #[error("{0}")]
    Usage(String),
    /// Something failed on this machine.
    #[error("fault: {0}")]
    Fault(String),
    /// Ctrl-C.
    #[error("stopped")]
    Stopped,
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The process's exit code: 1 refused or not verified, 2 usage, 3 fault.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) => error.exit_code(),
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Fault(_) | Self::Stopped => 3,
        }
    }

    pub(crate) fn fault(doing: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Self::Fault(format!("{doing}: {error}"))
    }
}

impl From<ciphertune_tune::Error> for Error {
    fn from(error: ciphertune_tune::Error) -> Self {
        Self::Client(error.into())
    }
}

impl From<ciphertune_identity::Error> for Error {
    fn from(error: ciphertune_identity::Error) -> Self {
        Self::Client(error.into())
    }
}

impl From<ciphertune_dp::Error> for Error {
    fn from(error: ciphertune_dp::Error) -> Self {
        Self::Client(error.into())
    }
}

impl From<ciphertune_policy::Error> for Error {
    fn from(error: ciphertune_policy::Error) -> Self {
        Self::Client(error.into())
    }
}
