//! What can go wrong, by who must act.

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file or text is not what it claims to be: it was changed, or never was a log.
    #[error("{0}")]
    Malformed(String),
    /// Our caller must act.
    #[error("{0}")]
    Misuse(String),
    /// Our disk or clock.
    #[error("{0}")]
    Fault(String),
}

/// The result of this crate.
pub type Result<T> = std::result::Result<T, Error>;
