//! A server that lies about who contributed: rosters that are too small, padded or forged, and several rosters of one
//! context, told to different members. Of one context at most one roster is ever opened (protocol §3, steps 4 and 5).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use ciphertune_identity::SigningKey;
use ciphertune_round::{
    Digest, Echo, Envelope, Fingerprint, Header, Object, Release, Roster, Signed,
};
use ciphertune_tests::{
    federation::{Federation, INSTITUTION, LABORATORY, Member, Server, Wish, until},
    front::{Front, Lies, Put, Tape, resigned},
    learner::Vectors,
};
use ciphertune_wire::proto::{Event, EventKind};

use crate::victims::{left_with, nobody_said_more, refused_by_all, refused_roster, sum_of};

/// One block, not full.
const DIMENSION: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roster_that_leaves_a_contributor_out_is_below_the_minimum() {
    let federation = Federation::found(3, LABORATORY).await;
    let words = "the roster names 2 contributors, the plan wants at least 3";
    refused_roster(federation, words, |roster| drop(roster.headers.pop())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roster_that_counts_a_contributor_twice_is_refused() {
    let federation = Federation::found(3, LABORATORY).await;
    let words = "is named twice or out of order";
    refused_roster(federation, words, |roster| {
        roster.headers[2] = roster.headers[1].clone();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roster_that_swaps_two_contributors_is_refused() {
    let federation = Federation::found(3, LABORATORY).await;
    let words = "is named twice or out of order";
    refused_roster(federation, words, |roster| roster.headers.swap(0, 1)).await;
}

/// A contribution in the name of a member that has no seat, and of somebody whom the manifest does not know.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roster_with_a_contributor_from_outside_the_cohort_is_refused() {
    let forged = |key: SigningKey| {
        move |roster: &mut Roster| {
            let header = Header {
                context: roster.context,
                body: Digest::sha256(b"a body"),
                shares: vec![Digest::sha256(b"a share"); 3],
            };
            roster
                .headers
                .push(Signed::sign(header, &key).envelope().clone());
        }
    };
    // Four members, of whom three take part.
    let federation = Federation::found(4, LABORATORY).await;
    let fourth = federation.member(3).key();
    let words = "contributed from outside the cohort";
    refused_roster(federation, words, forged(fourth)).await;
    let federation = Federation::found(3, LABORATORY).await;
    let stranger = SigningKey::generate().unwrap();
    let words = "the signature on this header does not verify";
    refused_roster(federation, words, forged(stranger)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roster_that_a_member_signed_is_not_heard() {
    let federation = Federation::found(3, LABORATORY).await;
    let key = federation.member(0).key();
    let lies = Lies::none().about(EventKind::Roster, key, |_: &mut Roster| {});
    refused_by_all(lies, federation, [0, 0], "in time").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roster_that_is_hidden_opens_nothing() {
    let federation = Federation::found(3, LABORATORY).await;
    let lies =
        Lies::none().about_events(|_, event| (event.kind() != EventKind::Roster).then_some(event));
    refused_by_all(lies, federation, [0, 0], "in time").await;
}

/// Who is told which roster: for each member, the seats (from 0) whose contributions the roster names.
type Told = Vec<Vec<usize>>;

/// A server that tells each member a roster of its own, each with the true sum of the bodies it names, passes on
/// whatever would help it, and never lets the honest server behind it hear of that.
struct Teller {
    key: SigningKey,
    members: Vec<Fingerprint>,
    tape: Tape,
    told: Mutex<Told>,
    /// The roster that each member was told last.
    rosters: Mutex<BTreeMap<Fingerprint, Digest>>,
    /// Whether releases are kept from members: then nobody opens anything, and all wait.
    hides_releases: AtomicBool,
    /// Keys of members that echo whatever the server wants.
    colluders: Mutex<Vec<SigningKey>>,
}

impl Teller {
    fn new(federation: &Federation, tape: Tape, told: &[&[usize]]) -> Arc<Self> {
        Arc::new(Self {
            key: federation.server_key(),
            members: (0..told.len())
                .map(|member| federation.fingerprint(member))
                .collect(),
            tape,
            told: Mutex::new(told.iter().map(|seats| seats.to_vec()).collect()),
            rosters: Mutex::default(),
            hides_releases: AtomicBool::new(false),
            colluders: Mutex::default(),
        })
    }

    fn now_tells(&self, member: usize, seats: &[usize]) {
        self.told.lock().unwrap()[member] = seats.to_vec();
    }

    /// The true sum of the bodies that a member's roster names.
    fn sum_for(&self, member: &Fingerprint) -> Vec<u8> {
        let place = self.members.iter().position(|one| one == member).unwrap();
        let bodies: Vec<Vec<u8>> = self.told.lock().unwrap()[place]
            .iter()
            .map(|seat| self.tape.body_of(&self.members[*seat]))
            .collect();
        sum_of(&bodies)
    }

    fn tell(&self, member: &Fingerprint, event: Event) -> Vec<Event> {
        match event.kind() {
            EventKind::Roster => self.tell_roster(member, event),
            // What speaks for another roster than the one this member was told does not help.
            EventKind::Echo => {
                let echo: Echo = object(&event);
                let told = self.rosters.lock().unwrap().get(member).copied();
                Vec::from_iter((Some(echo.roster) == told).then_some(event))
            }
            EventKind::Release if self.hides_releases.load(Ordering::SeqCst) => Vec::new(),
            _ => vec![event],
        }
    }

    fn tell_roster(&self, member: &Fingerprint, event: Event) -> Vec<Event> {
        let place = self.members.iter().position(|one| one == member).unwrap();
        let seats = self.told.lock().unwrap()[place].clone();
        let event = resigned(event, &self.key, |roster: &mut Roster| {
            roster.headers = seats
                .iter()
                .map(|seat| roster.headers[*seat].clone())
                .collect();
            roster.sum = Digest::sha256(&self.sum_for(member));
        });
        let envelope = Envelope::decode(&event.envelope).unwrap();
        let (digest, roster) = (envelope.digest(Roster::LABEL), object::<Roster>(&event));
        self.rosters.lock().unwrap().insert(*member, digest);
        let echo = Echo {
            context: roster.context,
            roster: digest,
        };
        let echoes: Vec<Event> = self
            .colluders
            .lock()
            .unwrap()
            .iter()
            .map(|key| Event {
                kind: EventKind::Echo.into(),
                envelope: Signed::sign(echo, key).encode(),
                ..event
            })
            .collect();
        [event].into_iter().chain(echoes).collect()
    }
}

fn object<T: Object>(event: &Event) -> T {
    T::parse(Envelope::decode(&event.envelope).unwrap().payload()).unwrap()
}

/// Starts the members of a private federation under a teller, with at least two contributors to a sum and c = 0.
async fn under(
    told: &[&[usize]],
    seconds: [u64; 3],
) -> (Federation, Server, Front, Arc<Teller>, Vec<Member>, Digest) {
    let mut federation = Federation::found(told.len(), INSTITUTION).await;
    let lies = Lies::none().relaying();
    let teller = Teller::new(&federation, lies.tape(), told);
    let (telling, summing) = (Arc::clone(&teller), Arc::clone(&teller));
    let lies = lies
        .about_events(move |member, event| telling.tell(member, event))
        .about_the_sum(move |member, sum| *sum = summing.sum_for(member));
    let (server, front) = federation.serve_behind(lies).await;
    let members = (0..told.len())
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let wish = Wish {
        seconds,
        ..Wish::of(told.len(), DIMENSION)
    };
    let (_, job) = federation.submit(&wish).await;
    (federation, server, front, teller, members, job)
}

/// The rosters that distinct members released for, t of them or more.
fn can_be_opened(tape: &Tape, threshold: usize) -> Vec<Digest> {
    let mut releases: BTreeMap<Digest, BTreeSet<Fingerprint>> = BTreeMap::new();
    for sent in tape.of(Put::Release) {
        let release: Release = sent.object();
        releases.entry(release.roster).or_default().insert(sent.by);
    }
    releases.retain(|_, members| members.len() >= threshold);
    releases.into_keys().collect()
}

/// The one roster that a member echoed.
#[track_caller]
fn echoed_by(federation: &Federation, tape: &Tape, member: usize) -> Digest {
    let mut echoes = tape.of(Put::Echo);
    echoes.retain(|echo| echo.by == federation.fingerprint(member));
    let echoed: BTreeSet<Digest> = echoes
        .iter()
        .map(|echo| echo.object::<Echo>().roster)
        .collect();
    assert_eq!(echoed.len(), 1, "member {member} echoed {echoed:?}");
    echoed.into_iter().next().unwrap()
}

/// Every member stays shut for want of echoes: it echoes its own roster, releases for none, and records why it left.
async fn shut_for_want_of_echoes(told: &[&[usize]]) {
    let (federation, server, front, _, mut members, job) = under(told, [60, 4, 3]).await;
    for (member, run) in members.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(!outcome.completed && outcome.rounds == 0, "{outcome:?}");
        left_with(&federation, member, run, &job, "0 members released in time");
        let echoed = echoed_by(&federation, &front, member).to_string();
        let rosters = federation.log(member, "roster");
        assert!(rosters.len() == 1 && rosters[0]["roster"] == echoed.as_str());
        assert_eq!(federation.log(member, "release").len(), 0);
    }
    nobody_said_more(&front, [told.len(), 0]);
    let rosters: BTreeSet<Digest> = (0..told.len())
        .map(|member| echoed_by(&federation, &front, member))
        .collect();
    assert_eq!(rosters.len(), 3, "three rosters of one context were told");
    let threshold = told.len() / 2 + 1;
    assert_eq!(can_be_opened(&front, threshold), []);
    server.stop().await;
}

/// n = 3, c = 0, t = 2: 2t = n + c + 1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_rosters_told_to_three_members_open_none_of_them() {
    shut_for_want_of_echoes(&[&[0, 1], &[1, 2], &[0, 1, 2]]).await;
}

/// n = 5, c = 0, t = 3: A and B share nobody, and A ∪ B is everybody. Without echoes the five releases, fewer than three
/// for each roster, would add up to a sum of keys: `seal`'s
/// `releases_for_three_rosters_leak_a_sum_of_keys_although_none_has_t`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_disjoint_rosters_and_their_union_open_none_of_them() {
    let (a, b, both): (&[usize], &[usize], &[usize]) = (&[0, 1], &[2, 3, 4], &[0, 1, 2, 3, 4]);
    shut_for_want_of_echoes(&[a, a, b, b, both]).await;
}

/// The first member echoes A and is restarted; in its second life it is told A ∪ B, as the third is. If it echoed that
/// too, A ∪ B would have t = 2 echoes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_echoed_one_roster_echoes_no_other_after_a_restart() {
    let told: [&[usize]; 3] = [&[0, 1], &[1, 2], &[0, 1, 2]];
    let (federation, server, front, teller, mut members, job) = under(&told, [60, 8, 3]).await;
    let victim = federation.fingerprint(0);
    until(|| front.of(Put::Echo).iter().any(|echo| echo.by == victim)).await;
    members[0].drop_out().await;
    teller.now_tells(0, &[0, 1, 2]);
    members[0] = federation.join(Vectors::of(0, DIMENSION));
    let words = [
        "this member echoed another roster in this context",
        "0 members released in time",
        "0 members released in time",
    ];
    for (member, run) in members.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(!outcome.completed && outcome.rounds == 0, "{outcome:?}");
        left_with(&federation, member, run, &job, words[member]);
        echoed_by(&federation, &front, member);
        assert_eq!(federation.log(member, "release").len(), 0);
    }
    assert_ne!(
        echoed_by(&federation, &front, 0),
        echoed_by(&federation, &front, 2)
    );
    nobody_said_more(&front, [3, 0]);
    assert_eq!(can_be_opened(&front, 2), []);
    server.stop().await;
}

/// n = 3, t = 2. The server has two members echo A, the least that may open it, and tells the third A ∪ B.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_rosters_the_one_with_enough_echoes_is_opened_and_the_other_never() {
    let told: [&[usize]; 3] = [&[0, 1], &[0, 1], &[0, 1, 2]];
    let (federation, server, front, _, mut members, job) = under(&told, [60, 10, 3]).await;
    for run in &mut members {
        run.end().await.unwrap();
    }
    let opened = echoed_by(&federation, &front, 0);
    for (member, run) in members[..2].iter().enumerate() {
        let reports = run.reports();
        assert_eq!(reports.len(), 1, "{:?}", run.voided());
        assert_eq!(reports[0].contributors, 2);
        assert_eq!(reports[0].roster, opened.to_string());
        assert_eq!(federation.log(member, "release").len(), 1);
    }
    let models = [0, 1].map(|member| federation.model(member, &job).expect("a model"));
    assert!(models[0].state == models[1].state);
    // The third has one echo of its roster, and whatever was released for the other is sealed under that.
    left_with(
        &federation,
        2,
        &members[2],
        &job,
        "0 members released in time",
    );
    assert_ne!(echoed_by(&federation, &front, 2), opened);
    assert_eq!(federation.log(2, "release").len(), 0);
    assert_eq!(front.contradictions(), Vec::<String>::new());
    assert_eq!((front.count(Put::Echo), front.count(Put::Release)), (3, 2));
    assert_eq!(can_be_opened(&front, 2), [opened]);
    server.stop().await;
}

/// A member released for A. Started again it says the same, bit for bit; told B, with t echoes of B by members that
/// help the server, it says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_released_for_one_roster_releases_for_no_other_after_a_restart() {
    let all: &[usize] = &[0, 1, 2];
    let (federation, server, front, teller, mut members, job) =
        under(&[all, all, all], [60, 12, 3]).await;
    teller.hides_releases.store(true, Ordering::SeqCst);
    let victim = federation.fingerprint(0);
    let released = || {
        let mut releases = front.of(Put::Release);
        releases.retain(|release| release.by == victim);
        releases
    };
    until(|| released().len() == 1).await;
    members[0].drop_out().await;
    members[0] = federation.join(Vectors::of(0, DIMENSION));
    until(|| released().len() == 2).await;
    members[0].drop_out().await;

    teller.now_tells(0, &[0, 1]);
    *teller.colluders.lock().unwrap() =
        vec![federation.member(1).key(), federation.member(2).key()];
    members[0] = federation.join(Vectors::of(0, DIMENSION));
    let outcome = members[0].end().await.unwrap();
    assert!(!outcome.completed && outcome.rounds == 0, "{outcome:?}");
    let words = "this member echoed another roster in this context";
    left_with(&federation, 0, &members[0], &job, words);
    let [first, second] = released()
        .try_into()
        .map_err(|all: Vec<_>| all.len())
        .unwrap();
    assert!(first.bytes == second.bytes && first.shares == second.shares);
    // Noted again when it was resumed, and never otherwise than before.
    for kind in ["contribution", "release"] {
        let noted = federation.log(0, kind);
        assert!(noted.iter().all(|one| *one == noted[0]), "sealed once");
    }
    assert_eq!(front.contradictions(), Vec::<String>::new());
    let opened = echoed_by(&federation, &front, 0);
    assert_eq!(can_be_opened(&front, 2), [opened]);
    for run in &mut members[1..] {
        run.end().await.unwrap();
    }
    server.stop().await;
}
