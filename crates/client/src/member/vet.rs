//! A plan arrives: recompute all that can be recomputed, and refuse in words when anything differs.

use std::time::SystemTime;

use ciphertune_policy::{Admitted, Direction, Instant, Policy, Source};
use ciphertune_round::{
    Context, Envelope, Fingerprint, Object as _, OneTimeKeyOffer, Plan, PolicyDocument, ShareIndex,
    Signed,
};
use ciphertune_seal::SealingKey;
use ciphertune_sum::Parameters;
use ciphertune_wire::limits::check_plan;

use super::{Engagement, Member};
use crate::{
    desk::Attempt,
    error::{Error, Result},
    mechanism::Reckoned,
    report::Happening,
    site::{Site, verify_policy},
};

/// A plan that this member takes part in: proof that it was vetted.
pub(super) struct Vetted {
    pub plan: Signed<Plan>,
    pub context: Context,
    pub seat: ShareIndex,
    pub parameters: Parameters,
    pub length: usize,
    /// The one-time keys to seal to, by seat.
    pub seats: Vec<SealingKey>,
    /// Who holds shares, ascending.
    pub holders: Vec<ShareIndex>,
    /// Where this member stands among them; `None` when it holds no shares.
    pub place: Option<usize>,
    /// This member's own.
    pub offer: OneTimeKeyOffer,
    pub attempt: Attempt,
    /// The permit: without it there is no round.
    pub admitted: Admitted,
}

impl Vetted {
    /// Who holds shares, with the keys to seal to.
    pub(super) fn holding(&self) -> Vec<(ShareIndex, SealingKey)> {
        let key = |seat: &ShareIndex| Some((*seat, self.seats.get(seat.position())?.clone()));
        self.holders.iter().filter_map(key).collect()
    }

    /// Whether a seat holds shares.
    pub(super) fn is_holder(&self, seat: ShareIndex) -> bool {
        self.holders.binary_search(&seat).is_ok()
    }

    /// How many shares a seat's release carries: one for everybody, or none.
    pub(super) fn shares_of_release(&self, seat: ShareIndex) -> usize {
        if self.is_holder(seat) {
            self.seats.len()
        } else {
            0
        }
    }
}

impl Member {
    pub(super) fn vet(&mut self, engaged: &Engagement, plan: Signed<Plan>) -> Result<Vetted> {
        let site = &self.site;
        let manifest = site.manifest();
        let refused = |said: String| Err(Error::Refused(said));
        plan.check_against(&engaged.job, &self.members())?;
        if plan.round != engaged.model.round + 1 {
            return refused(format!(
                "the plan is for round {}, this member's model stands after round {}",
                plan.round, engaged.model.round
            ));
        }
        if plan.model != engaged.model.agreed {
            return refused(
                "the plan starts from another model than the one last agreed on".into(),
            );
        }
        self.check_cohort(&plan)?;
        check_plan(&plan).map_err(Error::Refused)?;
        Reckoned::demand_enough_noise(&engaged.job, plan.min_contributors, plan.colluders)?;
        let admitted = self.check_policies(engaged, &plan, true)?;
        let parameters = plan.parameters()?;
        let keys = plan.one_time_keys(manifest.value())?;
        let seat = plan
            .seat_of(&site.fingerprint())
            .ok_or_else(|| Error::Refused("this member has no seat".into()))?;
        let offer = keys
            .get(seat.position())
            .map(|offer| offer.value().clone())
            .ok_or_else(|| Error::Refused("this member's seat has no one-time key".into()))?;
        let seats = keys
            .iter()
            .map(|offer| {
                SealingKey::parse(&offer.public_key).map_err(|error| {
                    let name = site.name_of(&offer.member);
                    Error::Refused(format!("the one-time key of {name}: {error}"))
                })
            })
            .collect::<Result<_>>()?;
        let context = plan.context();
        // Refuse a key that was used, or named for another context, before anything is charged or sent.
        self.stock.bind(&offer, context)?;
        engaged
            .desk
            .accept_plan(plan.round, plan.attempt, context)?;
        engaged.desk.note_policy_plan(&plan)?;
        let attempt = engaged.desk.attempt(context)?;
        self.note_on(
            "plan",
            [
                ("job", engaged.digest().to_string().into()),
                ("round", plan.round.into()),
                ("attempt", plan.attempt.into()),
                ("context", context.to_string().into()),
                ("policy", plan.policy.to_string().into()),
                ("parameters", plan.parameters.clone().into()),
                ("cohort", plan.seats.len().into()),
                ("holders", plan.holders().count().into()),
            ],
            &[&plan.encode()],
        )?;
        self.tell(Happening::Planned {
            round: plan.round,
            rounds: engaged.job.rounds,
            attempt: plan.attempt,
            cohort: plan.seats.len(),
            parameters: plan.parameters.clone(),
        });
        Ok(Vetted {
            length: plan.length()?,
            holders: plan.holders().collect(),
            place: plan.place_of(seat),
            plan,
            context,
            seat,
            parameters,
            seats,
            offer,
            attempt,
            admitted,
        })
    }

    /// All members of the manifest.
    pub(super) fn members(&self) -> Vec<Fingerprint> {
        self.site
            .manifest()
            .members()
            .map(|party| party.fingerprint())
            .collect()
    }

    /// Members of the manifest, in its order.
    pub(super) fn check_cohort(&self, plan: &Plan) -> Result<()> {
        let manifest = self.site.manifest();
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

    /// Merges the plan's policies itself, finds its own among them if it has a seat, and has the result admit the plan.
    pub(super) fn check_policies(
        &self,
        engaged: &Engagement,
        plan: &Signed<Plan>,
        seated: bool,
    ) -> Result<Admitted> {
        let site = &self.site;
        let manifest = site.manifest();
        let (federation, sites) = plan
            .policies
            .split_first()
            .ok_or_else(|| Error::Refused("the plan names no policy".into()))?;
        let is = |envelope: &Envelope, own: &Envelope| envelope.payload() == own.payload();
        if !is(federation, site.federation_policy().envelope()) {
            return Err(Error::Refused(
                "the plan's federation policy is not the one that this member holds".into(),
            ));
        }
        if let Some(own) = site.site_policy().filter(|_| seated)
            && !sites.iter().any(|envelope| is(envelope, own.envelope()))
        {
            return Err(Error::Refused(
                "this member's own policy is not among the plan's: a job keeps the policies that it was admitted under, so a \
                 site with another one takes part in a new job"
                    .into(),
            ));
        }
        let documents = plan
            .policies
            .iter()
            .map(|envelope| verify_policy(manifest, envelope.clone()))
            .collect::<Result<Vec<_>>>()?;
        let merged = strictest_of(documents.iter().map(|document| document.toml.as_str()))?;
        if merged.digest() != *plan.policy.as_bytes() {
            return Err(Error::Refused(
                "the plan's effective policy is not the strictest of the policies that it carries"
                    .into(),
            ));
        }
        demand_no_weaker(engaged.desk.policy_plan()?.as_ref(), plan, &merged)?;
        let members = manifest.members().count();
        let now = Instant::from(SystemTime::now());
        let author = site.role_of(&engaged.job.signer())?;
        let proposal = engaged.job.proposal(&plan.terms(members), author, now);
        let admitted = merged.admit(&proposal).map_err(|refusal| {
            let names: Vec<String> = documents.iter().map(|it| named(site, it)).collect();
            let sources: Vec<Source<'_>> = names
                .iter()
                .zip(&documents)
                .map(|(name, document)| Source {
                    name,
                    toml: &document.toml,
                })
                .collect();
            Error::Refused(refusal.sourced(&proposal, &sources).to_string())
        })?;
        site.check_certificate(&merged, now)?;
        self.check_list_age(&merged, now)?;
        self.check_dataset(&merged)?;
        // Everybody's rank is known before k is: a server that might choose k would stop where its helpers are many.
        let due = engaged.job.terms(&merged, members, plan.seats.len())?;
        let drawn = plan.committee.as_ref().map(|committee| committee.size);
        if drawn != due.committee {
            return Err(Error::Refused(format!(
                "the plan draws {}, the job and the policies {}",
                in_words(drawn),
                in_words(due.committee)
            )));
        }
        Ok(admitted)
    }
}

/// A plan's effective policy must allow nothing that an earlier one of the same job did not: a weaker policy is for a new
/// job. A stricter one is followed, and is then the least.
fn demand_no_weaker(noted: Option<&Plan>, plan: &Plan, merged: &Policy) -> Result<()> {
    let Some(noted) = noted.filter(|noted| noted.policy != plan.policy) else {
        return Ok(());
    };
    let documents = noted
        .policies
        .iter()
        .map(|envelope| Ok(PolicyDocument::parse(envelope.payload())?))
        .collect::<Result<Vec<_>>>()?;
    let before = strictest_of(documents.iter().map(|document| document.toml.as_str()))?;
    if merged.is_as_strict_as(&before) {
        return Ok(());
    }
    let changes: Vec<String> = before
        .diff(merged)
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

fn strictest_of<'a>(documents: impl Iterator<Item = &'a str>) -> Result<Policy> {
    let policies = documents
        .map(|toml| Ok(Policy::parse(toml)?))
        .collect::<Result<Vec<_>>>()?;
    Ok(Policy::merge(&policies.iter().collect::<Vec<_>>())?)
}

/// A policy document of a plan, for people.
fn named(site: &Site, document: &Signed<PolicyDocument>) -> String {
    let name = Policy::parse(&document.toml).ok();
    let name = name.as_ref().and_then(|policy| policy.names().next());
    format!(
        "policy {:?} signed by {}",
        name.unwrap_or_default(),
        site.name_of(&document.signer())
    )
}

fn in_words(committee: Option<usize>) -> String {
    committee.map_or("no committee".into(), |size| {
        format!("a committee of {size}")
    })
}
