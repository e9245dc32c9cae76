//! Members that stop in mid-round and are started again on the same home.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use ciphertune_client::report::Happening;
use ciphertune_tests::{
    federation::{Federation, INSTITUTION, LABORATORY, RECORD, Wish, until, until_contributed},
    front::{Lies, Put},
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
        assert!(federation.model(member, &job).expect("a model").state == expected);
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
    until_contributed(&mut researcher, job, 2).await;
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
        assert!(federation.model(member, &job).expect("a model").state == expected);
    }
    server.stop().await;
}

/// The server says that it has a contribution, and in the member's next life that it never had it: a second sealing
/// under one context, and the difference of the two would be in the server's hands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_contribution_was_lost_sends_the_same_bytes_after_a_restart() {
    sends_the_same_bytes(INSTITUTION, &Wish::of(3, DIMENSION)).await;
}

/// Nor is a second batch drawn for one context: what two of them have in common would be in the server's hands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_batch_was_lost_sends_the_same_bytes_after_a_restart() {
    sends_the_same_bytes(RECORD, &Wish::of_batches(3, DIMENSION)).await;
}

async fn sends_the_same_bytes(policy: &str, wish: &Wish) {
    let mut federation = Federation::found(3, policy).await;
    let victim = federation.fingerprint(0);
    let loses = Arc::new(AtomicBool::new(true));
    let losing = Arc::clone(&loses);
    let lies = Lies::none().forwarding(move |member, put| {
        let contribution = matches!(put, Put::KeyShares | Put::Body);
        !(contribution && *member == victim && losing.load(Ordering::SeqCst))
    });
    let (server, front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    federation.submit(wish).await;
    let of_victim = |put| {
        let mut sent = front.of(put);
        sent.retain(|sent| sent.by == victim);
        sent
    };
    // The others' bodies tell how long the victim's must be.
    let length = |member| front.bodies_of(&federation.fingerprint(member)).pop();
    until(|| {
        let lengths = [0, 1, 2].map(|member| length(member).map_or(0, |body| body.len()));
        lengths[0] > 0 && lengths.iter().all(|length| *length == lengths[0])
    })
    .await;
    let (headers, body) = (of_victim(Put::KeyShares), front.body_of(&victim));
    members[0].drop_out().await;
    loses.store(false, Ordering::SeqCst);
    members[0] = federation.join(Vectors::of(0, DIMENSION));
    for run in &mut members {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
    }
    assert_eq!(headers.len(), 1);
    let sent = of_victim(Put::KeyShares);
    assert!(sent.len() == 2 && sent.iter().all(|one| *one == headers[0]));
    assert_eq!(front.bodies_of(&victim), [body]);
    assert_eq!(front.contradictions(), Vec::<String>::new());
    // Noted again when it was resumed, and never otherwise than before.
    let sealed = federation.log(0, "contribution");
    assert!(sealed.iter().all(|one| *one == sealed[0]), "sealed once");
    let spent = [
        federation.standing(0).await.unwrap().spent,
        federation.standing(1).await.unwrap().spent,
    ];
    assert_eq!(spent[0], spent[1], "charged once");
    server.stop().await;
}

/// Runs a job of one round to its end.
async fn run_a_job(federation: &Federation) {
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    federation.submit(&Wish::of(3, DIMENSION)).await;
    for run in &mut members {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_ledger_in_the_place_of_the_newest_is_noticed_and_nothing_is_sent_on_it() {
    let mut federation = Federation::found(3, INSTITUTION).await;
    let (server, front) = federation.serve_behind(Lies::none()).await;
    let path = federation.member(0).home.ledger();
    let wal = path.with_extension("sqlite-wal");
    // Closing happens behind one's back: it ends with the write-ahead log gone into the file.
    let closed = || until(|| !wal.exists());
    run_a_job(&federation).await;
    closed().await;
    let older = std::fs::read(&path).unwrap();
    run_a_job(&federation).await;
    closed().await;
    let newest = std::fs::read(&path).unwrap();
    let bodies = front.count(Put::Body);

    let gone = None;
    for in_place in [Some(&older), gone] {
        std::fs::remove_file(&path).unwrap();
        if let Some(ledger) = in_place {
            std::fs::write(&path, ledger).unwrap();
        }
        let mut run = federation.join(Vectors::of(0, DIMENSION));
        federation.submit(&Wish::of(3, DIMENSION)).await;
        until(|| !run.refusals().is_empty()).await;
        let said = run.warnings().remove(0);
        assert!(
            said.contains("an older file, or an empty one, was put in its place")
                && said.contains("Put the newest ledger back"),
            "{said}"
        );
        run.drop_out().await;
        if in_place.is_none() {
            assert!(!path.exists(), "no new ledger is begun");
            std::fs::write(&path, b"").unwrap();
        }
    }
    assert_eq!(front.count(Put::Body), bodies, "nothing was sent");
    // With the newest one back, the member goes on.
    std::fs::write(&path, newest).unwrap();
    let run = federation.join(Vectors::of(0, DIMENSION));
    federation.submit(&Wish::of(3, DIMENSION)).await;
    run.waits_for(|happening| matches!(happening, Happening::Considered { refusal: None, .. }))
        .await;
    server.stop().await;
}
