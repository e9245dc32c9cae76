use std::io::Read;

use ciphertune_round::{Digest, label};
use ciphertune_sum::{
    BLOCK_BYTES, N, Parameters, codec, expect_end, modular, read_bytes, vectorised,
};

use crate::Result;
use crate::words::PublicWords;

/// c = (c₁, c₂) ∈ Z_q², c_i = Σ_b r_{i,b}·⟨h_i, x_b⟩ over the blocks x_b ∈ Z_q^N of a body.
///
/// h_i ∈ Z_q^N and r_{i,b} ∈ Z_q are public words of the roster's digest, which fixes every body and the sum before
/// anybody can know them: h_i is stream i − 1, r_{i,b} the first word of stream 2·(b + 1) + i − 1.
/// Linear: the check values of the bodies add up to that of their sum. A sum that is not the sum of the bodies passes
/// with probability below 2⁻¹²⁵, for each roster that is tried: of the difference some block δ_b ≠ 0, so ⟨h_i, δ_b⟩ = 0 with probability 1/q; if it is
/// not, Σ_b r_{i,b}·⟨h_i, δ_b⟩ = 0 with probability 1/q; below 2/q for each i, and both i are independent.
/// (Words of h for every block would make it 1/q; making them costs more than all the rest of a check.)
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckValue(pub [u64; 2]);

/// The check value of a body (or of a sum) of `length` values for one roster.
///
/// Memory is four blocks, whatever the length. One thread is as fast as a body can be read: several only get into each
/// other's way.
///
/// # Errors
/// [`Error::Malformed`](crate::Error::Malformed) when the body is too short, too long or has a
/// word not below q; [`Error::Fault`](crate::Error::Fault) when reading fails.
pub fn check_value<R: Read>(
    parameters: &Parameters,
    length: usize,
    roster: &Digest,
    mut body: R,
) -> Result<CheckValue> {
    let mut checker = Checker::of(roster)?;
    let (mut bytes, mut block) = (vec![0; BLOCK_BYTES], vec![0; N]);
    for position in 0..parameters.blocks(length) {
        read_bytes(&mut body, &mut bytes)?;
        codec::decode_words(&bytes, &mut block)?;
        checker.absorb(position, &block);
    }
    expect_end(&mut body)?;
    Ok(checker.finish())
}

impl CheckValue {
    /// Σ c_i in Z_q², words taken modulo q.
    pub(crate) fn sum(values: &[Self]) -> Self {
        values
            .iter()
            .fold(Self([0; 2]), |Self([a, b]), Self([c, d])| {
                Self([
                    modular::add(a, c % ciphertune_sum::Q),
                    modular::add(b, d % ciphertune_sum::Q),
                ])
            })
    }
}

/// A check value, or the part of it that some blocks give, as they stream by.
pub(crate) struct Checker {
    words: PublicWords,
    h: [Vec<u64>; 2],
    value: [u64; 2],
}

impl Checker {
    pub(crate) fn of(roster: &Digest) -> Result<Self> {
        let words = PublicWords::new(label::CHECK, roster.as_bytes(), b"check")?;
        let mut h = [vec![0; N], vec![0; N]];
        for (stream, h) in (0..).zip(&mut h) {
            words.fill(stream, h);
        }
        Ok(Self {
            words,
            h,
            value: [0; 2],
        })
    }

    /// Takes the block at `position`, once each and in any order.
    pub(crate) fn absorb(&mut self, position: usize, block: &[u64]) {
        let streams = 2 * (position as u64 + 1)..;
        for ((stream, h), value) in streams.zip(&self.h).zip(&mut self.value) {
            let mut r = [0];
            self.words.fill(stream, &mut r);
            *value = modular::add(*value, modular::mul(r[0], inner_product(h, block)));
        }
    }

    pub(crate) fn finish(self) -> CheckValue {
        CheckValue(self.value)
    }
}

/// ⟨h, x⟩ mod q for at most 2^30 words below q.
///
/// The products of 32-bit halves are added up by their weight twice, modulo 2^64 and their high halves alone, so that
/// nothing carries inside the loop and every vector unit has the instructions; reduced once.
pub(crate) fn inner_product(h: &[u64], x: &[u64]) -> u64 {
    /// The 32 low bits; also 2^64 mod q.
    const LOW: u64 = 0xFFFF_FFFF;
    let sums = vectorised(
        #[inline(always)]
        || {
            // Of weight 1, 2^32 and 2^64: a term adds less than 2·2^32 to the high halves.
            let (mut wrapped, mut high) = ([0_u64; 3], [0_u64; 3]);
            for (&h, &x) in h.iter().zip(x) {
                let (h0, h1, x0, x1) = (h & LOW, h >> 32, x & LOW, x >> 32);
                let (one, mid, mid2, four) = (h0 * x0, h0 * x1, h1 * x0, h1 * x1);
                wrapped[0] = wrapped[0].wrapping_add(one);
                wrapped[1] = wrapped[1].wrapping_add(mid).wrapping_add(mid2);
                wrapped[2] = wrapped[2].wrapping_add(four);
                high[0] += one >> 32;
                high[1] += (mid >> 32) + (mid2 >> 32);
                high[2] += four >> 32;
            }
            // what the low halves add up to is at most 2^63: nothing was lost modulo 2^64.
            let low = |at: usize| wrapped[at].wrapping_sub(high[at] << 32);
            [low(0), high[0] + low(1), high[1] + low(2), high[2]]
        },
    );
    let [one, two, three, four] = sums.map(u128::from);
    // 2^64 ≡ 2^32 − 1 and 2^96 ≡ −1 (mod q).
    let positive = modular::reduce(one + (two << 32) + three * u128::from(LOW));
    modular::sub(positive, modular::reduce(four))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::uniform_words;
    use ciphertune_gauss::insecure::InsecureEntropy;
    use ciphertune_sum::{CohortSize, Q, ValueBound};

    #[test]
    fn the_inner_product_agrees_with_term_by_term() {
        let (mut h, mut x) = (vec![0; N], vec![0; N]);
        let mut rng = InsecureEntropy::from_seed(5);
        uniform_words(&mut rng, &mut h);
        uniform_words(&mut rng, &mut x);
        let slow = h
            .iter()
            .zip(&x)
            .fold(0, |sum, (h, x)| modular::add(sum, modular::mul(*h, *x)));
        assert_eq!(inner_product(&h, &x), slow);
        // Every product at its largest: q·q's halves cannot overflow their sums.
        assert_eq!(inner_product(&[Q - 1; N], &[Q - 1; N]), N as u64);
    }

    #[test]
    fn check_values_of_bodies_add_up_to_that_of_the_sum() {
        let p = Parameters::derive(CohortSize::new(3).unwrap(), ValueBound::new(2047).unwrap());
        let (p, roster) = (p.unwrap(), Digest::sha256(b"roster"));
        let mut rng = InsecureEntropy::from_seed(6);
        let mut sum = vec![0; 2 * N];
        let mut values = Vec::new();
        let of = |words: &[u64]| {
            let mut bytes = Vec::new();
            codec::encode_words(words, &mut bytes);
            check_value(&p, 4 * N + 1, &roster, bytes.as_slice())
        };
        for _ in 0..3 {
            let mut body = vec![0; 2 * N];
            uniform_words(&mut rng, &mut body);
            ciphertune_sum::add_assign(&mut sum, &body);
            values.push(of(&body).unwrap());
        }
        assert_eq!(CheckValue::sum(&values), of(&sum).unwrap());
        // The same change in the first and the second block has another effect: h differs.
        let mut swapped = sum[N..].to_vec();
        swapped.extend_from_slice(&sum[..N]);
        assert_ne!(CheckValue::sum(&values), of(&swapped).unwrap());
        assert!(of(&sum[..N]).is_err());
    }
}
