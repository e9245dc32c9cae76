//! A plan's own check and the policy's admission are one rule, for every (n, c, t) and minimum to n = 64.

use std::time::Duration;

use ciphertune_policy::{Adjacency, Instant, Placement, Policy, Role, Unit};
use ciphertune_round::{
    Committee, Deadlines, Digest, Envelope, Fingerprint, Header, Job, Mechanism, Object as _, Plan,
    Roster, Seat, ShareIndex, Signed, Signer, VerifyingKey, draw, label,
};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

const MOST: usize = 64;

const POLICY: &str = r#"
schema = 1
name = "thresholds"
[privacy]
unit = "institution"
adjacency = "zero-out"
epsilon = "8"
delta = "1e-5"
clip_norm = "1"
placement = "distributed"
rounds = 1
[budget]
epsilon = "8"
delta = "1e-5"
[aggregation]
min_contributors = 2
colluders = 0
[model]
backbones = ["any"]
encoders = ["any"]
tasks = ["any"]
[releases]
metrics = []
"#;

struct Key(Ed25519KeyPair);

impl Key {
    fn of(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }
}

impl Signer for Key {
    fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey::from_bytes(self.0.public_key().as_ref()).unwrap()
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).as_ref().try_into().unwrap()
    }
}

fn job(key: &Key) -> Signed<Job> {
    let job = Job {
        federation: "lab".into(),
        name: "thresholds".into(),
        backbone: Digest::sha256(b"backbone"),
        tuning: "{}".into(),
        task: "classification".into(),
        encoder: "embedding".into(),
        mechanism: Mechanism {
            unit: Unit::Institution,
            adjacency: Adjacency::ZeroOut,
            placement: Placement::Distributed,
            clip_norm: "1".parse().unwrap(),
            noise_multiplier: "1".parse().unwrap(),
            epsilon: Some("8".parse().unwrap()),
            delta: Some("1e-5".parse().unwrap()),
            value_bits: 12,
            batches: None,
        },
        dimension: 1,
        state: 1,
        value_bound: 2047,
        rounds: 1,
        max_attempts: 1,
        min_contributors: 2,
        colluders: 0,
        threshold: None,
        committee: None,
        deadlines: Deadlines {
            contribute: Duration::from_secs(1),
            open: Duration::from_secs(1),
            agree: Duration::from_secs(1),
        },
        initial_model: Digest::sha256(b"model"),
        expected_members: 2,
        nonce: [0; 32],
    };
    Signed::sign(job, key)
}

/// The members of a manifest.
fn members(count: usize) -> Vec<Fingerprint> {
    (0..count as u64)
        .map(|member| Fingerprint::from_digest(Digest::sha256(&member.to_le_bytes())))
        .collect()
}

/// A plan that seats the first n members.
fn plan(job: &Signed<Job>, key: &Key, n: usize) -> Plan {
    let offer = Envelope::sign(label::ONE_TIME_KEY, Vec::new(), key);
    Plan {
        federation: "lab".into(),
        manifest: Digest::sha256(b"manifest"),
        job: job.digest(),
        round: 1,
        attempt: 1,
        model: job.initial_model,
        revocation_number: 1,
        revocations: Digest::sha256(b"list"),
        policy: Digest::sha256(b"policy"),
        policies: Vec::new(),
        seats: members(n)
            .into_iter()
            .map(|member| Seat {
                member,
                one_time_key: offer.clone(),
            })
            .collect(),
        committee: None,
        threshold: 0,
        min_contributors: 0,
        colluders: 0,
        parameters: String::new(),
        dimension: job.dimension,
        value_bound: job.value_bound,
        nonce: [0; 32],
    }
}

#[test]
fn a_plan_holds_for_itself_exactly_where_the_policy_admits_it() {
    let key = Key::of(1);
    let (job, policy) = (job(&key), Policy::parse(POLICY).unwrap());
    let mut held = 0;
    for n in 2..=MOST {
        let mut plan = plan(&job, &key, n);
        let members = members(n);
        for c in 0..=n {
            // The least of c, one less, one more than there are members.
            for m in [c + 1, c + 2, n + 1] {
                for t in 0..=n + 1 {
                    (plan.colluders, plan.min_contributors, plan.threshold) = (c, m, t);
                    let own = plan.check_against(&job, &members);
                    let admitted = policy.admit(&job.proposal(
                        &plan.terms(n),
                        Role::Researcher,
                        Instant::EPOCH,
                    ));
                    assert_eq!(
                        own.is_ok(),
                        admitted.is_ok(),
                        "n = {n}, c = {c}, t = {t}, at least {m}: {own:?}, {admitted:?}"
                    );
                    held += usize::from(own.is_ok());
                }
            }
        }
    }
    assert!(held > 10_000, "{held}");
}

#[test]
fn a_plan_that_does_not_hold_says_which_rule_and_the_numbers() {
    let key = Key::of(1);
    let job = job(&key);
    let mut plan = plan(&job, &key, 7);
    for (c, m, t, words) in [
        (
            2,
            4,
            4,
            "threshold 4 admits two rosters: 2t ≥ n + c + 1 wants 5 with n = 7, c = 2",
        ),
        (
            2,
            3,
            5,
            "min_contributors 3 leaves fewer than two honest contributors beside 2 colluders",
        ),
        (2, 8, 5, "min_contributors 8 does not fit a cohort of 7"),
        (2, 4, 8, "threshold 8 does not fit a cohort of 7"),
        (0, 1, 4, "min_contributors 1 is below the job's 2"),
    ] {
        (plan.colluders, plan.min_contributors, plan.threshold) = (c, m, t);
        let said = plan.check_against(&job, &members(7)).unwrap_err();
        assert!(
            said.to_string().contains(words),
            "{said} does not say {words:?}"
        );
    }
}

/// Twelve members, one of them colluding, of whom nine are in the cohort and a committee is drawn.
struct Drawn {
    key: Key,
    job: Signed<Job>,
    plan: Plan,
    members: Vec<Fingerprint>,
}

impl Drawn {
    fn of(size: usize, threshold: usize) -> Self {
        let key = Key::of(1);
        let job = Job {
            committee: Some(5),
            ..job(&key).value().clone()
        };
        let job = Signed::sign(job, &key);
        let (mut plan, members) = (plan(&job, &key, 9), members(12));
        (plan.colluders, plan.min_contributors, plan.threshold) = (1, 3, threshold);
        let committee = Committee::draw(size, &plan.job, &plan.model, &members, &plan.seats);
        plan.committee = Some(committee);
        Self {
            key,
            job,
            plan,
            members,
        }
    }

    fn refused(&self, words: &str) {
        let said = self.plan.check_against(&self.job, &self.members);
        let said = said.expect_err(words).to_string();
        assert!(said.contains(words), "{said:?} does not say {words:?}");
    }

    fn holders(&mut self) -> &mut Vec<ShareIndex> {
        &mut self.plan.committee.as_mut().unwrap().holders
    }
}

#[test]
fn a_committee_holds_for_itself_exactly_where_a_policy_with_committees_admits_it() {
    let policy = POLICY.replacen("colluders = 0", "colluders = 0\ncommittee = 2", 1);
    let policy = Policy::parse(&policy).unwrap();
    let mut held = 0;
    for size in 2..=13 {
        for threshold in 0..=13 {
            let drawn = Drawn::of(size, threshold);
            let own = drawn.plan.check_against(&drawn.job, &drawn.members);
            let terms = drawn.plan.terms(12);
            let admitted = policy
                .admit(&drawn.job.proposal(&terms, Role::Researcher, Instant::EPOCH))
                .is_ok();
            // What a policy does not know: which the job asks for, and how many of the drawn have seats.
            let seated = drawn.plan.holders().count() >= threshold;
            assert_eq!(
                own.is_ok(),
                admitted && size >= 5 && seated,
                "{size} {threshold}: {own:?}"
            );
            held += usize::from(own.is_ok());
        }
    }
    assert_eq!(held, 15);
}

#[test]
fn a_plan_with_another_committee_than_the_drawn_one_is_refused() {
    let drawn = || Drawn::of(7, 5);
    let plain = drawn();
    plain
        .plan
        .check_against(&plain.job, &plain.members)
        .unwrap();
    let seats: Vec<_> = plain.plan.holders().collect();
    assert!(seats.len() >= 5 && seats.len() < 7, "{seats:?}");
    let best = draw(7, &plain.plan.job, &plain.plan.model, &plain.members);
    for seat in ShareIndex::new(1).into_iter().chain(seats.iter().copied()) {
        let member = plain.plan.seats[seat.position()].member;
        assert_eq!(plain.plan.is_holder(&member), best.contains(&member));
    }
    let words = "not the one that job and model draw";
    let mut fewer = drawn();
    fewer.holders().pop();
    fewer.refused(words);
    let mut another = drawn();
    let mut outside = (1..=9).map(|seat| ShareIndex::new(seat).unwrap());
    let outside = outside.find(|seat| !seats.contains(seat)).unwrap();
    another.holders()[0] = outside;
    another.holders().sort_unstable();
    another.refused(words);
    let mut resized = drawn();
    let plan = &resized.plan;
    let of = |size: &usize| {
        Committee::draw(*size, &plan.job, &plan.model, &resized.members, &plan.seats)
    };
    let other = |size: &usize| of(size).holders != of(&7).holders;
    let size = [6, 8].into_iter().find(other).unwrap();
    resized.plan.committee.as_mut().unwrap().size = size;
    resized.refused(words);
    let mut otherwise = drawn();
    let job = Job {
        nonce: [9; 32],
        ..otherwise.job.value().clone()
    };
    otherwise.job = Signed::sign(job, &otherwise.key);
    otherwise.plan.job = otherwise.job.digest();
    otherwise.refused(words);
    // A manifest that was issued anew draws nobody else.
    let mut reissued = drawn();
    reissued.plan.manifest = Digest::sha256(b"another manifest");
    let own = reissued
        .plan
        .check_against(&reissued.job, &reissued.members);
    own.unwrap();
    let mut round_two = drawn();
    let job = Job {
        rounds: 2,
        ..round_two.job.value().clone()
    };
    round_two.job = Signed::sign(job, &round_two.key);
    round_two.plan.job = round_two.job.digest();
    (round_two.plan.round, round_two.plan.model) = (2, Digest::sha256(b"agreed"));
    round_two.refused(words);
    let mut unasked = drawn();
    let job = Job {
        committee: None,
        ..unasked.job.value().clone()
    };
    unasked.job = Signed::sign(job, &unasked.key);
    unasked.plan.job = unasked.job.digest();
    unasked.refused("a committee of 7 is not what the job asks for");
    // A seat left out takes its member from the committee, until too few are left.
    let mut empty = drawn();
    let all = empty.members.clone();
    while empty.plan.holders().count() >= 5 {
        let last = empty.plan.holders().last().unwrap();
        empty.plan.seats.remove(last.position());
        let (job, model) = (empty.plan.job, empty.plan.model);
        let left = Committee::draw(7, &job, &model, &all, &empty.plan.seats);
        empty.plan.committee = Some(left);
    }
    empty.refused("4 of the 7 drawn members have seats, and it takes 5 to open a sum");
    // Everybody is stricter than a committee.
    let mut all = drawn();
    (all.plan.committee, all.plan.threshold) = (None, 6);
    all.plan.check_against(&all.job, &all.members).unwrap();
    assert_eq!(all.plan.holders().count(), 9);
}

#[test]
fn a_committee_survives_its_bytes_and_one_that_cannot_be_is_malformed() {
    let drawn = Drawn::of(7, 5);
    let mut plan = drawn.plan;
    plan.policies.push(plan.seats[0].one_time_key.clone());
    assert_eq!(Plan::parse(&plan.serialise()).unwrap(), plan);
    let seat = |place| ShareIndex::new(place).unwrap();
    for (size, holders) in [
        (7, vec![seat(2), seat(1)]),
        (7, vec![seat(2), seat(2)]),
        (7, vec![seat(10)]),
        (1, vec![seat(1), seat(2)]),
        (1001, vec![seat(1)]),
        (0, vec![seat(1)]),
    ] {
        plan.committee = Some(Committee { size, holders });
        assert!(
            Plan::parse(&plan.serialise()).is_err(),
            "{:?}",
            plan.committee
        );
    }
}

/// The size that decides whether a round's roster fits a message is an upper bound, and not far off.
#[test]
fn a_signed_roster_is_no_larger_than_reckoned() {
    let key = Key::of(1);
    for (contributors, holders) in [(1, 1), (3, 5), (40, 200)] {
        let header = Header {
            context: ciphertune_round::Context::of_plan(b"plan"),
            body: Digest::sha256(b"body"),
            shares: vec![Digest::sha256(b"share"); holders],
        };
        let roster = Roster {
            context: header.context,
            sum: Digest::sha256(b"sum"),
            headers: vec![Signed::sign(header, &key).envelope().clone(); contributors],
        };
        let (bytes, most) = (
            Signed::sign(roster, &key).encode().len(),
            Roster::most_bytes(contributors, holders),
        );
        assert!(bytes <= most && most < bytes + bytes / 10, "{bytes} {most}");
    }
}
