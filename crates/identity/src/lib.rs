//! Who is who: Ed25519 keys, the federation's authority and its certificates, the manifest, mutual TLS.
//!
//! Read it in this order: [`SigningKey`] (generated at home, stored encrypted), [`Request`] (what leaves home),
//! [`Authority`] (the federation's CA; issues a [`Certificate`] for a [`Role`]), [`Manifest`] (the signed list of the
//! parties), [`Kit`] (what a party carries home), [`tls`] (both ends of a connection), [`Peer`] (who is at the other).
//!
//! Chains are one link long: the authority signs every certificate itself. Profiles: `certs/README.md`.

mod authority;
mod certificate;
mod endpoint;
mod error;
pub mod file;
mod home;
mod key;
mod kit;
mod manifest;
mod name;
mod passphrase;
mod peer;
mod request;
pub mod tls;
mod validity;

pub use authority::Authority;
pub use certificate::{AuthorityCertificate, Certificate};
pub use endpoint::{Endpoint, Host};
pub use error::{Error, Result};
pub use home::Home;
pub use key::SigningKey;
pub use kit::Kit;
pub use manifest::{Manifest, Party};
pub use name::{Name, Role};
pub use passphrase::Passphrase;
pub use peer::{Peer, Serial};
pub use request::Request;
pub use validity::{AUTHORITY_DAYS, LEAF_DAYS, Validity};
