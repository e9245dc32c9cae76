//! A malicious server: whatever it changes, hides or replays, no member opens anything else than the sum of what was
//! sent (protocol §3 and §4).

use std::{fs, sync::Mutex};

use ciphertune_client::Error;
use ciphertune_identity::Role;
use ciphertune_policy::Policy;
use ciphertune_round::{Digest, Envelope, Object as _, Plan, PolicyDocument, Roster, Signed};
use ciphertune_tests::{
    federation::{Federation, INSTITUTION, LABORATORY, Wish, changed, until, until_job},
    front::{Lies, Put},
    learner::{Gate, Vectors, first_model},
    plaintext::{Quantiser, add_up},
};
use ciphertune_wire::proto::{Event, EventKind, ShareKind};

const DIMENSION: usize = 20_000;
const Q: u64 = 0xFFFF_FFFF_0000_0001;

/// Adds `by` to one word, modulo q: the smallest change that still is a body.
fn add_to_word(bytes: &mut [u8], word: usize, by: u64) {
    let place = &mut bytes[8 * word..8 * word + 8];
    let value = u64::from_le_bytes((&*place).try_into().unwrap());
    let changed = ((u128::from(value) + u128::from(by)) % u128::from(Q)) as u64;
    place.copy_from_slice(&changed.to_le_bytes());
}

/// Runs three members under a lying server. Every one of them must leave the attempt with `words`, without a model;
/// nobody agrees to anything.
async fn refused_by_all(lies: Lies, mut federation: Federation, words: &str) {
    let (server, front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let wish = Wish {
        seconds: [60, 3, 3],
        ..Wish::of(3, DIMENSION)
    };
    let (_, job) = federation.submit(&wish).await;
    for (member, run) in members.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(!outcome.completed && outcome.rounds == 0, "{outcome:?}");
        let said = run.voided();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains(words), "{said:?} does not say {words:?}");
        assert!(federation.model(member, &job).is_none(), "member {member}");
        assert!(run.reports().is_empty());
    }
    assert_eq!(front.count(Put::Agreement), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_with_one_word_changed_is_opened_by_nobody() {
    let federation = Federation::found(3, LABORATORY).await;
    // Each member gets another word changed: the first, one in the middle, the last.
    let [first, middle, _] = [0, 1, 2].map(|member| federation.fingerprint(member));
    let lies = Lies::none().about_the_sum(move |member, sum| {
        let words = sum.len() / 8;
        let word = match *member {
            member if member == first => 0,
            member if member == middle => words / 2 + 1,
            _ => words - 1,
        };
        add_to_word(sum, word, 1);
    });
    refused_by_all(
        lies,
        federation,
        "the sum is not the one that the roster names",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_cut_short_or_made_longer_is_opened_by_nobody() {
    let federation = Federation::found(3, LABORATORY).await;
    let lies = Lies::none().about_the_sum(|_, sum| sum.extend_from_slice(&[0; 8]));
    refused_by_all(lies, federation, "the server sent more than the").await;
}

/// The roster names the digest of a changed sum, signed with the server's own key. The check values catch it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_sum_that_the_roster_vouches_for_fails_the_check_values() {
    let mut federation = Federation::found(3, LABORATORY).await;
    // One word of a body is changed on the server's disk before it adds up, so that everything after that, digest and
    // signature included, is made by the server's own code; whoever asks for that body gets it as it was sent.
    let lies = Lies::none().about_bodies(|_, seat, body| {
        if seat == 1 {
            add_to_word(body, 4_097, Q - 1);
        }
    });
    let (server, front) = federation.serve_behind(lies).await;
    let gate = Gate::default();
    let mut members = vec![federation.join(Vectors::of(0, DIMENSION))];
    members
        .extend([1, 2].map(|member| federation.join(Vectors::of(member, DIMENSION).behind(&gate))));
    let wish = Wish {
        seconds: [60, 5, 3],
        ..Wish::of(3, DIMENSION)
    };
    let (mut researcher, job) = federation.submit(&wish).await;
    until_job(&mut researcher, job, |state| {
        state.members.iter().any(|member| member.progress == "done")
    })
    .await;
    let path = server.file("/1.body").await;
    let mut body = fs::read(&path).unwrap();
    add_to_word(&mut body, 4_097, 1);
    fs::write(&path, body).unwrap();
    gate.open();
    for (member, run) in members.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(!outcome.completed && outcome.rounds == 0, "{outcome:?}");
        let said = run.voided();
        assert!(
            said.len() == 1
                && said[0].contains("the sum is not the sum of what the contributors sent"),
            "{said:?}"
        );
        assert!(federation.model(member, &job).is_none());
    }
    assert_eq!(
        (front.count(Put::Release), front.count(Put::Agreement)),
        (3, 0)
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_body_of_a_contributor_is_noticed_by_whoever_spot_checks_it() {
    let federation = Federation::found(3, LABORATORY).await;
    let lies = Lies::none().about_bodies(|_, _, body| add_to_word(body, 7, 1));
    refused_by_all(lies, federation, "is not the one that its header signs").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_share_of_a_key_is_not_added_up() {
    let federation = Federation::found(3, LABORATORY).await;
    let lies = Lies::none().about_shares(|_, kind, mut share| {
        if kind == ShareKind::Key {
            *share.share.last_mut().unwrap() ^= 1;
        }
        Some(share)
    });
    refused_by_all(lies, federation, "is not the one that its sender signed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_a_key_that_is_kept_back_voids_the_attempt() {
    let federation = Federation::found(3, LABORATORY).await;
    let lies = Lies::none().about_shares(|_, kind, share| {
        (kind != ShareKind::Key || share.sender != 2).then_some(share)
    });
    refused_by_all(lies, federation, "2 of 3 sealed shares for this member").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_share_of_the_sum_of_keys_is_not_used() {
    let federation = Federation::found(3, LABORATORY).await;
    let lies = Lies::none().about_shares(|_, kind, mut share| {
        if kind == ShareKind::KeySum {
            share.share[40] ^= 1;
        }
        Some(share)
    });
    refused_by_all(lies, federation, "is not the one that its sender signed").await;
}

/// t = 2 of 3: one share of the sum of keys may be missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_the_sum_of_keys_that_is_kept_back_is_not_needed() {
    let mut federation = Federation::found(3, LABORATORY).await;
    let lies = Lies::none().about_shares(|_, kind, share| {
        (kind != ShareKind::KeySum || share.sender != 3).then_some(share)
    });
    let (server, _front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let (_, job) = federation.submit(&Wish::of(3, DIMENSION)).await;
    let quantiser = Quantiser::derive(3, None, 12, DIMENSION);
    let plain =
        [0, 1, 2].map(|member| quantiser.quantise(&Vectors::of(member, DIMENSION).update(1)));
    let expected = quantiser.average_onto(&first_model(DIMENSION), &add_up(&plain), 3);
    for (member, run) in members.iter_mut().enumerate() {
        assert!(run.end().await.unwrap().completed, "{:?}", run.voided());
        assert!(federation.model(member, &job).unwrap().parameters == expected);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roster_that_leaves_a_contributor_out_is_below_the_minimum() {
    let federation = Federation::found(3, LABORATORY).await;
    let lies = Lies::none().about(
        EventKind::Roster,
        federation.server_key(),
        |roster: &mut Roster| {
            roster.headers.pop();
        },
    );
    refused_by_all(
        lies,
        federation,
        "the roster names 2 contributors, the plan wants at least 3",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roster_that_counts_a_contributor_twice_is_refused() {
    let federation = Federation::found(3, LABORATORY).await;
    let lies = Lies::none().about(
        EventKind::Roster,
        federation.server_key(),
        |roster: &mut Roster| {
            roster.headers[2] = roster.headers[1].clone();
        },
    );
    refused_by_all(lies, federation, "is named twice or out of order").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gap_in_the_events_ends_the_run_with_an_error() {
    let mut federation = Federation::found(3, LABORATORY).await;
    let lies = Lies::none().about_events(|_, mut event| {
        if event.sequence > 1 {
            event.sequence += 1;
        }
        Some(event)
    });
    let (server, front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    federation.submit(&Wish::of(3, DIMENSION)).await;
    for run in &mut members {
        let Err(Error::Server(said)) = run.end().await else {
            panic!("the gap was not noticed");
        };
        assert!(said.contains("event 3 came after 1"), "{said}");
    }
    assert_eq!(front.count(Put::Body), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roster_that_is_hidden_opens_nothing() {
    let federation = Federation::found(3, LABORATORY).await;
    let lies =
        Lies::none().about_events(|_, event| (event.kind() != EventKind::Roster).then_some(event));
    refused_by_all(lies, federation, "in time").await;
}

/// Runs members of a private federation, each with `site` as its own policy, under plans that the server changed and
/// signed. Everybody must refuse with `words`, before anything is charged or sent.
async fn refused_plan(
    site: Option<&str>,
    words: &str,
    lie: impl Fn(&mut Plan) + Send + Sync + 'static,
) {
    let mut federation = Federation::found_with(INSTITUTION, &[site; 3]).await;
    let lies = Lies::none().about(EventKind::Plan, federation.server_key(), lie);
    let (server, front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, 100)))
        .collect();
    federation.submit(&Wish::of(3, 100)).await;
    for (member, run) in members.iter_mut().enumerate() {
        until(|| !run.voided().is_empty()).await;
        let said = run.voided();
        assert!(said[0].contains(words), "{said:?} does not say {words:?}");
        run.drop_out().await;
        let standing = federation.standing(member).await.expect("it reserved");
        assert_eq!(standing.spent.units(), 0);
        assert!(standing.held.units() > 0);
    }
    assert_eq!(front.count(Put::KeyShares) + front.count(Put::Body), 0);
    assert_eq!(server.holds(), Vec::<String>::new());
    server.stop().await;
}

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
    for run in &mut members {
        until(|| !run.voided().is_empty()).await;
        let said = run.voided();
        assert!(
            said[0].contains("was used before and is erased"),
            "{said:?}"
        );
        assert_eq!(run.reports().len(), 1);
        run.drop_out().await;
    }
    assert_eq!(front.count(Put::Body), 3, "round 1 alone");
    server.stop().await;
}
