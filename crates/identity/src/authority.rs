//! The federation's certificate authority.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    path::Path,
    time::SystemTime,
};

use ciphertune_round::{Signed, Signer, VerifyingKey};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PublicKeyData,
    RevokedCertParams, SanType, SerialNumber,
};
use time::OffsetDateTime;

use crate::{
    certificate::{AuthorityCertificate, Certificate},
    endpoint::Host,
    error::{Error, Result, fault},
    file,
    key::{CertificateSigner, SigningKey, fill},
    manifest::Manifest,
    name::{self, Name, Role},
    passphrase::Passphrase,
    peer::Serial,
    request::Request,
    revocation_list::{Revocation, RevocationList},
    validity::{self, Validity},
};

/// An Ed25519 key and its self-signed certificate. It signs parties' certificates, revocation lists and the manifest;
/// it takes no part in rounds and need not be online.
pub struct Authority {
    key: SigningKey,
    certificate: AuthorityCertificate,
}

impl Authority {
    /// A new authority for a federation, with a new key.
    pub fn create(federation: &Name, validity: Validity) -> Result<Self> {
        const DOING: &str = "signing the authority's certificate";
        let key = SigningKey::generate()?;
        let mut parameters = parameters(federation, "authority", validity)?;
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        parameters.subject_alt_names = vec![uri(name::authority_uri(federation))?];
        let signed = parameters
            .self_signed(&CertificateSigner(&key))
            .map_err(|error| fault(DOING, error))?;
        let certificate = AuthorityCertificate::from_pem(&signed.pem())?;
        Ok(Self { key, certificate })
    }

    /// The authority with this key and this certificate.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the certificate is for another key.
    pub fn open(key: SigningKey, certificate: AuthorityCertificate) -> Result<Self> {
        if key.verifying_key() != *certificate.key() {
            return Err(Error::Misuse(
                "this key is not the one in the authority's certificate".into(),
            ));
        }
        Ok(Self { key, certificate })
    }

    /// Writes `key.pem` (encrypted) and `ca.pem` into a folder.
    pub fn save(&self, folder: &Path, passphrase: &Passphrase) -> Result<()> {
        self.key.save(&folder.join("key.pem"), passphrase)?;
        file::write(
            &folder.join("ca.pem"),
            self.certificate.pem().as_bytes(),
            0o644,
        )
    }

    /// Reads what [`save`](Self::save) wrote.
    pub fn load(folder: &Path, passphrase: &Passphrase) -> Result<Self> {
        let certificate = AuthorityCertificate::read(&folder.join("ca.pem"))?;
        let key = SigningKey::load(&folder.join("key.pem"), passphrase)?;
        Self::open(key, certificate)
    }

    /// Issues a certificate for the name and the key of a request. Nothing else in the request is looked at: serial
    /// number, validity, usages, constraints and alternative names are all set here.
    ///
    /// A server's certificate is valid for `localhost`, 127.0.0.1, ::1 and `hosts`.
    ///
    /// # Errors
    /// [`Error::Misuse`] for hosts with another role than server, or for the authority's own key;
    /// [`Error::Refused`] for a validity beyond the authority's own.
    pub fn issue(
        &self,
        request: &Request,
        role: Role,
        hosts: &[Host],
        validity: Validity,
    ) -> Result<Certificate> {
        self.certify(request.name(), request.key(), role, hosts, validity)
    }

    /// Issues a further certificate for the same name, key, role and hosts as one of this authority's own.
    ///
    /// # Errors
    /// As [`Certificate::verify`], and [`Error::Refused`] for a validity beyond the authority's own.
    pub fn renew(&self, certificate: &Certificate, validity: Validity) -> Result<Certificate> {
        certificate.verify(&self.certificate)?;
        let peer = certificate.peer();
        let hosts = certificate.hosts()?;
        self.certify(&peer.name, &peer.key, peer.role, &hosts, validity)
    }

    fn certify(
        &self,
        name: &Name,
        key: &VerifyingKey,
        role: Role,
        hosts: &[Host],
        validity: Validity,
    ) -> Result<Certificate> {
        if key == self.certificate.key() {
            return Err(Error::Misuse(
                "the authority's key must not also be a party's".into(),
            ));
        }
        if !self.certificate.validity().encloses(&validity) {
            return Err(Error::Refused(format!(
                "a certificate would outlive the authority's, which ends at {}: issue it for fewer days",
                self.certificate.validity().end()
            )));
        }
        let federation = self.certificate.federation();
        let mut parameters = parameters(federation, name.as_str(), validity)?;
        parameters.is_ca = IsCa::ExplicitNoCa;
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.subject_alt_names = vec![uri(name::party_uri(federation, role, name))?];
        if role == Role::Server {
            parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            parameters.subject_alt_names.extend(host_names(hosts)?);
        } else if hosts.is_empty() {
            parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        } else {
            return Err(Error::Misuse(format!("a {role} is reached at no host")));
        }
        self.sign(&parameters, key)
    }

    /// A revocation list: these certificates hold no longer. Past `validity`'s last second a server refuses everybody
    /// until it gets the next; `number` grows with each list.
    pub fn revoke(
        &self,
        revoked: &BTreeMap<Serial, Revocation>,
        number: u64,
        validity: Validity,
    ) -> Result<RevocationList> {
        const DOING: &str = "signing a revocation list";
        let (this_update, next_update) = validity.dates()?;
        let entry = |(serial, revocation): (&Serial, &Revocation)| -> Result<RevokedCertParams> {
            Ok(RevokedCertParams {
                serial_number: SerialNumber::from_slice(serial.as_bytes()),
                revocation_time: validity::date(revocation.at)?,
                reason_code: revocation.reason.to_rcgen(),
                invalidity_date: None,
            })
        };
        let list = CertificateRevocationListParams {
            this_update,
            next_update,
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect::<Result<_>>()?,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let pem = (list.signed_by(&self.issuer(DOING)?))
            .and_then(|list| list.pem())
            .map_err(|error| fault(DOING, error))?;
        let list = RevocationList::from_pem(&pem)?;
        list.verify(&self.certificate)?;
        Ok(list)
    }

    /// Signs the list of the federation's parties.
    ///
    /// # Errors
    /// [`Error::Misuse`] if it is another federation's, or has the authority's own key among its parties.
    pub fn sign_manifest(&self, manifest: Manifest) -> Result<Signed<Manifest>> {
        if manifest.federation() != self.certificate.federation() {
            return Err(Error::Misuse(format!(
                "a manifest of {} for the authority of {}",
                manifest.federation(),
                self.certificate.federation()
            )));
        }
        if manifest
            .party(&self.key.verifying_key().fingerprint())
            .is_some()
        {
            return Err(Error::Misuse(
                "the authority's key must not also be a party's".into(),
            ));
        }
        Ok(Signed::sign(manifest, &self.key))
    }

    /// The certificate that every party holds.
    pub fn certificate(&self) -> &AuthorityCertificate {
        &self.certificate
    }

    /// The same, in PEM.
    pub fn certificate_pem(&self) -> &str {
        self.certificate.pem()
    }

    /// The federation.
    pub fn federation(&self) -> &Name {
        self.certificate.federation()
    }

    /// Whether the authority's certificate holds at `now`.
    pub fn holds(&self, now: SystemTime) -> bool {
        self.certificate.validity().contains(now)
    }

    fn sign(&self, parameters: &CertificateParams, key: &VerifyingKey) -> Result<Certificate> {
        const DOING: &str = "signing a certificate";
        let signed = parameters
            .signed_by(&Subject(*key), &self.issuer(DOING)?)
            .map_err(|error| fault(DOING, error))?;
        let certificate = Certificate::from_pem(&signed.pem())?;
        certificate.verify(&self.certificate)?;
        Ok(certificate)
    }

    /// Signs any payload as a manifest, whatever it holds: for tests of what must be refused all the same.
    #[cfg(test)]
    pub(crate) fn sign_bytes(&self, payload: Vec<u8>) -> ciphertune_round::Envelope {
        ciphertune_round::Envelope::sign(ciphertune_round::label::MANIFEST, payload, &self.key)
    }

    fn issuer(&self, doing: &str) -> Result<Issuer<'static, CertificateSigner<'_>>> {
        Issuer::from_ca_cert_der(self.certificate.der(), CertificateSigner(&self.key))
            .map_err(|error| fault(doing, error))
    }
}

/// The key that a certificate is about, as rcgen takes one.
struct Subject(VerifyingKey);

impl PublicKeyData for Subject {
    fn der_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

/// What all our certificates share: O = federation, CN = name, a random serial number of 16 bytes.
///
/// (rcgen's own serial number is a hash of the key: a renewed certificate could not be told from a revoked one.)
fn parameters(federation: &Name, name: &str, validity: Validity) -> Result<CertificateParams> {
    let mut serial = [0; 16];
    fill(&mut serial)?;
    serial[0] = serial[0] & 0x3f | 0x40; // positive, and always 16 bytes long
    let (not_before, not_after): (OffsetDateTime, OffsetDateTime) = validity.dates()?;
    let mut parameters = CertificateParams::default();
    parameters.not_before = not_before;
    parameters.not_after = not_after;
    parameters.serial_number = Some(SerialNumber::from_slice(&serial));
    parameters.distinguished_name = DistinguishedName::new();
    parameters
        .distinguished_name
        .push(DnType::OrganizationName, federation.as_str());
    parameters.distinguished_name.push(DnType::CommonName, name);
    Ok(parameters)
}

fn uri(uri: String) -> Result<SanType> {
    uri.try_into()
        .map(SanType::URI)
        .map_err(|error| fault("naming a certificate", error))
}

fn host_names(hosts: &[Host]) -> Result<Vec<SanType>> {
    let own = [
        Host::Dns("localhost".into()),
        Host::Ip(Ipv4Addr::LOCALHOST.into()),
        Host::Ip(Ipv6Addr::LOCALHOST.into()),
    ];
    let mut names = Vec::new();
    for host in own.iter().chain(hosts) {
        let name = match host {
            Host::Ip(ip) => SanType::IpAddress(*ip),
            Host::Dns(name) => SanType::DnsName(
                name.as_str()
                    .try_into()
                    .map_err(|error| fault("naming a certificate", error))?,
            ),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::CertificateSigningRequestParams;
    use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject};

    use super::*;
    use crate::{
        peer,
        validity::{AUTHORITY_DAYS, LEAF_DAYS},
    };

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    fn days(days: u32) -> Validity {
        Validity::days(
            SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            days,
        )
        .unwrap()
    }

    fn authority() -> Authority {
        Authority::create(&name("lab"), days(AUTHORITY_DAYS)).unwrap()
    }

    #[test]
    fn a_certificate_says_what_was_asked_of_the_authority() {
        let authority = authority();
        let key = SigningKey::generate().unwrap();
        let request = Request::new(&name("north"), &key).unwrap();
        let certificate = authority
            .issue(&request, Role::Member, &[], days(LEAF_DAYS))
            .unwrap();
        let peer = certificate.peer();
        assert_eq!(
            (peer.federation.as_str(), peer.name.as_str()),
            ("lab", "north")
        );
        assert_eq!(peer.role, Role::Member);
        assert_eq!(peer.fingerprint, key.verifying_key().fingerprint());
        assert_eq!(certificate.validity(), &days(LEAF_DAYS));
        assert_eq!(peer.serial.as_bytes().len(), 16);
        let again = authority
            .issue(&request, Role::Member, &[], days(LEAF_DAYS))
            .unwrap();
        assert_ne!(again.peer().serial, peer.serial);
        certificate.verify(authority.certificate()).unwrap();
    }

    #[test]
    fn nothing_smuggled_into_a_request_survives() {
        let authority = authority();
        let key = SigningKey::generate().unwrap();
        let mut wished = CertificateParams::new(vec!["evil.example".to_string()]).unwrap();
        wished.distinguished_name = DistinguishedName::new();
        wished.distinguished_name.push(DnType::CommonName, "north");
        wished
            .distinguished_name
            .push(DnType::OrganizationName, "other");
        wished.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        wished.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        wished.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        wished
            .subject_alt_names
            .push(uri("ciphertune://lab/server/north".into()).unwrap());
        let pem = wished
            .serialize_request(&CertificateSigner(&key))
            .unwrap()
            .pem()
            .unwrap();
        let der = CertificateSigningRequestDer::from_pem_slice(pem.as_bytes()).unwrap();
        let seen = CertificateSigningRequestParams::from_der(&der).unwrap();
        assert_eq!(
            seen.params.is_ca, wished.is_ca,
            "the request does ask for it"
        );

        let request = Request::from_pem(&pem).unwrap();
        let certificate = authority
            .issue(&request, Role::Member, &[], days(LEAF_DAYS))
            .unwrap();
        let parsed = peer::parse(certificate.der()).unwrap();
        assert!(!parsed.is_ca());
        assert!(!parsed.basic_constraints().unwrap().unwrap().value.ca);
        let usage = parsed.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature());
        assert!(!usage.key_cert_sign() && !usage.crl_sign());
        let extended = parsed.extended_key_usage().unwrap().unwrap().value;
        assert!(extended.client_auth && !extended.server_auth && !extended.any);
        let names = parsed.subject_alternative_name().unwrap().unwrap().value;
        assert_eq!(names.general_names.len(), 1);
        assert_eq!(peer::uri(&parsed).unwrap(), "ciphertune://lab/member/north");
        assert_eq!(parsed.subject().to_string(), "O=lab, CN=north");
    }

    #[test]
    fn a_certificate_never_outlives_the_authority() {
        let authority = Authority::create(&name("lab"), days(30)).unwrap();
        let key = SigningKey::generate().unwrap();
        let request = Request::new(&name("north"), &key).unwrap();
        let issued = authority.issue(&request, Role::Member, &[], days(31));
        assert!(matches!(issued, Err(Error::Refused(_))));
        assert!(
            authority
                .issue(&request, Role::Member, &[], days(30))
                .is_ok()
        );
    }

    #[test]
    fn hosts_are_the_servers_alone() {
        let authority = authority();
        let key = SigningKey::generate().unwrap();
        let request = Request::new(&name("hub"), &key).unwrap();
        let hosts = [
            Host::new("hub.example").unwrap(),
            Host::new("192.0.2.7").unwrap(),
        ];
        let issued = authority.issue(&request, Role::Member, &hosts, days(1));
        assert!(matches!(issued, Err(Error::Misuse(_))));
        let issued = authority
            .issue(&request, Role::Server, &hosts, days(1))
            .unwrap();
        let parsed = peer::parse(issued.der()).unwrap();
        let names = parsed.subject_alternative_name().unwrap().unwrap().value;
        assert_eq!(names.general_names.len(), 1 + 3 + 2);
        let renewed = authority.renew(&issued, days(2)).unwrap();
        assert_ne!(renewed.peer().serial, issued.peer().serial);
        assert_eq!(
            (renewed.validity(), &renewed.peer().key),
            (&days(2), request.key())
        );
        let parsed = peer::parse(renewed.der()).unwrap();
        let again = parsed.subject_alternative_name().unwrap().unwrap().value;
        assert_eq!(again.general_names, names.general_names);
        let other = Authority::create(&name("lab"), days(AUTHORITY_DAYS)).unwrap();
        assert!(other.renew(&issued, days(2)).is_err());
    }

    #[test]
    fn a_certificate_of_another_authority_does_not_verify() {
        let (authority, other) = (authority(), authority());
        let key = SigningKey::generate().unwrap();
        let request = Request::new(&name("north"), &key).unwrap();
        let certificate = other.issue(&request, Role::Member, &[], days(1)).unwrap();
        let verified = certificate.verify(authority.certificate());
        assert!(matches!(verified, Err(Error::Refused(_))));
    }

    #[test]
    fn the_authoritys_own_key_gets_no_partys_certificate() {
        let authority = authority();
        let request = Request::new(&name("north"), &authority.key).unwrap();
        let issued = authority.issue(&request, Role::Member, &[], days(1));
        assert!(matches!(issued, Err(Error::Misuse(_))));
    }

    #[test]
    fn an_authority_survives_its_folder_and_fits_no_other_key() {
        let folder = tempfile::tempdir().unwrap();
        let passphrase = Passphrase::new("correct horse battery staple").unwrap();
        let authority = authority();
        authority.save(folder.path(), &passphrase).unwrap();
        let loaded = Authority::load(folder.path(), &passphrase).unwrap();
        assert_eq!(loaded.certificate(), authority.certificate());
        let other = SigningKey::generate().unwrap();
        let opened = Authority::open(other, authority.certificate().clone());
        assert!(matches!(opened, Err(Error::Misuse(_))));
    }

    #[test]
    fn a_partys_certificate_is_no_authoritys() {
        let authority = authority();
        let key = SigningKey::generate().unwrap();
        let request = Request::new(&name("north"), &key).unwrap();
        let certificate = authority
            .issue(&request, Role::Member, &[], days(1))
            .unwrap();
        assert!(AuthorityCertificate::from_pem(certificate.pem()).is_err());
        assert!(Certificate::from_pem(authority.certificate_pem()).is_err());
        let two = format!("{}{}", certificate.pem(), certificate.pem());
        assert!(Certificate::from_pem(&two).is_err());
    }
}
