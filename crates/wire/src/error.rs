//! What can be wrong with a connection.

use std::error::Error as _;

use rustls::AlertDescription;

use crate::refusal::Refusal;

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
    /// The server looked at this party's certificate, and refused it.
    #[error("the server at {address} refused this party's certificate: {reason}")]
    TurnedAway {
        /// Which server.
        address: String,
        /// Why, and what to do.
        reason: &'static str,
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
        if let Some(reason) = turned_away(error) {
            Self::TurnedAway { address, reason }
        } else if handshake {
            Self::Handshake { address, reason }
        } else {
            Self::Unreachable { address, reason }
        }
    }
}

/// Why a server refused this party's certificate in the handshake, if somewhere under `error` it did.
pub fn turned_away(error: &(dyn std::error::Error + 'static)) -> Option<&'static str> {
    let mut error = Some(error);
    while let Some(this) = error {
        let inner = this
            .downcast_ref::<std::io::Error>()
            .and_then(|error| error.get_ref())
            .and_then(|error| error.downcast_ref());
        if let Some(rustls::Error::AlertReceived(alert)) = inner.or(this.downcast_ref()) {
            return reason(*alert);
        }
        error = this.source();
    }
    None
}

fn reason(alert: AlertDescription) -> Option<&'static str> {
    match alert {
        AlertDescription::CertificateRevoked => Some(Refusal::Revoked.sentence()),
        AlertDescription::CertificateExpired => Some(Refusal::Expired.sentence()),
        // An authority of the same name with another key: the signature does not verify.
        AlertDescription::DecryptError
        | AlertDescription::UnknownCA
        | AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateRequired
        | AlertDescription::AccessDenied => Some(
            "it is of another authority, or not one that may connect; install the kit of the server's federation",
        ),
        _ => None,
    }
}
