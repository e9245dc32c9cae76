//! The noise share.

use ciphertune_gauss::{DiscreteGaussian, Entropy};
use ciphertune_policy::Unit;
use rand_core::Rng;
use zeroize::Zeroizing;

use crate::{Clipped, Error, Mechanism, Result, misuse};

/// y = v + N_ℤ(0, σ_i²)^d, every |y| ≤ B: what may be sealed.
///
/// With distributed noise one share alone is *not* private to the stated ε, only the opened sum is: still secret, no
/// `Clone`, no `Debug`, wiped on drop.
pub struct Noised {
    values: Zeroizing<Vec<i64>>,
}

impl Clipped {
    /// Adds the member's share of the noise, N_ℤ(0, σ_i²) a coordinate.
    ///
    /// Consumes the clipped vector: it is noised once. Fails (`Misuse`) under a mechanism other than the one it was
    /// clipped under and for `unit = none`; (`Fault`) when a coordinate leaves ±B: noise beyond twelve standard
    /// deviations, below 2⁻¹⁰⁷ a coordinate, booked by [`zcdp::distance`](crate::zcdp::distance). Clamping it instead
    /// would not be post-processing of the sum; nothing of the vector survives the failure.
    pub fn add_noise(self, mechanism: &Mechanism, entropy: &mut Entropy) -> Result<Noised> {
        self.add_noise_from(mechanism, entropy)
    }

    /// The integers as they are: **no differential privacy**. For `unit = none` alone, `Misuse` otherwise.
    pub fn without_privacy(self, mechanism: &Mechanism) -> Result<Noised> {
        let (values, clipped_under) = self.into_parts();
        if clipped_under != *mechanism || mechanism.spec().unit != Unit::None {
            return misuse("only unit none goes without noise");
        }
        Ok(Noised { values })
    }

    pub(crate) fn add_noise_from(
        self,
        mechanism: &Mechanism,
        rng: &mut impl Rng,
    ) -> Result<Noised> {
        let (mut values, clipped_under) = self.into_parts();
        if clipped_under != *mechanism {
            return misuse("the vector was clipped under another mechanism");
        }
        let Some(variance) = mechanism.share_variance() else {
            return misuse("unit none has no noise to add");
        };
        let gaussian =
            DiscreteGaussian::new(&variance).map_err(|error| Error::Fault(error.to_string()))?;
        let mut noise = Zeroizing::new(vec![0; CHUNK.min(values.len())]);
        let mut inside = true;
        for chunk in values.chunks_mut(CHUNK) {
            let noise = &mut noise[..chunk.len()];
            gaussian.fill(rng, noise);
            for (value, noise) in chunk.iter_mut().zip(noise.iter()) {
                // |v| < 2⁴⁸ and a draw of σ ≤ 2⁴⁰ stays below 2⁴⁶: no wrap.
                *value += noise;
                inside &= value.unsigned_abs() <= mechanism.value_bound();
            }
        }
        if inside {
            Ok(Noised { values })
        } else {
            Err(Error::Fault("a noised value is beyond its bound".into()))
        }
    }
}

const CHUNK: usize = 4096;

impl Noised {
    /// The integers to seal, |y| ≤ B.
    pub fn values(&self) -> &[i64] {
        &self.values
    }

    /// The integers to seal, still wiped on drop.
    pub fn into_values(self) -> Zeroizing<Vec<i64>> {
        self.values
    }
}

#[cfg(test)]
mod tests {
    use ciphertune_gauss::insecure::InsecureEntropy;
    use proptest::prelude::*;

    use super::*;
    use crate::mechanism::tests::{institution, without_privacy};

    static_assertions::assert_not_impl_any!(
        Noised: Clone, Copy, std::fmt::Debug, std::fmt::Display, PartialEq, serde::Serialize
    );

    #[test]
    fn the_noise_has_the_width_of_the_mechanism() {
        let d = 200_000;
        let mechanism = Mechanism::derive(&institution("1", "4.509", d)).unwrap();
        let (clipped, _) = Clipped::new(&vec![0.0; d], &mechanism).unwrap();
        let noised = clipped
            .add_noise_from(&mechanism, &mut InsecureEntropy::from_seed(1))
            .unwrap();
        let variance = noised
            .values()
            .iter()
            .map(|y| (*y as f64).powi(2))
            .sum::<f64>()
            / d as f64;
        let expected = mechanism
            .share_variance()
            .unwrap()
            .standard_deviation()
            .powi(2);
        // √(2/d) = 0.32 % is one standard error.
        assert!(
            (variance / expected - 1.0).abs() < 0.016,
            "{variance} {expected}"
        );
    }

    #[test]
    fn noise_is_added_to_the_clipped_values_and_not_put_in_their_place() {
        let mechanism = Mechanism::derive(&institution("1", "4.509", 2)).unwrap();
        let noised = |update: [f32; 2]| {
            let (clipped, _) = Clipped::new(&update, &mechanism).unwrap();
            clipped
                .add_noise_from(&mechanism, &mut InsecureEntropy::from_seed(2))
                .unwrap()
                .into_values()
        };
        let (with, without) = (noised([0.5, -0.25]), noised([0.0, 0.0]));
        assert_eq!([with[0] - without[0], with[1] - without[1]], [256, -128]);
    }

    #[test]
    fn fresh_entropy_never_repeats_the_noise() {
        let mechanism = Mechanism::derive(&institution("1", "4.509", 64)).unwrap();
        let noised = || {
            let (clipped, _) = Clipped::new(&[0.0; 64], &mechanism).unwrap();
            clipped
                .add_noise(&mechanism, &mut Entropy::from_os().unwrap())
                .unwrap()
                .into_values()
        };
        assert_ne!(noised(), noised());
    }

    #[test]
    fn a_vector_is_not_noised_under_another_mechanism() {
        let strict = Mechanism::derive(&institution("1", "4.509", 2)).unwrap();
        let weak = Mechanism::derive(&institution("1", "1", 2)).unwrap();
        let (clipped, _) = Clipped::new(&[0.5, 0.5], &strict).unwrap();
        let outcome = clipped.add_noise_from(&weak, &mut InsecureEntropy::from_seed(3));
        assert!(matches!(outcome, Err(Error::Misuse(_))));
    }

    #[test]
    fn noise_beyond_the_bound_fails_and_is_not_clamped() {
        let narrow = Mechanism::derive(&institution("1", "4.509", 64))
            .unwrap()
            .with_value_bound(1023);
        let (clipped, _) = Clipped::new(&[0.0; 64], &narrow).unwrap();
        let outcome = clipped.add_noise_from(&narrow, &mut InsecureEntropy::from_seed(5));
        assert!(matches!(outcome, Err(Error::Fault(_))));
    }

    #[test]
    fn going_without_privacy_takes_unit_none() {
        let private = Mechanism::derive(&institution("1", "4.509", 2)).unwrap();
        let open = Mechanism::derive(&without_privacy("1", 2)).unwrap();
        let clip = |mechanism| Clipped::new(&[0.5, 0.0], mechanism).unwrap().0;
        assert!(matches!(
            clip(&private).without_privacy(&private),
            Err(Error::Misuse(_))
        ));
        assert!(matches!(
            clip(&private).without_privacy(&open),
            Err(Error::Misuse(_))
        ));
        assert!(matches!(
            clip(&open).add_noise_from(&open, &mut InsecureEntropy::from_seed(4)),
            Err(Error::Misuse(_))
        ));
        assert_eq!(
            clip(&open).without_privacy(&open).unwrap().values(),
            [open.scale() as i64 / 2, 0]
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(64) })]

        #[test]
        fn a_sum_of_n_noised_vectors_stays_inside_n_bounds(
            seed: u64, members in 2_usize..12, length in 1_usize..300, fill in prop_oneof![Just(f32::MAX), Just(-1e-3_f32), Just(0.3_f32)],
        ) {
            let spec = crate::MechanismSpec { min_contributors: members, colluders: 0, ..institution("1", "1.5", length) };
            let mechanism = Mechanism::derive(&spec).unwrap();
            let mut rng = InsecureEntropy::from_seed(seed);
            let mut sum = vec![0_i64; length];
            for _ in 0..members {
                let (clipped, _) = Clipped::new(&vec![fill; length], &mechanism).unwrap();
                let noised = clipped.add_noise_from(&mechanism, &mut rng).unwrap();
                sum.iter_mut().zip(noised.values()).for_each(|(total, value)| *total += value);
            }
            prop_assert!(sum.iter().all(|total| total.unsigned_abs() <= members as u64 * mechanism.value_bound()));
            prop_assert!(crate::Release::from_opened(sum, members, &mechanism).is_ok());
        }
    }
}
