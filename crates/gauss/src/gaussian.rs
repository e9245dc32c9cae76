//! The sampler: alias tables, convolved for large σ.

use rand_core::Rng;
use zeroize::Zeroize;

use crate::alias::{AliasTable, LARGEST_TABLE_VARIANCE};
use crate::{Result, Variance};

/// log₂ of the bound on the total variation distance of one sample to the ideal N_ℤ(0, σ²), for every supported σ.
///
/// Two parts, both recomputed by this crate's tests with big integers: each table's rounding to 128 bits (below 2⁻¹¹⁵)
/// and each convolution's smoothing error 2·e^{−2π²τ²} with τ ≥ 2 (below 2⁻¹¹²), at most six levels.
pub const STATISTICAL_DISTANCE_LOG2: i32 = -104;

/// N_ℤ(0, σ²): P(x) ∝ exp(−x²/(2σ²)) over the integers, for any exact rational σ² in [1/4, 2⁸⁰].
///
/// Up to σ ≈ 313 one alias table. Beyond, x = y₀ + k·(y₁ + k·(y₂ + …)) with σ² = σ₀² + k²·σ₁² *exactly*
/// (Pöppelmann–Ducas–Güneysu 2014, Lemma 2; Micciancio–Walter 2017, Theorem 2): given x, the inner draw is a Gaussian
/// of width τ = σ₀σ₁/σ over a coset of ℤ, whose mass is constant up to 2·e^{−2π²τ²}; every step keeps τ² ≥ 4.
///
/// ```
/// use ciphertune_gauss::{DiscreteGaussian, Entropy, Variance};
///
/// let mut entropy = Entropy::from_os()?;
/// let errors = DiscreteGaussian::new(&Variance::new(4096, 100)?)?; // σ = 6.4
/// let mut block = vec![0; 4096];
/// errors.fill(&mut entropy, &mut block);
/// assert!(block.iter().all(|error| error.abs() < 100));
/// # Ok::<(), ciphertune_gauss::Error>(())
/// ```
pub struct DiscreteGaussian {
    variance: Variance,
    /// (factor, table): a sample is Σ factor·draw.
    levels: Vec<(i64, AliasTable)>,
}

impl DiscreteGaussian {
    /// Tables for N_ℤ(0, σ²): under a millisecond each; keep the sampler for many draws.
    ///
    /// Every [`Variance`] is in range today; an error (`Misuse`) would mean a decomposition outside it.
    pub fn new(variance: &Variance) -> Result<Self> {
        let levels = decompose(variance)?
            .into_iter()
            .map(|(factor, part)| (factor, AliasTable::new(&part)))
            .collect();
        Ok(Self {
            variance: *variance,
            levels,
        })
    }

    /// The exact σ² this samples.
    pub fn variance(&self) -> &Variance {
        &self.variance
    }

    /// One sample.
    pub fn sample(&self, rng: &mut impl Rng) -> i64 {
        self.levels
            .iter()
            .map(|(factor, table)| {
                factor * table.draw(rng.next_u32() >> (32 - table.word_bits()), rng)
            })
            .sum()
    }

    /// One independent sample for every place of `out`; what was there is overwritten.
    pub fn fill(&self, rng: &mut impl Rng, out: &mut [i64]) {
        let mut bytes = [0_u8; 4 * CHUNK];
        for chunk in out.chunks_mut(CHUNK) {
            chunk.fill(0);
            for (factor, table) in &self.levels {
                let words = &mut bytes[..table.word_bits() as usize / 8 * chunk.len()];
                rng.fill_bytes(words);
                if table.word_bits() == 16 {
                    for (sample, word) in chunk.iter_mut().zip(words.as_chunks().0) {
                        let word = u16::from_le_bytes(*word);
                        *sample += factor * table.draw(word.into(), rng);
                    }
                } else {
                    for (sample, word) in chunk.iter_mut().zip(words.as_chunks().0) {
                        *sample += factor * table.draw(u32::from_le_bytes(*word), rng);
                    }
                }
            }
        }
        bytes.zeroize();
    }
}

/// Words of randomness taken at once, of four bytes at most.
const CHUNK: usize = 256;

/// Width of the outer table, in factors: σ₀² ∈ [5k², 6k²).
const OUTER: u128 = 5;
/// Largest factor k: 6k² is then the largest variance of one table.
const LARGEST_FACTOR: u128 = 128;

/// (factor, variance) of each level, with Σ factor²·variance = σ² exactly.
///
/// At each step σ₁² = ⌊(σ² − 5k²)/k²⌋ is an integer ≥ 21 and σ₀² = σ² − k²σ₁² ∈ [5k², 6k²), so
/// τ² = (1/σ₁² + k²/σ₀²)⁻¹ ≥ (1/21 + 1/5)⁻¹ > 4.03.
fn decompose(variance: &Variance) -> Result<Vec<(i64, Variance)>> {
    let mut levels = Vec::new();
    let mut factor = 1_i64;
    let mut rest = *variance;
    while rest.floor() >= LARGEST_TABLE_VARIANCE {
        let k = (rest.floor() / (OUTER + 21)).isqrt().min(LARGEST_FACTOR);
        let square = k * k * rest.denominator();
        let inner = (rest.numerator() - OUTER * square) / square;
        levels.push((
            factor,
            Variance::new(rest.numerator() - inner * square, rest.denominator())?,
        ));
        factor *= k as i64;
        rest = Variance::integer(inner)?;
    }
    levels.push((factor, rest));
    Ok(levels)
}

#[cfg(test)]
pub(crate) mod tests {
    use num_bigint::BigUint;

    use super::*;

    impl DiscreteGaussian {
        /// (factor, variance, probabilities in 2⁻¹²⁸) of each level.
        pub(crate) fn levels(
            &self,
        ) -> Vec<(i64, Variance, std::collections::BTreeMap<i64, BigUint>)> {
            let parts = decompose(&self.variance).unwrap();
            let tables = parts.into_iter().zip(&self.levels);
            tables
                .map(|((factor, part), (_, table))| (factor, part, table.masses()))
                .collect()
        }
    }

    /// Widths this project meets, the seams between one and several tables, and the ends of the range.
    pub(crate) fn widths() -> Vec<Variance> {
        let integers = [
            1,
            16,
            17,
            90_000,
            98_303,
            98_304,
            98_305,
            100_000,
            1 << 20,
            1_000_003,
            1 << 32,
            1 << 40,
            1 << 62,
            1 << 80,
        ];
        let mut widths: Vec<_> = integers
            .into_iter()
            .map(|integer| Variance::integer(integer).unwrap())
            .collect();
        let rationals = [
            (1, 4),
            (4096, 100),
            (98_304 * 7 - 1, 7),
            (98_304 * 7 + 1, 7),
            (818_131_609 * 123_456_789, 3_000_000),
        ];
        widths.extend(
            rationals
                .map(|(numerator, denominator)| Variance::new(numerator, denominator).unwrap()),
        );
        widths
    }

    #[test]
    fn a_decomposition_adds_up_exactly_and_every_step_is_smooth() {
        for variance in widths() {
            let levels = decompose(&variance).unwrap();
            assert!(levels.len() <= 6);
            let denominator = variance.denominator();
            let mut total = BigUint::ZERO;
            for (factor, part) in &levels {
                assert_eq!(denominator % part.denominator(), 0);
                let whole = BigUint::from(part.numerator()) * (denominator / part.denominator());
                total += whole * BigUint::from(*factor as u64).pow(2);
                assert!(part.floor() <= LARGEST_TABLE_VARIANCE);
            }
            assert_eq!(
                total,
                BigUint::from(variance.numerator()),
                "σ² = {variance}"
            );
            // τ² ≥ 4 ⇔ σ₀²·σ₁² ≥ 4·(σ₀² + k²σ₁²), at each step from the innermost outwards.
            let mut rest = levels.last().unwrap().1;
            for pair in levels.windows(2).rev() {
                let k = BigUint::from((pair[1].0 / pair[0].0) as u64);
                let (outer, scale) = (
                    BigUint::from(pair[0].1.numerator()),
                    pair[0].1.denominator(),
                );
                let inner = BigUint::from(rest.numerator());
                assert_eq!(rest.denominator(), 1);
                let joint = &outer + &inner * &k * &k * scale;
                assert!(&outer * &inner >= &joint * 4_u8, "σ² = {variance}");
                rest = Variance::new(u128::try_from(joint).unwrap(), scale).unwrap();
            }
        }
    }
}
