//! A member that missed a round gets the model from a fellow, sealed, and holds it to what was agreed on (protocol §3,
//! step 7).

use ciphertune_client::report::Happening;
use ciphertune_round::{Digest, Envelope};
use ciphertune_tests::{
    federation::{Federation, LABORATORY, Member, Server, Wish, is_over, until, until_job},
    front::{Front, Lies, Put},
    learner::{Gate, Vectors, first_model},
    plaintext::{Quantiser, add_up},
};
use ciphertune_wire::proto::EventKind;

const DIMENSION: usize = 5_000;
const MEMBERS: usize = 4;
/// Who misses the first round.
const LATE: usize = 1;
/// Whom the server calls on for it: the order of those in agreement (0, 2, 3) begins at (1 + 2 + 1) mod 3 for seat 1,
/// round 2, attempt 1.
const FIRST_CALLED: usize = 2;
const NEXT_CALLED: usize = 3;

/// Four members, two rounds, t = 3. The late one is not done with training when round 1 closes, nor when its model is
/// agreed on.
struct Missed {
    federation: Federation,
    server: Server,
    front: Front,
    others: Vec<(usize, Member)>,
    late: Member,
    second: Gate,
    job: Digest,
}

async fn missed(lies: impl FnOnce(&Federation) -> Lies) -> Missed {
    let mut federation = Federation::found(MEMBERS, LABORATORY).await;
    let lies = lies(&federation);
    let (server, front) = federation.serve_behind(lies).await;
    let (first, second) = (Gate::default(), Gate::default());
    let late = federation.join(Vectors::of(LATE, DIMENSION).behind(&first));
    let others: Vec<_> = [0, 2, 3]
        .map(|member| {
            let learner = Vectors::of(member, DIMENSION).behind_in(2, &second);
            (member, federation.join(learner))
        })
        .into();
    let wish = Wish {
        rounds: 2,
        seconds: [5, 60, 3],
        ..Wish::of(MEMBERS, DIMENSION)
    };
    let (_, job) = federation.submit(&wish).await;
    let finished = |happening: &Happening| matches!(happening, Happening::Finished(_));
    for (_, other) in &others {
        other.waits_for(finished).await;
    }
    first.open();
    Missed {
        federation,
        server,
        front,
        others,
        late,
        second,
        job,
    }
}

/// The model after both rounds: the first without the late member, the second by `contributors`.
fn expected(contributors: &[usize]) -> Vec<f32> {
    let quantiser = Quantiser::derive(3, None, 12, DIMENSION);
    let round = |model: &[f32], round: u32, members: &[usize]| {
        let quantised: Vec<Vec<i64>> = members
            .iter()
            .map(|member| quantiser.quantise(&Vectors::of(*member, DIMENSION).update(round)))
            .collect();
        quantiser.average_onto(model, &add_up(&quantised), members.len())
    };
    let after_one = round(&first_model(DIMENSION), 1, &[0, 2, 3]);
    round(&after_one, 2, contributors)
}

impl Missed {
    async fn others_finish_with(&mut self, contributors: &[usize]) {
        let expected = expected(contributors);
        for (member, run) in &mut self.others {
            let outcome = run.end().await.unwrap();
            assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
            let model = self.federation.model(*member, &self.job).expect("a model");
            assert!(model.state == expected, "member {member}");
        }
    }

    fn audit_of(&self, member: usize) -> String {
        std::fs::read_to_string(self.federation.member(member).home.audit()).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_missed_a_round_gets_its_model_and_takes_part_in_the_next() {
    let mut missed = missed(|_| Lies::none()).await;
    missed
        .late
        .waits_for(|happening| {
            matches!(
                happening,
                Happening::Planned {
                    round: 2,
                    cohort: MEMBERS,
                    ..
                }
            )
        })
        .await;
    missed.second.open();
    let outcome = missed.late.end().await.unwrap();
    assert_eq!(outcome.rounds, 2, "{:?}", missed.late.voided());
    assert!(outcome.completed, "{}", outcome.reason);
    missed.others_finish_with(&[0, 1, 2, 3]).await;
    let model = missed.federation.model(LATE, &missed.job).unwrap();
    assert!(model.state == expected(&[0, 1, 2, 3]));

    assert!(
        missed
            .late
            .happenings()
            .contains(&Happening::CatchingUp { from: 0, to: 1 })
    );
    assert_eq!(missed.front.count(Put::ParcelRequest), 1);
    assert!(missed.audit_of(LATE).contains("\"caught-up\""));
    // One member in agreement was called on, and nobody else had to be.
    let senders: Vec<_> = missed
        .front
        .seen()
        .into_iter()
        .filter(|(_, put)| *put == Put::Parcel)
        .map(|(member, _)| member)
        .collect();
    assert_eq!(senders, [missed.federation.fingerprint(FIRST_CALLED)]);
    // Nothing that opens it is left with the asker.
    let home = missed.federation.member(LATE).home.root().to_owned();
    assert!(!files(&home).iter().any(|path| path.contains("parcel-key")));
    missed.server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_one_holder_sends_nothing_the_next_is_called_on() {
    let mut missed = missed(|federation| {
        let silent = federation.fingerprint(FIRST_CALLED);
        Lies::none().forwarding(move |member, put| *member != silent || put != Put::Parcel)
    })
    .await;
    missed
        .late
        .waits_for(|happening| matches!(happening, Happening::Planned { round: 2, .. }))
        .await;
    missed.second.open();
    assert!(missed.late.end().await.unwrap().completed);
    missed.others_finish_with(&[0, 1, 2, 3]).await;
    let senders: Vec<_> = missed
        .front
        .seen()
        .into_iter()
        .filter(|(_, put)| *put == Put::Parcel)
        .map(|(member, _)| member)
        .collect();
    let [first, second] =
        [FIRST_CALLED, NEXT_CALLED].map(|member| missed.federation.fingerprint(member));
    assert!(
        senders.ends_with(&[second]) && senders.starts_with(&[first]),
        "{senders:?}"
    );
    missed.server.stop().await;
}

/// The asker refuses in words, contributes nothing to round 2, and the others go on without it. How often it asked.
async fn is_refused(mut missed: Missed, why: &str) -> usize {
    until(|| missed.late.voided().iter().any(|said| said.contains(why))).await;
    missed.second.open();
    missed.others_finish_with(&[0, 2, 3]).await;
    assert!(missed.federation.model(LATE, &missed.job).is_none());
    let late = missed.federation.fingerprint(LATE);
    let sent = missed
        .front
        .seen()
        .into_iter()
        .filter(|(member, put)| *member == late && *put == Put::KeyShares)
        .count();
    // The one of round 1 came too late; there is none on a model that nobody agreed on.
    assert!(sent <= 1, "{sent}");
    let (mut researcher, job) = (missed.federation.researcher().await, missed.job);
    let state = until_job(&mut researcher, job, is_over).await;
    assert_eq!(state.phase, "completed", "{}", state.reason);
    missed.server.stop().await;
    missed.front.count(Put::ParcelRequest)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parcel_that_the_server_altered_is_refused() {
    let missed = missed(|_| {
        Lies::none().about_parcels(|_, sealed| {
            let last = sealed.len() - 1;
            sealed[last] ^= 1;
        })
    })
    .await;
    is_refused(missed, "the server's parcel is not the one").await;
}

/// More than was asked for is the server's doing: no word against the sender.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_sends_too_much_of_a_parcel_is_not_held_against_the_sender() {
    let missed = missed(|_| Lies::none().about_parcels(|_, sealed| sealed.push(0))).await;
    let why = "the server sent more than the";
    until(|| missed.late.voided().iter().any(|said| said.contains(why))).await;
    assert!(!missed.audit_of(LATE).contains("\"wrong-parcel\""));
    is_refused(missed, why).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_sends_garbage_is_named() {
    let missed = missed(|federation| {
        Lies::none().with_garbled_parcels_of(federation.fingerprint(FIRST_CALLED))
    })
    .await;
    let said = "what hospital-3 sent is not the model";
    until(|| missed.late.voided().iter().any(|why| why.contains(said))).await;
    assert!(missed.audit_of(LATE).contains("\"wrong-parcel\""));
    is_refused(missed, said).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_on_a_model_that_too_few_agreed_on_is_refused_and_nothing_is_asked() {
    let missed = missed(|federation| {
        let late = federation.fingerprint(LATE);
        let kept_back = federation.fingerprint(3);
        Lies::none().about_events(move |member, event| {
            let hide = *member == late
                && event.kind == i32::from(EventKind::Agreement)
                && Envelope::decode(&event.envelope).unwrap().signer() == kept_back;
            (!hide).then_some(event)
        })
    })
    .await;
    let asked = is_refused(missed, "does not show that enough members agreed").await;
    assert_eq!(asked, 0);
}

fn files(folder: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path().display().to_string());
        }
    }
    found
}
