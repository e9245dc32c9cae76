//! Words on the wire: little-endian u64, each below q.

use crate::{Error, Q, vectorised};

/// Reads exactly `out.len()` words from `bytes`.
///
/// # Errors
/// [`Error::Malformed`] when the length is not 8·`out.len()` or a word is q or more; what `out`
/// holds then is unspecified.
pub fn decode_words(bytes: &[u8], out: &mut [u64]) -> Result<(), Error> {
    let (words, rest) = bytes.as_chunks::<8>();
    if words.len() != out.len() || !rest.is_empty() {
        return Err(wrong_length(bytes, out.len()));
    }
    let canonical = vectorised(
        #[inline(always)]
        || {
            let mut canonical = true;
            for (word, bytes) in out.iter_mut().zip(words) {
                *word = u64::from_le_bytes(*bytes);
                canonical &= *word < Q;
            }
            canonical
        },
    );
    demand(canonical)
}

/// Checks a piece of a body without keeping it: whole words, each below q.
///
/// # Errors
/// [`Error::Malformed`] as [`decode_words`].
pub fn check_words(bytes: &[u8]) -> Result<(), Error> {
    let (words, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(Error::Malformed(format!(
            "{} bytes are no whole words",
            bytes.len()
        )));
    }
    let canonical = vectorised(
        #[inline(always)]
        || {
            words
                .iter()
                .fold(true, |all, bytes| all & (u64::from_le_bytes(*bytes) < Q))
        },
    );
    demand(canonical)
}

/// Appends `words` to `out`, 8 bytes each.
pub fn encode_words(words: &[u64], out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + words.len() * 8, 0);
    write_words(words, &mut out[start..]);
}

/// Writes `words` over the first bytes of `out`, 8 each; those that do not fit are left out.
pub fn write_words(words: &[u64], out: &mut [u8]) {
    for (bytes, word) in out.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *bytes = word.to_le_bytes();
    }
}

pub(crate) fn wrong_length(bytes: &[u8], words: usize) -> Error {
    Error::Malformed(format!(
        "{} bytes where {words} words of 8 are due",
        bytes.len()
    ))
}

/// Malformed unless every word was below q.
pub(crate) fn demand(canonical: bool) -> Result<(), Error> {
    if canonical {
        Ok(())
    } else {
        Err(Error::Malformed("a word is not below q".into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_come_back_as_they_were_sent(words in prop::collection::vec(0..Q, 0..100)) {
            let mut bytes = Vec::new();
            encode_words(&words, &mut bytes);
            check_words(&bytes).unwrap();
            let mut back = vec![0; words.len()];
            decode_words(&bytes, &mut back).unwrap();
            prop_assert_eq!(back, words);
        }

        #[test]
        fn any_bytes_are_parsed_or_refused_but_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut out = [0; 4];
            let decoded = decode_words(&bytes, &mut out);
            prop_assert_eq!(decoded.is_ok(), bytes.len() == 32 && check_words(&bytes).is_ok());
        }
    }

    #[test]
    fn a_word_of_q_or_more_is_refused() {
        let mut out = [0; 2];
        for word in [Q, Q + 1, u64::MAX] {
            let mut bytes = Vec::new();
            encode_words(&[5, word], &mut bytes);
            assert!(matches!(
                decode_words(&bytes, &mut out),
                Err(Error::Malformed(_))
            ));
            assert!(matches!(check_words(&bytes), Err(Error::Malformed(_))));
        }
    }

    #[test]
    fn a_wrong_length_is_refused() {
        let mut out = [0; 2];
        for length in [0, 8, 15, 17, 24] {
            assert!(matches!(
                decode_words(&vec![0; length], &mut out),
                Err(Error::Malformed(_))
            ));
        }
        assert!(check_words(&[0; 9]).is_err());
    }
}
