//! Who may call: a certificate is held to the revocation list and to its dates on every call, not only in the handshake.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use ciphertune_identity::{Credentials, Peer, Serial, SigningKey, Validity, tls};
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
    /// [`Error::Misuse`] for another key's certificate, or one that cannot serve, or for what does not hold yet.
    pub fn new(credentials: Credentials, key: Arc<SigningKey>, now: SystemTime) -> Result<Self> {
        check_begun(&credentials, now)?;
        let tls = config(&credentials, &key)?;
        Ok(Self {
            credentials: watch::channel(credentials).0,
            tls: watch::channel(tls).0,
            key,
        })
    }

    /// Takes others in their place: new handshakes and every call are held to them from now on. Of the two lists the later one
    /// counts: a kit may be older than the list that the server has.
    ///
    /// # Errors
    /// [`Error::Misuse`] for another party's certificate or another authority, and for what does not hold yet, as a wrong clock
    /// makes it; nothing changes then.
    pub fn replace(&self, credentials: Credentials, now: SystemTime) -> Result<()> {
        let misuse = |error: ciphertune_identity::Error| Error::Misuse(error.to_string());
        let credentials = credentials
            .after(&self.credentials.borrow())
            .map_err(misuse)?;
        check_begun(&credentials, now)?;
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
                "the revocation list does not hold now: install the authority's newest (ciphertune identity crl)",
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

/// Refuses what begins later: every caller would be turned away until then, and nobody would know why.
fn check_begun(credentials: &Credentials, now: SystemTime) -> Result<()> {
    let (certificate, list) = (credentials.certificate(), credentials.revocations());
    for (what, validity) in [
        ("the server's certificate", certificate.validity()),
        ("the revocation list", list.validity()),
    ] {
        if !validity.has_begun(now) {
            return Err(Error::Misuse(format!(
                "{what} does not hold before {}, and it is {}: this clock, or the authority's, is wrong",
                validity.start(),
                Validity::moment(now)
            )));
        }
    }
    Ok(())
}

fn config(credentials: &Credentials, key: &SigningKey) -> Result<Arc<ServerConfig>> {
    tls::server_config(credentials, key).map_err(|error| Error::Misuse(error.to_string()))
}
