//! Products in R_q = Z_q\[X\]/(X^N + 1).

use std::sync::OnceLock;

use ciphertune_sum::{N, Q, modular, vectorised};
use tfhe_ntt::prime64::Plan;

use crate::secret::SecretBlock;
use crate::{Error, Result};

/// The one NTT plan of the process.
pub(crate) struct Ring {
    plan: &'static Plan,
}

/// The NTT of a secret ring element, divided by N: products with it need no other normalising.
pub(crate) struct KeySpectrum(SecretBlock);

impl Ring {
    pub(crate) fn new() -> Result<Self> {
        static PLAN: OnceLock<Option<Plan>> = OnceLock::new();
        let plan = PLAN.get_or_init(|| Plan::try_new(N, Q));
        let plan = plan
            .as_ref()
            .ok_or_else(|| Error::Fault("no NTT plan for q and N".into()))?;
        Ok(Self { plan })
    }

    /// The spectrum of a secret.
    pub(crate) fn spectrum(&self, secret: &SecretBlock) -> KeySpectrum {
        let mut spectrum = SecretBlock::zero();
        spectrum.expose_mut().copy_from_slice(secret.expose());
        self.plan.fwd(spectrum.expose_mut());
        self.plan.normalize(spectrum.expose_mut());
        KeySpectrum(spectrum)
    }

    /// a ← a·s, where `a` has N words below q.
    pub(crate) fn multiply(&self, a: &mut [u64], s: &KeySpectrum) {
        self.plan.fwd(a);
        let s = s.0.expose();
        vectorised(
            #[inline(always)]
            || {
                for (a, s) in a.iter_mut().zip(s) {
                    *a = modular::mul(*a, *s);
                }
            },
        );
        self.plan.inv(a);
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

    #[test]
    fn products_agree_with_the_schoolbook() {
        let mut rng = InsecureEntropy::from_seed(1);
        let (mut a, mut s) = (vec![0; N], SecretBlock::zero());
        uniform_words(&mut rng, &mut a);
        uniform_words(&mut rng, s.expose_mut());
        a[0] = Q - 1;
        s.expose_mut()[N - 1] = Q - 1;
        let expected = schoolbook(&a, s.expose());
        let ring = Ring::new().unwrap();
        ring.multiply(&mut a, &ring.spectrum(&s));
        assert!(a == expected);
    }
}
