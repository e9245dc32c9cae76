//! A batch in the making: the sum of examples' gradients, each clipped on its own.

use zeroize::Zeroizing;

use crate::clip::{ClipReport, Clipped, OneVector, clip, norm};
use crate::{Mechanism, Result, misuse, refused};

/// Of C, how long the measures of an example are together at the most: a quarter leaves its gradient 97 %.
pub(crate) const MEASURES_SHARE: f64 = 0.25;

/// A batch in the making: one example's gradient at a time, so that a batch of them is never held at once.
pub struct ExampleSum {
    /// Empty before the first example.
    sum: Zeroizing<Vec<i64>>,
    mechanism: Mechanism,
    examples: usize,
    clipped: usize,
    zeroed: u64,
    largest_norm: f64,
}

impl ExampleSum {
    /// The sum of nothing.
    pub fn new(mechanism: &Mechanism) -> Self {
        Self {
            sum: Zeroizing::default(),
            mechanism: mechanism.clone(),
            examples: 0,
            clipped: 0,
            zeroed: 0,
            largest_norm: 0.0,
        }
    }

    /// Clips one example's gradient and adds it. After an error nothing of it has been added.
    pub fn add(&mut self, gradient: &[f32]) -> Result<()> {
        let clip = |this: &Self| clip(gradient, &this.mechanism);
        self.add_clipped(gradient.len(), clip)
    }

    /// Adds an example's gradient with measures of the same example after it, each held to ±1: (g, w·m), the whole
    /// clipped to C. The gradient is first clipped on its own to what of C the measures leave, so that how long it is
    /// tells nothing in them; [`Mechanism::measure_weight`] is w. A measure that is not a number counts as 0.
    pub fn add_measured(&mut self, gradient: &[f32], measures: &[f64]) -> Result<()> {
        if measures.is_empty() {
            return self.add(gradient);
        }
        let length = gradient.len() + measures.len();
        self.add_clipped(length, |this| {
            let weight = this.mechanism.measure_weight(measures.len());
            let norm_before = norm(gradient);
            let most = this.mechanism.clip_length() * (1.0 - MEASURES_SHARE.powi(2)).sqrt();
            let clipped = norm_before > most;
            let factor = if clipped { most / norm_before } else { 1.0 };
            let mut whole = Zeroizing::new(Vec::with_capacity(length));
            whole.extend(gradient.iter().map(|g| (f64::from(*g) * factor) as f32));
            let held = |measure: &f64| {
                if measure.is_nan() {
                    0.0
                } else {
                    measure.clamp(-1.0, 1.0)
                }
            };
            whole.extend(measures.iter().map(|m| (held(m) * weight) as f32));
            Ok(OneVector {
                norm_before,
                clipped,
                ..clip(&whole, &this.mechanism)?
            })
        })
    }

    fn add_clipped(
        &mut self,
        length: usize,
        clip: impl FnOnce(&Self) -> Result<OneVector>,
    ) -> Result<()> {
        if length != self.mechanism.dimension() {
            return misuse(format!(
                "a vector of {length} for a mechanism of dimension {}",
                self.mechanism.dimension()
            ));
        }
        if self.examples >= self.mechanism.spec().max_examples {
            return refused(
                "more examples than the value bound was derived for; a batch is never truncated",
            );
        }
        let clip = clip(self)?;
        self.clipped += usize::from(clip.clipped);
        self.zeroed += clip.zeroed;
        self.largest_norm = self.largest_norm.max(clip.norm_before);
        if self.examples == 0 {
            self.sum = clip.values; // one update is held once, not added to zeros
        } else {
            // |sum| ≤ max_examples·⌊√D2sq⌋ ≤ B < 2⁴⁸: no wrap.
            self.sum
                .iter_mut()
                .zip(clip.values.iter())
                .for_each(|(total, value)| *total += value);
        }
        self.examples += 1;
        Ok(())
    }

    /// How many examples are in.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// The sum, clipped term by term.
    pub fn finish(mut self) -> (Clipped, ClipReport) {
        self.sum.resize(self.mechanism.dimension(), 0);
        let vectors = self.examples.max(1) as f64;
        let report = ClipReport {
            norm_before: self.largest_norm,
            clipped: self.clipped > 0,
            clipped_share: self.clipped as f64 / vectors,
            zeroed_share: self.zeroed as f64 / (vectors * self.mechanism.dimension() as f64),
        };
        (Clipped::of_sum(self.sum, self.mechanism), report)
    }
}

#[cfg(test)]
mod tests {
    use ciphertune_policy::Unit;

    use super::*;
    use crate::MechanismSpec;
    use crate::clip::tests::inside;
    use crate::mechanism::tests::institution;

    static_assertions::assert_not_impl_any!(
        ExampleSum: Clone, Copy, std::fmt::Debug, std::fmt::Display, PartialEq, serde::Serialize
    );

    #[test]
    fn measures_ride_inside_the_clip_and_come_back_whatever_the_gradient() {
        let spec = MechanismSpec {
            unit: Unit::Record,
            max_examples: 8,
            value_bits: 24,
            ..institution("1", "1", 12)
        };
        let mechanism = Mechanism::derive(&spec).unwrap();
        let weight = mechanism.measure_weight(2) * mechanism.scale();
        let short = [0.01_f32; 10];
        let long = [1e6_f32; 10];
        for gradient in [short, long] {
            let mut sum = ExampleSum::new(&mechanism);
            for measures in [[1.0, 0.25], [0.0, -0.5], [7.0, f64::NAN], [-3.0, 1.0]] {
                sum.add_measured(&gradient, &measures).unwrap();
            }
            let (clipped, report) = sum.finish();
            let found = &clipped.values()[10..];
            for (found, expected) in found.iter().zip([1.0, 0.75]) {
                assert!((*found as f64 / weight - expected).abs() < 1e-3, "{found}");
            }
            assert_eq!(report.clipped, gradient == long);
            assert_eq!(report.norm_before, norm(&gradient));
        }
        // Each alone is inside the one clip, at its longest.
        let mut sum = ExampleSum::new(&mechanism);
        sum.add_measured(&long, &[1.0, 1.0]).unwrap();
        let (clipped, _) = sum.finish();
        assert!(inside(clipped.values(), &mechanism));
        let gradient: f64 = clipped.values()[..10]
            .iter()
            .map(|v| (*v as f64).powi(2))
            .sum();
        let share = gradient / mechanism.d2sq() as f64;
        assert!((share - 15.0 / 16.0).abs() < 1e-3, "{share}");
        // What is not finite is the zero vector, measures and all.
        let mut sum = ExampleSum::new(&mechanism);
        sum.add_measured(&[f32::NAN; 10], &[1.0, 1.0]).unwrap();
        assert!(sum.finish().0.values().iter().all(|value| *value == 0));
        assert!(
            ExampleSum::new(&mechanism)
                .add_measured(&long, &[1.0])
                .is_err()
        );
    }
}
