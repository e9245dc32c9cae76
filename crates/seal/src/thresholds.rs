//! Threshold t of n, for every cohort to 64 that the policy's rule admits: any t shares open, t − 1 do not.

use std::collections::BTreeSet;

use ciphertune_policy::{Adjacency, Instant, Placement, Policy, Proposal, Role, Unit};
use ciphertune_sum::{add_assign, modular};
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;

use crate::secret::SecretBlock;
use crate::shamir::{Lagrange, combine, split_words};
use crate::words::uniform_words;

/// The largest cohort that is looked at.
const MOST: usize = 64;
/// Up to here every subset is tried; beyond, a few of each shape.
const EXHAUSTIVE: usize = 10;
/// Words of a secret that are shared here: each is shared like the other 4,092.
const WORDS: usize = 4;

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

/// Whether the policy's rule admits n members of whom c collude and t open a sum, with as few contributors as c allows.
fn is_admissible(policy: &Policy, n: usize, c: usize, t: usize) -> bool {
    let proposal = Proposal {
        unit: Unit::Institution,
        adjacency: Adjacency::ZeroOut,
        placement: Placement::Distributed,
        epsilon: Some("8".parse().unwrap()),
        delta: Some("1e-5".parse().unwrap()),
        clip_norm: "1".parse().unwrap(),
        rounds: 1,
        max_attempts: 1,
        members: n,
        cohort: n,
        min_contributors: c + 2,
        colluders: c,
        committee: None,
        threshold: t,
        backbone: [7; 32],
        task: "classification".into(),
        sampling_rate: None,
        author: Role::Researcher,
        at: Instant::EPOCH,
        encoder: "embedding".into(),
        metrics: Default::default(),
    };
    policy.admit(&proposal).is_ok()
}

/// A secret and its shares.
struct Dealt {
    secret: [u64; WORDS],
    shares: Vec<SecretBlock>,
}

impl Dealt {
    fn to(n: usize, t: usize) -> Self {
        let mut rng = ChaCha12Rng::from_seed([(3 * n + t) as u8; 32]);
        let mut secret = [0; WORDS];
        uniform_words(&mut rng, &mut secret);
        let mut shares: Vec<SecretBlock> = (0..n).map(|_| SecretBlock::zero()).collect();
        let mut words: Vec<&mut [u64]> = shares
            .iter_mut()
            .map(|share| &mut share.expose_mut()[..WORDS])
            .collect();
        let points: Vec<u64> = (1..=n as u64).collect();
        split_words(&secret, t, &points, &mut words, &mut [0; WORDS], &mut rng);
        Self { secret, shares }
    }

    /// What the members at these positions make of their shares.
    fn rebuilt_by(&self, members: &[usize]) -> [u64; WORDS] {
        let points = members.iter().map(|member| *member as u64 + 1).collect();
        let shares: Vec<&SecretBlock> = members.iter().map(|m| &self.shares[*m]).collect();
        let mut out = [0; WORDS];
        combine(
            &Lagrange::through(points).coefficients_at(0),
            &shares,
            &mut out,
        );
        out
    }
}

/// Every subset of `size` of n members, or for a large n some of each shape: runs, strides, both ends.
fn subsets(n: usize, size: usize) -> Vec<Vec<usize>> {
    if n <= EXHAUSTIVE {
        return (0_u32..1 << n)
            .filter(|mask| mask.count_ones() as usize == size)
            .map(|mask| (0..n).filter(|member| mask >> member & 1 == 1).collect())
            .collect();
    }
    let mut subsets = vec![
        (0..size).collect::<Vec<_>>(),
        (n - size..n).collect(),
        (0..size / 2).chain(n - (size - size / 2)..n).collect(),
    ];
    // 67 is a prime above n: a stride of it meets every member once.
    subsets.push((0..size).map(|i| i * 67 % n).collect());
    subsets
}

#[test]
fn any_t_shares_open_and_fewer_do_not_for_every_admissible_cohort_to_64() {
    let policy = Policy::parse(POLICY).unwrap();
    let (mut triples, mut dealt) = (0, BTreeSet::new());
    for n in 2..=MOST {
        for c in 0..=n {
            for t in (0..=n + 1).filter(|t| is_admissible(&policy, n, c, *t)) {
                triples += 1;
                // Two sets of t members share more than colluders, and colluders are one short even with an honest one.
                assert!(2 * t - n > c && t >= c + 2, "n = {n}, c = {c}, t = {t}");
                dealt.insert((n, t));
            }
        }
    }
    // Σ over n of the c ≤ n − 2 and t in ⌈(n + c + 1)/2⌉..=n.
    let expected: usize = (2..=MOST)
        .flat_map(|n| (0..=n - 2).map(move |c| n + 1 - (n + c + 1).div_ceil(2)))
        .sum();
    assert_eq!(triples, expected);
    for (n, t) in dealt {
        let dealt = Dealt::to(n, t);
        for subset in subsets(n, t) {
            assert!(
                dealt.rebuilt_by(&subset) == dealt.secret,
                "n = {n}, t = {t}"
            );
        }
        for subset in subsets(n, t - 1) {
            let rebuilt = dealt.rebuilt_by(&subset);
            assert!(
                rebuilt.iter().zip(&dealt.secret).all(|(a, b)| a != b),
                "n = {n}, t = {t}: {subset:?} open it"
            );
        }
    }
}

/// Why a roster is echoed before anything is released for it (protocol §3, step 5). A, B and A ∪ B are three rosters of
/// one context with n = 5, c = 0, t = 3. Nobody releases twice, and none gathers three releases; and yet the five
/// shares of sums add up to a sum of keys that nobody meant to open.
#[test]
fn releases_for_three_rosters_leak_a_sum_of_keys_although_none_has_t() {
    let (n, t) = (5, 3);
    // s_A and s_B, the sums of the keys in A and in B; what is released for A ∪ B is a share of their sum.
    let (a, b) = (Dealt::to(n, t), Dealt::to(n + 1, t));
    let mut both = SecretBlock::zero();
    add_assign(both.expose_mut(), a.shares[4].expose());
    add_assign(both.expose_mut(), b.shares[4].expose());
    // Members 1 and 2 release for A, 3 and 4 for B, 5 for A ∪ B.
    let of_a = Lagrange::through(vec![1, 2, 5]).coefficients_at(0);
    let of_b = Lagrange::through(vec![3, 4, 5]).coefficients_at(0);
    // α·s_A + β·s_B with α·λ₅ = β·μ₅, so that member 5's one release serves both.
    let (alpha, beta) = (of_b[2], of_a[2]);
    let coefficients = [
        modular::mul(alpha, of_a[0]),
        modular::mul(alpha, of_a[1]),
        modular::mul(beta, of_b[0]),
        modular::mul(beta, of_b[1]),
        modular::mul(alpha, of_a[2]),
    ];
    let released = [
        &a.shares[0],
        &a.shares[1],
        &b.shares[2],
        &b.shares[3],
        &both,
    ];
    let mut leaked = [0; WORDS];
    combine(&coefficients, &released, &mut leaked);
    for ((leaked, a), b) in leaked.iter().zip(&a.secret).zip(&b.secret) {
        let expected = modular::add(modular::mul(alpha, *a), modular::mul(beta, *b));
        assert_eq!(*leaked, expected);
    }
}
