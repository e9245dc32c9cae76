//! What happens to a job, and what is to be done about it.

use ciphertune_identity::RevocationList;
use ciphertune_policy::Instant;
use ciphertune_round::{
    Abort, Admission, Agreement, Context, Digest, Echo, Envelope, Fingerprint, Header, Parcel,
    ParcelRequest, Release, ShareIndex, Signed, label::Label,
};
use ciphertune_wire::proto::EventKind;
use serde_json::Value;

use crate::moment::Moment;

/// Something that happened to a job. Each is stored as it is: replaying the stored inputs gives the state again.
#[derive(Clone, Debug)]
pub enum Input {
    /// A member answers the job.
    Admission(Signed<Admission>),
    /// Who has an open event stream, each with the next of its unused one-time keys, in the manifest's order; and
    /// entropy for a plan, should one be due.
    Poll {
        /// The members present.
        present: Vec<Present>,
        /// 32 bytes of the operating system's entropy.
        nonce: [u8; 32],
        /// The revocation list in force.
        list: ListInForce,
    },
    /// A member's certificate was revoked.
    Revoked {
        /// Whose.
        member: Fingerprint,
    },
    /// A member's header; its sealed shares have the digests that it states.
    Header(Signed<Header>),
    /// A member's body is here, whole, and every word of it is below q.
    Body {
        /// The attempt.
        context: Context,
        /// Whose.
        member: Fingerprint,
        /// SHA-256 of the body.
        digest: Digest,
    },
    /// The bodies are added up.
    Summed {
        /// The attempt.
        context: Context,
        /// SHA-256 of the sum.
        sum: Digest,
    },
    /// The bodies could not be added up.
    SumFailed {
        /// The attempt.
        context: Context,
    },
    /// A member's echo.
    Echo(Signed<Echo>),
    /// A member's release; its sealed shares have the digests that it states.
    Release(Signed<Release>),
    /// A member's agreement.
    Agreement(Signed<Agreement>),
    /// A member asks for the model that it missed.
    ParcelRequest(Signed<ParcelRequest>),
    /// A parcel's sealed bytes are here, whole, with the digest that it states.
    Parcel(Signed<Parcel>),
    /// Somebody who may stops the job.
    Abort(Signed<Abort>),
    /// Time passed.
    Deadline,
    /// There is no room on the disk: the job waits, and its deadlines with it.
    Held {
        /// Since when.
        since: Moment,
    },
    /// There is room again: every deadline is later by as long as the job waited.
    Resumed,
    /// The server was away: let members come back before anything is decided on who is present.
    Restarted,
}

impl Input {
    /// What kind of signed object came; empty for what nobody signed.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Admission(_) => "admission",
            Self::Header(_) => "contribution",
            Self::Echo(_) => "echo",
            Self::Release(_) => "release",
            Self::Agreement(_) => "agreement",
            Self::ParcelRequest(_) => "parcel request",
            Self::Parcel(_) => "parcel",
            Self::Abort(_) => "abort",
            _ => "",
        }
    }

    /// Who signed it.
    pub(crate) fn signer(&self) -> Option<Fingerprint> {
        match self {
            Self::Admission(it) => Some(it.signer()),
            Self::Header(it) => Some(it.signer()),
            Self::Echo(it) => Some(it.signer()),
            Self::Release(it) => Some(it.signer()),
            Self::Agreement(it) => Some(it.signer()),
            Self::ParcelRequest(it) => Some(it.signer()),
            Self::Parcel(it) => Some(it.signer()),
            Self::Abort(it) => Some(it.signer()),
            _ => None,
        }
    }
}

/// The authority's revocation list that the server holds callers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListInForce {
    /// Its number.
    pub number: u64,
    /// Its digest.
    pub digest: Digest,
    /// When it was issued.
    pub issued_at: Instant,
}

impl From<&RevocationList> for ListInForce {
    fn from(list: &RevocationList) -> Self {
        let issued_at = Instant::from_seconds(list.validity().not_before());
        Self {
            number: list.number(),
            digest: list.digest(),
            issued_at: issued_at.unwrap_or(Instant::EPOCH),
        }
    }
}

/// A member with an open event stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Present {
    /// Who.
    pub member: Fingerprint,
    /// Its next unused one-time key; `None` when its stock is empty.
    pub one_time_key: Option<Envelope>,
}

/// What is to be done, in this order. All that is durable of it becomes so in one transaction before anything is announced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Store the input: it changed the job.
    Persist,
    /// Put a new attempt on record; its one-time keys are spent for good.
    OpenContext {
        /// The attempt.
        context: Context,
        /// The keys, as their owners signed them.
        keys: Vec<Envelope>,
    },
    /// Append to the events.
    Emit(Announcement),
    /// Throw the upload away.
    DiscardBody {
        /// The attempt.
        context: Context,
        /// The sender's seat.
        seat: ShareIndex,
    },
    /// Add these members' bodies; answer with [`Input::Summed`] or [`Input::SumFailed`].
    StartSum {
        /// The attempt.
        context: Context,
        /// Whose bodies, by seat.
        seats: Vec<ShareIndex>,
    },
    /// Delete bodies, shares and sum of an attempt.
    DeleteContext(Context),
    /// Append to the audit log.
    Note {
        /// One word.
        kind: &'static str,
        /// Names, counts and digests; never anything that depends on data.
        fields: Vec<(&'static str, Value)>,
        /// The signed object that it rests on, which is kept beside the log.
        on: Option<Object>,
    },
}

/// A signed object that an audit entry rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// Another signed it.
    Said(Envelope),
    /// What the server itself announced last in this step.
    Announced,
}

/// Which sealed shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shares {
    /// Of one member's key.
    Key,
    /// Of the sum of keys.
    KeySum,
}

/// An event: somebody's object as it was signed, or one that the server is to sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Announcement {
    /// Signed by another.
    Said(EventKind, Envelope),
    /// To be signed by the server under a label.
    Own(EventKind, Label, Vec<u8>),
}

pub(crate) fn note<const K: usize>(
    kind: &'static str,
    fields: [(&'static str, Value); K],
) -> Effect {
    Effect::Note {
        kind,
        fields: fields.into(),
        on: None,
    }
}

impl Effect {
    /// The same note, on an object that another signed.
    pub(crate) fn on(self, envelope: &Envelope) -> Self {
        self.resting_on(Object::Said(envelope.clone()))
    }

    /// The same note, on what the server announced last in this step.
    pub(crate) fn on_announced(self) -> Self {
        self.resting_on(Object::Announced)
    }

    fn resting_on(self, object: Object) -> Self {
        match self {
            Self::Note { kind, fields, .. } => Self::Note {
                kind,
                fields,
                on: Some(object),
            },
            other => other,
        }
    }
}
