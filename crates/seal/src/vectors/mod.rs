//! Known answers: `tests/vectors/seal/*.json`, made by `tests/vectors/generate.py` in plain Python.

use ciphertune_round::Digest;
use ciphertune_sum::{CohortSize, N, Parameters, ValueBound, codec, modular};
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;
use serde_json::Value;

use crate::CheckValue;
use crate::secret::SecretBlock;
use crate::words::uniform_words;

mod body;
mod refused;
mod round;
mod shares;
mod words;

/// A file of vectors.
fn read(name: &str) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/seal/");
    serde_json::from_slice(&std::fs::read(format!("{folder}{name}")).unwrap()).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn array(value: &Value) -> &[Value] {
    value.as_array().unwrap()
}

fn number<T: std::str::FromStr<Err: std::fmt::Debug>>(value: &Value) -> T {
    value
        .as_str()
        .map_or_else(|| value.to_string(), String::from)
        .parse()
        .unwrap()
}

fn bytes32(value: &Value) -> [u8; 32] {
    hex::decode(text(value)).unwrap().try_into().unwrap()
}

fn digest(value: &Value) -> Digest {
    Digest::from_bytes(bytes32(value))
}

/// A check value.
fn pair(value: &Value) -> CheckValue {
    CheckValue([number(&value[0]), number(&value[1])])
}

/// 1..=n: everybody's point.
fn points(members: usize) -> Vec<u64> {
    (1..=members as u64).collect()
}

/// The parameter set that a file names.
fn parameters(vector: &Value) -> Parameters {
    let cohort = CohortSize::new(number(&vector["members"])).unwrap();
    let bound = ValueBound::new(number(&vector["value_bound"])).unwrap();
    let parameters = Parameters::derive(cohort, bound).unwrap();
    assert_eq!(parameters.name(), text(&vector["parameters"]));
    parameters
}

fn encoded(words: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode_words(words, &mut bytes);
    bytes
}

fn expect_words(words: &[u64], expected: &Value) {
    for (word, first) in words.iter().zip(array(&expected["first"])) {
        assert_eq!(*word, number::<u64>(first));
    }
    assert_eq!(words[words.len() - 1], number::<u64>(&expected["last"]));
    assert_eq!(Digest::sha256(&encoded(words)), digest(&expected["sha256"]));
}

fn expect_values(values: &[i64], expected: &Value) {
    for (value, first) in values.iter().zip(array(&expected["first"])) {
        assert_eq!(*value, number::<i64>(first));
    }
    assert_eq!(values[values.len() - 1], number::<i64>(&expected["last"]));
    let bytes: Vec<u8> = values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect();
    assert_eq!(Digest::sha256(&bytes), digest(&expected["sha256"]));
}

/// word mod (2·magnitude + 1) − magnitude.
fn small(seed: &Value, stream: u64, count: usize, magnitude: u64) -> Vec<i64> {
    let mut rng = ChaCha12Rng::from_seed(bytes32(seed));
    rng.set_stream(stream);
    let mut words = vec![0; count];
    uniform_words(&mut rng, &mut words);
    words
        .iter()
        .map(|w| (w % (2 * magnitude + 1)) as i64 - magnitude as i64)
        .collect()
}

/// The key of a seed in `vector`, small coefficients modulo q.
fn key_of(vector: &Value, magnitude: u64) -> SecretBlock {
    let mut key = SecretBlock::zero();
    let drawn = small(&vector["key_seed"], 0, N, magnitude);
    for (word, coefficient) in key.expose_mut().iter_mut().zip(drawn) {
        *word = modular::from_i64(coefficient);
    }
    key
}
