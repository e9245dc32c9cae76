//! What a round publishes.

use ciphertune_policy::Unit;

use crate::{Mechanism, Result, misuse, refused};

/// The opened sum of a round, noised as the mechanism says: this may be published, and whatever is computed from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    sum: Vec<i64>,
    contributors: usize,
    scale_log2: i32,
    private: bool,
}

impl Release {
    /// The sum over `contributors` members as it was opened.
    ///
    /// Fails (`Misuse`) on another length; (`Refused`) outside min_contributors ..= 1,000, or when a value lies outside
    /// ±contributors·B, or the whole is longer than [`Mechanism::sum_norm_bound`]: some member sent what it had no
    /// right to.
    pub fn from_opened(sum: Vec<i64>, contributors: usize, mechanism: &Mechanism) -> Result<Self> {
        if sum.len() != mechanism.dimension() {
            return misuse(format!(
                "a sum of {} values for a mechanism of dimension {}",
                sum.len(),
                mechanism.dimension()
            ));
        }
        mechanism.honest_shares(contributors)?;
        // ≤ 1,000·2⁴⁸
        let bound = contributors as u64 * mechanism.value_bound();
        if sum.iter().any(|value| value.unsigned_abs() > bound) {
            return refused("a value of the opened sum is beyond what its contributors may send");
        }
        let limit = mechanism.sum_norm_bound(contributors);
        let squares = sum
            .iter()
            .map(|value| u128::from(value.unsigned_abs()).pow(2))
            .try_fold(0_u128, u128::checked_add);
        if squares.is_none_or(|squares| squares > limit.saturating_mul(limit)) {
            return refused(
                "the opened sum is longer than its contributors' clipped updates and noise can make it",
            );
        }
        Ok(Self {
            sum,
            contributors,
            scale_log2: mechanism.scale_log2(),
            private: mechanism.spec().unit != Unit::None,
        })
    }

    /// Σ / (2^s·|U|), elementwise: one IEEE division in f64 and one rounding to f32, so the same bits on every machine.
    pub fn mean(&self) -> impl Iterator<Item = f32> {
        self.divided_by(self.contributors as u64)
    }

    /// Σ / 2^s, elementwise: the same bits on every machine. At record level divide by the expected batch instead of
    /// the number of members: [`Release::divided_by`].
    pub fn sum(&self) -> impl Iterator<Item = f32> {
        self.divided_by(1)
    }

    /// Σ / (2^s·divisor), elementwise, for a public `divisor` > 0 below 2⁵³: the same bits on every machine.
    pub fn divided_by(&self, divisor: u64) -> impl Iterator<Item = f32> {
        // 2^s times an integer below 2⁵³ is exact; |Σ| ≤ 1,000·2⁴⁸ < 2⁵⁸ is rounded once on its way to f64.
        let divisor = 2_f64.powi(self.scale_log2) * divisor as f64;
        self.sum
            .iter()
            .map(move |&value| (value as f64 / divisor) as f32)
    }

    /// The integers themselves.
    pub fn values(&self) -> &[i64] {
        &self.sum
    }

    /// |U|.
    pub fn contributors(&self) -> usize {
        self.contributors
    }

    /// Whether noise is in it: every report on a release without says so.
    pub fn is_private(&self) -> bool {
        self.private
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;
    use crate::mechanism::tests::{institution, without_privacy};

    #[test]
    fn the_mean_undoes_scale_and_count() {
        let mechanism = Mechanism::derive(&institution("1", "4.509", 3)).unwrap();
        assert_eq!(mechanism.scale(), 512.0);
        let release = Release::from_opened(vec![1536, -768, 1], 3, &mechanism).unwrap();
        let mean = [1.0, -0.5, (1.0_f64 / 1536.0) as f32];
        assert!(release.mean().eq(mean));
        assert!(release.sum().eq([3.0, -1.5, 1.0 / 512.0]));
        assert!(release.is_private());
    }

    #[test]
    fn the_mean_has_these_bits_on_every_machine() {
        let mechanism = Mechanism::derive(&institution("1", "4.509", 4)).unwrap();
        let release = Release::from_opened(vec![1, -2, 12_345, 30_001], 3, &mechanism).unwrap();
        let bits: Vec<u32> = release.mean().map(f32::to_bits).collect();
        // Nearest singles to 1/1536, −2/1536, 12345/1536, 30001/1536, worked out in exact arithmetic.
        assert_eq!(bits, [0x3A2A_AAAB, 0xBAAA_AAAB, 0x4100_9800, 0x419C_4155]);
    }

    #[test]
    fn values_beyond_what_members_may_send_are_refused() {
        let mechanism = Mechanism::derive(&institution("1", "4.509", 1)).unwrap();
        let longest = mechanism.sum_norm_bound(3) as i64;
        let bound = 3 * mechanism.value_bound() as i64;
        assert!(longest < bound);
        assert!(Release::from_opened(vec![longest], 3, &mechanism).is_ok());
        for value in [
            longest + 1,
            -longest - 1,
            bound + 1,
            -bound - 1,
            i64::MAX,
            i64::MIN,
        ] {
            assert!(matches!(
                Release::from_opened(vec![value], 3, &mechanism),
                Err(Error::Refused(_))
            ));
        }
    }

    #[test]
    fn a_sum_longer_than_clipped_updates_can_make_it_is_refused() {
        let mechanism = Mechanism::derive(&without_privacy("1", 16)).unwrap();
        let each = mechanism.clip_bound() as i64;
        // Each value is within what three members may send, all of them together are not.
        let mut sum = vec![0; 16];
        sum[0] = 3 * each;
        assert!(Release::from_opened(sum.clone(), 3, &mechanism).is_ok());
        sum[1] = each;
        assert!(matches!(
            Release::from_opened(sum, 3, &mechanism),
            Err(Error::Refused(_))
        ));
    }

    #[test]
    fn too_few_contributors_and_another_length_are_refused() {
        let mechanism = Mechanism::derive(&institution("1", "4.509", 2)).unwrap();
        assert!(matches!(
            Release::from_opened(vec![0, 0], 2, &mechanism),
            Err(Error::Refused(_))
        ));
        assert!(matches!(
            Release::from_opened(vec![0, 0], 1001, &mechanism),
            Err(Error::Refused(_))
        ));
        assert!(matches!(
            Release::from_opened(vec![0], 3, &mechanism),
            Err(Error::Misuse(_))
        ));
    }

    #[test]
    fn a_release_without_privacy_says_so() {
        let mechanism = Mechanism::derive(&without_privacy("1", 1)).unwrap();
        assert!(
            !Release::from_opened(vec![5], 3, &mechanism)
                .unwrap()
                .is_private()
        );
    }
}
