//! From floats to clipped integers.

use zeroize::{Zeroize, Zeroizing};

use crate::{Error, ExampleSum, Mechanism, Result, misuse};

/// The un-noised integers of one member's update: ‖v‖₂² ≤ D2sq, as a fact about integers (at record level, of each
/// example's vector that was summed into it).
///
/// Secret: no `Clone`, no `Debug`, wiped on drop.
pub struct Clipped {
    values: Zeroizing<Vec<i64>>,
    mechanism: Mechanism,
}

/// What clipping did. It depends on the data: it stays at home.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClipReport {
    /// ‖x‖₂ before clipping, in the update's units; of several examples the largest. 0 of none; infinite where a
    /// coordinate is not finite.
    pub norm_before: f64,
    /// Whether anything was scaled down.
    pub clipped: bool,
    /// Share of the vectors that were scaled down: 0 or 1 for a single update.
    pub clipped_share: f64,
    /// Share of coordinates that quantised to 0, over all vectors. Above 0.9 the scale is too coarse for the update.
    pub zeroed_share: f64,
}

impl Clipped {
    /// v = round(2^s·x·f), f the largest factor in reach with ‖v‖₂² ≤ D2sq:
    /// Clip_C(x) = x·min(1, C/‖x‖₂), rounded to nearest, then shrunk until the *integers* are inside.
    ///
    /// An update with a coordinate that is not finite becomes the zero vector: that is a function of the update alone, as
    /// every clipping is. Not for batches. Fails (`Misuse`) on another length or at record level.
    pub fn new(update: &[f32], mechanism: &Mechanism) -> Result<(Self, ClipReport)> {
        if mechanism.spec().unit == ciphertune_policy::Unit::Record {
            return misuse("at record level each example is clipped on its own: sum_of_examples");
        }
        let mut sum = ExampleSum::new(mechanism);
        sum.add(update)?;
        Ok(sum.finish())
    }

    /// Σ over examples of each example's own clipped integer vector (DP-SGD: Abadi et al. 2016, Algorithm 1). An empty
    /// batch gives the zero vector, which is noised and sent like any other.
    ///
    /// Fails as [`Clipped::new`] does, and (`Refused`) on more examples than the mechanism's bound was derived for.
    pub fn sum_of_examples<V: AsRef<[f32]>>(
        gradients: &[V],
        mechanism: &Mechanism,
    ) -> Result<(Self, ClipReport)> {
        let mut sum = ExampleSum::new(mechanism);
        gradients
            .iter()
            .try_for_each(|gradient| sum.add(gradient.as_ref()))?;
        Ok(sum.finish())
    }

    /// A sum of vectors that were each clipped.
    pub(crate) fn of_sum(values: Zeroizing<Vec<i64>>, mechanism: Mechanism) -> Self {
        Self { values, mechanism }
    }

    pub(crate) fn into_parts(self) -> (Zeroizing<Vec<i64>>, Mechanism) {
        (self.values, self.mechanism)
    }

    #[cfg(test)]
    pub(crate) fn values(&self) -> &[i64] {
        &self.values
    }
}

/// One clipped vector, and what was done to it.
pub(crate) struct OneVector {
    pub(crate) values: Zeroizing<Vec<i64>>,
    pub(crate) norm_before: f64,
    pub(crate) clipped: bool,
    pub(crate) zeroed: u64,
}

/// Passes of integer clipping: the shrink doubles each time, 2⁻²⁰ to 1, so the last one leaves the zero vector.
const PASSES: i32 = 21;

/// One vector, proposed by floats and decided by integers.
pub(crate) fn clip(x: &[f32], mechanism: &Mechanism) -> Result<OneVector> {
    let norm_before = norm(x);
    if !norm_before.is_finite() {
        // Leaving instead would be seen by all, and whether it happens depends on the data.
        return Ok(OneVector {
            values: Zeroizing::new(vec![0; x.len()]),
            norm_before: f64::INFINITY,
            clipped: true,
            zeroed: x.len() as u64,
        });
    }
    let bound = mechanism.clip_length();
    let clipped = norm_before > bound;
    let mut factor = mechanism.scale() * if clipped { bound / norm_before } else { 1.0 };
    let mut values = Zeroizing::new(vec![0_i64; x.len()]);
    for pass in 0..=PASSES {
        let rounded = round(x, factor, mechanism.clip_bound(), &mut values);
        if rounded.squares <= u128::from(mechanism.d2sq()) {
            return Ok(OneVector {
                values,
                norm_before,
                clipped: clipped || pass > 0,
                zeroed: rounded.zeroed,
            });
        }
        factor *= (mechanism.d2sq() as f64 / rounded.squares as f64).sqrt()
            * (1.0 - 2_f64.powi(pass - PASSES + 1));
    }
    values.zeroize();
    Err(Error::Fault(
        "the zero vector is outside its own bound".into(),
    ))
}

/// ‖x‖₂. Squares of f32 neither overflow nor underflow in f64: (3.5e38)²·2⁴⁰ < 10⁹⁰, (1.4e−45)² > 10⁻⁹¹.
pub(crate) fn norm(x: &[f32]) -> f64 {
    let squares = x.iter().map(|&value| f64::from(value).powi(2));
    squares.sum::<f64>().sqrt()
}

/// What a rounded vector comes to.
#[derive(Clone, Copy, Default)]
struct Rounded {
    /// Σ v², exactly.
    squares: u128,
    /// How many v = 0.
    zeroed: u64,
}

/// v = round(x·factor) to nearest, ties to even, held inside ±limit, which is 2³¹ at most. Only un-noised values are ever
/// held so (a projection). d ≤ 2⁴⁰ leaves the sum of squares below 2¹⁰³.
fn round(x: &[f32], factor: f64, limit: u64, out: &mut [i64]) -> Rounded {
    let mut all = Rounded::default();
    for (x, out) in x.chunks(CHUNK).zip(out.chunks_mut(CHUNK)) {
        let limit = limit as f64;
        let part = pulp::Arch::new().dispatch(RoundChunk {
            x,
            factor,
            limit,
            out,
        });
        all.squares += part.squares;
        all.zeroed += part.zeroed;
    }
    all
}

/// Few enough for sums of their squares' halves to stay below 2⁶⁴, and for the cache.
const CHUNK: usize = 4096;

/// A chunk, in the widest vectors of the processor. Every operation is the same on every one: a product and a sum of
/// f64, each rounded once, and integers.
struct RoundChunk<'a> {
    x: &'a [f32],
    factor: f64,
    limit: f64,
    out: &'a mut [i64],
}

impl pulp::NullaryFnOnce for RoundChunk<'_> {
    type Output = Rounded;

    #[inline(always)]
    fn call(self) -> Rounded {
        /// 1.5·2⁵²: what is added to it, of less than 2⁵¹, is rounded to a whole number, and that stands in the low bits.
        const WHOLE: f64 = 6_755_399_441_055_744.0;
        const LOW: u64 = 0xFFFF_FFFF;
        let (mut low, mut high, mut zeroed) = (0_u64, 0_u64, 0_u64);
        for (value, &x) in self.out.iter_mut().zip(self.x) {
            // A whole limit: held before or after rounding is the same.
            let held = (f64::from(x) * self.factor)
                .max(-self.limit)
                .min(self.limit);
            let rounded = ((held + WHOLE).to_bits() as i64).wrapping_sub(WHOLE.to_bits() as i64);
            *value = rounded;
            let magnitude = rounded.unsigned_abs() & LOW; // 2³¹ at most
            let square = magnitude * magnitude;
            low += square & LOW;
            high += square >> 32;
            zeroed += u64::from(rounded == 0);
        }
        Rounded {
            squares: u128::from(low) + (u128::from(high) << 32),
            zeroed,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use ciphertune_policy::Unit;
    use proptest::prelude::*;

    use super::*;
    use crate::MechanismSpec;
    use crate::mechanism::tests::{institution, without_privacy};

    static_assertions::assert_not_impl_any!(
        Clipped: Clone, Copy, std::fmt::Debug, std::fmt::Display, PartialEq, serde::Serialize
    );

    pub(crate) fn inside(values: &[i64], mechanism: &Mechanism) -> bool {
        let squares = values
            .iter()
            .map(|value| u128::from(value.unsigned_abs()).pow(2));
        squares.sum::<u128>() <= u128::from(mechanism.d2sq())
    }

    #[test]
    fn rounding_is_to_nearest_ties_to_even_held_and_counted_exactly() {
        let limit = 1 << 31;
        let x = [
            0.5,
            1.5,
            2.5,
            -0.5,
            -2.5,
            0.499_999_97,
            3e38,
            -3e38,
            2_147_483_600.0,
            -7.75,
        ];
        // Every length around a chunk and a vector of the processor.
        for length in [0, 1, 7, 9, 4095, 4096, 4097, 12_289] {
            let x: Vec<f32> = x.iter().copied().cycle().take(length).collect();
            for factor in [1.0, 0.25, 1e-3, 3.0] {
                let mut values = vec![9; length];
                let rounded = round(&x, factor, limit, &mut values);
                let expected: Vec<i64> = x
                    .iter()
                    .map(|x| {
                        (f64::from(*x) * factor)
                            .round_ties_even()
                            .clamp(-(limit as f64), limit as f64) as i64
                    })
                    .collect();
                assert_eq!(values, expected);
                let squares = expected
                    .iter()
                    .map(|value| u128::from(value.unsigned_abs()).pow(2));
                assert_eq!(rounded.squares, squares.sum::<u128>());
                let zeroed = expected.iter().filter(|value| **value == 0).count();
                assert_eq!(rounded.zeroed, zeroed as u64);
            }
        }
    }

    #[test]
    fn a_vector_inside_the_ball_is_rounded_and_nothing_else() {
        let mechanism = Mechanism::derive(&institution("1", "4.509", 4)).unwrap();
        assert_eq!(mechanism.scale(), 512.0);
        let (clipped, report) = Clipped::new(&[0.5, -0.25, 0.001, 0.0], &mechanism).unwrap();
        assert_eq!(clipped.values(), [256, -128, 1, 0]);
        assert!(
            !report.clipped
                && report.zeroed_share == 0.25
                && (report.norm_before - 0.559).abs() < 1e-3
        );
    }

    #[test]
    fn a_vector_outside_the_ball_keeps_its_direction() {
        let mechanism = Mechanism::derive(&institution("1", "4.509", 2)).unwrap();
        let (clipped, report) = Clipped::new(&[3000.0, 4000.0], &mechanism).unwrap();
        // 512·(0.6, 0.8) = (307.2, 409.6) rounds to (307, 410), outside: 262,349 > 262,144. One pass later it is inside.
        assert_eq!(clipped.values(), [307, 409]);
        assert!(report.clipped && report.norm_before == 5000.0);
    }

    #[test]
    fn what_is_not_finite_counts_as_nothing_and_is_told_at_home() {
        let mechanism = Mechanism::derive(&institution("1", "4.509", 2)).unwrap();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let (clipped, report) = Clipped::new(&[0.5, bad], &mechanism).unwrap();
            assert_eq!(clipped.values(), [0, 0]);
            assert!(report.clipped && report.zeroed_share == 1.0);
            assert_eq!(report.norm_before, f64::INFINITY);
        }
        // Of several examples it is that one alone.
        let spec = MechanismSpec {
            unit: Unit::Record,
            max_examples: 2,
            ..institution("1", "4.509", 2)
        };
        let mechanism = Mechanism::derive(&spec).unwrap();
        let batch = [[0.5, 0.0], [f32::NAN, 0.25]];
        let (clipped, report) = Clipped::sum_of_examples(&batch, &mechanism).unwrap();
        assert_eq!(clipped.values(), [mechanism.scale() as i64 / 2, 0]);
        assert_eq!(report.clipped_share, 0.5);
    }

    #[test]
    fn another_length_is_misuse() {
        let mechanism = Mechanism::derive(&institution("1", "4.509", 2)).unwrap();
        assert!(matches!(
            Clipped::new(&[0.0], &mechanism),
            Err(Error::Misuse(_))
        ));
    }

    #[test]
    fn rounding_that_leaves_the_ball_is_caught_by_the_integers() {
        // D = 32, d = 4,095: ‖x‖₂ is just inside C, but every coordinate is just above ½ and would round to 1.
        let spec = MechanismSpec {
            value_bits: 2,
            ..without_privacy("0.5", 4095)
        };
        let mechanism = Mechanism::derive(&spec).unwrap();
        assert_eq!((mechanism.scale(), mechanism.d2sq()), (64.0, 1024));
        let (clipped, report) = Clipped::new(&[0.007_812_75; 4095], &mechanism).unwrap();
        assert!(report.norm_before < 0.5 && report.clipped && report.zeroed_share == 1.0);
        assert!(clipped.values().iter().all(|value| *value == 0));
    }

    #[test]
    fn examples_are_clipped_each_on_its_own() {
        let spec = MechanismSpec {
            unit: Unit::Record,
            max_examples: 3,
            ..institution("1", "4.509", 2)
        };
        let mechanism = Mechanism::derive(&spec).unwrap();
        let one = mechanism.scale() as i64;
        let (clipped, report) =
            Clipped::sum_of_examples(&[[1e30_f32, 0.0], [0.5, 0.0], [0.0, -7.0]], &mechanism)
                .unwrap();
        assert_eq!(clipped.values(), [one + one / 2, -one]);
        assert!(
            report.clipped
                && (report.clipped_share - 2.0 / 3.0).abs() < 1e-9
                && report.zeroed_share == 0.5
        );
        assert_eq!(report.norm_before, f64::from(1e30_f32));
    }

    #[test]
    fn an_empty_batch_is_the_zero_vector() {
        let spec = MechanismSpec {
            unit: Unit::Record,
            max_examples: 3,
            ..institution("1", "4.509", 2)
        };
        let (clipped, report) =
            Clipped::sum_of_examples::<[f32; 2]>(&[], &Mechanism::derive(&spec).unwrap()).unwrap();
        assert_eq!(clipped.values(), [0, 0]);
        assert_eq!((report.norm_before, report.clipped), (0.0, false));
    }

    #[test]
    fn a_batch_beyond_its_bound_is_refused_and_not_truncated() {
        let spec = MechanismSpec {
            unit: Unit::Record,
            max_examples: 2,
            ..institution("1", "4.509", 1)
        };
        let mechanism = Mechanism::derive(&spec).unwrap();
        assert!(matches!(
            Clipped::sum_of_examples(&[[1.0], [1.0], [1.0]], &mechanism),
            Err(Error::Refused(_))
        ));
        assert!(matches!(
            Clipped::new(&[1.0], &mechanism),
            Err(Error::Misuse(_))
        ));
        let institution = Mechanism::derive(&institution("1", "4.509", 1)).unwrap();
        assert!(matches!(
            Clipped::sum_of_examples(&[[1.0], [1.0]], &institution),
            Err(Error::Refused(_))
        ));
    }

    /// Floats as an adversary would pick them: huge, tiny, subnormal, zero, equal, or anything finite.
    fn adversarial() -> impl Strategy<Value = Vec<f32>> {
        let value = prop_oneof![
            Just(f32::MAX),
            Just(f32::MIN),
            Just(f32::MIN_POSITIVE),
            Just(f32::from_bits(1)),
            Just(-0.0_f32),
            Just(0.5_f32),
            -2.0_f32..2.0,
            any::<f32>().prop_filter("finite", |x| x.is_finite()),
        ];
        let same = (value.clone(), 1..400_usize).prop_map(|(value, length)| vec![value; length]);
        prop_oneof![prop::collection::vec(value, 1..400), same]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn no_update_leaves_the_ball(x in adversarial(), clip in 1_u64..3000, bits in 2_u32..24, private: bool) {
            let clip = format!("{}.{:03}", clip / 1000, clip % 1000);
            let spec = if private { institution(&clip, "4.509", x.len()) } else { without_privacy(&clip, x.len()) };
            let mechanism = Mechanism::derive(&MechanismSpec { value_bits: bits, ..spec }).unwrap();
            let (clipped, report) = Clipped::new(&x, &mechanism).unwrap();
            prop_assert!(inside(clipped.values(), &mechanism));
            prop_assert!(clipped.values().iter().all(|value| value.unsigned_abs() <= mechanism.value_bound()));
            // What was not clipped is the rounded update itself.
            if !report.clipped {
                for (value, x) in clipped.values().iter().zip(&x) {
                    prop_assert!((*value as f64 - f64::from(*x) * mechanism.scale()).abs() <= 0.5);
                }
            }
        }
    }
}
