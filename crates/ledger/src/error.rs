//! What can go wrong, by who must act.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The ledger's file is not what it claims to be: it was changed, copied back, or never was a ledger.
    #[error("{0}")]
    Malformed(String),
    /// The budget says no; says the rule and the numbers.
    #[error("{0}")]
    Refused(String),
    /// Our caller must act.
    #[error("{0}")]
    Misuse(String),
    /// Our disk or clock.
    #[error("{0}")]
    Fault(String),
}

/// The result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        Self::Fault(format!("ledger: {error}"))
    }
}
