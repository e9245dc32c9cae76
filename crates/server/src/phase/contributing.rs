//! Contributing: headers, sealed shares, bodies.

use std::sync::Arc;

use ciphertune_round::{Context, Digest, Fingerprint, Header, Signed};
use ciphertune_wire::Refusal;

use super::{Effect, Machine, Outcome, Phase, closing, note};
use crate::{error::Refused, moment::Moment};

/// A header with its shares: one for each seat; the same one as often as its sender likes.
pub(super) fn header(machine: &mut Machine, header: &Signed<Header>) -> Outcome {
    let (contributing, job) = (is_open(machine), machine.digest);
    let context = header.context;
    let (attempt, _) = machine.seat(&context, &header.signer())?;
    if header.shares.len() != attempt.plan.holders().count() {
        return Err(Refused::malformed(
            "not one share for each seat that holds one",
        ));
    }
    let (seat, held) = machine.held(&context, &header.signer())?;
    if let Some(first) = &held.header {
        return if first.envelope().payload() == header.envelope().payload() {
            Ok(Vec::new())
        } else {
            Err(Refused::new(
                Refusal::Conflict,
                "a second, different header",
            ))
        };
    }
    if !contributing || held.out {
        return Err(Refused::new(Refusal::Late, "a header after the close"));
    }
    held.header = Some(Arc::new(header.clone()));
    let mut effects = vec![
        note(
            "contribution",
            [
                ("job", job.to_string().into()),
                ("context", context.to_string().into()),
                ("member", header.signer().to_string().into()),
                ("header", header.digest().to_string().into()),
            ],
        )
        .on(header.envelope()),
    ];
    // The header is what its sender signed: a body that came before it and differs has to come again.
    if held.body.is_some_and(|body| body != header.body) {
        held.body = None;
        effects.push(Effect::DiscardBody { context, seat });
    }
    effects.extend(close_if_all_are_in(machine));
    Ok(effects)
}

/// A whole body; its digest is held to the header's, if that is here.
pub(super) fn body(
    machine: &mut Machine,
    context: &Context,
    member: &Fingerprint,
    digest: Digest,
) -> Outcome {
    let contributing = is_open(machine);
    let (_, held) = machine.held(context, member)?;
    if let Some(first) = held.body {
        return if first == digest {
            Ok(Vec::new())
        } else {
            Err(Refused::new(Refusal::Conflict, "a second, different body"))
        };
    }
    if !contributing || held.out {
        return Err(Refused::new(Refusal::Late, "a body after the close"));
    }
    if held
        .header
        .as_ref()
        .is_some_and(|header| header.body != digest)
    {
        return Err(Refused::malformed(
            "the body is not the one in the signed header",
        ));
    }
    held.body = Some(digest);
    let mut effects = vec![note(
        "body",
        [
            ("context", context.to_string().into()),
            ("member", member.to_string().into()),
            ("body", digest.to_string().into()),
        ],
    )];
    effects.extend(close_if_all_are_in(machine));
    Ok(effects)
}

/// Throws away what the member has sent; with too few left the attempt is void at once.
pub(super) fn revoked(machine: &mut Machine, member: &Fingerprint, now: Moment) -> Vec<Effect> {
    let Some(context) = machine.current.as_ref().map(|attempt| attempt.context) else {
        return Vec::new();
    };
    let seat = match machine.held(&context, member) {
        Ok((seat, held)) if !held.out => {
            held.out = true;
            seat
        }
        _ => return Vec::new(),
    };
    let mut effects = vec![
        Effect::DiscardBody { context, seat },
        note(
            "revoked",
            [
                ("context", context.to_string().into()),
                ("member", member.to_string().into()),
            ],
        ),
    ];
    let (left, want) =
        (machine.current.as_ref()).map_or((0, 0), |it| (it.possible(), it.plan.min_contributors));
    if left < want {
        let reason = format!(
            "the certificate of {} was revoked, and {left} members are left of the {want} that a sum takes",
            machine.federation.name_of(member)
        );
        effects.extend(machine.void(&reason, now));
    } else {
        effects.extend(close_if_all_are_in(machine));
    }
    effects
}

/// Closes with enough contributors; otherwise the attempt is void and nothing is opened.
pub(super) fn deadline(machine: &mut Machine, now: Moment) -> Vec<Effect> {
    let Some(attempt) = &machine.current else {
        return Vec::new();
    };
    let (have, want) = (attempt.complete().len(), attempt.plan.min_contributors);
    if have >= want {
        return closing::close(machine);
    }
    machine.void(
        &format!("{have} members contributed in time, and a sum takes {want}"),
        now,
    )
}

fn is_open(machine: &Machine) -> bool {
    matches!(machine.phase, Phase::Contributing { .. })
}

fn close_if_all_are_in(machine: &mut Machine) -> Vec<Effect> {
    let all = machine
        .current
        .as_ref()
        .is_some_and(|attempt| attempt.complete().len() == attempt.possible());
    if all {
        closing::close(machine)
    } else {
        Vec::new()
    }
}
