//! Context and roster to public words.

use ciphertune_round::label;
use ciphertune_sum::N;

use super::{array, bytes32, expect_words, number, read, text};
use crate::words::PublicWords;

#[test]
fn public_words_are_those_of_the_vectors() {
    let vector = read("words.json");
    for (name, expected) in [("mask", label::MASK), ("check", label::CHECK)] {
        let vector = &vector[name];
        assert_eq!(text(&vector["label"]), expected);
        let info = text(&vector["info"]).as_bytes();
        let words = PublicWords::new(expected, &bytes32(&vector["ikm"]), info).unwrap();
        for stream in array(&vector["streams"]) {
            let mut out = vec![0; N];
            words.fill(number(&stream["stream"]), &mut out);
            expect_words(&out, stream);
        }
    }
}
