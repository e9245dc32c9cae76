//! Signed integers into coefficients and back.
//!
//! Coefficient = Σ_j v_j·2^(w·j) over the integers, times Δ = 2^d; integer i of a block sits in slot
//! i mod k of coefficient ⌊i/k⌋. No branch and no table look-up depends on a value.

use ciphertune_sum::{N, Parameters, modular, vectorised};

/// Adds Δ·m to the N words of `block`, m holding at most k·N `values`; slots without one are 0.
#[cfg(test)]
pub(crate) fn add_packed(parameters: &Parameters, values: &[i64], block: &mut [u64]) {
    let mut message = vec![0; N];
    pack(parameters, values, &mut message);
    for (word, message) in block.iter_mut().zip(message) {
        *word = modular::add(*word, modular::from_i64(message));
    }
}

/// The N coefficients Δ·m over the integers, m holding at most k·N `values`; slots without one
/// are 0.
pub(crate) fn pack(parameters: &Parameters, values: &[i64], message: &mut [i64]) {
    // The usual numbers of slots are compiled for themselves, and so vectorise.
    match parameters.slots() {
        1 => pack_slots::<1>(parameters, values, message),
        2 => pack_slots::<2>(parameters, values, message),
        3 => pack_slots::<3>(parameters, values, message),
        4 => pack_slots::<4>(parameters, values, message),
        slots => {
            let (width, delta) = (parameters.slot_bits(), parameters.delta_log2());
            message.fill(0);
            for (coefficient, slots) in message.iter_mut().zip(values.chunks(slots)) {
                *coefficient = coefficient_of(slots, width) << delta;
            }
        }
    }
}

fn pack_slots<const K: usize>(parameters: &Parameters, values: &[i64], message: &mut [i64]) {
    let (width, delta) = (parameters.slot_bits(), parameters.delta_log2());
    let (whole, rest) = values.as_chunks::<K>();
    let (packed, tail) = message.split_at_mut(whole.len().min(message.len()));
    vectorised(
        #[inline(always)]
        || {
            for (coefficient, slots) in packed.iter_mut().zip(whole) {
                *coefficient = coefficient_of(slots, width) << delta;
            }
        },
    );
    tail.fill(0);
    if let Some(coefficient) = tail.first_mut() {
        *coefficient = coefficient_of(rest, width) << delta;
    }
}

/// Σ_j v_j·2^(w·j).
#[inline(always)]
fn coefficient_of(slots: &[i64], width: u32) -> i64 {
    let mut coefficient = 0_i64;
    for &value in slots.iter().rev() {
        coefficient = (coefficient << width).wrapping_add(value);
    }
    coefficient
}

/// What opening found, beside the values.
#[derive(Clone, Copy, Default)]
pub(crate) struct Found {
    /// Largest magnitude of a residual error.
    pub(crate) residual: u64,
    /// Largest magnitude of a value, padding included.
    pub(crate) value: u64,
    /// Not 0 when there is something beyond the k slots.
    pub(crate) beyond: i64,
}

impl Found {
    /// What was found in two places together.
    #[inline(always)]
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            residual: self.residual.max(other.residual),
            value: self.value.max(other.value),
            beyond: self.beyond | other.beyond,
        }
    }
}

/// Splits N words Δ·m + e into `values` (k·N of them) and reports how large e and m are.
pub(crate) fn unpack(parameters: &Parameters, words: &[u64], values: &mut [i64]) -> Found {
    debug_assert_eq!(
        (words.len(), values.len()),
        (N, parameters.values_per_block())
    );
    match parameters.slots() {
        1 => unpack_slots::<1>(parameters, words, values),
        2 => unpack_slots::<2>(parameters, words, values),
        3 => unpack_slots::<3>(parameters, words, values),
        4 => unpack_slots::<4>(parameters, words, values),
        slots => {
            let mut found = Found::default();
            for (word, slots) in words.iter().zip(values.chunks_exact_mut(slots)) {
                found = found.and(slots_of(parameters, *word, slots));
            }
            found
        }
    }
}

fn unpack_slots<const K: usize>(
    parameters: &Parameters,
    words: &[u64],
    values: &mut [i64],
) -> Found {
    let parameters = *parameters;
    vectorised(
        #[inline(always)]
        || {
            let mut found = Found::default();
            for (word, slots) in words.iter().zip(values.as_chunks_mut::<K>().0) {
                found = found.and(slots_of(&parameters, *word, slots));
            }
            found
        },
    )
}

/// The slots of one word.
#[inline(always)]
fn slots_of(parameters: &Parameters, word: u64, slots: &mut [i64]) -> Found {
    let (width, delta) = (parameters.slot_bits(), parameters.delta_log2());
    let centred = modular::centred(word);
    // |centred| ≤ 2^63 − 2^31 and Δ/2 < 2^31: no overflow. The shift rounds downwards.
    let mut message = (centred + (1 << (delta - 1))) >> delta;
    let mut found = Found {
        residual: (centred - (message << delta)).unsigned_abs(),
        value: 0,
        beyond: 0,
    };
    for value in slots {
        *value = (message << (64 - width)) >> (64 - width);
        message = (message - *value) >> width;
        found.value = found.value.max(value.unsigned_abs());
    }
    found.beyond = message;
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use ciphertune_sum::{CohortSize, ValueBound};
    use proptest::prelude::*;

    fn parameters(n: usize, bits: u32) -> Parameters {
        let bound = ValueBound::new((1 << bits) - 1).unwrap();
        Parameters::derive(CohortSize::new(n).unwrap(), bound).unwrap()
    }

    #[test]
    fn the_largest_sums_and_errors_come_back_for_every_parameter_set() {
        for n in [2, 3, 4, 5, 63, 64, 79, 1000] {
            for bits in 1..=40 {
                let p = parameters(n, bits);
                let most = (n as u64 * p.value_bound()) as i64;
                let pattern = [most, -most, 0, 1, -1, most - 1, 1 - most];
                let sent: Vec<i64> = pattern
                    .into_iter()
                    .cycle()
                    .take(p.values_per_block())
                    .collect();
                let error = p.error_bound(n);
                let mut words: Vec<u64> = (0..N as u64)
                    .map(|i| modular::from_i64((i % (2 * error + 1)) as i64 - error as i64))
                    .collect();
                add_packed(&p, &sent, &mut words);
                let mut opened = vec![0; sent.len()];
                let found = unpack(&p, &words, &mut opened);
                assert_eq!(opened, sent, "{}", p.name());
                assert_eq!(found.residual, error, "{}", p.name());
                assert_eq!(found.value, most as u64);
                assert_eq!(found.beyond, 0);
            }
        }
    }

    #[test]
    fn a_short_tail_is_zero_and_stays_zero() {
        let p = parameters(3, 11);
        let mut words = vec![0; N];
        add_packed(&p, &[7, -8, 9, -10, 11], &mut words);
        let mut opened = vec![1; p.values_per_block()];
        unpack(&p, &words, &mut opened);
        assert_eq!(opened[..5], [7, -8, 9, -10, 11]);
        assert!(opened[5..].iter().all(|value| *value == 0));
    }

    #[test]
    fn something_beyond_the_slots_is_seen() {
        let p = parameters(2, 20); // k = 2, 2·22 bits: 12 bits to spare
        let mut words = vec![0; N];
        words[17] = modular::from_i64(1 << (p.delta_log2() + 2 * p.slot_bits()));
        let found = unpack(&p, &words, &mut vec![0; p.values_per_block()]);
        assert_ne!(found.beyond, 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// One past 9·σ·√|U| is seen as such for every cohort, whether it moves a value (at Δ/2) or not.
        #[test]
        fn an_error_just_outside_is_reported_as_it_is(
            n in 2..=1000_usize,
            bits in 1..=20_u32,
            place in 0..N,
            negative in any::<bool>(),
        ) {
            let p = parameters(n, bits);
            let outside = p.error_bound(n) as i64 + 1;
            let mut words = vec![0; N];
            words[place] = modular::from_i64(if negative { -outside } else { outside });
            let sent = vec![p.value_bound() as i64; p.values_per_block()];
            add_packed(&p, &sent, &mut words);
            let mut opened = vec![0; sent.len()];
            let found = unpack(&p, &words, &mut opened);
            prop_assert_eq!(found.residual, outside as u64);
            prop_assert!(opened == sent || 2 * outside >= 1 << p.delta_log2());
        }
    }
}
