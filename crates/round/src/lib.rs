//! What is signed in a round, and in what order.
//!
//! Manifest and policy say who and what is allowed; a [`Job`] says what is wanted; a [`Plan`] is one attempt of one
//! round, in which all seats or a [`Committee`] hold shares. Then, by seat: [`Header`] (what I contribute), [`Roster`] (whose bodies the sum is of), [`Echo`] (the one
//! roster that I will release), [`Release`] (my part in opening it), [`Agreement`] (the model that I opened).
//! A member that missed a round asks for its model with a [`ParcelRequest`] and gets a [`Parcel`].
//!
//! A [`Signed`] value is proof that its signature was verified over the very bytes that it was parsed from.
//! Nothing here draws randomness, reads a clock or touches a socket.

mod admission;
mod agreement;
mod committee;
mod digest;
mod echo;
mod ended;
mod envelope;
mod error;
mod header;
mod job;
mod key;
pub mod label;
mod one_time_key;
mod parcel;
mod plan;
mod policy_document;
mod release;
mod roster;
mod seat;
mod signed;
mod terms;

/// The protobuf messages, as `proto/signed.proto` defines them.
#[allow(missing_docs, unused_qualifications, clippy::all)]
pub mod message {
    include!(concat!(env!("OUT_DIR"), "/ciphertune.signed.rs"));
}

pub use admission::Admission;
pub use agreement::Agreement;
pub use committee::{Committee, draw};
pub use digest::{Context, Digest, Fingerprint, Hasher};
pub use echo::Echo;
pub use ended::{Abort, Ended, Void};
pub use envelope::{Envelope, Keyring};
pub use error::{Error, Result};
pub use header::Header;
pub use job::{Batches, Deadlines, Job, MAX_DIMENSION, Mechanism};
pub use key::{Signer, VerifyingKey};
pub use one_time_key::{OneTimeKeyOffer, PUBLIC_KEY_BYTES};
pub use parcel::{AGREEMENT_KEY_BYTES, Parcel, ParcelCall, ParcelRequest};
pub use plan::{Plan, VERSION};
pub use policy_document::PolicyDocument;
pub use release::Release;
pub use roster::{Contributor, Roster};
pub use seat::{MAX_SEATS, Seat, ShareIndex};
pub use signed::{Object, Signed};
pub use terms::Terms;
