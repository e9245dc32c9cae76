//! Secrets are wiped before their memory is given back: a round is run on an allocator that keeps every block as it was
//! when it was freed, and the blocks are looked through for the round's secrets.
//!
//! What the test looks for it works out afterwards, from the one-time keys' seeds and the messages, as somebody who
//! takes a member's machine could. Copies on the stack and in registers are out of its sight.

mod freed;

use std::num::NonZeroUsize;

use ciphertune_gauss::{Entropy, insecure::InsecureEntropy};
use ciphertune_round::{Context, Digest, ShareIndex, label};
use ciphertune_seal::{
    KeySum, KeySumShare, OneTimeKey, SealedContribution, SealingKey, check_value, contribute,
    every_seat, kernels::spectrum, open_on, sum_shares,
};
use ciphertune_sum::{
    BLOCK_BYTES, CohortSize, N, Parameters, ValueBound, add_bodies, codec, modular,
};
use freed::{Secret, Turn, found};
use hkdf::Hkdf;
use hpke::{Deserializable, Kem, OpModeR, aead::ChaCha20Poly1305, kdf::HkdfSha256, kem::XWing};
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng, SeedableRng};
use sha2::Sha256;
use shake::{ExtendableOutput, Shake256, Update, XofReader};
use tfhe_ntt::prime64::Plan;
use zeroize::Zeroizing;

#[global_allocator]
static ALLOCATOR: freed::Keeping = freed::Keeping;

const MEMBERS: usize = 3;
const CONTRIBUTORS: usize = 2;
const THRESHOLD: usize = 2;

/// What a round leaves: all that the secrets can be worked out from.
struct Round {
    seeds: Vec<Zeroizing<Vec<u8>>>,
    sealed: Vec<SealedContribution>,
    bodies: Vec<Vec<u8>>,
    opened: Vec<i64>,
}

fn parameters() -> Parameters {
    let members = CohortSize::new(MEMBERS).unwrap();
    Parameters::derive(members, ValueBound::new(2047).unwrap()).unwrap()
}

fn context() -> Context {
    Context::of_plan(b"wiped")
}

fn seat(position: usize) -> ShareIndex {
    ShareIndex::at(position).unwrap()
}

/// Two blocks of values for each contributor, but for a few.
fn values() -> Vec<Vec<i64>> {
    let mut rng = InsecureEntropy::from_seed(7);
    let mut one = || (rng.next_u64() % 4095) as i64 - 2047;
    let length = 2 * parameters().values_per_block() - 5;
    (0..CONTRIBUTORS)
        .map(|_| (0..length).map(|_| one()).collect())
        .collect()
}

/// Keys made, shared, sealed, opened, summed; a sum opened.
fn round(values: &[Vec<i64>]) -> Round {
    let (p, context, roster) = (parameters(), context(), Digest::sha256(b"roster"));
    let mut entropy = Entropy::from_os().unwrap();
    let keys: Vec<OneTimeKey> = (0..MEMBERS)
        .map(|_| OneTimeKey::generate(&mut entropy).unwrap())
        .collect();
    drop(entropy);
    let seeds: Vec<_> = keys.iter().map(OneTimeKey::store_bytes).collect();
    let keys: Vec<OneTimeKey> = keys
        .into_iter()
        .map(|key| OneTimeKey::from_stored(&key.store_bytes()).unwrap())
        .collect();
    let seats: Vec<SealingKey> = keys
        .iter()
        .map(|key| SealingKey::parse(&key.public()).unwrap())
        .collect();

    let holders = every_seat(&seats).unwrap();
    let (mut sealed, mut bodies) = (Vec::new(), Vec::new());
    for (position, values) in values.iter().enumerate() {
        let mut body = Vec::new();
        let from = seat(position);
        sealed
            .push(contribute(&p, &context, from, THRESHOLD, &holders, values, &mut body).unwrap());
        bodies.push(body);
    }

    let released: Vec<(ShareIndex, KeySumShare)> = (0..MEMBERS)
        .map(|at| {
            let to_it: Vec<_> = (0..CONTRIBUTORS)
                .map(|from| (seat(from), sealed[from].sealed_shares[at].clone()))
                .collect();
            let share = sum_shares(&keys[at], &context, seat(at), &to_it).unwrap();
            let out = share.seal_to(&context, &roster, seat(at), &seats).unwrap();
            KeySumShare::open(&keys[0], &context, &roster, seat(at), seat(0), &out[0]).unwrap()
        })
        .collect();
    let key = KeySum::rebuild(&p, released, THRESHOLD, CONTRIBUTORS).unwrap();
    let _agreed = key
        .agreement_key()
        .unwrap()
        .agreement(&context, &Digest::sha256(b"model"));

    let length = values[0].len();
    let checks: Vec<_> = bodies
        .iter()
        .map(|body| check_value(&p, length, &roster, body.as_slice()).unwrap())
        .collect();
    let mut sum = Vec::new();
    let mut readers: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    add_bodies(&p, length, &mut readers, &mut sum).unwrap();
    let open_into = |digest: &Digest, into: Vec<i64>| {
        let (one, c, sum) = (NonZeroUsize::MIN, CONTRIBUTORS, sum.as_slice());
        open_on(
            one, &p, length, &context, &roster, &key, c, &checks, digest, sum, into,
        )
    };
    // What is found and then refused is dropped by the library, and so is what stood in a vector that does not fit.
    let another = Digest::sha256(b"another sum");
    assert!(open_into(&another, values[0].clone()).is_err());
    let (opened, _) = open_into(&Digest::sha256(&sum), values[0][1..].to_vec()).unwrap();
    Round {
        seeds,
        sealed,
        bodies,
        opened: opened.into_values(),
    }
}

impl Round {
    /// The share that `from` sealed to `to`, opened as the protocol's text says: HPKE, info = label, associated data =
    /// context ‖ sender ‖ recipient.
    fn share(&self, from: usize, to: usize) -> Vec<u64> {
        let (encapped, ciphertext) = self.sealed[from].sealed_shares[to].split_at(1120);
        let context = context();
        let bound = [
            context.as_bytes().as_slice(),
            &seat(from).get().to_le_bytes(),
            &seat(to).get().to_le_bytes(),
        ]
        .concat();
        let plain = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, XWing>(
            &OpModeR::Base,
            &<XWing as Kem>::PrivateKey::from_bytes(&self.seeds[to]).unwrap(),
            &<XWing as Kem>::EncappedKey::from_bytes(encapped).unwrap(),
            label::SEAL_SHARE.as_bytes(),
            ciphertext,
            &bound,
        )
        .unwrap();
        decode(&plain)
    }

    /// Everything that nobody may find, worked out from what is left.
    fn secrets(&self, values: &[Vec<i64>]) -> Vec<Secret> {
        let mut secrets = Vec::new();
        for seed in &self.seeds {
            secrets.push(Secret::bytes("a one-time key's seed", seed));
            let [d, z, x25519] = x_wing(seed);
            secrets.push(Secret::bytes("ML-KEM's d", &d));
            secrets.push(Secret::bytes("ML-KEM's z", &z));
            secrets.push(Secret::bytes("an X25519 key", &x25519));
        }
        let mask = mask();
        let mut sum = vec![0; N];
        let mut sums_of_shares = vec![vec![0; N]; MEMBERS];
        for (from, values) in values.iter().enumerate() {
            let shares: Vec<Vec<u64>> = (0..MEMBERS).map(|to| self.share(from, to)).collect();
            let slope = zip(&shares[1], &shares[0], modular::sub);
            let key = self.key(from);
            assert_small(&key, 1);
            let errors = residues(&zip(
                &decode(&self.bodies[from][..BLOCK_BYTES]),
                &times(&mask, &key),
                modular::sub,
            ));
            assert_small(&errors, 1);
            secrets.push(Secret::small("a member's key", &key));
            secrets.push(Secret::small("a member's key as drawn", &as_drawn(&key)));
            secrets.push(Secret::words(
                "a member's key, transformed",
                &spectrum(&key),
            ));
            secrets.push(Secret::words("a Shamir coefficient", &slope));
            secrets.push(Secret::small("the errors of a body", &as_drawn(&errors)));
            secrets.push(Secret::small("an update", &integers(values)));
            for (to, share) in shares.iter().enumerate() {
                secrets.push(Secret::words("a share of a key", share));
                ciphertune_sum::add_assign(&mut sums_of_shares[to], share);
            }
            ciphertune_sum::add_assign(&mut sum, &key);
        }
        for share in &sums_of_shares {
            secrets.push(Secret::words("a share of the key sum", share));
        }
        secrets.push(Secret::small("the key sum", &sum));
        secrets.push(Secret::words("the key sum, transformed", &spectrum(&sum)));
        secrets.push(Secret::bytes(
            "the key of the agreement",
            &agreement_key(&sum),
        ));
        let mut body = decode(&self.bodies[0][..BLOCK_BYTES]);
        ciphertune_sum::add_assign(&mut body, &decode(&self.bodies[1][..BLOCK_BYTES]));
        let opened = zip(&body, &times(&mask, &sum), modular::sub);
        secrets.push(Secret::words("the opened words", &opened));
        secrets.push(Secret::small("the opened sum", &integers(&self.opened)));
        secrets
    }

    fn key(&self, from: usize) -> Vec<u64> {
        let (one, two) = (self.share(from, 0), self.share(from, 1));
        zip(&zip(&one, &one, modular::add), &two, modular::sub)
    }
}

#[test]
fn no_freed_block_of_a_round_holds_a_secret() {
    let turn = Turn::take();
    let values = values();
    let (round, freed) = turn.freed_during(|| round(&values));
    let sum: Vec<i64> = values[0]
        .iter()
        .zip(&values[1])
        .map(|(a, b)| a + b)
        .collect();
    assert!(round.opened == sum, "the round itself went wrong");
    assert!(freed.len() > 1 << 20, "{} bytes were freed", freed.len());
    // It looked in the right place: what is public was freed too, and is found.
    let public = Secret::bytes("the end of a body", &round.bodies[0][BLOCK_BYTES..]);
    assert!(!found(&freed, &[public]).is_empty());
    assert_eq!(found(&freed, &round.secrets(&values)), Default::default());
}

/// SECURITY.md says so. tfhe multiplies by Karatsuba's rule, which adds halves (of halves …) of S in vectors of its own.
/// From those in freed memory S could be worked out: the sum, which every member holds, of this context alone.
#[test]
fn tfhe_leaves_sums_of_halves_of_the_key_sum_and_of_no_members_key() {
    let turn = Turn::take();
    let values = values();
    let (round, freed) = turn.freed_during(|| round(&values));
    let keys: Vec<Vec<u64>> = (0..CONTRIBUTORS).map(|from| round.key(from)).collect();
    let halves_added = |name, key: &[u64]| {
        let (low, high) = key.split_at(N / 2);
        Secret::small(name, &zip(low, high, modular::add))
    };
    let sum = zip(&keys[0], &keys[1], modular::add);
    let left = found(
        &freed,
        &[
            halves_added("of the sum", &sum),
            halves_added("of a member", &keys[0]),
            halves_added("of another", &keys[1]),
        ],
    );
    let names: Vec<&str> = left.into_keys().collect();
    // If nothing is left one day, tfhe wipes its temporaries, and SECURITY.md may say so.
    assert_eq!(names, ["of the sum"]);
}

/// The search can fail: what is dropped without being wiped is found, wherever it begins in its block.
#[test]
fn a_secret_that_is_not_wiped_is_found() {
    let turn = Turn::take();
    let words: Vec<u64> = (1..=64_u64)
        .map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15))
        .collect();
    let secret = [Secret::words("unwiped", &words)];
    let ((), freed) = turn.freed_during(|| drop(std::hint::black_box(words.clone())));
    assert_eq!(found(&freed, &secret)["unwiped"], 32);

    let ((), freed) =
        turn.freed_during(|| drop(std::hint::black_box(Zeroizing::new(words.clone()))));
    assert_eq!(found(&freed, &secret), Default::default());

    // Wiped at the end, but grown in between.
    let ((), freed) = turn.freed_during(|| {
        let mut grown = Zeroizing::new(words.clone());
        grown.reserve_exact(1000);
        drop(std::hint::black_box(grown));
    });
    assert_eq!(found(&freed, &secret)["unwiped"], 32);

    let odd = [[7; 3].as_slice(), &freed::little_endian(&words)].concat();
    let ((), freed) = turn.freed_during(|| drop(std::hint::black_box(odd.clone())));
    assert_eq!(found(&freed, &secret)["unwiped"], 32);

    let small: Vec<u64> = (0..32)
        .map(|i| modular::from_i64(i * i % 101 - 50))
        .collect();
    let secret = [Secret::small("small", &small)];
    let ((), freed) = turn.freed_during(|| drop(std::hint::black_box(small.clone())));
    assert_eq!(found(&freed, &secret)["small"], 2);
}

fn decode(bytes: &[u8]) -> Vec<u64> {
    let mut words = vec![0; bytes.len() / 8];
    codec::decode_words(bytes, &mut words).unwrap();
    words
}

fn zip(a: &[u64], b: &[u64], combine: fn(u64, u64) -> u64) -> Vec<u64> {
    a.iter().zip(b).map(|(a, b)| combine(*a, *b)).collect()
}

/// Keys and errors are recognised by their size: what is looked for is the right thing.
fn assert_small(words: &[u64], members: usize) {
    let bound = parameters().error_bound(members);
    assert!(
        words
            .iter()
            .all(|word| modular::centred(*word).unsigned_abs() <= bound)
    );
}

/// Signed, as the sampler writes them.
fn as_drawn(words: &[u64]) -> Vec<u64> {
    words
        .iter()
        .map(|word| modular::centred(*word) as u64)
        .collect()
}

fn integers(values: &[i64]) -> Vec<u64> {
    values.iter().map(|value| *value as u64).collect()
}

/// e of Δ·m + e.
fn residues(words: &[u64]) -> Vec<u64> {
    let delta = parameters().delta_log2();
    let residue = |word: &u64| {
        let centred = modular::centred(*word);
        modular::from_i64(centred - (((centred + (1 << (delta - 1))) >> delta) << delta))
    };
    words.iter().map(residue).collect()
}

fn times(mask: &[u64], key: &[u64]) -> Vec<u64> {
    let plan = Plan::try_new(N, ciphertune_sum::Q).unwrap();
    let mut product = mask.to_vec();
    plan.fwd(&mut product);
    let mut spectrum = key.to_vec();
    plan.fwd(&mut spectrum);
    plan.normalize(&mut spectrum);
    let mut product = zip(&product, &spectrum, modular::mul);
    plan.inv(&mut product);
    product
}

/// The mask of block 0.
fn mask() -> Vec<u64> {
    let mut rng = ChaCha12Rng::from_seed(derived(label::MASK, context().as_bytes(), b"mask"));
    std::iter::repeat_with(|| rng.next_u64())
        .filter(|word| *word < ciphertune_sum::Q)
        .take(N)
        .collect()
}

fn agreement_key(sum: &[u64]) -> [u8; 32] {
    derived(label::AGREE, &freed::little_endian(sum), b"agree")
}

fn derived(salt: label::Label, ikm: &[u8], info: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    Hkdf::<Sha256>::new(Some(salt.as_bytes()), ikm)
        .expand(info, &mut key)
        .unwrap();
    key
}

/// What X-Wing expands its seed to (draft-connolly-cfrg-xwing-kem, expandDecapsulationKey): ML-KEM's d and z, and the
/// X25519 key.
fn x_wing(seed: &[u8]) -> [[u8; 32]; 3] {
    let mut shake = Shake256::default();
    shake.update(seed);
    let mut reader = shake.finalize_xof();
    [(); 3].map(|()| {
        let mut part = [0; 32];
        reader.read(&mut part);
        part
    })
}
