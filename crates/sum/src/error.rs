/// What can go wrong in adding, by who must act.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Bytes of a peer are not what the format says: the sender must act.
    #[error("malformed: {0}")]
    Malformed(String),
    /// No parameter set exists for what was asked: whoever asked must ask for less.
    #[error("refused: {0}")]
    Refused(String),
    /// This crate was called against its contract: our caller must act.
    #[error("misuse: {0}")]
    Misuse(String),
    /// A reader or a writer of ours failed: our disk or network must be looked at.
    #[error("fault: {0}")]
    Fault(String),
}
