//! Certificates as files: the authority's and a party's.

use std::{net::IpAddr, path::Path};

use ciphertune_round::VerifyingKey;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName};

use crate::{
    endpoint::Host,
    error::{Error, Result, malformed},
    file,
    name::{self, Name},
    peer::{self, Peer},
    validity::Validity,
};

const MAX_PEM_BYTES: usize = 32 << 10;

/// The certificate of a federation's authority: self-signed, Ed25519, a CA that signs parties and no further CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorityCertificate {
    pem: String,
    der: CertificateDer<'static>,
    federation: Name,
    key: VerifyingKey,
    validity: Validity,
}

impl AuthorityCertificate {
    /// Parses one certificate in PEM and verifies that it is an authority's, signed by itself.
    ///
    /// That it is the *right* authority's only people can tell, by its key's fingerprint.
    pub fn from_pem(pem: &str) -> Result<Self> {
        let der = only_one(pem)?;
        let parsed = peer::parse(&der)?;
        if !parsed.is_ca() {
            return Err(malformed("authority's certificate", "not a CA's"));
        }
        let key = peer::key(&parsed)?;
        peer::verify_signature(&parsed, &key)?;
        Ok(Self {
            pem: pem.to_owned(),
            federation: name::parse_authority_uri(peer::uri(&parsed)?)?,
            key,
            validity: validity(&parsed)?,
            der,
        })
    }

    /// Reads a file in PEM.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_pem(&file::read_text(path, MAX_PEM_BYTES as u64)?)
            .map_err(|error| error.within(path))
    }

    /// Whom a party's certificate, DER, as a handshake shows it, says to be, if this authority signed it.
    ///
    /// # Errors
    /// [`Error::Malformed`] for other bytes, [`Error::Refused`] for one of another authority or federation.
    pub fn certified(&self, der: &[u8]) -> Result<Peer> {
        let parsed = peer::parse(der)?;
        peer::verify_signature(&parsed, &self.key)?;
        let peer = Peer::of(&parsed)?;
        if peer.federation == self.federation {
            return Ok(peer);
        }
        Err(Error::Refused(format!(
            "a certificate for {}, signed by the authority of {}",
            peer.federation, self.federation
        )))
    }

    /// PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// The federation.
    pub fn federation(&self) -> &Name {
        &self.federation
    }

    /// The key that signs certificates, revocation lists and the manifest.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// When it holds.
    pub fn validity(&self) -> &Validity {
        &self.validity
    }
}

/// The certificate of one party, issued by its federation's authority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pem: String,
    der: CertificateDer<'static>,
    peer: Peer,
    validity: Validity,
}

impl Certificate {
    /// Parses one certificate in PEM. Who signed it is asked by [`verify`](Self::verify).
    pub fn from_pem(pem: &str) -> Result<Self> {
        let der = only_one(pem)?;
        let parsed = peer::parse(&der)?;
        Ok(Self {
            pem: pem.to_owned(),
            peer: Peer::of(&parsed)?,
            validity: validity(&parsed)?,
            der,
        })
    }

    /// Reads a file in PEM.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_pem(&file::read_text(path, MAX_PEM_BYTES as u64)?)
            .map_err(|error| error.within(path))
    }

    /// Verifies that `authority` signed this certificate, for its own federation and inside its own validity.
    pub fn verify(&self, authority: &AuthorityCertificate) -> Result<()> {
        peer::verify_signature(&peer::parse(&self.der)?, authority.key())?;
        if self.peer.federation != *authority.federation() {
            return Err(Error::Refused(format!(
                "a certificate for {}, signed by the authority of {}",
                self.peer.federation,
                authority.federation()
            )));
        }
        if !authority.validity().encloses(&self.validity) {
            return Err(Error::Refused(
                "a certificate that outlives its authority's".into(),
            ));
        }
        Ok(())
    }

    /// The hosts that a server's certificate is valid for.
    pub fn hosts(&self) -> Result<Vec<Host>> {
        let parsed = peer::parse(&self.der)?;
        let names = parsed.subject_alternative_name();
        let names = names.map_err(|error| malformed("certificate", error))?;
        let each = names.iter().flat_map(|names| &names.value.general_names);
        Ok(each
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Host::new(name).ok(),
                GeneralName::IPAddress(bytes) => match **bytes {
                    [a, b, c, d] => Some(Host::Ip(IpAddr::from([a, b, c, d]))),
                    _ => (<[u8; 16]>::try_from(*bytes).ok()).map(|bytes| Host::Ip(bytes.into())),
                },
                _ => None,
            })
            .collect())
    }

    /// PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// DER.
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// Who it is about.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// When it holds.
    pub fn validity(&self) -> &Validity {
        &self.validity
    }
}

/// The only certificate in a PEM text.
fn only_one(pem: &str) -> Result<CertificateDer<'static>> {
    let wrong = || malformed("certificate", "not exactly one certificate in PEM");
    if pem.len() > MAX_PEM_BYTES {
        return Err(wrong());
    }
    let mut all = CertificateDer::pem_slice_iter(pem.as_bytes());
    match (all.next(), all.next()) {
        (Some(Ok(der)), None) => Ok(der),
        _ => Err(wrong()),
    }
}

fn validity(certificate: &X509Certificate<'_>) -> Result<Validity> {
    let wrong = || malformed("certificate", "its validity is not between 1970 and 9999");
    let instant = |at: i64| u64::try_from(at).map_err(|_| wrong());
    let validity = certificate.validity();
    Validity::of_seconds(
        instant(validity.not_before.timestamp())?,
        instant(validity.not_after.timestamp())?,
    )
    .map_err(|_| wrong())
}
