//! What can be wrong, by who must act.

/// An error of this crate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The document's author must act: what is wrong, and where.
    #[error("{0}")]
    Malformed(String),
    /// The policies cannot all be obeyed at once, or the plan goes beyond them.
    #[error("{0}")]
    Refused(String),
    /// Our caller must act.
    #[error("{0}")]
    Misuse(String),
}
