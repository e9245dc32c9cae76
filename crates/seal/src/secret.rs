use ciphertune_sum::{BLOCK_BYTES, N, codec};
use zeroize::{Zeroize, Zeroizing};

use crate::Result;

/// N words below q that must not be seen: a key, a share of one, or a sum of such.
///
/// On the heap, so that moving it leaves no copy behind; wiped on drop.
pub(crate) struct SecretBlock {
    words: Box<[u64]>,
}

impl SecretBlock {
    /// N zeros, to be filled in place.
    pub(crate) fn zero() -> Self {
        Self {
            words: vec![0; N].into_boxed_slice(),
        }
    }

    /// The words.
    pub(crate) fn expose(&self) -> &[u64] {
        &self.words
    }

    /// The words, to be filled in place.
    pub(crate) fn expose_mut(&mut self) -> &mut [u64] {
        &mut self.words
    }

    /// N little-endian u64.
    pub(crate) fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(BLOCK_BYTES));
        codec::encode_words(&self.words, &mut bytes);
        bytes
    }

    /// Parses N little-endian u64, each below q.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self> {
        let mut block = Self::zero();
        codec::decode_words(bytes, &mut block.words)?;
        Ok(block)
    }
}

impl Drop for SecretBlock {
    fn drop(&mut self) {
        self.words.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::{Debug, Display};

    use serde::Serialize;
    use static_assertions::assert_not_impl_any;

    use crate::ring::KeySpectrum;
    use crate::{AgreementKey, KeySum, KeySumShare, OneTimeKey, OpenedSum};

    use super::*;

    // These fail to compile, not to run; that they can is shown beside `KeySum` in the crate's documentation.
    assert_not_impl_any!(SecretBlock: Clone, Copy, Debug, Display, PartialEq, Serialize);
    assert_not_impl_any!(KeySpectrum: Clone, Copy, Debug, Display, PartialEq, Serialize);
    assert_not_impl_any!(OneTimeKey: Clone, Copy, Debug, Display, PartialEq, Serialize);
    assert_not_impl_any!(KeySumShare: Clone, Copy, Debug, Display, PartialEq, Serialize);
    assert_not_impl_any!(KeySum: Clone, Copy, Debug, Display, PartialEq, Serialize);
    assert_not_impl_any!(AgreementKey: Clone, Copy, Debug, Display, PartialEq, Serialize);
    assert_not_impl_any!(OpenedSum: Clone, Copy, Debug, Display, PartialEq, Serialize);

    #[test]
    fn every_secret_type_needs_its_drop() {
        // zeroize on drop: a type without drop glue could not wipe anything.
        assert!(std::mem::needs_drop::<SecretBlock>());
        assert!(std::mem::needs_drop::<KeySpectrum>());
        assert!(std::mem::needs_drop::<OneTimeKey>());
        assert!(std::mem::needs_drop::<KeySumShare>());
        assert!(std::mem::needs_drop::<KeySum>());
        assert!(std::mem::needs_drop::<OpenedSum>());
    }

    #[test]
    fn a_word_of_q_or_more_is_no_secret_of_ours() {
        let mut bytes = vec![0; BLOCK_BYTES];
        assert!(SecretBlock::parse(&bytes).is_ok());
        bytes[..8].copy_from_slice(&ciphertune_sum::Q.to_le_bytes());
        assert!(SecretBlock::parse(&bytes).is_err());
        assert!(SecretBlock::parse(&bytes[8..]).is_err());
    }
}
