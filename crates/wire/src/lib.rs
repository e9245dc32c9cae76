//! The federation's service on the wire: gRPC over mutual TLS.
//!
//! [`proto`] is the generated service; [`connect`](connect()) and [`accept`](accept()) put it on our own TLS
//! configurations (tonic's own takes no revocation list); [`limits`] bounds every message on both sides; a [`Refusal`]
//! is all that a peer is told when a call is turned down; a [`Meter`] counts the bytes of a link.

mod accept;
mod connect;
mod error;
pub mod limits;
mod meter;
mod places;
mod refusal;
mod renewed;

/// Messages and service, as `proto/federation.proto` defines them.
#[allow(missing_docs, unused_qualifications, clippy::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/ciphertune.wire.rs"));
}

pub use accept::{Accepted, ConnectInfo, accept};
pub use connect::{Client, connect, connect_following};
pub use error::{Error, Result, turned_away};
pub use meter::Meter;
pub use refusal::Refusal;
