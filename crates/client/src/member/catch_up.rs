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
    durable,
    error::{Error, Result},
    inbox::{Inbox, kind},
    model::{self, Model},
    report::Happening,
    transfer::{Wanted, fetch, retry},
};

/// How long the server's past events may take to pass by.
const PAST: Duration = Duration::from_secs(120);

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
        self.tell(Happening::CatchingUp {
            from: engaged.model.round,
            to: plan.round - 1,
        });
        let agreed_in = self.agreed_in(engaged, plan).await?;
        let attempt = engaged.desk.attempt(plan.context())?;
        let key = attempt.parcel_key()?;
        let request = self.ask(plan, &key).await?;
        let parcel = self.await_parcel(engaged, plan, &request).await?;
        let (agreement, parameters) = self
            .fetch_parcel(plan, &attempt, key, &request, &parcel)
            .await?;

        let found = agreement.agreement(&agreed_in, &model::digest(&parameters));
        if found != plan.model {
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
        engaged.model = Model {
            parameters,
            round: plan.round - 1,
            agreed: plan.model,
            key: Some(agreement.into()),
        };
        engaged.model.write(&engaged.desk.model())?;
        self.note(
            "caught-up",
            [
                ("context", plan.context().to_string().into()),
                ("agreed_in", agreed_in.to_string().into()),
                ("round", engaged.model.round.into()),
                ("agreement", plan.model.to_string().into()),
                ("member", parcel.signer().to_string().into()),
            ],
        )
    }

    /// The context in which t members of its cohort agreed on the model that `plan` names, and nobody on another one,
    /// read from the server's events anew: every signature is verified here, and t > c, so an honest member is
    /// among them.
    async fn agreed_in(&mut self, engaged: &Engagement, plan: &Signed<Plan>) -> Result<Context> {
        let mut past = Inbox::open(&self.client);
        let earlier = tokio::time::timeout(PAST, self.earlier(engaged, plan, &mut past))
            .await
            .map_err(|_| Error::Void("the server does not show its past events".into()))??;
        let found = earlier.into_iter().find(|(_, (earlier, said))| {
            said.len() >= earlier.threshold && said.values().all(|model| *model == plan.model)
        });
        let Some((context, (earlier, _))) = found else {
            return Err(Error::Refused(format!(
                "this member missed round {}, and the server does not show that enough members agreed on the model \
                 that it goes on from",
                plan.round - 1
            )));
        };
        earlier.check_against(&engaged.job)?;
        self.check_cohort(&earlier)?;
        self.check_policies(engaged, &earlier, false)?;
        Ok(context)
    }

    /// The plans of the round before `plan`, each with the first word of each seat on its model.
    async fn earlier(
        &mut self,
        engaged: &Engagement,
        plan: &Signed<Plan>,
        past: &mut Inbox,
    ) -> Result<BTreeMap<Context, (Signed<Plan>, BTreeMap<ShareIndex, Digest>)>> {
        let mut earlier: BTreeMap<Context, (Signed<Plan>, BTreeMap<_, _>)> = BTreeMap::new();
        let here = plan.encode();
        loop {
            let event = past.next().await?;
            match kind(&event) {
                EventKind::Plan if event.envelope == here => return Ok(earlier),
                EventKind::Plan => {
                    if let Ok(found) = self.site.verify_as::<Plan>(&event.envelope, Role::Server)
                        && found.job == engaged.job.digest()
                        && found.round + 1 == plan.round
                    {
                        earlier.insert(found.context(), (found, BTreeMap::new()));
                    }
                }
                EventKind::Agreement => {
                    if let Ok(found) = self
                        .site
                        .verify_as::<Agreement>(&event.envelope, Role::Member)
                        && let Some((plan, said)) = earlier.get_mut(&found.context)
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
        key: &OneTimeKey,
    ) -> Result<Signed<ParcelRequest>> {
        let request = ParcelRequest {
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
        let path = attempt.download("parcel");
        let bytes = Parcel::sealed_bytes(plan.dimension);
        fetch(&self.client, plan.context(), Wanted::Parcel, bytes, &path).await?;
        let (request, sealed, length) = (request.digest(), parcel.sealed, plan.length()?);
        blocking(move || {
            let bytes = durable::read(&path)?.unwrap_or_default();
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
