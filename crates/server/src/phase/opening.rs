//! Opening: echoes and releases.

use std::sync::Arc;

use ciphertune_round::{Context, Digest, Echo, Release, Signed};
use ciphertune_wire::{Refusal, proto::EventKind};

use super::{Announcement, Effect, Machine, Outcome, Phase, note};
use crate::{error::Refused, moment::Moment};

/// An echo: one for each seat that holds shares, of the one roster there is.
pub(super) fn echo(machine: &mut Machine, echo: &Signed<Echo>) -> Outcome {
    let (attempt, _) = machine.seat(&echo.context, &echo.signer())?;
    if !attempt.plan.is_holder(&echo.signer()) {
        return Err(Refused::new(
            Refusal::Role,
            "an echo by a member that holds no shares",
        ));
    }
    expect_roster(machine, &echo.context, echo.roster)?;
    let (_, held) = machine.held(&echo.context, &echo.signer())?;
    if let Some(first) = &held.echo {
        return same(
            first.envelope().payload(),
            echo.envelope().payload(),
            "echo",
        );
    }
    held.echo = Some(Arc::new(echo.clone()));
    Ok(vec![
        Effect::Emit(Announcement::Said(EventKind::Echo, echo.envelope().clone())),
        note(
            "echo",
            [
                ("context", echo.context.to_string().into()),
                ("member", echo.signer().to_string().into()),
                ("roster", echo.roster.to_string().into()),
            ],
        )
        .on(echo.envelope()),
    ])
}

/// A release: one for each seat, with a share for everybody from a seat that holds shares, from another with its check
/// value alone. The t-th with shares begins the agreeing.
pub(super) fn release(machine: &mut Machine, release: &Signed<Release>, now: Moment) -> Outcome {
    let context = release.context;
    let (attempt, _) = machine.seat(&context, &release.signer())?;
    let holds = attempt.plan.is_holder(&release.signer());
    let shares = if holds { attempt.plan.seats.len() } else { 0 };
    if release.shares.len() != shares {
        return Err(Refused::malformed(format!("not {shares} shares")));
    }
    if !holds && release.check.is_none() {
        return Err(Refused::malformed("a release of nothing"));
    }
    expect_roster(machine, &context, release.roster)?;
    let (_, held) = machine.held(&context, &release.signer())?;
    if let Some(first) = &held.release {
        return same(
            first.envelope().payload(),
            release.envelope().payload(),
            "release",
        );
    }
    held.release = Some(Arc::new(release.clone()));
    let enough = machine
        .current
        .as_ref()
        .is_some_and(|attempt| attempt.released().len() >= attempt.plan.threshold);
    if enough && matches!(machine.phase, Phase::Opening { .. }) {
        machine.phase = Phase::Agreeing {
            until: now.after(machine.job.deadlines.agree),
        };
    }
    Ok(vec![
        Effect::Emit(Announcement::Said(
            EventKind::Release,
            release.envelope().clone(),
        )),
        note(
            "release",
            [
                ("context", context.to_string().into()),
                ("member", release.signer().to_string().into()),
                ("release", release.digest().to_string().into()),
                ("roster", release.roster.to_string().into()),
                ("ledger_head", release.ledger_head.to_string().into()),
            ],
        )
        .on(release.envelope()),
    ])
}

/// Too early without a roster, a contradiction with another than ours, too late once the attempt is void.
pub(super) fn expect_roster(
    machine: &Machine,
    context: &Context,
    roster: Digest,
) -> Result<(), Refused> {
    match machine
        .current
        .as_ref()
        .filter(|attempt| attempt.context == *context)
        .and_then(|a| a.roster)
    {
        None => Err(Refused::new(Refusal::Conflict, "there is no roster yet")),
        Some(ours) if ours != roster => Err(Refused::new(
            Refusal::Conflict,
            "of another roster than the server's",
        )),
        Some(_) => machine.expect_not_void(),
    }
}

impl Machine {
    /// Refuses what belongs to an attempt that is void: nothing of it may be opened any more.
    pub(super) fn expect_not_void(&self) -> Result<(), Refused> {
        let voided = matches!(self.phase, Phase::Gathering { .. })
            && self
                .current
                .as_ref()
                .is_some_and(|attempt| attempt.plan.round == self.round);
        if voided {
            return Err(Refused::new(Refusal::Late, "the attempt is void"));
        }
        Ok(())
    }
}

pub(super) fn same(first: &[u8], second: &[u8], object: &str) -> Outcome {
    if first == second {
        Ok(Vec::new())
    } else {
        Err(Refused::new(
            Refusal::Conflict,
            format!("a second, different {object}"),
        ))
    }
}
