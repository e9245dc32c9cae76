//! The protocol's rules, on the machine alone: no socket, no file, no clock.

mod committee;
mod lab;
mod parcels;
mod policy;
mod revoked;

use ciphertune_identity::SigningKey;
use ciphertune_round::{Context, Digest, PolicyDocument, ShareIndex, Signed, Signer as _};
use ciphertune_wire::{Refusal, proto::EventKind};

use super::{Effect, Input, Machine, Phase, Present, key_digest};
use lab::{Lab, POLICY, events, reason};

#[test]
fn a_job_of_two_rounds_runs_to_its_end() {
    let mut lab = Lab::new(3, 2, 1);
    lab.begin();
    for round in 1..=2 {
        lab.open();
        for member in 0..3 {
            assert_eq!(
                events(&lab.feed(lab.agreement(member, b"model")).unwrap()),
                [EventKind::Agreement]
            );
        }
        let next = events(&lab.poll(&[0, 1, 2]));
        if round == 1 {
            assert!(matches!(lab.machine.phase(), Phase::Gathering { .. }));
            assert_eq!(events(&lab.poll(&[0, 1, 2])), [EventKind::Plan]);
            let plan = &lab.machine.current().unwrap().plan;
            assert_eq!(
                (plan.round, plan.attempt, plan.model),
                (2, 1, Digest::sha256(b"model"))
            );
        } else {
            assert_eq!(next, [EventKind::Ended]);
        }
    }
    assert!(matches!(
        lab.machine.phase(),
        Phase::Ended {
            completed: true,
            ..
        }
    ));
}

#[test]
fn an_input_that_changes_nothing_is_not_persisted_and_one_that_does_is() {
    let mut lab = Lab::new(3, 1, 1);
    assert!(lab.poll(&[0, 1, 2]).is_empty());
    assert!(lab.wait(1).is_empty());
    let first = lab.feed(Input::Admission(lab.admission(0, None))).unwrap();
    assert_eq!(first.first(), Some(&Effect::Persist));
    assert!(
        lab.feed(Input::Admission(lab.admission(0, None)))
            .unwrap()
            .is_empty()
    );
    let second = lab.feed(Input::Admission(lab.admission(0, Some("no"))));
    assert_eq!(second, Err(Refusal::Conflict));
}

#[test]
fn a_job_that_too_few_accept_ends_and_says_who_refused_and_why() {
    let mut lab = Lab::new(3, 1, 1);
    lab.feed(Input::Admission(lab.admission(0, None))).unwrap();
    lab.feed(Input::Admission(lab.admission(1, Some("epsilon is spent"))))
        .unwrap();
    let effects = lab.feed(Input::Admission(lab.admission(2, None))).unwrap();
    assert_eq!(events(&effects), [EventKind::Ended]);
    assert!(reason(&lab.machine).contains("m1: epsilon is spent"));
}

#[test]
fn a_job_that_the_policy_refuses_ends_with_the_policys_words() {
    let mut lab = Lab::new(3, 200, 1);
    for member in 0..3 {
        lab.feed(Input::Admission(lab.admission(member, None)))
            .unwrap();
    }
    assert_eq!(events(&lab.poll(&[0, 1, 2])), [EventKind::Ended]);
    assert!(
        reason(&lab.machine).contains("privacy.rounds"),
        "{}",
        reason(&lab.machine)
    );
}

#[test]
fn a_sites_policy_binds_the_plan_and_must_be_an_officers() {
    let mut lab = Lab::new(4, 1, 1);
    let site = |toml: &str, by: &SigningKey| {
        let document = PolicyDocument {
            federation: "lab".into(),
            toml: toml.into(),
        };
        Signed::sign(document, by).envelope().clone()
    };
    let strict = POLICY.replace("min_contributors = 3", "min_contributors = 4");
    let mut admission = lab.admission(0, None).value().clone();
    admission.site_policy = Some(site(&strict, &lab.researcher));
    let by_nobody = Signed::sign(admission.clone(), &lab.members[0]);
    assert_eq!(
        lab.feed(Input::Admission(by_nobody)),
        Err(Refusal::Malformed)
    );
    admission.site_policy = Some(site(&strict, &lab.officer));
    lab.feed(Input::Admission(Signed::sign(admission, &lab.members[0])))
        .unwrap();
    for member in 1..4 {
        lab.feed(Input::Admission(lab.admission(member, None)))
            .unwrap();
    }
    lab.poll(&[0, 1, 2, 3]);
    let plan = &lab.machine.current().unwrap().plan;
    assert_eq!((plan.min_contributors, plan.policies.len()), (4, 2));
}

#[test]
fn an_admission_under_another_federation_policy_is_a_conflict() {
    let mut lab = Lab::new(3, 1, 1);
    let mut admission = lab.admission(0, None).value().clone();
    admission.federation_policy = Digest::sha256(b"another");
    let admission = Signed::sign(admission, &lab.members[0]);
    assert_eq!(
        lab.feed(Input::Admission(admission)),
        Err(Refusal::Conflict)
    );
}

#[test]
fn an_attempt_closes_at_the_deadline_with_enough_contributors() {
    let mut lab = Lab::new(4, 1, 1);
    lab.begin();
    for member in 0..3 {
        lab.contribute(member);
    }
    let effects = lab.wait(100);
    let seats = [1, 2, 3]
        .map(|seat| ShareIndex::new(seat).unwrap())
        .to_vec();
    let context = lab.context();
    assert!(effects.contains(&Effect::StartSum { context, seats }));
    assert_eq!(events(&lab.close()), [EventKind::Roster]);
}

#[test]
fn a_roster_below_the_minimum_is_never_made() {
    let mut lab = Lab::new(4, 1, 2);
    let context = lab.begin();
    lab.contribute(0);
    lab.contribute(1);
    lab.feed(Input::Header(lab.header(2))).unwrap();
    let effects = lab.wait(100);
    assert_eq!(events(&effects), [EventKind::Void]);
    assert!(
        !effects
            .iter()
            .any(|effect| matches!(effect, Effect::StartSum { .. }))
    );
    let sum = Digest::sha256(b"sum");
    assert_eq!(lab.feed(Input::Summed { context, sum }), Err(Refusal::Late));
}

#[test]
fn a_void_attempt_is_followed_by_a_new_one_until_there_were_enough() {
    let mut lab = Lab::new(3, 1, 2);
    let first = lab.begin();
    assert_eq!(events(&lab.wait(100)), [EventKind::Void]);
    let effects = lab.poll(&[0, 1, 2]);
    assert!(effects.contains(&Effect::DeleteContext(first)));
    let plan = &lab.machine.current().unwrap().plan;
    assert_eq!((plan.round, plan.attempt), (1, 2));
    assert_ne!(lab.context(), first);
    assert_eq!(events(&lab.wait(100)), [EventKind::Void, EventKind::Ended]);
    assert!(reason(&lab.machine).contains("void 2 times"));
}

#[test]
fn a_second_plan_never_reuses_a_one_time_key() {
    let mut lab = Lab::new(3, 1, 3);
    for member in 0..3 {
        lab.feed(Input::Admission(lab.admission(member, None)))
            .unwrap();
    }
    let present: Vec<Present> = (0..3)
        .map(|member| Present {
            member: lab.members[member].verifying_key().fingerprint(),
            one_time_key: Some(lab.key(member)),
        })
        .collect();
    let poll = |nonce| Input::Poll {
        present: present.clone(),
        nonce: [nonce; 32],
        list: Lab::list(),
    };
    assert_eq!(events(&lab.feed(poll(1)).unwrap()), [EventKind::Plan]);
    lab.wait(100);
    assert!(lab.feed(poll(2)).unwrap().is_empty());
    let effects = lab.poll(&[0, 1, 2]);
    let spent: Vec<_> = effects
        .iter()
        .find_map(|effect| match effect {
            Effect::OpenContext { keys, .. } => Some(keys.iter().filter_map(key_digest).collect()),
            _ => None,
        })
        .unwrap();
    for old in present
        .iter()
        .filter_map(|present| present.one_time_key.as_ref())
        .filter_map(key_digest)
    {
        assert!(!spent.contains(&old));
    }
}

#[test]
fn a_contribution_after_the_close_is_late_and_a_different_header_a_conflict() {
    let mut lab = Lab::new(4, 1, 1);
    lab.begin();
    for member in 0..3 {
        lab.contribute(member);
    }
    assert!(lab.feed(Input::Header(lab.header(0))).unwrap().is_empty());
    let mut other = lab.header(0).value().clone();
    other.body = Digest::sha256(b"another body");
    let other = Signed::sign(other, &lab.members[0]);
    assert_eq!(lab.feed(Input::Header(other)), Err(Refusal::Conflict));
    lab.wait(100);
    assert_eq!(lab.feed(Input::Header(lab.header(3))), Err(Refusal::Late));
    assert_eq!(lab.feed(lab.body(3)), Err(Refusal::Late));
}

#[test]
fn a_body_that_is_not_the_signed_one_is_malformed_or_thrown_away() {
    let mut lab = Lab::new(3, 1, 1);
    let context = lab.begin();
    let (member, digest) = (
        lab.members[0].verifying_key().fingerprint(),
        Digest::sha256(b"another"),
    );
    let wrong = Input::Body {
        context,
        member,
        digest,
    };
    lab.feed(wrong.clone()).unwrap();
    let effects = lab.feed(Input::Header(lab.header(0))).unwrap();
    let seat = ShareIndex::new(1).unwrap();
    assert!(effects.contains(&Effect::DiscardBody { context, seat }));
    assert_eq!(lab.feed(wrong), Err(Refusal::Malformed));
    lab.feed(lab.body(0)).unwrap();
}

#[test]
fn an_echo_of_another_roster_or_before_there_is_one_is_a_conflict() {
    let mut lab = Lab::new(3, 1, 1);
    lab.begin();
    assert_eq!(
        lab.feed(lab.echo(0, Digest::sha256(b"early"))),
        Err(Refusal::Conflict)
    );
    for member in 0..3 {
        lab.contribute(member);
    }
    lab.close();
    let roster = lab.machine.current().unwrap().roster.unwrap();
    assert_eq!(
        events(&lab.feed(lab.echo(0, roster)).unwrap()),
        [EventKind::Echo]
    );
    assert!(lab.feed(lab.echo(0, roster)).unwrap().is_empty());
    assert_eq!(
        lab.feed(lab.echo(0, Digest::sha256(b"other"))),
        Err(Refusal::Conflict)
    );
}

#[test]
fn too_few_releases_void_the_attempt_and_later_ones_are_late() {
    let mut lab = Lab::new(3, 1, 2);
    lab.begin();
    for member in 0..3 {
        lab.contribute(member);
    }
    lab.close();
    lab.feed(lab.release(0)).unwrap();
    let late = lab.release(1);
    assert_eq!(events(&lab.wait(20)), [EventKind::Void]);
    assert_eq!(lab.feed(late), Err(Refusal::Late));
}

#[test]
fn an_agreement_before_t_releases_is_a_conflict() {
    let mut lab = Lab::new(3, 1, 1);
    lab.begin();
    for member in 0..3 {
        lab.contribute(member);
    }
    lab.close();
    assert_eq!(lab.feed(lab.agreement(0, b"model")), Err(Refusal::Conflict));
}

#[test]
fn a_disagreement_ends_the_job_and_names_the_dissenter() {
    let mut lab = Lab::new(3, 2, 1);
    lab.begin();
    lab.open();
    lab.feed(lab.agreement(0, b"model")).unwrap();
    lab.feed(lab.agreement(2, b"model")).unwrap();
    let effects = lab.feed(lab.agreement(1, b"another")).unwrap();
    assert_eq!(events(&effects), [EventKind::Agreement, EventKind::Ended]);
    assert!(reason(&lab.machine).contains("dissenting: m1"));
}

#[test]
fn a_round_completes_without_the_absent_but_waits_for_the_present() {
    let mut lab = Lab::new(3, 1, 1);
    lab.begin();
    lab.open();
    lab.feed(lab.agreement(0, b"model")).unwrap();
    assert!(lab.poll(&[0]).is_empty(), "one is fewer than t");
    lab.feed(lab.agreement(1, b"model")).unwrap();
    assert!(
        lab.poll(&[0, 1, 2]).is_empty(),
        "m2 is present and has not agreed"
    );
    assert_eq!(events(&lab.poll(&[0, 1])), [EventKind::Ended]);
}

#[test]
fn too_few_agreements_in_time_end_the_job() {
    let mut lab = Lab::new(3, 1, 1);
    lab.begin();
    lab.open();
    lab.feed(lab.agreement(0, b"model")).unwrap();
    assert_eq!(events(&lab.wait(30)), [EventKind::Ended]);
    assert!(reason(&lab.machine).contains("fewer than 2"));
}

#[test]
fn too_few_present_end_the_job_at_the_deadline() {
    let mut lab = Lab::new(3, 1, 2);
    lab.begin();
    lab.wait(100);
    assert!(lab.poll(&[0, 1]).is_empty());
    assert_eq!(events(&lab.wait(100)), [EventKind::Ended]);
}

#[test]
fn an_object_of_another_context_or_of_an_outsider_is_unknown() {
    let mut lab = Lab::new(3, 1, 1);
    lab.begin();
    let mut header = lab.header(0).value().clone();
    header.context = Context::of_plan(b"another plan");
    let header = Signed::sign(header, &lab.members[0]);
    assert_eq!(lab.feed(Input::Header(header)), Err(Refusal::Unknown));
    let outsider = Signed::sign(lab.header(0).value().clone(), &lab.researcher);
    assert_eq!(lab.feed(Input::Header(outsider)), Err(Refusal::Unknown));
}
