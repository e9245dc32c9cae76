//! What holds for every cohort, bound and vector: open ∘ sum ∘ seal = Σ, in whatever order, from any t of n, and an
//! error one step outside.

use std::sync::OnceLock;

use ciphertune_gauss::Entropy;
use ciphertune_gauss::insecure::InsecureEntropy;
use ciphertune_round::{Context, Digest, ShareIndex};
use ciphertune_seal::{
    Check, CheckValue, Error, KeySum, KeySumShare, OneTimeKey, SealingKey, check_value, contribute,
    every_seat, open, sum_shares,
};
use ciphertune_sum::{CohortSize, Parameters, ValueBound, add_bodies, modular};
use proptest::prelude::*;
use rand_core::Rng;

/// Few cases, for each is a whole round; no file of failed seeds beside the source.
fn few(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

/// One-time keys of a dozen members: making them is the dearest part, and none of what is held here depends on them.
fn members() -> &'static [(OneTimeKey, SealingKey)] {
    static MEMBERS: OnceLock<Vec<(OneTimeKey, SealingKey)>> = OnceLock::new();
    MEMBERS.get_or_init(|| {
        let mut entropy = Entropy::from_os().unwrap();
        let mut member = || {
            let key = OneTimeKey::generate(&mut entropy).unwrap();
            let public = SealingKey::parse(&key.public()).unwrap();
            (key, public)
        };
        (0..12).map(|_| member()).collect()
    })
}

fn seat(at: usize) -> ShareIndex {
    ShareIndex::at(at).unwrap()
}

/// A round to run: who, how large, how long, which t of n open it.
#[derive(Clone, Debug)]
struct Case {
    n: usize,
    threshold: usize,
    bits: u32,
    length: usize,
    seed: u64,
    /// A permutation of the members; its first m contribute, its last t release.
    order: Vec<usize>,
    contributors: usize,
}

fn a_case() -> impl Strategy<Value = Case> {
    // Mostly a few members; now and then a dozen.
    let n = prop_oneof![4 => 2..=8_usize, 1 => Just(12)];
    n.prop_flat_map(|n| {
        let order = Just((0..n).collect::<Vec<_>>()).prop_shuffle();
        (
            Just(n),
            2..=n,
            1..=30_u32,
            1..=9_000_usize,
            any::<u64>(),
            order,
            1..=n,
        )
            .prop_map(
                |(n, threshold, bits, length, seed, order, contributors)| Case {
                    n,
                    threshold,
                    bits,
                    length,
                    seed,
                    order,
                    contributors,
                },
            )
    })
}

/// What the server and the members hold after everybody sealed.
struct Sealed<'a> {
    case: &'a Case,
    parameters: Parameters,
    context: Context,
    roster: Digest,
    values: Vec<Vec<i64>>,
    bodies: Vec<Vec<u8>>,
    /// By contributor: the sealed share for each seat.
    shares: Vec<(ShareIndex, Vec<Vec<u8>>)>,
}

impl<'a> Sealed<'a> {
    fn of(case: &'a Case) -> Self {
        let bound = ValueBound::new((1 << case.bits) - 1).unwrap();
        let parameters = Parameters::derive(CohortSize::new(case.n).unwrap(), bound).unwrap();
        let context = Context::of_plan(&case.seed.to_le_bytes());
        let seats: Vec<SealingKey> = (members()[..case.n].iter())
            .map(|(_, public)| public.clone())
            .collect();
        let mut sealed = Self {
            case,
            parameters,
            context,
            roster: Digest::sha256(&case.seed.to_le_bytes()),
            values: Vec::new(),
            bodies: Vec::new(),
            shares: Vec::new(),
        };
        let mut rng = InsecureEntropy::from_seed(case.seed);
        for &at in &case.order[..case.contributors] {
            let values = values(&mut rng, bound.get() as i64, case.length);
            let (mut body, t) = (Vec::new(), case.threshold);
            let made = contribute(
                &parameters,
                &context,
                seat(at),
                t,
                &every_seat(&seats).unwrap(),
                &values,
                &mut body,
            );
            sealed.shares.push((seat(at), made.unwrap().sealed_shares));
            sealed.values.push(values);
            sealed.bodies.push(body);
        }
        sealed
    }

    /// The sum of the bodies in this order.
    fn sum(&self, bodies: &[&[u8]]) -> Vec<u8> {
        let (mut sum, mut bodies) = (Vec::new(), bodies.to_vec());
        add_bodies(&self.parameters, self.case.length, &mut bodies, &mut sum).unwrap();
        sum
    }

    fn key_sum_share(&self, at: usize) -> (ShareIndex, KeySumShare) {
        let to_this: Vec<_> = (self.shares.iter())
            .map(|(sender, sealed)| (*sender, sealed[at].clone()))
            .collect();
        let share = sum_shares(&members()[at].0, &self.context, seat(at), &to_this).unwrap();
        (seat(at), share)
    }

    fn rebuild(&self, releasing: &[usize], threshold: usize) -> Result<KeySum, Error> {
        let shares = releasing.iter().map(|at| self.key_sum_share(*at)).collect();
        KeySum::rebuild(&self.parameters, shares, threshold, self.case.contributors)
    }

    /// The key sum from the last t members of the order.
    fn key(&self) -> KeySum {
        let case = self.case;
        self.rebuild(&case.order[case.n - case.threshold..], case.threshold)
            .unwrap()
    }

    fn check_of(&self, body: &[u8]) -> CheckValue {
        check_value(&self.parameters, self.case.length, &self.roster, body).unwrap()
    }

    /// Opens `sum`, with check values that fit it.
    fn open(&self, key: &KeySum, sum: &[u8]) -> Result<Vec<i64>, Error> {
        let mut checks = vec![CheckValue([0; 2]); self.case.contributors];
        checks[0] = self.check_of(sum);
        self.open_with(key, sum, &checks)
    }

    fn open_with(
        &self,
        key: &KeySum,
        sum: &[u8],
        checks: &[CheckValue],
    ) -> Result<Vec<i64>, Error> {
        let (p, length, u) = (&self.parameters, self.case.length, self.case.contributors);
        let promised = Digest::sha256(sum);
        open(
            p,
            length,
            &self.context,
            &self.roster,
            key,
            u,
            checks,
            &promised,
            sum,
        )
        .map(|(opened, _)| opened.into_values())
    }

    fn plain_sum(&self) -> Vec<i64> {
        let mut sum = vec![0; self.case.length];
        for values in &self.values {
            sum.iter_mut().zip(values).for_each(|(s, v)| *s += v);
        }
        sum
    }
}

/// Values of the whole range, its ends more often than by chance.
fn values(rng: &mut InsecureEntropy, bound: i64, length: usize) -> Vec<i64> {
    let one = |_| match rng.next_u64() % 8 {
        0 => bound,
        1 => -bound,
        _ => (rng.next_u64() % (2 * bound as u64 + 1)) as i64 - bound,
    };
    (0..length).map(one).collect()
}

proptest! {
    #![proptest_config(few(12))]

    #[test]
    fn what_was_sealed_and_added_opens_to_the_sum_in_any_order(case in a_case()) {
        let sealed = Sealed::of(&case);
        let mut bodies: Vec<&[u8]> = sealed.bodies.iter().map(Vec::as_slice).collect();
        let sum = sealed.sum(&bodies);
        bodies.reverse();
        prop_assert!(sealed.sum(&bodies) == sum, "another order gives another sum");
        let mut turned = bodies.clone();
        turned.rotate_left(case.seed as usize % bodies.len());
        prop_assert!(sealed.sum(&turned) == sum, "another order gives another sum");

        let key = sealed.key();
        let checks: Vec<_> = sealed.bodies.iter().map(|body| sealed.check_of(body)).collect();
        let opened = sealed.open_with(&key, &sum, &checks).unwrap();
        prop_assert!(opened == sealed.plain_sum(), "the opened sum is not Σ v");
    }

    #[test]
    fn one_past_the_bound_is_neither_sealed_nor_opened(case in a_case(), at in any::<prop::sample::Index>()) {
        let sealed = Sealed::of(&case);
        let (p, at) = (&sealed.parameters, at.index(case.length));
        let mut values = sealed.values[0].clone();
        for beyond in [p.value_bound() as i64 + 1, -(p.value_bound() as i64) - 1] {
            values[at] = beyond;
            let seats: Vec<_> = members()[..case.n].iter().map(|(_, public)| public.clone()).collect();
            let seats = every_seat(&seats).unwrap();
            let refused = contribute(p, &sealed.context, seat(0), case.threshold, &seats, &values, std::io::sink());
            prop_assert!(matches!(refused, Err(Error::Misuse(_))));
        }

        // Who seals without our code can put more into the sum; up to |U|·B it cannot be seen, one step further it is.
        let bodies: Vec<&[u8]> = sealed.bodies.iter().map(Vec::as_slice).collect();
        let (sum, key) = (sealed.sum(&bodies), sealed.key());
        let head_room = case.contributors as i64 * p.value_bound() as i64 - sealed.plain_sum()[at];
        let with = |more: i64| {
            let mut sum = sum.clone();
            let (word, slot) = (at / p.slots(), at % p.slots());
            let place = &mut sum[8 * word..8 * word + 8];
            let held = u64::from_le_bytes((&*place).try_into().unwrap());
            let scale = p.delta_log2() + p.slot_bits() * slot as u32;
            let lie = modular::from_i128(i128::from(more) << scale);
            place.copy_from_slice(&modular::add(held, lie).to_le_bytes());
            sum
        };
        prop_assert!(sealed.open(&key, &with(head_room)).is_ok());
        let beyond = sealed.open(&key, &with(head_room + 1));
        prop_assert!(matches!(beyond, Err(Error::Failed(Check::ValueBound))));
    }

    #[test]
    fn any_t_of_n_open_and_fewer_do_not(case in a_case()) {
        let sealed = Sealed::of(&case);
        let (t, order) = (case.threshold, &case.order);
        let bodies: Vec<&[u8]> = sealed.bodies.iter().map(Vec::as_slice).collect();
        let sum = sealed.sum(&bodies);
        for releasing in [&order[..t], &order[case.n - t..], &order[..]] {
            let key = sealed.rebuild(releasing, t).unwrap();
            prop_assert!(key.disagreeing().is_empty());
            prop_assert!(sealed.open(&key, &sum).unwrap() == sealed.plain_sum());
        }
        prop_assert!(matches!(sealed.rebuild(&order[..t - 1], t), Err(Error::Refused(_))));
        if t > 2 {
            // Nor by pretending that fewer were enough.
            let short = sealed.rebuild(&order[..t - 1], t - 1);
            prop_assert!(matches!(short, Err(Error::Failed(Check::KeySum))));
        }
    }
}
