//! Parcels: beside the phases, a member with a seat gets the model that it missed from one that agreed on it.

use std::sync::Arc;

use ciphertune_round::{
    Fingerprint, Object as _, Parcel, ParcelCall, ParcelRequest, ShareIndex, Signed,
};
use ciphertune_wire::{Refusal, proto::EventKind};

use super::{Announcement, Effect, Machine, Outcome, note, opening::same};
use crate::{error::Refused, moment::Moment};

/// A request, and how far it has come.
#[derive(Clone)]
pub struct Wanted {
    request: Arc<Signed<ParcelRequest>>,
    /// How many holders were called on.
    called: usize,
    /// Then the next one is.
    until: Moment,
    parcel: Option<Arc<Signed<Parcel>>>,
}

/// A request: one for each seat. The first holder is called on at once.
pub(super) fn request(
    machine: &mut Machine,
    request: &Signed<ParcelRequest>,
    now: Moment,
) -> Outcome {
    let (context, asker) = (request.context, request.signer());
    let (attempt, _) = machine.seat(&context, &asker)?;
    if attempt.plan.round == 1 || attempt.plan.model != request.model {
        return Err(Refused::malformed(
            "no parcel of that model: it is not the one that this attempt's members agreed on",
        ));
    }
    machine.expect_not_void()?;
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
            ("context", context.to_string()),
            ("member", asker.to_string()),
            ("model", request.model.to_string()),
        ],
    )];
    effects.extend(call_on_the_next(machine, seat, now));
    Ok(effects)
}

/// A parcel whose sealed bytes are here, whole: the first for its request is kept.
pub(super) fn parcel(machine: &mut Machine, parcel: &Signed<Parcel>) -> Outcome {
    let seat = asked_by(machine, parcel)?;
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
        Effect::KeepParcel {
            context: parcel.context,
            seat,
        },
        Effect::Emit(Announcement::Said(
            EventKind::Parcel,
            parcel.envelope().clone(),
        )),
        note(
            "parcel",
            [
                ("context", parcel.context.to_string()),
                ("request", parcel.request.to_string()),
                ("member", parcel.signer().to_string()),
                ("sealed", parcel.sealed.to_string()),
            ],
        ),
    ])
}

/// The seat whose request a parcel answers.
///
/// # Errors
/// As [`Machine::seat`]; `Unknown` for a request that nobody made, `Role` from a member that was not called on.
pub(super) fn asked_by(machine: &Machine, parcel: &Signed<Parcel>) -> Result<ShareIndex, Refused> {
    let sender = parcel.signer();
    let (attempt, _) = machine.seat(&parcel.context, &sender)?;
    machine.expect_not_void()?;
    let found = attempt.seats.iter().enumerate().find_map(|(at, held)| {
        let wanted = held.parcel.as_ref()?;
        (wanted.request.digest() == parcel.request).then_some((at, wanted))
    });
    let (at, wanted) =
        found.ok_or_else(|| Refused::new(Refusal::Unknown, "a parcel that nobody asked for"))?;
    let called = holders(machine, &wanted.request.signer())
        .take(wanted.called)
        .any(|holder| holder == sender);
    if !called {
        return Err(Refused::new(
            Refusal::Role,
            "a parcel from a member that was not called on",
        ));
    }
    ShareIndex::at(at).map_err(Refused::malformed)
}

/// Calls on further holders for requests that waited long enough.
pub(super) fn overdue(machine: &mut Machine, now: Moment) -> Vec<Effect> {
    waiting(machine)
        .into_iter()
        .filter(|(_, until)| now >= *until)
        .flat_map(|(seat, _)| call_on_the_next(machine, seat, now))
        .collect()
}

/// When the next holder is due to be called on.
pub(super) fn wakes_at(machine: &Machine) -> Option<Moment> {
    waiting(machine).into_iter().map(|(_, until)| until).min()
}

/// Seats without their parcel for which there is another holder to call on, and when.
fn waiting(machine: &Machine) -> Vec<(ShareIndex, Moment)> {
    let Some(attempt) = &machine.current else {
        return Vec::new();
    };
    attempt
        .seats
        .iter()
        .enumerate()
        .filter_map(|(at, held)| {
            let wanted = held.parcel.as_ref().filter(|one| one.parcel.is_none())?;
            holders(machine, &wanted.request.signer()).nth(wanted.called)?;
            Some((ShareIndex::at(at).ok()?, wanted.until))
        })
        .collect()
}

fn call_on_the_next(machine: &mut Machine, seat: ShareIndex, now: Moment) -> Vec<Effect> {
    let until = now.after(machine.patience());
    let Some(wanted) = wanted_mut(machine, seat) else {
        return Vec::new();
    };
    let (request, called) = (Arc::clone(&wanted.request), wanted.called);
    let Some(sender) = holders(machine, &request.signer()).nth(called) else {
        return Vec::new();
    };
    if let Some(wanted) = wanted_mut(machine, seat) {
        wanted.called += 1;
        wanted.until = until;
    }
    let call = ParcelCall {
        request: request.envelope().clone(),
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
                ("request", request.digest().to_string()),
                ("member", sender.to_string()),
            ],
        ),
    ]
}

/// Who agreed on the model and sits in this attempt, by seat; never the asker.
fn holders(machine: &Machine, asker: &Fingerprint) -> impl Iterator<Item = Fingerprint> {
    machine
        .current
        .iter()
        .flat_map(|attempt| &attempt.plan.seats)
        .map(|seat| seat.member)
        .filter(move |member| member != asker && machine.agreed.contains(member))
}

fn wanted_mut(machine: &mut Machine, seat: ShareIndex) -> Option<&mut Wanted> {
    let attempt = machine.current.as_mut()?;
    attempt.seats.get_mut(seat.position())?.parcel.as_mut()
}

impl Wanted {
    /// Whether the parcel is here.
    pub(crate) fn is_here(&self) -> bool {
        self.parcel.is_some()
    }
}

impl Machine {
    /// The seat whose request a parcel answers, and whether one is here already.
    pub(crate) fn parcel_place(
        &self,
        parcel: &Signed<Parcel>,
    ) -> Result<(ShareIndex, bool), Refused> {
        let seat = asked_by(self, parcel)?;
        let here = self
            .current
            .as_ref()
            .and_then(|attempt| attempt.seats.get(seat.position())?.parcel.as_ref())
            .is_some_and(Wanted::is_here);
        Ok((seat, here))
    }
}
