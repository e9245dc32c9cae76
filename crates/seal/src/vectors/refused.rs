//! Sums at both sides of every edge that opening checks.

use ciphertune_round::{Context, Digest};
use ciphertune_sum::N;
use serde_json::Value;

use super::{array, encoded, number, parameters, read, text};
use crate::contribute::seat_at;
use crate::secret::SecretBlock;
use crate::{Check, CheckValue, Error, KeySum, KeySumShare, check_value, open};

/// What the case puts into a sum of zeros.
fn sum_of(case: &Value) -> Vec<u8> {
    let mut words = vec![0; N];
    let unreduced = case.get("unreduced").map(array).unwrap_or_default();
    for entry in array(&case["words"]).iter().chain(unreduced) {
        words[number::<usize>(&entry[0])] = number(&entry[1]);
    }
    let mut bytes = encoded(&words);
    let change = case.get("bytes").map_or(0, number::<isize>);
    bytes.resize(bytes.len().checked_add_signed(change).unwrap(), 0);
    bytes
}

/// The sum of the keys of one contributor that is zero, from shares that are zero.
fn zero_key(parameters: &ciphertune_sum::Parameters) -> KeySum {
    let zero = |at| {
        let words = SecretBlock::zero();
        (seat_at(at).unwrap(), KeySumShare { words })
    };
    KeySum::rebuild(parameters, vec![zero(0), zero(1)], 2, 1).unwrap()
}

#[test]
fn a_sum_is_opened_or_refused_as_the_vectors_say() {
    let vector = read("refused.json");
    let (p, length) = (parameters(&vector), number(&vector["length"]));
    let (context, roster) = (Context::of_plan(b"refused"), Digest::sha256(b"refused"));
    let key = zero_key(&p);
    let mut seen = std::collections::BTreeSet::new();
    for case in array(&vector["cases"]) {
        let sum = sum_of(case);
        // The server and the contributor that lies agree on what they promise: only the edge itself is left.
        let check = check_value(&p, length, &roster, sum.as_slice());
        let checks = [*check.as_ref().unwrap_or(&CheckValue([0; 2]))];
        let promised = Digest::sha256(&sum);
        let opened = open(
            &p,
            length,
            &context,
            &roster,
            &key,
            1,
            &checks,
            &promised,
            sum.as_slice(),
        );
        let found = match opened.map(|(opened, _)| opened.into_values()) {
            Ok(values) => {
                assert_eq!(values.len(), length);
                "opens"
            }
            Err(Error::Malformed(_)) => {
                assert!(matches!(check, Err(Error::Malformed(_))));
                "malformed"
            }
            Err(Error::Failed(Check::Residual)) => "residual",
            Err(Error::Failed(Check::ValueBound)) => "value-bound",
            Err(other) => panic!("{}: {other}", text(&case["what"])),
        };
        assert_eq!(found, text(&case["expect"]), "{}", text(&case["what"]));
        seen.insert(found);
    }
    assert_eq!(seen.len(), 4, "every outcome occurs: {seen:?}");
}
