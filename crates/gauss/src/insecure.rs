//! Randomness that repeats itself, for tests.

use std::convert::Infallible;

use rand_chacha::ChaCha20Rng;
use rand_core::{SeedableRng, TryRng};

/// A generator anyone can repeat from its seed: whoever knows the seed can subtract the noise. Tests only.
///
/// A type of its own: what demands [`Entropy`](crate::Entropy) does not take it.
pub struct InsecureEntropy(ChaCha20Rng);

impl InsecureEntropy {
    /// The same stream for the same seed, on every machine.
    pub fn from_seed(seed: u64) -> Self {
        Self(ChaCha20Rng::seed_from_u64(seed))
    }
}

impl TryRng for InsecureEntropy {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        self.0.try_next_u32()
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        self.0.try_next_u64()
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.try_fill_bytes(bytes)
    }
}
