//! Who is who: Ed25519 keys, the federation's authority and its certificates, the manifest, mutual TLS.
//!
//! Read it in this order: [`SigningKey`] (generated at home, stored encrypted), [`Request`] (what leaves home),
//! [`Authority`] (the federation's CA; issues a [`Certificate`] for a [`Role`]; its [`Register`]), [`RevocationList`] (which of them
//! hold no longer), [`Credentials`] (what a party shows and holds others to), [`Manifest`] (the signed list of the parties), [`Kit`]
//! (what a party carries home), [`tls`] (both ends of a connection), [`Peer`] (who is at the other).
//!
//! Chains are one link long: the authority signs every certificate itself. Profiles: `certs/README.md`.

mod authority;
mod certificate;
mod credentials;
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
mod register;
mod request;
mod revocation_list;
pub mod tls;
mod validity;
pub mod watch;

pub use authority::Authority;
pub use certificate::{AuthorityCertificate, Certificate};
pub use credentials::{Credentials, NOTICE};
pub use endpoint::{Endpoint, Host};
pub use error::{Error, Result};
pub use home::Home;
pub use key::SigningKey;
pub use kit::Kit;
pub use manifest::{Manifest, Party};
pub use name::{Name, Role};
pub use passphrase::Passphrase;
pub use peer::{Peer, Serial};
pub use register::{Approval, LIST_DAYS, MAX_LIST_DAYS, Register};
pub use request::{Request, Wish};
pub use revocation_list::{Reason, Revocation, RevocationList};
pub use validity::{AUTHORITY_DAYS, LEAF_DAYS, Moment, Validity};
