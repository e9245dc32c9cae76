//! The mechanism of a round, derived from what the policy states.

use ciphertune_gauss::Variance;
use ciphertune_policy::{Adjacency, Decimal, Placement, Unit};
use num_bigint::BigUint;

use crate::example_sum::MEASURES_SHARE;
use crate::rational::Fraction;
use crate::{Error, Result, misuse, refused};

/// What a plan states about privacy; everything else follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MechanismSpec {
    /// Whose presence is hidden.
    pub unit: Unit,
    /// What neighbouring means.
    pub adjacency: Adjacency,
    /// Whether members add shares of the noise or each all of it.
    pub placement: Placement,
    /// C, the L2 norm one unit's vector is clipped to.
    pub clip_norm: Decimal,
    /// z = σ_total/Δ₂. 0 means no noise, and goes with `Unit::None` alone.
    pub noise_multiplier: Decimal,
    /// log₂ of the scale as a plan states it, to be checked; `None` derives it.
    pub scale_log2: Option<i32>,
    /// Slot budget: B ≤ 2^(value_bits − 1) − 1 is aimed at, 2 ..= 48.
    pub value_bits: u32,
    /// The fewest members whose sum may be opened.
    pub min_contributors: usize,
    /// How many members are assumed to subtract the noise they added.
    pub colluders: usize,
    /// d, the length of the vector.
    pub dimension: usize,
    /// The most examples one member sums: a Poisson batch has no bound but the number of records held,
    /// so either that, or a number it exceeds with negligible probability; a larger batch is refused, never truncated.
    /// 1 for unit institution.
    pub max_examples: usize,
}

/// The numbers of one round's mechanism (privacy.md, section 2): scale 2^s, D2sq, σ_i², B. Public, and the same at
/// every member.
///
/// - scale: the largest power of two for which B fits the slot budget, and at least the one that gives
///   √D2sq ≥ ½√d (below that nearly every coordinate rounds to 0) and σ_i ≥ 4; if both cannot be had B grows.
/// - D2sq = ⌊(2^s·C)²⌋: no integer vector that is sent has a larger squared norm (per example, at record level).
/// - Δ₂² = D2sq under zero-out, 4·D2sq under replace-one.
/// - σ_i² = z²·Δ₂²/m_min for distributed noise, m_min = min_contributors − max(colluders, 1) (a fellow member knows its
///   own noise); z²·Δ₂² for local noise.
/// - B = 2^b − 1 ≥ max_examples·⌊√D2sq⌋ + ⌈12·σ_i⌉.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mechanism {
    spec: MechanismSpec,
    scale_log2: i32,
    d2sq: u64,
    share_variance: Option<Variance>,
    value_bound: u64,
}

/// Standard deviations of a share's noise that B covers: P(|N_ℤ(0, σ²)| > ⌈12σ⌉) ≤ 2·Q(12) < 2⁻¹⁰⁷.
const COVERED_DEVIATIONS: u16 = 12;
/// ⌊√D2sq⌋ ≤ 2³¹: squares then fit 62 bits and sums of 2⁴⁰ of them a u128.
const LARGEST_CLIP: u64 = 1 << 31;
/// d ≤ 2⁴⁰.
const LARGEST_DIMENSION: u64 = 1 << 40;
/// B ≤ 2⁴⁸ − 1: a sum of 1,000 stays below 2⁵⁸.
const LARGEST_BOUND_BITS: u32 = 48;
/// The most members of a round.
const LARGEST_COHORT: usize = 1000;
/// σ_i² ≥ 16: the sum of discrete Gaussians is then one, up to a τ below 10⁻⁶⁷.
const SMALLEST_VARIANCE: u64 = 16;

impl Mechanism {
    /// Derives the mechanism. Fails (`Refused`), naming the rule, when there is none.
    pub fn derive(spec: &MechanismSpec) -> Result<Self> {
        check(spec)?;
        if let Some(stated) = spec.scale_log2 {
            let mechanism = Self::at_scale(spec, stated)?;
            return match mechanism.shortfall() {
                None => Ok(mechanism),
                Some(rule) => refused(format!("scale 2^{stated}: {rule}")),
            };
        }
        // Everything grows with the scale: walk up to the least one that is fine enough, then on while B fits.
        let mut scales = SCALES;
        let mut chosen = loop {
            let Some(scale) = scales.next() else {
                return refused(
                    "no scale is both fine enough for the dimension and noise, and inside 2^31",
                );
            };
            // Below the sampler's range σ_i² is no variance yet: too coarse, go on.
            if let Some(mechanism) = Self::at_scale_if_coarse(spec, scale)?
                && mechanism.shortfall().is_none()
            {
                break mechanism;
            }
        };
        for scale in scales {
            match Self::at_scale(spec, scale) {
                Ok(finer) if finer.value_bound < 1 << (spec.value_bits - 1) => chosen = finer,
                _ => break,
            }
        }
        Ok(chosen)
    }

    /// ‖v‖₂² ≤ D2sq for every clipped vector v.
    pub fn d2sq(&self) -> u64 {
        self.d2sq
    }

    /// ⌊√D2sq⌋: no coordinate of a clipped vector is larger.
    pub fn clip_bound(&self) -> u64 {
        self.d2sq.isqrt()
    }

    /// √D2sq in units of C: what vectors are clipped to.
    pub(crate) fn clip_length(&self) -> f64 {
        (self.d2sq as f64).sqrt() / self.scale()
    }

    /// w: what a measure of 1 is as a coordinate beside a gradient, of so many measures an example
    /// ([`ExampleSum::add_measured`](crate::ExampleSum::add_measured)). A mean of measures is the released mean over w.
    pub fn measure_weight(&self, measures: usize) -> f64 {
        self.clip_length() * MEASURES_SHARE / (measures.max(1) as f64).sqrt()
    }

    /// s of the scale 2^s.
    pub fn scale_log2(&self) -> i32 {
        self.scale_log2
    }

    /// 2^s, exactly.
    pub fn scale(&self) -> f64 {
        2_f64.powi(self.scale_log2)
    }

    /// σ_i², what each member adds per coordinate; `None` without privacy.
    pub fn share_variance(&self) -> Option<Variance> {
        self.share_variance
    }

    /// B = 2^b − 1: no |y| that is sent is larger.
    pub fn value_bound(&self) -> u64 {
        self.value_bound
    }

    /// Δ₂² in integer units: the squared sensitivity of the sum to one unit.
    pub fn sensitivity_squared(&self) -> u128 {
        // Up to 2⁶⁴.
        match self.spec.adjacency {
            Adjacency::ZeroOut => self.d2sq.into(),
            Adjacency::ReplaceOne => 4 * u128::from(self.d2sq),
        }
    }

    /// Δ₂ in the update's own units: C, or 2·C under replace-one. For reports.
    pub fn sensitivity(&self) -> f64 {
        (self.sensitivity_squared() as f64).sqrt() / self.scale()
    }

    /// The expected norm of the noise in the sum, in clips, when m_min honest shares (one, if local) are in it: about
    /// z·√d under zero-out. 0 without privacy. The signal of n members is at most n clips (at record level n times the
    /// batch).
    pub fn noise_to_signal(&self) -> f64 {
        let Some(variance) = self.share_variance else {
            return 0.0;
        };
        let shares = self.honest_shares(self.spec.min_contributors).unwrap_or(1) as f64;
        variance.standard_deviation() * (shares * self.spec.dimension as f64).sqrt()
            / (self.d2sq as f64).sqrt()
    }

    /// The longest that a sum of honest contributions is, in integer units: |U|·E·⌊√D2sq⌋ (E examples at most each) for
    /// what was clipped, σ_i·√|U|·(√d + 13) for the noise, which an honest sum exceeds with probability below
    /// e^(−13²/2) < 2⁻¹²⁰ (Laurent–Massart 2000, Lemma 1), and one part in a hundred for the discrete tails. It guards the model against a
    /// liar; no privacy rests on it.
    pub fn sum_norm_bound(&self, contributors: usize) -> u128 {
        let clipped =
            contributors as u128 * self.spec.max_examples as u128 * u128::from(self.clip_bound());
        let noise = self.share_variance.map_or(0.0, |variance| {
            let root = (self.spec.dimension as f64).sqrt();
            variance.standard_deviation() * (contributors as f64).sqrt() * (root + 13.0) * 1.01
        });
        clipped + noise.ceil() as u128
    }

    /// d.
    pub fn dimension(&self) -> usize {
        self.spec.dimension
    }

    /// What this was derived from.
    pub fn spec(&self) -> &MechanismSpec {
        &self.spec
    }

    /// m: the noise shares a sum of `contributors` members is sure to keep. contributors − max(colluders, 1) if
    /// distributed; 1, the member's own, if local. Fails (`Refused`) below min_contributors.
    pub fn honest_shares(&self, contributors: usize) -> Result<usize> {
        if contributors < self.spec.min_contributors || contributors > LARGEST_COHORT {
            return refused(format!(
                "{contributors} contributors, where {} to {LARGEST_COHORT} are allowed",
                self.spec.min_contributors
            ));
        }
        Ok(match self.spec.placement {
            Placement::Distributed => contributors - self.spec.colluders.max(1),
            Placement::Local => 1,
        })
    }

    /// At this scale; `None` where it is so coarse that the noise is below the sampler's range.
    fn at_scale_if_coarse(spec: &MechanismSpec, scale_log2: i32) -> Result<Option<Self>> {
        let d2sq = d2sq(spec, scale_log2);
        let coarse = share_variance(spec, d2sq.clone())
            .is_some_and(|variance| !variance.at_least(SMALLEST_VARIANCE));
        if d2sq == BigUint::ZERO || coarse {
            Ok(None)
        } else {
            Self::at_scale(spec, scale_log2).map(Some)
        }
    }

    fn at_scale(spec: &MechanismSpec, scale_log2: i32) -> Result<Self> {
        if !SCALES.contains(&scale_log2) {
            return refused(format!(
                "scale 2^{scale_log2} is outside 2^{} to 2^{}",
                SCALES.start,
                SCALES.end - 1
            ));
        }
        let d2sq = u64::try_from(d2sq(spec, scale_log2)).unwrap_or(u64::MAX);
        if d2sq.isqrt() > LARGEST_CLIP || d2sq > LARGEST_CLIP.pow(2) {
            return refused("the clipped norm is above 2^31 integer units");
        }
        let share_variance = share_variance(spec, d2sq.into())
            .map(|exact| exact.to_variance())
            .transpose()?;
        let noise = match &share_variance {
            Some(variance) => variance
                .deviations(COVERED_DEVIATIONS)
                .map_err(|error| Error::Fault(error.to_string()))?,
            None => 0,
        };
        let reach = u128::from(d2sq.isqrt()) * spec.max_examples as u128 + noise;
        if reach >= 1 << LARGEST_BOUND_BITS {
            return refused(format!(
                "a value would need more than {LARGEST_BOUND_BITS} bits"
            ));
        }
        let value_bound = (reach as u64 + 1).next_power_of_two() - 1;
        Ok(Self {
            spec: spec.clone(),
            scale_log2,
            d2sq,
            share_variance,
            value_bound,
        })
    }

    /// The rule by which this scale is too coarse, if it is.
    fn shortfall(&self) -> Option<&'static str> {
        let fine_enough = 4 * u128::from(self.d2sq) >= self.spec.dimension as u128;
        let noisy_enough = self
            .share_variance
            .is_none_or(|variance| variance.floor() >= u128::from(SMALLEST_VARIANCE));
        if self.d2sq == 0 || !fine_enough {
            Some(
                "too coarse for the dimension: the clipped norm is below half the square root of d",
            )
        } else if !noisy_enough {
            Some("the noise share is below 4 integer units")
        } else {
            None
        }
    }
}

/// C < 10¹⁸ < 2⁶⁰ and C ≥ 10⁻²⁰ > 2⁻⁶⁷: outside these, √D2sq is below 1 or above 2³¹ for every C.
const SCALES: std::ops::Range<i32> = -64..100;

/// D2sq = ⌊(2^s·C)²⌋.
fn d2sq(spec: &MechanismSpec, scale_log2: i32) -> BigUint {
    Fraction::of(&spec.clip_norm)
        .shifted(scale_log2)
        .squared()
        .floor()
}

/// σ_i² = z²·Δ₂²/m, m = m_min if distributed, 1 if local.
fn share_variance(spec: &MechanismSpec, d2sq: BigUint) -> Option<Fraction> {
    if spec.noise_multiplier.is_zero() {
        return None;
    }
    let sensitivity = match spec.adjacency {
        Adjacency::ZeroOut => d2sq,
        Adjacency::ReplaceOne => d2sq * 4_u8,
    };
    let shares = match spec.placement {
        Placement::Distributed => spec.min_contributors - spec.colluders.max(1),
        Placement::Local => 1,
    };
    Some(
        Fraction::of(&spec.noise_multiplier)
            .squared()
            .times(&Fraction::integer(sensitivity))
            .over(shares as u64),
    )
}

fn check(spec: &MechanismSpec) -> Result<()> {
    if spec.clip_norm.is_zero() {
        return refused("clip_norm is 0");
    }
    match (spec.unit, spec.noise_multiplier.is_zero()) {
        (Unit::None, false) => {
            return refused("unit none adds no noise: noise_multiplier must be 0");
        }
        (Unit::Institution | Unit::Record, true) => {
            return refused("noise_multiplier is 0, which goes with unit none alone");
        }
        _ => {}
    }
    if spec.dimension == 0 || spec.dimension as u64 > LARGEST_DIMENSION {
        return refused("the dimension is outside 1 to 2^40");
    }
    if spec.min_contributors == 0 || spec.min_contributors > LARGEST_COHORT {
        return refused(format!("min_contributors is outside 1 to {LARGEST_COHORT}"));
    }
    if spec.unit != Unit::None
        && spec.placement == Placement::Distributed
        && spec.min_contributors <= spec.colluders.max(1)
    {
        return refused(
            "distributed noise needs min_contributors above the colluders, and at least 2",
        );
    }
    if !(2..=LARGEST_BOUND_BITS).contains(&spec.value_bits) {
        return misuse(format!("value_bits is outside 2 to {LARGEST_BOUND_BITS}"));
    }
    match (spec.unit, spec.max_examples) {
        (Unit::Record | Unit::None, 1..=0xFFFF_FFFF) | (_, 1) => Ok(()),
        _ => misuse("max_examples is 1 at institution level, and never above 2^32 - 1"),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Institution level, three members, one of them assumed against us.
    pub(crate) fn institution(clip: &str, multiplier: &str, dimension: usize) -> MechanismSpec {
        MechanismSpec {
            unit: Unit::Institution,
            adjacency: Adjacency::ZeroOut,
            placement: Placement::Distributed,
            clip_norm: clip.parse().unwrap(),
            noise_multiplier: multiplier.parse().unwrap(),
            scale_log2: None,
            value_bits: 16,
            min_contributors: 3,
            colluders: 1,
            dimension,
            max_examples: 1,
        }
    }

    pub(crate) fn without_privacy(clip: &str, dimension: usize) -> MechanismSpec {
        MechanismSpec {
            unit: Unit::None,
            noise_multiplier: Decimal::ZERO,
            ..institution(clip, "1", dimension)
        }
    }

    impl Mechanism {
        /// The same numbers with a bound that noise does leave.
        pub(crate) fn with_value_bound(self, value_bound: u64) -> Self {
            Self {
                value_bound,
                ..self
            }
        }
    }

    #[test]
    fn the_largest_clip_under_replace_one_does_not_overflow() {
        let spec = MechanismSpec {
            adjacency: Adjacency::ReplaceOne,
            scale_log2: Some(31),
            ..institution("1", "2", 1)
        };
        let mechanism = Mechanism::derive(&spec).unwrap();
        assert_eq!(
            (mechanism.d2sq(), mechanism.sensitivity_squared()),
            (1 << 62, 1 << 64)
        );
    }

    fn variance(numerator: u128, denominator: u128) -> Variance {
        Variance::new(numerator, denominator).unwrap()
    }

    #[test]
    fn the_numbers_of_a_small_round_are_those_worked_by_hand() {
        // C = 1, z = 4.509, m_min = 2: σ_i = 3.18836·2^s, clip + 12σ_i = 39.26·2^s ≤ 32767 ⇒ s = 9 (20,102).
        let mechanism = Mechanism::derive(&institution("1", "4.509", 100)).unwrap();
        assert_eq!(
            (
                mechanism.scale_log2(),
                mechanism.d2sq(),
                mechanism.clip_bound()
            ),
            (9, 1 << 18, 512)
        );
        assert_eq!(
            mechanism.share_variance(),
            Some(variance(20_331_081 * (1 << 18), 2_000_000))
        );
        assert_eq!(mechanism.value_bound(), 32_767);
        assert!((mechanism.noise_to_signal() - 45.09).abs() < 1e-9);
        assert!((mechanism.sensitivity() - 1.0).abs() < 1e-12);
    }

    #[test]
    fn d2sq_is_the_exact_floor() {
        // C = 0.7: (0.7·2^s)² = 0.49·4^s, never an integer.
        let mechanism = Mechanism::derive(&without_privacy("0.7", 10)).unwrap();
        let s = mechanism.scale_log2() as u32;
        assert_eq!(mechanism.d2sq(), 49 * 4_u64.pow(s) / 100);
        // The largest that fits: one more would need a bound above 2^15 − 1.
        assert!(mechanism.value_bound() == 32_767 && 2 * mechanism.clip_bound() > 32_767);
    }

    #[test]
    fn replace_one_doubles_the_sensitivity_and_local_noise_is_whole() {
        let base = MechanismSpec {
            scale_log2: Some(6),
            ..institution("1", "5", 100)
        };
        let at = |spec: MechanismSpec| Mechanism::derive(&spec).unwrap();
        assert_eq!(
            at(base.clone()).share_variance(),
            Some(variance(25 * 4096, 2))
        );
        let replaced = at(MechanismSpec {
            adjacency: Adjacency::ReplaceOne,
            ..base.clone()
        });
        assert_eq!(replaced.share_variance(), Some(variance(25 * 4096 * 4, 2)));
        assert_eq!(replaced.sensitivity_squared(), 4 * 4096);
        let local = at(MechanismSpec {
            placement: Placement::Local,
            ..base.clone()
        });
        assert_eq!(local.share_variance(), Some(variance(25 * 4096, 1)));
        // No colluder assumed: a fellow member still knows its own noise, so m_min is the same 2.
        assert_eq!(
            at(MechanismSpec {
                colluders: 0,
                ..base.clone()
            })
            .share_variance(),
            at(base).share_variance()
        );
    }

    #[test]
    fn the_slot_grows_when_the_dimension_wants_a_finer_scale() {
        let spec = MechanismSpec {
            value_bits: 12,
            ..without_privacy("1", 50_000_000)
        };
        let mechanism = Mechanism::derive(&spec).unwrap();
        // ½√d = 3,535.5 ⇒ D = 4,096, above the 2,047 that twelve bits hold.
        assert_eq!(
            (mechanism.clip_bound(), mechanism.value_bound()),
            (4096, 8191)
        );
    }

    #[test]
    fn weak_noise_forces_a_finer_scale() {
        let spec = MechanismSpec {
            value_bits: 2,
            ..institution("1", "0.5", 1)
        };
        let mechanism = Mechanism::derive(&spec).unwrap();
        // σ_i = 2^s·0.5/√2 ≥ 4 ⇒ s = 4 (5.66).
        assert_eq!(mechanism.scale_log2(), 4);
        assert!(mechanism.share_variance().unwrap() >= variance(16, 1));
    }

    #[test]
    fn the_bound_covers_the_clip_of_every_example_and_twelve_deviations() {
        let spec = MechanismSpec {
            unit: Unit::Record,
            max_examples: 180,
            ..institution("1", "1.289", 2691)
        };
        let mechanism = Mechanism::derive(&spec).unwrap();
        let noise = mechanism.share_variance().unwrap().deviations(12).unwrap() as u64;
        let reach = 180 * mechanism.clip_bound() + noise;
        assert!(mechanism.value_bound() >= reach && mechanism.value_bound() / 2 < reach);
        assert!((mechanism.value_bound() + 1).is_power_of_two());
    }

    #[test]
    fn a_stated_scale_is_checked_and_a_derived_one_confirms_itself() {
        let derived = Mechanism::derive(&institution("1", "4.509", 100)).unwrap();
        let stated = MechanismSpec {
            scale_log2: Some(derived.scale_log2()),
            ..institution("1", "4.509", 100)
        };
        assert_eq!(
            Mechanism::derive(&stated).unwrap().value_bound(),
            derived.value_bound()
        );
        for coarse_or_fine in [-65, 0, 32, 99, 100] {
            let spec = MechanismSpec {
                scale_log2: Some(coarse_or_fine),
                ..institution("1", "4.509", 100)
            };
            assert!(
                matches!(Mechanism::derive(&spec), Err(Error::Refused(_))),
                "{coarse_or_fine}"
            );
        }
    }

    #[test]
    fn specs_without_a_sound_mechanism_are_refused() {
        let base = || institution("1", "4.509", 100);
        let cases = [
            (
                "no noise",
                MechanismSpec {
                    noise_multiplier: Decimal::ZERO,
                    ..base()
                },
            ),
            (
                "noise without privacy",
                MechanismSpec {
                    unit: Unit::None,
                    ..base()
                },
            ),
            (
                "no clip",
                MechanismSpec {
                    clip_norm: Decimal::ZERO,
                    ..base()
                },
            ),
            (
                "all collude",
                MechanismSpec {
                    colluders: 3,
                    ..base()
                },
            ),
            (
                "one contributor",
                MechanismSpec {
                    min_contributors: 1,
                    colluders: 0,
                    ..base()
                },
            ),
            (
                "no contributor",
                MechanismSpec {
                    min_contributors: 0,
                    ..base()
                },
            ),
            (
                "too many",
                MechanismSpec {
                    min_contributors: 1001,
                    ..base()
                },
            ),
            (
                "no dimension",
                MechanismSpec {
                    dimension: 0,
                    ..base()
                },
            ),
            (
                "too long",
                MechanismSpec {
                    dimension: (1 << 40) + 1,
                    ..base()
                },
            ),
            (
                "no bits",
                MechanismSpec {
                    value_bits: 1,
                    ..base()
                },
            ),
            (
                "many bits",
                MechanismSpec {
                    value_bits: 64,
                    ..base()
                },
            ),
            (
                "examples at institution level",
                MechanismSpec {
                    max_examples: 2,
                    ..base()
                },
            ),
            (
                "no examples",
                MechanismSpec {
                    unit: Unit::Record,
                    max_examples: 0,
                    ..base()
                },
            ),
            (
                "huge noise",
                MechanismSpec {
                    noise_multiplier: "1e17".parse().unwrap(),
                    ..base()
                },
            ),
        ];
        for (name, spec) in cases {
            assert!(Mechanism::derive(&spec).is_err(), "{name}");
        }
    }

    #[test]
    fn extreme_clips_still_have_a_mechanism() {
        for clip in ["1e-20", "1e-9", "123456789.123456789", "999999999999999999"] {
            let mechanism = Mechanism::derive(&institution(clip, "4.509", 1000)).unwrap();
            assert!(
                mechanism.value_bound() <= 32_767 && 4 * mechanism.d2sq() >= 1000,
                "{clip}"
            );
        }
    }
}
