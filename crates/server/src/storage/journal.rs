//! Inputs as they are stored. Replaying them gives the machine again.

use ciphertune_policy::Instant;
use ciphertune_round::{Context, Digest, Envelope, Fingerprint, Keyring, Signed};
use prost::Message;

use crate::{
    error::{Error, Result, fault},
    moment::Moment,
    phase::{Input, ListInForce, Present},
};

/// One stored input. Which fields are used depends on `kind`.
#[derive(Clone, PartialEq, Message)]
pub struct Entry {
    #[prost(uint32, tag = "1")]
    kind: u32,
    /// An envelope, for inputs that are signed objects.
    #[prost(bytes = "vec", tag = "2")]
    object: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    context: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    member: Vec<u8>,
    /// A digest, or a nonce.
    #[prost(bytes = "vec", tag = "5")]
    digest: Vec<u8>,
    #[prost(message, repeated, tag = "6")]
    present: Vec<StoredPresent>,
    /// The revocation list in force.
    #[prost(message, optional, tag = "7")]
    list: Option<StoredList>,
    /// A moment.
    #[prost(uint64, tag = "8")]
    millis: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredList {
    #[prost(uint64, tag = "1")]
    number: u64,
    #[prost(bytes = "vec", tag = "2")]
    digest: Vec<u8>,
    /// Seconds since 1970.
    #[prost(uint64, tag = "3")]
    issued_at: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredPresent {
    #[prost(bytes = "vec", tag = "1")]
    member: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    one_time_key: Vec<u8>,
}

impl Entry {
    /// The stored form of an input.
    pub fn of(input: &Input) -> Self {
        let object = |kind, envelope: &Envelope| Self {
            kind,
            object: envelope.encode(),
            ..Self::default()
        };
        let context = |kind, context: &Context| Self {
            kind,
            context: context.as_bytes().to_vec(),
            ..Self::default()
        };
        match input {
            Input::Admission(said) => object(1, said.envelope()),
            Input::Poll {
                present,
                nonce,
                list,
            } => Self {
                kind: 2,
                digest: nonce.to_vec(),
                list: Some(StoredList {
                    number: list.number,
                    digest: list.digest.as_bytes().to_vec(),
                    issued_at: list.issued_at.seconds(),
                }),
                present: present
                    .iter()
                    .map(|present| StoredPresent {
                        member: present.member.as_bytes().to_vec(),
                        one_time_key: present
                            .one_time_key
                            .as_ref()
                            .map(Envelope::encode)
                            .unwrap_or_default(),
                    })
                    .collect(),
                ..Self::default()
            },
            Input::Header(said) => object(3, said.envelope()),
            Input::Body {
                context: of,
                member,
                digest,
            } => Self {
                member: member.as_bytes().to_vec(),
                digest: digest.as_bytes().to_vec(),
                ..context(4, of)
            },
            Input::Summed { context: of, sum } => Self {
                digest: sum.as_bytes().to_vec(),
                ..context(5, of)
            },
            Input::SumFailed { context: of } => context(6, of),
            Input::Echo(said) => object(7, said.envelope()),
            Input::Release(said) => object(8, said.envelope()),
            Input::Agreement(said) => object(9, said.envelope()),
            Input::Abort(said) => object(10, said.envelope()),
            Input::ParcelRequest(said) => object(13, said.envelope()),
            Input::Parcel(said) => object(14, said.envelope()),
            Input::Deadline => Self {
                kind: 11,
                ..Self::default()
            },
            Input::Restarted => Self {
                kind: 12,
                ..Self::default()
            },
            Input::Held { since } => Self {
                kind: 16,
                millis: since.as_millis(),
                ..Self::default()
            },
            Input::Resumed => Self {
                kind: 17,
                ..Self::default()
            },
            Input::Revoked { member } => Self {
                kind: 15,
                member: member.as_bytes().to_vec(),
                ..Self::default()
            },
        }
    }

    /// The input again; signatures are verified anew.
    ///
    /// # Errors
    /// [`Error::Fault`]: the database was changed by another hand.
    pub fn input(&self, keyring: &dyn Keyring) -> Result<Input> {
        self.parse(keyring)
            .map_err(|error| fault("reading the journal", error))
    }

    fn parse(&self, keyring: &dyn Keyring) -> ciphertune_round::Result<Input> {
        let object = self.object.as_slice();
        let context = || Digest::parse(&self.context).map(Context::from_digest);
        let digest = || Digest::parse(&self.digest);
        Ok(match self.kind {
            1 => Input::Admission(Signed::decode(object, keyring)?),
            2 => Input::Poll {
                nonce: *digest()?.as_bytes(),
                present: self
                    .present
                    .iter()
                    .map(StoredPresent::parse)
                    .collect::<Result<_, _>>()?,
                list: (self.list.as_ref())
                    .ok_or_else(|| {
                        ciphertune_round::Error::Misuse("a poll without a revocation list".into())
                    })?
                    .parse()?,
            },
            3 => Input::Header(Signed::decode(object, keyring)?),
            4 => Input::Body {
                context: context()?,
                member: Fingerprint::parse(&self.member)?,
                digest: digest()?,
            },
            5 => Input::Summed {
                context: context()?,
                sum: digest()?,
            },
            6 => Input::SumFailed {
                context: context()?,
            },
            7 => Input::Echo(Signed::decode(object, keyring)?),
            8 => Input::Release(Signed::decode(object, keyring)?),
            9 => Input::Agreement(Signed::decode(object, keyring)?),
            10 => Input::Abort(Signed::decode(object, keyring)?),
            11 => Input::Deadline,
            12 => Input::Restarted,
            13 => Input::ParcelRequest(Signed::decode(object, keyring)?),
            14 => Input::Parcel(Signed::decode(object, keyring)?),
            15 => Input::Revoked {
                member: Fingerprint::parse(&self.member)?,
            },
            16 => Input::Held {
                since: Moment::from_millis(self.millis),
            },
            17 => Input::Resumed,
            kind => {
                return Err(ciphertune_round::Error::Misuse(format!(
                    "an entry of kind {kind}"
                )));
            }
        })
    }

    /// Reads a row.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self> {
        Self::decode(bytes).map_err(|error: prost::DecodeError| {
            Error::Fault(format!("reading the journal: {error}"))
        })
    }
}

impl StoredList {
    fn parse(&self) -> ciphertune_round::Result<ListInForce> {
        Ok(ListInForce {
            number: self.number,
            digest: Digest::parse(&self.digest)?,
            issued_at: Instant::from_seconds(self.issued_at).unwrap_or(Instant::EPOCH),
        })
    }
}

impl StoredPresent {
    fn parse(&self) -> ciphertune_round::Result<Present> {
        Ok(Present {
            member: Fingerprint::parse(&self.member)?,
            one_time_key: match self.one_time_key.as_slice() {
                [] => None,
                bytes => Some(Envelope::decode(bytes)?),
            },
        })
    }
}
