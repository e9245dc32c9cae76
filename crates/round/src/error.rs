//! What can be wrong with a signed object.

/// Errors of this crate, by who must act.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not such an object: their author must mend them.
    #[error("malformed {object}: {detail}")]
    Malformed {
        /// The object's name.
        object: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The signature does not verify. Says no more on purpose.
    #[error("the signature on this {0} does not verify")]
    Signature(&'static str),
    /// A well-formed, signed object that the protocol does not allow here.
    #[error("refused: {0}")]
    Refused(String),
    /// A value that the caller must not pass.
    #[error("misuse: {0}")]
    Misuse(String),
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

pub(crate) fn malformed(object: &'static str, detail: impl Into<String>) -> Error {
    Error::Malformed {
        object,
        detail: detail.into(),
    }
}
