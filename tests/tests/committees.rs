//! Rounds in which a drawn committee holds the shares (protocol §3, with k of the members in the place of n): seven members,
//! three of them drawn, two of whom open. Whom the hash draws is worked out here from the job and the model.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use ciphertune_client::report::Happening;
use ciphertune_round::{
    Context, Digest, Envelope, Fingerprint, Job, Object as _, Plan, Signed, draw,
};
use ciphertune_tests::{
    federation::{
        Federation, LABORATORY, Member, Server, Wish, changed, is_over, until, until_job,
    },
    front::{Front, Lies, Put, Sent},
    learner::{Gate, Vectors, first_model},
    plaintext::{Quantiser, add_up},
};
use ciphertune_wire::proto::EventKind;

const DIMENSION: usize = 5_000;
const MEMBERS: usize = 7;
/// k. Without colluders t = 2.
const COMMITTEE: usize = 3;

/// The laboratory's policy, with committees.
fn allowing() -> String {
    changed(LABORATORY, "colluders = 0", "colluders = 0\ncommittee = 3")
}

fn wish(members: usize) -> Wish {
    Wish {
        committee: Some(COMMITTEE),
        ..Wish::of(members, DIMENSION)
    }
}

/// The members that are drawn for a round of a job that starts from `model`.
fn drawn(federation: &Federation, job: &Digest, model: &Digest) -> Vec<usize> {
    let members: Vec<Fingerprint> = (0..MEMBERS).map(|at| federation.fingerprint(at)).collect();
    draw(COMMITTEE, job, model, &members)
        .iter()
        .filter_map(|one| members.iter().position(|member| member == one))
        .collect()
}

/// The job of a wish, and the members drawn for its round 1.
fn first_drawn(federation: &Federation, wish: &Wish) -> (Job, Vec<usize>) {
    let job = wish.job(&allowing()).unwrap();
    // A digest is of what is said, whoever signs it.
    let digest = Signed::sign(job.clone(), &federation.member(0).key()).digest();
    let drawn = drawn(federation, &digest, &job.initial_model);
    (job, drawn)
}

/// The plaintext average of what these members give in each round, from the first model on.
fn average(rounds: &[&[usize]]) -> Vec<f32> {
    let quantiser = Quantiser::derive(3, None, 12, DIMENSION);
    let mut model = first_model(DIMENSION);
    for (round, members) in (1..).zip(rounds) {
        let quantised: Vec<Vec<i64>> = members
            .iter()
            .map(|member| quantiser.quantise(&Vectors::of(*member, DIMENSION).update(round)))
            .collect();
        model = quantiser.average_onto(&model, &add_up(&quantised), members.len());
    }
    model
}

/// Every plan that a member is told of.
fn recording() -> (Lies, Arc<Mutex<Vec<Plan>>>) {
    let plans: Arc<Mutex<Vec<Plan>>> = Arc::default();
    let seen = Arc::clone(&plans);
    let lies = Lies::none().about_events(move |_, event| {
        if event.kind() == EventKind::Plan {
            let envelope = Envelope::decode(&event.envelope).unwrap();
            let plan = Plan::parse(envelope.payload()).unwrap();
            let mut seen = seen.lock().unwrap();
            if seen.iter().all(|known| known.nonce != plan.nonce) {
                seen.push(plan);
            }
        }
        [event]
    });
    (lies, plans)
}

async fn finish_with(
    federation: &Federation,
    job: &Digest,
    members: &mut [(usize, Member)],
    expected: &[f32],
) {
    for (member, run) in members {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
        let model = federation.model(*member, job).expect("a model");
        let same = model.state.iter().zip(expected);
        assert!(
            same.clone().count() == DIMENSION
                && same.clone().all(|(a, b)| a.to_bits() == b.to_bits()),
            "member {member}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_committee_opens_the_plaintext_average_and_each_round_draws_anew() {
    let mut federation = Federation::found(MEMBERS, &allowing()).await;
    let (lies, plans) = recording();
    let (server, front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..MEMBERS)
        .map(|member| (member, federation.join(Vectors::of(member, DIMENSION))))
        .collect();
    let wish = Wish {
        rounds: 2,
        ..wish(MEMBERS)
    };
    let (_, job) = federation.submit(&wish).await;
    let everybody: Vec<usize> = (0..MEMBERS).collect();
    let expected = average(&[&everybody, &everybody]);
    finish_with(&federation, &job, &mut members, &expected).await;

    let plans = plans.lock().unwrap().clone();
    assert_eq!(plans.len(), 2);
    assert_ne!(plans[0].model, plans[1].model);
    for plan in plans.iter() {
        let expected: BTreeSet<usize> = drawn(&federation, &job, &plan.model).into_iter().collect();
        let holders: BTreeSet<usize> = plan.holders().map(|seat| seat.position()).collect();
        assert_eq!(holders, expected);
        assert_eq!((plan.threshold, holders.len()), (2, COMMITTEE));
        // Echoes come from the committee alone; everybody contributed, so everybody releases a check value.
        let context = Context::of_plan(&plan.serialise());
        let sent = front.sent();
        let by = |put: Put| -> BTreeSet<usize> {
            let of_this = |sent: &&Sent| sent.put == put && sent.context == context;
            let members = (0..MEMBERS).map(|member| federation.fingerprint(member));
            let members: Vec<_> = members.collect();
            let place = |by| members.iter().position(|member| *member == by).unwrap();
            sent.iter()
                .filter(of_this)
                .map(|sent| place(sent.by))
                .collect()
        };
        assert_eq!(by(Put::Echo), expected);
        assert_eq!(by(Put::Release).len(), MEMBERS);
        for sent in sent.iter().filter(|sent| sent.context == context) {
            let holds = plan.is_holder(&sent.by);
            match sent.put {
                Put::KeyShares => assert_eq!(sent.shares.len(), COMMITTEE),
                Put::Release => assert_eq!(sent.shares.len(), if holds { MEMBERS } else { 0 }),
                _ => {}
            }
        }
    }
    for member in 0..MEMBERS {
        let noted = federation.log(member, "plan");
        assert!(
            noted.iter().all(|fields| fields["holders"] == COMMITTEE),
            "{noted:?}"
        );
    }
    server.stop().await;
}

/// n − k of the committee may be missing: here one, after it contributed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_one_of_the_committee_away_the_others_open_and_its_update_counts() {
    let mut federation = Federation::found(MEMBERS, &allowing()).await;
    let server = federation.serve();
    let (wished, drawn) = first_drawn(&federation, &wish(MEMBERS));
    let away = drawn[0];
    let gate = Gate::default();
    let mut dropping = federation.join(Vectors::of(away, DIMENSION));
    let mut others: Vec<_> = (0..MEMBERS)
        .filter(|member| *member != away)
        .map(|member| {
            let learner = Vectors::of(member, DIMENSION).behind(&gate);
            (member, federation.join(learner))
        })
        .collect();
    let (mut researcher, job) = federation.submit_job(wished).await;
    let name = format!("hospital-{}", away + 1);
    until_job(&mut researcher, job, |state| {
        let member = state.members.iter().find(|member| member.name == name);
        member.is_some_and(|member| member.progress == "done")
    })
    .await;
    dropping.drop_out().await;
    gate.open();
    let everybody: Vec<usize> = (0..MEMBERS).collect();
    finish_with(&federation, &job, &mut others, &average(&[&everybody])).await;
    server.stop().await;
}

/// A drawn member without a seat gets no shares and counts as missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drawn_member_without_a_seat_counts_as_missing() {
    let mut federation = Federation::found(MEMBERS, &allowing()).await;
    let (lies, plans) = recording();
    let (server, front) = federation.serve_behind(lies).await;
    let (wished, drawn) = first_drawn(&federation, &wish(MEMBERS - 1));
    let away = drawn[1];
    let present: Vec<usize> = (0..MEMBERS).filter(|member| *member != away).collect();
    let mut members: Vec<_> = present
        .iter()
        .map(|member| (*member, federation.join(Vectors::of(*member, DIMENSION))))
        .collect();
    let (_, job) = federation.submit_job(wished).await;
    finish_with(&federation, &job, &mut members, &average(&[&present])).await;
    assert_eq!(plans.lock().unwrap()[0].holders().count(), COMMITTEE - 1);
    assert_eq!(front.count(Put::Echo), COMMITTEE - 1);
    server.stop().await;
}

/// Too few of the drawn members are there: no round is started, and nothing leaves anybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_too_few_of_the_drawn_members_no_round_is_started() {
    let mut federation = Federation::found(MEMBERS, &allowing()).await;
    let (server, front) = federation.serve_behind(Lies::none()).await;
    let (wished, drawn) = first_drawn(&federation, &wish(MEMBERS - 2));
    let away = &drawn[..2];
    let mut members: Vec<_> = (0..MEMBERS)
        .filter(|member| !away.contains(member))
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let (mut researcher, job) = federation.submit_job(wished).await;
    let state = until_job(&mut researcher, job, is_over).await;
    let words = "1 of the 3 drawn members have seats, and it takes 2 to open a sum";
    assert!(state.reason.contains(words), "{}", state.reason);
    for run in &mut members {
        assert!(!run.end().await.unwrap().completed);
    }
    assert_eq!(front.count(Put::KeyShares), 0);
    server.stop().await;
}

/// The server swallows what two of the committee say: one is left, and it takes two.
async fn swallowing_of_the_committee(put: Put) -> Front {
    let mut federation = Federation::found(MEMBERS, &allowing()).await;
    let wish = Wish {
        seconds: [60, 5, 5],
        ..wish(MEMBERS)
    };
    let (wished, drawn) = first_drawn(&federation, &wish);
    let silenced: Vec<_> = drawn[..2]
        .iter()
        .map(|member| federation.fingerprint(*member))
        .collect();
    let lies =
        Lies::none().forwarding(move |member, sent| sent != put || !silenced.contains(member));
    let (server, front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..MEMBERS)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let (_, job) = federation.submit_job(wished).await;
    for (member, run) in members.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(!outcome.completed && outcome.rounds == 0, "{outcome:?}");
        assert!(federation.model(member, &job).is_none());
        assert_eq!(federation.log(member, "opened").len(), 0);
    }
    assert_eq!(front.count(Put::Body), MEMBERS);
    assert_eq!(front.count(Put::Agreement), 0);
    server.stop().await;
    front
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_too_few_echoes_of_the_committee_nobody_releases() {
    let front = swallowing_of_the_committee(Put::Echo).await;
    assert_eq!(front.count(Put::Echo), COMMITTEE);
    assert_eq!(front.count(Put::Release), 0);
}

/// Four members outside the committee release their check values: none of them is a share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_too_few_releases_of_the_committee_the_sum_stays_closed() {
    let front = swallowing_of_the_committee(Put::Release).await;
    assert_eq!(front.count(Put::Release), MEMBERS);
}

/// A site whose policy has no committees: everybody holds a share, whatever the job asks for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_one_site_allows_no_committee_everybody_holds_a_share() {
    let mut sites = [None; MEMBERS];
    sites[4] = Some(LABORATORY);
    let mut federation = Federation::found_with(&allowing(), &sites).await;
    let (lies, plans) = recording();
    let (server, front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..MEMBERS)
        .map(|member| (member, federation.join(Vectors::of(member, DIMENSION))))
        .collect();
    let (_, job) = federation.submit(&wish(MEMBERS)).await;
    let everybody: Vec<usize> = (0..MEMBERS).collect();
    finish_with(&federation, &job, &mut members, &average(&[&everybody])).await;
    let plan = plans.lock().unwrap()[0].clone();
    assert_eq!(
        (plan.committee.as_ref(), plan.holders().count()),
        (None, MEMBERS)
    );
    assert_eq!(front.count(Put::Echo), MEMBERS);
    server.stop().await;
}

#[test]
fn a_wish_for_a_committee_that_the_policy_does_not_allow_is_refused_in_words() {
    for (policy, size, words) in [
        (
            LABORATORY.to_owned(),
            3,
            "the policy allows none: every member",
        ),
        (allowing(), 2, "the policy allows none below 3"),
    ] {
        let wish = Wish {
            committee: Some(size),
            ..Wish::of(MEMBERS, DIMENSION)
        };
        let said = wish.job(&policy).unwrap_err().to_string();
        assert!(said.contains(words), "{said}");
    }
}

/// Seven members, three rounds. One drops out of the first, and comes back during the second, in which it has no seat: it
/// misses two models, and each committee is drawn from the one before.
struct Late {
    federation: Federation,
    server: Server,
    _front: Front,
    others: Vec<(usize, Member)>,
    late: Member,
    job: Digest,
}

/// Who is late.
const LATE: usize = 5;

/// `lies` are told about everything that passes, and whether the late member is back.
async fn two_rounds_late(lies: impl FnOnce(&Federation, Arc<AtomicBool>) -> Lies) -> Late {
    let mut federation = Federation::found(MEMBERS, &allowing()).await;
    let is_back = Arc::new(AtomicBool::new(false));
    let lies = lies(&federation, Arc::clone(&is_back));
    let (server, front) = federation.serve_behind(lies).await;
    let (never, second) = (Gate::default(), Gate::default());
    let mut dropping = federation.join(Vectors::of(LATE, DIMENSION).behind(&never));
    let others: Vec<_> = (0..MEMBERS)
        .filter(|member| *member != LATE)
        .map(|member| {
            let learner = Vectors::of(member, DIMENSION).behind_in(2, &second);
            (member, federation.join(learner))
        })
        .collect();
    let wish = Wish {
        rounds: 3,
        seconds: [12, 60, 20],
        ..wish(MEMBERS)
    };
    let (_, job) = federation.submit(&wish).await;
    until(|| never.is_reached()).await;
    dropping.drop_out().await;
    until(|| second.is_reached()).await;
    is_back.store(true, Ordering::SeqCst);
    let late = federation.join(Vectors::of(LATE, DIMENSION));
    late.waits_for(|happening| matches!(happening, Happening::Connected { .. }))
        .await;
    second.open();
    Late {
        federation,
        server,
        _front: front,
        others,
        late,
        job,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_missed_two_rounds_follows_what_their_committees_agreed_on() {
    let mut run = two_rounds_late(|_, _| Lies::none()).await;
    let outcome = run.late.end().await.unwrap();
    assert!(outcome.completed, "{:?}", run.late.voided());
    let without: Vec<usize> = (0..MEMBERS).filter(|member| *member != LATE).collect();
    let everybody: Vec<usize> = (0..MEMBERS).collect();
    let expected = average(&[&without, &without, &everybody]);
    finish_with(&run.federation, &run.job, &mut run.others, &expected).await;
    let model = run.federation.model(LATE, &run.job).unwrap();
    assert!(model.state == expected);
    let happened = run.late.happenings();
    assert!(happened.contains(&Happening::CatchingUp { from: 0, to: 2 }));
    run.server.stop().await;
}

/// A server that need not show every missed round could make up the model that a committee is drawn from, until it draws
/// its helpers; they would agree on any model, and open whatever is shared with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missed_round_that_the_server_leaves_out_is_not_skipped() {
    let mut run = two_rounds_late(|federation, is_back| {
        let late = federation.fingerprint(LATE);
        Lies::none().about_events(move |member, event| {
            let hidden = is_back.load(Ordering::SeqCst)
                && *member == late
                && event.kind() == EventKind::Plan
                && {
                    let envelope = Envelope::decode(&event.envelope).unwrap();
                    Plan::parse(envelope.payload()).unwrap().round == 1
                };
            (!hidden).then_some(event)
        })
    })
    .await;
    let words = "does not show that enough members agreed";
    until(|| run.late.voided().iter().any(|said| said.contains(words))).await;
    let without: Vec<usize> = (0..MEMBERS).filter(|member| *member != LATE).collect();
    let expected = average(&[&without, &without, &without]);
    finish_with(&run.federation, &run.job, &mut run.others, &expected).await;
    assert!(run.federation.model(LATE, &run.job).is_none());
    run.server.stop().await;
}
