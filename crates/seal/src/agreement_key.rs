use ciphertune_round::{AGREEMENT_KEY_BYTES, Context, Digest, label};
use zeroize::Zeroizing;

use crate::{Error, Result};

/// HKDF-SHA-256(S, "agree"), from the sum of a round's keys: what keys the digests by which members agree on a model,
/// so that a server that can guess the model learns nothing from them. It opens nothing.
///
/// It outlives the round beside the model, for a fellow member that missed it.
pub struct AgreementKey(Box<Zeroizing<[u8; AGREEMENT_KEY_BYTES]>>);

impl AgreementKey {
    pub(crate) fn zero() -> Self {
        Self(Box::default())
    }

    pub(crate) fn expose_mut(&mut self) -> &mut [u8] {
        self.0.as_mut_slice()
    }

    /// The key that was [exposed](Self::expose), in a member's own file or in a parcel.
    ///
    /// # Errors
    /// [`Error::Malformed`] unless 32 bytes are given.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() != AGREEMENT_KEY_BYTES {
            return Err(Error::Malformed(format!(
                "an agreement key of {} bytes, not {AGREEMENT_KEY_BYTES}",
                bytes.len()
            )));
        }
        let mut key = Self::zero();
        key.expose_mut().copy_from_slice(bytes);
        Ok(key)
    }

    /// The 32 bytes, to be kept beside the model.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// SHA-256(label ‖ 0x00 ‖ context ‖ key ‖ model): what a member signs to agree on a model.
    #[must_use]
    pub fn agreement(&self, context: &Context, model: &Digest) -> Digest {
        let message = Zeroizing::new(
            [
                context.as_bytes().as_slice(),
                self.expose(),
                model.as_bytes(),
            ]
            .concat(),
        );
        Digest::labelled(label::AGREE, &message)
    }
}
