//! What `round` takes for a one-time key, without sealing code, is what this crate can seal to.

use ciphertune_gauss::Entropy;
use ciphertune_round::{Digest, Fingerprint, Object as _, OneTimeKeyOffer, PUBLIC_KEY_BYTES};
use ciphertune_seal::{OneTimeKey, SealingKey};
use rand_core::Rng as _;

/// ML-KEM-768: 768 coefficients of 12 bits stand first, then a seed and an X25519 point.
const COEFFICIENTS: usize = 768;
const VECTOR_BYTES: usize = COEFFICIENTS * 3 / 2;

/// Whether the server takes an offer of this key, and members seal to it: the same answer, or a panic.
#[track_caller]
fn taken(public_key: &[u8]) -> bool {
    let offer = OneTimeKeyOffer {
        member: Fingerprint::from_digest(Digest::sha256(b"a member")),
        serial: 1,
        public_key: public_key.to_vec(),
    };
    let offered = OneTimeKeyOffer::parse(&offer.serialise()).is_ok();
    assert_eq!(offered, SealingKey::parse(public_key).is_ok());
    offered
}

fn fresh(entropy: &mut Entropy) -> Vec<u8> {
    OneTimeKey::generate(entropy).unwrap().public()
}

/// `key` with one of its coefficients replaced.
fn with(key: &[u8], coefficient: usize, value: u16) -> Vec<u8> {
    let mut key = key.to_vec();
    let at = coefficient / 2 * 3;
    if coefficient.is_multiple_of(2) {
        key[at] = value as u8;
        key[at + 1] = key[at + 1] & 0xF0 | (value >> 8) as u8;
    } else {
        key[at + 1] = key[at + 1] & 0x0F | (value << 4) as u8;
        key[at + 2] = (value >> 4) as u8;
    }
    key
}

#[test]
fn every_key_that_is_made_is_taken() {
    let mut entropy = Entropy::from_os().unwrap();
    for _ in 0..200 {
        assert!(taken(&fresh(&mut entropy)));
    }
}

#[test]
fn a_key_with_one_coefficient_of_q_or_more_is_taken_by_neither() {
    let mut entropy = Entropy::from_os().unwrap();
    let key = fresh(&mut entropy);
    for coefficient in 0..COEFFICIENTS {
        assert!(taken(&with(&key, coefficient, 0)));
        assert!(taken(&with(&key, coefficient, 3_328)));
        assert!(!taken(&with(&key, coefficient, 3_329)));
        assert!(!taken(&with(&key, coefficient, 4_095)));
    }
}

#[test]
fn any_bytes_get_the_same_answer_from_both() {
    let mut entropy = Entropy::from_os().unwrap();
    let key = fresh(&mut entropy);
    let mut refused = 0;
    for _ in 0..2_000 {
        // One byte of a good key replaced: about one in fifteen is a coefficient of q or more.
        let mut mutated = key.clone();
        let place = (entropy.next_u64() % PUBLIC_KEY_BYTES as u64) as usize;
        mutated[place] = entropy.next_u64() as u8;
        let good = taken(&mutated);
        assert!(good || place < VECTOR_BYTES, "byte {place}");
        refused += usize::from(!good);
    }
    assert!(refused > 20, "{refused} of 2,000 mutations were refused");
    for _ in 0..50 {
        let mut random = vec![0; PUBLIC_KEY_BYTES];
        entropy.fill_bytes(&mut random);
        assert!(!taken(&random), "a chance of (3329/4096)^768 < 2^-229");
    }
    for length in [0, 1, VECTOR_BYTES, PUBLIC_KEY_BYTES - 1] {
        assert!(!taken(&key[..length]));
    }
    assert!(!taken(&[key.as_slice(), &[0]].concat()));
}
