//! Whose gradients a round at record level sums.

use ciphertune_gauss::Entropy;
use rand_core::Rng;
use zeroize::Zeroizing;

use crate::SamplingRate;
use crate::rational::Fraction;

/// The records that a round's coins chose: each is in with probability q, on its own (Poisson sampling). What
/// [`rdp::Curve::per_round`](crate::rdp::Curve::per_round) charges for q < 1 rests on nobody else knowing them.
///
/// Drawn anew for every attempt; an empty one is summed and sent like any other. Secret: no `Clone`, no `Debug`, wiped
/// on drop.
pub struct PoissonBatch {
    records: Zeroizing<Vec<usize>>,
}

impl PoissonBatch {
    /// Tosses a coin of its own for each of `records` records. A coin falls for its record with probability
    /// ⌊q·2⁶⁴⌋/2⁶⁴, worked out exactly: by less than 2⁻⁶⁴ below q, and a smaller q only costs less.
    pub fn draw(records: usize, rate: SamplingRate, entropy: &mut Entropy) -> Self {
        Self::draw_from(records, rate, entropy)
    }

    pub(crate) fn draw_from(records: usize, rate: SamplingRate, rng: &mut impl Rng) -> Self {
        let below = threshold(rate);
        // Room for all of them: a vector that grew would leave copies behind.
        let mut drawn = Zeroizing::new(Vec::with_capacity(records));
        drawn.extend((0..records).filter(|_| u128::from(rng.next_u64()) < below));
        Self { records: drawn }
    }

    /// The chosen records' numbers, from 0, ascending.
    pub fn records(&self) -> &[usize] {
        &self.records
    }
}

/// ⌊q·2⁶⁴⌋: at most 2⁶⁴, which no coin reaches.
fn threshold(rate: SamplingRate) -> u128 {
    let exact = Fraction::of(&rate.get()).shifted(64).floor();
    u128::try_from(exact).map_or(1 << 64, |below| below.min(1 << 64))
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use ciphertune_gauss::insecure::InsecureEntropy;
    use rand_core::TryRng;

    use super::*;

    static_assertions::assert_not_impl_any!(
        PoissonBatch: Clone, Copy, std::fmt::Debug, std::fmt::Display, PartialEq, serde::Serialize
    );

    fn rate(q: &str) -> SamplingRate {
        SamplingRate::new(q.parse().unwrap()).unwrap()
    }

    /// Coins that fall as they are told to.
    struct Coins(Vec<u64>);

    impl TryRng for Coins {
        type Error = Infallible;

        fn try_next_u32(&mut self) -> Result<u32, Infallible> {
            unreachable!("a coin has 64 bits")
        }

        fn try_next_u64(&mut self) -> Result<u64, Infallible> {
            Ok(self.0.remove(0))
        }

        fn try_fill_bytes(&mut self, _: &mut [u8]) -> Result<(), Infallible> {
            unreachable!("a coin has 64 bits")
        }
    }

    #[test]
    fn the_threshold_is_the_rate_rounded_down_exactly() {
        // 2⁶⁴ = 18,446,744,073,709,551,616.
        let exact = [
            ("0.1", 1_844_674_407_370_955_161),
            ("0.3", 5_534_023_222_112_865_484),
            ("0.5", 1 << 63),
            ("1", 1 << 64),
            ("0.99999999999999999999", (1 << 64) - 1),
            ("0.0000000000000000001", 1),
            ("0.00000000000000000001", 0),
        ];
        for (q, below) in exact {
            assert_eq!(threshold(rate(q)), below, "{q}");
        }
        let tenth = 1_844_674_407_370_955_161_u64;
        let mut coins = Coins(vec![tenth - 1, tenth, 0, u64::MAX]);
        let drawn = PoissonBatch::draw_from(4, rate("0.1"), &mut coins);
        assert_eq!(drawn.records(), [0, 2]);
        assert!(coins.0.is_empty(), "one coin a record");
    }

    #[test]
    fn with_rate_one_everybody_is_in_and_nobody_is_in_a_batch_of_none() {
        let mut entropy = Entropy::from_os().unwrap();
        let all = PoissonBatch::draw(100, SamplingRate::WHOLE, &mut entropy);
        assert!(all.records().iter().copied().eq(0..100));
        let none = PoissonBatch::draw(0, SamplingRate::WHOLE, &mut entropy);
        assert!(none.records().is_empty());
        let never = PoissonBatch::draw(100, rate("0.00000000000000000001"), &mut entropy);
        assert!(never.records().is_empty());
    }

    /// Pearson's statistic of batch sizes against Binomial(12, q), cells below 5 expected taken together.
    #[test]
    fn batch_sizes_are_binomial() {
        const RECORDS: usize = 12;
        const DRAWS: usize = 200_000;
        for (q, seed) in [("0.1", 1), ("0.37", 2), ("0.9", 3)] {
            let mut rng = InsecureEntropy::from_seed(seed);
            let mut counts = [0_u32; RECORDS + 1];
            for _ in 0..DRAWS {
                let drawn = PoissonBatch::draw_from(RECORDS, rate(q), &mut rng);
                counts[drawn.records().len()] += 1;
            }
            let p: f64 = q.parse().unwrap();
            let mut binomial = (1.0 - p).powi(RECORDS as i32);
            let (mut statistic, mut cells) = (0.0, 0);
            let (mut expected, mut found) = (0.0, 0.0);
            for (size, count) in counts.iter().enumerate() {
                expected += binomial * DRAWS as f64;
                found += f64::from(*count);
                if expected >= 5.0 {
                    statistic += (found - expected).powi(2) / expected;
                    cells += 1;
                    (expected, found) = (0.0, 0.0);
                }
                binomial *= (RECORDS - size) as f64 / (size + 1) as f64 * p / (1.0 - p);
            }
            // P(χ² > 45 | at most 12 degrees of freedom) < 10⁻⁵.
            assert!(
                cells > 6 && statistic < 45.0,
                "q = {q}: {statistic} in {cells} cells"
            );
        }
    }

    /// In each of two attempts, in one of them, in neither: products of the marginals, for each record and its neighbour.
    #[test]
    fn attempts_and_records_are_independent_of_one_another() {
        const RECORDS: usize = 1_000;
        const ATTEMPTS: usize = 1_000;
        let mut rng = InsecureEntropy::from_seed(4);
        let mut before = [false; RECORDS];
        let (mut again, mut neighbours) = ([0_u32; 4], [0_u32; 4]);
        for attempt in 0..ATTEMPTS {
            let mut now = [false; RECORDS];
            let drawn = PoissonBatch::draw_from(RECORDS, rate("0.25"), &mut rng);
            drawn
                .records()
                .iter()
                .for_each(|record| now[*record] = true);
            if attempt > 0 {
                for (then, now) in before.iter().zip(&now) {
                    again[usize::from(*then) * 2 + usize::from(*now)] += 1;
                }
            }
            for pair in now.windows(2) {
                neighbours[usize::from(pair[0]) * 2 + usize::from(pair[1])] += 1;
            }
            before = now;
        }
        for counts in [again, neighbours] {
            let all: f64 = counts.iter().map(|count| f64::from(*count)).sum();
            let statistic: f64 = [0.5625, 0.1875, 0.1875, 0.0625]
                .iter()
                .zip(counts)
                .map(|(p, count)| (f64::from(count) - p * all).powi(2) / (p * all))
                .sum();
            // P(χ² > 25 | 3 degrees of freedom) < 2·10⁻⁵.
            assert!(statistic < 25.0, "{counts:?}: {statistic}");
        }
    }

    #[test]
    fn two_draws_from_the_operating_system_differ() {
        let draw = || {
            let mut entropy = Entropy::from_os().unwrap();
            PoissonBatch::draw(256, rate("0.5"), &mut entropy)
        };
        assert!(draw().records() != draw().records());
    }
}
