//! Who may call: a certificate is held to the revocation list and to its dates on every call, not only in the handshake.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use ciphertune_identity::{Credentials, Peer, Serial, SigningKey, tls};
use ciphertune_wire::Refusal;
use rustls::ServerConfig;
use tokio::sync::watch;

use crate::{
    error::{Error, Refused, Result},
    phase::ListInForce,
};

/// The server's certificate and the revocation list in force; both change while it runs.
pub struct Gate {
    key: Arc<SigningKey>,
    credentials: watch::Sender<Credentials>,
    tls: watch::Sender<Arc<ServerConfig>>,
}

impl Gate {
    /// A gate with these.
    ///
    /// # Errors
    /// [`Error::Misuse`] for another key's certificate, or one that cannot serve.
    pub fn new(credentials: Credentials, key: Arc<SigningKey>) -> Result<Self> {
        let tls = config(&credentials, &key)?;
        Ok(Self {
            credentials: watch::channel(credentials).0,
            tls: watch::channel(tls).0,
            key,
        })
    }

    /// Takes others in their place: new handshakes and every call are held to them from now on.
    ///
    /// # Errors
    /// [`Error::Misuse`] for what does not succeed them; nothing changes then.
    pub fn replace(&self, credentials: Credentials) -> Result<()> {
        credentials
            .check_succeed(&self.credentials.borrow())
            .map_err(|error| Error::Misuse(error.to_string()))?;
        self.tls.send_replace(config(&credentials, &self.key)?);
        self.credentials.send_replace(credentials);
        Ok(())
    }

    /// Whether a certificate lets its holder call at `now`.
    pub fn admit(&self, peer: &Peer, now: SystemTime) -> Result<(), Refused> {
        let credentials = self.credentials.borrow();
        let list = credentials.revocations();
        let refused = |code, said: &str| {
            let who = format!("{} {}, certificate {}", peer.role, peer.name, peer.serial);
            Err(Refused::new(code, format!("{who}: {said}")))
        };
        if !list.holds(now) {
            return refused(
                Refusal::StaleList,
                "the revocation list has ended: install the authority's next (ciphertune identity crl)",
            );
        }
        if list.names(&peer.serial) {
            return refused(Refusal::Revoked, "revoked");
        }
        let now = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs());
        if !(peer.issued_at..=peer.ends_at).contains(&now) {
            return refused(Refusal::Expired, "it does not hold now");
        }
        Ok(())
    }

    /// Certificate and list in force.
    pub fn credentials(&self) -> Credentials {
        self.credentials.borrow().clone()
    }

    /// The list that callers are held to.
    pub fn list(&self) -> ListInForce {
        ListInForce::from(self.credentials.borrow().revocations())
    }

    /// Whether the list names a certificate.
    pub fn revokes(&self, serial: &Serial) -> bool {
        self.credentials.borrow().revocations().names(serial)
    }

    /// The list itself, PEM.
    pub fn list_pem(&self) -> String {
        self.credentials.borrow().revocations().pem().to_owned()
    }

    /// Hears of each change.
    pub fn changes(&self) -> watch::Receiver<Credentials> {
        self.credentials.subscribe()
    }

    /// What handshakes are made with.
    pub fn tls(&self) -> watch::Receiver<Arc<ServerConfig>> {
        self.tls.subscribe()
    }
}

fn config(credentials: &Credentials, key: &SigningKey) -> Result<Arc<ServerConfig>> {
    tls::server_config(credentials, key).map_err(|error| Error::Misuse(error.to_string()))
}
