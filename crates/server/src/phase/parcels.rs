//! Parcels: beside the phases, a member with a seat gets the model that it missed from one that agreed on it.

use std::sync::Arc;

use ciphertune_round::{
    Fingerprint, Object as _, Parcel, ParcelCall, ParcelRequest, ShareIndex, Signed,
};
use ciphertune_wire::{Refusal, proto::EventKind};

use super::{Announcement, Attempt, Effect, Machine, Outcome, Phase, note, opening::same};
use crate::{error::Refused, moment::Moment};

/// A request, and how far it has come.
#[derive(Clone)]
pub struct Wanted {
    request: Arc<Signed<ParcelRequest>>,
    /// How many that have it were called on.
    called: usize,
    /// Then the next one is.
    until: Moment,
    parcel: Option<Arc<Signed<Parcel>>>,
}

/// Where a parcel belongs.
pub(crate) struct Place {
    /// The asker's seat.
    pub seat: ShareIndex,
    /// The sender's.
    pub sender: ShareIndex,
    /// Whether the seat has its parcel.
    pub is_here: bool,
}

/// A request: one for each seat. The first that has the model is called on at once.
pub(super) fn request(
    machine: &mut Machine,
    request: &Signed<ParcelRequest>,
    now: Moment,
) -> Outcome {
    let (context, asker) = (request.context, request.signer());
    let (attempt, _) = machine.seat(&context, &asker)?;
    if request.member != asker {
        return Err(Refused::malformed("a parcel request for another member"));
    }
    if attempt.plan.round == 1 || attempt.plan.model != request.model {
        return Err(Refused::malformed(
            "no parcel of that model: it is not the one that this attempt's members agreed on",
        ));
    }
    expect_under_way(machine)?;
    let (seat, held) = machine.held(&context, &asker)?;
    if let Some(first) = &held.parcel {
        return same(
            first.request.envelope().payload(),
            request.envelope().payload(),
            "parcel request",
        );
    }
    held.parcel = Some(Wanted {
        request: Arc::new(request.clone()),
        called: 0,
        until: now,
        parcel: None,
    });
    let mut effects = vec![note(
        "parcel-request",
        [
            ("context", context.to_string().into()),
            ("member", asker.to_string().into()),
            ("model", request.model.to_string().into()),
        ],
    )];
    effects.extend(call_on_the_next(machine, seat, now));
    Ok(effects)
}

/// A parcel whose sealed bytes are here, whole: the first for its request is kept.
pub(super) fn parcel(machine: &mut Machine, parcel: &Signed<Parcel>) -> Outcome {
    let Place { seat, .. } = machine.parcel_place(parcel)?;
    let Some(wanted) = wanted_mut(machine, seat) else {
        return Ok(Vec::new());
    };
    if let Some(first) = &wanted.parcel {
        return same(
            first.envelope().payload(),
            parcel.envelope().payload(),
            "parcel",
        );
    }
    wanted.parcel = Some(Arc::new(parcel.clone()));
    Ok(vec![
        Effect::Emit(Announcement::Said(
            EventKind::Parcel,
            parcel.envelope().clone(),
        )),
        note(
            "parcel",
            [
                ("context", parcel.context.to_string().into()),
                ("request", parcel.request.to_string().into()),
                ("member", parcel.signer().to_string().into()),
                ("sealed", parcel.sealed.to_string().into()),
            ],
        ),
    ])
}

/// Calls on others for requests that waited long enough.
pub(super) fn overdue(machine: &mut Machine, now: Moment) -> Vec<Effect> {
    waiting(machine)
        .into_iter()
        .filter(|(_, until)| now >= *until)
        .flat_map(|(seat, _)| call_on_the_next(machine, seat, now))
        .collect()
}

/// When the next one is due to be called on.
pub(super) fn wakes_at(machine: &Machine) -> Option<Moment> {
    waiting(machine).into_iter().map(|(_, until)| until).min()
}

/// Seats without their parcel for which there is another to call on, and when.
fn waiting(machine: &Machine) -> Vec<(ShareIndex, Moment)> {
    let Some(attempt) = machine
        .current
        .as_ref()
        .filter(|_| expect_under_way(machine).is_ok())
    else {
        return Vec::new();
    };
    attempt
        .seats
        .iter()
        .enumerate()
        .filter_map(|(at, held)| {
            let wanted = held.parcel.as_ref().filter(|one| one.parcel.is_none())?;
            let seat = ShareIndex::at(at).ok()?;
            order(attempt, seat).nth(wanted.called)?;
            Some((seat, wanted.until))
        })
        .collect()
}

fn call_on_the_next(machine: &mut Machine, seat: ShareIndex, now: Moment) -> Vec<Effect> {
    let until = now.after(machine.patience());
    let Some(attempt) = &mut machine.current else {
        return Vec::new();
    };
    let called = attempt
        .seats
        .get(seat.position())
        .and_then(|held| held.parcel.as_ref())
        .map(|wanted| wanted.called);
    let Some(sender) = called.and_then(|called| order(attempt, seat).nth(called)) else {
        return Vec::new();
    };
    let Some(wanted) = wanted_mut(machine, seat) else {
        return Vec::new();
    };
    wanted.called += 1;
    wanted.until = until;
    let call = ParcelCall {
        request: wanted.request.envelope().clone(),
        sender,
    };
    vec![
        Effect::Emit(Announcement::Own(
            EventKind::ParcelCall,
            ParcelCall::LABEL,
            call.serialise(),
        )),
        note(
            "parcel-call",
            [
                ("request", wanted.request.digest().to_string().into()),
                ("member", sender.to_string().into()),
            ],
        ),
    ]
}

/// In which order those that have the model are called on for a seat: another begins for each seat and each attempt, so that
/// many askers do not load one of them, and one that sends garbage is not first for ever. Never the asker.
fn order(attempt: &Attempt, seat: ShareIndex) -> impl Iterator<Item = Fingerprint> {
    let asker = attempt.plan.seats.get(seat.position());
    let first = seat.position() + attempt.plan.round as usize + attempt.plan.attempt as usize;
    let turned = first.checked_rem(attempt.have_model.len()).unwrap_or(0);
    attempt
        .have_model
        .iter()
        .cycle()
        .skip(turned)
        .take(attempt.have_model.len())
        .filter(move |one| asker.is_none_or(|asker| asker.member != **one))
        .copied()
}

fn wanted_mut(machine: &mut Machine, seat: ShareIndex) -> Option<&mut Wanted> {
    let attempt = machine.current.as_mut()?;
    attempt.seats.get_mut(seat.position())?.parcel.as_mut()
}

/// Parcels are for an attempt that goes on: neither void nor complete.
fn expect_under_way(machine: &Machine) -> Result<(), Refused> {
    match machine.phase {
        Phase::Contributing { .. }
        | Phase::Closing
        | Phase::Opening { .. }
        | Phase::Agreeing { .. } => Ok(()),
        _ => Err(Refused::new(Refusal::Late, "the attempt is over")),
    }
}

impl Wanted {
    /// Whether the parcel is here.
    pub(crate) fn is_here(&self) -> bool {
        self.parcel.is_some()
    }

    /// Who sealed the parcel that is here.
    pub(crate) fn sender(&self) -> Option<Fingerprint> {
        self.parcel.as_ref().map(|parcel| parcel.signer())
    }
}

impl Machine {
    /// Where a parcel belongs.
    ///
    /// # Errors
    /// As [`Machine::seat`]; `Unknown` for a request that nobody made, `Role` from a member that was not called on,
    /// `Late` once the attempt is over.
    pub(crate) fn parcel_place(&self, parcel: &Signed<Parcel>) -> Result<Place, Refused> {
        let (attempt, sender) = self.seat(&parcel.context, &parcel.signer())?;
        expect_under_way(self)?;
        let found = attempt.seats.iter().enumerate().find_map(|(at, held)| {
            let wanted = held.parcel.as_ref()?;
            (wanted.request.digest() == parcel.request).then_some((at, wanted))
        });
        let (at, wanted) = found
            .ok_or_else(|| Refused::new(Refusal::Unknown, "a parcel that nobody asked for"))?;
        let seat = ShareIndex::at(at).map_err(Refused::malformed)?;
        let called = order(attempt, seat)
            .take(wanted.called)
            .any(|one| one == parcel.signer());
        if !called {
            return Err(Refused::new(
                Refusal::Role,
                "a parcel from a member that was not called on",
            ));
        }
        Ok(Place {
            seat,
            sender,
            is_here: wanted.is_here(),
        })
    }
}
