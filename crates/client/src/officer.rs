//! What an officer does with a policy: sign it at home; and how anybody else finds out who did.

use std::time::SystemTime;

use ciphertune_identity::{
    AuthorityCertificate, Certificate, Home, Manifest, Name, Passphrase, Role, SigningKey,
};
use ciphertune_policy::{Instant, Policy};
use ciphertune_round::{Envelope, Fingerprint, PolicyDocument, Signed, Signer as _, VerifyingKey};

use crate::{
    error::{Error, Result},
    site::verify_policy,
};

/// Signs a policy with the officer's key in `home`, for the federation of its certificate. Needs no manifest: an officer
/// signs the first policy before there is one.
///
/// # Errors
/// [`Error::Malformed`] with everything wrong in the text; [`Error::Refused`] unless the certificate is this key's, an
/// officer's, issued by the authority in `home`, and holds `now`.
pub fn sign(
    home: &Home,
    passphrase: &Passphrase,
    toml: &str,
    now: SystemTime,
) -> Result<Signed<PolicyDocument>> {
    Policy::parse(toml)?;
    let authority = AuthorityCertificate::read(&home.authority())?;
    let certificate = Certificate::read(&home.certificate())?;
    check_officer(&certificate, &authority, now)?;
    let key = SigningKey::load(&home.key(), passphrase)?;
    if key.verifying_key() != certificate.peer().key {
        return Err(Error::Refused(format!(
            "{} is for another key than {}",
            home.certificate().display(),
            home.key().display()
        )));
    }
    let document = PolicyDocument {
        federation: authority.federation().to_string(),
        toml: toml.to_owned(),
    };
    Ok(Signed::sign(document, &key))
}

/// What a signature on a policy is held to; at least one of manifest and certificate.
pub struct Trust {
    /// The federation's authority.
    pub authority: AuthorityCertificate,
    /// Who is who, as the authority signed it: the signer must be an officer of it.
    pub manifest: Option<Envelope>,
    /// The officer's certificate: it must be the signer's, and hold.
    pub certificate: Option<Certificate>,
}

/// A policy whose signature was verified.
pub struct Verified {
    /// As it was signed.
    pub document: Signed<PolicyDocument>,
    /// What it says.
    pub policy: Policy,
    /// The officer.
    pub officer: Name,
}

/// Verifies a signed policy: the chain to the authority, the signer's role, the certificate's validity where one is given,
/// and whether the policy itself holds `now`.
///
/// # Errors
/// [`Error::Refused`] with what does not hold; [`Error::Misuse`] without manifest and certificate.
pub fn verify(envelope: &Envelope, trust: &Trust, now: SystemTime) -> Result<Verified> {
    let mut found = None;
    if let Some(certificate) = &trust.certificate {
        check_officer(certificate, &trust.authority, now)?;
        let peer = certificate.peer();
        let keyring = |signer: &Fingerprint| -> Option<VerifyingKey> {
            (*signer == peer.fingerprint).then_some(peer.key)
        };
        let document = Signed::<PolicyDocument>::verify(envelope.clone(), &keyring)?;
        if document.federation != trust.authority.federation().as_str() {
            return Err(Error::Refused(format!(
                "a policy for federation {:?}, signed by an officer of {}",
                document.federation,
                trust.authority.federation()
            )));
        }
        found = Some((document, peer.name.clone()));
    }
    if let Some(manifest) = &trust.manifest {
        let manifest = Manifest::verify(manifest.clone(), &trust.authority)?;
        let document = verify_policy(&manifest, envelope.clone())?;
        let officer = manifest.party(&document.signer());
        let officer = officer.ok_or_else(|| Error::Refused("signed by a stranger".into()))?;
        found = Some((document, officer.name.clone()));
    }
    let (document, officer) = found.ok_or_else(|| {
        Error::Misuse(
            "a policy is verified with a manifest, or with its officer's certificate".into(),
        )
    })?;
    let policy = Policy::parse(&document.toml)?;
    check_time(&policy, now.into())?;
    Ok(Verified {
        document,
        policy,
        officer,
    })
}

/// The names of a policy that kits are to carry, once an officer of the manifest has signed it and it holds together.
///
/// # Errors
/// [`Error::Refused`] for another signer or federation; [`Error::Malformed`] for a policy that is none.
pub fn policy_in_force(manifest: &Manifest, policy: &Envelope) -> Result<String> {
    let document = verify_policy(manifest, policy.clone())?;
    let policy = Policy::parse(&document.toml)?;
    Ok(policy.names().collect::<Vec<_>>().join(" + "))
}

fn check_time(policy: &Policy, now: Instant) -> Result<()> {
    let refused = |said: String| Err(Error::Refused(said));
    match (policy.valid_from(), policy.valid_until()) {
        (Some(from), _) if now < from => refused(format!(
            "time.valid_from: it is {now}, and the policy holds from {from}"
        )),
        (_, Some(until)) if until < now => refused(format!(
            "time.valid_until: it is {now}, and the policy held until {until}"
        )),
        _ => Ok(()),
    }
}

fn check_officer(
    certificate: &Certificate,
    authority: &AuthorityCertificate,
    now: SystemTime,
) -> Result<()> {
    certificate.verify(authority)?;
    let peer = certificate.peer();
    if peer.role != Role::Officer {
        return Err(Error::Refused(format!(
            "{} is {} of {}: officers alone sign policies",
            peer.name,
            peer.role.with_article(),
            peer.federation
        )));
    }
    let validity = certificate.validity();
    if !validity.contains(now) {
        let at = |seconds| Instant::from_seconds(seconds).unwrap_or(Instant::EPOCH);
        return Err(Error::Refused(format!(
            "the certificate of officer {} holds from {} until {}, and it is {}: have the authority issue a new one",
            peer.name,
            at(validity.not_before()),
            at(validity.not_after()),
            Instant::from(now)
        )));
    }
    Ok(())
}
