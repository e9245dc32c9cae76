//! Which certificates hold no longer.

use std::{collections::BTreeMap, fmt, path::Path, str::FromStr, time::SystemTime};

use ciphertune_round::Digest;
use rustls::pki_types::{CertificateRevocationListDer, pem::PemObject};
use x509_parser::{
    oid_registry::OID_SIG_ED25519,
    parse_x509_crl,
    revocation_list::{CertificateRevocationList, RevokedCertificate},
    x509::ReasonCode,
};

use crate::{
    certificate::AuthorityCertificate,
    error::{Error, Result, malformed},
    file,
    peer::Serial,
    validity::Validity,
};

/// Room for ten thousand revoked certificates, amply.
const MAX_PEM_BYTES: usize = 1 << 20;
const OBJECT: &str = "revocation list";

/// A revocation list (RFC 5280 §5), DER: what an authority signs when a certificate must not be believed until it
/// expires by itself. Each list names all of them, and has a greater number than the one before.
///
/// Parsing verifies nothing: [`RevocationList::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevocationList {
    pem: String,
    der: CertificateRevocationListDer<'static>,
    number: u64,
    validity: Validity,
    revoked: BTreeMap<Serial, Revocation>,
}

/// Since when one certificate holds no longer, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Seconds since 1970.
    pub at: u64,
    /// Why.
    pub reason: Reason,
}

/// Why a certificate was revoked: those of RFC 5280 §5.3.1 that an authority of parties has a use for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reason {
    /// Not said.
    #[default]
    Unspecified,
    /// Somebody else may have the key. A new certificate is for a new key.
    KeyCompromise,
    /// Its name or role is another one now.
    AffiliationChanged,
    /// Another certificate took its place.
    Superseded,
    /// The party left.
    CessationOfOperation,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Unspecified,
        Self::KeyCompromise,
        Self::AffiliationChanged,
        Self::Superseded,
        Self::CessationOfOperation,
    ];

    /// As commands write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unspecified => "unspecified",
            Self::KeyCompromise => "key-compromise",
            Self::AffiliationChanged => "affiliation-changed",
            Self::Superseded => "superseded",
            Self::CessationOfOperation => "cessation-of-operation",
        }
    }

    fn of_code(code: ReasonCode) -> Self {
        match code {
            ReasonCode::KeyCompromise => Self::KeyCompromise,
            ReasonCode::AffiliationChanged => Self::AffiliationChanged,
            ReasonCode::Superseded => Self::Superseded,
            ReasonCode::CessationOfOperation => Self::CessationOfOperation,
            _ => Self::Unspecified,
        }
    }

    pub(crate) const fn to_rcgen(self) -> Option<rcgen::RevocationReason> {
        match self {
            Self::Unspecified => None,
            Self::KeyCompromise => Some(rcgen::RevocationReason::KeyCompromise),
            Self::AffiliationChanged => Some(rcgen::RevocationReason::AffiliationChanged),
            Self::Superseded => Some(rcgen::RevocationReason::Superseded),
            Self::CessationOfOperation => Some(rcgen::RevocationReason::CessationOfOperation),
        }
    }
}

impl FromStr for Reason {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|reason| reason.as_str() == text)
            .ok_or_else(|| {
                let known = Self::ALL.map(Self::as_str).join(", ");
                let shown: String = text.chars().take(80).collect();
                malformed("reason", format!("{shown:?} is none of {known}"))
            })
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl RevocationList {
    /// Parses one list in PEM.
    ///
    /// # Errors
    /// [`Error::Malformed`] for what is no list, has no number or no end, or names a certificate twice.
    pub fn from_pem(pem: &str) -> Result<Self> {
        let der = only_one(pem)?;
        let list = parse(&der)?;
        let number = list.crl_number().and_then(|number| number.try_into().ok());
        let number: u64 = number.ok_or_else(|| malformed(OBJECT, "it has no number"))?;
        let ends = list.next_update();
        let ends = ends.ok_or_else(|| malformed(OBJECT, "it has no end (next update)"))?;
        let validity = Validity::of_seconds(
            instant(list.last_update().timestamp())?,
            instant(ends.timestamp())?,
        )
        .map_err(|_| malformed(OBJECT, "it ends before it begins"))?;
        let mut revoked = BTreeMap::new();
        for one in list.iter_revoked_certificates() {
            let (serial, revocation) = entry(one)?;
            if revoked.insert(serial, revocation).is_some() {
                return Err(malformed(OBJECT, "it names a certificate twice"));
            }
        }
        Ok(Self {
            pem: pem.to_owned(),
            number,
            validity,
            revoked,
            der,
        })
    }

    /// Reads a file in PEM.
    pub fn read(path: &Path) -> Result<Self> {
        Self::from_pem(&file::read_text(path, MAX_PEM_BYTES as u64)?)
            .map_err(|error| error.within(path))
    }

    /// Verifies that `authority` signed it.
    ///
    /// # Errors
    /// [`Error::Refused`]: signed by another key.
    pub fn verify(&self, authority: &AuthorityCertificate) -> Result<()> {
        let refused =
            || Error::Refused("the revocation list is not signed by this authority".into());
        let list = parse(&self.der)?;
        let algorithms = [&list.signature_algorithm, &list.tbs_cert_list.signature];
        if algorithms.iter().any(|a| a.algorithm != OID_SIG_ED25519) {
            return Err(refused());
        }
        let signature =
            <[u8; 64]>::try_from(list.signature_value.data.as_ref()).map_err(|_| refused())?;
        let signed = list.tbs_cert_list.as_ref();
        (authority.key().verify(signed, &signature)).map_err(|_| refused())
    }

    /// Whether this list may take the place of an `older` one: a greater number, or the very same list.
    ///
    /// # Errors
    /// [`Error::Refused`] with both numbers.
    pub fn check_succeeds(&self, older: &Self) -> Result<()> {
        if self.number > older.number || self.der == older.der {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "revocation list {} does not succeed list {}",
            self.number, older.number
        )))
    }

    /// Whether it is the list in force at `now`: a later one is due after its last second.
    pub fn holds(&self, now: SystemTime) -> bool {
        self.validity.contains(now)
    }

    /// Whether a certificate is in it.
    pub fn names(&self, serial: &Serial) -> bool {
        self.revoked.contains_key(serial)
    }

    /// All that are in it.
    pub fn revoked(&self) -> &BTreeMap<Serial, Revocation> {
        &self.revoked
    }

    /// Grows with each list of an authority.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// When it was issued, and until when it is the newest (this update, next update).
    pub fn validity(&self) -> &Validity {
        &self.validity
    }

    /// SHA-256 of the DER.
    pub fn digest(&self) -> Digest {
        Digest::sha256(&self.der)
    }

    /// PEM.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// DER.
    pub fn der(&self) -> &CertificateRevocationListDer<'static> {
        &self.der
    }
}

fn only_one(pem: &str) -> Result<CertificateRevocationListDer<'static>> {
    let wrong = || malformed(OBJECT, "not exactly one list in PEM");
    if pem.len() > MAX_PEM_BYTES {
        return Err(wrong());
    }
    let mut all = CertificateRevocationListDer::pem_slice_iter(pem.as_bytes());
    match (all.next(), all.next()) {
        (Some(Ok(der)), None) => Ok(der),
        _ => Err(wrong()),
    }
}

fn parse<'a>(der: &'a CertificateRevocationListDer<'_>) -> Result<CertificateRevocationList<'a>> {
    match parse_x509_crl(der) {
        Ok(([], list)) => Ok(list),
        _ => Err(malformed(OBJECT, "not X.509 in DER")),
    }
}

fn entry(one: &RevokedCertificate<'_>) -> Result<(Serial, Revocation)> {
    let reason = one.reason_code().map(|(_, code)| Reason::of_code(code));
    let revocation = Revocation {
        at: instant(one.revocation_date.timestamp())?,
        reason: reason.unwrap_or_default(),
    };
    Ok((Serial::new(one.raw_serial())?, revocation))
}

fn instant(at: i64) -> Result<u64> {
    u64::try_from(at).map_err(|_| malformed(OBJECT, "an instant before 1970"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::{Authority, Name};

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_800_000_000 + seconds)
    }

    fn days(days: u32) -> Validity {
        Validity::days(at(0), days).unwrap()
    }

    fn authority() -> Authority {
        Authority::create(&Name::new("lab").unwrap(), days(365)).unwrap()
    }

    fn revoked() -> BTreeMap<Serial, Revocation> {
        let each = Reason::ALL.into_iter().enumerate();
        let each = each.map(|(n, reason)| {
            let at = 1_700_000_000 + n as u64;
            let serial = Serial::new(&[7, n as u8]).unwrap();
            (serial, Revocation { at, reason })
        });
        each.collect()
    }

    #[test]
    fn a_list_says_whom_it_names_since_when_and_why() {
        let authority = authority();
        let list = authority.revoke(&revoked(), 3, days(7)).unwrap();
        let read = RevocationList::from_pem(list.pem()).unwrap();
        assert_eq!(read, list);
        assert_eq!(read.revoked(), &revoked());
        assert_eq!((read.number(), read.validity()), (3, &days(7)));
        assert!(read.names(&Serial::new(&[7, 1]).unwrap()));
        assert!(!read.names(&Serial::new(&[8]).unwrap()));
        assert!(read.holds(at(0)) && read.holds(at(7 * 86_400)));
        assert!(!read.holds(at(7 * 86_400 + 1)));
        read.verify(authority.certificate()).unwrap();
    }

    #[test]
    fn a_list_of_another_authority_is_refused() {
        let list = authority().revoke(&revoked(), 1, days(7)).unwrap();
        let verified = list.verify(authority().certificate());
        assert!(matches!(verified, Err(Error::Refused(_))), "{verified:?}");
    }

    #[test]
    fn only_a_later_list_succeeds_or_the_same() {
        let authority = authority();
        let list = |number| authority.revoke(&BTreeMap::new(), number, days(7)).unwrap();
        let (first, second) = (list(1), list(2));
        second.check_succeeds(&first).unwrap();
        first.check_succeeds(&first).unwrap();
        let refused = first.check_succeeds(&second).unwrap_err().to_string();
        assert!(refused.contains("list 1 does not succeed list 2"));
    }

    #[test]
    fn what_is_not_one_list_is_malformed() {
        let list = authority().revoke(&revoked(), 1, days(7)).unwrap();
        let two = format!("{}{}", list.pem(), list.pem());
        let half = &list.pem()[..list.pem().len() / 2];
        for text in ["", half, &two] {
            let read = RevocationList::from_pem(text);
            assert!(matches!(read, Err(Error::Malformed(_))), "{read:?}");
        }
    }
}
