//! Agreeing: equal keyed digests of the new model from t members that hold shares, and no different one from anybody.

use std::sync::Arc;

use ciphertune_round::{Agreement, Digest, Fingerprint, Signed};
use ciphertune_wire::{Refusal, proto::EventKind};

use super::{Announcement, Effect, Machine, Outcome, Phase, Present, note, opening::same};
use crate::{error::Refused, moment::Moment};

/// An agreement: one for each seat. A different one ends the job, and names who disagrees.
pub(super) fn agreement(machine: &mut Machine, agreement: &Signed<Agreement>) -> Outcome {
    machine.seat(&agreement.context, &agreement.signer())?;
    machine.expect_not_void()?;
    if matches!(
        machine.phase,
        Phase::Contributing { .. } | Phase::Closing | Phase::Opening { .. }
    ) {
        return Err(Refused::new(
            Refusal::Conflict,
            "nobody can have opened the sum yet",
        ));
    }
    let (_, held) = machine.held(&agreement.context, &agreement.signer())?;
    if let Some(first) = &held.agreement {
        return same(
            first.envelope().payload(),
            agreement.envelope().payload(),
            "agreement",
        );
    }
    held.agreement = Some(Arc::new(agreement.clone()));
    let mut effects = vec![
        Effect::Emit(Announcement::Said(
            EventKind::Agreement,
            agreement.envelope().clone(),
        )),
        note(
            "agreement",
            [
                ("context", agreement.context.to_string().into()),
                ("member", agreement.signer().to_string().into()),
                ("model", agreement.model.to_string().into()),
                ("log_head", agreement.log_head.to_string().into()),
                ("log_size", agreement.log_size.into()),
            ],
        )
        .on(agreement.envelope()),
    ];
    let votes = votes(machine);
    if votes.len() > 1 {
        let reason = disagreement(machine, &votes);
        effects.extend(machine.end(false, &reason));
    }
    Ok(effects)
}

/// Completes the round when t agree and so does everybody of the cohort who is present.
pub(super) fn poll(machine: &mut Machine, present: &[Present], now: Moment) -> Vec<Effect> {
    let Some(attempt) = &machine.current else {
        return Vec::new();
    };
    let patient = now < machine.patient_until;
    let mut seats = attempt.plan.seats.iter().zip(&attempt.seats);
    let waited_for = seats.any(|(seat, held)| {
        held.agreement.is_none()
            && (patient || present.iter().any(|present| present.member == seat.member))
    });
    if waited_for {
        Vec::new()
    } else {
        complete(machine, now).unwrap_or_default()
    }
}

/// Completes the round with t equal agreements, or ends the job.
pub(super) fn deadline(machine: &mut Machine, now: Moment) -> Vec<Effect> {
    if let Some(effects) = complete(machine, now) {
        return effects;
    }
    let reason = disagreement(machine, &votes(machine));
    machine.end(false, &reason)
}

/// The next round, or the end of the last; `None` while fewer than t agree or one differs.
fn complete(machine: &mut Machine, now: Moment) -> Option<Vec<Effect>> {
    let attempt = machine.current.as_ref()?;
    let votes = attempt.votes();
    let [(model, members)] = votes.as_slice() else {
        return None;
    };
    // More colluders than t may sit in a large cohort; fewer than t sit among those that hold shares.
    if attempt.holders_among(members) < attempt.plan.threshold {
        return None;
    }
    machine.completed = machine.round;
    machine.model = *model;
    machine.agreed.clone_from(members);
    let mut effects = vec![note(
        "complete",
        [
            ("job", machine.digest.to_string().into()),
            ("round", machine.round.into()),
            ("model", model.to_string().into()),
            ("agreements", members.len().into()),
        ],
    )];
    if machine.round == machine.job.rounds {
        let reason = format!(
            "all {} rounds ended with a model that the members agree on",
            machine.round
        );
        effects.extend(machine.end(true, &reason));
    } else {
        machine.round += 1;
        machine.attempt = 1;
        machine.gather(now);
    }
    Some(effects)
}

fn votes(machine: &Machine) -> Vec<(Digest, Vec<Fingerprint>)> {
    machine
        .current
        .as_ref()
        .map(|attempt| attempt.votes())
        .unwrap_or_default()
}

/// Who agrees with whom. The largest group comes first; without t in it nobody can be called the dissenter.
fn disagreement(machine: &Machine, votes: &[(Digest, Vec<Fingerprint>)]) -> String {
    let Some(attempt) = &machine.current else {
        return "nobody opened anything".into();
    };
    let (round, threshold) = (attempt.plan.round, attempt.plan.threshold);
    let names = |members: &[Fingerprint]| {
        members
            .iter()
            .map(|member| machine.federation.name_of(member))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let mut reason = match votes {
        [] | [_] => {
            format!(
                "fewer than {threshold} members that hold shares agreed on the model of round {round} in time"
            )
        }
        _ => format!("the members disagree on the model of round {round}"),
    };
    for (model, members) in votes {
        reason.push_str(&format!(
            "\n{} with {}: {}",
            members.len(),
            model.short(),
            names(members)
        ));
    }
    if let [(_, most), others @ ..] = votes
        && attempt.holders_among(most) >= threshold
        && !others.is_empty()
    {
        let dissenters: Vec<_> = others
            .iter()
            .flat_map(|(_, members)| members.clone())
            .collect();
        reason.push_str(&format!("\ndissenting: {}", names(&dissenters)));
    }
    reason
}
