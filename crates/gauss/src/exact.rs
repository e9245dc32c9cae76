//! Evidence: the distance of the sampler to the ideal distribution, recomputed with big integers.
//!
//! The densities here share no code with the tables: 320-bit big-integer fixed point, the exponential of every point
//! by its own series, the masses read back from the finished alias slots.

use std::collections::BTreeMap;

use num_bigint::BigUint;

use crate::gaussian::tests::widths;
use crate::{DiscreteGaussian, STATISTICAL_DISTANCE_LOG2, Variance};

/// Fractional bits of everything below.
const BITS: u64 = 320;

#[test]
fn total_variation_to_the_ideal_is_below_2_to_the_minus_104() {
    let budget = power_of_two(STATISTICAL_DISTANCE_LOG2);
    for variance in widths() {
        // Triangle inequality: each level's own distance, plus the smoothing error of each convolution.
        let levels = DiscreteGaussian::new(&variance).unwrap().levels();
        let tables: BigUint = levels
            .iter()
            .map(|(_, part, masses)| distance(masses, 128, part))
            .sum();
        assert!(
            tables < power_of_two(-114) * levels.len(),
            "tables of σ² = {variance}"
        );
        let total = tables + smoothing_error() * (levels.len() - 1);
        assert!(total < budget, "σ² = {variance}");
    }
}

#[test]
fn two_convolved_tables_are_measured_whole_and_keep_the_bound() {
    for variance in [
        Variance::integer(98_305).unwrap(),
        Variance::new(4_000_001, 5).unwrap(),
    ] {
        let levels = DiscreteGaussian::new(&variance).unwrap().levels();
        let [(1, _, outer), (factor, _, inner)] = &levels[..] else {
            panic!("two levels")
        };
        let mut masses = BTreeMap::<i64, BigUint>::new();
        for (y, q) in inner {
            for (x, p) in outer {
                *masses.entry(x + factor * y).or_default() += p * q;
            }
        }
        let whole = distance(&masses, 256, &variance);
        let parts: BigUint = levels
            .iter()
            .map(|(_, part, masses)| distance(masses, 128, part))
            .sum();
        assert!(
            whole <= parts + smoothing_error(),
            "the triangle bound does not hold at σ² = {variance}"
        );
        assert!(whole < power_of_two(STATISTICAL_DISTANCE_LOG2));
    }
}

#[test]
fn the_masses_of_a_table_are_symmetric_and_sum_to_one() {
    for variance in widths()
        .into_iter()
        .filter(|variance| variance.floor() < 98_304)
    {
        let levels = DiscreteGaussian::new(&variance).unwrap().levels();
        let masses = &levels[0].2;
        assert_eq!(
            masses.values().sum::<BigUint>(),
            BigUint::from(1_u8) << 128_u32
        );
        assert!(masses.iter().all(|(x, mass)| {
            masses.get(&-x).is_some_and(|mirrored| mirrored == mass) || *mass == BigUint::ZERO
        }));
    }
}

#[test]
fn a_table_of_another_width_is_far_from_this_one() {
    // The measure itself can fail: σ² off by one part in 10⁹ is seen at once.
    let masses = &DiscreteGaussian::new(&Variance::integer(100).unwrap())
        .unwrap()
        .levels()[0]
        .2;
    let off = distance(
        masses,
        128,
        &Variance::new(100_000_000_001, 1_000_000_000).unwrap(),
    );
    assert!(off > power_of_two(-60) && off < power_of_two(-30));
}

/// ½·Σ |mass/2^bits − P(x)| over the integers, in units of 2⁻³²⁰, rounded up.
fn distance(masses: &BTreeMap<i64, BigUint>, bits: u64, ideal: &Variance) -> BigUint {
    let densities = densities(ideal);
    let total = densities
        .iter()
        .skip(1)
        .fold(densities[0].clone(), |sum, density| sum + density + density);
    let reach = densities.len() as i64 - 1;
    let mut sum = BigUint::ZERO;
    for x in -reach..=reach {
        let ideal = (&densities[x.unsigned_abs() as usize] << BITS) / &total;
        let ours = masses.get(&x).cloned().unwrap_or_default() << (BITS - bits);
        sum += if ours > ideal {
            ours - ideal
        } else {
            ideal - ours
        };
    }
    for (x, mass) in masses {
        assert!(
            x.abs() <= reach || *mass == BigUint::ZERO,
            "mass where the ideal has less than 2⁻³⁰⁰"
        );
    }
    // Rounding of the densities and quotients, and the ideal's tail beyond 2⁻³²⁰, are below 2⁻²⁰⁰ together.
    sum / 2_u8 + power_of_two(-200)
}

/// exp(−x²/(2σ²)) for x = 0, 1, … down to the last that is not zero, in units of 2⁻³²⁰.
fn densities(variance: &Variance) -> Vec<BigUint> {
    let mut densities = Vec::new();
    for x in 0_u64.. {
        let density = exp_of_minus(
            BigUint::from(x) * x * variance.denominator(),
            BigUint::from(variance.numerator()) * 2_u8,
        );
        if density == BigUint::ZERO {
            return densities;
        }
        densities.push(density);
    }
    unreachable!("densities fall to zero")
}

/// e^{−numerator/denominator}: the argument cut by 2^s below 2⁻¹⁶, a Taylor series, s squarings.
fn exp_of_minus(numerator: BigUint, denominator: BigUint) -> BigUint {
    const GUARD: u64 = 64;
    let one = BigUint::from(1_u8) << (BITS + GUARD);
    let argument = (numerator << (BITS + GUARD)) / denominator;
    let halvings = (argument.bits() + 16).saturating_sub(BITS + GUARD);
    let argument = argument >> halvings;
    let (mut even, mut odd) = (BigUint::ZERO, BigUint::ZERO);
    let mut term = one;
    for n in 1_u32.. {
        if term == BigUint::ZERO {
            break;
        }
        if n % 2 == 1 {
            even += &term
        } else {
            odd += &term
        }
        term = ((term * &argument) >> (BITS + GUARD)) / n;
    }
    let mut value = even - odd;
    for _ in 0..halvings {
        value = (&value * &value) >> (BITS + GUARD);
    }
    value >> GUARD
}

/// Bound on the distance that one convolution with τ ≥ 2 adds.
///
/// A coset of ℤ has Gaussian mass τ√(2π)·(1 ± ε), ε = 2·Σ_{m≥1} e^{−2π²τ²m²} (Poisson summation), so every probability
/// is off by a factor within (1 ± ε)/(1 ∓ ε) and the total variation is at most ε/(1 − ε). With π² > 9.8696, τ² ≥ 4:
/// 2π²τ² > 78.9568, and the terms beyond the first are below 2⁻³⁰⁰.
fn smoothing_error() -> BigUint {
    let first = exp_of_minus(BigUint::from(789_568_u32), BigUint::from(10_000_u32));
    let epsilon = first * 2_u8 + power_of_two(-300);
    assert!(epsilon < power_of_two(-112));
    &epsilon + ((&epsilon * &epsilon) >> (BITS - 2))
}

/// 2^exponent in units of 2⁻³²⁰.
fn power_of_two(exponent: i32) -> BigUint {
    BigUint::from(1_u8) << (BITS as i64 + i64::from(exponent)) as u64
}
