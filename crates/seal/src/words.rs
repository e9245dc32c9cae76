//! Uniform words modulo q, from a stream that everybody can compute or from secret entropy.

use ciphertune_round::label::Label;
use ciphertune_sum::{Q, vectorised};
use hkdf::Hkdf;
use rand_core::Rng;
use sha2::Sha256;

use crate::keystream::{KeyStream, fill_from};
use crate::{Error, Result};

/// Public words in Z_q: ChaCha12, key = HKDF-SHA-256(salt = label, ikm = seed, info), a 64-bit
/// stream number, counter 0; little-endian 64-bit words, those ≥ q skipped.
///
/// Modelled as a random oracle. Sampled in the coefficient domain, so it depends on no library's
/// NTT ordering.
pub(crate) struct PublicWords {
    key: [u8; 32],
}

impl PublicWords {
    pub(crate) fn new(label: Label, seed: &[u8; 32], info: &[u8]) -> Result<Self> {
        let mut key = [0; 32];
        Hkdf::<Sha256>::new(Some(label.as_bytes()), seed)
            .expand(info, &mut key)
            .map_err(|_| Error::Fault("HKDF gave no key".into()))?;
        Ok(Self { key })
    }

    /// The first `out.len()` words of a stream.
    pub(crate) fn fill(&self, stream: u64, out: &mut [u64]) {
        let mut stream = KeyStream::new(&self.key, stream);
        canonical_words(|words| stream.fill(words), out);
    }
}

/// Fills `out` with words below q: the generator's bytes as little-endian u64, those ≥ q skipped.
pub(crate) fn uniform_words(rng: &mut impl Rng, out: &mut [u64]) {
    canonical_words(|words| fill_from(rng, words), out);
}

/// Words of `draw`, in order, but for those ≥ q.
///
/// A word is skipped with probability 2⁻³². Which place skips one is independent of the words
/// that are kept, so the branch tells nothing about them.
fn canonical_words(mut draw: impl FnMut(&mut [u64]), out: &mut [u64]) {
    let mut filled = 0;
    while filled < out.len() {
        let missing = &mut out[filled..];
        draw(missing);
        filled += keep_canonical(missing);
    }
}

/// Moves the words below q to the front, in order, and says how many they are.
fn keep_canonical(words: &mut [u64]) -> usize {
    let all = vectorised(
        #[inline(always)]
        || words.iter().fold(true, |all, word| all & (*word < Q)),
    );
    if all {
        return words.len();
    }
    let mut kept = 0;
    for place in 0..words.len() {
        let word = words[place];
        words[kept] = word;
        kept += usize::from(word < Q);
    }
    kept
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use ciphertune_round::label;
    use rand_core::TryRng;

    use super::*;

    /// Counts up from just below q, so that words at and above q come early.
    struct Counter(u64);

    impl TryRng for Counter {
        type Error = Infallible;
        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            unreachable!("only bytes are drawn")
        }
        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            unreachable!("only bytes are drawn")
        }
        fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
            for chunk in bytes.chunks_exact_mut(8) {
                chunk.copy_from_slice(&self.0.to_le_bytes());
                self.0 = self.0.wrapping_add(0x2000_0000);
            }
            Ok(())
        }
    }

    #[test]
    fn words_of_q_or_more_are_skipped_in_order() {
        let start = Q - 3 * 0x2000_0000;
        let mut words = vec![0; 2000];
        uniform_words(&mut Counter(start), &mut words);
        let mut expected = (0..).map(|i: u64| start.wrapping_add(i.wrapping_mul(0x2000_0000)));
        let expected: Vec<u64> = expected.by_ref().filter(|w| *w < Q).take(2000).collect();
        assert_eq!(words, expected);
        assert!(words[3] < start, "the ones above q were skipped");
    }

    #[test]
    fn another_label_seed_info_or_stream_gives_other_words() {
        let words = |label, seed, info: &[u8], stream| {
            let mut out = [0; 4];
            PublicWords::new(label, &[seed; 32], info)
                .unwrap()
                .fill(stream, &mut out);
            out
        };
        let one = words(label::MASK, 1, b"mask", 0);
        assert_eq!(one, words(label::MASK, 1, b"mask", 0));
        assert_ne!(one, words(label::CHECK, 1, b"mask", 0));
        assert_ne!(one, words(label::MASK, 2, b"mask", 0));
        assert_ne!(one, words(label::MASK, 1, b"check", 0));
        assert_ne!(one, words(label::MASK, 1, b"mask", 1));
    }

    #[test]
    fn a_stream_does_not_depend_on_how_much_of_it_is_asked_for() {
        let public = PublicWords::new(label::MASK, &[3; 32], b"mask").unwrap();
        let (mut short, mut long) = (vec![0; 5], vec![0; 4096]);
        public.fill(9, &mut short);
        public.fill(9, &mut long);
        assert_eq!(short, long[..5]);
    }
}
