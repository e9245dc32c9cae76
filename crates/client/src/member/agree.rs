//! Apply the released mean, alike on every member; say which model came out; wait until enough say the same.

use std::{collections::BTreeMap, fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt};

use ciphertune_identity::Role;
use ciphertune_round::{Agreement, Digest, ShareIndex, Signed};
use ciphertune_wire::proto::{DirectoryRequest, EventKind, PutSignedRequest};

use super::{Engagement, Member, open::Opened, vet::Vetted};
use crate::{
    error::{Error, Result},
    model::{self, Model},
    report::{RoundReport, peak_memory},
    transfer::retry,
};

impl Member {
    pub(super) async fn agree(
        &mut self,
        engaged: &mut Engagement,
        vetted: &Vetted,
        mut opened: Opened,
    ) -> Result<RoundReport> {
        let mut kept = std::mem::take(&mut opened.kept);
        let parameters = apply(&engaged.model.parameters, &opened.released.mean());
        let model = model::digest(&parameters);
        let key = opened.key.agreement_key()?;
        let agreed = key.agreement(&vetted.context, &model);
        self.say(vetted, agreed).await?;

        // A member's first word counts.
        let mut said: BTreeMap<ShareIndex, Digest> = BTreeMap::new();
        let waited = loop {
            let equal = said.values().filter(|digest| **digest == agreed).count();
            if equal >= vetted.plan.threshold {
                break Ok(());
            }
            match self.next_of(engaged, vetted.context, &mut kept).await {
                Ok((EventKind::Agreement, envelope)) => {
                    if let Ok(agreement) = self.site.verify_as::<Agreement>(&envelope, Role::Member)
                        && agreement.context == vetted.context
                        && let Some(seat) = vetted.plan.seat_of(&agreement.signer())
                    {
                        said.entry(seat).or_insert(agreement.model);
                    }
                }
                Ok(_) => {}
                Err(error) => break Err(error),
            }
        };
        self.inbox.put_back(kept.into_iter());
        waited?;
        if let Some((seat, _)) = said.iter().find(|(_, digest)| **digest != agreed) {
            return Err(Error::Void(format!("seat {seat} opened another model")));
        }
        engaged.model = Model {
            parameters,
            round: vetted.plan.round,
            agreed,
            key: Some(key.into()),
        };
        engaged.model.write(&engaged.desk.model())?;
        self.note(
            "agreed",
            [
                ("context", vetted.context.to_string().into()),
                ("round", vetted.plan.round.into()),
                ("agreement", agreed.to_string().into()),
            ],
        )?;
        self.report(engaged, vetted, &opened, model).await
    }

    async fn say(&mut self, vetted: &Vetted, agreed: Digest) -> Result<()> {
        let checkpoint = retry(|| {
            let mut client = self.client.clone();
            async move { client.directory(DirectoryRequest {}).await }
        })
        .await?
        .into_inner()
        .checkpoint;
        let agreement = Agreement {
            context: vetted.context,
            model: agreed,
            log_head: self.log_head(),
            server_checkpoint: checkpoint,
        };
        let envelope = vetted
            .attempt
            .agreement(|| Signed::sign(agreement, self.site.key()).encode())?;
        let request = PutSignedRequest { envelope };
        retry(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.put_agreement(request).await.map(drop) }
        })
        .await
    }

    /// Evaluates the new model at home and notes the round for the person who runs this member.
    async fn report(
        &mut self,
        engaged: &mut Engagement,
        vetted: &Vetted,
        opened: &Opened,
        model: Digest,
    ) -> Result<RoundReport> {
        let parameters = engaged.model.parameters.clone();
        let validation = self
            .with_learner(move |learner| learner.evaluate(&parameters))
            .await?;
        let (up, down) = (self.meter.up(), self.meter.down());
        let (up_before, down_before) = std::mem::replace(&mut engaged.bytes, (up, down));
        let clip = opened.local.clip;
        let report = RoundReport {
            round: vetted.plan.round,
            attempt: vetted.plan.attempt,
            contributors: opened.contributors,
            training_loss: opened.local.training_loss,
            validation,
            update_norm: clip.map(|clip| clip.norm_before),
            clipped: clip.is_some_and(|clip| clip.clipped),
            zeroed_share: clip.map(|clip| clip.zeroed_share),
            bytes_up: up - up_before,
            bytes_down: down - down_before,
            seconds: opened.seconds,
            second_opening: (opened.second.block, opened.second.blocks),
            model: model.to_string(),
            roster: opened.roster.to_string(),
            epsilon: engaged
                .reckoned
                .epsilon_of(engaged.desk.plans()?, engaged.job.mechanism.delta.as_ref())?,
            peak_memory: peak_memory(),
        };
        let line = serde_json::to_string(&report)
            .map_err(|error| Error::fault("writing the round's report", error))?;
        OpenOptions::new()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(engaged.desk.rounds())
            .and_then(|mut file| writeln!(file, "{line}"))
            .map_err(|error| Error::fault("writing the round's report", error))?;
        Ok(report)
    }
}

/// θ + Δ, elementwise in f32: one IEEE addition each, the same bits on every machine.
fn apply(model: &[f32], mean: &[f32]) -> Vec<f32> {
    model.iter().zip(mean).map(|(x, d)| x + d).collect()
}
