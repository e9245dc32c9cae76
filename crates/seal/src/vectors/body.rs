//! Key, errors and values to a body and its check value.

use ciphertune_round::Context;
use ciphertune_sum::N;

use super::{digest, encoded, expect_words, key_of, number, pair, parameters, read, small};
use crate::body::{Masks, open_block, seal_block};
use crate::check::check_value;
use crate::packing::{pack, unpack};
use crate::ring::Ring;

#[test]
fn a_body_and_its_check_value_are_those_of_the_vectors() {
    let vector = read("body.json");
    let p = parameters(&vector);
    let length = number(&vector["length"]);
    let values = small(&vector["value_seed"], 0, length, p.value_bound());
    let context = Context::from_digest(digest(&vector["context"]));
    let (ring, masks) = (Ring::new(), Masks::of(&context).unwrap());
    let magnitude = number(&vector["small_magnitude"]);
    let spectrum = ring.spectrum(&key_of(&vector, magnitude));

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

    let roster = digest(&vector["roster"]);
    let check = check_value(&p, length, &roster, encoded(&body).as_slice()).unwrap();
    assert_eq!(check, pair(&vector["check_value"]));
}
