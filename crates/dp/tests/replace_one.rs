//! The numerical support for Rényi privacy under replace-one with Poisson sampling.
//!
//! There one record contributes v or w, ‖v‖, ‖w‖ ≤ C, with probability q: in the worst direction w = −v, the pair
//! (1 − q)·N(0, σ²) + q·N(±C, σ²). The accountant charges it as add/remove at sensitivity 2·C. That this bounds it is
//! checked here by integration, over rates, multipliers and orders; it is no proof.

use ciphertune_dp::{FrozenSchedule, SamplingRate, Standing, rdp::Curve};
use ciphertune_policy::Adjacency;

/// D_α((1 − q)·N(0, σ²) + q·N(1, σ²) ‖ (1 − q)·N(0, σ²) + q·N(−1, σ²)), by the midpoint rule.
fn divergence(q: f64, sigma: f64, order: u32) -> f64 {
    let order_float = f64::from(order);
    let points = 60_000;
    // p^α·p′^(1−α) peaks within 2α − 1 of 0.
    let reach = 2.0 * order_float + 12.0 * sigma;
    let width = 2.0 * reach / f64::from(points);
    let logarithms: Vec<f64> = (0..points)
        .map(|point| {
            let x = -reach + (f64::from(point) + 0.5) * width;
            let common =
                -x * x / (2.0 * sigma * sigma) - (sigma * (2.0 * std::f64::consts::PI).sqrt()).ln();
            let mixture = |sign: f64| {
                let shift = (2.0 * sign * x - 1.0) / (2.0 * sigma * sigma);
                // ln(1 − q + q·e^shift), where e^shift may overflow.
                if shift > 0.0 {
                    shift + (q + (1.0 - q) * (-shift).exp()).ln()
                } else {
                    (1.0 - q + q * shift.exp()).ln()
                }
            };
            common + order_float * mixture(1.0) + (1.0 - order_float) * mixture(-1.0)
        })
        .collect();
    let largest = logarithms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logarithms.iter().map(|one| (one - largest).exp()).sum();
    (largest + (sum * width).ln()) / (order_float - 1.0)
}

fn charged(q: f64, sigma: f64, order: u32) -> f64 {
    // z = σ/Δ₂, Δ₂ = 2.
    let rate = SamplingRate::new(format!("{q}").parse().unwrap()).unwrap();
    let multiplier = format!("{}", sigma / 2.0).parse().unwrap();
    let step = FrozenSchedule::planned(rate, &multiplier, 1, Adjacency::ReplaceOne).unwrap();
    assert_eq!(step.standing() == Standing::Proved, q == 1.0);
    Curve::of(&step).at(order).unwrap()
}

#[test]
fn a_replaced_record_costs_no_more_than_one_removed_at_twice_the_sensitivity() {
    for q in [0.001, 0.01, 0.05, 0.2, 0.5, 0.9, 0.99] {
        for sigma in [0.8, 1.0, 1.5, 2.5, 5.0, 12.0] {
            for order in [2, 3, 4, 6, 10, 18, 32, 64] {
                let (true_one, charged) = (divergence(q, sigma, order), charged(q, sigma, order));
                assert!(
                    true_one <= charged * (1.0 + 1e-6) + 1e-12,
                    "{q} {sigma} {order}: {true_one} {charged}"
                );
            }
        }
    }
}

#[test]
fn whole_batches_are_charged_exactly_what_they_cost() {
    for order in [2, 5, 16] {
        let (true_one, charged) = (divergence(1.0, 3.0, order), charged(1.0, 3.0, order));
        assert!(
            (true_one / charged - 1.0).abs() < 1e-9,
            "{order}: {true_one} {charged}"
        );
    }
}

#[test]
fn add_and_remove_at_the_clip_itself_would_not_do() {
    // The check can fail: at sensitivity C the same pair costs more than is charged.
    assert!(divergence(0.1, 2.0, 8) > charged(0.1, 4.0, 8));
}
