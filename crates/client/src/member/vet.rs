//! A plan arrives: recompute all that can be recomputed, and refuse in words when anything differs.

use std::time::SystemTime;

use ciphertune_policy::{Admitted, Instant};
use ciphertune_round::{Context, OneTimeKeyOffer, Plan, ShareIndex, Signed};
use ciphertune_seal::SealingKey;
use ciphertune_sum::Parameters;
use ciphertune_wire::limits::check_plan;

use super::{Engagement, Member};
use crate::{
    desk::Attempt,
    error::{Error, Result},
    mechanism::Reckoned,
    report::Happening,
    rules::{self, Rules},
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
        plan.check_against(&engaged.job, &rules::members(manifest))?;
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
        rules::check_cohort(&plan, manifest)?;
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
        if !rules::is(federation, site.federation_policy().envelope()) {
            return Err(Error::Refused(
                "the plan's federation policy is not the one that this member holds".into(),
            ));
        }
        if let Some(own) = site.site_policy().filter(|_| seated)
            && !sites.iter().any(|it| rules::is(it, own.envelope()))
        {
            return Err(Error::Refused(
                "this member's own policy is not among the plan's: a job keeps the policies that it was admitted under, so a \
                 site with another one takes part in a new job"
                    .into(),
            ));
        }
        let rules = Rules::of(plan, manifest)?;
        if let Some(noted) = engaged.desk.policy_plan()? {
            rules.demand_no_weaker_than(&noted, plan)?;
        }
        let now = Instant::from(SystemTime::now());
        let admitted = rules.admit(&engaged.job, plan, manifest, now)?;
        site.check_certificate(rules.policy(), now)?;
        self.check_list_age(rules.policy(), now)?;
        self.check_dataset(rules.policy())?;
        Ok(admitted)
    }
}
