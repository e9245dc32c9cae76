//! What a peer is told: a code and a fixed sentence. The detail goes to one's own log.

use tonic::{Code, Status};

/// Why a call was turned down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The caller's certificate names nobody in the manifest.
    Stranger,
    /// The caller's certificate is in the authority's revocation list.
    Revoked,
    /// The caller's certificate does not hold now, or is older than the policy allows.
    Expired,
    /// The server has no revocation list in force: it turns everybody away until its operator installs the next.
    StaleList,
    /// The caller's role does not allow this call.
    Role,
    /// The bytes are not such an object, or its signature does not verify.
    Malformed,
    /// Larger than allowed, or more of it than announced.
    TooLarge,
    /// There is no such job, context, body or sum.
    Unknown,
    /// It comes too late: the phase that takes it has ended.
    Late,
    /// It comes too early, or beside an object that it contradicts.
    Conflict,
    /// The caller has used up what it may hold here.
    Exhausted,
    /// The caller calls more often, or more at once, than anybody needs to: it passes.
    Busy,
    /// The server's disk is full: it has paused.
    Full,
    /// A fault of the server's own: its operator must look.
    Fault,
    /// The server is shutting down.
    Closing,
}

impl Refusal {
    const ALL: [Self; 15] = [
        Self::Stranger,
        Self::Revoked,
        Self::Expired,
        Self::StaleList,
        Self::Role,
        Self::Malformed,
        Self::TooLarge,
        Self::Unknown,
        Self::Late,
        Self::Conflict,
        Self::Exhausted,
        Self::Busy,
        Self::Full,
        Self::Fault,
        Self::Closing,
    ];

    /// The gRPC code.
    pub const fn code(self) -> Code {
        match self {
            Self::Stranger | Self::Revoked | Self::Expired => Code::Unauthenticated,
            Self::Role => Code::PermissionDenied,
            Self::Malformed => Code::InvalidArgument,
            Self::TooLarge => Code::OutOfRange,
            Self::Unknown => Code::NotFound,
            Self::Late => Code::DeadlineExceeded,
            Self::Conflict => Code::FailedPrecondition,
            Self::Exhausted => Code::ResourceExhausted,
            Self::Fault => Code::Internal,
            // Every gRPC client knows that this one may pass; it would take `ResourceExhausted` for the last word.
            Self::Busy | Self::Closing | Self::StaleList | Self::Full => Code::Unavailable,
        }
    }

    /// The sentence.
    pub const fn sentence(self) -> &'static str {
        match self {
            Self::Stranger => "your certificate is not in this federation's manifest",
            Self::Revoked => {
                "your certificate is revoked; ask your federation's authority for another"
            }
            Self::Expired => {
                "your certificate does not hold now, or is older than the policy allows; have the authority renew it, and install the kit"
            }
            Self::StaleList => {
                "the server has no revocation list that holds now; its operator must install the authority's newest"
            }
            Self::Role => "your role does not allow this call",
            Self::Malformed => "the object is malformed or its signature does not verify",
            Self::TooLarge => "the object is larger than allowed",
            Self::Unknown => "there is no such job, context or object here",
            Self::Late => "the phase that takes this has ended",
            Self::Conflict => "this contradicts what the server already holds, or comes too early",
            Self::Exhausted => "you have used up what you may hold here",
            Self::Busy => "too many of your calls at once; wait a little and try again",
            Self::Full => {
                "the server's disk is full: it has paused, and goes on when there is room again"
            }
            Self::Fault => "the server has a fault; its operator's log says which",
            Self::Closing => "the server is shutting down; try again later",
        }
    }

    /// What a status from a server means, if it is one of these.
    pub fn of(status: &Status) -> Option<Self> {
        Self::ALL.into_iter().find(|refusal| {
            refusal.code() == status.code() && refusal.sentence() == status.message()
        })
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Status::new(refusal.code(), refusal.sentence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_survives_its_status() {
        for refusal in Refusal::ALL {
            assert_eq!(Refusal::of(&refusal.into()), Some(refusal));
        }
        assert_eq!(Refusal::of(&Status::internal("another's words")), None);
    }
}
