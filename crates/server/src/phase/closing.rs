//! Closing: the bodies of U are added up, and the roster says so.

use ciphertune_round::{Context, Digest, Fingerprint, Object as _, Roster, label};
use ciphertune_wire::{Refusal, proto::EventKind};

use super::{Announcement, Effect, Machine, Outcome, Phase, note};
use crate::{error::Refused, moment::Moment};

/// Fixes U and has its bodies added. Callers made sure of `min_contributors`; it is asked again before a roster is made.
pub(super) fn close(machine: &mut Machine) -> Vec<Effect> {
    let Some(attempt) = &mut machine.current else {
        return Vec::new();
    };
    attempt.contributors = attempt.complete();
    let start = Effect::StartSum {
        context: attempt.context,
        seats: attempt.contributors.clone(),
    };
    machine.phase = Phase::Closing;
    vec![start]
}

/// The sum is in storage: signs the roster of U.
pub(super) fn summed(
    machine: &mut Machine,
    context: &Context,
    sum: Digest,
    now: Moment,
) -> Outcome {
    expect_closing(machine, context)?;
    let Some(attempt) = &mut machine.current else {
        return Ok(Vec::new());
    };
    if attempt.contributors.len() < attempt.plan.min_contributors {
        return Err(Refused::new(
            Refusal::Fault,
            "a roster below the minimum is never made",
        ));
    }
    let headers = attempt
        .contributors
        .iter()
        .filter_map(|seat| attempt.seats.get(seat.position())?.header.as_ref())
        .map(|header| header.envelope().clone())
        .collect::<Vec<_>>();
    let contributors = headers.len();
    let payload = Roster {
        context: *context,
        headers,
        sum,
    }
    .serialise();
    let digest = Digest::labelled(label::ROSTER, &payload);
    attempt.roster = Some(digest);
    machine.phase = Phase::Opening {
        until: now.after(machine.job.deadlines.open),
    };
    Ok(vec![
        Effect::Emit(Announcement::Own(EventKind::Roster, Roster::LABEL, payload)),
        note(
            "roster",
            [
                ("context", context.to_string().into()),
                ("roster", digest.to_string().into()),
                ("contributors", contributors.into()),
                ("sum", sum.to_string().into()),
            ],
        )
        .on_announced(),
    ])
}

/// The server could not add the bodies.
pub(super) fn failed(machine: &mut Machine, context: &Context, now: Moment) -> Outcome {
    expect_closing(machine, context)?;
    Ok(machine.void(
        "the server could not add the bodies; its operator's log says why",
        now,
    ))
}

/// The body of a revoked member is being added: the roster is never signed.
pub(super) fn revoked(machine: &mut Machine, member: &Fingerprint, now: Moment) -> Vec<Effect> {
    let contributes = machine.current.as_ref().is_some_and(|attempt| {
        let seat = attempt.plan.seat_of(member);
        seat.is_some_and(|seat| attempt.contributors.contains(&seat))
    });
    if !contributes {
        return Vec::new();
    }
    let name = machine.federation.name_of(member);
    machine.void(
        &format!("the certificate of {name} was revoked while the bodies were added"),
        now,
    )
}

fn expect_closing(machine: &Machine, context: &Context) -> Result<(), Refused> {
    let current = machine.current.as_ref().map(|attempt| attempt.context);
    if machine.phase != Phase::Closing || current != Some(*context) {
        return Err(Refused::new(
            Refusal::Late,
            "a sum for an attempt that is not closing",
        ));
    }
    Ok(())
}
