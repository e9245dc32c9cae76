//! Words, bodies and sums of bodies; one-time keys and what is sealed to them.

use std::sync::OnceLock;

use ciphertune_round::{Context, Digest, PUBLIC_KEY_BYTES, ShareIndex};
use ciphertune_seal::{
    CheckValue, KeySum, OneTimeKey, SEALED_SHARE_BYTES, SealingKey, check_value, contribute,
    every_seat, open, sum_shares,
};
use ciphertune_sum::{
    BLOCK_BYTES, CohortSize, N, Parameters, Q, ValueBound, add_bodies, codec, modular,
};

use crate::vectors;

/// Three members, |v| ≤ 2047.
fn parameters() -> Parameters {
    Parameters::derive(CohortSize::new(3).unwrap(), ValueBound::new(2047).unwrap()).unwrap()
}

fn seat(position: usize) -> ShareIndex {
    ShareIndex::at(position).unwrap()
}

/// Words of a body or a share.
pub fn words(data: &[u8]) -> bool {
    let checked = codec::check_words(data).is_ok();
    let mut words = vec![0; data.len() / 8];
    let decoded = codec::decode_words(data, &mut words).is_ok();
    assert_eq!(checked, decoded, "two readers of words disagree");
    if decoded {
        assert!(words.iter().all(|word| *word < Q));
        let mut bytes = Vec::new();
        codec::encode_words(&words, &mut bytes);
        assert!(bytes == data);
    }
    decoded
}

/// A member's sealing key, as another one offers it. What is taken can be sealed to.
pub fn sealing_key(data: &[u8]) -> bool {
    let Ok(key) = SealingKey::parse(data) else {
        return false;
    };
    assert_eq!(data.len(), PUBLIC_KEY_BYTES);
    let seats = every_seat(&[key.clone(), key.clone(), key]).unwrap();
    let context = Context::of_plan(b"fuzz");
    let sealed = contribute(
        &parameters(),
        &context,
        seat(0),
        2,
        &seats,
        &[1],
        std::io::sink(),
    );
    let sealed = sealed.unwrap().sealed_shares;
    assert!(sealed.iter().all(|share| share.len() == SEALED_SHARE_BYTES));
    true
}

/// The stored half of a one-time key.
pub fn stored_key(data: &[u8]) -> bool {
    let Ok(key) = OneTimeKey::from_stored(data) else {
        return false;
    };
    assert_eq!(key.store_bytes().as_slice(), data);
    assert!(SealingKey::parse(&key.public()).is_ok());
    true
}

/// The share that the first member of the vectors' round sealed to the second: nothing else may open in its place.
pub fn sealed_share(data: &[u8]) -> bool {
    struct Known {
        key: OneTimeKey,
        context: Context,
        sha256: Digest,
    }
    static KNOWN: OnceLock<Known> = OnceLock::new();
    let known = KNOWN.get_or_init(|| {
        let round = vectors::read("seal/round.json");
        let [first, second] = [0, 1].map(|at| &round["contributors"][at]);
        Known {
            key: OneTimeKey::from_stored(&vectors::bytes(&second["one_time_key"])).unwrap(),
            context: Context::from_digest(vectors::digest(&round["context"])),
            sha256: vectors::digest(&first["shares"][1]["sha256"]),
        }
    });
    let opened = sum_shares(
        &known.key,
        &known.context,
        seat(1),
        &[(seat(0), data.to_vec())],
    );
    assert!(
        opened.is_err() || Digest::sha256(data) == known.sha256,
        "a forgery"
    );
    opened.is_ok()
}

/// A body of one block, as the server adds it and as a member checks it.
pub fn body(data: &[u8]) -> bool {
    let (p, roster) = (parameters(), Digest::sha256(b"fuzz"));
    let checked = check_value(&p, 1, &roster, data).is_ok();
    let mut sum = Vec::new();
    let added = add_bodies(&p, 1, &mut [data], &mut sum).is_ok();
    assert_eq!(added, checked, "two readers of a body disagree");
    if added {
        assert!(
            sum == data && data.len() == BLOCK_BYTES,
            "the sum of one body is another"
        );
    }
    added
}

/// The sum of three contributions, with words added to it that a contributor could have added: records of a place, u16,
/// and a word, u64, little-endian. Whatever opens is inside its bounds.
pub fn sum(data: &[u8]) -> bool {
    struct Known {
        context: Context,
        key: KeySum,
        sum: Vec<u64>,
    }
    static KNOWN: OnceLock<Known> = OnceLock::new();
    let p = parameters();
    let known = KNOWN.get_or_init(|| {
        let context = Context::of_plan(b"fuzz");
        let keys = [[1; 32], [2; 32], [3; 32]].map(|seed| OneTimeKey::from_stored(&seed).unwrap());
        let seats = keys
            .each_ref()
            .map(|key| SealingKey::parse(&key.public()).unwrap());
        let seats = every_seat(&seats).unwrap();
        let (mut sum, mut shares) = (vec![0; N], Vec::new());
        for at in 0..3 {
            let (mut body, mut words) = (Vec::new(), vec![0; N]);
            let values = [2047, -2047, at as i64];
            let sealed = contribute(&p, &context, seat(at), 2, &seats, &values, &mut body).unwrap();
            codec::decode_words(&body, &mut words).unwrap();
            ciphertune_sum::add_assign(&mut sum, &words);
            shares.push((seat(at), sealed.sealed_shares));
        }
        let share = |to: usize| {
            let sealed: Vec<_> = shares
                .iter()
                .map(|(from, all)| (*from, all[to].clone()))
                .collect();
            (
                seat(to),
                sum_shares(&keys[to], &context, seat(to), &sealed).unwrap(),
            )
        };
        let key = KeySum::rebuild(&p, vec![share(0), share(2)], 2, 3).unwrap();
        Known { context, key, sum }
    });
    let mut words = known.sum.clone();
    for record in data.as_chunks::<10>().0 {
        let [low, high, word @ ..] = *record;
        let place = &mut words[usize::from(u16::from_le_bytes([low, high])) % N];
        *place = modular::add(*place, u64::from_le_bytes(word) % Q);
    }
    let mut bytes = Vec::new();
    codec::encode_words(&words, &mut bytes);
    let (context, roster, promised) = (
        &known.context,
        Digest::sha256(b"roster"),
        Digest::sha256(&bytes),
    );
    let zero = CheckValue([0; 2]);
    let checks = [
        check_value(&p, 3, &roster, bytes.as_slice()).unwrap(),
        zero,
        zero,
    ];
    match open(
        &p,
        3,
        context,
        &roster,
        &known.key,
        3,
        &checks,
        &promised,
        bytes.as_slice(),
    ) {
        Ok((opened, _)) => {
            let values = opened.into_values();
            assert!(
                values.len() == 3 && values.iter().all(|value| value.unsigned_abs() <= 3 * 2047)
            );
            true
        }
        Err(_) => false,
    }
}
