use std::io::{ErrorKind, Read, Write};

use crate::{BLOCK_BYTES, Error, N, Parameters, Q, codec, modular, vectorised};

/// acc ← acc + block, word by word modulo q. Both have words below q and the same length (a
/// longer one's tail is left out).
pub fn add_assign(acc: &mut [u64], block: &[u64]) {
    vectorised(
        #[inline(always)]
        || {
            for (sum, word) in acc.iter_mut().zip(block) {
                *sum = modular::add(*sum, *word);
            }
        },
    );
}

/// acc ← acc + the words of `bytes`, decoded on the way.
///
/// # Errors
/// [`Error::Malformed`] when there are not 8 bytes for each word of `acc`, or one is q or more;
/// what `acc` holds then is unspecified.
pub fn add_encoded(acc: &mut [u64], bytes: &[u8]) -> Result<(), Error> {
    let (words, rest) = bytes.as_chunks::<8>();
    if words.len() != acc.len() || !rest.is_empty() {
        return Err(codec::wrong_length(bytes, acc.len()));
    }
    let canonical = vectorised(
        #[inline(always)]
        || {
            let mut canonical = true;
            for (sum, bytes) in acc.iter_mut().zip(words) {
                let word = u64::from_le_bytes(*bytes);
                canonical &= word < Q;
                // Whatever the word: a wrong one must not panic before it is told.
                *sum = modular::sub(*sum, Q.wrapping_sub(word));
            }
            canonical
        },
    );
    codec::demand(canonical)
}

/// Writes the sum of `bodies`, each of `length` values, to `out`, block by block.
///
/// Memory is a few blocks whatever the length. `out` is not flushed. When an error is returned,
/// part of a sum may have been written: it is not to be used.
///
/// # Errors
/// [`Error::Misuse`] when there is no body, more bodies than members, or nothing to add up;
/// [`Error::Malformed`] naming the body (by position, from 0) that is too short, too long, or has
/// a word that is not below q; [`Error::Fault`] when a reader or `out` fails.
pub fn add_bodies<R: Read, W: Write>(
    parameters: &Parameters,
    length: usize,
    bodies: &mut [R],
    mut out: W,
) -> Result<(), Error> {
    if bodies.is_empty() || bodies.len() > parameters.members() || length == 0 {
        return Err(Error::Misuse(format!(
            "{} bodies of {length} values to be added under {}",
            bodies.len(),
            parameters.name()
        )));
    }
    let mut bytes = vec![0; BLOCK_BYTES];
    let mut sum = vec![0; N];
    for _ in 0..parameters.blocks(length) {
        for (position, body) in bodies.iter_mut().enumerate() {
            read_bytes(body, &mut bytes)
                .and_then(|()| match position {
                    0 => codec::decode_words(&bytes, &mut sum),
                    _ => add_encoded(&mut sum, &bytes),
                })
                .map_err(|e| of_body(position, e))?;
        }
        codec::write_words(&sum, &mut bytes);
        out.write_all(&bytes)
            .map_err(|e| Error::Fault(format!("writing the sum: {e}")))?;
    }
    for (position, body) in bodies.iter_mut().enumerate() {
        expect_end(body).map_err(|e| of_body(position, e))?;
    }
    Ok(())
}

/// Reads whole blocks as they are on the wire, unchecked.
///
/// # Errors
/// [`Error::Malformed`] when the source ends early, [`Error::Fault`] when reading fails.
pub fn read_bytes<R: Read>(source: &mut R, bytes: &mut [u8]) -> Result<(), Error> {
    source.read_exact(bytes).map_err(|e| match e.kind() {
        ErrorKind::UnexpectedEof => Error::Malformed("the body ends early".into()),
        _ => Error::Fault(format!("reading a body: {e}")),
    })
}

/// Makes sure that a body has no bytes left.
///
/// # Errors
/// [`Error::Malformed`] when it has, [`Error::Fault`] when reading fails.
pub fn expect_end<R: Read>(source: &mut R) -> Result<(), Error> {
    match source.take(1).read_to_end(&mut Vec::with_capacity(1)) {
        Ok(0) => Ok(()),
        Ok(_) => Err(Error::Malformed(
            "the body goes on after its last block".into(),
        )),
        Err(e) => Err(Error::Fault(format!("reading a body: {e}"))),
    }
}

fn of_body(position: usize, error: Error) -> Error {
    match error {
        Error::Malformed(what) => Error::Malformed(format!("body {position}: {what}")),
        Error::Fault(what) => Error::Fault(format!("body {position}: {what}")),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CohortSize, Q, ValueBound};
    use proptest::prelude::*;

    fn parameters() -> Parameters {
        Parameters::derive(CohortSize::new(3).unwrap(), ValueBound::new(2047).unwrap()).unwrap()
    }

    fn body(seed: u64, blocks: usize) -> Vec<u64> {
        (0..(N * blocks) as u64)
            .map(|i| modular::mul(seed + 1, modular::pow(7, i + seed)))
            .collect()
    }

    fn bytes(words: &[u64]) -> Vec<u8> {
        let mut bytes = Vec::new();
        codec::encode_words(words, &mut bytes);
        bytes
    }

    fn add(bodies: &[Vec<u8>], length: usize) -> Result<Vec<u8>, Error> {
        let mut readers: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
        let mut out = Vec::new();
        add_bodies(&parameters(), length, &mut readers, &mut out)?;
        Ok(out)
    }

    #[test]
    fn the_sum_of_bodies_is_their_sum_word_by_word() {
        let words: Vec<Vec<u64>> = (0..3).map(|seed| body(seed, 2)).collect();
        let bodies: Vec<Vec<u8>> = words.iter().map(|b| bytes(b)).collect();
        let expected: Vec<u64> = (0..2 * N)
            .map(|i| (words.iter().map(|b| u128::from(b[i])).sum::<u128>() % u128::from(Q)) as u64)
            .collect();
        assert_eq!(add(&bodies, 4 * N + 1).unwrap(), bytes(&expected));
        assert_eq!(add(&bodies[..1], 8 * N).unwrap(), bodies[0]);
    }

    #[test]
    fn a_truncated_body_is_refused_and_named() {
        let whole = bytes(&body(1, 1));
        let cut = whole[..whole.len() - 1].to_vec();
        let error = add(&[whole.clone(), cut], 5).unwrap_err();
        assert!(
            matches!(&error, Error::Malformed(what) if what.contains("body 1")),
            "{error}"
        );
        assert!(matches!(
            add(&[whole.clone(), whole], 4 * N + 1),
            Err(Error::Malformed(_))
        ));
    }

    #[test]
    fn a_body_that_goes_on_is_refused() {
        let whole = bytes(&body(1, 1));
        let mut longer = whole.clone();
        longer.push(0);
        let error = add(&[longer, whole], 5).unwrap_err();
        assert!(
            matches!(&error, Error::Malformed(what) if what.contains("body 0")),
            "{error}"
        );
    }

    #[test]
    fn a_body_with_a_word_that_is_not_below_q_is_refused() {
        let mut words = body(1, 1);
        words[N - 1] = Q;
        assert!(matches!(add(&[bytes(&words)], 5), Err(Error::Malformed(_))));
    }

    #[test]
    fn no_body_or_more_bodies_than_members_is_misuse() {
        let one = bytes(&body(1, 1));
        assert!(matches!(add(&[], 5), Err(Error::Misuse(_))));
        assert!(matches!(
            add(&vec![one.clone(); 4], 5),
            Err(Error::Misuse(_))
        ));
        assert!(matches!(add(&[one], 0), Err(Error::Misuse(_))));
    }

    proptest! {
        #[test]
        fn adding_in_place_commutes_with_adding_integers(words in prop::collection::vec((0..Q, 0..Q), 0..64)) {
            let (mut acc, block): (Vec<u64>, Vec<u64>) = words.iter().copied().unzip();
            add_assign(&mut acc, &block);
            for ((a, b), sum) in words.iter().zip(&acc) {
                prop_assert_eq!(u128::from(*sum), (u128::from(*a) + u128::from(*b)) % u128::from(Q));
            }
        }
    }
}
