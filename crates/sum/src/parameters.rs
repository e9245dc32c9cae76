use crate::{Error, N, Q};

/// σ² of secrets and errors as an exact fraction: σ = 6.4, σ² = 1024/25.
///
/// Source: the Homomorphic Encryption Standard's rows for log q = 64 at N = 4096 and the
/// Hint-MLWE reduction (Kim et al., CRYPTO 2023): given the sum of two honest Gaussians each is
/// still one of width σ/√2.
pub const SIGMA_SQUARED: (u64, u64) = (1024, 25);

/// How many standard deviations a sum of errors may lie from zero before opening fails.
/// At 9 the probability is below 2·e^(−81/2) < 2⁻⁵⁷ a coefficient (the subgaussian tail).
pub(crate) const TAIL: u64 = 9;

/// How many members are in a cohort: 2 to 1,000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CohortSize(usize);

impl CohortSize {
    /// The smallest cohort: a sum of one is no sum.
    pub const MIN: usize = 2;
    /// The largest cohort for which the bounds of this crate are tested.
    pub const MAX: usize = 1000;

    /// A cohort of `members`.
    ///
    /// # Errors
    /// [`Error::Refused`] outside 2..=1000.
    pub fn new(members: usize) -> Result<Self, Error> {
        if (Self::MIN..=Self::MAX).contains(&members) {
            Ok(Self(members))
        } else {
            Err(Error::Refused(format!(
                "a cohort has {} to {} members, not {members}",
                Self::MIN,
                Self::MAX
            )))
        }
    }

    /// The number of members.
    #[must_use]
    pub fn get(self) -> usize {
        self.0
    }

    /// The largest cohort that has parameters for values up to `bound`: at least [`MIN`](Self::MIN).
    #[must_use]
    pub fn largest_for(bound: ValueBound) -> Self {
        (Self::MIN..=Self::MAX)
            .rev()
            .map(Self)
            .find(|members| Parameters::fitting(*members, bound).is_some())
            .unwrap_or(Self(Self::MIN))
    }
}

/// B = 2^b − 1, the bound on one member's integers: |v| ≤ B.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueBound {
    bits: u32,
}

impl ValueBound {
    /// The most bits b for which some cohort has parameters.
    pub const MAX_BITS: u32 = 53;

    /// The bound B = `bound`.
    ///
    /// # Errors
    /// [`Error::Refused`] unless `bound` is 2^b − 1 with 1 ≤ b ≤ 53.
    pub fn new(bound: u64) -> Result<Self, Error> {
        let covering = Self::covering(bound)?;
        if covering.get() == bound {
            Ok(covering)
        } else {
            Err(Error::Refused(format!(
                "a value bound is 2^b - 1 with 1 <= b <= {}, not {bound}",
                Self::MAX_BITS
            )))
        }
    }

    /// The smallest B = 2^b − 1 with B ≥ `magnitude`.
    ///
    /// # Errors
    /// [`Error::Refused`] when that needs more than 53 bits.
    pub fn covering(magnitude: u64) -> Result<Self, Error> {
        let bits = (u64::BITS - magnitude.leading_zeros()).max(1);
        if bits > Self::MAX_BITS {
            return Err(Error::Refused(format!(
                "values up to {magnitude} need {bits} bits; at most {} can be sealed",
                Self::MAX_BITS
            )));
        }
        Ok(Self { bits })
    }

    /// B.
    #[must_use]
    pub fn get(self) -> u64 {
        (1 << self.bits) - 1
    }

    /// b, with B = 2^b − 1.
    #[must_use]
    pub fn bits(self) -> u32 {
        self.bits
    }

    /// The largest bound for which a cohort of `members` has parameters.
    #[must_use]
    pub fn largest_for(members: CohortSize) -> Self {
        (1..=Self::MAX_BITS)
            .rev()
            .map(|bits| Self { bits })
            .find(|bound| Parameters::fitting(members, *bound).is_some())
            .unwrap_or(Self { bits: 1 })
    }
}

/// One parameter set: how n members' integers of magnitude ≤ B ride in words modulo q.
///
/// | symbol | rule |
/// |---|---|
/// | Δ = 2^d | smallest with Δ/2 > 9·σ·√n: the sum of n errors never crosses a rounding boundary |
/// | w | smallest with n·B ≤ 2^(w−1) − 1: the sum of n values never leaves its slot |
/// | k | ⌊(64 − d)/w⌋, with 2^d·n·B·(2^(kw) − 1)/(2^w − 1) + 2^(d−1) < q/2: nothing wraps modulo q |
///
/// A function of (n, B) and nothing else, computed here alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Parameters {
    members: CohortSize,
    bound: ValueBound,
    delta_log2: u32,
    slot_bits: u32,
    slots: u32,
}

impl Parameters {
    /// The parameter set for `members` values of magnitude at most `bound` each.
    ///
    /// # Errors
    /// [`Error::Refused`] when not even one sum fits into a word beside its error; it says what would fit.
    pub fn derive(members: CohortSize, bound: ValueBound) -> Result<Self, Error> {
        Self::fitting(members, bound).ok_or_else(|| {
            let (n, b) = (members.get(), bound.bits());
            let narrower = ValueBound::largest_for(members);
            Error::Refused(format!(
                "the sum of {n} values up to 2^{b} - 1 does not fit a word beside its error: with {n} members B may \
                 be at most 2^{} - 1 = {}, and with B = 2^{b} - 1 there may be at most {} members",
                narrower.bits(),
                narrower.get(),
                CohortSize::largest_for(bound).get(),
            ))
        })
    }

    fn fitting(members: CohortSize, bound: ValueBound) -> Option<Self> {
        let delta_log2 = smallest_delta_log2(members.get() as u64);
        let slot_bits = u64::BITS - largest_sum(members, bound).leading_zeros() + 1;
        let derived = Self {
            members,
            bound,
            delta_log2,
            slot_bits,
            slots: (64 - delta_log2) / slot_bits,
        };
        (derived.slots > 0 && derived.overflow().is_impossible()).then_some(derived)
    }

    /// n, the size of the cohort.
    #[must_use]
    pub fn members(&self) -> usize {
        self.members.get()
    }

    /// n as the checked type it was derived from.
    #[must_use]
    pub fn cohort_size(&self) -> CohortSize {
        self.members
    }

    /// B, the bound on the magnitude of one member's values.
    #[must_use]
    pub fn value_bound(&self) -> u64 {
        self.bound.get()
    }

    /// d, with Δ = 2^d.
    #[must_use]
    pub fn delta_log2(&self) -> u32 {
        self.delta_log2
    }

    /// w, the bits of a slot.
    #[must_use]
    pub fn slot_bits(&self) -> u32 {
        self.slot_bits
    }

    /// k, the values in a coefficient.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.slots as usize
    }

    /// k·N, the values in a block.
    #[must_use]
    pub fn values_per_block(&self) -> usize {
        self.slots() * N
    }

    /// ⌈length/(k·N)⌉, the blocks of a body of `length` values.
    #[must_use]
    pub fn blocks(&self, length: usize) -> usize {
        length.div_ceil(self.values_per_block())
    }

    /// The bytes of a body of `length` values: 8·N a block.
    #[must_use]
    pub fn body_bytes(&self, length: usize) -> u64 {
        // A usize of values takes at most 2^64/N blocks.
        (self.blocks(length) as u64).saturating_mul(crate::BLOCK_BYTES as u64)
    }

    /// ⌊9·σ·√m⌋, the largest magnitude that a sum of m = `contributors` errors (or secrets) may
    /// have: an integer e satisfies |e| ≤ 9σ√m exactly when |e| is at most this.
    #[must_use]
    pub fn error_bound(&self, contributors: usize) -> u64 {
        tail_bound(contributors as u64)
    }

    /// 8/k, the bytes on the wire for each value of a long vector.
    #[must_use]
    pub fn bytes_per_parameter(&self) -> f64 {
        8.0 / f64::from(self.slots)
    }

    /// The name that goes into plans: `ct1-n3-b11-d8-w14-k4`.
    #[must_use]
    pub fn name(&self) -> String {
        format!(
            "ct1-n{}-b{}-d{}-w{}-k{}",
            self.members.get(),
            self.bound.bits(),
            self.delta_log2,
            self.slot_bits,
            self.slots
        )
    }

    /// The numbers of the overflow proof.
    #[must_use]
    pub fn overflow(&self) -> Overflow {
        let largest_sum = largest_sum(self.members, self.bound);
        let ones = (0..self.slots)
            .map(|slot| 1_u128 << (slot * self.slot_bits))
            .sum::<u128>();
        Overflow {
            largest_sum,
            slot_limit: (1 << (self.slot_bits - 1)) - 1,
            largest_word: ((u128::from(largest_sum) * ones) << self.delta_log2)
                + (1 << (self.delta_log2 - 1)),
            word_limit: (Q - 1) / 2,
        }
    }
}

/// Why nothing that honest members send can wrap: the extreme sum and the extreme word, and what each must not exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow {
    /// n·B.
    pub largest_sum: u64,
    /// 2^(w−1) − 1, the largest value of a slot.
    pub slot_limit: u64,
    /// 2^d·n·B·(2^(kw) − 1)/(2^w − 1) + 2^(d−1): every slot at n·B, and the error at Δ/2.
    pub largest_word: u128,
    /// (q − 1)/2, the largest word that is not read as negative.
    pub word_limit: u64,
}

impl Overflow {
    /// Whether both hold.
    #[must_use]
    pub fn is_impossible(&self) -> bool {
        self.largest_sum <= self.slot_limit && self.largest_word <= u128::from(self.word_limit)
    }
}

/// n·B: n ≤ 1000 < 2^10 and B < 2^53, so below 2^63.
fn largest_sum(members: CohortSize, bound: ValueBound) -> u64 {
    members.get() as u64 * bound.get()
}

/// The smallest d with 2^d/2 > 9·σ·√n, in integers: 25·2^(2d) > 4·81·1024·n.
fn smallest_delta_log2(n: u64) -> u32 {
    let (numerator, denominator) = SIGMA_SQUARED;
    let limit = 4 * TAIL * TAIL * numerator * n;
    (1..31)
        .find(|d| denominator << (2 * d) > limit)
        .unwrap_or(31)
}

/// ⌊9·σ·√m⌋ = ⌊√(⌊81·1024·m/25⌋)⌋.
fn tail_bound(m: u64) -> u64 {
    let (numerator, denominator) = SIGMA_SQUARED;
    (TAIL * TAIL * numerator * m / denominator).isqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn derive(n: usize, bits: u32) -> Result<Parameters, Error> {
        Parameters::derive(CohortSize::new(n)?, ValueBound::new((1 << bits) - 1)?)
    }

    #[test]
    fn the_name_of_three_hospitals_with_twelve_bit_values_is_this_one() {
        let p = derive(3, 11).unwrap();
        assert_eq!(p.name(), "ct1-n3-b11-d8-w14-k4");
        assert_eq!(p.bytes_per_parameter(), 2.0);
        assert_eq!(p.blocks(1), 1);
        assert_eq!(p.blocks(4 * N), 1);
        assert_eq!(p.blocks(4 * N + 1), 2);
        assert_eq!(p.body_bytes(4 * N + 1), 65_536);
        assert_eq!(p.error_bound(3), 99);
    }

    /// The table of the protocol: 2.0 bytes for n ≤ 4, 2.67 to n = 63, at most 4.0 to n = 1,000.
    #[test]
    fn twelve_bit_values_cost_what_the_protocol_says() {
        for n in 2..=1000 {
            let slots = derive(n, 11).unwrap().slots();
            match n {
                ..=4 => assert_eq!(slots, 4, "n = {n}"),
                5..=63 => assert_eq!(slots, 3, "n = {n}"),
                _ => assert!(slots >= 2, "n = {n}"),
            }
        }
    }

    /// Overflow proof: every rule of the table, from scratch and with independent formulas.
    #[test]
    fn every_bound_holds_for_every_cohort_and_every_value_width() {
        for n in CohortSize::MIN..=CohortSize::MAX {
            for bits in 1..=ValueBound::MAX_BITS {
                let Ok(p) = derive(n, bits) else {
                    // Refused only where one slot of the sum cannot fit beside the error.
                    let sum_bits = f64::log2(n as f64) + f64::from(bits);
                    assert!(sum_bits > 50.0, "n = {n}, b = {bits} refused");
                    continue;
                };
                let half_delta = 2_f64.powi(p.delta_log2() as i32) / 2.0;
                let tail = 9.0 * 6.4 * f64::sqrt(n as f64);
                assert!(half_delta > tail && half_delta / 2.0 <= tail);
                assert!((p.error_bound(n) as f64) <= tail && p.error_bound(n) as f64 > tail - 1.0);

                let largest_sum = n as i128 * ((1 << bits) - 1);
                let slot = 1_i128 << p.slot_bits();
                assert!(largest_sum < slot / 2, "a sum leaves its slot");
                assert!(largest_sum > slot / 4 - 1, "the slot could be narrower");

                // The extreme words themselves: all slots at ±n·B and the error at ±Δ/2.
                let mut packed = 0_i128;
                for _ in 0..p.slots() {
                    packed = packed * slot + largest_sum;
                }
                let word = (packed << p.delta_log2()) + (1 << (p.delta_log2() - 1));
                assert!(2 * word < i128::from(Q), "n = {n}, b = {bits} wraps");
                let one_more = (p.slots() as u32 + 1) * p.slot_bits() + p.delta_log2();
                assert!(one_more > 64, "another slot would fit");
            }
        }
    }

    /// The overflow proof in numbers, as `params explain` prints it, against the protocol's closed formula.
    #[test]
    fn the_overflow_proof_of_three_hospitals_is_this_one() {
        let proof = derive(3, 11).unwrap().overflow();
        assert_eq!((proof.largest_sum, proof.slot_limit), (6141, 8191));
        let closed = 256 * 6141 * ((1_u128 << 56) - 1) / ((1 << 14) - 1) + 128;
        assert_eq!(proof.largest_word, closed);
        assert_eq!(proof.word_limit, 9_223_372_034_707_292_160);
        assert!(proof.is_impossible());
        let wider = Overflow {
            largest_sum: 8192,
            ..proof
        };
        let longer = Overflow {
            largest_word: u128::from(proof.word_limit) + 1,
            ..proof
        };
        assert!(!wider.is_impossible() && !longer.is_impossible());
    }

    #[test]
    fn a_sum_too_wide_for_a_word_is_refused_with_what_would_fit() {
        let refusal = derive(1000, 53).unwrap_err().to_string();
        for number in [
            "1000 values",
            "2^53 - 1",
            "2^41 - 1 = 2199023255551",
            "at most 3 members",
        ] {
            assert!(refusal.contains(number), "{refusal}");
        }
        // w = 56 = 64 − d would be one slot, but q is a little below 2^64.
        assert!(derive(2, 54).is_err());
    }

    #[test]
    fn what_a_refusal_says_would_fit_fits_and_the_next_does_not() {
        for n in CohortSize::MIN..=CohortSize::MAX {
            let members = CohortSize::new(n).unwrap();
            let bits = ValueBound::largest_for(members).bits();
            assert!(derive(n, bits).is_ok(), "n = {n}");
            assert!(derive(n, bits + 1).is_err(), "n = {n}");
        }
        for bits in 1..=ValueBound::MAX_BITS {
            let bound = ValueBound::new((1 << bits) - 1).unwrap();
            let n = CohortSize::largest_for(bound).get();
            assert!(derive(n, bits).is_ok(), "b = {bits}");
            assert!(
                n == CohortSize::MAX || derive(n + 1, bits).is_err(),
                "b = {bits}"
            );
        }
    }

    #[test]
    fn cohorts_and_bounds_outside_their_range_are_refused() {
        for n in [0, 1, 1001, usize::MAX] {
            assert!(matches!(CohortSize::new(n), Err(Error::Refused(_))));
        }
        for bound in [0, 2, 2048, u64::MAX] {
            assert!(
                matches!(ValueBound::new(bound), Err(Error::Refused(_))),
                "{bound}"
            );
        }
        assert_eq!(ValueBound::covering(0).unwrap().get(), 1);
        assert_eq!(ValueBound::covering(2047).unwrap().get(), 2047);
        assert_eq!(ValueBound::covering(2048).unwrap().get(), 4095);
    }
}
