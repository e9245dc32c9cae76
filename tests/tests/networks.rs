//! Members behind bad networks: what is lost is sent again from where it stopped, and the sum is what it would have been.

use std::time::Duration;

use ciphertune_tests::{
    federation::{Federation, LABORATORY, Wish, is_over, until, until_job},
    learner::{Vectors, average_of, first_model},
    network::Link,
    plaintext::{Quantiser, add_up},
};

/// Three blocks' worth of body and some 170 KB of sealed shares, for four members.
const SMALL: usize = 40_000;

/// 50 ms each way, 5 % loss, a cut every 10 MB, for everybody: two cuts in each upload of 21 MB, and more in the
/// downloads of the sum and of the body that is spot-checked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_federation_behind_a_bad_network_comes_to_the_plaintext_average_and_sends_little_twice() {
    // 643 blocks of 3·4,096 numbers of 16 bits.
    const DIMENSION: usize = 7_900_000;
    const BODY: u64 = 643 * 32_768;
    let mut federation = Federation::found(3, LABORATORY).await;
    let (server, network) = federation.serve_over(Link::bad(), 24).await;
    let learners = [0, 1, 2].map(|member| Vectors::of(member, DIMENSION).long(2.9));
    let mut members = learners
        .each_ref()
        .map(|learner| federation.join(learner.clone()));
    let wish = Wish {
        value_bits: 16,
        seconds: [110, 110, 110],
        ..Wish::of(3, DIMENSION)
    };
    let (_, job) = federation.submit(&wish).await;
    let plaintext = tokio::task::spawn_blocking(move || {
        let quantiser = Quantiser::derive(3, None, 16, DIMENSION);
        let quantised = learners.map(|learner| quantiser.quantise_inside(&learner.update(1)));
        quantiser.average_onto(&first_model(DIMENSION), &add_up(&quantised), 3)
    });
    for run in &mut members {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
        let report = &run.reports()[0];
        assert_eq!(report.contributors, 3);
        // Once up; the sum and one fellow's body down.
        assert!(
            report.bytes_up > BODY && report.bytes_up * 10 <= BODY * 13,
            "{report:?}"
        );
        assert!(
            report.bytes_down > 2 * BODY && report.bytes_down * 10 <= 2 * BODY * 13,
            "{report:?}"
        );
    }
    let expected = plaintext.await.unwrap();
    for member in 0..3 {
        let model = federation.model(member, &job).expect("a model");
        assert!(model.state == expected, "member {member}");
    }
    let (uploads, downloads): (Vec<_>, Vec<_>) =
        network.cuts().into_iter().partition(|(up, down)| up > down);
    assert!(
        uploads.len() >= 6 && downloads.len() >= 6,
        "{uploads:?} {downloads:?}"
    );
    let (up, down) = network.carried();
    assert!(up * 10 <= 3 * BODY * 13, "{up} bytes up");
    assert!(down * 10 <= 6 * BODY * 13, "{down} bytes down");
    server.stop().await;
}

/// A member with a slow line, and three with good ones, who wait for it as long as the job lets them; the members that are in
/// the sum.
async fn with_a_slow_member(bandwidth: u64, seconds: [u64; 3]) -> usize {
    let mut federation = Federation::found(4, LABORATORY).await;
    let (server, network) = federation.serve_over(Link::default(), 0).await;
    network.next(Link::slow(bandwidth));
    let mut slow = federation.join(Vectors::of(3, SMALL));
    until(|| network.connections() == 1).await;
    let mut others = [0, 1, 2].map(|member| federation.join(Vectors::of(member, SMALL)));
    let wish = Wish {
        seconds,
        ..Wish::of(4, SMALL)
    };
    let (mut researcher, job) = federation.submit(&wish).await;
    let mut contributors = 0;
    for (member, run) in others.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
        contributors = run.reports()[0].contributors;
        let who: Vec<usize> = (0..contributors).collect();
        let model = federation.model(member, &job).expect("a model");
        assert!(model.state == average_of(&who, SMALL), "member {member}");
    }
    // Late or not, its run did not fail.
    let outcome = slow.end().await.unwrap();
    assert_eq!(outcome.completed, contributors == 4, "{outcome:?}");
    if contributors == 4 {
        assert_eq!(network.connections(), 5, "nobody's connection was lost");
    }
    let state = until_job(&mut researcher, job, is_over).await;
    assert_eq!(state.phase, "completed", "{}", state.reason);
    until(|| server.holds().is_empty()).await;
    server.stop().await;
    contributors
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_member_that_is_in_time_is_in_the_sum() {
    assert_eq!(with_a_slow_member(60_000, [60, 60, 60]).await, 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_member_that_is_late_is_left_out_and_holds_nobody_up() {
    // The others wait for its agreement, too, as long as it is there.
    assert_eq!(with_a_slow_member(5_000, [10, 60, 5]).await, 3);
}

/// Its line carries nothing any more, in the middle of its upload, and nobody is told: no end, no reset.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_vanishes_in_mid_upload_is_left_out_and_nothing_of_it_stays() {
    let mut federation = Federation::found(4, LABORATORY).await;
    let (server, network) = federation.serve_over(Link::default(), 0).await;
    network.next(Link::vanishing(200_000));
    let mut vanishing = federation.join(Vectors::of(3, SMALL));
    until(|| network.connections() == 1).await;
    let mut others = [0, 1, 2].map(|member| federation.join(Vectors::of(member, SMALL)));
    let wish = Wish {
        seconds: [8, 60, 60],
        ..Wish::of(4, SMALL)
    };
    let (_, job) = federation.submit(&wish).await;
    let expected = average_of(&[0, 1, 2], SMALL);
    for (member, run) in others.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
        assert_eq!(run.reports()[0].contributors, 3);
        assert!(federation.model(member, &job).expect("a model").state == expected);
    }
    until(|| server.holds().is_empty()).await;
    // It waits for its server, and would for ever.
    tokio::time::sleep(Duration::from_millis(100)).await;
    vanishing.drop_out().await;
    server.stop().await;
}

/// The server is started again on its data while members are connected: they come back by themselves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_outlast_a_server_that_is_away_for_a_while() {
    let mut federation = Federation::found(3, LABORATORY).await;
    let server = federation.serve();
    let mut members = [0, 1, 2].map(|member| federation.join(Vectors::of(member, SMALL)));
    for member in &members {
        member
            .waits_for(|it| matches!(it, ciphertune_client::report::Happening::Connected { .. }))
            .await;
    }
    server.stop().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let server = federation.serve_again().await;
    let (_, job) = federation.submit(&Wish::of(3, SMALL)).await;
    for (member, run) in members.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
        let model = federation.model(member, &job).expect("a model");
        assert!(model.state == average_of(&[0, 1, 2], SMALL));
    }
    server.stop().await;
}
