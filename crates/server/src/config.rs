//! What a server is started with.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use ciphertune_identity::SigningKey;
use ciphertune_round::Envelope;

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// What a server is started with. Everything in it is verified by [`run`](crate::run()).
pub struct Config {
    /// The authority's certificate, PEM.
    pub ca_pem: String,
    /// The server's own certificate, PEM.
    pub cert_pem: String,
    /// The key of that certificate: for TLS and for signing plans and rosters.
    pub key: SigningKey,
    /// Revocation lists, PEM; `None` for none.
    pub crls_pem: Option<String>,
    /// The manifest, signed by the authority.
    pub manifest: Envelope,
    /// The federation's policy, signed by an officer.
    pub policy: Envelope,
    /// Where the server keeps its database, its audit log, and bodies, shares and sums under way.
    pub data: PathBuf,
    /// Where the time comes from: `Arc::new(SystemTime::now)` but in tests.
    pub clock: Clock,
}
