//! Mutual TLS over real loopback sockets: who gets through, and who is refused before a byte of a call.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use ciphertune_identity::{
    Authority, Certificate, Credentials, Error, Host, Name, Peer, Reason, Request, Revocation,
    RevocationList, Role, SigningKey, Validity, tls,
};
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, Issuer, KeyPair, SanType,
};
use rustls::{ClientConfig, ServerConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const DAY: Duration = Duration::from_secs(86_400);

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// From yesterday for so many days.
fn days(days: u32) -> Validity {
    Validity::days(SystemTime::now() - DAY, days).unwrap()
}

fn authority() -> Authority {
    Authority::create(
        &name("lab"),
        Validity::days(SystemTime::now() - 30 * DAY, 365).unwrap(),
    )
    .unwrap()
}

fn naming(authority: &Authority, revoked: &[&Own], validity: Validity) -> RevocationList {
    let entry = Revocation {
        at: validity.not_before(),
        reason: Reason::KeyCompromise,
    };
    let each = revoked
        .iter()
        .map(|own| own.certificate.peer().serial.clone());
    let each = each.map(|serial| (serial, entry)).collect();
    authority.revoke(&each, 1, validity).unwrap()
}

struct Own {
    key: SigningKey,
    certificate: Certificate,
}

impl Own {
    fn issued(authority: &Authority, text: &str, role: Role, validity: Validity) -> Self {
        let key = SigningKey::generate().unwrap();
        let request = Request::new(&name(text), &key).unwrap();
        let certificate = authority.issue(&request, role, &[], validity).unwrap();
        Self { key, certificate }
    }

    /// With a list that names nobody, unless given.
    fn credentials(&self, authority: &Authority, list: Option<&RevocationList>) -> Credentials {
        let list = list
            .cloned()
            .unwrap_or_else(|| naming(authority, &[], days(30)));
        let ca = authority.certificate().clone();
        Credentials::new(ca, self.certificate.clone(), list).unwrap()
    }

    fn server(&self, authority: &Authority, list: Option<&RevocationList>) -> Arc<ServerConfig> {
        tls::server_config(&self.credentials(authority, list), &self.key).unwrap()
    }

    fn client(&self, authority: &Authority, list: Option<&RevocationList>) -> Arc<ClientConfig> {
        tls::client_config(&self.credentials(authority, list), &self.key).unwrap()
    }
}

/// What both ends made of one connection on which four bytes go each way.
#[derive(Debug)]
struct Outcome {
    server: Result<Peer, String>,
    client: Result<Peer, String>,
}

impl Outcome {
    fn connected(&self) -> bool {
        self.server.is_ok() && self.client.is_ok()
    }
}

async fn connect(server: Arc<ServerConfig>, client: Arc<ClientConfig>, host: &str) -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = TlsAcceptor::from(server).accept(stream).await?;
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await?;
        stream.write_all(b"pong").await?;
        stream.flush().await?;
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(tls::ALPN));
        Ok::<_, std::io::Error>(tls::peer(&chain[0]).unwrap())
    };
    let call = async {
        let stream = TcpStream::connect(address).await?;
        let host = ServerName::try_from(host.to_owned()).unwrap();
        let mut stream = TlsConnector::from(client).connect(host, stream).await?;
        stream.write_all(b"ping").await?;
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await?;
        let connection = stream.get_ref().1;
        assert_eq!(
            connection.protocol_version(),
            Some(rustls::ProtocolVersion::TLSv1_3)
        );
        let chain = connection.peer_certificates().unwrap_or_default();
        Ok::<_, std::io::Error>(tls::peer(&chain[0]).unwrap())
    };
    let both = async { tokio::join!(serve, call) };
    let (server, client) = tokio::time::timeout(Duration::from_secs(20), both)
        .await
        .expect("neither end may hang");
    Outcome {
        server: server.map_err(|error| error.to_string().to_lowercase()),
        client: client.map_err(|error| error.to_string().to_lowercase()),
    }
}

#[tokio::test]
async fn a_member_connects_and_both_ends_know_who_is_there() {
    let authority = authority();
    let hub = Own::issued(&authority, "hub", Role::Server, days(90));
    for role in [Role::Member, Role::Officer, Role::Researcher, Role::Auditor] {
        let north = Own::issued(&authority, "north", role, days(90));
        for host in ["localhost", "127.0.0.1"] {
            let (server, client) = (hub.server(&authority, None), north.client(&authority, None));
            let outcome = connect(server, client, host).await;
            assert_eq!(outcome.server.unwrap(), *north.certificate.peer());
            assert_eq!(outcome.client.unwrap(), *hub.certificate.peer());
        }
    }
}

#[tokio::test]
async fn a_server_is_valid_for_its_own_hosts_alone() {
    let authority = authority();
    let key = SigningKey::generate().unwrap();
    let request = Request::new(&name("hub"), &key).unwrap();
    let hosts = [Host::new("hub.example").unwrap()];
    let certificate = authority
        .issue(&request, Role::Server, &hosts, days(90))
        .unwrap();
    let hub = Own { key, certificate };
    let north = Own::issued(&authority, "north", Role::Member, days(90));
    for (host, fits) in [("hub.example", true), ("other.example", false)] {
        let (server, client) = (hub.server(&authority, None), north.client(&authority, None));
        let outcome = connect(server, client, host).await;
        assert_eq!(outcome.connected(), fits, "{host}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_refused_in_the_handshake() {
    let (ours, theirs) = (authority(), authority());
    let hub = Own::issued(&ours, "hub", Role::Server, days(90));
    let north = Own::issued(&ours, "north", Role::Member, days(90));
    // A stranger that trusts our authority (so that its own side says nothing) and holds a certificate of its own.
    let stranger = Own::issued(&theirs, "north", Role::Member, days(90));
    let client = dangerous_client(&ours, stranger.certificate.der().to_vec(), &stranger.key);
    let outcome = connect(hub.server(&ours, None), client, "localhost").await;
    assert!(
        outcome.server.is_err() && outcome.client.is_err(),
        "{outcome:?}"
    );
    // And a server of another authority.
    let impostor = Own::issued(&theirs, "hub", Role::Server, days(90));
    let (server, client) = (impostor.server(&theirs, None), north.client(&ours, None));
    let outcome = connect(server, client, "localhost").await;
    assert!(outcome.server.is_err(), "{outcome:?}");
    assert!(outcome.client.unwrap_err().contains("certificate"));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let authority = authority();
    let hub = Own::issued(&authority, "hub", Role::Server, days(90));
    let mut client =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots(&authority))
            .with_no_client_auth();
    client.alpn_protocols = vec![tls::ALPN.to_vec()];
    let outcome = connect(hub.server(&authority, None), Arc::new(client), "localhost").await;
    assert!(
        outcome.server.is_err() && outcome.client.is_err(),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn tls_1_2_is_refused() {
    let authority = authority();
    let hub = Own::issued(&authority, "hub", Role::Server, days(90));
    let client =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS12])
            .unwrap()
            .with_root_certificates(roots(&authority))
            .with_no_client_auth();
    let outcome = connect(hub.server(&authority, None), Arc::new(client), "localhost").await;
    assert!(outcome.server.unwrap_err().contains("incompatible"));
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = authority();
    let hub = Own::issued(&authority, "hub", Role::Server, days(90));
    let past = Validity::days(SystemTime::now() - 9 * DAY, 8).unwrap();
    let north = Own::issued(&authority, "north", Role::Member, past);
    let (server, client) = (hub.server(&authority, None), north.client(&authority, None));
    let outcome = connect(server, client, "localhost").await;
    assert!(outcome.server.unwrap_err().contains("expired"));
    assert!(outcome.client.is_err());
    let old = Own::issued(&authority, "hub", Role::Server, past);
    let north = Own::issued(&authority, "north", Role::Member, days(90));
    let (server, client) = (old.server(&authority, None), north.client(&authority, None));
    let outcome = connect(server, client, "localhost").await;
    assert!(outcome.client.unwrap_err().contains("expired"));
}

#[tokio::test]
async fn a_certificate_that_is_not_yet_valid_is_refused() {
    let authority = authority();
    let hub = Own::issued(&authority, "hub", Role::Server, days(90));
    let future = Validity::days(SystemTime::now() + DAY, 8).unwrap();
    let north = Own::issued(&authority, "north", Role::Member, future);
    let (server, client) = (hub.server(&authority, None), north.client(&authority, None));
    let outcome = connect(server, client, "localhost").await;
    assert!(outcome.server.unwrap_err().contains("not valid yet"));
}

#[tokio::test]
async fn a_members_certificate_presented_as_the_server_is_refused() {
    let authority = authority();
    let north = Own::issued(&authority, "north", Role::Member, days(90));
    let east = Own::issued(&authority, "east", Role::Member, days(90));
    let server = dangerous_server(&authority, east.certificate.der().to_vec(), &east.key);
    let outcome = connect(server, north.client(&authority, None), "localhost").await;
    assert!(
        outcome.client.is_err() && outcome.server.is_err(),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_members_name_is_no_servers_even_with_a_servers_usage_and_host() {
    // An authority that webpki is content with: server usage, the right host; only the role in the URI says member.
    let folder = tempfile::tempdir().unwrap();
    let (authority, issuer) = authority_with_its_key(folder.path());
    let pair = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let forge = |uri: &str| {
        let mut wished = CertificateParams::new(vec!["localhost".to_string()]).unwrap();
        wished.distinguished_name = DistinguishedName::new();
        wished.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        wished
            .subject_alt_names
            .push(SanType::URI(uri.try_into().unwrap()));
        wished.signed_by(&pair, &issuer).unwrap().der().to_vec()
    };
    let north = Own::issued(&authority, "north", Role::Member, days(90));
    for (uri, accepted) in [
        ("ciphertune://lab/server/east", true), // the control: the forgery itself is good
        ("ciphertune://lab/member/east", false),
        ("ciphertune://ward/server/east", false),
        ("https://lab/server/east", false),
    ] {
        let server = server_with(&authority, forge(uri), pair.serialized_der());
        let outcome = connect(server, north.client(&authority, None), "localhost").await;
        assert_eq!(outcome.connected(), accepted, "{uri}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_on_both_sides() {
    let authority = authority();
    let hub = Own::issued(&authority, "hub", Role::Server, days(90));
    let north = Own::issued(&authority, "north", Role::Member, days(90));
    let east = Own::issued(&authority, "east", Role::Member, days(90));
    let list = naming(&authority, &[&north], days(7));
    let server = hub.server(&authority, Some(&list));
    let outcome = connect(server.clone(), north.client(&authority, None), "localhost").await;
    assert!(outcome.server.unwrap_err().contains("revoked"));
    assert!(outcome.client.is_err());
    let outcome = connect(server, east.client(&authority, Some(&list)), "localhost").await;
    assert!(outcome.connected(), "{outcome:?}");
    let list = naming(&authority, &[&hub], days(7));
    let (server, client) = (
        hub.server(&authority, None),
        east.client(&authority, Some(&list)),
    );
    let outcome = connect(server, client, "localhost").await;
    assert!(outcome.client.unwrap_err().contains("revoked"));
}

#[tokio::test]
async fn a_revocation_list_past_its_date_refuses_everybody_and_another_authoritys_is_none() {
    let (ours, theirs) = (authority(), authority());
    let hub = Own::issued(&ours, "hub", Role::Server, days(90));
    let north = Own::issued(&ours, "north", Role::Member, days(90));
    let stale = Validity::days(SystemTime::now() - 9 * DAY, 8).unwrap();
    let stale = naming(&ours, &[], stale);
    let (server, client) = (hub.server(&ours, Some(&stale)), north.client(&ours, None));
    let outcome = connect(server, client, "localhost").await;
    assert!(outcome.server.is_err(), "{outcome:?}");
    // A client gets its next list from the server: its own may have ended.
    let (server, client) = (hub.server(&ours, None), north.client(&ours, Some(&stale)));
    let outcome = connect(server, client, "localhost").await;
    assert!(outcome.connected(), "{outcome:?}");
    let (ca, list) = (ours.certificate().clone(), naming(&theirs, &[], days(7)));
    let mixed = Credentials::new(ca, hub.certificate.clone(), list);
    assert!(matches!(mixed, Err(Error::Refused(_))), "{mixed:?}");
}

#[test]
fn a_certificate_in_the_wrong_place_is_a_misuse() {
    let authority = authority();
    let hub = Own::issued(&authority, "hub", Role::Server, days(90));
    let north = Own::issued(&authority, "north", Role::Member, days(90));
    fn misused<T>(result: Result<T, Error>) -> bool {
        matches!(result, Err(Error::Misuse(_)))
    }
    let (h, n) = (
        hub.credentials(&authority, None),
        north.credentials(&authority, None),
    );
    assert!(misused(tls::server_config(&n, &north.key)));
    assert!(misused(tls::client_config(&h, &hub.key)));
    assert!(misused(tls::server_config(&h, &north.key)));
    assert!(misused(tls::client_config(&n, &hub.key)));
    assert!(tls::server_config(&h, &hub.key).is_ok());
    assert!(tls::client_config(&n, &north.key).is_ok());
    let (ca, list) = (self::authority(), n.revocations().clone());
    let foreign = Credentials::new(ca.certificate().clone(), north.certificate, list);
    assert!(matches!(foreign, Err(Error::Refused(_))));
}

fn roots(authority: &Authority) -> rustls::RootCertStore {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate().der().clone()).unwrap();
    roots
}

/// The key's PKCS#8, read back from its file the way any other program would: ours never leaves its type.
fn pkcs8(key: &SigningKey) -> Vec<u8> {
    use ciphertune_identity::Passphrase;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    key.save(&path, &Passphrase::new("for a test").unwrap())
        .unwrap();
    let text = std::fs::read_to_string(path).unwrap();
    let (_, document) = pkcs8::SecretDocument::from_pem(&text).unwrap();
    pkcs8::EncryptedPrivateKeyInfoRef::try_from(document.as_bytes())
        .unwrap()
        .decrypt("for a test")
        .unwrap()
        .as_bytes()
        .to_vec()
}

/// An authority, and its key as rcgen takes one, for certificates that ours would never issue.
fn authority_with_its_key(folder: &std::path::Path) -> (Authority, Issuer<'static, KeyPair>) {
    use ciphertune_identity::Passphrase;
    let passphrase = Passphrase::new("for a test").unwrap();
    let authority = authority();
    authority.save(folder, &passphrase).unwrap();
    let key = SigningKey::load(&folder.join("key.pem"), &passphrase).unwrap();
    let pair = KeyPair::try_from(pkcs8(&key).as_slice()).unwrap();
    let issuer = Issuer::from_ca_cert_der(authority.certificate().der(), pair).unwrap();
    (authority, issuer)
}

fn server_with(authority: &Authority, certificate: Vec<u8>, key: &[u8]) -> Arc<ServerConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots(authority)),
        provider.clone(),
    )
    .build()
    .unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate.into()], key.to_vec().try_into().unwrap())
        .unwrap();
    config.alpn_protocols = vec![tls::ALPN.to_vec()];
    Arc::new(config)
}

/// A server that shows whatever certificate it likes.
fn dangerous_server(
    authority: &Authority,
    certificate: Vec<u8>,
    key: &SigningKey,
) -> Arc<ServerConfig> {
    server_with(authority, certificate, &pkcs8(key))
}

/// A client that shows whatever certificate it likes.
fn dangerous_client(
    authority: &Authority,
    certificate: Vec<u8>,
    key: &SigningKey,
) -> Arc<ClientConfig> {
    use rustls::{
        pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
        sign::{CertifiedKey, SingleCertAndKey},
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let private = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pkcs8(key)));
    let signer = rustls::crypto::ring::sign::any_supported_type(&private).unwrap();
    let certified = CertifiedKey::new(vec![certificate.into()], signer);
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots(authority))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![tls::ALPN.to_vec()];
    Arc::new(config)
}
