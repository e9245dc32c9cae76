//! Committees on the machine alone: who holds shares, whose word counts.

use ciphertune_round::{Digest, Release, Signed, draw};
use ciphertune_wire::{Refusal, proto::EventKind};

use super::{
    super::{Input, Phase},
    lab::{Lab, events, reason},
};
use ciphertune_round::Signer as _;

/// Seven members, three of them drawn: t = 2.
fn lab() -> Lab {
    Lab::with_committee(7, 3)
}

fn outside(lab: &Lab) -> Vec<usize> {
    let holders = lab.holders();
    (0..7).filter(|member| !holders.contains(member)).collect()
}

#[test]
fn the_plan_names_the_members_that_job_and_model_draw() {
    let mut lab = lab();
    lab.begin();
    let plan = lab.machine.current().unwrap().plan.clone();
    let members = lab.federation.members();
    let drawn = draw(3, &plan.job, &plan.model, &members);
    let holders: Vec<_> = lab.holders().iter().map(|at| members[*at]).collect();
    assert_eq!(holders.len(), 3);
    assert!(drawn.iter().all(|member| holders.contains(member)));
    assert_eq!(
        (plan.threshold, plan.committee.as_ref().unwrap().size),
        (2, 3)
    );
}

#[test]
fn members_outside_the_committee_neither_echo_nor_release_shares() {
    let mut lab = lab();
    lab.begin();
    for member in 0..7 {
        lab.contribute(member);
    }
    lab.close();
    let roster = lab.machine.current().unwrap().roster.unwrap();
    let (holders, outside) = (lab.holders(), outside(&lab));
    assert_eq!(lab.feed(lab.echo(outside[0], roster)), Err(Refusal::Role));
    assert_eq!(
        events(&lab.feed(lab.echo(holders[0], roster)).unwrap()),
        [EventKind::Echo]
    );
    // Check values alone open nothing, however many there are.
    for member in &outside {
        let release = lab.feed(lab.release(*member)).unwrap();
        assert_eq!(events(&release), [EventKind::Release]);
    }
    assert!(matches!(lab.machine.phase(), Phase::Opening { .. }));
    lab.feed(lab.release(holders[0])).unwrap();
    assert!(matches!(lab.machine.phase(), Phase::Opening { .. }));
    lab.feed(lab.release(holders[1])).unwrap();
    assert!(matches!(lab.machine.phase(), Phase::Agreeing { .. }));
    assert_eq!(lab.machine.current().unwrap().released().len(), 2);
}

#[test]
fn shares_from_outside_none_from_inside_and_a_release_of_nothing_are_malformed() {
    let mut lab = lab();
    lab.begin();
    for member in 0..7 {
        lab.contribute(member);
    }
    lab.close();
    let (inside, outside) = (lab.holders()[0], outside(&lab)[0]);
    let changed = |lab: &Lab, member: usize, change: fn(&mut Release)| {
        let Input::Release(release) = lab.release(member) else {
            panic!("a release");
        };
        let mut release = release.value().clone();
        change(&mut release);
        Input::Release(Signed::sign(release, &lab.members[member]))
    };
    for (member, change) in [
        (
            outside,
            (|release| release.shares = vec![Digest::sha256(b"a"); 7]) as fn(&mut Release),
        ),
        (outside, |release| release.check = None),
        (inside, |release| release.shares.clear()),
        (inside, |release| release.shares.truncate(6)),
    ] {
        let input = changed(&lab, member, change);
        assert_eq!(lab.feed(input), Err(Refusal::Malformed));
    }
}

#[test]
fn a_header_with_a_share_for_every_seat_is_malformed_where_a_committee_holds_them() {
    let mut lab = lab();
    lab.begin();
    let mut header = lab.header(0).value().clone();
    header.shares.push(Digest::sha256(b"one more"));
    let header = Signed::sign(header, &lab.members[0]);
    assert_eq!(lab.feed(Input::Header(header)), Err(Refusal::Malformed));
}

/// Four who hold no shares agree; it takes two who do.
#[test]
fn agreements_count_towards_the_threshold_from_the_committee_alone() {
    let mut lab = lab();
    lab.begin();
    lab.open();
    let (holders, outside) = (lab.holders(), outside(&lab));
    for member in outside.iter().chain(&holders[..1]) {
        lab.feed(lab.agreement(*member, b"model")).unwrap();
    }
    let present: Vec<usize> = outside.iter().chain(&holders[..1]).copied().collect();
    lab.wait(5);
    assert!(events(&lab.poll(&present)).is_empty());
    assert!(matches!(lab.machine.phase(), Phase::Agreeing { .. }));
    lab.feed(lab.agreement(holders[1], b"model")).unwrap();
    lab.poll(&present);
    assert!(matches!(lab.machine.phase(), Phase::Gathering { .. }));
    assert_eq!(lab.machine.completed(), 1);
}

#[test]
fn without_enough_agreements_of_the_committee_the_job_ends_and_says_so() {
    let mut lab = lab();
    lab.begin();
    lab.open();
    for member in outside(&lab) {
        lab.feed(lab.agreement(member, b"model")).unwrap();
    }
    assert_eq!(events(&lab.wait(40)), [EventKind::Ended]);
    let words = "fewer than 2 members that hold shares agreed on the model of round 1";
    assert!(
        reason(&lab.machine).contains(words),
        "{}",
        reason(&lab.machine)
    );
}

/// The next round's committee is drawn from the model that was agreed on; who is not present is missing.
#[test]
fn the_next_round_draws_anew_and_waits_for_enough_of_the_drawn() {
    let mut lab = lab();
    lab.begin();
    lab.open();
    for member in 0..7 {
        lab.feed(lab.agreement(member, b"the next model")).unwrap();
    }
    let all: Vec<usize> = (0..7).collect();
    lab.poll(&all);
    let members = lab.federation.members();
    let job = lab.machine.current().unwrap().plan.job;
    let model = Digest::sha256(b"the next model");
    let drawn = draw(3, &job, &model, &members);
    let place = |member: &usize| {
        let fingerprint = lab.members[*member].verifying_key().fingerprint();
        drawn.iter().position(|one| *one == fingerprint)
    };
    let without_two: Vec<usize> = all
        .iter()
        .copied()
        .filter(|m| place(m).is_none_or(|p| p > 1))
        .collect();
    let without_one: Vec<usize> = all
        .iter()
        .copied()
        .filter(|m| place(m) != Some(0))
        .collect();
    assert_eq!((without_two.len(), without_one.len()), (5, 6));
    lab.wait(15);
    assert!(
        events(&lab.poll(&without_two)).is_empty(),
        "one of the drawn is too few"
    );
    assert_eq!(events(&lab.poll(&without_one)), [EventKind::Plan]);
    let plan = lab.machine.current().unwrap().plan.clone();
    assert_eq!(
        (plan.round, plan.model, plan.holders().count()),
        (2, model, 2)
    );
    assert!(
        plan.holders()
            .all(|seat| drawn.contains(&plan.seats[seat.position()].member))
    );
}
