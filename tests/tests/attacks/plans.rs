//! A server that lies in its plans: beyond job, policy and manifest; with keys that are used, foreign or forged; twice.
//! Members refuse before anything is charged or sent, and record why.

use std::sync::Mutex;

use ciphertune_identity::{Role, SigningKey};
use ciphertune_policy::Policy;
use ciphertune_round::{
    Digest, Envelope, Fingerprint, Object as _, OneTimeKeyOffer, Plan, PolicyDocument, Seat,
    Signed, Signer as _,
};
use ciphertune_tests::{
    federation::{Federation, INSTITUTION, LABORATORY, Wish, changed, until},
    front::{Lies, Put, resigned},
    learner::Vectors,
};
use ciphertune_wire::proto::{Event, EventKind};

use crate::victims::{
    DIMENSION, average, keys_of_contexts_are_erased, refused_before_anything_is_sent, refused_plan,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_wider_than_its_job_is_refused_and_nothing_is_sent() {
    refused_plan(None, "min_contributors 1 is below the job's 2", |plan| {
        plan.min_contributors = 1
    })
    .await;
    refused_plan(None, "threshold 1 admits two rosters", |plan| {
        plan.threshold = 1
    })
    .await;
    refused_plan(None, "round 7 of 1", |plan| plan.round = 7).await;
    refused_plan(None, "attempt 2 of 1", |plan| plan.attempt = 2).await;
    refused_plan(None, "value bound", |plan| plan.value_bound = (1 << 20) - 1).await;
    refused_plan(None, "the plan names parameters", |plan| {
        plan.parameters.push('0')
    })
    .await;
    refused_plan(None, "first model", |plan| {
        plan.model = Digest::sha256(b"another")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_with_another_cohort_than_the_manifests_is_refused_and_nothing_is_sent() {
    refused_plan(None, "not in the manifest's order", |plan| {
        plan.seats.swap(0, 1)
    })
    .await;
    refused_plan(None, "another manifest", |plan| {
        plan.manifest = Digest::sha256(b"another")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_beyond_the_policy_is_refused_and_nothing_is_sent() {
    // Sites that assume a colluder: the honest plan has c = 1, as the strictest policy says; the lie has c = 0.
    let site = changed(INSTITUTION, "colluders = 0", "colluders = 1");
    let site = changed(&site, "min_contributors = 2", "min_contributors = 3");
    let three = changed(INSTITUTION, "min_contributors = 2", "min_contributors = 3");
    refused_plan(
        Some(&site),
        "aggregation.colluders: asked for 0, allowed is at least 1",
        |plan| {
            plan.colluders = 0;
        },
    )
    .await;
    refused_plan(
        Some(&three),
        "aggregation.min_contributors: asked for 2, allowed is at least 3",
        |plan| {
            plan.min_contributors = 2;
        },
    )
    .await;
    refused_plan(Some(&site), "not the strictest of the policies", |plan| {
        plan.policy = Digest::sha256(b"another");
    })
    .await;
    // The site's own policy left out, and the digest made to fit.
    refused_plan(
        Some(&site),
        "this member's own policy is not among the plan's",
        |plan| {
            plan.policies.truncate(1);
            plan.policy = Digest::from_bytes(Policy::parse(INSTITUTION).unwrap().digest());
        },
    )
    .await;
}

/// A policy that no officer signed, slipped in by the server.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_the_server_signed_itself_is_refused() {
    let federation = Federation::found(1, INSTITUTION).await;
    let document = PolicyDocument {
        federation: "test".into(),
        toml: INSTITUTION.into(),
    };
    let forged = Signed::sign(document, &federation.server_key());
    let site = federation.site(0);
    let refused = site.verify_as::<PolicyDocument>(&forged.encode(), Role::Officer);
    let said = refused.expect_err("a refusal").to_string();
    assert!(said.contains("signed by somebody who is not"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_seats_somebody_from_outside_the_manifest_is_refused_and_nothing_is_sent() {
    let outsider = |member: Fingerprint| {
        move |plan: &mut Plan| {
            let one_time_key = plan.seats[0].one_time_key.clone();
            plan.seats.push(Seat {
                member,
                one_time_key,
            });
            plan.threshold = 3; // as a cohort of four wants
        }
    };
    let stranger = SigningKey::generate().unwrap().verifying_key();
    let words = "the plan seats somebody who is no member of this federation";
    refused_plan(None, words, outsider(stranger.fingerprint())).await;
    // The server itself: in the manifest, and no member.
    let federation = Federation::found(3, INSTITUTION).await;
    let key = federation.server_key();
    let server = key.verifying_key().fingerprint();
    let lies = Lies::none().about(EventKind::Plan, key, outsider(server));
    refused_before_anything_is_sent(lies, federation, words).await;
}

/// A key that another member made, that the server made, and that nobody can seal to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_one_time_key_that_its_member_did_not_sign_is_refused_and_nothing_is_sent() {
    let words = "a seat's one-time key was signed by another";
    refused_plan(None, words, |plan| {
        plan.seats[0].one_time_key = plan.seats[1].one_time_key.clone();
    })
    .await;
    let federation = Federation::found(3, INSTITUTION).await;
    let (key, own) = (federation.server_key(), federation.server_key());
    let lies = Lies::none().about(EventKind::Plan, key, move |plan: &mut Plan| {
        let offer = plan.seats[1].one_time_key.payload();
        let offer = OneTimeKeyOffer::parse(offer).unwrap();
        plan.seats[1].one_time_key = Signed::sign(offer, &own).envelope().clone();
    });
    refused_before_anything_is_sent(lies, federation, words).await;
    let federation = Federation::found(3, INSTITUTION).await;
    let (key, member) = (federation.server_key(), federation.member(1).key());
    let lies = Lies::none().about(EventKind::Plan, key, move |plan: &mut Plan| {
        let offer = plan.seats[1].one_time_key.payload();
        let mut offer = OneTimeKeyOffer::parse(offer).unwrap();
        offer.public_key.fill(0xFF);
        plan.seats[1].one_time_key = Signed::sign(offer, &member).envelope().clone();
    });
    let words = "malformed one-time key: not an X-Wing public key";
    refused_before_anything_is_sent(lies, federation, words).await;
}

/// A plan that gives a member a one-time key that it used in the round before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_one_time_key_that_was_used_before_is_refused_before_anything_is_sent() {
    let mut federation = Federation::found(3, LABORATORY).await;
    let recorded: Mutex<Vec<Envelope>> = Mutex::default();
    let key = federation.server_key();
    let lies = Lies::none().about_events(move |_, event| {
        if event.kind() != EventKind::Plan {
            return Some(event);
        }
        let envelope = Envelope::decode(&event.envelope).unwrap();
        let mut plan = Plan::parse(envelope.payload()).unwrap();
        let mut recorded = recorded.lock().unwrap();
        if plan.round == 1 {
            *recorded = plan
                .seats
                .iter()
                .map(|seat| seat.one_time_key.clone())
                .collect();
            return Some(event);
        }
        for (seat, used) in plan.seats.iter_mut().zip(recorded.iter()) {
            seat.one_time_key = used.clone();
        }
        let envelope = Signed::sign(plan, &key).encode();
        Some(Event { envelope, ..event })
    });
    let (server, front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let wish = Wish {
        rounds: 2,
        ..Wish::of(3, DIMENSION)
    };
    federation.submit(&wish).await;
    for (member, run) in members.iter_mut().enumerate() {
        until(|| !run.voided().is_empty()).await;
        run.drop_out().await;
        let said = run.voided();
        assert!(
            said[0].contains("was used before and is erased"),
            "{said:?}"
        );
        assert_eq!(federation.refused(member), said);
        assert_eq!(run.reports().len(), 1);
        keys_of_contexts_are_erased(&federation, member, 1);
    }
    let sent = [Put::KeyShares, Put::Body, Put::Echo, Put::Release].map(|put| front.count(put));
    assert_eq!(sent, [3; 4], "round 1 alone");
    server.stop().await;
}

/// Two plans for one (round, attempt), each well-formed, with one-time keys that were never used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_plan_for_a_round_and_attempt_is_refused_and_nothing_more_is_sent() {
    let mut federation = Federation::found(3, INSTITUTION).await;
    let key = federation.server_key();
    let lies = Lies::none();
    let tape = lies.tape();
    let lies = lies.about_events(move |_, event| {
        if event.kind() != EventKind::Plan {
            return vec![event];
        }
        let second = resigned(event.clone(), &key, |plan: &mut Plan| {
            plan.nonce = [7; 32];
            for seat in &mut plan.seats {
                let last = tape.keys_of(&seat.member).pop().expect("a key");
                seat.one_time_key = Envelope::decode(&last).unwrap();
            }
        });
        vec![event, second]
    });
    let (server, front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, 100)))
        .collect();
    federation.submit(&Wish::of(3, 100)).await;
    for (member, run) in members.iter_mut().enumerate() {
        until(|| run.voided().len() == 2).await;
        run.drop_out().await;
        let said = run.voided();
        let words = [
            "the server went on without this member",
            "a second, different plan came for this round and attempt",
        ];
        for (said, words) in said.iter().zip(words) {
            assert!(said.contains(words), "{said:?} does not say {words:?}");
        }
        assert_eq!(federation.refused(member), said);
        keys_of_contexts_are_erased(&federation, member, 2);
        assert!(federation.log(member, "charge").len() <= 1);
        assert_eq!(federation.log(member, "plan").len(), 1);
    }
    let mut contexts: Vec<_> = front.sent().iter().map(|sent| sent.context).collect();
    contexts.sort();
    contexts.dedup();
    assert!(contexts.len() <= 1, "{contexts:?}");
    assert!(front.count(Put::Body) <= 3);
    server.stop().await;
}

/// The plan of an attempt sent again: while it runs, and after it ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_is_sent_again_is_not_followed_again() {
    let mut federation = Federation::found(3, LABORATORY).await;
    let plan = Mutex::new(None);
    let lies = Lies::none().about_events(move |_, event| {
        let mut plan = plan.lock().unwrap();
        match event.kind() {
            EventKind::Plan => {
                *plan = Some(event.envelope.clone());
                vec![event.clone(), event]
            }
            EventKind::Ended => {
                let again = Event {
                    kind: EventKind::Plan.into(),
                    envelope: plan.clone().expect("a plan"),
                    ..event
                };
                vec![again, event]
            }
            _ => vec![event],
        }
    });
    let (server, front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let (_, job) = federation.submit(&Wish::of(3, DIMENSION)).await;
    for (member, run) in members.iter_mut().enumerate() {
        assert!(run.end().await.unwrap().completed, "{:?}", run.voided());
        assert!(federation.model(member, &job).unwrap().state == average());
        assert_eq!(federation.log(member, "plan").len(), 1);
        keys_of_contexts_are_erased(&federation, member, 1);
    }
    let sent = [Put::KeyShares, Put::Body, Put::Echo, Put::Release].map(|put| front.count(put));
    assert_eq!(sent, [3; 4]);
    server.stop().await;
}
