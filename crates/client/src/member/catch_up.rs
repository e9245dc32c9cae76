//! A plan starts from a model that this member missed: find what was agreed on, ask for it, hold what comes to that.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use ciphertune_identity::Role;
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
    inbox::{Inbox, kind},
    model::{self, Model},
    report::Happening,
    transfer::{Wanted, fetch, retry},
};

/// How long the job's past events may take to pass by.
const PAST: Duration = Duration::from_secs(120);
/// Events that may come while a parcel is waited for.
const MOST_KEPT: usize = 4_096;
/// The download.
const PARCEL: &str = "parcel";

/// A plan of the round before, and the first word of each of its seats on the model.
type Earlier = (Signed<Plan>, BTreeMap<ShareIndex, Digest>);

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
        plan.check_against(&engaged.job)?;
        self.check_cohort(plan)?;
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
            .fetch_parcel(plan, &attempt, key, &request, &parcel)
            .await;
        let held = opened.map(|(agreement, parameters)| {
            let found = agreement.agreement(&agreed_in, &model::digest(&parameters));
            (found == plan.model).then_some((agreement, parameters))
        });
        let (agreement, parameters) = match held {
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
            parameters,
            round: plan.round - 1,
            agreed: plan.model,
            key: Some(agreement.into()),
        };
        engaged.desk.write_model(&engaged.model)?;
        attempt.erase_parcel_key()?;
        self.site.disk().erase(&attempt.download(PARCEL))
    }

    /// The context in which t members of its cohort agreed on the model that `plan` names, and nobody on another one,
    /// read from the server's events anew: every signature is verified here, and t is more than this member assumes to
    /// collude, so an honest one is among them.
    async fn agreed_in(&mut self, engaged: &Engagement, plan: &Signed<Plan>) -> Result<Context> {
        let mut past = Inbox::open_after(&self.client, engaged.since);
        let earlier = tokio::time::timeout(PAST, self.earlier(engaged, plan, &mut past))
            .await
            .map_err(|_| Error::Void("the server does not show its past events".into()))??;
        let refused = |said: &str| {
            Err(Error::Refused(format!(
                "this member missed round {}, and {said}",
                plan.round - 1
            )))
        };
        let found = earlier.into_values().find(|(earlier, said)| {
            said.len() >= earlier.threshold && said.values().all(|model| *model == plan.model)
        });
        let Some((earlier, _)) = found else {
            return refused(
                "the server does not show that enough members agreed on the model that it goes on from",
            );
        };
        let (context, own) = (earlier.context(), self.site.fingerprint());
        self.check_cohort(&earlier)?;
        self.check_policies(engaged, &earlier, earlier.seat_of(&own).is_some())?;
        let colluders = plan.colluders.max(self.site.policy()?.colluders() as usize);
        if earlier.threshold <= colluders {
            return refused(
                "those who agreed on its model may all be the colluders that are assumed",
            );
        }
        if earlier.round == engaged.model.round + 1 && earlier.model != engaged.model.agreed {
            return refused(
                "it started from another model than the one that this member agreed on",
            );
        }
        if engaged
            .desk
            .contradicts(earlier.round, earlier.attempt, context)?
        {
            return refused("its plan is not the one that this member saw for it");
        }
        Ok(context)
    }

    /// The plans of the round before `plan`, by attempt: at most as many as the job allows.
    async fn earlier(
        &mut self,
        engaged: &Engagement,
        plan: &Signed<Plan>,
        past: &mut Inbox,
    ) -> Result<BTreeMap<u32, Earlier>> {
        let mut earlier: BTreeMap<u32, Earlier> = BTreeMap::new();
        let here = plan.encode();
        loop {
            let event = past.next().await?;
            match kind(&event) {
                EventKind::Plan if event.envelope == here => return Ok(earlier),
                EventKind::Plan => {
                    if let Ok(found) = self.site.verify_as::<Plan>(&event.envelope, Role::Server)
                        && found.job == engaged.job.digest()
                        && found.round + 1 == plan.round
                        && found.check_against(&engaged.job).is_ok()
                    {
                        let attempt = found.attempt;
                        earlier
                            .entry(attempt)
                            .or_insert_with(|| (found, BTreeMap::new()));
                    }
                }
                EventKind::Agreement => {
                    if let Ok(found) = self
                        .site
                        .verify_as::<Agreement>(&event.envelope, Role::Member)
                        && let Some((plan, said)) = earlier
                            .values_mut()
                            .find(|(plan, _)| plan.context() == found.context)
                        && let Some(seat) = plan.seat_of(&found.signer())
                    {
                        said.entry(seat).or_insert(found.model);
                    }
                }
                _ => {}
            }
        }
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
        let mut kept = VecDeque::new();
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
            kept.push_back(event);
            if let Some(reason) = over {
                break Err(Error::Void(reason));
            }
            if kept.len() == MOST_KEPT {
                break Err(Error::Void(
                    "too much came while a parcel was waited for".into(),
                ));
            }
        };
        self.inbox.put_back(kept.into_iter());
        parcel
    }

    async fn fetch_parcel(
        &mut self,
        plan: &Signed<Plan>,
        attempt: &Attempt,
        key: OneTimeKey,
        request: &Signed<ParcelRequest>,
        parcel: &Signed<Parcel>,
    ) -> Result<(AgreementKey, Vec<f32>)> {
        let path = attempt.download(PARCEL);
        let bytes = Parcel::sealed_bytes(plan.dimension);
        fetch(&self.client, plan.context(), Wanted::Parcel, bytes, &path)
            .await
            .map_err(|error| match error {
                // The server's doing: no word against the sender.
                Error::Refused(said) => Error::Void(said),
                error => error,
            })?;
        let (request, sealed, length) = (request.digest(), parcel.sealed, plan.length()?);
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
