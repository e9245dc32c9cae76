//! A plan starts from a model that this member missed: find what was agreed on, ask for it, hold what comes to that.

use std::{collections::BTreeMap, time::Duration};

use ciphertune_identity::Role;
use ciphertune_policy::Sharing;
use ciphertune_round::{
    Agreement, Context, Digest, Parcel, ParcelRequest, Plan, ShareIndex, Signed,
};
use ciphertune_seal::{AgreementKey, OneTimeKey, open_parcel};
use ciphertune_wire::proto::{EventKind, PutSignedRequest};

use super::{Engagement, Member, blocking};
use crate::{
    desk::Attempt,
    disk,
    error::{Error, Result},
    inbox::{Backlog, Inbox, kind},
    model::{self, Model},
    report::Happening,
    rules,
    transfer::{Wanted, fetch, retry},
};

/// How long the job's past events may take to pass by.
const PAST: Duration = Duration::from_secs(120);
/// Attempts at a missed round that are followed, the last ones: their plans are held meanwhile.
const MOST_ATTEMPTS: usize = 8;
/// The download.
const PARCEL: &str = "parcel";

/// A plan of a missed round, and the first word of each of its seats on the model.
struct Missed {
    plan: Signed<Plan>,
    said: BTreeMap<ShareIndex, Digest>,
}

impl Missed {
    /// Whether t members that hold shares agreed on a model, and nobody said another one.
    fn agrees_on(&self, model: &Digest) -> bool {
        let holders = self
            .plan
            .holders()
            .filter(|seat| self.said.contains_key(seat));
        holders.count() >= self.plan.threshold && self.said.values().all(|said| said == model)
    }
}

fn missed_and<T>(round: u32, said: &str) -> Result<T> {
    Err(Error::Refused(format!(
        "this member missed round {round}, and {said}"
    )))
}

impl Member {
    /// Brings this member's model to where `plan` starts from.
    ///
    /// # Errors
    /// [`Error::Refused`] when the server's events show no agreement on the plan's model; [`Error::Void`] when the
    /// attempt ends before a parcel comes, or the parcel is not that model.
    pub(super) async fn catch_up(
        &mut self,
        engaged: &mut Engagement,
        plan: &Signed<Plan>,
    ) -> Result<()> {
        plan.check_against(&engaged.job, &rules::members(self.site.manifest()))?;
        rules::check_cohort(plan, self.site.manifest())?;
        self.check_policies(engaged, plan, true)?;
        let agreed_in = self.agreed_in(engaged, plan).await?;
        self.tell(Happening::CatchingUp {
            from: engaged.model.round,
            to: plan.round - 1,
        });
        let attempt = engaged.desk.attempt(plan.context())?;
        let key = attempt.parcel_key()?;
        let request = self.ask(plan, agreed_in, &key).await?;
        let parcel = self.await_parcel(engaged, plan, &request).await?;
        let opened = self
            .fetch_parcel(engaged, plan, &attempt, key, &request, &parcel)
            .await;
        let held = opened.map(|(agreement, state)| {
            let found = agreement.agreement(&agreed_in, &model::digest(&state));
            (found == plan.model).then_some((agreement, state))
        });
        let (agreement, state) = match held {
            Ok(Some(held)) => held,
            // What the server altered fails before this: its sender signed the digest.
            Ok(None) | Err(Error::Refused(_) | Error::Malformed { .. }) => {
                self.note(
                    "wrong-parcel",
                    [
                        ("context", plan.context().to_string().into()),
                        ("member", parcel.signer().to_string().into()),
                        ("parcel", parcel.digest().to_string().into()),
                    ],
                )?;
                return Err(Error::Void(format!(
                    "what {} sent is not the model that was agreed on",
                    self.site.name_of(&parcel.signer())
                )));
            }
            Err(error) => return Err(error),
        };
        self.note(
            "caught-up",
            [
                ("context", plan.context().to_string().into()),
                ("round", (plan.round - 1).into()),
                ("agreement", plan.model.to_string().into()),
                ("member", parcel.signer().to_string().into()),
            ],
        )?;
        engaged.model = Model {
            state,
            round: plan.round - 1,
            agreed: plan.model,
            key: Some(agreement.into()),
        };
        engaged.desk.write_model(&engaged.model)?;
        attempt.erase_parcel_key()?;
        self.site.disk().erase(&attempt.download(PARCEL))
    }

    /// The context in which the model that `plan` names was agreed on, read from the server's events anew: every signature
    /// is verified here, and in every missed round, from the model that this member has on, enough of those that hold shares
    /// agreed and nobody said otherwise. The whole chain: the committee of a round is drawn from the model of the one
    /// before, so a server that could make one up would draw its helpers.
    async fn agreed_in(&mut self, engaged: &Engagement, plan: &Signed<Plan>) -> Result<Context> {
        let mut past = Inbox::open_after(&self.client, engaged.since);
        tokio::time::timeout(PAST, self.follow_past(engaged, plan, &mut past))
            .await
            .map_err(|_| Error::Void("the server does not show its past events".into()))?
    }

    async fn follow_past(
        &mut self,
        engaged: &Engagement,
        plan: &Signed<Plan>,
        past: &mut Inbox,
    ) -> Result<Context> {
        let (here, members) = (plan.encode(), rules::members(self.site.manifest()));
        let (mut round, mut model) = (engaged.model.round + 1, engaged.model.agreed);
        let mut agreed_in = None;
        // The plans of `round` that start from `model`, by attempt.
        let mut attempts: BTreeMap<u32, Missed> = BTreeMap::new();
        loop {
            let event = past.next().await?;
            match kind(&event) {
                EventKind::Plan => {
                    let found = match self.site.verify_as::<Plan>(&event.envelope, Role::Server) {
                        Ok(found) if found.job == engaged.job.digest() => found,
                        _ => continue,
                    };
                    let agreed = |one: &&Missed| one.agrees_on(&found.model);
                    if found.round == round + 1
                        && let Some(missed) = attempts.values().find(agreed)
                    {
                        self.check_missed(engaged, plan, &missed.plan)?;
                        agreed_in = Some(missed.plan.context());
                        (round, model) = (found.round, found.model);
                        attempts.clear();
                    }
                    let follows = (found.round, found.model) == (round, model);
                    match agreed_in {
                        _ if event.envelope != here => {}
                        Some(context) if follows => return Ok(context),
                        _ => {
                            return missed_and(
                                plan.round - 1,
                                "the server does not show that enough members agreed on the model that it goes on from",
                            );
                        }
                    }
                    if follows && found.check_against(&engaged.job, &members).is_ok() {
                        let said = BTreeMap::new();
                        let missed = Missed { plan: found, said };
                        attempts.entry(missed.plan.attempt).or_insert(missed);
                        if attempts.len() > MOST_ATTEMPTS {
                            attempts.pop_first();
                        }
                    }
                }
                EventKind::Agreement => {
                    if let Ok(found) = self
                        .site
                        .verify_as::<Agreement>(&event.envelope, Role::Member)
                        && let Some(missed) = attempts
                            .values_mut()
                            .find(|missed| missed.plan.context() == found.context)
                        && let Some(seat) = missed.plan.seat_of(&found.signer())
                    {
                        missed.said.entry(seat).or_insert(found.model);
                    }
                }
                _ => {}
            }
        }
    }

    /// Holds the plan of a missed round to what this member would have held it to, and its threshold to the colluders that
    /// it assumes among those that hold shares: an honest one is among those who agreed.
    fn check_missed(&self, engaged: &Engagement, plan: &Plan, missed: &Signed<Plan>) -> Result<()> {
        rules::check_cohort(missed, self.site.manifest())?;
        let seated = missed.seat_of(&self.site.fingerprint()).is_some();
        self.check_policies(engaged, missed, seated)?;
        let colluders = plan.colluders.max(self.site.policy()?.colluders() as usize);
        let (n, committee) = (missed.seats.len(), missed.committee.as_ref());
        let members = self.site.manifest().members().count();
        let sharing = Sharing::of(members, n, colluders, committee.map(|drawn| drawn.size))?;
        if missed.threshold <= sharing.colluders {
            return missed_and(
                missed.round,
                "those who agreed on its model may all be the colluders that are assumed",
            );
        }
        if engaged
            .desk
            .contradicts(missed.round, missed.attempt, missed.context())?
        {
            return missed_and(
                missed.round,
                "its plan is not the one that this member saw for it",
            );
        }
        Ok(())
    }

    async fn ask(
        &mut self,
        plan: &Signed<Plan>,
        agreed_in: Context,
        key: &OneTimeKey,
    ) -> Result<Signed<ParcelRequest>> {
        let request = ParcelRequest {
            member: self.site.fingerprint(),
            context: plan.context(),
            model: plan.model,
            public_key: key.public(),
        };
        // The same bytes after a restart: the key is kept, and signatures are deterministic.
        let request = Signed::sign(request, self.site.key());
        self.note(
            "parcel-request",
            [
                ("context", request.context.to_string().into()),
                ("agreed_in", agreed_in.to_string().into()),
                ("request", request.digest().to_string().into()),
            ],
        )?;
        let envelope = request.encode();
        retry(|| {
            let mut client = self.client.clone();
            let envelope = envelope.clone();
            async move {
                client
                    .put_parcel_request(PutSignedRequest { envelope })
                    .await
                    .map(drop)
            }
        })
        .await?;
        Ok(request)
    }

    /// Waits until somebody sealed the model, or the attempt is over. What else comes is left for later.
    async fn await_parcel(
        &mut self,
        engaged: &Engagement,
        plan: &Signed<Plan>,
        request: &Signed<ParcelRequest>,
    ) -> Result<Signed<Parcel>> {
        let mut kept = Backlog::default();
        let parcel = loop {
            let event = match self.inbox.next().await {
                Ok(event) => event,
                Err(error) => break Err(error),
            };
            if kind(&event) == EventKind::Parcel {
                if let Ok(parcel) = self.site.verify_as::<Parcel>(&event.envelope, Role::Member)
                    && parcel.request == request.digest()
                {
                    break Ok(parcel);
                }
                continue;
            }
            let over = self.ends(engaged, plan.context(), &event);
            if let Err(error) = kept.push(event) {
                break Err(error);
            }
            if let Some(reason) = over {
                break Err(Error::Void(reason));
            }
        };
        self.inbox.put_back(kept);
        parcel
    }

    async fn fetch_parcel(
        &mut self,
        engaged: &Engagement,
        plan: &Signed<Plan>,
        attempt: &Attempt,
        key: OneTimeKey,
        request: &Signed<ParcelRequest>,
        parcel: &Signed<Parcel>,
    ) -> Result<(AgreementKey, Vec<f32>)> {
        let path = attempt.download(PARCEL);
        let bytes = Parcel::sealed_bytes(engaged.job.state);
        let client = self.client.clone();
        let fetched = fetch(&client, plan.context(), Wanted::Parcel, bytes, &path);
        self.unless_void(plan.context(), fetched)
            .await
            .map_err(|error| match error {
                // The server's doing: no word against the sender.
                Error::Refused(said) => Error::Void(said),
                error => error,
            })?;
        let (request, sealed) = (request.digest(), parcel.sealed);
        let length = usize::try_from(engaged.job.state).map_err(|_| {
            Error::Refused(format!("{} numbers do not fit here", engaged.job.state))
        })?;
        blocking(move || {
            let bytes = disk::read(&path)?.unwrap_or_default();
            if Digest::sha256(&bytes) != sealed {
                return Err(Error::Void(
                    "the server's parcel is not the one that its sender signed".into(),
                ));
            }
            Ok(open_parcel(&key, &request, length, &bytes)?)
        })
        .await
    }
}
