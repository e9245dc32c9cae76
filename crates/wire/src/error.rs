//! What can be wrong with a connection.

use std::error::Error as _;

/// Errors of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens there, or the network is down.
    #[error(
        "cannot reach the server at {address}: {reason}; check the address, and that the server runs"
    )]
    Unreachable {
        /// Where.
        address: String,
        /// What the operating system said.
        reason: String,
    },
    /// TLS failed: a certificate of another authority, expired, revoked, or for another name.
    #[error(
        "the TLS handshake with {address} failed: {reason}; `openssl x509 -in cert.pem -noout -text` shows a certificate's dates and names"
    )]
    Handshake {
        /// With whom.
        address: String,
        /// What rustls said.
        reason: String,
    },
    /// A value that the caller must not pass.
    #[error("misuse: {0}")]
    Misuse(String),
}

/// Results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub(crate) fn of_transport(address: &str, error: &tonic::transport::Error) -> Self {
        let mut reason = error.to_string();
        let mut handshake = false;
        let mut source = error.source();
        while let Some(error) = source {
            reason = error.to_string();
            if let Some(inner) = error
                .downcast_ref::<std::io::Error>()
                .and_then(|error| error.get_ref())
            {
                handshake |= inner.is::<rustls::Error>();
                reason = inner.to_string();
            }
            handshake |= error.is::<rustls::Error>();
            source = error.source();
        }
        let address = address.to_owned();
        if handshake {
            Self::Handshake { address, reason }
        } else {
            Self::Unreachable { address, reason }
        }
    }
}
