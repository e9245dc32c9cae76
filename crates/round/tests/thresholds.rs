//! A plan's own check and the policy's admission are one rule, for every (n, c, t) and minimum to n = 64.

use std::time::Duration;

use ciphertune_policy::{Adjacency, Placement, Policy, Unit};
use ciphertune_round::{
    Deadlines, Digest, Envelope, Job, Mechanism, Plan, Seat, Signed, Signer, VerifyingKey, label,
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
            max_examples: 1,
        },
        dimension: 1,
        value_bound: 2047,
        rounds: 1,
        max_attempts: 1,
        min_contributors: 2,
        colluders: 0,
        threshold: None,
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

fn plan(job: &Signed<Job>, key: &Key, n: usize) -> Plan {
    let offer = Envelope::sign(label::ONE_TIME_KEY, Vec::new(), key);
    Plan {
        federation: "lab".into(),
        manifest: Digest::sha256(b"manifest"),
        job: job.digest(),
        round: 1,
        attempt: 1,
        model: job.initial_model,
        policy: Digest::sha256(b"policy"),
        policies: Vec::new(),
        seats: (0..n)
            .map(|_| Seat {
                member: key.verifying_key().fingerprint(),
                one_time_key: offer.clone(),
            })
            .collect(),
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
        for c in 0..=n {
            // The least of c, one less, one more than there are members.
            for m in [c + 1, c + 2, n + 1] {
                for t in 0..=n + 1 {
                    (plan.colluders, plan.min_contributors, plan.threshold) = (c, m, t);
                    let own = plan.check_against(&job);
                    let admitted = policy.admit(&plan.proposal(&job));
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
        (
            2,
            8,
            5,
            "threshold 5 and min_contributors 8 do not fit a cohort of 7",
        ),
        (
            2,
            4,
            8,
            "threshold 8 and min_contributors 4 do not fit a cohort of 7",
        ),
        (0, 1, 4, "min_contributors 1 is below the job's 2"),
    ] {
        (plan.colluders, plan.min_contributors, plan.threshold) = (c, m, t);
        let said = plan.check_against(&job).unwrap_err().to_string();
        assert!(said.contains(words), "{said:?} does not say {words:?}");
    }
}
