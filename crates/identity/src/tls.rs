//! Mutual TLS inside one federation.
//!
//! TLS 1.3 alone, with ring's primitives (never the process's default provider), ALPN `h2`, a certificate on both
//! sides, each verified by rustls' own webpki verifier against the federation's authority, plus what webpki cannot
//! know: the role in the certificate's `ciphertune://` name. No session is ever resumed: a resumed one would skip the
//! certificate, and with it expiry and revocation.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, OtherError,
    RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{
        CertificateDer, CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer,
        ServerName, UnixTime, pem::PemObject,
    },
    server::{
        NoServerSessionStorage, WebPkiClientVerifier,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
    sign::{CertifiedKey, SingleCertAndKey},
    version::TLS13,
};
use x509_parser::parse_x509_crl;

use ciphertune_round::Signer;

use crate::{
    certificate::{AuthorityCertificate, Certificate},
    error::{Error, Result, fault, malformed},
    key::SigningKey,
    name::{Name, Role},
    peer::Peer,
};

/// HTTP/2, the only protocol spoken.
pub const ALPN: &[u8] = b"h2";

/// The server's side. Anybody whose certificate the federation's authority issued for a role other than server may
/// connect; what it may do is the manifest's matter.
///
/// # Errors
/// [`Error::Misuse`] if the certificate is not a server's, not the authority's, or for another key.
pub fn server_config(
    ca_pem: &str,
    certificate_pem: &str,
    key: &SigningKey,
) -> Result<Arc<ServerConfig>> {
    server_config_with_crls(ca_pem, certificate_pem, key, None)
}

/// [`server_config`], refusing whom these revocation lists (PEM, one or more) name. A list past its next update
/// refuses everybody: a stale list must not pass for a current one.
pub fn server_config_with_crls(
    ca_pem: &str,
    certificate_pem: &str,
    key: &SigningKey,
    crls_pem: Option<&str>,
) -> Result<Arc<ServerConfig>> {
    const DOING: &str = "configuring the server's TLS";
    let own = Own::new(ca_pem, certificate_pem, key)?;
    if own.certificate.peer().role != Role::Server {
        return Err(Error::Misuse(format!(
            "a {}'s certificate cannot serve",
            own.certificate.peer().role
        )));
    }
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(own.roots.clone(), own.provider.clone());
    if let Some(crls) = crls_pem {
        builder = builder
            .with_crls(parse_crls(crls)?)
            .enforce_revocation_expiration();
    }
    let verifier = ClientVerifier {
        chain: builder.build().map_err(|error| fault(DOING, error))?,
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

/// A client's side. It accepts one kind of peer: the server of its own federation.
///
/// # Errors
/// [`Error::Misuse`] if the certificate is a server's, not the authority's, or for another key.
pub fn client_config(
    ca_pem: &str,
    certificate_pem: &str,
    key: &SigningKey,
) -> Result<Arc<ClientConfig>> {
    client_config_with_crls(ca_pem, certificate_pem, key, None)
}

/// [`client_config`], refusing a server that these revocation lists name, as in [`server_config_with_crls`].
pub fn client_config_with_crls(
    ca_pem: &str,
    certificate_pem: &str,
    key: &SigningKey,
    crls_pem: Option<&str>,
) -> Result<Arc<ClientConfig>> {
    const DOING: &str = "configuring the client's TLS";
    let own = Own::new(ca_pem, certificate_pem, key)?;
    if own.certificate.peer().role == Role::Server {
        return Err(Error::Misuse(
            "a server's certificate cannot connect".into(),
        ));
    }
    let mut builder =
        WebPkiServerVerifier::builder_with_provider(own.roots.clone(), own.provider.clone());
    if let Some(crls) = crls_pem {
        builder = builder
            .with_crls(parse_crls(crls)?)
            .enforce_revocation_expiration();
    }
    let verifier = ServerVerifier {
        chain: builder.build().map_err(|error| fault(DOING, error))?,
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
    certificate: Certificate,
    certified: CertifiedKey,
}

impl Own {
    fn new(ca_pem: &str, certificate_pem: &str, key: &SigningKey) -> Result<Self> {
        const DOING: &str = "configuring TLS";
        let authority = AuthorityCertificate::from_pem(ca_pem)?;
        let certificate = Certificate::from_pem(certificate_pem)?;
        certificate
            .verify(&authority)
            .map_err(|error| Error::Misuse(format!("one's own certificate: {error}")))?;
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
            certificate,
        })
    }
}

/// When the oldest of these revocation lists was issued: their `thisUpdate`. Whose they are is asked by the handshake.
///
/// # Errors
/// [`Error::Malformed`] for what is no list in PEM.
pub fn revocations_issued_at(pem: &str) -> Result<SystemTime> {
    let issued = parse_crls(pem)?
        .iter()
        .map(|list| match parse_x509_crl(list) {
            Ok(([], list)) => u64::try_from(list.last_update().timestamp())
                .map_err(|_| malformed("revocation list", "issued before 1970")),
            _ => Err(malformed("revocation list", "not X.509 in DER")),
        })
        .collect::<Result<Vec<_>>>()?;
    let oldest = issued.into_iter().min().unwrap_or_default();
    Ok(UNIX_EPOCH + Duration::from_secs(oldest.min(LAST)))
}

/// 9999-12-31T23:59:59Z: the last second that a list can write.
const LAST: u64 = 253_402_300_799;

fn parse_crls(pem: &str) -> Result<Vec<CertificateRevocationListDer<'static>>> {
    let lists: Vec<_> = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| malformed("revocation list", error))?;
    if lists.is_empty() {
        return Err(malformed("revocation list", "no list in PEM"));
    }
    Ok(lists)
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
            "{} is a {} of {}",
            peer.name, peer.role, peer.federation
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
