//! Members that stop in mid-round and are started again on the same home.

use ciphertune_tests::{
    federation::{Federation, LABORATORY, Wish, until, until_job},
    learner::{Gate, Vectors, first_model},
    plaintext::{Quantiser, add_up},
};

const DIMENSION: usize = 5_000;

fn average() -> Vec<f32> {
    let quantiser = Quantiser::derive(3, None, 12, DIMENSION);
    let quantised: Vec<Vec<i64>> = (0..3)
        .map(|member| quantiser.quantise(&Vectors::of(member, DIMENSION).update(1)))
        .collect();
    quantiser.average_onto(&first_model(DIMENSION), &add_up(&quantised), 3)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stops_while_training_takes_the_same_attempt_up_again() {
    let mut federation = Federation::found(3, LABORATORY).await;
    let server = federation.serve();
    let gate = Gate::default();
    let mut stopped = federation.join(Vectors::of(1, DIMENSION).behind(&gate));
    let mut others: Vec<_> = [0, 2]
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .into();
    let (_, job) = federation.submit(&Wish::of(3, DIMENSION)).await;
    until(|| gate.is_reached()).await;
    stopped.drop_out().await;
    gate.open();
    let mut again = federation.join(Vectors::of(1, DIMENSION));
    let outcome = again.end().await.unwrap();
    assert!(
        outcome.completed,
        "{}: {:?}",
        outcome.reason,
        again.voided()
    );
    for other in &mut others {
        assert!(other.end().await.unwrap().completed);
    }
    let expected = average();
    for member in 0..3 {
        assert!(federation.model(member, &job).expect("a model").parameters == expected);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_stops_after_contributing_comes_back_and_opens_the_sum_with_the_others() {
    let mut federation = Federation::found(3, LABORATORY).await;
    let server = federation.serve();
    let gate = Gate::default();
    let mut stopped = federation.join(Vectors::of(2, DIMENSION));
    let mut others: Vec<_> = [0, 1]
        .map(|member| federation.join(Vectors::of(member, DIMENSION).behind(&gate)))
        .into();
    let (mut researcher, job) = federation.submit(&Wish::of(3, DIMENSION)).await;
    until_job(&mut researcher, job, |state| {
        state
            .members
            .iter()
            .any(|member| member.name == "hospital-3" && member.progress == "done")
    })
    .await;
    stopped.drop_out().await;
    let mut again = federation.join(Vectors::of(2, DIMENSION));
    gate.open();
    let outcome = again.end().await.unwrap();
    assert!(
        outcome.completed,
        "{}: {:?}",
        outcome.reason,
        again.voided()
    );
    // It sent what it had sealed before: nothing was trained or sealed a second time.
    let report = &again.reports()[0];
    assert_eq!((report.training_loss, report.update_norm), (None, None));
    for other in &mut others {
        assert!(other.end().await.unwrap().completed);
    }
    let expected = average();
    for member in 0..3 {
        assert!(federation.model(member, &job).expect("a model").parameters == expected);
    }
    server.stop().await;
}
