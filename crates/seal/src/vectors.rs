//! Known answers: `tests/vectors/seal/*.json`, made by `tests/vectors/generate.py` in plain Python.

use ciphertune_round::{Context, Digest, ShareIndex};
use ciphertune_sum::{CohortSize, N, Parameters, Q, ValueBound, codec, modular};
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;
use serde_json::Value;

use crate::body::{Masks, open_block, seal_block};
use crate::check::check_value;
use crate::contribute::seat_at;
use crate::packing::{pack, unpack};
use crate::ring::Ring;
use crate::secret::SecretBlock;
use crate::words::{PublicWords, uniform_words};
use crate::{CheckValue, KeySum, KeySumShare, shamir};

macro_rules! vector {
    ($name:literal) => {
        serde_json::from_str::<Value>(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/vectors/seal/",
            $name
        )))
        .unwrap()
    };
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
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

fn encoded(words: &[u64]) -> Vec<u8> {
    let mut bytes = Vec::new();
    codec::encode_words(words, &mut bytes);
    bytes
}

fn expect_words(words: &[u64], expected: &Value) {
    for (word, first) in words.iter().zip(expected["first"].as_array().unwrap()) {
        assert_eq!(*word, number::<u64>(first));
    }
    assert_eq!(words[words.len() - 1], number::<u64>(&expected["last"]));
    assert_eq!(
        Digest::sha256(&encoded(words)).to_string(),
        text(&expected["sha256"])
    );
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

fn key_of(vector: &Value) -> SecretBlock {
    let mut key = SecretBlock::zero();
    let drawn = small(
        &vector["key_seed"],
        0,
        N,
        number(&vector["small_magnitude"]),
    );
    for (word, coefficient) in key.expose_mut().iter_mut().zip(drawn) {
        *word = modular::from_i64(coefficient);
    }
    key
}

#[test]
fn public_words_are_those_of_the_vectors() {
    let vector = vector!("words.json");
    for (name, label) in [
        ("mask", ciphertune_round::label::MASK),
        ("check", ciphertune_round::label::CHECK),
    ] {
        let vector = &vector[name];
        assert_eq!(text(&vector["label"]), label);
        let info = text(&vector["info"]).as_bytes();
        let words = PublicWords::new(label, &bytes32(&vector["ikm"]), info).unwrap();
        for stream in vector["streams"].as_array().unwrap() {
            let mut out = vec![0; N];
            words.fill(number(&stream["stream"]), &mut out);
            expect_words(&out, stream);
        }
    }
}

#[test]
fn a_body_and_its_check_value_are_those_of_the_vectors() {
    let vector = vector!("body.json");
    let cohort = CohortSize::new(number(&vector["members"])).unwrap();
    let bound = ValueBound::new(number(&vector["value_bound"])).unwrap();
    let p = Parameters::derive(cohort, bound).unwrap();
    assert_eq!(p.name(), text(&vector["parameters"]));
    let length = number(&vector["length"]);
    let values = small(&vector["value_seed"], 0, length, p.value_bound());
    let context = Context::from_digest(Digest::from_bytes(bytes32(&vector["context"])));
    let (ring, masks) = (Ring::new().unwrap(), Masks::of(&context).unwrap());
    let spectrum = ring.spectrum(&key_of(&vector));
    let magnitude = number(&vector["small_magnitude"]);

    let (mut body, mut opened) = (Vec::new(), Vec::new());
    for (j, values) in values.chunks(p.values_per_block()).enumerate() {
        let errors = small(&vector["error_seed"], j as u64, N, magnitude);
        let (mut block, mut message) = (vec![0; N], vec![0; N]);
        masks.fill(j, &mut block);
        pack(&p, values, &mut message);
        seal_block(&ring, &spectrum, &errors, &message, &mut block);
        body.extend_from_slice(&block);
        let mut words = vec![0; N];
        masks.fill(j, &mut words);
        open_block(&ring, &spectrum, &block, &mut words);
        let mut slots = vec![0; p.values_per_block()];
        assert!(unpack(&p, &words, &mut slots).residual <= magnitude);
        opened.extend_from_slice(&slots[..values.len()]);
    }
    expect_words(&body, &vector["body"]);
    assert_eq!(opened, values);

    let roster = Digest::from_bytes(bytes32(&vector["roster"]));
    let check = check_value(&p, length, &roster, encoded(&body).as_slice()).unwrap();
    let expected = [
        number(&vector["check_value"][0]),
        number(&vector["check_value"][1]),
    ];
    assert_eq!(check, CheckValue(expected));
}

#[test]
fn shares_the_key_and_the_agreement_are_those_of_the_vectors() {
    let vector = vector!("shares.json");
    let (t, n) = (number(&vector["threshold"]), number(&vector["members"]));
    let mut rng = ChaCha12Rng::from_seed(bytes32(&vector["coefficient_seed"]));
    let mut shares: Vec<(ShareIndex, KeySumShare)> =
        shamir::split(&key_of(&vector), t, n, &mut rng)
            .into_iter()
            .enumerate()
            .map(|(i, words)| (seat_at(i).unwrap(), KeySumShare { words }))
            .collect();
    for ((point, share), expected) in shares.iter().zip(vector["shares"].as_array().unwrap()) {
        assert_eq!(point.get(), number::<u16>(&expected["point"]));
        expect_words(share.words.expose(), expected);
    }
    let from: Vec<u16> = vector["rebuild_from"]
        .as_array()
        .unwrap()
        .iter()
        .map(number::<u16>)
        .collect();
    shares.retain(|(point, _)| from.contains(&point.get()));
    let p = Parameters::derive(CohortSize::new(n).unwrap(), ValueBound::new(2047).unwrap());
    let key = KeySum::rebuild(&p.unwrap(), shares, t, 1).unwrap();
    expect_words(key.words.expose(), &vector["key"]);
    assert!(key.words.expose().iter().all(|word| *word < Q));

    let agreement = &vector["agreement"];
    let context = Context::from_digest(Digest::from_bytes(bytes32(&agreement["context"])));
    let model = Digest::from_bytes(bytes32(&agreement["model"]));
    let digest = key.agreement(&context, &model).unwrap();
    assert_eq!(digest.to_string(), text(&agreement["digest"]));
}
