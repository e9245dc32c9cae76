//! What light members send: words below q that nobody sealed, and bytes as long as sealed shares.
//!
//! All members' bodies are alike but for the last block, which is each one's own: so a load of ten gigabytes takes the memory of
//! one body, a body's digest is that of a common beginning and one block, and the sum of all is known without adding them one
//! by one; but a body that a server left out, took twice or altered shows in it.

use std::sync::Arc;

use ciphertune_round::{Digest, Hasher};
use ciphertune_seal::SEALED_SHARE_BYTES;
use ciphertune_sum::{N, Q, codec::encode_words, modular};
use ciphertune_wire::limits::CHUNK_BYTES;
use prost::bytes::Bytes;

/// The bodies and shares of all members.
pub struct Bodies {
    common: Bytes,
    own: Vec<Own>,
    /// SHA-256 of the sum of all bodies, mod q.
    pub sum: Digest,
    /// Bytes of one body.
    pub bytes: u64,
    /// What stands for every sealed share.
    pub share: Bytes,
    /// Its SHA-256.
    pub share_sha256: Digest,
}

struct Own {
    block: Bytes,
    digest: Digest,
}

impl Bodies {
    /// For so many members, each of so many bytes: whole blocks.
    pub fn new(members: usize, bytes: u64) -> Self {
        let common = words(0, usize::try_from(bytes).unwrap_or(usize::MAX) / 8 - N);
        let times = members as u64;
        let mut sum = Hasher::default();
        for words in common.chunks(N) {
            let words: Vec<u64> = words.iter().map(|w| modular::mul(*w, times)).collect();
            sum.update(&encoded(&words));
        }
        let common = encoded(&common);
        let mut beginning = Hasher::default();
        beginning.update(&common);
        let mut last = vec![0; N];
        let own = (1..=times)
            .map(|member| {
                let words = words(member, N);
                for (sum, word) in last.iter_mut().zip(&words) {
                    *sum = modular::add(*sum, *word);
                }
                let block = encoded(&words);
                let mut whole = beginning.clone();
                whole.update(&block);
                Own {
                    block,
                    digest: whole.finish(),
                }
            })
            .collect();
        sum.update(&encoded(&last));
        let share = encoded(&words(u64::MAX, SEALED_SHARE_BYTES / 8));
        Self {
            common,
            own,
            sum: sum.finish(),
            bytes,
            share_sha256: Digest::sha256(&share),
            share,
        }
    }

    /// SHA-256 of a member's body, counted from 0.
    pub fn digest(&self, member: usize) -> Option<Digest> {
        self.own.get(member).map(|own| own.digest)
    }

    /// A member's body from a byte on: offset and bytes of each chunk.
    pub fn chunks(
        self: &Arc<Self>,
        member: usize,
        from: u64,
    ) -> impl Iterator<Item = (u64, Bytes)> + Send + 'static {
        let this = Arc::clone(self);
        let mut at = usize::try_from(from).unwrap_or(usize::MAX);
        std::iter::from_fn(move || {
            let common = this.common.len();
            let (part, start) = if at < common {
                (&this.common, at)
            } else {
                (&this.own.get(member)?.block, at - common)
            };
            let end = part.len().min(start.saturating_add(CHUNK_BYTES));
            if start >= end {
                return None;
            }
            let offset = at as u64;
            at += end - start;
            Some((offset, part.slice(start..end)))
        })
    }
}

/// Words below q, as good as random, that follow from a seed (SplitMix64).
fn words(seed: u64, count: usize) -> Vec<u64> {
    let mut state = seed.wrapping_mul(0x632b_e59b_d9b4_e019);
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    };
    (0..count).map(|_| next() % Q).collect()
}

fn encoded(words: &[u64]) -> Bytes {
    let mut bytes = Vec::with_capacity(words.len() * 8);
    encode_words(words, &mut bytes);
    bytes.into()
}

#[cfg(test)]
mod tests {
    use ciphertune_sum::BLOCK_BYTES;

    use super::*;

    #[test]
    fn digests_and_sum_are_those_of_the_bodies_that_are_sent() {
        for blocks in [1, 2, 11] {
            let bodies = Arc::new(Bodies::new(3, blocks * BLOCK_BYTES as u64));
            let mut sum = vec![0; blocks as usize * N];
            for member in 0..3 {
                let body: Vec<u8> = bodies.chunks(member, 0).flat_map(|(_, it)| it).collect();
                assert_eq!(body.len() as u64, bodies.bytes);
                assert_eq!(bodies.digest(member), Some(Digest::sha256(&body)));
                let (words, _) = body.as_chunks::<8>();
                for (sum, word) in sum.iter_mut().zip(words) {
                    *sum = modular::add(*sum, u64::from_le_bytes(*word));
                }
                let (offset, rest) = bodies.chunks(member, 8).next().unwrap();
                assert_eq!((offset, &rest[..8]), (8, &body[8..16]));
            }
            assert_eq!(bodies.sum, Digest::sha256(&encoded(&sum)));
        }
    }
}
