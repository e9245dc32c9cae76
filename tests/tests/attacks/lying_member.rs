//! A member that lies, with its own key and a place in the cohort: garbage for shares, a share for the wrong member, a
//! key that is not the one it shared, a check value that is not its body's, values beyond the bound. Nobody opens
//! anything wrong; where enough others are honest the round goes on, and where somebody can be blamed the log names it.
//!
//! The liar is the last member. Its own software is honest: the front changes what it sends, as it could have.

use std::sync::{Arc, Mutex};

use ciphertune_identity::SigningKey;
use ciphertune_round::{
    Context, Digest, Envelope, Fingerprint, Header, Object, OneTimeKeyOffer, Plan, Release, Roster,
    ShareIndex, Signed,
};
use ciphertune_seal::{
    OneTimeKey, SealedContribution, SealingKey, check_value, contribute, every_seat, sum_shares,
};
use ciphertune_sum::Parameters;
use ciphertune_tests::{
    federation::{Federation, INSTITUTION, LABORATORY, Member, Server, Wish, changed},
    front::{Front, Lies, Put, resigned},
    learner::Vectors,
};
use ciphertune_wire::proto::{Event, EventKind, PutSharesRequest, ShareKind};

use crate::victims::{DIMENSION, add_to_word, average, left_with, nobody_said_more, sum_of};

/// Why the liar's own software takes no part in opening a contribution that was not its own.
const OWN_HEADER: &str = "the roster changes this member's own header";

/// What the liar knows: the plan, and what it made of it.
#[derive(Default)]
struct Liar {
    plan: Mutex<Option<(Context, Plan)>>,
    /// The body to send in the honest one's place.
    body: Mutex<Option<Vec<u8>>>,
}

impl Liar {
    fn hears(&self, event: &Event) {
        if event.kind() == EventKind::Plan {
            let envelope = Envelope::decode(&event.envelope).unwrap();
            let plan = Plan::parse(envelope.payload()).unwrap();
            let context = Context::of_plan(envelope.payload());
            *self.plan.lock().unwrap() = Some((context, plan));
        }
    }

    fn plan(&self) -> (Context, Plan) {
        self.plan.lock().unwrap().clone().expect("a plan")
    }

    fn parameters(&self) -> Parameters {
        self.plan().1.parameters().unwrap()
    }

    /// The last seat.
    fn seat(&self) -> ShareIndex {
        ShareIndex::at(self.plan().1.seats.len() - 1).unwrap()
    }

    fn seats(&self) -> Vec<SealingKey> {
        let (_, plan) = self.plan();
        plan.seats
            .iter()
            .map(|seat| {
                let offer = OneTimeKeyOffer::parse(seat.one_time_key.payload()).unwrap();
                SealingKey::parse(&offer.public_key).unwrap()
            })
            .collect()
    }

    /// A contribution of zeros under a fresh key, sealed to `seats`, and its body.
    fn contribution(&self, seats: &[SealingKey]) -> (SealedContribution, Vec<u8>) {
        let ((context, plan), mut body) = (self.plan(), Vec::new());
        let sealed = contribute(
            &self.parameters(),
            &context,
            self.seat(),
            plan.threshold,
            &every_seat(seats).unwrap(),
            &vec![0; plan.length().unwrap()],
            &mut body,
        );
        (sealed.unwrap(), body)
    }

    fn sends(&self, body: Vec<u8>) {
        *self.body.lock().unwrap() = Some(body);
    }

    /// A share at the liar's point that belongs to no sum of keys, sealed to everybody as it should be.
    fn garbage(&self, roster: &Digest) -> Vec<Vec<u8>> {
        let (context, plan) = self.plan();
        let own: Vec<OneTimeKey> = (0..plan.seats.len())
            .map(|seat| OneTimeKey::from_stored(&[seat as u8 + 1; 32]).unwrap())
            .collect();
        let public: Vec<SealingKey> = own
            .iter()
            .map(|key| SealingKey::parse(&key.public()).unwrap())
            .collect();
        let seat = self.seat();
        let (sealed, _) = self.contribution(&public);
        let share = sealed.sealed_shares[seat.position()].clone();
        sum_shares(&own[seat.position()], &context, seat, &[(seat, share)])
            .unwrap()
            .seal_to(&context, roster, seat, &self.seats())
            .unwrap()
    }

    fn check_of(&self, roster: &Digest, body: &[u8]) -> [u64; 2] {
        let length = self.plan().1.length().unwrap();
        check_value(&self.parameters(), length, roster, body)
            .unwrap()
            .0
    }
}

/// Changes what was signed, and signs it anew with the liar's own key; the digests of the shares are made to fit.
fn resign<T: Object>(
    request: &mut PutSharesRequest,
    key: &SigningKey,
    change: impl FnOnce(&mut T, &mut Vec<Vec<u8>>),
    digests: impl FnOnce(&mut T, Vec<Digest>),
) {
    let envelope = Envelope::decode(&request.signed).unwrap();
    let mut value = T::parse(envelope.payload()).unwrap();
    change(&mut value, &mut request.shares);
    let of_shares = request.shares.iter().map(|share| Digest::sha256(share));
    digests(&mut value, of_shares.collect());
    request.signed = Signed::sign(value, key).encode();
}

fn resign_header(
    request: &mut PutSharesRequest,
    key: &SigningKey,
    change: impl FnOnce(&mut Header, &mut Vec<Vec<u8>>),
) {
    resign(request, key, change, |header: &mut Header, shares| {
        header.shares = shares
    });
}

fn resign_release(
    request: &mut PutSharesRequest,
    key: &SigningKey,
    change: impl FnOnce(&mut Release, &mut Vec<Vec<u8>>),
) {
    resign(request, key, change, |release: &mut Release, shares| {
        release.shares = shares
    });
}

/// A federation whose last member lies in what it sends; `lie` is called for each header and release of its.
struct Scene {
    federation: Federation,
    liar: Arc<Liar>,
    lies: Lies,
}

impl Scene {
    async fn of(
        members: usize,
        policy: &str,
        lie: impl Fn(&Liar, &SigningKey, &mut PutSharesRequest) + Send + Sync + 'static,
    ) -> Self {
        let federation = Federation::found(members, policy).await;
        let who = federation.fingerprint(members - 1);
        let liar = Arc::new(Liar::default());
        let (listening, lying, sending) = (Arc::clone(&liar), Arc::clone(&liar), Arc::clone(&liar));
        let lies = Lies::none()
            .about_events(move |_, event| {
                listening.hears(&event);
                [event]
            })
            .about_shares_sent(move |member, key, request| {
                if *member == who {
                    lie(&lying, key, request);
                }
            })
            .about_bodies_sent(move |member: &Fingerprint, body| {
                if *member == who
                    && let Some(own) = &*sending.body.lock().unwrap()
                {
                    body.clone_from(own);
                }
            });
        Self {
            federation,
            liar,
            lies,
        }
    }

    /// Runs the job to its end, whatever that is.
    async fn run(self, seconds: [u64; 3]) -> (Federation, Server, Front, Vec<Member>, Digest) {
        let Self {
            mut federation,
            lies,
            ..
        } = self;
        let (server, front) = federation.serve_behind(lies).await;
        let count = federation.site(0).manifest().members().count();
        let mut members: Vec<_> = (0..count)
            .map(|member| federation.join(Vectors::of(member, DIMENSION)))
            .collect();
        let wish = Wish {
            seconds,
            ..Wish::of(count, DIMENSION)
        };
        let (_, job) = federation.submit(&wish).await;
        for run in &mut members {
            run.end().await.unwrap();
        }
        (federation, server, front, members, job)
    }
}

/// The honest members end with the average of all three, whatever the liar released.
fn the_honest_have_the_average(federation: &Federation, members: &[Member], job: &Digest) {
    for (member, run) in members.iter().enumerate() {
        assert_eq!(run.reports().len(), 1, "{:?}", run.voided());
        let model = federation.model(member, job).expect("a model");
        assert!(model.state == average(), "member {member}");
    }
}

/// t = 2 of 3: one share of the sum of keys may be garbage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_released_share_that_does_not_open_is_noted_and_not_needed() {
    let scene = Scene::of(3, LABORATORY, |_, key, request| {
        if request.kind() == ShareKind::KeySum {
            resign_release(request, key, |_, shares| {
                shares.iter_mut().for_each(|share| share.fill(7));
            });
        }
    })
    .await;
    let (federation, server, front, members, job) = scene.run([60, 60, 60]).await;
    the_honest_have_the_average(&federation, &members, &job);
    for member in 0..3 {
        let unopened = federation.log(member, "unopened-share");
        assert!(unopened.len() == 1 && unopened[0]["seat"] == 3);
    }
    assert_eq!(front.contradictions(), Vec::<String>::new());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_garbage_share_among_surplus_ones_is_found_out_and_named() {
    let scene = Scene::of(3, LABORATORY, |liar, key, request| {
        if request.kind() == ShareKind::KeySum {
            resign_release(request, key, |release, shares| {
                *shares = liar.garbage(&release.roster);
            });
        }
    })
    .await;
    let (federation, server, _, members, job) = scene.run([60, 60, 60]).await;
    the_honest_have_the_average(&federation, &members, &job);
    for member in 0..3 {
        let opened = federation.log(member, "opened");
        assert_eq!(opened[0]["disagreeing_shares"], serde_json::json!([3]));
    }
    server.stop().await;
}

/// n = 3, c = 1: t = 3, and every share is needed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_garbage_share_without_surplus_voids_the_attempt() {
    let policy = changed(LABORATORY, "colluders = 0", "colluders = 1");
    let scene = Scene::of(3, &policy, |liar, key, request| {
        if request.kind() == ShareKind::KeySum {
            resign_release(request, key, |release, shares| {
                *shares = liar.garbage(&release.roster);
            });
        }
    })
    .await;
    let (federation, server, front, members, job) = scene.run([60, 6, 3]).await;
    for (member, run) in members.iter().enumerate() {
        let words = "the shares do not give a sum of keys";
        left_with(&federation, member, run, &job, words);
    }
    nobody_said_more(&front, [3, 3]);
    server.stop().await;
}

/// The liar seals to the second member what is the first one's, and the other way round.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_sealed_to_another_member_opens_nothing_and_its_sender_is_named() {
    let scene = Scene::of(3, LABORATORY, |_, key, request| {
        if request.kind() == ShareKind::Key {
            resign_header(request, key, |_, shares| shares.swap(0, 1));
        }
    })
    .await;
    let (federation, server, front, members, job) = scene.run([60, 6, 3]).await;
    for (member, run) in members[..2].iter().enumerate() {
        let words = "what seat 3 sealed does not open here";
        left_with(&federation, member, run, &job, words);
    }
    left_with(&federation, 2, &members[2], &job, OWN_HEADER);
    nobody_said_more(&front, [2, 0]);
    server.stop().await;
}

/// The shares are of one key, and the body is sealed under another: S has the right size, and opens nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_of_another_key_than_the_bodys_open_nothing() {
    let scene = Scene::of(3, LABORATORY, |liar, key, request| {
        if request.kind() == ShareKind::Key {
            let (sealed, _) = liar.contribution(&liar.seats());
            resign_header(request, key, |_, shares| *shares = sealed.sealed_shares);
        }
    })
    .await;
    let (federation, server, front, members, job) = scene.run([60, 6, 3]).await;
    for (member, run) in members[..2].iter().enumerate() {
        let words = "a residual error of the sum is too large";
        left_with(&federation, member, run, &job, words);
    }
    left_with(&federation, 2, &members[2], &job, OWN_HEADER);
    nobody_said_more(&front, [2, 2]);
    server.stop().await;
}

/// One value of the liar's is the largest that a slot holds: three honest ones could not add up to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_beyond_what_all_could_add_up_to_voids_the_attempt() {
    let scene = Scene::of(3, LABORATORY, |liar, key, request| {
        let (sealed, mut body) = liar.contribution(&liar.seats());
        let p = liar.parameters();
        let largest = (1_u64 << (p.slot_bits() - 1)) - 1;
        assert!(largest > 3 * p.value_bound() + 100);
        add_to_word(&mut body, 0, largest << p.delta_log2());
        resign_header(request, key, |header, shares| {
            header.body = Digest::sha256(&body);
            *shares = sealed.sealed_shares;
        });
        liar.sends(body);
    })
    .await;
    let (federation, server, front, members, job) = scene.run([60, 6, 3]).await;
    for (member, run) in members[..2].iter().enumerate() {
        let words = "an opened value is outside its bound";
        left_with(&federation, member, run, &job, words);
    }
    left_with(&federation, 2, &members[2], &job, OWN_HEADER);
    nobody_said_more(&front, [2, 2]);
    server.stop().await;
}

/// The server changes the sum and vouches for it, and the liar signs the check value that its body would have to have:
/// all check values add up. With two members each spot-checks the other, so the liar is caught for certain.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_value_that_covers_a_changed_sum_is_caught_by_the_spot_check_and_its_signer_named()
{
    const WORD: usize = 4_097;
    let scene = Scene::of(2, INSTITUTION, |liar, key, request| {
        if request.kind() == ShareKind::KeySum {
            resign_release(request, key, |release, _| {
                let mut body = liar.body.lock().unwrap().clone().expect("the honest body");
                add_to_word(&mut body, WORD, 1 << liar.parameters().delta_log2());
                release.check = Some(liar.check_of(&release.roster, &body));
            });
        }
    })
    .await;
    let Scene {
        federation,
        liar,
        lies,
    } = scene;
    let members = [0, 1].map(|member| federation.fingerprint(member));
    let (tape, key) = (lies.tape(), federation.server_key());
    let changed_sum = {
        let liar = Arc::clone(&liar);
        Arc::new(move || {
            let bodies = members.map(|member| tape.body_of(&member));
            liar.sends(bodies[1].clone()); // what it sent: its check value is made of it
            let mut sum = sum_of(&bodies);
            add_to_word(&mut sum, WORD, 1 << liar.parameters().delta_log2());
            sum
        })
    };
    let handed_out = Arc::clone(&changed_sum);
    let listening = Arc::clone(&liar);
    let lies = lies
        .about_events(move |_, event| {
            listening.hears(&event);
            match event.kind() {
                EventKind::Roster => [resigned(event, &key, |roster: &mut Roster| {
                    roster.sum = Digest::sha256(&changed_sum());
                })],
                _ => [event],
            }
        })
        .about_the_sum(move |_, sum| *sum = handed_out())
        .relaying();
    let scene = Scene {
        federation,
        liar,
        lies,
    };
    let (federation, server, front, members, job) = scene.run([60, 6, 3]).await;
    let words = "signed a check value that its own signed body does not have";
    left_with(&federation, 0, &members[0], &job, words);
    let named = federation.log(0, "lying-check-value");
    let liar = federation.fingerprint(1).to_string();
    assert!(named.len() == 1 && named[0]["seat"] == 2 && named[0]["member"] == liar.as_str());
    assert_eq!(front.count(Put::Release), 2);
    let agreements = front.of(Put::Agreement);
    assert!(
        agreements
            .iter()
            .all(|sent| sent.by == federation.fingerprint(1))
    );
    server.stop().await;
}
