use ciphertune_round::ShareIndex;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong in sealing and opening, by who must act.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Bytes of a peer are not what the format says: the sender must act.
    #[error("malformed: {0}")]
    Malformed(String),
    /// The protocol does not allow it: more members must answer, or another plan is needed.
    #[error("refused: {0}")]
    Refused(String),
    /// This crate was called against its contract: our caller must act.
    #[error("misuse: {0}")]
    Misuse(String),
    /// A reader, a writer or the operating system failed: our machine must be looked at.
    #[error("fault: {0}")]
    Fault(String),
    /// A cryptographic check failed: what it speaks of is not to be used, and the attempt is void
    /// unless another source passes. Says which check, and no more.
    #[error("check failed: {0}")]
    Failed(Check),
}

/// The checks of protocol §3, steps 5 and 6, as the audit record names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Check {
    /// HPKE did not open what a member sealed: altered, for another member, context or roster.
    #[error("what seat {0} sealed does not open here")]
    Sealed(ShareIndex),
    /// No t of the key-sum shares give a sum of keys of the right size, or they contradict each
    /// other.
    #[error("the shares do not give a sum of keys")]
    KeySum,
    /// SHA-256(sum) is not the one in the roster.
    #[error("the sum is not the one that the roster names")]
    Digest,
    /// The check values do not add up to the sum's.
    #[error("the sum is not the sum of what the contributors sent")]
    CheckValue,
    /// A residual error lies outside 9·σ·√|U|.
    #[error("a residual error of the sum is too large: wrong key, wrong context or wrong bodies")]
    Residual,
    /// An opened value lies outside |U|·B, or the padding is not zero.
    #[error("an opened value is outside its bound")]
    ValueBound,
    /// HPKE did not open a parcel: altered, for another member or another request.
    #[error("the parcel does not open here")]
    Parcel,
    /// tfhe's decryption of one block gives other words than ours.
    #[error("the second, independent opening disagrees")]
    SecondOpening,
}

impl From<ciphertune_sum::Error> for Error {
    fn from(error: ciphertune_sum::Error) -> Self {
        match error {
            ciphertune_sum::Error::Malformed(what) => Self::Malformed(what),
            ciphertune_sum::Error::Refused(what) => Self::Refused(what),
            ciphertune_sum::Error::Misuse(what) => Self::Misuse(what),
            ciphertune_sum::Error::Fault(what) => Self::Fault(what),
            other => Self::Fault(other.to_string()),
        }
    }
}

impl From<ciphertune_gauss::Error> for Error {
    fn from(error: ciphertune_gauss::Error) -> Self {
        Self::Fault(error.to_string())
    }
}
