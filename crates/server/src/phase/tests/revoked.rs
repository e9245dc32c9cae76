//! A member's certificate is revoked in the middle of a round.

use ciphertune_round::Signer as _;
use ciphertune_wire::{Refusal, proto::EventKind};

use super::{
    Effect, Input, Phase,
    lab::{Lab, events, reason},
};

fn discards(effects: &[Effect]) -> bool {
    let discard = |effect: &Effect| matches!(effect, Effect::DiscardBody { .. });
    effects.iter().any(discard)
}

#[test]
fn what_it_sent_before_the_close_is_in_no_roster_and_nobody_waits_for_it() {
    let mut lab = Lab::new(4, 1, 1);
    lab.begin();
    lab.contribute(1);
    let effects = lab.revoke(1);
    assert!(discards(&effects));
    assert_eq!(events(&effects), []);
    assert!(lab.revoke(1).is_empty(), "once is enough");
    for member in [0, 2] {
        lab.contribute(member);
    }
    assert!(matches!(lab.machine.phase(), Phase::Contributing { .. }));
    lab.contribute(3);
    assert_eq!(lab.machine.phase(), &Phase::Closing);
    lab.close();
    let attempt = lab.machine.current().unwrap();
    let seats: Vec<usize> = (attempt.contributors.iter())
        .map(|seat| seat.position())
        .collect();
    assert_eq!(seats, [0, 2, 3]);
}

#[test]
fn the_last_one_waited_for_closes_the_attempt_by_being_revoked() {
    let mut lab = Lab::new(4, 1, 1);
    lab.begin();
    for member in 0..3 {
        lab.contribute(member);
    }
    let effects = lab.revoke(3);
    let starts =
        |effect: &Effect| matches!(effect, Effect::StartSum { seats, .. } if seats.len() == 3);
    assert!(effects.iter().any(starts), "{effects:?}");
}

#[test]
fn nothing_that_it_sends_afterwards_is_taken() {
    let mut lab = Lab::new(4, 1, 1);
    lab.begin();
    lab.revoke(2);
    let header = Input::Header(lab.header(2));
    assert_eq!(lab.feed(header), Err(Refusal::Late));
    assert_eq!(lab.feed(lab.body(2)), Err(Refusal::Late));
}

#[test]
fn with_too_few_left_the_attempt_is_void_at_once() {
    let mut lab = Lab::new(3, 1, 1);
    lab.begin();
    lab.contribute(0);
    let effects = lab.revoke(2);
    assert_eq!(events(&effects), [EventKind::Void, EventKind::Ended]);
    let said = reason(&lab.machine);
    assert!(
        said.contains("the certificate of m2 was revoked, and 2 members are left of the 3"),
        "{said}"
    );
}

#[test]
fn while_the_bodies_are_added_the_attempt_is_void_and_the_next_goes_on_without_it() {
    let mut lab = Lab::new(4, 1, 2);
    lab.begin();
    for member in 0..4 {
        lab.contribute(member);
    }
    assert_eq!(lab.machine.phase(), &Phase::Closing);
    assert_eq!(events(&lab.revoke(0)), [EventKind::Void]);
    lab.wait(60);
    assert_eq!(events(&lab.poll(&[1, 2, 3])), [EventKind::Plan]);
    assert_eq!(lab.machine.current().unwrap().plan.seats.len(), 3);
}

#[test]
fn a_signed_roster_stays_as_it_is() {
    let mut lab = Lab::new(4, 1, 1);
    lab.begin();
    for member in 0..4 {
        lab.contribute(member);
    }
    lab.close();
    assert!(lab.revoke(0).is_empty());
    assert!(matches!(lab.machine.phase(), Phase::Opening { .. }));
    assert_eq!(lab.machine.current().unwrap().contributors.len(), 4);
    let released = lab.feed(lab.release(1)).unwrap();
    assert!(released.contains(&Effect::Persist));
}

#[test]
fn a_job_whose_author_is_revoked_ends() {
    let mut lab = Lab::new(3, 2, 1);
    lab.begin();
    let member = lab.researcher.verifying_key().fingerprint();
    let effects = lab.feed(Input::Revoked { member }).unwrap();
    assert_eq!(events(&effects), [EventKind::Ended]);
    assert!(reason(&lab.machine).contains("rosa, who signed the job, was revoked"));
    assert!(lab.feed(Input::Revoked { member }).unwrap().is_empty());
}
