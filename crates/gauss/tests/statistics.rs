//! The sampler's draws, against the ideal probabilities and against opendp's exact sampler.

use ciphertune_gauss::insecure::InsecureEntropy;
use ciphertune_gauss::{DiscreteGaussian, Variance};

/// P(χ² ≥ df + 2√(df·x) + 2x) ≤ e^{−x} (Laurent–Massart 2000, Lemma 1). opendp's sampler takes no seed, so the tests
/// that run it are random: at x = 28 one in 10¹² runs would fail by chance.
fn threshold(cells: usize) -> f64 {
    let (df, x) = (cells as f64 - 1.0, 28.0_f64);
    df + 2.0 * (df * x).sqrt() + 2.0 * x
}

fn draws(variance: &Variance, count: usize, seed: u64) -> Vec<i64> {
    let mut out = vec![0; count];
    DiscreteGaussian::new(variance)
        .unwrap()
        .fill(&mut InsecureEntropy::from_seed(seed), &mut out);
    out
}

/// χ² of `draws` sorted into `cells` by `cell`, against expected shares.
fn chi_squared(draws: &[i64], expected: &[f64], cell: impl Fn(i64) -> usize) -> f64 {
    let mut counts = vec![0.0; expected.len()];
    draws.iter().for_each(|&draw| counts[cell(draw)] += 1.0);
    let total = draws.len() as f64;
    counts
        .iter()
        .zip(expected)
        .map(|(count, share)| (count - total * share).powi(2) / (total * share))
        .sum()
}

/// χ² of two samples of equal size, over the cells either has met.
fn two_sample(ours: &[i64], theirs: &[i64], cells: usize, cell: impl Fn(i64) -> usize) -> f64 {
    let mut counts = vec![(0.0_f64, 0.0_f64); cells];
    ours.iter().for_each(|&draw| counts[cell(draw)].0 += 1.0);
    theirs.iter().for_each(|&draw| counts[cell(draw)].1 += 1.0);
    let met = counts.iter().filter(|(a, b)| a + b > 0.0);
    met.map(|(a, b)| (a - b).powi(2) / (a + b)).sum()
}

/// Shares of −reach ..= reach, the outermost cells holding everything beyond them.
fn shares(sigma: f64, reach: i64) -> Vec<f64> {
    let density = |x: i64| (-(x as f64).powi(2) / (2.0 * sigma * sigma)).exp();
    let total: f64 = (-400..=400).map(density).sum();
    let mut shares: Vec<f64> = (-reach..=reach).map(|x| density(x) / total).collect();
    let tail: f64 = (reach + 1..=400).map(density).sum::<f64>() / total;
    shares[0] += tail;
    *shares.last_mut().unwrap() += tail;
    shares
}

fn clamped(x: i64, reach: i64) -> usize {
    (x.clamp(-reach, reach) + reach) as usize
}

#[test]
fn moments_are_those_of_the_discrete_gaussian() {
    let count = 400_000;
    for (variance, seed) in [
        ((4096, 100), 1),
        ((16, 1), 2),
        ((98_304, 1), 3),
        ((1 << 24, 1), 4),
        ((10_u128.pow(12) * 7, 7), 5),
    ] {
        let variance = Variance::new(variance.0, variance.1).unwrap();
        let sigma = variance.standard_deviation();
        let scaled: Vec<f64> = draws(&variance, count, seed)
            .iter()
            .map(|&x| x as f64 / sigma)
            .collect();
        let moment = |order: i32| scaled.iter().map(|x| x.powi(order)).sum::<f64>() / count as f64;
        // Standard errors: 1, √2, √15, √96 over √count; five of each.
        let error = 5.0 / (count as f64).sqrt();
        assert!(moment(1).abs() < error, "σ² = {variance}");
        assert!(
            (moment(2) - 1.0).abs() < error * 2_f64.sqrt(),
            "σ² = {variance}"
        );
        assert!(moment(3).abs() < error * 15_f64.sqrt(), "σ² = {variance}");
        assert!(
            (moment(4) - 3.0).abs() < error * 96_f64.sqrt(),
            "σ² = {variance}"
        );
    }
}

#[test]
fn draws_fit_the_ideal_probabilities_of_lattice_errors() {
    let expected = shares(6.4, 24);
    let chi = chi_squared(
        &draws(&Variance::new(4096, 100).unwrap(), 1_000_000, 6),
        &expected,
        |x| clamped(x, 24),
    );
    assert!(chi < threshold(expected.len()), "{chi}");
}

#[test]
fn the_fit_would_notice_a_width_wrong_by_two_percent() {
    let expected = shares(6.4 * 1.02, 24);
    let chi = chi_squared(
        &draws(&Variance::new(4096, 100).unwrap(), 1_000_000, 6),
        &expected,
        |x| clamped(x, 24),
    );
    assert!(chi > threshold(expected.len()), "{chi}");
}

#[test]
fn low_bits_and_residues_of_wide_noise_are_uniform() {
    // At σ ≥ 1,000 every residue mod m ≤ 128 has probability 1/m to within 10⁻¹⁰⁰: also mod the convolution's factor.
    for (variance, seed) in [(1_000_000, 7), (1 << 34, 8)] {
        let draws = draws(&Variance::integer(variance).unwrap(), 500_000, seed);
        for modulus in [2_i64, 7, 16, 61, 128] {
            let expected = vec![1.0 / modulus as f64; modulus as usize];
            let chi = chi_squared(&draws, &expected, |x| x.rem_euclid(modulus) as usize);
            assert!(
                chi < threshold(expected.len()),
                "σ² = {variance} mod {modulus}: {chi}"
            );
        }
    }
}

#[test]
fn single_draws_and_filled_blocks_have_one_distribution() {
    let sampler = DiscreteGaussian::new(&Variance::integer(100_000).unwrap()).unwrap();
    let mut entropy = InsecureEntropy::from_seed(9);
    let singles: Vec<i64> = (0..100_000).map(|_| sampler.sample(&mut entropy)).collect();
    let filled = draws(sampler.variance(), 100_000, 10);
    let chi = two_sample(&singles, &filled, 41, |x| clamped(x / 50, 20));
    assert!(chi < threshold(41), "{chi}");
}

#[test]
fn draws_agree_with_opendps_exact_sampler() {
    for (sigma, count, seed) in [(4_u32, 60_000, 11), (20, 60_000, 12), (100_000, 60_000, 13)] {
        let ours = draws(
            &Variance::integer(u128::from(sigma).pow(2)).unwrap(),
            count,
            seed,
        );
        let theirs: Vec<i64> = (0..count)
            .map(|_| {
                opendp::traits::samplers::sample_discrete_gaussian(sigma.into())
                    .unwrap()
                    .try_into()
                    .unwrap()
            })
            .collect();
        // Quarter deviations out to ±5σ, tails in the last cells; then low bits and residues.
        let quarter = f64::from(sigma) / 4.0;
        let chi = two_sample(&ours, &theirs, 41, |x| {
            clamped((x as f64 / quarter).round() as i64, 20)
        });
        assert!(chi < threshold(41), "σ = {sigma}: {chi}");
        for modulus in [2_i64, 7, 16, 128] {
            let chi = two_sample(&ours, &theirs, modulus as usize, |x| {
                x.rem_euclid(modulus) as usize
            });
            assert!(
                chi < threshold(modulus as usize),
                "σ = {sigma} mod {modulus}: {chi}"
            );
        }
    }
}

#[test]
fn one_seed_gives_one_stream_and_another_seed_another() {
    let variance = Variance::integer(10_000).unwrap();
    assert_eq!(draws(&variance, 1000, 14), draws(&variance, 1000, 14));
    assert_ne!(draws(&variance, 1000, 14), draws(&variance, 1000, 15));
}
