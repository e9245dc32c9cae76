//! Randomness that can only come from the operating system.

use std::convert::Infallible;

use hkdf::Hkdf;
use rand_chacha::ChaCha20Core;
use rand_core::block::{BlockRng, Generator};
use rand_core::{SeedableRng, TryCryptoRng, TryRng};
use sha2::Sha256;
use zeroize::{Zeroize, Zeroizing};

use crate::{Error, Result};

/// A ChaCha20 stream keyed by the operating system: the only randomness noise, keys and errors are drawn from.
///
/// There is no constructor from a seed, a round number or a configuration. Not `Clone` and not `Debug`: a copied stream
/// would draw the same noise twice. Key and buffer live on the heap (so a move leaves no copy behind) and are
/// overwritten on drop.
pub struct Entropy {
    stream: Box<BlockRng<WipedCore>>,
}

impl Entropy {
    /// Keyed with 32 bytes from the operating system. Fails (`Fault`) if it has none to give.
    pub fn from_os() -> Result<Self> {
        Ok(Self::keyed(&*system_bytes()?))
    }

    /// Keyed with HKDF-SHA-256 over 32 bytes from the operating system and `context`.
    ///
    /// A machine resumed twice from one image would draw the same system bytes twice; with the round's context and a
    /// digest of what is about to be sealed mixed in, it still does not draw one stream for two messages. The context
    /// adds no entropy and may be public. Each piece is length-prefixed, so pieces never run into one another.
    pub fn hedged(context: &[&[u8]]) -> Result<Self> {
        Ok(Self::keyed(&*hedged_key(&*system_bytes()?, context)?))
    }

    fn keyed(key: &[u8; 32]) -> Self {
        Self {
            stream: Box::new(BlockRng::new(WipedCore(ChaCha20Core::from_seed(*key)))),
        }
    }
}

impl TryRng for Entropy {
    type Error = Infallible;

    #[inline]
    fn try_next_u32(&mut self) -> std::result::Result<u32, Infallible> {
        Ok(self.stream.next_word())
    }

    #[inline]
    fn try_next_u64(&mut self) -> std::result::Result<u64, Infallible> {
        Ok(self.stream.next_u64_from_u32())
    }

    #[inline]
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> std::result::Result<(), Infallible> {
        self.stream.fill_bytes(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Entropy {}

/// ChaCha20 whose key and buffered output are overwritten on drop.
struct WipedCore(ChaCha20Core);

impl Generator for WipedCore {
    type Output = [u32; 64];

    #[inline]
    fn generate(&mut self, output: &mut Self::Output) {
        self.0.generate(output);
    }

    fn drop(&mut self, output: &mut Self::Output) {
        output.zeroize();
        // rand_chacha does not wipe its key. A fresh state over it, and a barrier that keeps the store, is what safe
        // code can do; temporaries inside the block function are out of reach.
        self.0 = ChaCha20Core::from_seed([0; 32]);
        std::hint::black_box(&mut self.0);
    }
}

fn system_bytes() -> Result<Zeroizing<[u8; 32]>> {
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut_slice())
        .map_err(|error| Error::Fault(format!("the operating system gave no entropy: {error}")))?;
    Ok(bytes)
}

fn hedged_key(system: &[u8; 32], context: &[&[u8]]) -> Result<Zeroizing<[u8; 32]>> {
    let mut material = Zeroizing::new(Vec::with_capacity(
        32 + context.iter().map(|piece| 8 + piece.len()).sum::<usize>(),
    ));
    material.extend_from_slice(system);
    for piece in context {
        material.extend_from_slice(&(piece.len() as u64).to_le_bytes());
        material.extend_from_slice(piece);
    }
    let mut key = Zeroizing::new([0; 32]);
    Hkdf::<Sha256>::new(Some(HEDGE), &material)
        .expand(b"entropy", key.as_mut_slice())
        .map_err(|_| Error::Fault("HKDF refused a 32-byte key".into()))?;
    Ok(key)
}

const HEDGE: &[u8] = b"ciphertune/1/hedge";

#[cfg(test)]
mod tests {
    use rand_core::Rng;

    use super::*;

    static_assertions::assert_not_impl_any!(
        Entropy: Clone, Copy, std::fmt::Debug, std::fmt::Display, PartialEq, serde::Serialize
    );

    #[test]
    fn the_stream_is_chacha20() {
        // RFC 8439, appendix A.1, test vector 1: zero key, counter 0.
        let mut entropy = Entropy::keyed(&[0; 32]);
        let mut bytes = [0; 16];
        entropy.fill_bytes(&mut bytes);
        assert_eq!(
            bytes,
            [
                0x76, 0xb8, 0xe0, 0xad, 0xa0, 0xf1, 0x3d, 0x90, 0x40, 0x5d, 0x6a, 0xe5, 0x53, 0x86,
                0xbd, 0x28
            ]
        );
    }

    #[test]
    fn two_streams_of_one_machine_differ() {
        let draw = |mut entropy: Entropy| [entropy.next_u64(), entropy.next_u64()];
        assert_ne!(
            draw(Entropy::from_os().unwrap()),
            draw(Entropy::from_os().unwrap())
        );
        assert_ne!(
            draw(Entropy::hedged(&[b"same"]).unwrap()),
            draw(Entropy::hedged(&[b"same"]).unwrap())
        );
    }

    #[test]
    fn a_resumed_image_with_another_context_has_another_key() {
        let key = |system: u8, context: &[&[u8]]| *hedged_key(&[system; 32], context).unwrap();
        assert_eq!(key(1, &[b"round", b"v"]), key(1, &[b"round", b"v"]));
        assert_ne!(key(1, &[b"round", b"v"]), key(1, &[b"round", b"w"]));
        assert_ne!(key(1, &[b"round", b"v"]), key(1, &[b"roundv"]));
        assert_ne!(key(1, &[b"round", b"v"]), key(1, &[b"roun", b"dv"]));
        assert_ne!(key(1, &[b"round", b"v"]), key(2, &[b"round", b"v"]));
        assert_ne!(key(1, &[]), [1; 32]);
    }
}
