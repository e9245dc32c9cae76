//! Attacks on a committee: a server that names other holders of shares than the hash draws, or a smaller committee than a
//! policy allows; members outside it whose word is passed off as a holder's. Seven members, three drawn, two of whom open.

use ciphertune_round::{
    Committee, Digest, Echo, Envelope, Fingerprint, Header, Job, Object as _, Plan, Release,
    Roster, ShareIndex, Signed, draw,
};
use ciphertune_tests::{
    federation::{Federation, INSTITUTION, LABORATORY, Wish, changed},
    front::{Lies, Put},
    learner::Vectors,
};
use ciphertune_wire::proto::{Event, EventKind};

use crate::victims::{DIMENSION, left_with, refused_before_anything_is_sent_by};

const MEMBERS: usize = 7;

/// A policy with committees of at least so many.
fn allowing(policy: &str, least: usize) -> String {
    let with = format!("colluders = 0\ncommittee = {least}");
    changed(policy, "colluders = 0", &with)
}

fn wish(dimension: usize) -> Wish {
    Wish {
        committee: Some(3),
        ..Wish::of(MEMBERS, dimension)
    }
}

fn fingerprints(federation: &Federation) -> Vec<Fingerprint> {
    (0..MEMBERS).map(|at| federation.fingerprint(at)).collect()
}

/// A job without noise whose phases of opening and agreeing end soon.
fn soon(contribute: u64, rest: u64) -> Job {
    let wish = Wish {
        seconds: [contribute, rest, rest],
        ..wish(DIMENSION)
    };
    wish.job(&allowing(LABORATORY, 3)).unwrap()
}

/// Who is drawn for round 1 of a job, and who is not.
fn drawn(federation: &Federation, job: &Job) -> (Vec<usize>, Vec<usize>) {
    let members = fingerprints(federation);
    // A digest is of what is said, whoever signs it.
    let digest = Signed::sign(job.clone(), &federation.member(0).key()).digest();
    let drawn = draw(3, &digest, &job.initial_model, &members);
    (0..MEMBERS).partition(|at| drawn.contains(&members[*at]))
}

/// Everybody must refuse plans so changed with `words`, before anything is charged or sent.
async fn refused_plan(
    policy: &str,
    words: &str,
    lie: impl Fn(&mut Plan, &[Fingerprint]) + Send + Sync + 'static,
) {
    let federation = Federation::found(MEMBERS, policy).await;
    let members = fingerprints(&federation);
    let lies = Lies::none().about(EventKind::Plan, federation.server_key(), move |plan| {
        lie(plan, &members);
    });
    let job = wish(100).job(&allowing(INSTITUTION, 3)).unwrap();
    refused_before_anything_is_sent_by(MEMBERS, job, lies, federation, words).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_with_another_committee_than_the_drawn_one_is_refused_and_nothing_is_sent() {
    let policy = allowing(INSTITUTION, 3);
    let words = "the plan's committee is not the one that job and model draw";
    // One of the server's choice in a holder's place.
    refused_plan(&policy, words, |plan, _| {
        let mut seats = (1..=7).filter_map(|seat| ShareIndex::new(seat).ok());
        let outside = seats.find(|seat| plan.place_of(*seat).is_none());
        let holders = &mut plan.committee.as_mut().unwrap().holders;
        holders[0] = outside.unwrap();
        holders.sort_unstable();
    })
    .await;
    // A drawn member with a seat left out.
    refused_plan(&policy, words, |plan, _| {
        plan.committee.as_mut().unwrap().holders.remove(1);
    })
    .await;
    // Drawn rightly, from another manifest's digest: the plan names that one, too.
    refused_plan(&policy, "another manifest", |plan, members| {
        plan.manifest = Digest::sha256(b"another");
        let drawn = Committee::draw(3, &plan.job, &plan.model, members, &plan.seats);
        plan.committee = Some(drawn);
    })
    .await;
}

/// Seats of drawn members taken away until too few are left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_that_seats_too_few_of_the_drawn_members_is_refused() {
    let federation = Federation::found(MEMBERS, &allowing(LABORATORY, 3)).await;
    let job = soon(12, 4);
    let (holders, outside) = drawn(&federation, &job);
    let gone: Vec<_> = holders[..2]
        .iter()
        .map(|at| federation.fingerprint(*at))
        .collect();
    let (key, members) = (federation.server_key(), fingerprints(&federation));
    let lies = Lies::none().about(EventKind::Plan, key, move |plan: &mut Plan| {
        plan.seats.retain(|seat| !gone.contains(&seat.member));
        let drawn = Committee::draw(3, &plan.job, &plan.model, &members, &plan.seats);
        plan.committee = Some(drawn);
    });
    let words = "1 of the 3 drawn members have seats, and it takes 2 to open a sum";
    refused_by(federation, job, lies, &[holders[2], outside[0]], words).await;
}

/// Another size of committee, rightly drawn: smaller or larger than the job's, smaller than the policy's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_with_another_size_of_committee_than_job_and_policy_give_is_refused_and_nothing_is_sent()
 {
    let of = |size: usize| {
        move |plan: &mut Plan, members: &[Fingerprint]| {
            plan.threshold = size / 2 + 1;
            let drawn = Committee::draw(size, &plan.job, &plan.model, members, &plan.seats);
            plan.committee = Some(drawn);
        }
    };
    let words = "a committee of 2 is not what the job asks for";
    refused_plan(&allowing(INSTITUTION, 3), words, of(2)).await;
    // A larger one too, though it is drawn as it should be: who may choose k stops where its helpers are many.
    let words = "the plan draws a committee of 5, the job and the policies a committee of 3";
    refused_plan(&allowing(INSTITUTION, 3), words, of(5)).await;
    let words = "aggregation.committee: asked for 3, allowed is at least 4";
    refused_plan(&allowing(INSTITUTION, 4), words, of(3)).await;
    let words = "aggregation.committee: asked for a committee of 3, allowed is none: every member of a round holds a share";
    refused_plan(INSTITUTION, words, of(3)).await;
    // As many as drawn, of whom fewer than the rule wants open.
    let words = "threshold 1 admits two rosters";
    refused_plan(&allowing(INSTITUTION, 3), words, |plan, _| {
        plan.threshold = 1
    })
    .await;
}

/// Runs seven members of the laboratory under lies. These members must leave the one attempt with `words`, and nobody opens
/// anything.
async fn refused_by(
    mut federation: Federation,
    job: Job,
    lies: Lies,
    victims: &[usize],
    words: &str,
) {
    let (server, front) = federation.serve_behind(lies).await;
    let mut runs: Vec<_> = (0..MEMBERS)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let (_, job) = federation.submit_job(job).await;
    for (member, run) in runs.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(!outcome.completed && outcome.rounds == 0, "{outcome:?}");
        assert_eq!(federation.log(member, "opened").len(), 0);
        assert!(federation.model(member, &job).is_none(), "member {member}");
        if victims.contains(&member) {
            let said = run.voided();
            assert!(
                said.iter().any(|said| said.contains(words)),
                "{said:?}, not {words:?}"
            );
        }
    }
    assert_eq!(front.count(Put::Agreement), 0);
    assert_eq!(front.contradictions(), Vec::<String>::new());
    server.stop().await;
}

/// Two of the committee are silenced, and all four members outside it help the server: they echo the roster, with their own
/// keys. One echo of the committee is left, and nobody releases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn echoes_of_members_outside_the_committee_are_not_counted() {
    let mut federation = Federation::found(MEMBERS, &allowing(LABORATORY, 3)).await;
    let job = soon(60, 5);
    let (holders, outside) = drawn(&federation, &job);
    let silenced: Vec<_> = holders[..2]
        .iter()
        .map(|at| federation.fingerprint(*at))
        .collect();
    let keys: Vec<_> = outside
        .iter()
        .map(|at| federation.member(*at).key())
        .collect();
    let lies = Lies::none()
        .forwarding(move |member, put| put != Put::Echo || !silenced.contains(member))
        .about_events(move |_, event| {
            if event.kind() != EventKind::Roster {
                return vec![event];
            }
            let envelope = Envelope::decode(&event.envelope).unwrap();
            let echo = Echo {
                context: Roster::parse(envelope.payload()).unwrap().context,
                roster: envelope.digest(Roster::LABEL),
            };
            let echoes = keys.iter().map(|key| Event {
                kind: EventKind::Echo.into(),
                envelope: Signed::sign(echo, key).encode(),
                ..event
            });
            let echoes: Vec<_> = echoes.collect();
            [vec![event], echoes].concat()
        });
    let (server, front) = federation.serve_behind(lies).await;
    let mut runs: Vec<_> = (0..MEMBERS)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let (_, job) = federation.submit_job(job).await;
    for (member, run) in runs.iter_mut().enumerate() {
        assert!(!run.end().await.unwrap().completed);
        left_with(&federation, member, run, &job, "0 members released in time");
    }
    assert_eq!(front.count(Put::Echo), 3);
    assert_eq!(front.count(Put::Release), 0);
    server.stop().await;
}

/// Two of the committee's releases are lost, and two members outside it release shares for everybody in their place, with
/// the digests that they sign: they are no holders, and nothing that they send is a share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn releases_of_members_outside_the_committee_are_not_counted() {
    let federation = Federation::found(MEMBERS, &allowing(LABORATORY, 3)).await;
    let job = soon(12, 4);
    let (holders, outside) = drawn(&federation, &job);
    let lost: Vec<_> = holders[..2]
        .iter()
        .map(|at| federation.fingerprint(*at))
        .collect();
    let liars: Vec<_> = outside[..2]
        .iter()
        .map(|at| federation.fingerprint(*at))
        .collect();
    let victims = [holders[2], outside[2], outside[3]];
    let lies = Lies::none()
        .about_shares_sent(move |member, key, request| {
            let envelope = Envelope::decode(&request.signed).unwrap();
            if let Ok(release) = Release::parse(envelope.payload())
                && release.check.is_some()
                && liars.contains(member)
                && release.shares.is_empty()
            {
                request.shares = (0..MEMBERS).map(|seat| vec![seat as u8; 33_904]).collect();
                let shares = request.shares.iter().map(|share| Digest::sha256(share));
                let release = Release {
                    shares: shares.collect(),
                    ..release
                };
                request.signed = Signed::sign(release, key).encode();
            } else if lost.contains(member) && Release::parse(envelope.payload()).is_ok() {
                request.shares.clear();
                request.signed = Vec::new(); // nobody's release
            }
        })
        .relaying();
    refused_by(
        federation,
        job,
        lies,
        &victims,
        "0 members released in time",
    )
    .await;
}

/// A contributor that seals a share to one more member than hold them, and a server that puts it into the roster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_contribution_with_shares_for_a_member_outside_the_committee_is_refused() {
    let federation = Federation::found(MEMBERS, &allowing(LABORATORY, 3)).await;
    let job = soon(12, 4);
    let (holders, outside) = drawn(&federation, &job);
    let (key, liar) = (federation.server_key(), federation.member(outside[0]).key());
    let place = outside[0];
    let lies = Lies::none().about(EventKind::Roster, key, move |roster: &mut Roster| {
        let mut header = Header::parse(roster.headers[place].payload()).unwrap();
        header.shares.push(Digest::sha256(b"a share for another"));
        roster.headers[place] = Signed::sign(header, &liar).envelope().clone();
    });
    let words = format!(
        "the header of seat {} has 4 shares for 3 seats that hold them",
        place + 1
    );
    let victims: Vec<usize> = (0..MEMBERS).filter(|at| *at != place).collect();
    assert!(victims.contains(&holders[0]));
    refused_by(federation, job, lies, &victims, &words).await;
}
