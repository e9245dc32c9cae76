//! What a server is started with.

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use ciphertune_identity::{Credentials, SigningKey, watch::Watched};
use ciphertune_round::Envelope;
use tokio::{net::TcpListener, sync::watch};

/// Where the time comes from.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// Where the server is seen from outside.
pub struct Outside {
    /// Where it is listened.
    pub listener: TcpListener,
    /// The host's name that requests may be for, beside `localhost`, every IP address and the manifest's host.
    pub name: Option<String>,
}

/// What a server is started with. Everything in it is verified by [`run`](crate::run()).
pub struct Config {
    /// The server's certificate, the authority's, and the revocation list that callers are held to. Whoever has the sender
    /// replaces them while the server runs; what does not succeed the ones before is refused, and logged.
    pub credentials: watch::Receiver<Credentials>,
    /// The key of that certificate: for TLS and for signing plans and rosters.
    pub key: SigningKey,
    /// The manifest, signed by the authority.
    pub manifest: Envelope,
    /// The federation's policy, signed by an officer.
    pub policy: Envelope,
    /// Where the server keeps its database, its audit log, and bodies, shares and sums under way.
    pub data: PathBuf,
    /// Where people and monitoring look at the server, if anywhere: plain HTTP for whoever can reach it, so best on loopback.
    pub outside: Option<Outside>,
    /// How many bytes of the disk are left free: with less, the server pauses. For database and log, which go on a while.
    pub keep_free: u64,
    /// Who watches the disk; nobody in production.
    pub disk: Watched,
    /// Where the time comes from: `Arc::new(SystemTime::now)` but in tests.
    pub clock: Clock,
}
