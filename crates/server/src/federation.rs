//! What the server was given and holds every object against: manifest and federation policy.

use std::collections::HashMap;

use ciphertune_identity::{AuthorityCertificate, Manifest, Name, Role};
use ciphertune_policy::{self as policy, Policy};
use ciphertune_round::{Digest, Envelope, Fingerprint, PolicyDocument, Signed};

use crate::error::{Error, Refused, Result};

/// A verified manifest and the federation's verified policy.
pub struct Federation {
    manifest: Signed<Manifest>,
    document: Signed<PolicyDocument>,
    policy: Policy,
    names: HashMap<Fingerprint, String>,
}

impl Federation {
    /// Verifies both: the manifest with the authority's key, the policy with an officer's of that manifest.
    ///
    /// # Errors
    /// [`Error::Malformed`] says which of the two does not hold, and why.
    pub fn new(
        authority: &AuthorityCertificate,
        manifest: Envelope,
        policy: Envelope,
    ) -> Result<Self> {
        let manifest = Manifest::verify(manifest, authority)
            .map_err(|error| Error::Malformed(format!("manifest: {error}")))?;
        let (document, policy) = officers_policy(&manifest, policy).map_err(|refused| {
            Error::Malformed(format!("federation policy: {}", refused.detail))
        })?;
        let parties = manifest.parties().iter();
        let names = parties.map(|party| (party.fingerprint(), party.name.to_string()));
        Ok(Self {
            names: names.collect(),
            manifest,
            document,
            policy,
        })
    }

    /// A party's role, as policies name it; `None` for a stranger.
    pub fn role_of(&self, party: &Fingerprint) -> Option<policy::Role> {
        Some(match self.manifest.party(party)?.role {
            Role::Member => policy::Role::Member,
            Role::Server => policy::Role::Server,
            Role::Officer => policy::Role::Officer,
            Role::Researcher => policy::Role::Researcher,
            Role::Auditor => policy::Role::Auditor,
        })
    }

    /// The manifest.
    pub fn manifest(&self) -> &Signed<Manifest> {
        &self.manifest
    }

    /// The federation's name.
    pub fn name(&self) -> &Name {
        self.manifest.federation()
    }

    /// The federation's policy as an officer signed it.
    pub fn document(&self) -> &Signed<PolicyDocument> {
        &self.document
    }

    /// The federation's policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Tells this manifest and policy from every other pair.
    pub fn digest(&self) -> Digest {
        let parts = [self.manifest.digest(), self.document.digest()];
        Digest::sha256(&parts.map(|digest| *digest.as_bytes()).concat())
    }

    /// Whether a party has one of the roles that the policy lets submit jobs.
    pub fn may_submit(&self, party: &Fingerprint) -> bool {
        let role = self.role_of(party);
        role.is_some_and(|role| self.policy.may_submit().contains(&role))
    }

    /// A party's name, for words that people read.
    pub fn name_of(&self, party: &Fingerprint) -> String {
        (self.names.get(party)).map_or_else(|| party.to_string(), String::clone)
    }

    /// The members, in the manifest's order.
    pub fn members(&self) -> Vec<Fingerprint> {
        self.manifest
            .members()
            .map(|party| party.fingerprint())
            .collect()
    }

    /// Verifies a site's policy.
    pub(crate) fn site_policy(&self, envelope: Envelope) -> Result<Policy, Refused> {
        officers_policy(&self.manifest, envelope).map(|(_, policy)| policy)
    }
}

fn officers_policy(
    manifest: &Manifest,
    envelope: Envelope,
) -> Result<(Signed<PolicyDocument>, Policy), Refused> {
    let document =
        Signed::<PolicyDocument>::verify(envelope, manifest).map_err(Refused::malformed)?;
    if manifest
        .party_as(&document.signer(), Role::Officer)
        .is_none()
    {
        return Err(Refused::malformed(
            "not signed by an officer of the manifest",
        ));
    }
    if document.federation != manifest.federation().as_str() {
        return Err(Refused::malformed("a policy for another federation"));
    }
    let policy = Policy::parse(&document.toml).map_err(Refused::malformed)?;
    Ok((document, policy))
}
