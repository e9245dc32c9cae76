//! Arithmetic in Z_q for q = 2^64 − 2^32 + 1.
//!
//! Every function takes and returns canonical representatives in [0, q). All of them are
//! branch-free in the source, but for [`pow`] and [`inv`], whose running time depends on the
//! exponent only. (What a compiler makes of a comparison is not ours to promise.)
//!
//! Reduction uses 2^64 ≡ 2^32 − 1 and 2^96 ≡ −1 (mod q), as in Hamburg, "Ed448-Goldilocks"
//! (eprint 2015/625, §2) for the general shape of such primes and Plonky2 for this one.

use crate::Q;

/// 2^64 mod q = 2^32 − 1.
const EPSILON: u64 = 0xFFFF_FFFF;

/// (q − 1)/2, the largest centred representative.
const HALF: u64 = (Q - 1) / 2;

/// a + b mod q.
#[inline(always)]
#[must_use]
pub fn add(a: u64, b: u64) -> u64 {
    debug_assert!(a < Q && b < Q);
    sub(a, Q - b)
}

/// a − b mod q. `b` may also be q itself.
#[inline(always)]
#[must_use]
pub fn sub(a: u64, b: u64) -> u64 {
    let (difference, borrow) = a.overflowing_sub(b);
    difference.wrapping_add(mask(borrow) & Q)
}

/// −a mod q.
#[inline(always)]
#[must_use]
pub fn neg(a: u64) -> u64 {
    sub(0, a)
}

/// a·b mod q.
#[inline(always)]
#[must_use]
pub fn mul(a: u64, b: u64) -> u64 {
    reduce(u128::from(a) * u128::from(b))
}

/// x mod q for any x < 2^128.
///
/// With x = x₀ + 2^64·x₁ + 2^96·x₂ (x₁, x₂ < 2^32): x ≡ x₀ − x₂ + (2^32 − 1)·x₁.
#[inline(always)]
#[must_use]
pub fn reduce(x: u128) -> u64 {
    let low = x as u64;
    let high = (x >> 64) as u64;
    let (x1, x2) = (high & EPSILON, high >> 32);
    // On borrow the wrapped value is at least 2^64 − 2^32 + 1, so taking ε off cannot wrap again.
    let (folded, borrow) = low.overflowing_sub(x2);
    let folded = folded.wrapping_sub(mask(borrow) & EPSILON);
    // On carry the wrapped value is at most 2^64 − 2^33, so adding ε cannot wrap again.
    let (sum, carry) = folded.overflowing_add(x1 * EPSILON);
    let sum = sum.wrapping_add(mask(carry) & EPSILON);
    sum.wrapping_sub(mask(sum >= Q) & Q)
}

/// a^exponent mod q.
#[must_use]
pub fn pow(a: u64, mut exponent: u64) -> u64 {
    let (mut base, mut result) = (a, 1);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = mul(result, base);
        }
        base = mul(base, base);
        exponent >>= 1;
    }
    result
}

/// a⁻¹ mod q = a^(q−2) (Fermat). Zero has no inverse; `inv(0)` is 0.
#[must_use]
pub fn inv(a: u64) -> u64 {
    pow(a, Q - 2)
}

/// x mod q for a signed machine word.
#[inline(always)]
#[must_use]
pub fn from_i64(x: i64) -> u64 {
    (x as u64).wrapping_add((x >> 63) as u64 & Q)
}

/// x mod q for any signed integer. Divides, so its time depends on x: not for secrets.
#[must_use]
pub fn from_i128(x: i128) -> u64 {
    // The remainder is in [0, q), which fits.
    x.rem_euclid(i128::from(Q)) as u64
}

/// The representative of a in (−q/2, q/2].
#[inline(always)]
#[must_use]
pub fn centred(a: u64) -> i64 {
    // a − q in two's complement when a > (q − 1)/2; both fit, since q/2 < 2^63.
    a.wrapping_sub(mask(a > HALF) & Q) as i64
}

/// All ones for true, all zeros for false.
#[inline(always)]
fn mask(bit: bool) -> u64 {
    u64::from(bit).wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Words at and around every place where a carry or a borrow changes.
    fn edges() -> Vec<u64> {
        let mut words = vec![0, 1, 2, Q - 1, Q - 2, HALF - 1, HALF, HALF + 1];
        for shift in [31, 32, 33, 62, 63] {
            words.extend([(1 << shift) - 1, 1 << shift, (1 << shift) + 1]);
        }
        words.extend([
            EPSILON << 32,
            (EPSILON << 32) - 1,
            Q - EPSILON,
            Q - EPSILON - 1,
        ]);
        words
    }

    fn wide(x: u128) -> u64 {
        (x % u128::from(Q)) as u64
    }

    #[test]
    fn arithmetic_agrees_with_wide_integers_at_every_edge() {
        for a in edges() {
            for b in edges() {
                let (x, y) = (u128::from(a), u128::from(b));
                assert_eq!(add(a, b), wide(x + y), "{a} + {b}");
                assert_eq!(sub(a, b), wide(x + u128::from(Q) - y), "{a} - {b}");
                assert_eq!(mul(a, b), wide(x * y), "{a} * {b}");
                assert_eq!(reduce(x << 64 | y), wide(x << 64 | y));
            }
            assert_eq!(add(a, neg(a)), 0);
            assert_eq!(from_i64(centred(a)), a);
        }
        assert_eq!(reduce(u128::MAX), wide(u128::MAX));
        assert_eq!(from_i64(i64::MIN), from_i128(i128::from(i64::MIN)));
        assert_eq!(from_i64(i64::MAX), from_i128(i128::from(i64::MAX)));
    }

    #[test]
    fn the_centred_representative_lies_in_the_half_open_interval() {
        assert_eq!(centred(HALF), HALF as i64);
        assert_eq!(centred(HALF + 1), -(HALF as i64));
        assert_eq!(centred(Q - 1), -1);
        assert_eq!(centred(0), 0);
    }

    #[test]
    fn q_is_the_prime_it_is_said_to_be() {
        assert_eq!(u128::from(Q), (1 << 64) - (1 << 32) + 1);
        // Pocklington/Lucas with q − 1 = 2^32 · 3 · 5 · 17 · 257 · 65537: 7 generates Z_q^*.
        let factors = [2, 3, 5, 17, 257, 65537];
        let product = (1_u64 << 32) * 3 * 5 * 17 * 257 * 65537;
        assert_eq!(product, Q - 1);
        assert_eq!(pow(7, Q - 1), 1);
        for factor in factors {
            assert_ne!(pow(7, (Q - 1) / factor), 1);
        }
    }

    proptest! {
        #[test]
        fn arithmetic_agrees_with_wide_integers(a in 0..Q, b in 0..Q, x in any::<u128>()) {
            let (wide_a, wide_b) = (u128::from(a), u128::from(b));
            prop_assert_eq!(add(a, b), wide(wide_a + wide_b));
            prop_assert_eq!(sub(a, b), wide(wide_a + u128::from(Q) - wide_b));
            prop_assert_eq!(mul(a, b), wide(wide_a * wide_b));
            prop_assert_eq!(reduce(x), wide(x));
        }

        #[test]
        fn every_unit_has_an_inverse(a in 1..Q) {
            prop_assert_eq!(mul(a, inv(a)), 1);
        }

        #[test]
        fn signed_integers_map_as_the_ring_homomorphism_says(x in any::<i64>(), y in any::<i64>()) {
            let sum = i128::from(x) + i128::from(y);
            prop_assert_eq!(add(from_i64(x), from_i64(y)), from_i128(sum));
            let product = i128::from(x) * i128::from(y);
            prop_assert_eq!(mul(from_i64(x), from_i64(y)), from_i128(product));
        }
    }
}
