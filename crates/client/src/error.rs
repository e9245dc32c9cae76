//! What can go wrong in a member's run, by who must act.

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or an object has bytes that make no sense: whoever wrote it must mend it.
    #[error("malformed {what}: {detail}")]
    Malformed {
        /// The file or object.
        what: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The policy, the ledger or the protocol says no; the rule and the numbers are in the words.
    #[error("refused: {0}")]
    Refused(String),
    /// The attempt ended without a model, and why.
    #[error("the attempt is void: {0}")]
    Void(String),
    /// The server cannot be reached, or turned a call down.
    #[error("server: {0}")]
    Server(String),
    /// The server knows this party's certificate, and lets it do nothing: it is revoked, has ended, or is of nobody in the
    /// manifest.
    #[error("the server turned this party away: {0}")]
    TurnedAway(String),
    /// A value that the caller must not pass.
    #[error("misuse: {0}")]
    Misuse(String),
    /// Something failed on this machine.
    #[error("fault: {0}")]
    Fault(String),
    /// Stopped from outside (Ctrl-C, the end of the job).
    #[error("stopped")]
    Stopped,
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The process's exit code: 1 refused or not verified, 2 usage, 3 fault.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Malformed { .. } | Self::Refused(_) | Self::Void(_) | Self::TurnedAway(_) => 1,
            Self::Misuse(_) => 2,
            Self::Server(_) | Self::Fault(_) | Self::Stopped => 3,
        }
    }

    pub(crate) fn malformed(what: impl Into<String>, detail: impl ToString) -> Self {
        Self::Malformed {
            what: what.into(),
            detail: detail.to_string(),
        }
    }

    pub(crate) fn fault(doing: impl std::fmt::Display, error: impl std::fmt::Display) -> Self {
        Self::Fault(format!("{doing}: {error}"))
    }
}

impl From<ciphertune_round::Error> for Error {
    fn from(error: ciphertune_round::Error) -> Self {
        match error {
            ciphertune_round::Error::Malformed { object, detail } => {
                Self::malformed(object, detail)
            }
            ciphertune_round::Error::Misuse(said) => Self::Misuse(said),
            ciphertune_round::Error::Refused(said) => Self::Refused(said),
            refused => Self::Refused(refused.to_string()),
        }
    }
}

impl From<tonic::Status> for Error {
    fn from(status: tonic::Status) -> Self {
        use ciphertune_wire::Refusal;
        if let Some(reason) = ciphertune_wire::turned_away(&status) {
            return Self::TurnedAway(reason.into());
        }
        match Refusal::of(&status) {
            // The server has gone on: this attempt is over for it.
            Some(Refusal::Late | Refusal::Conflict | Refusal::Unknown) => {
                Self::Void(format!("server: {}", status.message()))
            }
            Some(
                Refusal::Fault
                | Refusal::Busy
                | Refusal::Full
                | Refusal::Closing
                | Refusal::StaleList,
            ) => Self::Server(status.message().to_owned()),
            Some(Refusal::Stranger | Refusal::Revoked | Refusal::Expired) => {
                Self::TurnedAway(status.message().to_owned())
            }
            Some(_) => Self::Refused(format!("server: {}", status.message())),
            None => Self::Server(lost(&status)),
        }
    }
}

/// Why a call failed that the server did not answer.
fn lost(status: &tonic::Status) -> String {
    let mut said = match status.message() {
        "" => status.code().to_string(),
        said => said.to_owned(),
    };
    // A connection that broke: what broke it stands at the end of the chain.
    let mut cause = std::error::Error::source(status);
    while let Some(deeper) = cause.and_then(std::error::Error::source) {
        cause = Some(deeper);
    }
    if let Some(cause) = cause.map(ToString::to_string) {
        said = format!("{said} ({cause})");
    }
    said
}

impl From<ciphertune_wire::Error> for Error {
    fn from(error: ciphertune_wire::Error) -> Self {
        match error {
            ciphertune_wire::Error::TurnedAway { reason, .. } => Self::TurnedAway(reason.into()),
            other => Self::Server(other.to_string()),
        }
    }
}

impl From<ciphertune_identity::Error> for Error {
    fn from(error: ciphertune_identity::Error) -> Self {
        match error {
            ciphertune_identity::Error::Refused(said) => Self::Refused(said),
            ciphertune_identity::Error::Fault(said) => Self::Fault(said),
            ciphertune_identity::Error::Misuse(said) => Self::Misuse(said),
            ciphertune_identity::Error::Malformed(said) => match said.split_once(": ") {
                Some((what, detail)) => Self::malformed(what, detail),
                None => Self::malformed("file", said),
            },
            other => Self::malformed("file", other),
        }
    }
}

impl From<ciphertune_policy::Error> for Error {
    fn from(error: ciphertune_policy::Error) -> Self {
        Self::malformed("policy", error)
    }
}

impl From<ciphertune_dp::Error> for Error {
    fn from(error: ciphertune_dp::Error) -> Self {
        match error {
            ciphertune_dp::Error::Refused(said) => Self::Refused(said),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<ciphertune_seal::Error> for Error {
    fn from(error: ciphertune_seal::Error) -> Self {
        match error {
            ciphertune_seal::Error::Fault(said) => Self::Fault(said),
            ciphertune_seal::Error::Misuse(said) => Self::Misuse(said),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<ciphertune_ledger::Error> for Error {
    fn from(error: ciphertune_ledger::Error) -> Self {
        match error {
            ciphertune_ledger::Error::Fault(said) => Self::Fault(said),
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<ciphertune_audit::Error> for Error {
    fn from(error: ciphertune_audit::Error) -> Self {
        Self::Fault(format!("audit log: {error}"))
    }
}

impl From<ciphertune_tune::Error> for Error {
    fn from(error: ciphertune_tune::Error) -> Self {
        match error {
            ciphertune_tune::Error::Malformed(said) => Self::malformed("data or model", said),
            ciphertune_tune::Error::Refused(said) => Self::Refused(said),
            ciphertune_tune::Error::Misuse(said) => Self::Misuse(said),
            ciphertune_tune::Error::Stopped => Self::Stopped,
            other => Self::Fault(other.to_string()),
        }
    }
}
