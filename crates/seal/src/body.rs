//! One block of a body: encryption and its inverse.

use ciphertune_round::{Context, label};
use ciphertune_sum::{N, modular, vectorised};

use crate::Result;
use crate::ring::{KeySpectrum, Ring};
use crate::words::PublicWords;

/// The masks a_j of a context, the same for every member and known to all.
pub(crate) struct Masks(PublicWords);

impl Masks {
    pub(crate) fn of(context: &Context) -> Result<Self> {
        PublicWords::new(label::MASK, context.as_bytes(), b"mask").map(Self)
    }

    /// a_j, as coefficients.
    pub(crate) fn fill(&self, block: usize, a: &mut [u64]) {
        self.0.fill(block as u64, a);
    }
}

/// Turns `a` into the body block b = a·s + e + Δ·m.
///
/// `message` is Δ·m over the integers, and |Δ·m + e| < q/2.
pub(crate) fn seal_block(
    ring: &Ring,
    key: &KeySpectrum,
    errors: &[i64],
    message: &[i64],
    a: &mut [u64],
) {
    debug_assert_eq!((a.len(), errors.len(), message.len()), (N, N, N));
    ring.multiply(a, key);
    vectorised(
        #[inline(always)]
        || {
            for ((word, error), message) in a.iter_mut().zip(errors).zip(message) {
                *word = modular::add(*word, modular::from_i64(message + error));
            }
        },
    );
}

/// Turns `a` into b − a·s = Δ·m + e.
pub(crate) fn open_block(ring: &Ring, key: &KeySpectrum, body: &[u64], a: &mut [u64]) {
    ring.multiply(a, key);
    vectorised(
        #[inline(always)]
        || {
            for (word, body) in a.iter_mut().zip(body) {
                *word = modular::sub(*body, *word);
            }
        },
    );
}
