//! The server calls on this member: seal the model to a fellow that missed it.

use std::{collections::HashSet, path::PathBuf, sync::Arc};

use ciphertune_gauss::Entropy;
use ciphertune_identity::{Role, SigningKey};
use ciphertune_round::{Context, Digest, Fingerprint, Parcel, ParcelCall, ParcelRequest, Signed};
use ciphertune_seal::{SealingKey, seal_parcel};
use ciphertune_wire::Client;
use tokio::{sync::Semaphore, task::JoinSet};

use super::{Member, blocking, vet::Vetted};
use crate::{
    error::{Error, Result},
    model::Model,
    transfer::send_parcel,
};

/// Calls that are being answered, one after the other: more at once would hold as many sealed models in memory.
/// Dropping it ends them.
pub(super) struct Answers {
    tasks: JoinSet<()>,
    turn: Arc<Semaphore>,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            tasks: JoinSet::new(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }
}

/// The attempt whose cohort may ask this member for the model that it starts from.
pub(super) struct Cohort {
    context: Context,
    model: Digest,
    file: PathBuf,
    members: Vec<Fingerprint>,
    /// Requests that were answered: each is once.
    answered: HashSet<Digest>,
}

impl Cohort {
    /// The cohort of a plan that was vetted, and where the model that it starts from is kept.
    pub(super) fn new(vetted: &Vetted, file: PathBuf) -> Self {
        Self {
            context: vetted.context,
            model: vetted.plan.model,
            file,
            members: vetted.plan.seats.iter().map(|seat| seat.member).collect(),
            answered: HashSet::new(),
        }
    }
}

/// All that it takes to answer a call.
struct Answer {
    request: Signed<ParcelRequest>,
    to: SealingKey,
    model: PathBuf,
    signer: Arc<SigningKey>,
}

impl Member {
    /// Answers a call for a parcel, if it is for this member, comes from a seat of the attempt that it is in, and is for
    /// the very model that it holds. Sealing and sending go on beside whatever this member does; if they fail, the
    /// server calls on another.
    pub(super) fn hand_over(&mut self, envelope: &[u8]) -> Result<()> {
        let answer = match self.consider_call(envelope) {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(()),
            Err(error) => {
                return self.note(
                    "refused",
                    [
                        ("what", "parcel call".into()),
                        ("reason", error.to_string().into()),
                    ],
                );
            }
        };
        self.note(
            "parcel-call",
            [
                ("context", answer.request.context.to_string().into()),
                ("request", answer.request.digest().to_string().into()),
                ("by", answer.request.signer().to_string().into()),
            ],
        )?;
        let (client, turn) = (self.client.clone(), Arc::clone(&self.answers.turn));
        while self.answers.tasks.try_join_next().is_some() {}
        self.answers.tasks.spawn(async move {
            let Ok(_turn) = turn.acquire_owned().await else {
                return;
            };
            if let Err(error) = answer.send(&client).await {
                tracing::warn!(%error, "a parcel was not taken");
            }
        });
        Ok(())
    }

    /// `None` when another member is called on, the request was answered, or it is not this member's to answer.
    fn consider_call(&mut self, envelope: &[u8]) -> Result<Option<Answer>> {
        let call = self.site.verify_as::<ParcelCall>(envelope, Role::Server)?;
        if call.sender != self.site.fingerprint() {
            return Ok(None);
        }
        let request = self
            .site
            .verify_as::<ParcelRequest>(&call.request.encode(), Role::Member)?;
        let Some(cohort) = &mut self.cohort else {
            return Ok(None);
        };
        let may_ask = request.member == request.signer()
            && request.context == cohort.context
            && request.model == cohort.model
            && cohort.members.contains(&request.member);
        if !may_ask || !cohort.answered.insert(request.digest()) {
            return Ok(None);
        }
        Ok(Some(Answer {
            to: SealingKey::parse(&request.public_key)?,
            request,
            model: cohort.file.clone(),
            signer: self.site.shared_key(),
        }))
    }
}

impl Answer {
    async fn send(self, client: &Client) -> Result<()> {
        let (parcel, sealed) = blocking(move || self.seal()).await?;
        send_parcel(client, parcel, sealed).await
    }

    /// The signed parcel and its sealed bytes. The model is read from its file: nothing is copied while an answer waits
    /// for its turn.
    fn seal(self) -> Result<(Vec<u8>, Vec<u8>)> {
        let model = Model::read(&self.model)?.filter(|model| model.agreed == self.request.model);
        let Some((key, model)) = model.and_then(|model| Some((model.key.clone()?, model))) else {
            return Err(Error::Void(
                "the model that was asked for is not the last one here".into(),
            ));
        };
        let mut entropy = Entropy::from_os().map_err(|error| Error::fault("entropy", error))?;
        let request = self.request.digest();
        let sealed = seal_parcel(&self.to, &request, &key, &model.state, &mut entropy)?;
        let parcel = Parcel {
            context: self.request.context,
            request,
            sealed: Digest::sha256(&sealed),
        };
        Ok((Signed::sign(parcel, &*self.signer).encode(), sealed))
    }
}
