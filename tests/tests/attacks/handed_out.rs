//! A server that lies in what it hands out: sums, bodies, shares, events. No member opens anything else than the sum of
//! what was sent, and each records what failed.

use std::{
    fs,
    sync::{Arc, Mutex, OnceLock},
};

use ciphertune_client::Error;
use ciphertune_round::{Digest, Roster};
use ciphertune_tests::{
    federation::{Federation, INSTITUTION, LABORATORY, Wish, until_job},
    front::{Lies, Put},
    learner::{Gate, Vectors},
};
use ciphertune_wire::{
    limits::MESSAGE_BYTES,
    proto::{Event, EventKind, ShareKind},
};

use crate::victims::{
    DIMENSION, Q, add_to_word, average, left_with, nobody_said_more,
    refused_before_anything_is_sent, refused_by_all, sum_of,
};

const NOT_THE_SUM: &str = "the sum is not the sum of what the contributors sent";

/// Runs three members under a roster that names all three, in which the server vouches for a sum of other bodies.
async fn another_sum(summed: impl Fn(&[Vec<u8>; 3]) -> Vec<Vec<u8>> + Send + Sync + 'static) {
    let federation = Federation::found(3, LABORATORY).await;
    let key = federation.server_key();
    let members = [0, 1, 2].map(|member| federation.fingerprint(member));
    let lies = Lies::none();
    let tape = lies.tape();
    let sum = Arc::new(move || sum_of(&summed(&members.map(|member| tape.body_of(&member)))));
    let handed_out = Arc::clone(&sum);
    let lies = lies
        .about(EventKind::Roster, key, move |roster: &mut Roster| {
            roster.sum = Digest::sha256(&sum());
        })
        .about_the_sum(move |_, sum| *sum = handed_out())
        .relaying();
    refused_by_all(lies, federation, [3, 3], NOT_THE_SUM).await;
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
        [3, 3],
        "the sum is not the one that the roster names",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_made_longer_is_opened_by_nobody() {
    let federation = Federation::found(3, LABORATORY).await;
    let lies = Lies::none().about_the_sum(|_, sum| sum.extend_from_slice(&[0; 8]));
    refused_by_all(lies, federation, [3, 3], "the server sent more than the").await;
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
    let path = server.file("/body-1/000000000000000").await;
    let mut body = fs::read(&path).unwrap();
    add_to_word(&mut body, 4_097, 1);
    fs::write(&path, body).unwrap();
    gate.open();
    for (member, run) in members.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(!outcome.completed && outcome.rounds == 0, "{outcome:?}");
        left_with(&federation, member, run, &job, NOT_THE_SUM);
    }
    nobody_said_more(&front, [3, 3]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_that_drops_a_contribution_which_the_roster_names_fails_the_check_values() {
    another_sum(|bodies| bodies[..2].to_vec()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_that_adds_a_contribution_which_nobody_sent_fails_the_check_values() {
    another_sum(|bodies| {
        let mut added = vec![0; bodies[0].len()];
        add_to_word(&mut added, 0, 1 << 40);
        let mut summed = bodies.to_vec();
        summed.push(added);
        summed
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_that_counts_one_contribution_for_another_fails_the_check_values() {
    another_sum(|[first, second, _]| vec![first.clone(), second.clone(), second.clone()]).await;
}

/// Never whole, however often it is asked for, until the server ends the job.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sum_cut_short_is_opened_by_nobody() {
    let federation = Federation::found(3, LABORATORY).await;
    let lies = Lies::none().about_the_sum(|_, sum| sum.truncate(sum.len() - 8));
    let late = "the phase that takes this has ended";
    refused_by_all(lies, federation, [3, 3], late).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_body_of_a_contributor_is_noticed_by_whoever_spot_checks_it() {
    let federation = Federation::found(3, LABORATORY).await;
    let lies = Lies::none().about_bodies(|_, _, body| add_to_word(body, 7, 1));
    refused_by_all(
        lies,
        federation,
        [3, 3],
        "is not the one that its header signs",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_handed_out_as_another_members_is_noticed() {
    let federation = Federation::found(3, LABORATORY).await;
    let members = [0, 1, 2].map(|member| federation.fingerprint(member));
    let lies = Lies::none();
    let tape = lies.tape();
    let lies = lies.about_bodies(move |_, seat, body| {
        *body = tape.body_of(&members[seat as usize % 3]); // seat 1's is seat 2's, and so on
    });
    let words = "is not the one that its header signs";
    refused_by_all(lies, federation, [3, 3], words).await;
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
    refused_by_all(
        lies,
        federation,
        [3, 0],
        "is not the one that its sender signed",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_of_keys_that_swap_their_senders_are_not_added_up() {
    let federation = Federation::found(3, LABORATORY).await;
    let lies = Lies::none().about_shares(|_, kind, mut share| {
        if kind == ShareKind::Key {
            share.sender = [2, 1, 3][share.sender as usize - 1];
        }
        Some(share)
    });
    let words = "is not the one that its sender signed";
    refused_by_all(lies, federation, [3, 0], words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_a_key_that_was_sealed_to_another_member_is_not_added_up() {
    let federation = Federation::found(3, LABORATORY).await;
    let members = [0, 1, 2].map(|member| federation.fingerprint(member));
    let lies = Lies::none();
    let tape = lies.tape();
    let lies = lies.about_shares(move |caller, kind, mut share| {
        if kind == ShareKind::Key {
            let own = members.iter().position(|member| member == caller).unwrap();
            let sent = tape.of(Put::KeyShares);
            let sender = members[share.sender as usize - 1];
            let sent = sent.iter().find(|sent| sent.by == sender).unwrap();
            share.share = sent.shares[(own + 1) % 3].clone();
        }
        Some(share)
    });
    let words = "is not the one that its sender signed";
    refused_by_all(lies, federation, [3, 0], words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_a_key_that_is_kept_back_voids_the_attempt() {
    let federation = Federation::found(3, LABORATORY).await;
    let lies = Lies::none().about_shares(|_, kind, share| {
        (kind != ShareKind::Key || share.sender != 2).then_some(share)
    });
    refused_by_all(
        lies,
        federation,
        [3, 0],
        "2 of 3 sealed shares for this member",
    )
    .await;
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
    refused_by_all(
        lies,
        federation,
        [3, 3],
        "is not the one that its sender signed",
    )
    .await;
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
    let expected = average();
    for (member, run) in members.iter_mut().enumerate() {
        assert!(run.end().await.unwrap().completed, "{:?}", run.voided());
        assert!(federation.model(member, &job).unwrap().state == expected);
    }
    server.stop().await;
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
async fn an_event_larger_than_a_message_ends_the_run_with_an_error() {
    let mut federation = Federation::found(3, LABORATORY).await;
    let lies = Lies::none().about_events(|_, mut event| {
        if event.kind() == EventKind::Plan {
            event.envelope.resize(MESSAGE_BYTES + 1, 0);
        }
        [event]
    });
    let (server, front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    federation.submit(&Wish::of(3, DIMENSION)).await;
    for run in &mut members {
        let Err(Error::Server(said)) = run.end().await else {
            panic!("the size was not noticed");
        };
        assert!(said.contains("message length too large"), "{said}");
    }
    assert_eq!(front.count(Put::Body), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_truncated_plan_is_refused_and_nothing_is_sent() {
    for keep in [0.5, 0.999] {
        let federation = Federation::found(3, INSTITUTION).await;
        let lies = Lies::none().about_events(move |_, event| {
            let length = match event.kind() {
                EventKind::Plan => (event.envelope.len() as f64 * keep) as usize,
                _ => event.envelope.len(),
            };
            let envelope = event.envelope[..length].to_vec();
            [Event { envelope, ..event }]
        });
        refused_before_anything_is_sent(lies, federation, "malformed envelope").await;
    }
}

/// Runs two rounds; the second under a server that hands out something of the first again. Every member must leave the
/// second with `words`, holding the model of the first.
async fn replayed(lies: Lies, mut federation: Federation, said: [usize; 2], words: &str) {
    let (server, front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let wish = Wish {
        rounds: 2,
        seconds: [60, 4, 4],
        ..Wish::of(3, DIMENSION)
    };
    let (_, job) = federation.submit(&wish).await;
    for (member, run) in members.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(!outcome.completed && outcome.rounds == 1, "{outcome:?}");
        let said = run.voided();
        assert!(
            said.len() == 1 && said[0].contains(words),
            "{said:?} does not say {words:?}"
        );
        assert_eq!(federation.refused(member), said);
        assert_eq!(federation.log(member, "opened").len(), 1);
        let model = federation.model(member, &job).expect("round 1's model");
        assert!(model.round == 1 && model.state == average());
    }
    let counted = [Put::Echo, Put::Release].map(|put| front.count(put));
    assert_eq!(counted, said, "echoes and releases of both rounds");
    assert_eq!(front.count(Put::Agreement), 3, "of round 1");
    assert_eq!(front.contradictions(), Vec::<String>::new());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contributions_of_the_last_round_make_no_roster_of_this_one() {
    let federation = Federation::found(3, LABORATORY).await;
    let first = OnceLock::new();
    let lies = Lies::none().about(
        EventKind::Roster,
        federation.server_key(),
        move |roster: &mut Roster| {
            let (context, headers) = first.get_or_init(|| (roster.context, roster.headers.clone()));
            if roster.context != *context {
                roster.headers = headers.clone();
            }
        },
    );
    let words = "the header of seat 1 is for another context";
    replayed(lies, federation, [3, 3], words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_rounds_roster_is_not_echoed_again() {
    let federation = Federation::found(3, LABORATORY).await;
    let first = Mutex::new(None);
    let lies = Lies::none().about_events(move |_, event| {
        if event.kind() != EventKind::Roster {
            return [event];
        }
        let mut first = first.lock().unwrap();
        let envelope = first.get_or_insert_with(|| event.envelope.clone()).clone();
        [Event { envelope, ..event }]
    });
    replayed(lies, federation, [3, 3], "in time").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_of_the_last_round_are_not_added_up_in_this_one() {
    let federation = Federation::found(3, LABORATORY).await;
    let members = [0, 1, 2].map(|member| federation.fingerprint(member));
    let lies = Lies::none();
    let tape = lies.tape();
    let lies = lies.about_shares(move |caller, kind, mut share| {
        if kind == ShareKind::Key {
            let own = members.iter().position(|member| member == caller).unwrap();
            let sender = members[share.sender as usize - 1];
            let sent = tape.of(Put::KeyShares);
            let first = sent.iter().find(|sent| sent.by == sender).unwrap();
            share.share = first.shares[own].clone();
        }
        Some(share)
    });
    let words = "is not the one that its sender signed";
    replayed(lies, federation, [6, 3], words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_rounds_sum_is_not_opened_in_this_one() {
    let federation = Federation::found(3, LABORATORY).await;
    let first = OnceLock::<Vec<u8>>::new();
    let lies = Lies::none().about_the_sum(move |_, sum| {
        *sum = first.get_or_init(|| sum.clone()).clone();
    });
    let words = "the sum is not the one that the roster names";
    replayed(lies, federation, [6, 6], words).await;
}
