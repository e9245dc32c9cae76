//! Products in R_q = Z_q\[X\]/(X^N + 1).

use std::sync::OnceLock;

use ciphertune_sum::{N, Q, modular};

use crate::ntt::Transform;
use crate::secret::SecretBlock;

/// The one transform of the process.
pub(crate) struct Ring {
    transform: &'static Transform,
}

/// The transform of a secret ring element, divided by N: products with it need no other normalising.
pub(crate) struct KeySpectrum(SecretBlock);

impl KeySpectrum {
    pub(crate) fn expose(&self) -> &[u64] {
        self.0.expose()
    }
}

impl Ring {
    pub(crate) fn new() -> Self {
        static TRANSFORM: OnceLock<Transform> = OnceLock::new();
        Self {
            transform: TRANSFORM.get_or_init(Transform::new),
        }
    }

    /// The spectrum of a secret.
    pub(crate) fn spectrum(&self, secret: &SecretBlock) -> KeySpectrum {
        let mut spectrum = SecretBlock::zero();
        spectrum.expose_mut().copy_from_slice(secret.expose());
        self.transform.forward(spectrum.expose_mut());
        let scale = modular::inv(N as u64);
        for word in spectrum.expose_mut() {
            *word = modular::mul(*word % Q, scale);
        }
        KeySpectrum(spectrum)
    }

    /// a ← a·s, where `a` has N words below q.
    pub(crate) fn multiply(&self, a: &mut [u64], s: &KeySpectrum) {
        self.transform.forward(a);
        self.transform.inverse_of_product(a, s.expose());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::uniform_words;
    use ciphertune_gauss::insecure::InsecureEntropy;

    /// X^i·X^j = X^(i+j), and X^N = −1.
    fn schoolbook(a: &[u64], b: &[u64]) -> Vec<u64> {
        let mut product = vec![0; N];
        for (i, &a) in a.iter().enumerate() {
            for (j, &b) in b.iter().enumerate() {
                let term = modular::mul(a, b);
                let place = &mut product[(i + j) % N];
                *place = if i + j < N {
                    modular::add(*place, term)
                } else {
                    modular::sub(*place, term)
                };
            }
        }
        product
    }

    /// tfhe's transform of the same ring, written by others: words from all over Z_q, and the largest.
    #[test]
    fn products_agree_with_tfhe_ntt() {
        let plan = tfhe_ntt::prime64::Plan::try_new(N, Q).unwrap();
        let mut rng = InsecureEntropy::from_seed(2);
        let (mut a, mut s) = (vec![Q - 1; N], SecretBlock::zero());
        s.expose_mut().fill(Q - 1);
        for _ in 0..20 {
            let mut spectrum = s.expose().to_vec();
            plan.fwd(&mut spectrum);
            plan.normalize(&mut spectrum);
            let mut expected = a.clone();
            plan.fwd(&mut expected);
            for (word, key) in expected.iter_mut().zip(&spectrum) {
                *word = modular::mul(*word, *key);
            }
            plan.inv(&mut expected);
            let ring = Ring::new();
            ring.multiply(&mut a, &ring.spectrum(&s));
            assert!(a == expected);
            uniform_words(&mut rng, &mut a);
            uniform_words(&mut rng, s.expose_mut());
        }
    }

    #[test]
    fn products_agree_with_the_schoolbook() {
        let mut rng = InsecureEntropy::from_seed(1);
        let (mut a, mut s) = (vec![0; N], SecretBlock::zero());
        uniform_words(&mut rng, &mut a);
        uniform_words(&mut rng, s.expose_mut());
        a[0] = Q - 1;
        s.expose_mut()[N - 1] = Q - 1;
        let expected = schoolbook(&a, s.expose());
        let ring = Ring::new();
        ring.multiply(&mut a, &ring.spectrum(&s));
        assert!(a == expected);
    }
}
