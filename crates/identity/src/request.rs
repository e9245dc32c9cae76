//! What leaves home to get a certificate: a name and a public key, signed by the private one.

use ciphertune_round::{Signer, VerifyingKey};
use rcgen::{CertificateParams, DistinguishedName, DnType, SanType};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};
use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::OID_SIG_ED25519,
    prelude::FromDer,
};

use crate::{
    error::{Error, Result, fault, malformed},
    key::{CertificateSigner, SigningKey},
    name::{self, Name, Role},
};

const MAX_PEM_BYTES: usize = 16 << 10;
const OBJECT: &str = "request";

/// A PKCS#10 request (RFC 2986) whose signature was verified: whoever made it holds the key.
///
/// Of all that a request may ask for, only the name (common name) and the public key ever reach a certificate. The
/// federation and the role that it wishes for are there for people to read; no other extension is parsed at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pem: String,
    name: Name,
    key: VerifyingKey,
    wish: Option<Wish>,
}

/// What a request would like to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// In which federation.
    pub federation: Name,
    /// In which role.
    pub role: Role,
}

impl Request {
    /// Asks for a certificate for `key` under `name`.
    pub fn new(name: &Name, key: &SigningKey) -> Result<Self> {
        Self::of(name, None, key)
    }

    /// The same, with a wish: the URI of the certificate that it hopes for (`ciphertune://FEDERATION/ROLE/NAME`).
    pub fn wishing(name: &Name, wish: &Wish, key: &SigningKey) -> Result<Self> {
        Self::of(name, Some(wish.clone()), key)
    }

    fn of(name: &Name, wish: Option<Wish>, key: &SigningKey) -> Result<Self> {
        const DOING: &str = "writing a request";
        let mut parameters = CertificateParams::default();
        if let Some(Wish { federation, role }) = &wish {
            let uri = name::party_uri(federation, *role, name).try_into();
            let uri = SanType::URI(uri.map_err(|error| fault(DOING, error))?);
            parameters.subject_alt_names = vec![uri];
        }
        parameters.distinguished_name = DistinguishedName::new();
        parameters
            .distinguished_name
            .push(DnType::CommonName, name.as_str());
        let pem = parameters
            .serialize_request(&CertificateSigner(key))
            .and_then(|request| request.pem())
            .map_err(|error| fault(DOING, error))?;
        Ok(Self {
            pem,
            name: name.clone(),
            key: key.verifying_key(),
            wish,
        })
    }

    /// Parses a request in PEM and verifies its signature.
    ///
    /// # Errors
    /// [`Error::Malformed`] if it is none, or not of an Ed25519 key, or without exactly one common name that is a
    /// [`Name`]; [`Error::Refused`] if its key did not sign it.
    pub fn from_pem(pem: &str) -> Result<Self> {
        if pem.len() > MAX_PEM_BYTES {
            return Err(malformed(OBJECT, format!("{} bytes", pem.len())));
        }
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes())
            .map_err(|_| malformed(OBJECT, "not a certificate request in PEM"))?;
        let Ok(([], parsed)) = X509CertificationRequest::from_der(&der) else {
            return Err(malformed(OBJECT, "not PKCS#10 in DER"));
        };
        let info = &parsed.certification_request_info;
        if info.subject_pki.algorithm.algorithm != OID_SIG_ED25519
            || parsed.signature_algorithm.algorithm != OID_SIG_ED25519
        {
            return Err(malformed(OBJECT, "its key is not Ed25519"));
        }
        let key = VerifyingKey::from_bytes(&info.subject_pki.subject_public_key.data)?;
        let unsigned = || Error::Refused("the request is not signed by its own key".into());
        let signature =
            <[u8; 64]>::try_from(parsed.signature_value.data.as_ref()).map_err(|_| unsigned())?;
        key.verify(info.raw, &signature).map_err(|_| unsigned())?;
        let mut names = info.subject.iter_common_name();
        let name = match (names.next(), names.next()) {
            (Some(name), None) => name.as_str().ok().map(Name::new),
            _ => None,
        };
        let name = name.ok_or_else(|| malformed(OBJECT, "not exactly one common name"))??;
        Ok(Self {
            pem: pem.to_owned(),
            wish: wish(&parsed, &name),
            name,
            key,
        })
    }

    /// PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The name that it asks for.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// The key that it is for.
    pub fn key(&self) -> &VerifyingKey {
        &self.key
    }

    /// What it would like to be, if it says so in the one way that is understood.
    pub fn wish(&self) -> Option<&Wish> {
        self.wish.as_ref()
    }
}

/// The one URI of ours among the names asked for, if it is of the same name.
fn wish(request: &X509CertificationRequest<'_>, own: &Name) -> Option<Wish> {
    let mut names = request.requested_extensions()?.filter_map(|one| match one {
        ParsedExtension::SubjectAlternativeName(names) => Some(names),
        _ => None,
    });
    let names = names.next()?;
    let mut uris = names.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => name::parse_party_uri(uri).ok(),
        _ => None,
    });
    let (federation, role, name) = uris.next()?;
    (name == *own && uris.next().is_none()).then_some(Wish { federation, role })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_its_text() {
        let key = SigningKey::generate().unwrap();
        let request = Request::new(&Name::new("north").unwrap(), &key).unwrap();
        let parsed = Request::from_pem(request.pem()).unwrap();
        assert_eq!(parsed, request);
        assert_eq!(parsed.key(), &key.verifying_key());
        assert_eq!(parsed.wish(), None);
        let wish = Wish {
            federation: Name::new("lab").unwrap(),
            role: Role::Member,
        };
        let request = Request::wishing(&Name::new("north").unwrap(), &wish, &key).unwrap();
        let parsed = Request::from_pem(request.pem()).unwrap();
        assert_eq!(parsed, request);
        assert_eq!(parsed.wish(), Some(&wish));
    }

    #[test]
    fn a_request_signed_by_another_key_is_refused() {
        let (key, other) = (
            SigningKey::generate().unwrap(),
            SigningKey::generate().unwrap(),
        );
        let request = Request::new(&Name::new("north").unwrap(), &key).unwrap();
        let mut der = CertificateSigningRequestDer::from_pem_slice(request.pem().as_bytes())
            .unwrap()
            .to_vec();
        let at = der
            .windows(32)
            .position(|window| window == key.verifying_key().as_bytes())
            .unwrap();
        der[at..at + 32].copy_from_slice(other.verifying_key().as_bytes());
        let pem = pem(&der);
        assert!(matches!(Request::from_pem(&pem), Err(Error::Refused(_))));
    }

    #[test]
    fn a_request_with_a_foreign_name_or_other_bytes_is_refused() {
        let key = SigningKey::generate().unwrap();
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters
            .distinguished_name
            .push(DnType::CommonName, "../north");
        let pem = parameters
            .serialize_request(&CertificateSigner(&key))
            .unwrap()
            .pem()
            .unwrap();
        assert!(matches!(Request::from_pem(&pem), Err(Error::Malformed(_))));
        assert!(Request::from_pem("").is_err());
        assert!(Request::from_pem(&pem[..pem.len() / 2]).is_err());
    }

    fn pem(der: &[u8]) -> String {
        use pkcs8::{LineEnding, SecretDocument};
        let document = SecretDocument::try_from(der).unwrap();
        let pem = document
            .to_pem("CERTIFICATE REQUEST", LineEnding::LF)
            .unwrap();
        pem.to_string()
    }
}
