//! Mutual TLS inside one federation.
//!
//! TLS 1.3 alone, with ring's primitives (never the process's default provider), ALPN `h2`, a certificate on both
//! sides, each verified by rustls' own webpki verifier against the federation's authority, plus what webpki cannot
//! know: the role in the certificate's `ciphertune://` name. No session is ever resumed: a resumed one would skip the
//! certificate, and with it expiry and revocation.

use std::{fmt, sync::Arc};

use ciphertune_round::Signer;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};

use crate::{
    credentials::Credentials,
    error::{Error, Result, fault},
    key::SigningKey,
    name::{Name, Role},
    peer::Peer,
};

/// HTTP/2, the only protocol spoken.
pub const ALPN: &[u8] = b"h2";

/// The server's side. Anybody whose certificate the federation's authority issued for a role other than server, and its
/// revocation list does not name, may connect; what it may do is the manifest's matter. A list past its next update
/// refuses everybody: a stale list must not pass for a current one.
///
/// # Errors
/// [`Error::Misuse`] if the certificate is not a server's, or for another key.
pub fn server_config(credentials: &Credentials, key: &SigningKey) -> Result<Arc<ServerConfig>> {
    const DOING: &str = "configuring the server's TLS";
    let own = Own::new(credentials, key)?;
    let role = credentials.certificate().peer().role;
    if role != Role::Server {
        return Err(Error::Misuse(format!(
            "{}'s certificate cannot serve",
            role.with_article()
        )));
    }
    let chain =
        WebPkiClientVerifier::builder_with_provider(own.roots.clone(), own.provider.clone())
            .with_crls([credentials.revocations().der().clone()])
            .enforce_revocation_expiration()
            .build();
    let verifier = ClientVerifier {
        chain: chain.map_err(|error| fault(DOING, error))?,
        federation: own.federation.clone(),
    };
    let mut config = ServerConfig::builder_with_provider(own.provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| fault(DOING, error))?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(own.certified)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// A client's side. It accepts one kind of peer: the server of its own federation, unless its revocation list names it. A
/// list past its next update still serves here: the server is where the next one comes from.
///
/// # Errors
/// [`Error::Misuse`] if the certificate is a server's, or for another key.
pub fn client_config(credentials: &Credentials, key: &SigningKey) -> Result<Arc<ClientConfig>> {
    const DOING: &str = "configuring the client's TLS";
    let own = Own::new(credentials, key)?;
    if credentials.certificate().peer().role == Role::Server {
        return Err(Error::Misuse(
            "a server's certificate cannot connect".into(),
        ));
    }
    let chain =
        WebPkiServerVerifier::builder_with_provider(own.roots.clone(), own.provider.clone())
            .with_crls([credentials.revocations().der().clone()])
            .build();
    let verifier = ServerVerifier {
        chain: chain.map_err(|error| fault(DOING, error))?,
        federation: own.federation.clone(),
    };
    let mut config = ClientConfig::builder_with_provider(own.provider.clone())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| fault(DOING, error))?
        .dangerous() // narrower than the default, not wider: webpki's verdict first, then ours
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.certified)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

/// Who is at the other end, from the first of the certificates that the handshake verified
/// (`connection.peer_certificates()`, `TlsConnectInfo::peer_certs()`).
pub fn peer(der: &[u8]) -> Result<Peer> {
    Peer::from_der(der)
}

/// One's own side of a connection.
struct Own {
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    federation: Name,
    certified: CertifiedKey,
}

impl Own {
    fn new(credentials: &Credentials, key: &SigningKey) -> Result<Self> {
        const DOING: &str = "configuring TLS";
        let (authority, certificate) = (credentials.authority(), credentials.certificate());
        if certificate.peer().key != key.verifying_key() {
            return Err(Error::Misuse(
                "one's own certificate is for another key".into(),
            ));
        }
        let provider = Arc::new(ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots
            .add(authority.der().clone())
            .map_err(|error| fault(DOING, error))?;
        let pkcs8 = key.pkcs8();
        let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8.as_slice()));
        let signer =
            ring::sign::any_supported_type(&private).map_err(|error| fault(DOING, error))?;
        Ok(Self {
            provider,
            roots: Arc::new(roots),
            federation: authority.federation().clone(),
            certified: CertifiedKey::new(vec![certificate.der().clone()], signer),
        })
    }
}

/// After webpki: refuses whoever is not of this federation or has not an acceptable role.
fn check_peer(
    der: &CertificateDer<'_>,
    federation: &Name,
    accepts: impl Fn(Role) -> bool,
) -> Result<(), rustls::Error> {
    let refuse = |error: Error| {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    };
    let peer = Peer::from_der(der).map_err(refuse)?;
    if peer.federation != *federation || !accepts(peer.role) {
        return Err(refuse(Error::Refused(format!(
            "{} is {} of {}",
            peer.name,
            peer.role.with_article(),
            peer.federation
        ))));
    }
    Ok(())
}

/// What a client asks of a server: webpki's verdict (chain, dates, usage, host, revocation), then the role.
struct ServerVerifier {
    chain: Arc<WebPkiServerVerifier>,
    federation: Name,
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.chain.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        check_peer(end_entity, &self.federation, |role| role == Role::Server)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerVerifier({})", self.federation)
    }
}

/// What the server asks of a client: webpki's verdict, then any role but its own.
struct ClientVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    federation: Name,
}

impl ClientCertVerifier for ClientVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self
            .chain
            .verify_client_cert(end_entity, intermediates, now)?;
        check_peer(end_entity, &self.federation, |role| role != Role::Server)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientVerifier({})", self.federation)
    }
}
