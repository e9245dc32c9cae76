//! A round through the public interface: seal, add, rebuild, open; and everything that must fail.

use std::num::NonZeroUsize;

use ciphertune_gauss::Entropy;
use ciphertune_gauss::insecure::InsecureEntropy;
use ciphertune_round::{Context, Digest, ShareIndex};
use ciphertune_seal::{
    Check, CheckValue, Error, KeySum, KeySumShare, OneTimeKey, OpenedSum, SealedContribution,
    SealingKey, SecondOpening, check_value, contribute, contribute_on, every_seat, open, open_on,
    sum_shares,
};
use ciphertune_sum::{CohortSize, N, Parameters, ValueBound, add_bodies, modular};
use rand_core::Rng;

type Result<T> = std::result::Result<T, Error>;

fn seat(position: usize) -> ShareIndex {
    ShareIndex::at(position).unwrap()
}

/// A cohort with what each member and the server hold in one context.
struct Cohort {
    parameters: Parameters,
    threshold: usize,
    context: Context,
    roster: Digest,
    keys: Vec<OneTimeKey>,
    seats: Vec<SealingKey>,
    values: Vec<Vec<i64>>,
    /// Contributors by position, in order.
    contributors: Vec<usize>,
    sealed: Vec<SealedContribution>,
    bodies: Vec<Vec<u8>>,
}

impl Cohort {
    /// n members with a threshold of ⌊n/2⌋ + 1, of whom `contributors` contribute `length` values.
    fn contributing(n: usize, contributors: &[usize], length: usize) -> Self {
        let size = CohortSize::new(n).unwrap();
        let parameters = Parameters::derive(size, ValueBound::new(2047).unwrap()).unwrap();
        let mut entropy = Entropy::from_os().unwrap();
        let keys: Vec<_> = (0..n)
            .map(|_| OneTimeKey::generate(&mut entropy).unwrap())
            .collect();
        let seats = keys
            .iter()
            .map(|key| SealingKey::parse(&key.public()).unwrap())
            .collect();
        let mut cohort = Self {
            parameters,
            threshold: n / 2 + 1,
            context: Context::of_plan(b"the plan"),
            roster: Digest::sha256(b"the roster"),
            keys,
            seats,
            values: Vec::new(),
            contributors: contributors.to_vec(),
            sealed: Vec::new(),
            bodies: Vec::new(),
        };
        for &position in contributors {
            let mut body = Vec::new();
            let values = values(position as u64, length);
            cohort
                .sealed
                .push(cohort.seal(position, &values, &mut body).unwrap());
            cohort.values.push(values);
            cohort.bodies.push(body);
        }
        cohort
    }

    fn all(n: usize, length: usize) -> Self {
        Self::contributing(n, &(0..n).collect::<Vec<_>>(), length)
    }

    fn seal(&self, at: usize, values: &[i64], body: &mut Vec<u8>) -> Result<SealedContribution> {
        let (context, t) = (&self.context, self.threshold);
        contribute(
            &self.parameters,
            context,
            seat(at),
            t,
            &every_seat(&self.seats).unwrap(),
            values,
            body,
        )
    }

    fn length(&self) -> usize {
        self.values[0].len()
    }

    fn sum_of(&self, bodies: &[Vec<u8>]) -> std::result::Result<Vec<u8>, ciphertune_sum::Error> {
        let mut readers: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
        let mut sum = Vec::new();
        add_bodies(&self.parameters, self.length(), &mut readers, &mut sum)?;
        Ok(sum)
    }

    fn sum(&self) -> Vec<u8> {
        self.sum_of(&self.bodies).unwrap()
    }

    fn checks(&self) -> Vec<CheckValue> {
        let (p, length) = (&self.parameters, self.length());
        let check = |body: &Vec<u8>| check_value(p, length, &self.roster, body.as_slice()).unwrap();
        self.bodies.iter().map(check).collect()
    }

    fn sealed_to(&self, recipient: usize) -> Vec<(ShareIndex, Vec<u8>)> {
        let share = |(c, sealed): (&usize, &SealedContribution)| {
            (seat(*c), sealed.sealed_shares[recipient].clone())
        };
        self.contributors
            .iter()
            .zip(&self.sealed)
            .map(share)
            .collect()
    }

    /// σ_j of a member.
    fn share(&self, at: usize) -> Result<KeySumShare> {
        sum_shares(&self.keys[at], &self.context, seat(at), &self.sealed_to(at))
    }

    /// What the first member holds after the members at `releasing` released to it.
    fn released(&self, releasing: &[usize]) -> Result<Vec<(ShareIndex, KeySumShare)>> {
        let release = |&from: &usize| {
            let (context, roster) = (&self.context, &self.roster);
            let sealed = self
                .share(from)?
                .seal_to(context, roster, seat(from), &self.seats)?;
            KeySumShare::open(
                &self.keys[0],
                context,
                roster,
                seat(from),
                seat(0),
                &sealed[0],
            )
        };
        releasing.iter().map(release).collect()
    }

    fn rebuild(&self, shares: Vec<(ShareIndex, KeySumShare)>) -> Result<KeySum> {
        KeySum::rebuild(
            &self.parameters,
            shares,
            self.threshold,
            self.contributors.len(),
        )
    }

    /// The key sum from the last t members.
    fn key(&self) -> KeySum {
        let n = self.keys.len();
        let releasing: Vec<usize> = (n - self.threshold..n).collect();
        self.rebuild(self.released(&releasing).unwrap()).unwrap()
    }

    fn open(&self, key: &KeySum, sum: &[u8]) -> Result<(OpenedSum, SecondOpening)> {
        self.open_as(key, &self.context, &self.roster, &self.checks(), sum, sum)
    }

    fn open_as(
        &self,
        key: &KeySum,
        context: &Context,
        roster: &Digest,
        checks: &[CheckValue],
        promised: &[u8],
        sum: &[u8],
    ) -> Result<(OpenedSum, SecondOpening)> {
        let (length, u) = (self.length(), self.contributors.len());
        let digest = Digest::sha256(promised);
        open(
            &self.parameters,
            length,
            context,
            roster,
            key,
            u,
            checks,
            &digest,
            sum,
        )
    }

    fn plain_sum(&self) -> Vec<i64> {
        (0..self.length())
            .map(|i| self.values.iter().map(|v| v[i]).sum())
            .collect()
    }
}

/// Values over the whole range, both ends included.
fn values(seed: u64, length: usize) -> Vec<i64> {
    let mut rng = InsecureEntropy::from_seed(seed);
    let mut values: Vec<i64> = (0..length)
        .map(|_| (rng.next_u64() % 4095) as i64 - 2047)
        .collect();
    values[0] = -2047;
    values[length - 1] = 2047;
    values
}

#[track_caller]
fn fails<T>(result: Result<T>, expected: Check) {
    match result {
        Err(Error::Failed(check)) => assert_eq!(check, expected),
        Err(other) => panic!("{other} instead of {expected}"),
        Ok(_) => panic!("passed instead of: {expected}"),
    }
}

#[test]
fn the_opened_sum_is_the_plain_sum_bit_for_bit() {
    for n in [2, 3, 4, 7] {
        let k = Cohort::all(n, 1).parameters.slots();
        let boundaries = [
            1,
            k - 1,
            k,
            k + 1,
            N,
            k * N - 1,
            k * N,
            k * N + 1,
            2 * k * N - 1,
            2 * k * N + k,
        ];
        for length in boundaries {
            let cohort = Cohort::all(n, length);
            let sum = cohort.sum();
            assert_eq!(sum.len() as u64, cohort.parameters.body_bytes(length));
            let (opened, second) = cohort.open(&cohort.key(), &sum).unwrap();
            assert!(second.block < second.blocks);
            assert_eq!(opened.length(), length);
            assert!(
                opened.into_values() == cohort.plain_sum(),
                "n = {n}, length = {length}"
            );
        }
    }
}

/// Several batches for each thread, and a last one that does not reach all of them.
#[test]
fn any_number_of_threads_seals_and_opens_the_same_sum() {
    let mut cohort = Cohort::all(3, 1);
    let length = 26 * cohort.parameters.values_per_block() + 7;
    let (sealed, t) = (&mut cohort.sealed, cohort.threshold);
    for (at, threads) in [1, 2, 3].into_iter().enumerate() {
        let (threads, values) = (
            NonZeroUsize::new(threads).unwrap(),
            values(at as u64, length),
        );
        let (p, context) = (&cohort.parameters, &cohort.context);
        let seats = &every_seat(&cohort.seats).unwrap();
        let body = &mut cohort.bodies[at];
        body.clear();
        sealed[at] =
            contribute_on(threads, p, context, seat(at), t, seats, &values, &mut *body).unwrap();
        assert_eq!(sealed[at].body_sha256, Digest::sha256(body));
        cohort.values[at] = values;
    }
    let (key, sum, checks) = (cohort.key(), cohort.sum(), cohort.checks());
    let open_into = |threads, sum: &[u8], into| {
        let (p, context, roster) = (&cohort.parameters, &cohort.context, &cohort.roster);
        let (threads, digest) = (NonZeroUsize::new(threads).unwrap(), Digest::sha256(sum));
        open_on(
            threads, p, length, context, roster, &key, 3, &checks, &digest, sum, into,
        )
    };
    let open = |threads, sum: &[u8]| open_into(threads, sum, Vec::new());
    for threads in [1, 2, 3, 40] {
        let (opened, _) = open(threads, &sum).unwrap();
        assert!(
            opened.into_values() == cohort.plain_sum(),
            "{threads} threads"
        );
        // Whatever a vector held before, and however long it was.
        for (before, kept) in [(length, true), (length - 1, false), (length + 1, false)] {
            let into = vec![-1; before];
            let memory = into.as_ptr();
            let opened = open_into(threads, &sum, into).unwrap().0.into_values();
            assert!(
                opened == cohort.plain_sum(),
                "{threads} threads, {before} before"
            );
            assert!(!kept || opened.as_ptr() == memory, "another vector");
        }
        // In the last whole block, and then not a word at all.
        let mut changed = sum.clone();
        changed[8 * 25 * N] ^= 1;
        fails(open(threads, &changed), Check::CheckValue);
        changed[8 * 25 * N..][..8].fill(0xFF);
        assert!(matches!(open(threads, &changed), Err(Error::Malformed(_))));
        let short = &sum[..sum.len() - 8];
        assert!(matches!(open(threads, short), Err(Error::Malformed(_))));
    }
}

#[test]
fn a_member_that_dropped_after_contributing_counts_and_one_that_never_did_does_not() {
    // 0 never contributes but releases and opens; 3 contributes and is gone.
    let cohort = Cohort::contributing(4, &[1, 2, 3], 100);
    let key = cohort
        .rebuild(cohort.released(&[0, 1, 2]).unwrap())
        .unwrap();
    let (opened, _) = cohort.open(&key, &cohort.sum()).unwrap();
    assert_eq!(opened.into_values(), cohort.plain_sum());
}

#[test]
fn every_set_of_t_members_rebuilds_a_key_that_opens() {
    let cohort = Cohort::all(3, 10);
    for releasing in [[0, 1], [0, 2], [1, 2]] {
        let key = cohort
            .rebuild(cohort.released(&releasing).unwrap())
            .unwrap();
        assert_eq!(
            cohort.open(&key, &cohort.sum()).unwrap().0.into_values(),
            cohort.plain_sum()
        );
    }
}

/// n = 64, t = 33: the last 33 open what the first, the last and one in the middle sent; 32 do not.
#[test]
fn a_cohort_of_64_opens_with_33_members_and_not_with_32() {
    let cohort = Cohort::contributing(64, &[0, 31, 63], 10);
    let releasing: Vec<usize> = (31..64).collect();
    let released = cohort.released(&releasing).unwrap();
    let key = cohort.rebuild(released).unwrap();
    let opened = cohort.open(&key, &cohort.sum()).unwrap().0;
    assert_eq!(opened.into_values(), cohort.plain_sum());
    let refused = cohort.rebuild(cohort.released(&releasing[1..]).unwrap());
    assert!(matches!(refused, Err(Error::Refused(_))));
}

#[test]
fn two_seals_of_the_same_values_share_nothing() {
    let cohort = Cohort::all(3, 10);
    let mut again = Vec::new();
    let sealed = cohort.seal(0, &cohort.values[0], &mut again).unwrap();
    assert_eq!(sealed.body_sha256, Digest::sha256(&again));
    assert!(
        again
            .iter()
            .zip(&cohort.bodies[0])
            .filter(|(a, b)| a == b)
            .count()
            < again.len() / 64
    );
}

#[test]
fn a_body_alone_does_not_open_under_the_sum_of_keys() {
    let cohort = Cohort::all(3, 10);
    let checks = [cohort.checks()[0], CheckValue([0; 2]), CheckValue([0; 2])];
    let body = &cohort.bodies[0];
    let (context, roster) = (&cohort.context, &cohort.roster);
    fails(
        cohort.open_as(&cohort.key(), context, roster, &checks, body, body),
        Check::Residual,
    );
}

#[test]
fn a_changed_word_in_the_sum_fails() {
    let cohort = Cohort::all(3, 10);
    let (key, sum, checks) = (cohort.key(), cohort.sum(), cohort.checks());
    let (context, roster) = (&cohort.context, &cohort.roster);
    let mut changed = sum.clone();
    changed[8 * 77] ^= 1;
    fails(
        cohort.open_as(&key, context, roster, &checks, &sum, &changed),
        Check::Digest,
    );
    // Even if the server promised the changed sum in the roster:
    fails(
        cohort.open_as(&key, context, roster, &checks, &changed, &changed),
        Check::CheckValue,
    );
}

/// `sum` with 2^d·amount added to a word, and check values as a lying contributor could make them.
fn lied(cohort: &Cohort, word: usize, amount: i64) -> (Vec<u8>, Vec<CheckValue>) {
    let mut sum = cohort.sum();
    let place = &mut sum[8 * word..8 * word + 8];
    let held = u64::from_le_bytes((&*place).try_into().unwrap());
    let lie = modular::from_i64(amount << cohort.parameters.delta_log2());
    place.copy_from_slice(&modular::add(held, lie).to_le_bytes());
    let check = check_value(
        &cohort.parameters,
        cohort.length(),
        &cohort.roster,
        sum.as_slice(),
    )
    .unwrap();
    (sum, vec![check, CheckValue([0; 2]), CheckValue([0; 2])])
}

#[test]
fn values_beyond_the_bound_of_all_together_fail() {
    let cohort = Cohort::all(3, 10);
    let (key, context, roster) = (cohort.key(), &cohort.context, &cohort.roster);
    let open = |word, amount| {
        let (sum, checks) = lied(&cohort, word, amount);
        cohort
            .open_as(&key, context, roster, &checks, &sum, &sum)
            .map(|_| ())
    };
    let (room, slot) = (
        3 * 2047 - cohort.plain_sum()[0],
        1_i64 << cohort.parameters.slot_bits(),
    );
    assert!(
        open(0, room).is_ok(),
        "inside the bound a lie cannot be seen"
    );
    fails(open(0, room + 1), Check::ValueBound);
    // Padding: slot 2 of the third coefficient, and a whole unused coefficient.
    fails(open(2, slot * slot), Check::ValueBound);
    fails(open(N - 1, 1), Check::ValueBound);
}

#[test]
fn a_dropped_a_doubled_or_a_replaced_body_fails() {
    let cohort = Cohort::all(3, 10);
    let key = cohort.key();
    let b = &cohort.bodies;
    for bodies in [
        vec![b[0].clone(), b[1].clone()],
        vec![b[0].clone(), b[1].clone(), b[1].clone()],
        vec![
            b[0].clone(),
            b[1].clone(),
            Cohort::all(3, 10).bodies[2].clone(),
        ],
    ] {
        let sum = cohort.sum_of(&bodies).unwrap();
        fails(cohort.open(&key, &sum), Check::CheckValue);
    }
}

#[test]
fn a_truncated_or_an_extended_sum_is_malformed() {
    let cohort = Cohort::all(3, 10);
    let (key, sum) = (cohort.key(), cohort.sum());
    assert!(matches!(
        cohort.open(&key, &sum[..sum.len() - 8]),
        Err(Error::Malformed(_))
    ));
    assert!(matches!(
        cohort.open(&key, &[&sum[..], &[0]].concat()),
        Err(Error::Malformed(_))
    ));
    let mut beyond = sum;
    beyond[..8].fill(0xFF);
    assert!(matches!(
        cohort.open(&key, &beyond),
        Err(Error::Malformed(_))
    ));
}

#[test]
fn a_truncated_body_is_refused_by_the_server_and_by_a_checker() {
    let cohort = Cohort::all(3, 10);
    let mut bodies = cohort.bodies.clone();
    bodies[1].truncate(100);
    assert!(matches!(
        cohort.sum_of(&bodies),
        Err(ciphertune_sum::Error::Malformed(_))
    ));
    let check = check_value(&cohort.parameters, 10, &cohort.roster, bodies[1].as_slice());
    assert!(matches!(check, Err(Error::Malformed(_))));
}

#[test]
fn another_context_opens_neither_shares_nor_the_sum() {
    let cohort = Cohort::all(3, 10);
    let other = Context::of_plan(b"another plan");
    let shares = sum_shares(&cohort.keys[0], &other, seat(0), &cohort.sealed_to(0));
    fails(shares, Check::Sealed(seat(0)));
    let (key, sum, checks) = (cohort.key(), cohort.sum(), cohort.checks());
    fails(
        cohort.open_as(&key, &other, &cohort.roster, &checks, &sum, &sum),
        Check::Residual,
    );
}

#[test]
fn another_roster_opens_neither_key_sum_shares_nor_the_sum() {
    let cohort = Cohort::all(3, 10);
    let other = Digest::sha256(b"another roster");
    let context = &cohort.context;
    let sealed = cohort
        .share(1)
        .unwrap()
        .seal_to(context, &cohort.roster, seat(1), &cohort.seats)
        .unwrap();
    let opened = KeySumShare::open(
        &cohort.keys[0],
        context,
        &other,
        seat(1),
        seat(0),
        &sealed[0],
    );
    fails(opened.map(|_| ()), Check::Sealed(seat(1)));
    let (key, sum, checks) = (cohort.key(), cohort.sum(), cohort.checks());
    fails(
        cohort.open_as(&key, context, &other, &checks, &sum, &sum),
        Check::CheckValue,
    );
}

#[test]
fn a_share_sealed_to_another_member_does_not_open() {
    let cohort = Cohort::all(3, 10);
    let shares = sum_shares(
        &cohort.keys[0],
        &cohort.context,
        seat(0),
        &cohort.sealed_to(1),
    );
    fails(shares, Check::Sealed(seat(0)));
    // Nor does one's own share under another's place.
    let shares = sum_shares(
        &cohort.keys[1],
        &cohort.context,
        seat(2),
        &cohort.sealed_to(1),
    );
    fails(shares, Check::Sealed(seat(0)));
}

#[test]
fn shares_swapped_between_senders_do_not_open() {
    let cohort = Cohort::all(3, 10);
    let mut sealed = cohort.sealed_to(0);
    let first = sealed[0].1.clone();
    sealed[0].1 = std::mem::replace(&mut sealed[1].1, first);
    let shares = sum_shares(&cohort.keys[0], &cohort.context, seat(0), &sealed);
    fails(shares, Check::Sealed(seat(0)));
}

#[test]
fn a_garbage_share_is_passed_over_with_surplus_and_fails_without() {
    let cohort = Cohort::all(4, 10);
    // The key-sum share of another round is as good as garbage.
    let garbage = || Cohort::all(4, 10).share(2).unwrap();
    let mut shares = cohort.released(&[0, 1, 2, 3]).unwrap();
    shares[2].1 = garbage();
    let key = cohort.rebuild(shares).unwrap();
    assert_eq!(key.disagreeing(), [seat(2)]);
    assert_eq!(
        cohort.open(&key, &cohort.sum()).unwrap().0.into_values(),
        cohort.plain_sum()
    );

    let mut shares = cohort.released(&[0, 1, 2]).unwrap();
    shares[2].1 = garbage();
    fails(cohort.rebuild(shares), Check::KeySum);
}

#[test]
fn a_missing_contributors_share_fails() {
    let cohort = Cohort::all(3, 10);
    let partial = |at: usize| {
        let sealed = cohort.sealed_to(at);
        (
            seat(at),
            sum_shares(&cohort.keys[at], &cohort.context, seat(at), &sealed[1..]).unwrap(),
        )
    };
    // Consistently without contributor 0: a right-sized sum of the wrong keys.
    let key = cohort.rebuild(vec![partial(0), partial(1)]).unwrap();
    fails(cohort.open(&key, &cohort.sum()), Check::Residual);
    // Inconsistently: garbage.
    let shares = vec![partial(0), (seat(1), cohort.share(1).unwrap())];
    fails(cohort.rebuild(shares), Check::KeySum);
}

#[test]
fn too_few_shares_are_refused() {
    let cohort = Cohort::all(4, 10);
    let error = cohort
        .rebuild(cohort.released(&[0, 1]).unwrap())
        .err()
        .unwrap();
    assert!(matches!(&error, Error::Refused(why) if why.contains('3') && why.contains('2')));
}

#[test]
fn what_does_not_fit_the_cohort_is_misuse() {
    let cohort = Cohort::all(3, 4);
    let (p, c) = (&cohort.parameters, &cohort.context);
    let seats = every_seat(&cohort.seats).unwrap();
    let seal = |at: usize, t: usize, seats: &[(ShareIndex, SealingKey)], values: &[i64]| {
        contribute(p, c, seat(at), t, seats, values, std::io::sink()).map(|_| ())
    };
    let twice = [seats[0].clone(), seats[0].clone(), seats[1].clone()];
    let beyond = [seats[0].clone(), (seat(3), seats[1].1.clone())];
    assert!(seal(0, 2, &seats, &[2047, -2047]).is_ok());
    assert!(seal(0, 2, &seats[1..], &[1]).is_ok());
    for misuse in [
        seal(0, 2, &seats, &[2048]),
        seal(0, 2, &seats, &[-2048]),
        seal(0, 2, &seats, &[i64::MIN]),
        seal(0, 2, &seats, &[]),
        seal(3, 2, &seats, &[1]),
        seal(0, 1, &seats, &[1]),
        seal(0, 4, &seats, &[1]),
        seal(0, 3, &seats[1..], &[1]),
        seal(0, 2, &twice, &[1]),
        seal(0, 2, &beyond, &[1]),
        sum_shares(&cohort.keys[0], c, seat(0), &[]).map(|_| ()),
        sum_shares(
            &cohort.keys[0],
            c,
            seat(0),
            &[cohort.sealed_to(0), cohort.sealed_to(0)].concat(),
        )
        .map(|_| ()),
    ] {
        assert!(matches!(misuse, Err(Error::Misuse(_))));
    }
    let (key, sum) = (cohort.key(), cohort.sum());
    let opened = cohort.open_as(&key, c, &cohort.roster, &cohort.checks()[1..], &sum, &sum);
    assert!(matches!(opened, Err(Error::Misuse(_))));
}

#[test]
fn a_full_disk_is_a_fault() {
    let cohort = Cohort::all(3, 4);
    let mut short = [0_u8; 100];
    let written = contribute(
        &cohort.parameters,
        &cohort.context,
        seat(0),
        2,
        &every_seat(&cohort.seats).unwrap(),
        &[1],
        short.as_mut_slice(),
    );
    assert!(matches!(written, Err(Error::Fault(_))));
}

/// Shares for a committee alone: members 2, 4 and 6 of seven hold them, two of them open the sum of all seven bodies, which
/// nobody else's shares are needed for, and one does not.
#[test]
fn a_committee_opens_the_sum_of_everybodys_bodies() {
    let n = 7;
    let mut cohort = Cohort::all(n, 9);
    let everybody = every_seat(&cohort.seats).unwrap();
    let committee: Vec<_> = [1, 3, 5].map(|at| everybody[at].clone()).into();
    let (context, roster) = (cohort.context, cohort.roster);
    for at in 0..n {
        let body = &mut cohort.bodies[at];
        body.clear();
        let (p, values) = (&cohort.parameters, &cohort.values[at]);
        cohort.sealed[at] = contribute(p, &context, seat(at), 2, &committee, values, body).unwrap();
        assert_eq!(cohort.sealed[at].sealed_shares.len(), 3);
    }
    // What the holder at a place of the committee releases, as the member at `to` opens it.
    let released = |place: usize, to: usize| {
        let from = committee[place].0;
        let sealed: Vec<_> = (0..n)
            .map(|at| (seat(at), cohort.sealed[at].sealed_shares[place].clone()))
            .collect();
        let share = sum_shares(&cohort.keys[from.position()], &context, from, &sealed).unwrap();
        let sealed = share
            .seal_to(&context, &roster, from, &cohort.seats)
            .unwrap();
        KeySumShare::open(
            &cohort.keys[to],
            &context,
            &roster,
            from,
            seat(to),
            &sealed[to],
        )
        .unwrap()
    };
    for pair in [[0, 1], [0, 2], [2, 1]] {
        for to in [0, 1] {
            let shares = pair.map(|place| released(place, to)).into();
            let key = KeySum::rebuild(&cohort.parameters, shares, 2, n).unwrap();
            let (opened, _) = cohort.open(&key, &cohort.sum()).unwrap();
            let opened = opened.into_values();
            for (at, opened) in opened.iter().enumerate() {
                let plain: i64 = cohort.values.iter().map(|values| values[at]).sum();
                assert_eq!(*opened, plain);
            }
        }
    }
    let one = vec![released(1, 0)];
    assert!(matches!(
        KeySum::rebuild(&cohort.parameters, one, 2, n),
        Err(Error::Refused(_))
    ));
    // A member outside it has no share to open, and another's does not open for it.
    let foreign = cohort.sealed[2].sealed_shares[0].clone();
    fails(
        sum_shares(&cohort.keys[0], &context, seat(0), &[(seat(2), foreign)]),
        Check::Sealed(seat(2)),
    );
}
