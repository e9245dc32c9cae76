//! Models for members that missed a round.

use ciphertune_identity::Role;
use ciphertune_round::{
    Digest, Object as _, PUBLIC_KEY_BYTES, Parcel, ParcelCall, ParcelRequest, Signed, Signer as _,
};
use ciphertune_wire::{Refusal, proto::EventKind};

use super::{
    super::{Announcement, Effect, Input, Phase},
    lab::{Lab, events},
};

/// Four members, t = 3; the last one has not agreed on the model of round 1, and sits in round 2.
fn second_round() -> Lab {
    let mut lab = Lab::new(4, 3, 2);
    lab.begin();
    lab.open();
    for member in 0..3 {
        lab.feed(lab.agreement(member, b"model")).unwrap();
    }
    lab.wait(30);
    assert!(matches!(lab.machine.phase(), Phase::Gathering { .. }));
    assert_eq!(events(&lab.poll(&[0, 1, 2, 3])), [EventKind::Plan]);
    lab
}

fn request(lab: &Lab, member: usize, model: &[u8]) -> Signed<ParcelRequest> {
    let request = ParcelRequest {
        member: lab.members[member].verifying_key().fingerprint(),
        context: lab.context(),
        model: Digest::sha256(model),
        public_key: vec![member as u8; PUBLIC_KEY_BYTES],
    };
    Signed::sign(request, &lab.members[member])
}

fn parcel(lab: &Lab, member: usize, request: &Signed<ParcelRequest>) -> Input {
    let parcel = Parcel {
        context: lab.context(),
        request: request.digest(),
        sealed: Digest::sha256(&[member as u8]),
    };
    Input::Parcel(Signed::sign(parcel, &lab.members[member]))
}

/// Whom the effects call on, as places among the members.
fn called(lab: &Lab, effects: &[Effect]) -> Vec<usize> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Emit(Announcement::Own(EventKind::ParcelCall, _, payload)) => {
                let call = ParcelCall::parse(payload).unwrap();
                lab.members
                    .iter()
                    .position(|key| key.verifying_key().fingerprint() == call.sender)
            }
            _ => None,
        })
        .collect()
}

#[test]
fn one_member_in_agreement_is_called_on_and_after_a_while_the_next() {
    let mut lab = second_round();
    let asked = request(&lab, 3, b"model");
    let first = lab.feed(Input::ParcelRequest(asked.clone())).unwrap();
    assert_eq!(called(&lab, &first), [0]);
    // The same request again says nothing new; a second, different one is a contradiction.
    assert!(
        lab.feed(Input::ParcelRequest(asked.clone()))
            .unwrap()
            .is_empty()
    );
    let other = Signed::sign(
        ParcelRequest {
            public_key: vec![9; PUBLIC_KEY_BYTES],
            ..asked.value().clone()
        },
        &lab.members[3],
    );
    assert_eq!(
        lab.feed(Input::ParcelRequest(other)),
        Err(Refusal::Conflict)
    );

    assert!(
        lab.machine
            .wakes_at(lab.now)
            .is_some_and(|moment| { moment == lab.now.after(std::time::Duration::from_secs(10)) })
    );
    assert!(events(&lab.wait(9)).is_empty());
    let next = lab.wait(1);
    assert_eq!(called(&lab, &next), [1]);
    let last = lab.wait(10);
    assert_eq!(called(&lab, &last), [2]);
    assert!(events(&lab.wait(10)).is_empty(), "there is nobody else");
    assert!(matches!(lab.machine.phase(), Phase::Contributing { .. }));
}

#[test]
fn the_first_parcel_of_a_member_that_was_called_on_is_kept() {
    let mut lab = second_round();
    let asked = request(&lab, 3, b"model");
    lab.feed(Input::ParcelRequest(asked.clone())).unwrap();
    assert_eq!(
        lab.feed(parcel(&lab, 1, &asked)),
        Err(Refusal::Role),
        "not called on yet"
    );
    assert_eq!(
        lab.feed(parcel(&lab, 3, &asked)),
        Err(Refusal::Role),
        "by the asker"
    );
    let effects = lab.feed(parcel(&lab, 0, &asked)).unwrap();
    assert_eq!(events(&effects), [EventKind::Parcel]);
    assert!(lab.feed(parcel(&lab, 0, &asked)).unwrap().is_empty());
    // Nobody else is called on once it is here.
    assert!(events(&lab.wait(50)).is_empty());
    let unasked = request(&lab, 2, b"model");
    assert_eq!(lab.feed(parcel(&lab, 0, &unasked)), Err(Refusal::Unknown));
}

#[test]
fn only_a_seat_of_the_attempt_gets_a_parcel_and_only_of_the_model_agreed_on() {
    let mut lab = second_round();
    let other_model = request(&lab, 3, b"another model");
    assert_eq!(
        lab.feed(Input::ParcelRequest(other_model)),
        Err(Refusal::Malformed)
    );
    let researcher = Signed::sign(request(&lab, 3, b"model").value().clone(), &lab.researcher);
    assert_eq!(
        lab.federation
            .manifest()
            .party_as(&researcher.signer(), Role::Member),
        None
    );
    assert_eq!(
        lab.feed(Input::ParcelRequest(researcher)),
        Err(Refusal::Unknown)
    );
    // What another member asked for, signed as one's own: its parcel would land at the wrong seat.
    let copied = Signed::sign(request(&lab, 3, b"model").value().clone(), &lab.members[0]);
    assert_eq!(
        lab.feed(Input::ParcelRequest(copied)),
        Err(Refusal::Malformed)
    );
    let early = request(&lab, 3, b"model");
    // A new attempt is another context: what was asked in the old one is over with it.
    lab.wait(100);
    assert_eq!(
        lab.feed(Input::ParcelRequest(early.clone())),
        Err(Refusal::Late)
    );
    lab.poll(&[0, 1, 2, 3]);
    assert_eq!(lab.feed(Input::ParcelRequest(early)), Err(Refusal::Late));
}

#[test]
fn the_first_model_is_nobodys_to_send() {
    let mut lab = Lab::new(3, 1, 1);
    lab.begin();
    let request = Signed::sign(
        ParcelRequest {
            member: lab.members[0].verifying_key().fingerprint(),
            context: lab.context(),
            model: lab.machine.current().unwrap().plan.model,
            public_key: vec![1; PUBLIC_KEY_BYTES],
        },
        &lab.members[0],
    );
    assert_eq!(
        lab.feed(Input::ParcelRequest(request)),
        Err(Refusal::Malformed)
    );
}
