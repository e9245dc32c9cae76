//! What a plan is held to: by each member when it arrives, by an auditor afterwards.

use ciphertune_identity::Manifest;
use ciphertune_policy::{Admitted, Direction, Instant, Policy, Source};
use ciphertune_round::{Envelope, Fingerprint, Job, Object as _, Plan, PolicyDocument, Signed};

use crate::{
    error::{Error, Result},
    site::{self, NO_PARTY, verify_policy},
};

/// The policies of a plan, each signed by an officer, and the strictest of them.
pub(crate) struct Rules {
    documents: Vec<Signed<PolicyDocument>>,
    policy: Policy,
}

impl Rules {
    /// Verifies a plan's policies and merges them.
    ///
    /// # Errors
    /// [`Error::Refused`] where the plan's effective policy is another one.
    pub fn of(plan: &Plan, manifest: &Manifest) -> Result<Self> {
        let documents = plan
            .policies
            .iter()
            .map(|envelope| verify_policy(manifest, envelope.clone()))
            .collect::<Result<Vec<_>>>()?;
        let rules = Self {
            policy: strictest_of(documents.iter().map(|document| document.toml.as_str()))?,
            documents,
        };
        rules.check_named_by(plan)?;
        Ok(rules)
    }

    /// The effective policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The documents that it is the strictest of, the federation's first.
    pub fn documents(&self) -> &[Signed<PolicyDocument>] {
        &self.documents
    }

    /// Whether a plan carries these policies, to the byte.
    pub fn are_those_of(&self, plan: &Plan) -> bool {
        let own = self.documents.iter().map(Signed::envelope);
        own.eq(plan.policies.iter())
    }

    /// Whether a plan names their strictest as its effective policy.
    pub fn check_named_by(&self, plan: &Plan) -> Result<()> {
        if self.policy.digest() == *plan.policy.as_bytes() {
            return Ok(());
        }
        Err(Error::Refused(
            "the plan's effective policy is not the strictest of the policies that it carries"
                .into(),
        ))
    }

    /// Has the effective policy admit what the plan does for its job at `now`.
    ///
    /// # Errors
    /// [`Error::Refused`] with every rule broken and whose it is; for a committee other than the job and the policies draw.
    pub fn admit(
        &self,
        job: &Signed<Job>,
        plan: &Plan,
        manifest: &Manifest,
        now: Instant,
    ) -> Result<Admitted> {
        let members = manifest.members().count();
        let author = manifest
            .party(&job.signer())
            .ok_or_else(|| Error::Refused(NO_PARTY.into()))?;
        let proposal = job.proposal(&plan.terms(members), site::role(author.role), now);
        let admitted = self.policy.admit(&proposal).map_err(|refusal| {
            let names: Vec<String> = self
                .documents
                .iter()
                .map(|document| named(manifest, document))
                .collect();
            let sources: Vec<Source<'_>> = names
                .iter()
                .zip(&self.documents)
                .map(|(name, document)| Source {
                    name,
                    toml: &document.toml,
                })
                .collect();
            Error::Refused(refusal.sourced(&proposal, &sources).to_string())
        })?;
        // Everybody's rank is known before k is: a server that might choose k would stop where its helpers are many.
        let due = job.terms(&self.policy, members, plan.seats.len())?;
        let drawn = plan.committee.as_ref().map(|committee| committee.size);
        if drawn == due.committee {
            return Ok(admitted);
        }
        Err(Error::Refused(format!(
            "the plan draws {}, the job and the policies {}",
            in_words(drawn),
            in_words(due.committee)
        )))
    }

    /// A plan's effective policy must allow nothing that an earlier one of the same job did not: a weaker policy is for a
    /// new job. A stricter one is followed, and is then the least.
    pub fn demand_no_weaker_than(&self, noted: &Plan, plan: &Plan) -> Result<()> {
        if noted.policy == plan.policy {
            return Ok(());
        }
        let documents = noted
            .policies
            .iter()
            .map(|envelope| Ok(PolicyDocument::parse(envelope.payload())?))
            .collect::<Result<Vec<_>>>()?;
        let before = strictest_of(documents.iter().map(|document| document.toml.as_str()))?;
        if self.policy.is_as_strict_as(&before) {
            return Ok(());
        }
        let changes: Vec<String> = before
            .diff(&self.policy)
            .iter()
            .filter(|change| change.key != "name" && change.direction != Direction::Stricter)
            .map(|change| format!("\n  {change}"))
            .collect();
        Err(Error::Refused(format!(
            "the plan's effective policy is weaker than that of round {}, attempt {}, of the same job; under a weaker policy \
             submit a new job{}",
            noted.round,
            noted.attempt,
            changes.concat()
        )))
    }
}

/// Whether a plan seats members of the manifest that it names, in its order.
pub(crate) fn check_cohort(plan: &Plan, manifest: &Signed<Manifest>) -> Result<()> {
    if plan.manifest != manifest.digest() {
        return Err(Error::Refused(
            "the plan names another manifest than the one that this member holds".into(),
        ));
    }
    let places: Vec<Option<usize>> = plan
        .seats
        .iter()
        .map(|seat| {
            manifest
                .members()
                .position(|party| party.fingerprint() == seat.member)
        })
        .collect();
    if places.iter().any(Option::is_none) {
        return Err(Error::Refused(
            "the plan seats somebody who is no member of this federation".into(),
        ));
    }
    if !places.is_sorted() {
        return Err(Error::Refused(
            "the plan's seats are not in the manifest's order".into(),
        ));
    }
    Ok(())
}

/// All members of a manifest.
pub(crate) fn members(manifest: &Manifest) -> Vec<Fingerprint> {
    manifest
        .members()
        .map(|party| party.fingerprint())
        .collect()
}

/// Whether two envelopes say the same, whoever signed them.
pub(crate) fn is(envelope: &Envelope, other: &Envelope) -> bool {
    envelope.payload() == other.payload()
}

/// The strictest of policies as they are written.
pub(crate) fn strictest_of<'a>(documents: impl Iterator<Item = &'a str>) -> Result<Policy> {
    let policies = documents
        .map(|toml| Ok(Policy::parse(toml)?))
        .collect::<Result<Vec<_>>>()?;
    Ok(Policy::merge(&policies.iter().collect::<Vec<_>>())?)
}

/// A policy document of a plan, for people.
fn named(manifest: &Manifest, document: &Signed<PolicyDocument>) -> String {
    let name = Policy::parse(&document.toml).ok();
    let name = name.as_ref().and_then(|policy| policy.names().next());
    format!(
        "policy {:?} signed by {}",
        name.unwrap_or_default(),
        site::name_in(manifest, &document.signer())
    )
}

fn in_words(committee: Option<usize>) -> String {
    committee.map_or("no committee".into(), |size| {
        format!("a committee of {size}")
    })
}
