//! Members that go away, and what becomes of the round (protocol §4).

use ciphertune_tests::{
    federation::{
        Federation, LABORATORY, Member, Wish, changed, is_over, until, until_contributed, until_job,
    },
    front::{Lies, Put},
    learner::{Gate, Vectors, average_of},
};

const DIMENSION: usize = 5_000;

/// The others end the job with the plaintext average of `contributors`.
async fn ends_with_the_average_of(
    contributors: &[usize],
    federation: &Federation,
    job: &ciphertune_round::Digest,
    others: &mut [(usize, Member)],
) {
    let expected = average_of(contributors, DIMENSION);
    for (member, run) in others {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
        assert_eq!(run.reports()[0].contributors, contributors.len());
        let model = federation.model(*member, job).expect("a model");
        assert!(model.state == expected, "member {member}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_drops_before_contributing_is_not_in_the_sum_and_the_others_finish() {
    let mut federation = Federation::found(4, LABORATORY).await;
    let server = federation.serve();
    let gate = Gate::default();
    let mut dropping = federation.join(Vectors::of(1, DIMENSION).behind(&gate));
    let mut others: Vec<_> = [0, 2, 3]
        .map(|member| (member, federation.join(Vectors::of(member, DIMENSION))))
        .into();
    let wish = Wish {
        seconds: [6, 60, 60],
        ..Wish::of(4, DIMENSION)
    };
    let (mut researcher, job) = federation.submit(&wish).await;
    until(|| gate.is_reached()).await;
    dropping.drop_out().await;
    ends_with_the_average_of(&[0, 2, 3], &federation, &job, &mut others).await;
    assert!(federation.model(1, &job).is_none());
    let state = until_job(&mut researcher, job, is_over).await;
    assert_eq!(state.phase, "completed", "{}", state.reason);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stalls_does_not_hang_the_others_past_the_deadline() {
    let mut federation = Federation::found(4, LABORATORY).await;
    let server = federation.serve();
    let gate = Gate::default();
    let mut stalled = federation.join(Vectors::of(3, DIMENSION).behind(&gate));
    let mut others: Vec<_> = [0, 1, 2]
        .map(|member| (member, federation.join(Vectors::of(member, DIMENSION))))
        .into();
    let wish = Wish {
        seconds: [6, 60, 5],
        ..Wish::of(4, DIMENSION)
    };
    let (_, job) = federation.submit(&wish).await;
    ends_with_the_average_of(&[0, 1, 2], &federation, &job, &mut others).await;
    gate.open();
    let outcome = stalled.end().await.unwrap();
    assert!(!outcome.completed && outcome.rounds == 0, "{outcome:?}");
    server.stop().await;
}

/// n = 4, c = 1: t = 3, one may be missing (protocol §2).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_update_of_a_member_that_drops_after_contributing_counts() {
    let policy = changed(LABORATORY, "colluders = 0", "colluders = 1");
    let mut federation = Federation::found(4, &policy).await;
    let server = federation.serve();
    let gate = Gate::default();
    let mut dropping = federation.join(Vectors::of(3, DIMENSION));
    let mut others: Vec<_> = [0, 1, 2]
        .map(|member| {
            let learner = Vectors::of(member, DIMENSION).behind(&gate);
            (member, federation.join(learner))
        })
        .into();
    let (mut researcher, job) = federation.submit(&Wish::of(4, DIMENSION)).await;
    // Its body is whole at the server; nobody else has begun to send.
    until_contributed(&mut researcher, job, 3).await;
    dropping.drop_out().await;
    gate.open();
    ends_with_the_average_of(&[0, 1, 2, 3], &federation, &job, &mut others).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_too_few_contributors_nothing_is_opened() {
    let mut federation = Federation::found(3, LABORATORY).await;
    let server = federation.serve();
    let gate = Gate::default();
    let mut dropping = federation.join(Vectors::of(0, DIMENSION).behind(&gate));
    let mut others = [1, 2].map(|member| federation.join(Vectors::of(member, DIMENSION)));
    let wish = Wish {
        seconds: [5, 60, 60],
        ..Wish::of(3, DIMENSION)
    };
    let (_, job) = federation.submit(&wish).await;
    until(|| gate.is_reached()).await;
    dropping.drop_out().await;
    for (place, run) in others.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(!outcome.completed && outcome.rounds == 0, "{outcome:?}");
        let said = run.voided().join("; ");
        assert!(
            said.contains("2 members contributed in time, and a sum takes 3"),
            "{said}"
        );
        assert!(federation.model(place + 1, &job).is_none());
    }
    server.stop().await;
}

/// A federation whose server swallows what some members send; the job ends without a model, and the front that saw
/// everything is asked afterwards.
async fn swallowing(put: Put, swallowed: usize) -> ciphertune_tests::front::Front {
    let mut federation = Federation::found(3, LABORATORY).await;
    let silenced: Vec<_> = (0..swallowed)
        .map(|member| federation.fingerprint(member))
        .collect();
    let lies =
        Lies::none().forwarding(move |member, sent| sent != put || !silenced.contains(member));
    let (server, front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let wish = Wish {
        seconds: [60, 5, 5],
        ..Wish::of(3, DIMENSION)
    };
    let (mut researcher, job) = federation.submit(&wish).await;
    for (member, run) in members.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(!outcome.completed && outcome.rounds == 0, "{outcome:?}");
        assert_eq!(run.voided().len(), 1, "{:?}", run.voided());
        assert!(federation.model(member, &job).is_none());
    }
    let state = until_job(&mut researcher, job, is_over).await;
    assert_eq!(state.phase, "ended", "{}", state.reason);
    assert_eq!(front.count(Put::Body), 3);
    assert_eq!(front.count(Put::Agreement), 0);
    server.stop().await;
    front
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_too_few_echoes_nobody_releases_and_the_sum_stays_closed() {
    // t = 2 of 3: two echoes swallowed leave one.
    let front = swallowing(Put::Echo, 2).await;
    assert_eq!(front.count(Put::Echo), 3);
    assert_eq!(front.count(Put::Release), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_too_few_releases_the_sum_stays_closed() {
    let front = swallowing(Put::Release, 2).await;
    assert_eq!(front.count(Put::Release), 3);
}
