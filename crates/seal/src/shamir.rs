//! Shamir's secret sharing over Z_q, one polynomial of degree t − 1 for each of N words.

use ciphertune_sum::{N, modular};
use rand_core::Rng;

use crate::secret::SecretBlock;
use crate::words::uniform_words;

/// Shares of `secret` at `points`, distinct and from 1: f(x) = secret + c₁·x + … + c_{t−1}·x^{t−1}.
///
/// The coefficients are drawn in the order c_{t−1}, …, c₁ (Horner's), N words each, so that
/// memory is that of the shares and one block.
pub(crate) fn split(
    secret: &SecretBlock,
    threshold: usize,
    points: &[u64],
    rng: &mut impl Rng,
) -> Vec<SecretBlock> {
    let mut shares: Vec<SecretBlock> = points.iter().map(|_| SecretBlock::zero()).collect();
    let mut coefficient = SecretBlock::zero();
    let mut words: Vec<&mut [u64]> = shares.iter_mut().map(SecretBlock::expose_mut).collect();
    split_words(
        secret.expose(),
        threshold,
        points,
        &mut words,
        coefficient.expose_mut(),
        rng,
    );
    shares
}

/// [`split`] for a secret of any length: fills `shares`, all zeros, one for each point. `coefficient` is scratch space
/// of the secret's length, the caller's to wipe.
pub(crate) fn split_words(
    secret: &[u64],
    threshold: usize,
    points: &[u64],
    shares: &mut [&mut [u64]],
    coefficient: &mut [u64],
    rng: &mut impl Rng,
) {
    for _ in 1..threshold {
        uniform_words(rng, coefficient);
        horner_step(points, shares, coefficient);
    }
    horner_step(points, shares, secret);
}

/// f_j ← f_j·j + c for the share at each point j.
fn horner_step(points: &[u64], shares: &mut [&mut [u64]], coefficient: &[u64]) {
    for (point, share) in points.iter().zip(shares) {
        for (word, c) in share.iter_mut().zip(coefficient) {
            *word = modular::add(modular::mul(*word, *point), *c);
        }
    }
}

/// Interpolation through distinct nodes: barycentric weights, computed once.
pub(crate) struct Lagrange {
    nodes: Vec<u64>,
    weights: Vec<u64>,
}

impl Lagrange {
    /// w_i = Π_{m≠i} (x_i − x_m)⁻¹ for distinct `nodes` below q.
    pub(crate) fn through(nodes: Vec<u64>) -> Self {
        let weight = |&node: &u64| {
            let others = nodes.iter().filter(|other| **other != node);
            modular::inv(others.fold(1, |product, &m| {
                modular::mul(product, modular::sub(node, m))
            }))
        };
        let weights = nodes.iter().map(weight).collect();
        Self { nodes, weights }
    }

    /// λ_i with f(x) = Σ λ_i·f(x_i) for every polynomial f of degree below the number of nodes.
    /// `x` is none of the nodes.
    pub(crate) fn coefficients_at(&self, x: u64) -> Vec<u64> {
        let product = self
            .nodes
            .iter()
            .fold(1, |p, &node| modular::mul(p, modular::sub(x, node)));
        let coefficient = |(&node, &weight): (&u64, &u64)| {
            modular::mul(
                modular::mul(product, weight),
                modular::inv(modular::sub(x, node)),
            )
        };
        self.nodes
            .iter()
            .zip(&self.weights)
            .map(coefficient)
            .collect()
    }
}

/// Σ λ_i·share_i for the first words of each share, as many as `out` has.
pub(crate) fn combine(coefficients: &[u64], shares: &[&SecretBlock], out: &mut [u64]) {
    debug_assert!(out.len() <= N);
    out.fill(0);
    for (&coefficient, share) in coefficients.iter().zip(shares) {
        for (sum, &word) in out.iter_mut().zip(share.expose()) {
            *sum = modular::add(*sum, modular::mul(coefficient, word));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ciphertune_gauss::insecure::InsecureEntropy;
    use proptest::prelude::*;

    fn rebuild(shares: &[SecretBlock], points: &[u64], x: u64) -> Vec<u64> {
        let chosen: Vec<&SecretBlock> = points.iter().map(|p| &shares[*p as usize - 1]).collect();
        let mut out = vec![0; N];
        combine(
            &Lagrange::through(points.to_vec()).coefficients_at(x),
            &chosen,
            &mut out,
        );
        out
    }

    #[test]
    fn any_t_shares_give_the_secret_and_fewer_do_not() {
        let mut rng = InsecureEntropy::from_seed(2);
        let mut secret = SecretBlock::zero();
        uniform_words(&mut rng, secret.expose_mut());
        let shares = split(&secret, 3, &[1, 2, 3, 4, 5], &mut rng);
        for points in [[1, 2, 3], [1, 3, 5], [5, 4, 2], [3, 4, 5]] {
            assert!(rebuild(&shares, &points, 0) == secret.expose());
        }
        assert!(rebuild(&shares, &[1, 2], 0) != secret.expose());
        assert!(rebuild(&shares, &[1, 2, 3], 5) == shares[4].expose());
    }

    /// What the holder of a share at a point gets does not depend on who else holds one.
    #[test]
    fn shares_at_some_points_are_those_of_all_at_these_points() {
        let mut secret = SecretBlock::zero();
        uniform_words(&mut InsecureEntropy::from_seed(7), secret.expose_mut());
        let dealt = |points: &[u64]| split(&secret, 3, points, &mut InsecureEntropy::from_seed(8));
        let all = dealt(&(1..=12).collect::<Vec<_>>());
        for (point, share) in [2, 5, 11].iter().zip(dealt(&[2, 5, 11])) {
            assert!(share.expose() == all[*point - 1].expose(), "{point}");
        }
    }

    #[test]
    fn shares_add_up_to_shares_of_the_sum() {
        let mut rng = InsecureEntropy::from_seed(3);
        let mut secrets = [SecretBlock::zero(), SecretBlock::zero()];
        let mut sums: Vec<SecretBlock> = (0..4).map(|_| SecretBlock::zero()).collect();
        for secret in &mut secrets {
            uniform_words(&mut rng, secret.expose_mut());
            for (sum, share) in sums
                .iter_mut()
                .zip(split(secret, 2, &[1, 2, 3, 4], &mut rng))
            {
                ciphertune_sum::add_assign(sum.expose_mut(), share.expose());
            }
        }
        let [mut total, second] = secrets;
        ciphertune_sum::add_assign(total.expose_mut(), second.expose());
        assert!(rebuild(&sums, &[4, 2], 0) == total.expose());
    }

    #[test]
    fn a_single_share_is_independent_of_the_secret() {
        // With the same coefficients, two secrets' shares differ by the constant difference only.
        let mut secret = SecretBlock::zero();
        let zero = split(&secret, 2, &[1, 2], &mut InsecureEntropy::from_seed(4));
        secret.expose_mut().fill(5);
        let five = split(&secret, 2, &[1, 2], &mut InsecureEntropy::from_seed(4));
        for (zero, five) in zero.iter().zip(&five) {
            for (z, f) in zero.expose().iter().zip(five.expose()) {
                assert_eq!(modular::sub(*f, *z), 5);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_t_of_n_shares_give_the_secret_and_one_fewer_does_not(
            (t, points) in (2..=20_usize).prop_flat_map(|n| {
                (2..=n, Just((1..=n as u64).collect::<Vec<_>>()).prop_shuffle())
            }),
            seed in any::<u64>(),
        ) {
            let mut rng = InsecureEntropy::from_seed(seed);
            let mut secret = SecretBlock::zero();
            uniform_words(&mut rng, secret.expose_mut());
            let shares = split(&secret, t, &(1..=points.len() as u64).collect::<Vec<_>>(), &mut rng);
            prop_assert!(rebuild(&shares, &points[..t], 0) == secret.expose());
            prop_assert!(rebuild(&shares, &points[..t - 1], 0) != secret.expose());
            let (others, &one) = (&points[..t], points.last().unwrap());
            if !others.contains(&one) {
                prop_assert!(rebuild(&shares, others, one) == shares[one as usize - 1].expose());
            }
        }
    }
}
