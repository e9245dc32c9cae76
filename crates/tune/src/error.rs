//! The crate's one error, its variants by who must act.

/// Why a backbone, an encoder or a training step could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Bytes from outside are not what they claim to be: a model folder, a weights file, a
    /// data file, an adapter. Whoever made them must act.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Well-formed, but not something this crate agrees to work with (an unknown
    /// architecture, an activation it does not know).
    #[error("refused: {0}")]
    Refused(String),
    /// The caller broke a stated precondition (a wrong shape, a mask that is not
    /// right-padded).
    #[error("misuse: {0}")]
    Misuse(String),
    /// Our disk, our memory or the tensor library failed.
    #[error("fault: {0}")]
    Fault(String),
    /// The caller asked for training to stop, and it did.
    #[error("stopped before the end of training")]
    Stopped,
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Fault(error.to_string())
    }
}

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;
