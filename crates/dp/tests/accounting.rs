//! The accountants against dp-accounting 0.6 (`shared/fixtures/dp-accounting.json`), the tables of the design, exact
//! formulas, and each other.

use ciphertune_dp::accounting::{self, Account, Accountant, Basis};
use ciphertune_dp::zcdp::Epsilon;
use ciphertune_dp::{Error, FrozenSchedule, MOST_STEPS, Result, SamplingRate, pld::Interval, rdp};
use ciphertune_policy::{Adjacency, Decimal};
use proptest::prelude::*;
use serde::Deserialize;

const PLD: Accountant = Accountant::Pld(Interval::DEFAULT);

// An ε by privacy loss distributions cannot be added to another: no filter is made of it.
trait Adds {}
impl<T: std::ops::Add> Adds for T {}
static_assertions::assert_not_impl_any!(Epsilon: Adds);
static_assertions::assert_not_impl_any!(Account: Adds);

#[derive(Deserialize)]
struct Fixture {
    rdp_orders: Vec<u32>,
    pld_discretization: f64,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    sampling_rate: f64,
    noise_multiplier: f64,
    steps: u32,
    #[serde(rename = "epsilon_rdp_delta_1e-05")]
    rdp_at_5: f64,
    #[serde(rename = "epsilon_pld_delta_1e-05")]
    pld_at_5: f64,
    #[serde(rename = "epsilon_rdp_delta_1e-07")]
    rdp_at_7: f64,
    #[serde(rename = "epsilon_pld_delta_1e-07")]
    pld_at_7: f64,
}

/// `None`, said aloud, where the reference values are absent.
fn fixture() -> Option<Fixture> {
    const PATH: &str = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/fixtures/dp-accounting.json"
    );
    let Ok(text) = std::fs::read_to_string(PATH) else {
        eprintln!("SKIPPED: {PATH} is absent");
        return None;
    };
    Some(serde_json::from_str(&text).unwrap())
}

fn decimal(text: &str) -> Decimal {
    text.parse().unwrap()
}

fn rate(q: &str) -> SamplingRate {
    SamplingRate::new(decimal(q)).unwrap()
}

fn schedule(q: &str, z: &str, steps: u32, adjacency: Adjacency) -> FrozenSchedule {
    FrozenSchedule::planned(rate(q), &decimal(z), steps, adjacency).unwrap()
}

fn account(accountant: Accountant, q: &str, z: &str, steps: u32, delta: &str) -> Account {
    let schedule = schedule(q, z, steps, Adjacency::ZeroOut);
    accounting::epsilon(accountant, &schedule, &decimal(delta)).unwrap()
}

fn epsilon(accountant: Accountant, q: &str, z: &str, steps: u32, delta: &str) -> f64 {
    account(accountant, q, z, steps, delta).epsilon.get()
}

fn calibrated(accountant: Accountant, epsilon: &str, q: &str, steps: u32) -> Result<Decimal> {
    accounting::calibrate(
        accountant,
        &decimal(epsilon),
        &decimal("1e-5"),
        rate(q),
        steps,
        Adjacency::ZeroOut,
    )
}

#[test]
fn orders_and_grid_are_those_of_the_fixture() {
    let Some(fixture) = fixture() else { return };
    assert_eq!(fixture.rdp_orders, rdp::ORDERS);
    assert_eq!(fixture.pld_discretization, Interval::DEFAULT.get());
    assert_eq!(fixture.cases.len(), 15);
}

#[test]
fn renyi_privacy_is_dp_accountings_to_a_billionth_and_not_below_it() {
    for case in fixture().into_iter().flat_map(|fixture| fixture.cases) {
        let (q, z) = (
            case.sampling_rate.to_string(),
            case.noise_multiplier.to_string(),
        );
        for (delta, expected) in [("1e-5", case.rdp_at_5), ("1e-7", case.rdp_at_7)] {
            let found = account(Accountant::Rdp, &q, &z, case.steps, delta);
            let above = found.epsilon.get() - expected;
            assert!(
                (-1e-14..1e-9).contains(&above),
                "{q} {z} {}: {above}",
                case.steps
            );
            let Basis::Rdp { rounding, .. } = found.basis else {
                panic!("{found:?}")
            };
            assert!(rounding < 1e-11 && above <= rounding + 1e-12, "{found:?}");
        }
    }
}

#[test]
fn loss_distributions_are_dp_accountings_to_a_millionth_and_not_a_billionth_below_it() {
    for case in fixture().into_iter().flat_map(|fixture| fixture.cases) {
        let (q, z) = (
            case.sampling_rate.to_string(),
            case.noise_multiplier.to_string(),
        );
        for (delta, expected) in [("1e-5", case.pld_at_5), ("1e-7", case.pld_at_7)] {
            let found = account(PLD, &q, &z, case.steps, delta);
            let above = found.epsilon.get() - expected;
            assert!(
                (-1e-9..1e-6).contains(&above),
                "{q} {z} {} {delta}: {above}",
                case.steps
            );
            let Basis::Pld { rounding, interval } = found.basis else {
                panic!("{found:?}")
            };
            assert!(rounding < 1.5e-6 && interval == 1e-4, "{found:?}");
        }
    }
}

/// Multipliers are there to the nearest thousandth, here rounded up.
fn reproduces(accountant: Accountant, q: &str, steps: u32, row: [f64; 4]) {
    for (target, nearest) in ["1", "2", "4", "8"].into_iter().zip(row) {
        let multiplier = calibrated(accountant, target, q, steps).unwrap();
        let above = multiplier.to_f64_up() - nearest;
        assert!(
            (-1e-9..0.001 + 1e-9).contains(&above),
            "{accountant}, ε = {target}: {multiplier}, where the design has {nearest}"
        );
        // It keeps ε, and a thousandth less does not.
        let (mantissa, denominator) = multiplier.to_ratio();
        let less = Decimal::new(mantissa * (1000 / denominator as i128) - 1, 3).unwrap();
        let limit: f64 = target.parse().unwrap();
        assert!(epsilon(accountant, q, &multiplier.to_string(), steps, "1e-5") <= limit);
        assert!(epsilon(accountant, q, &less.to_string(), steps, "1e-5") > limit);
    }
}

#[test]
fn the_institution_table_of_the_design_is_reproduced() {
    reproduces(Accountant::Zcdp, "1", 50, [28.603, 15.197, 8.185, 4.509]);
    reproduces(PLD, "1", 50, [26.380, 14.098, 7.645, 4.244]);
}

#[test]
fn the_record_table_of_the_design_is_reproduced() {
    let q = (32.0_f64 / 600.0).to_string();
    reproduces(Accountant::Rdp, &q, 937, [6.703, 3.637, 2.067, 1.289]);
    reproduces(PLD, &q, 937, [6.182, 3.379, 1.940, 1.218]);
}

/// δ of N(1, z²) against N(0, z²) (Balle–Wang 2018), by an independent tail.
fn gaussian_delta(z: f64, epsilon: f64) -> f64 {
    let tail = |x: f64| 0.5 * libm::erfc(x / std::f64::consts::SQRT_2);
    let half = 0.5 / z;
    tail(epsilon * z - half) - epsilon.exp() * tail(epsilon * z + half)
}

#[test]
fn whole_batches_are_the_exact_gaussian_and_never_below_it() {
    for (z, steps, delta) in [
        ("1", 1, "1e-5"),
        ("4.244", 50, "1e-5"),
        ("30", 900, "1e-3"),
        ("0.5", 1, "1e-9"),
        ("2", 1, "0.3"),
    ] {
        let merged = z.parse::<f64>().unwrap() / f64::from(steps).sqrt();
        let found = epsilon(PLD, "1", z, steps, delta);
        let delta: f64 = delta.parse().unwrap();
        assert!(gaussian_delta(merged, found) <= delta, "{z} {steps}");
        assert!(
            found == 0.0 || gaussian_delta(merged, found - 1e-5) > delta,
            "{z} {steps}"
        );
        assert!(found > 0.0 || gaussian_delta(merged, 0.0) <= delta);
    }
}

#[test]
fn two_sampled_steps_are_those_of_an_independent_integral() {
    // δ(ε) = E_{x∼P}[h(ε − L(x))] for removal, by the midpoint rule over the first step.
    let (q, z, delta) = (0.2_f64, 0.8_f64, 1e-3);
    let found = epsilon(PLD, "0.2", "0.8", 2, "1e-3");
    let curve = |epsilon: f64| {
        let inner = (epsilon.exp() - 1.0 + q) / q;
        if inner <= 0.0 {
            return 1.0 - epsilon.exp();
        }
        q * gaussian_delta(z, inner.ln())
    };
    let two = |epsilon: f64| -> f64 {
        let (points, from, to) = (400_000, -9.0, 11.0);
        let width = (to - from) / f64::from(points);
        (0..points)
            .map(|point| {
                let x = from + (f64::from(point) + 0.5) * width;
                let normal = |mean: f64| {
                    (-((x - mean) / z).powi(2) / 2.0).exp()
                        / (z * (2.0 * std::f64::consts::PI).sqrt())
                };
                let p = (1.0 - q) * normal(0.0) + q * normal(1.0);
                let loss = (1.0 - q + q * ((2.0 * x - 1.0) / (2.0 * z * z)).exp()).ln();
                p * curve(epsilon - loss) * width
            })
            .sum()
    };
    assert!(two(found) <= delta * (1.0 + 1e-6));
    assert!(
        two(found - 1e-5) > delta,
        "{} {}",
        two(found),
        two(found - 1e-5)
    );
}

#[test]
fn a_finer_grid_is_tighter_and_a_coarser_one_still_sound() {
    // A step's loss hardly spreads over the default interval here.
    let schedule = schedule("0.0001", "1.5", 5000, Adjacency::ZeroOut);
    let at = |interval: &str| {
        let accountant = Accountant::Pld(Interval::new(&decimal(interval)).unwrap());
        let account = accounting::epsilon(accountant, &schedule, &decimal("1e-5")).unwrap();
        account.epsilon.get()
    };
    let (fine, default, coarse) = (at("1e-6"), at("1e-4"), at("1e-3"));
    assert!(
        fine < default && default < coarse,
        "{fine} {default} {coarse}"
    );
    assert!(fine < epsilon(Accountant::Rdp, "0.0001", "1.5", 5000, "1e-5"));
    for interval in ["0", "1e-10", "0.11", "1"] {
        assert!(
            matches!(Interval::new(&decimal(interval)), Err(Error::Refused(_))),
            "{interval}"
        );
    }
}

#[test]
fn extremes_have_a_sound_answer_or_a_refusal() {
    for (q, z, steps, delta) in [
        ("1", "0.02", 1, "1e-5"),
        ("0.5", "0.05", 100, "1e-5"),
        ("0.99999999999999999999", "1", 7, "1e-5"),
        ("1e-20", "1", 1_000_000, "1e-5"),
        ("0.01", "1000000", 1_000_000, "1e-18"),
        ("0.7", "0.6", 1_000_000, "1e-6"),
        ("0.5", "3", 1, "0.999"),
        ("0.3", "100000000000000000", 3, "1e-5"),
    ] {
        let by_renyi = epsilon(Accountant::Rdp, q, z, steps, delta);
        let found = account(PLD, q, z, steps, delta);
        let Basis::Pld { rounding, interval } = found.basis else {
            panic!("{found:?}")
        };
        // Never more than Rényi privacy but for what the grid makes of losses far below its interval.
        let slack = rounding + interval * f64::from(steps.min(10));
        assert!(
            found.epsilon.get() <= by_renyi + slack,
            "{q} {z} {steps}: {found:?} {by_renyi}"
        );
    }
    let hopeless = schedule("1", "0.0001", 1_000_000, Adjacency::ZeroOut);
    assert!(matches!(
        accounting::epsilon(PLD, &hopeless, &decimal("1e-5")),
        Err(Error::Refused(_))
    ));
}

#[test]
fn what_an_accountant_does_not_know_is_refused_in_words() {
    let said = |outcome: Result<Account>| match outcome {
        Err(Error::Refused(said)) => said,
        other => panic!("{other:?}"),
    };
    let delta = decimal("1e-5");
    let sampled = schedule("0.5", "1", 10, Adjacency::ZeroOut);
    assert!(said(accounting::epsilon(Accountant::Zcdp, &sampled, &delta)).contains("sampling"));
    let replaced = schedule("0.5", "1", 10, Adjacency::ReplaceOne);
    assert!(said(accounting::epsilon(PLD, &replaced, &delta)).contains("replace-one"));
    for delta in ["0", "1", "1.5"] {
        for accountant in [Accountant::Rdp, PLD] {
            assert!(
                said(accounting::epsilon(accountant, &sampled, &decimal(delta))).contains("delta")
            );
        }
    }
    for q in ["0", "1.00000000000000000001", "2"] {
        assert!(
            matches!(SamplingRate::new(decimal(q)), Err(Error::Refused(_))),
            "{q}"
        );
    }
    for (z, steps) in [("0", 1), ("1", 0), ("1", MOST_STEPS + 1)] {
        let outcome = FrozenSchedule::planned(rate("0.5"), &decimal(z), steps, Adjacency::ZeroOut);
        assert!(matches!(outcome, Err(Error::Refused(_))), "{z} {steps}");
    }
    for accountant in Accountant::ALL {
        assert!(matches!(
            calibrated(accountant, "0", "1", 1),
            Err(Error::Refused(_))
        ));
        assert!(matches!(
            calibrated(accountant, "1", "1", 0),
            Err(Error::Refused(_))
        ));
        assert_eq!(
            accountant.to_string().parse::<Accountant>().unwrap(),
            accountant
        );
    }
    assert!(matches!(
        calibrated(Accountant::Rdp, "1e-9", "1", 1_000_000),
        Err(Error::Refused(_))
    ));
    assert!("moments".parse::<Accountant>().is_err());
}

#[test]
fn replace_one_needs_no_label_for_whole_batches_and_one_for_sampled_ones() {
    use ciphertune_dp::Standing;
    let delta = decimal("1e-5");
    // z is over Δ₂, which doubles with the adjacency: the same z is the same ε.
    for accountant in Accountant::ALL {
        let replaced = schedule("1", "3", 10, Adjacency::ReplaceOne);
        assert_eq!(replaced.standing(), Standing::Proved);
        let found = accounting::epsilon(accountant, &replaced, &delta).unwrap();
        assert_eq!(
            found.epsilon.get(),
            epsilon(accountant, "1", "3", 10, "1e-5")
        );
    }
    let replaced = schedule("0.1", "3", 10, Adjacency::ReplaceOne);
    assert_eq!(replaced.standing(), Standing::Numerical);
    assert!(accounting::epsilon(Accountant::Rdp, &replaced, &delta).is_ok());
}

#[test]
fn curves_add_up_to_what_equal_steps_cost() {
    let one = rdp::Curve::of(&schedule("0.1", "1.3", 1, Adjacency::ZeroOut));
    let many = rdp::Curve::of(&schedule("0.1", "1.3", 64, Adjacency::ZeroOut));
    let mut sum = rdp::Curve::ZERO;
    (0..64).for_each(|_| sum = sum.plus(&one));
    for order in rdp::ORDERS {
        let (sum, many) = (sum.at(order).unwrap(), many.at(order).unwrap());
        assert!((sum / many - 1.0).abs() < 1e-13 && sum >= 64.0 * one.at(order).unwrap());
    }
    assert_eq!(one.at(65), None);
    assert_eq!(one.values().len(), rdp::ORDERS.len());
}

/// A schedule and a δ; each field is a number that a policy states.
#[derive(Clone, Debug)]
struct Stated {
    q: f64,
    z: f64,
    steps: u32,
    delta: f64,
}

impl Stated {
    fn epsilon(&self, accountant: Accountant) -> f64 {
        let text = |value: f64| format!("{value:.12}");
        epsilon(
            accountant,
            &text(self.q),
            &text(self.z),
            self.steps,
            &text(self.delta),
        )
    }

    /// Each tightening of a policy, by one part in a hundred and more.
    fn tightened(&self) -> [Self; 4] {
        [
            Self {
                q: self.q * 0.97,
                ..self.clone()
            },
            Self {
                z: self.z * 1.03,
                ..self.clone()
            },
            Self {
                steps: self.steps - self.steps.div_ceil(30),
                ..self.clone()
            },
            // A larger δ at the same ε is looser; at the same mechanism a larger δ has the smaller ε.
            Self {
                delta: self.delta * 1.5,
                ..self.clone()
            },
        ]
    }
}

fn stated(whole: bool) -> impl Strategy<Value = Stated> {
    let q = if whole { 1.0..=1.0 } else { 0.002..=0.9 };
    (q, 0.6..8.0, 2_u32..2000, 3.0..8.0_f64).prop_map(|(q, z, steps, nines)| Stated {
        q,
        z,
        steps,
        delta: 10_f64.powf(-nines),
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn fewer_rounds_more_noise_and_smaller_batches_cost_less_by_renyi(stated in stated(false)) {
        let cost = stated.epsilon(Accountant::Rdp);
        for tightened in stated.tightened() {
            prop_assert!(tightened.epsilon(Accountant::Rdp) < cost || cost == 0.0, "{tightened:?}");
        }
    }

    #[test]
    fn fewer_rounds_and_more_noise_cost_less_by_zcdp(stated in stated(true)) {
        let cost = stated.epsilon(Accountant::Zcdp);
        for tightened in stated.tightened().into_iter().skip(1) {
            prop_assert!(tightened.epsilon(Accountant::Zcdp) < cost, "{tightened:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn fewer_rounds_more_noise_and_smaller_batches_cost_less_by_loss_distributions(stated in stated(false)) {
        let cost = stated.epsilon(PLD);
        prop_assert!(cost <= stated.epsilon(Accountant::Rdp) + 1e-3);
        for tightened in stated.tightened() {
            prop_assert!(tightened.epsilon(PLD) < cost || cost == 0.0, "{tightened:?}");
        }
    }

    #[test]
    fn calibration_and_epsilon_are_inverse(
        q in 0.005..0.9, steps in 2_u32..2000, target in 0.3..10.0,
    ) {
        let (q, target) = (format!("{q:.9}"), format!("{target:.6}"));
        for accountant in [Accountant::Rdp, PLD] {
            let multiplier = calibrated(accountant, &target, &q, steps).unwrap();
            let found = epsilon(accountant, &q, &multiplier.to_string(), steps, "1e-5");
            prop_assert!(found <= target.parse().unwrap(), "{accountant} {multiplier}: {found}");
            // A looser ε needs no more noise.
            let looser = format!("{:.6}", target.parse::<f64>().unwrap() * 1.1);
            prop_assert!(calibrated(accountant, &looser, &q, steps).unwrap() <= multiplier);
        }
    }
}
