//! Names, certificates, requests, revocation lists, key files, kits.

use std::{fs, os::unix::fs::OpenOptionsExt, path::Path, sync::OnceLock};

use ciphertune_identity::{
    AuthorityCertificate, Certificate, Endpoint, Host, Kit, Name, Passphrase, Peer, Request,
    RevocationList, Role, Serial, SigningKey, tls,
};
use ciphertune_round::Signer as _;

use super::{corpora, parts, scratch, text};
use crate::keys;

/// A name, of a federation or a party; or a role.
pub fn name(data: &[u8]) -> bool {
    let Some(text) = text(data) else {
        return false;
    };
    let role = text.parse::<Role>();
    assert!(role.is_err() || role.unwrap().as_str() == text);
    let Ok(name) = text.parse::<Name>() else {
        return false;
    };
    assert_eq!(name.as_str(), text);
    assert!((1..=63).contains(&text.len()));
    true
}

/// `HOST:PORT`, or a host alone.
pub fn endpoint(data: &[u8]) -> bool {
    let Some(text) = text(data) else {
        return false;
    };
    if let Ok(host) = text.parse::<Host>() {
        assert!(Endpoint::new(host, 1).unwrap().server_name().is_ok());
    }
    let Ok(endpoint) = text.parse::<Endpoint>() else {
        return false;
    };
    assert_eq!(endpoint.to_string().parse::<Endpoint>().unwrap(), endpoint);
    assert!(endpoint.server_name().is_ok() && endpoint.port() != 0);
    true
}

/// A certificate's serial number.
pub fn serial(data: &[u8]) -> bool {
    let Ok(serial) = Serial::new(data) else {
        return false;
    };
    assert!(data.ends_with(serial.as_bytes()) && (1..=20).contains(&serial.as_bytes().len()));
    true
}

/// A certificate in DER, as it comes out of a handshake.
pub fn certificate(data: &[u8]) -> bool {
    let Ok(peer) = tls::peer(data) else {
        return false;
    };
    assert_eq!(peer.fingerprint, peer.key.fingerprint());
    true
}

/// The certificates of the corpus: what a mutated one is held against.
fn known() -> &'static (AuthorityCertificate, Peer) {
    static KNOWN: OnceLock<(AuthorityCertificate, Peer)> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let authority = corpora().join("authority_pem/valid-ca.pem");
        let certificate = corpora().join("certificate_pem/valid-member.pem");
        let certificate = Certificate::read(&certificate).unwrap();
        (
            AuthorityCertificate::read(&authority).unwrap(),
            certificate.peer().clone(),
        )
    })
}

/// A party's certificate in PEM: nothing but the one that the authority signed passes for it.
pub fn certificate_pem(data: &[u8]) -> bool {
    let Some(Ok(certificate)) = text(data).map(Certificate::from_pem) else {
        return false;
    };
    assert_eq!(certificate.pem().as_bytes(), data);
    let (authority, peer) = known();
    if certificate.verify(authority).is_ok() {
        assert!(certificate.peer() == peer, "a forgery");
    }
    true
}

/// An authority's certificate in PEM: it signed itself.
pub fn authority_pem(data: &[u8]) -> bool {
    let Some(Ok(authority)) = text(data).map(AuthorityCertificate::from_pem) else {
        return false;
    };
    assert_eq!(authority.key(), known().0.key(), "a forgery");
    assert_eq!(authority.federation(), known().0.federation());
    true
}

/// A request for a certificate: its key signed it.
pub fn request(data: &[u8]) -> bool {
    let Some(Ok(request)) = text(data).map(Request::from_pem) else {
        return false;
    };
    assert_eq!(request.name().as_str(), "north");
    true
}

/// A revocation list in PEM.
pub fn revocations(data: &[u8]) -> bool {
    let Some(Ok(list)) = text(data).map(RevocationList::from_pem) else {
        return false;
    };
    let ours = list.verify(&known().0).is_ok();
    assert!(!ours || list.number() == 3, "a forgery");
    true
}

/// A file for its owner alone.
fn private(path: &Path, data: &[u8]) {
    let mut options = fs::OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .unwrap();
    std::io::Write::write_all(&mut file, data).unwrap();
}

/// A pass-phrase in a file.
pub fn passphrase(data: &[u8]) -> bool {
    let folder = scratch();
    let path = folder.path().join("passphrase");
    private(&path, data);
    Passphrase::read(&path).is_ok()
}

/// An encrypted key in a file.
pub fn key_file(data: &[u8]) -> bool {
    let folder = scratch();
    let path = folder.path().join("key.pem");
    private(&path, data);
    let Ok(key) = SigningKey::load(&path, &keys::passphrase()) else {
        return false;
    };
    key.verifying_key()
        .verify(b"message", &key.sign(b"message"))
        .unwrap();
    true
}

/// A kit's six files: ca.pem, cert.pem, crl.pem, manifest.bin, policy.bin, address.txt.
pub fn kit(data: &[u8]) -> bool {
    let files = [
        "ca.pem",
        "cert.pem",
        "crl.pem",
        "manifest.bin",
        "policy.bin",
        "address.txt",
    ];
    let folder = scratch();
    for (name, part) in files.into_iter().zip(parts::<6>(data)) {
        fs::write(folder.path().join(name), part).unwrap();
    }
    let Ok(kit) = Kit::read(folder.path()) else {
        return false;
    };
    let key = kit.credentials.certificate().peer().key;
    let Ok(manifest) = kit.verify(&key) else {
        return false;
    };
    assert!(manifest.party(&key.fingerprint()).is_some());
    true
}
