//! One table of 128-bit probabilities, drawn from with 16 or 32 bits.

use rand_core::Rng;

use crate::Variance;
use crate::fixed::Fixed;

/// The alias table (Walker 1977; Vose 1991) of N_ℤ(0, σ²) with every probability rounded to a multiple of 2⁻¹²⁸.
///
/// 2^L slots of mass 2⁻ᴸ. A draw reads a word of W bits, 16 where L ≤ 8 and 32 elsewhere: L choose the slot, the other
/// W − L are held against the head of the slot's threshold; only when these are equal (once in 2ᵂ⁻ᴸ draws, whatever the
/// slot) do 128 − W more bits decide. So probabilities are exact multiples of 2⁻¹²⁸ at the cost of one word a draw.
///
/// The slot looked up depends on a secret draw: 64 KiB at most, L2-resident, and not constant time against an attacker
/// who shares the cache. Member machines are trusted with the data itself.
pub(crate) struct AliasTable {
    slot_bits: u32,
    word_bits: u32,
    slots: Vec<Slot>,
    /// The last 128 − W bits of each slot's threshold.
    tails: Vec<u128>,
}

#[derive(Clone, Copy)]
struct Slot {
    /// The first W − L bits of the threshold: below it `own`, above it `alias`.
    head: u32,
    own: i16,
    alias: i16,
}

/// Largest σ² of one table: a support of ±4,036 in 2¹³ slots.
pub(crate) const LARGEST_TABLE_VARIANCE: u128 = 6 * 128 * 128;

impl AliasTable {
    /// The table of N_ℤ(0, σ²), for σ² ≤ [`LARGEST_TABLE_VARIANCE`].
    pub(crate) fn new(variance: &Variance) -> Self {
        debug_assert!(variance.floor() <= LARGEST_TABLE_VARIANCE);
        let weights = weights(variance);
        let reach = weights.len() as i32 - 1;
        let count = weights.len() * 2 - 1;
        let slot_bits = count.next_power_of_two().trailing_zeros().max(1);
        let word_bits = if slot_bits <= 8 { 16 } else { 32 };
        let capacity = 1_u128 << (128 - slot_bits);

        // Weights of the slots' own values −reach ..= reach, and of as many empty slots as fill the power of two.
        let mut mass: Vec<u128> = (-reach..=reach)
            .map(|x| weights[x.unsigned_abs() as usize])
            .collect();
        mass.resize(1 << slot_bits, 0);
        let own = |slot: usize| (slot as i32 - reach) as i16;

        let (mut poor, mut rich): (Vec<usize>, Vec<usize>) =
            (0..mass.len()).partition(|&slot| mass[slot] < capacity);
        let mut thresholds = vec![0; mass.len()];
        // A slot that is filled by itself keeps threshold 0 and itself as its alias.
        let mut aliases: Vec<i16> = (0..mass.len()).map(own).collect();
        while let (Some(&giver), Some(taker)) = (rich.last(), poor.pop()) {
            thresholds[taker] = mass[taker];
            aliases[taker] = own(giver);
            // What the giver gives is what the taker lacks; in integers nothing is lost.
            mass[giver] -= capacity - mass[taker];
            if mass[giver] < capacity {
                rich.pop();
                poor.push(giver);
            }
        }
        debug_assert!(poor.is_empty() && rich.iter().all(|&slot| mass[slot] == capacity));

        let slots = thresholds
            .iter()
            .zip(&aliases)
            .enumerate()
            .map(|(slot, (&threshold, &alias))| Slot {
                head: (threshold >> (128 - word_bits)) as u32,
                own: own(slot),
                alias,
            })
            .collect();
        let tails = thresholds
            .iter()
            .map(|threshold| threshold & ((1 << (128 - word_bits)) - 1))
            .collect();
        Self {
            slot_bits,
            word_bits,
            slots,
            tails,
        }
    }

    /// W, the uniform bits that a draw reads at first.
    pub(crate) fn word_bits(&self) -> u32 {
        self.word_bits
    }

    /// One draw from a word of W uniform bits, with more from `rng` once in 2ᵂ⁻ᴸ draws.
    #[inline]
    pub(crate) fn draw(&self, word: u32, rng: &mut impl Rng) -> i64 {
        let index = (word & (self.slots.len() as u32 - 1)) as usize;
        let head = word >> self.slot_bits;
        let slot = self.slots[index];
        if head == slot.head {
            return self.draw_tail(index, rng);
        }
        // Which of the two is a coin toss: picked by mask, as a branch would be mispredicted half the time.
        let below = i64::from(head < slot.head).wrapping_neg();
        let (own, alias) = (i64::from(slot.own), i64::from(slot.alias));
        alias ^ (below & (own ^ alias))
    }

    #[cold]
    fn draw_tail(&self, index: usize, rng: &mut impl Rng) -> i64 {
        let tail =
            (u128::from(rng.next_u64()) << 64 | u128::from(rng.next_u64())) >> self.word_bits;
        let slot = self.slots[index];
        i64::from(if tail < self.tails[index] {
            slot.own
        } else {
            slot.alias
        })
    }

    /// The probabilities this table draws with, in units of 2⁻¹²⁸, read back from its slots.
    #[cfg(test)]
    pub(crate) fn masses(&self) -> std::collections::BTreeMap<i64, num_bigint::BigUint> {
        let capacity = 1_u128 << (128 - self.slot_bits);
        let mut masses = std::collections::BTreeMap::new();
        for (slot, tail) in self.slots.iter().zip(&self.tails) {
            let threshold = u128::from(slot.head) << (128 - self.word_bits) | tail;
            *masses.entry(i64::from(slot.own)).or_default() += threshold;
            *masses.entry(i64::from(slot.alias)).or_default() += capacity - threshold;
        }
        masses
    }
}

/// P(0), P(1), … in units of 2⁻¹²⁸ to the nearest, up to the last one that does not round to zero; P(0) takes the
/// rounding, so that P(0) + 2·Σ P(x) = 2¹²⁸.
///
/// ρ(x) = exp(−x²/(2σ²)) by ρ(x + 1) = ρ(x)·r(x), r(x + 1) = r(x)·r(0)², r(0) = exp(−1/(2σ²)): one exponential a table.
fn weights(variance: &Variance) -> Vec<u128> {
    // 1/(2σ²) = denominator/(2·numerator), at most 2 as σ² ≥ 1/4.
    let root = Fixed::exp_of_minus_half(variance.denominator(), variance.numerator());
    let square = root.times(root);
    let mut densities = Vec::new();
    let (mut density, mut ratio) = (Fixed::ONE, root);
    while density != Fixed::ZERO {
        densities.push(density);
        density = density.times(ratio);
        ratio = ratio.times(square);
    }
    let total = densities
        .iter()
        .skip(1)
        .fold(Fixed::ONE, |sum, &density| sum.plus(density).plus(density));
    let scale = Fixed::ONE.divided_by(total);
    let mut weights: Vec<u128> = densities
        .iter()
        .map(|&density| density.times(scale).to_128_bits())
        .collect();
    while weights.last() == Some(&0) {
        weights.pop();
    }
    let sides = weights
        .iter()
        .skip(1)
        .fold(0_u128, |sum, &weight| sum + 2 * weight);
    weights[0] = sides.wrapping_neg();
    weights
}
