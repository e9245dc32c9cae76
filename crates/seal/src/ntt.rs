//! The negacyclic number-theoretic transform â_k = Σ_i a_i·ψ^((2k+1)·i), ψ of order 2N, and its inverse.
//!
//! 2 has order 192 modulo q (2^96 ≡ −1), so ψ is chosen with ψ^512 = 2^12, and 2^24 is the eighth root of unity that
//! belongs to it: an eight-point transform is additions and shifts. With
//! i = 512·j₃ + 64·j₂ + 8·j₁ + j₀ and k = n₀ + 8·n₁ + 64·n₂ + 512·n₃ a transform is four passes of them (Gentleman
//! and Sande 1966), and words are multiplied between passes only: three times, where radix 2 multiplies six times.
//!
//! Inside a pass a word is two limbs x₀ + 2^32·x₁, added and shifted without carries. Bounds, with "small" for
//! |limb| < 2^35:
//! - [`Limbs::product`], [`Limbs::shifted`] and [`Limbs::carried`], with up to a factor ±2^64 after them, are small;
//! - [`eight_points`] of small limbs stays below 2^60 + 2^55;
//! - [`Limbs::packed`] and [`Limbs::carried`] take |limb| < 2^61.
//!
//! Every pass is a loop over columns that lie side by side, which the compiler turns into the widest vectors there
//! are; in the middle the 64 × 64 words are transposed. All in integers, so every path gives the same bits; no branch
//! and no address depends on a word.

#![allow(clippy::needless_range_loop)] // columns of several rows at once

use ciphertune_sum::{N, Q, modular, vectorised};

/// The 32 low bits; also 2^64 mod q.
const LOW: u64 = 0xFFFF_FFFF;

/// (7q + 1)/8 and 2^61: 0 modulo q as limbs, as 8·((7q + 1)/8) ≡ 1 and 8·2^32·2^61 = 2^96 ≡ −1. Added to limbs of
/// either sign below 2^61 it leaves numbers in 0..2^64.
const ZERO: Limbs = Limbs(((7 * Q as u128 + 1) / 8) as u64, 1 << 61);

/// The twiddle factors of both directions.
pub(crate) struct Transform {
    forward: Factors,
    inverse: Factors,
}

/// Factors by where the word stands that they multiply.
struct Factors {
    /// ψ^(R·(2·n₀ + 1)) at \[n₀\]\[R\], R = 64·j₂ + 8·j₁ + j₀.
    first: Vec<u64>,
    /// ψ^(16·R·n₁), R = 8·j₁ + j₀: at \[R\]\[n₀ n₁\] forward, at \[n₀ n₁\]\[R\] in the inverse.
    second: Vec<u64>,
    /// ψ^(128·j₀·n₂) at \[n₂\]\[j₀\]\[n₀ n₁\].
    third: Vec<u64>,
}

impl Transform {
    pub(crate) fn new() -> Self {
        let powers = powers_of_psi();
        let to_the = |exponent: usize| powers[exponent % (2 * N)];
        let inverse_to_the = |exponent: usize| powers[(2 * N - exponent % (2 * N)) % (2 * N)];
        let factors = |to_the: &dyn Fn(usize) -> u64| Factors {
            first: (0..N)
                .map(|i| to_the(i % 512 * (2 * (i / 512) + 1)))
                .collect(),
            second: (0..N).map(|i| to_the(16 * (i / 64) * (i % 8))).collect(),
            third: (0..N)
                .map(|i| to_the(128 * (i / 64 % 8) * (i / 512)))
                .collect(),
        };
        let mut inverse = factors(&inverse_to_the);
        transpose(&mut inverse.second);
        Self {
            forward: factors(&to_the),
            inverse,
        }
    }

    /// x ← x̂: words congruent to the N of the spectrum, not all below q, at \[n₂\]\[n₃\]\[n₀\]\[n₁\].
    pub(crate) fn forward(&self, x: &mut [u64]) {
        vectorised(Forward(&self.forward, x));
    }

    /// x ← what N·x has as its spectrum, below q, for the spectrum x·y.
    pub(crate) fn inverse_of_product(&self, x: &mut [u64], y: &[u64]) {
        vectorised(Inverse(&self.inverse, x, y));
    }
}

/// ψ^0 to ψ^(2N − 1).
fn powers_of_psi() -> Vec<u64> {
    // 7 generates Z_q*.
    let root = modular::pow(7, (Q - 1) / (2 * N as u64));
    let psi = (1..2 * N as u64)
        .step_by(2)
        .map(|odd| modular::pow(root, odd))
        .find(|psi| modular::pow(*psi, 512) == 1 << 12)
        .unwrap_or_default();
    std::iter::successors(Some(1), |power| Some(modular::mul(*power, psi)))
        .take(2 * N)
        .collect()
}

// Structures and not closures: a closure this large is compiled once, for the baseline, and called from every path.

struct Forward<'a>(&'a Factors, &'a mut [u64]);

impl pulp::NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self(factors, x) = self;
        for rows in rows_mut::<512>(x) {
            for c in 0..512 {
                let limbs = [
                    Limbs::of(rows[0][c]),
                    Limbs::shifted(rows[1][c], 12),
                    Limbs::shifted(rows[2][c], 24),
                    Limbs::shifted(rows[3][c], 4).times_2_32(),
                    Limbs::shifted(rows[4][c], 16).times_2_32(),
                    Limbs::shifted(rows[5][c], 28).times_2_32(),
                    Limbs::shifted(rows[6][c], 8).times_2_64(),
                    Limbs::shifted(rows[7][c], 20).times_2_64(),
                ];
                put(rows, c, eight_points(limbs));
            }
        }
        pass::<64, false>(x, &factors.first);
        transpose(x);
        pass::<512, false>(x, &factors.second);
        pass::<64, false>(x, &factors.third);
    }
}

struct Inverse<'a>(&'a Factors, &'a mut [u64], &'a [u64]);

impl pulp::NullaryFnOnce for Inverse<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self(factors, x, y) = self;
        pass::<64, true>(x, y);
        pass::<512, true>(x, &factors.third);
        transpose(x);
        pass::<64, true>(x, &factors.second);
        for (rows, factors) in rows_mut::<512>(x).iter_mut().zip(rows_of(&factors.first)) {
            for c in 0..512 {
                let [a, b, c1, d, e, f, g, h] = reversed(eight_points(products(rows, factors, c)));
                // 2^(−12·j) = −2^(96 − 12·j).
                let limbs = [
                    a,
                    b.carried(20).times_2_64().negated(),
                    c1.carried(8).times_2_64().negated(),
                    d.carried(28).times_2_32().negated(),
                    e.carried(16).times_2_32().negated(),
                    f.carried(4).times_2_32().negated(),
                    g.carried(24).negated(),
                    h.carried(12).negated(),
                ];
                put_canonical(rows, c, limbs);
            }
        }
    }
}

/// Eight rows, the words of each eight-point transform below one another.
type Rows<const S: usize> = [[u64; S]; 8];

#[inline(always)]
fn rows_of<const S: usize>(x: &[u64]) -> &[Rows<S>] {
    x.as_chunks::<S>().0.as_chunks::<8>().0
}

#[inline(always)]
fn rows_mut<const S: usize>(x: &mut [u64]) -> &mut [Rows<S>] {
    x.as_chunks_mut::<S>().0.as_chunks_mut::<8>().0
}

/// Multiplies every word by its factor and transforms each column of eight, rows of S words.
#[inline(always)]
fn pass<const S: usize, const INVERSE: bool>(x: &mut [u64], factors: &[u64]) {
    for (rows, factors) in rows_mut::<S>(x).iter_mut().zip(rows_of::<S>(factors)) {
        for c in 0..S {
            let limbs = eight_points(products(rows, factors, c));
            let limbs = if INVERSE { reversed(limbs) } else { limbs };
            put(rows, c, limbs);
        }
    }
}

// Plain loops over arrays: what the library's `map` and `from_fn` are made of is not inlined everywhere, and one call
// keeps the compiler from using vectors.

#[inline(always)]
fn products<const S: usize>(rows: &Rows<S>, factors: &Rows<S>, c: usize) -> [Limbs; 8] {
    let mut limbs = [Limbs(0, 0); 8];
    for j in 0..8 {
        limbs[j] = Limbs::product(rows[j][c], factors[j][c]);
    }
    limbs
}

#[inline(always)]
fn put<const S: usize>(rows: &mut Rows<S>, c: usize, limbs: [Limbs; 8]) {
    for j in 0..8 {
        rows[j][c] = limbs[j].packed();
    }
}

#[inline(always)]
fn put_canonical<const S: usize>(rows: &mut Rows<S>, c: usize, limbs: [Limbs; 8]) {
    for j in 0..8 {
        rows[j][c] = limbs[j].canonical();
    }
}

/// y_n = Σ_j x_j·2^(24·j·n).
#[inline(always)]
fn eight_points(x: [Limbs; 8]) -> [Limbs; 8] {
    let [a, b, c, d] = [
        x[0].plus(x[4]),
        x[1].plus(x[5]),
        x[2].plus(x[6]),
        x[3].plus(x[7]),
    ];
    let (even, odd) = (a.plus(c), b.plus(d));
    let (even_turned, odd_turned) = (a.minus(c), b.minus(d).times_2_32().times(16));

    let [e, f, g, h] = [
        x[0].minus(x[4]),
        x[1].minus(x[5]),
        x[2].minus(x[6]),
        x[3].minus(x[7]),
    ];
    let g = g.times_2_32().times(16);
    let (first, third) = (e.plus(g), e.minus(g));
    // f·2^24 ± h·2^72, the difference times 2^48: −h·2^120 = h·2^24.
    let second = f.times(24).plus(h.times_2_64().times(8));
    let fourth = f.times_2_64().times(8).plus(h.times(24));
    [
        even.plus(odd),
        first.plus(second),
        even_turned.plus(odd_turned),
        third.plus(fourth),
        even.minus(odd),
        first.minus(second),
        even_turned.minus(odd_turned),
        third.minus(fourth),
    ]
}

/// The transform with 2^(−24): y_n for y_(−n).
#[inline(always)]
fn reversed([a, b, c, d, e, f, g, h]: [Limbs; 8]) -> [Limbs; 8] {
    [a, h, g, f, e, d, c, b]
}

/// The 64 × 64 words, in tiles that fit into cache lines.
#[inline(always)]
fn transpose(x: &mut [u64]) {
    for x in x.as_chunks_mut::<64>().0.as_chunks_mut::<64>().0 {
        for (a, b) in (0..8).flat_map(|a| (0..=a).map(move |b| (a, b))) {
            for i in 0..8 {
                for j in 0..if a == b { i } else { 8 } {
                    let (row, column) = (8 * a + i, 8 * b + j);
                    (x[row][column], x[column][row]) = (x[column][row], x[row][column]);
                }
            }
        }
    }
}

/// x₀ + 2^32·x₁ modulo q, limbs in two's complement.
#[derive(Clone, Copy)]
struct Limbs(u64, u64);

impl Limbs {
    #[inline(always)]
    fn of(x: u64) -> Self {
        Self(x & LOW, x >> 32)
    }

    /// x·w.
    #[inline(always)]
    fn product(x: u64, w: u64) -> Self {
        let (x0, x1, w0, w1) = (x & LOW, x >> 32, w & LOW, w >> 32);
        let (low, mid, mid2, high) = (x0 * w0, x0 * w1, x1 * w0, x1 * w1);
        // Of weight 2^64 ≡ 2^32 − 1; `high >> 32` is of weight 2^96 ≡ −1.
        let two = (mid >> 32) + (mid2 >> 32) + (high & LOW);
        Self(
            (low & LOW).wrapping_sub(two).wrapping_sub(high >> 32),
            (low >> 32) + (mid & LOW) + (mid2 & LOW) + two,
        )
    }

    /// x·2^bits for 0 < bits < 32.
    #[inline(always)]
    fn shifted(x: u64, bits: u32) -> Self {
        let two = x >> (64 - bits);
        let (zero, one) = ((x << bits) & LOW, (x >> (32 - bits)) & LOW);
        Self(zero.wrapping_sub(two), one + two)
    }

    /// This times 2^bits, for 0 < bits < 32 and limbs of up to 61 bits.
    #[inline(always)]
    fn carried(self, bits: u32) -> Self {
        let Self(x0, x1) = self.plus(ZERO);
        let two = (x0 >> (64 - bits)) + ((x1 >> (32 - bits)) & LOW);
        let three = x1 >> (64 - bits);
        let (zero, one) = ((x0 << bits) & LOW, (x0 >> (32 - bits)) & LOW);
        Self(
            zero.wrapping_sub(two).wrapping_sub(three),
            one + ((x1 << bits) & LOW) + two,
        )
    }

    /// A word congruent to this, for limbs of up to 61 bits.
    #[inline(always)]
    fn packed(self) -> u64 {
        let Self(x0, x1) = self.plus(ZERO);
        let one = (x1 & LOW) + (x0 >> 32);
        let two = (x1 >> 32) + (one >> 32);
        let word = (one << 32) | (x0 & LOW);
        // two < 2^31: what is added is below 2^63, and after a carry there is room for 2^64 ≡ 2^32 − 1.
        let folded = (two << 32) - two;
        let sum = word.wrapping_add(folded);
        sum.wrapping_add(u64::from(sum < folded).wrapping_neg() & LOW)
    }

    /// The word below q.
    #[inline(always)]
    fn canonical(self) -> u64 {
        let word = self.packed();
        word.wrapping_sub(u64::from(word >= Q).wrapping_neg() & Q)
    }

    #[inline(always)]
    fn plus(self, other: Self) -> Self {
        Self(self.0.wrapping_add(other.0), self.1.wrapping_add(other.1))
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        Self(self.0.wrapping_sub(other.0), self.1.wrapping_sub(other.1))
    }

    #[inline(always)]
    fn negated(self) -> Self {
        Self(self.0.wrapping_neg(), self.1.wrapping_neg())
    }

    /// This times 2^bits, where the limbs have room for it.
    #[inline(always)]
    fn times(self, bits: u32) -> Self {
        Self(self.0 << bits, self.1 << bits)
    }

    #[inline(always)]
    fn times_2_32(self) -> Self {
        Self(self.1.wrapping_neg(), self.0.wrapping_add(self.1))
    }

    #[inline(always)]
    fn times_2_64(self) -> Self {
        Self(self.0.wrapping_add(self.1).wrapping_neg(), self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(limbs: Limbs) -> i128 {
        (i128::from(limbs.0 as i64) + (i128::from(limbs.1 as i64) << 32)).rem_euclid(Q.into())
    }

    /// Words at which something carries or does not.
    const WORDS: [u64; 8] = [0, 1, LOW, LOW + 1, Q - 1, Q, u64::MAX - LOW, u64::MAX];

    #[test]
    fn limbs_of_every_size_that_occurs_are_worth_what_they_should_be() {
        let modulo = |x: u64, bits: u32| (i128::from(x % Q) << bits) % i128::from(Q);
        for x in WORDS {
            for w in WORDS {
                let product = i128::from(modular::mul(x % Q, w % Q));
                assert_eq!(value(Limbs::product(x, w)), product);
            }
            for bits in 1..32 {
                let shifted = Limbs::shifted(x, bits);
                assert_eq!(value(shifted), modulo(x, bits));
                assert_eq!(value(shifted.times_2_32()), modulo(x, bits + 32));
                let left = modulo(modulo(x, 32) as u64, bits + 32);
                assert_eq!(value(shifted.times_2_64()), left);
            }
        }
        let most = (1_i64 << 60) + (1 << 55) - 1;
        let limbs = [
            -most,
            1 - most,
            -(1 << 32),
            -1,
            0,
            1,
            1 << 32,
            most - 1,
            most,
        ];
        for (x0, x1) in limbs.iter().flat_map(|x0| limbs.map(|x1| (*x0, x1))) {
            let limbs = Limbs(x0 as u64, x1 as u64);
            assert_eq!(i128::from(limbs.packed() % Q), value(limbs));
            assert_eq!(i128::from(limbs.canonical()), value(limbs));
            assert_eq!(
                value(limbs.negated()),
                (i128::from(Q) - value(limbs)) % i128::from(Q)
            );
            for bits in 1..32 {
                let carried = limbs.carried(bits);
                assert_eq!(value(carried), (value(limbs) << bits) % i128::from(Q));
                for limb in [carried.0, carried.1] {
                    assert!((limb as i64).unsigned_abs() < 1 << 34);
                }
            }
        }
    }

    /// The bounds of the module's text, at the ends of what is small.
    #[test]
    fn eight_small_points_stay_below_what_can_be_packed() {
        let small = (1_i64 << 35) - 1;
        for signs in 0..1 << 16 {
            let limb = |at: usize| if signs >> at & 1 == 1 { small } else { -small } as u64;
            let x = std::array::from_fn(|j| Limbs(limb(2 * j), limb(2 * j + 1)));
            for limbs in eight_points(x) {
                for limb in [limbs.0, limbs.1] {
                    assert!((limb as i64).unsigned_abs() < (1 << 60) + (1 << 55));
                }
            }
        }
    }

    #[test]
    fn eight_points_are_the_sum_that_defines_them() {
        let x: [u64; 8] = std::array::from_fn(|j| modular::pow(7, j as u64 + 3));
        let root = 1 << 24;
        for (inverse, y) in [
            (false, eight_points(x.map(Limbs::of))),
            (true, reversed(eight_points(x.map(Limbs::of)))),
        ] {
            for (n, y) in y.into_iter().enumerate() {
                let n = if inverse { 8 - n } else { n };
                let expected = x.iter().enumerate().fold(0, |sum, (j, x)| {
                    modular::add(sum, modular::mul(*x, modular::pow(root, (j * n) as u64)))
                });
                assert_eq!(y.canonical(), expected);
            }
        }
    }

    #[test]
    fn the_spectrum_is_the_polynomial_at_the_odd_powers_of_psi() {
        let transform = Transform::new();
        let psi = powers_of_psi()[1];
        assert_eq!(modular::pow(psi, N as u64), Q - 1);
        let a: Vec<u64> = (0..N as u64).map(|i| modular::pow(7, 3 * i + 1)).collect();
        let mut spectrum = a.clone();
        transform.forward(&mut spectrum);
        for at in [0, 1, 8, 63, 64, 512, 2077, N - 1] {
            let [n2, n3, n0, n1] = [at / 512, at / 64 % 8, at / 8 % 8, at % 8];
            let k = n0 + 8 * n1 + 64 * n2 + 512 * n3;
            let point = modular::pow(psi, 2 * k as u64 + 1);
            let expected = a
                .iter()
                .rev()
                .fold(0, |sum, a| modular::add(modular::mul(sum, point), *a));
            assert_eq!(spectrum[at] % Q, expected, "{at}");
        }
        transform.inverse_of_product(&mut spectrum, &[1; N]);
        let scaled = |a: &u64| modular::mul(*a, N as u64);
        assert!(a.iter().map(scaled).eq(spectrum));
    }
}
