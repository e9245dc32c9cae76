//! Apply the released mean, alike on every member; say which model came out; wait until enough say the same.

use std::collections::BTreeMap;

use ciphertune_dp::Release as Released;
use ciphertune_identity::Role;
use ciphertune_policy::Metric;
use ciphertune_round::{Agreement, Digest, Mechanism, ShareIndex, Signed};
use ciphertune_wire::proto::{DirectoryRequest, EventKind, PutSignedRequest};

use super::{Engagement, Member, open::Opened, vet::Vetted};
use crate::{
    budget::share_left,
    desk::KeptOpening,
    error::{Error, Result},
    inbox::Backlog,
    learner::measured,
    model::{self, Model},
    quorum::joined,
    report::{RoundReport, peak_memory},
    transfer::retry,
};

impl Member {
    /// Makes durable what was opened, and concludes the round.
    pub(super) async fn agree(
        &mut self,
        engaged: &mut Engagement,
        vetted: &Vetted,
        mut opened: Opened,
    ) -> Result<RoundReport> {
        // For whoever reads events next, also after an error.
        self.inbox.put_back(std::mem::take(&mut opened.kept));
        let report = draft(vetted, &opened);
        let Opened { released, key, .. } = opened;
        let mut mean = mean(&released, &engaged.job.mechanism);
        drop(released); // twice the model's size
        let metrics = take_metrics(&mut mean, engaged);
        let state = self.step(engaged, vetted.plan.round, mean).await?;
        let model = model::digest(&state);
        let key = key.agreement_key()?;
        let agreed = key.agreement(&vetted.context, &model);
        let opening = KeptOpening {
            model: Model {
                state,
                round: vetted.plan.round,
                agreed,
                key: Some(key.into()),
            },
            report: RoundReport {
                model: model.to_string(),
                released: metrics,
                ..report
            },
            agreement: self.sign_agreement(vetted, agreed).await?,
        };
        vetted.attempt.keep_opening(&opening)?;
        self.conclude(engaged, vetted, opening).await
    }

    /// The state after the round. The learner's thread borrows the one before: no second copy of a large model.
    async fn step(
        &mut self,
        engaged: &mut Engagement,
        round: u32,
        mean: Vec<f32>,
    ) -> Result<Vec<f32>> {
        let state = std::mem::take(&mut engaged.model.state);
        let (before, stepped) = self
            .with_learner(move |learner| {
                let stepped = learner.step(&state, mean, round);
                Ok((state, stepped))
            })
            .await?;
        let length = before.len();
        engaged.model.state = before;
        let stepped = stepped?;
        if stepped.len() == length {
            Ok(stepped)
        } else {
            Err(Error::Misuse(format!(
                "the learner made a state of {} numbers out of {length}",
                stepped.len()
            )))
        }
    }

    /// Says which model came out, waits until enough say the same, and makes it the job's.
    pub(super) async fn conclude(
        &mut self,
        engaged: &mut Engagement,
        vetted: &Vetted,
        opening: KeptOpening,
    ) -> Result<RoundReport> {
        self.note_on(
            "agreement",
            [
                ("context", vetted.context.to_string().into()),
                ("round", vetted.plan.round.into()),
                ("agreement", opening.model.agreed.to_string().into()),
            ],
            &[&opening.agreement],
        )?;
        match self.say(opening.agreement).await {
            // The others may have gone on without this member; what they agreed on is among the events.
            Err(Error::Void(said)) => tracing::info!(said, "an agreement that came late"),
            said => said?,
        }
        let mut kept = Backlog::default();
        let agreed = opening.model.agreed;
        let waited = self
            .await_agreement(engaged, vetted, agreed, &mut kept)
            .await;
        self.inbox.put_back(kept);
        let agreements = waited?;
        let (up, down) = (self.meter.up(), self.meter.down());
        // One file, however many were heard.
        let agreements = joined(agreements.into_iter());
        self.note_on(
            "agreed",
            [
                ("context", vetted.context.to_string().into()),
                ("round", vetted.plan.round.into()),
                ("agreement", agreed.to_string().into()),
                ("bytes_up", (up - engaged.bytes.0).into()),
                ("bytes_down", (down - engaged.bytes.1).into()),
            ],
            &[&agreements],
        )?;
        self.note_checkpoint()?;
        let report = self.report(engaged, opening.report, &opening.model).await?;
        vetted.attempt.promote_model(&engaged.desk)?;
        engaged.model = opening.model;
        Ok(report)
    }

    /// Returns once t members that hold shares said `agreed`, and nobody anything else: more colluders than t may sit in a
    /// large cohort, fewer than t sit among those that hold shares. Returns what was said, in the order of the seats.
    async fn await_agreement(
        &mut self,
        engaged: &Engagement,
        vetted: &Vetted,
        agreed: Digest,
        kept: &mut Backlog,
    ) -> Result<Vec<Vec<u8>>> {
        // A member's first word counts.
        let mut said: BTreeMap<ShareIndex, Signed<Agreement>> = BTreeMap::new();
        let enough = |said: &BTreeMap<ShareIndex, Signed<Agreement>>| {
            let agree = |(seat, said): &(&ShareIndex, &Signed<Agreement>)| {
                vetted.is_holder(**seat) && said.model == agreed
            };
            said.iter().filter(agree).count() >= vetted.plan.threshold
        };
        while !enough(&said) {
            let (kind, envelope) = self.next_of(engaged, vetted.context, kept).await?;
            if kind == EventKind::Agreement
                && let Ok(agreement) = self.site.verify_as::<Agreement>(&envelope, Role::Member)
                && agreement.context == vetted.context
                && let Some(seat) = vetted.plan.seat_of(&agreement.signer())
            {
                said.entry(seat).or_insert(agreement);
            }
        }
        match said.iter().find(|(_, said)| said.model != agreed) {
            Some((seat, _)) => Err(Error::Void(format!("seat {seat} opened another model"))),
            None => Ok(said.values().map(Signed::encode).collect()),
        }
    }

    async fn sign_agreement(&mut self, vetted: &Vetted, agreed: Digest) -> Result<Vec<u8>> {
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
            log_head: Digest::from_bytes(self.log.head()),
            log_size: self.log.size(),
            server_checkpoint: checkpoint,
        };
        Ok(Signed::sign(agreement, self.site.key()).encode())
    }

    async fn say(&mut self, envelope: Vec<u8>) -> Result<()> {
        let request = PutSignedRequest { envelope };
        retry(|| {
            let (mut client, request) = (self.client.clone(), request.clone());
            async move { client.put_agreement(request).await.map(drop) }
        })
        .await
    }

    /// Measures the new model at home, if it is its turn, and notes the round for the person who runs this member.
    async fn report(
        &mut self,
        engaged: &mut Engagement,
        draft: RoundReport,
        model: &Model,
    ) -> Result<RoundReport> {
        let due =
            model.round % self.options.measure_every == 0 || model.round == engaged.job.rounds;
        let validation = if due {
            let state = model.state.clone();
            self.with_learner(move |learner| learner.evaluate(&state))
                .await?
        } else {
            None
        };
        let (up, down) = (self.meter.up(), self.meter.down());
        let (up_before, down_before) = std::mem::replace(&mut engaged.bytes, (up, down));
        let report = RoundReport {
            validation,
            bytes_up: up - up_before,
            bytes_down: down - down_before,
            epsilon: engaged
                .reckoned
                .epsilon_of(engaged.desk.plans()?, engaged.job.mechanism.delta.as_ref())?,
            budget_left: share_left(&engaged.ledger.standing().await?),
            peak_memory: peak_memory(),
            ..draft
        };
        engaged.desk.note_round(&report)?;
        Ok(report)
    }
}

/// A round's report, as far as it is known when the sum is open.
fn draft(vetted: &Vetted, opened: &Opened) -> RoundReport {
    let clip = opened.local.clip;
    RoundReport {
        round: vetted.plan.round,
        attempt: vetted.plan.attempt,
        contributors: opened.contributors,
        training_loss: opened.local.training_loss,
        validation: None,
        released: BTreeMap::new(),
        update_norm: clip.map(|clip| clip.norm_before),
        clipped_share: clip.map(|clip| clip.clipped_share),
        zeroed_share: clip.map(|clip| clip.zeroed_share),
        bytes_up: 0,
        bytes_down: 0,
        seconds: opened.seconds,
        second_opening: (opened.second.block, opened.second.blocks),
        model: String::new(),
        roster: opened.roster.to_string(),
        epsilon: None,
        budget_left: None,
        peak_memory: 0,
    }
}

/// What rides after the gradient, as the metrics that it stands for.
fn take_metrics(mean: &mut Vec<f32>, engaged: &Engagement) -> BTreeMap<String, f64> {
    let metrics = engaged.job.mechanism.metrics();
    let gradient = mean.len().saturating_sub(metrics.len());
    let weight = engaged.reckoned.mechanism.measure_weight(metrics.len());
    let means = mean.split_off(gradient).into_iter();
    let read = |(metric, mean): (Metric, f32)| {
        let value = measured(metric, f64::from(mean) / weight);
        (metric.to_string(), value)
    };
    metrics.into_iter().zip(means).map(read).collect()
}

/// The opened sum divided by a public number: the contributors, or the nominal batch, never what was drawn.
fn mean(released: &Released, mechanism: &Mechanism) -> Vec<f32> {
    match &mechanism.batches {
        Some(batches) => released.divided_by(batches.nominal_batch.into()).collect(),
        None => released.mean().collect(),
    }
}
