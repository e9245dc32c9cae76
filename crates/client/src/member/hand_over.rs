//! The server calls on this member: seal the model to a fellow that missed it.

use std::sync::Arc;

use ciphertune_gauss::Entropy;
use ciphertune_identity::{Role, SigningKey};
use ciphertune_round::{Digest, Parcel, ParcelCall, ParcelRequest, Signed};
use ciphertune_seal::{AgreementKey, SealingKey, seal_parcel};
use ciphertune_wire::Client;

use super::{Engagement, Member, blocking};
use crate::{
    error::{Error, Result},
    transfer::send_parcel,
};

/// All that it takes to answer a call.
struct Answer {
    request: Signed<ParcelRequest>,
    to: SealingKey,
    key: Arc<AgreementKey>,
    parameters: Vec<f32>,
    signer: Arc<SigningKey>,
}

impl Member {
    /// Answers a call for a parcel, if it is for this member and for the very model that it holds. Sealing and sending
    /// go on beside whatever this member does; if they fail, the server calls on another.
    pub(super) fn hand_over(&mut self, engaged: &Engagement, envelope: &[u8]) -> Result<()> {
        let answer = match self.consider_call(engaged, envelope) {
            Ok(Some(answer)) => answer,
            Ok(None) => return Ok(()),
            Err(error) => return self.complain("parcel request", &error),
        };
        self.note(
            "parcel",
            [
                ("context", answer.request.context.to_string().into()),
                ("request", answer.request.digest().to_string().into()),
                ("to", answer.request.signer().to_string().into()),
            ],
        )?;
        let client = self.client.clone();
        tokio::spawn(async move {
            if let Err(error) = answer.send(&client).await {
                tracing::warn!(%error, "a parcel was not taken");
            }
        });
        Ok(())
    }

    /// `None` when another member is called on, or this one's model is not the one that is asked for.
    fn consider_call(&self, engaged: &Engagement, envelope: &[u8]) -> Result<Option<Answer>> {
        let call = self.site.verify_as::<ParcelCall>(envelope, Role::Server)?;
        if call.sender != self.site.fingerprint() {
            return Ok(None);
        }
        let request = self
            .site
            .verify_as::<ParcelRequest>(&call.request.encode(), Role::Member)?;
        let model = &engaged.model;
        let Some(key) = model.key.as_ref().filter(|_| model.agreed == request.model) else {
            return Ok(None);
        };
        Ok(Some(Answer {
            to: SealingKey::parse(&request.public_key)?,
            request,
            key: Arc::clone(key),
            parameters: model.parameters.clone(),
            signer: self.site.shared_key(),
        }))
    }
}

impl Answer {
    async fn send(self, client: &Client) -> Result<()> {
        let (parcel, sealed) = blocking(move || self.seal()).await?;
        send_parcel(client, parcel, sealed).await
    }

    /// The signed parcel and its sealed bytes.
    fn seal(self) -> Result<(Vec<u8>, Vec<u8>)> {
        let mut entropy = Entropy::from_os().map_err(|error| Error::fault("entropy", error))?;
        let request = self.request.digest();
        let sealed = seal_parcel(
            &self.to,
            &request,
            &self.key,
            &self.parameters,
            &mut entropy,
        )?;
        let parcel = Parcel {
            context: self.request.context,
            request,
            sealed: Digest::sha256(&sealed),
        };
        Ok((Signed::sign(parcel, &*self.signer).encode(), sealed))
    }
}
