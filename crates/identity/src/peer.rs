//! Who a certificate says it is.

use std::fmt;

use ciphertune_round::{Fingerprint, VerifyingKey};
use x509_parser::{
    certificate::X509Certificate, extensions::GeneralName, oid_registry::OID_SIG_ED25519,
    parse_x509_certificate,
};

use crate::{
    error::{Error, Result, malformed},
    name::{self, Name, Role},
};

/// The largest certificate that is parsed.
const MAX_DER_BYTES: usize = 16 << 10;
const OBJECT: &str = "certificate";

/// The party at the other end, as its certificate names it.
///
/// Parsing verifies nothing: take it from a connection whose handshake succeeded ([`crate::tls::peer`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Federation.
    pub federation: Name,
    /// Name inside the federation.
    pub name: Name,
    /// Role.
    pub role: Role,
    /// SHA-256 of the 32 bytes of the public key: what the manifest and every signed object call this party.
    pub fingerprint: Fingerprint,
    /// The public key.
    pub key: VerifyingKey,
    /// The certificate's serial number: what a revocation list names.
    pub serial: Serial,
    /// The first second of the certificate's validity, since 1970.
    pub issued_at: u64,
    /// The last.
    pub ends_at: u64,
}

impl Peer {
    /// Reads a party's certificate, DER.
    ///
    /// # Errors
    /// [`Error::Malformed`] unless it has an Ed25519 key, is no CA, and has exactly one URI of ours,
    /// `ciphertune://FEDERATION/ROLE/NAME`.
    pub fn from_der(der: &[u8]) -> Result<Self> {
        Self::of(&parse(der)?)
    }

    /// What this party's audit log is called: `ciphertune/FEDERATION/ROLE/NAME`.
    pub fn log_name(&self) -> String {
        format!("ciphertune/{}/{}/{}", self.federation, self.role, self.name)
    }

    pub(crate) fn of(certificate: &X509Certificate<'_>) -> Result<Self> {
        if certificate.is_ca() {
            return Err(malformed(OBJECT, "an authority's, not a party's"));
        }
        let key = key(certificate)?;
        let (federation, role, name) = name::parse_party_uri(uri(certificate)?)?;
        let validity = certificate.validity();
        let seconds =
            |at: i64| u64::try_from(at).map_err(|_| malformed(OBJECT, "an instant before 1970"));
        Ok(Self {
            federation,
            name,
            role,
            fingerprint: key.fingerprint(),
            key,
            serial: Serial::new(certificate.raw_serial())?,
            issued_at: seconds(validity.not_before.timestamp())?,
            ends_at: seconds(validity.not_after.timestamp())?,
        })
    }
}

/// A certificate's serial number: 1 to 20 bytes, big-endian, no leading zeros (RFC 5280 §4.1.2.2).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Serial(Vec<u8>);

impl Serial {
    /// Takes the bytes of a serial number.
    pub fn new(bytes: &[u8]) -> Result<Self> {
        let start = bytes.iter().take_while(|byte| **byte == 0).count();
        match bytes.get(start..) {
            Some(bytes) if (1..=20).contains(&bytes.len()) => Ok(Self(bytes.to_vec())),
            _ => Err(malformed("serial number", "not 1 to 20 bytes")),
        }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Parses DER, to its last byte.
pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>> {
    if der.len() > MAX_DER_BYTES {
        return Err(malformed(OBJECT, format!("{} bytes", der.len())));
    }
    match parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(malformed(OBJECT, "not X.509 in DER")),
    }
}

/// The Ed25519 key that a certificate is about.
pub(crate) fn key(certificate: &X509Certificate<'_>) -> Result<VerifyingKey> {
    let info = certificate.public_key();
    if info.algorithm.algorithm != OID_SIG_ED25519 {
        return Err(malformed(OBJECT, "its key is not Ed25519"));
    }
    Ok(VerifyingKey::from_bytes(&info.subject_public_key.data)?)
}

/// The one URI of our scheme.
pub(crate) fn uri<'a>(certificate: &'a X509Certificate<'a>) -> Result<&'a str> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|error| malformed(OBJECT, error))?
        .ok_or_else(|| malformed(OBJECT, "it names nobody"))?;
    let mut ours = names
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::URI(uri) if name::is_ours(uri) => Some(*uri),
            _ => None,
        });
    match (ours.next(), ours.next()) {
        (Some(uri), None) => Ok(uri),
        _ => Err(malformed(
            OBJECT,
            "it has not exactly one ciphertune:// name",
        )),
    }
}

/// Verifies the Ed25519 signature on a certificate.
///
/// # Errors
/// [`Error::Refused`]: signed by another key, or with another algorithm.
pub(crate) fn verify_signature(
    certificate: &X509Certificate<'_>,
    issuer: &VerifyingKey,
) -> Result<()> {
    let refused = || Error::Refused("the certificate is not signed by this authority".into());
    let algorithms = [
        &certificate.signature_algorithm,
        &certificate.tbs_certificate.signature,
    ];
    if algorithms.iter().any(|a| a.algorithm != OID_SIG_ED25519) {
        return Err(refused());
    }
    let signature =
        <[u8; 64]>::try_from(certificate.signature_value.data.as_ref()).map_err(|_| refused())?;
    issuer
        .verify(certificate.tbs_certificate.as_ref(), &signature)
        .map_err(|_| refused())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_number_has_no_leading_zeros() {
        assert_eq!(Serial::new(&[0, 1, 0]).unwrap().as_bytes(), [1, 0]);
        assert_eq!(Serial::new(&[0, 0xab]).unwrap().to_string(), "ab");
        assert!(Serial::new(&[]).is_err());
        assert!(Serial::new(&[0]).is_err());
        assert!(Serial::new(&[1; 21]).is_err());
    }

    #[test]
    fn bytes_that_are_no_certificate_are_refused() {
        for bytes in [
            &[][..],
            &[0x30],
            &[0x30, 0x80, 0],
            &[0xff; 99],
            &[0x30; 20_000],
        ] {
            assert!(matches!(Peer::from_der(bytes), Err(Error::Malformed(_))));
        }
    }
}
