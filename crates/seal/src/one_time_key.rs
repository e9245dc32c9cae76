use ciphertune_gauss::Entropy;
use ciphertune_round::{Context, Digest, PUBLIC_KEY_BYTES, ShareIndex, label::Label};
use ciphertune_sum::BLOCK_BYTES;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use rand_core::Rng;
use zeroize::Zeroizing;

use crate::secret::SecretBlock;
use crate::{Check, Error, Result};

type PrivateKey = <XWing as Kem>::PrivateKey;
type PublicKey = <XWing as Kem>::PublicKey;
type EncappedKey = <XWing as Kem>::EncappedKey;

const STORED_BYTES: usize = 32;
const ENCAPPED_BYTES: usize = 1120;
const TAG_BYTES: usize = 16;

/// Bytes of one sealed block of shares: encapsulated key, N words, authentication tag.
pub const SEALED_SHARE_BYTES: usize = ENCAPPED_BYTES + BLOCK_BYTES + TAG_BYTES;

/// The private half of a member's key for one context: HPKE (RFC 9180) base mode with X-Wing
/// (ML-KEM-768 + X25519), HKDF-SHA-256 and ChaCha20-Poly1305.
///
/// Used for one context and then erased, so whoever takes keys later reopens nothing. What is
/// held is X-Wing's 32-byte seed; the expanded key exists while something is opened.
pub struct OneTimeKey {
    seed: Box<Zeroizing<[u8; STORED_BYTES]>>,
}

impl OneTimeKey {
    /// A fresh key.
    ///
    /// # Errors
    /// None today; the signature leaves room for a source of entropy that can fail.
    pub fn generate(entropy: &mut Entropy) -> Result<Self> {
        let mut seed = Box::new(Zeroizing::new([0; STORED_BYTES]));
        entropy.fill_bytes(seed.as_mut_slice());
        Ok(Self { seed })
    }

    /// The public half, [`PUBLIC_KEY_BYTES`] bytes.
    #[must_use]
    pub fn public(&self) -> Vec<u8> {
        // 32 bytes are always an X-Wing seed; an empty key would be refused by `SealingKey`.
        self.expand()
            .map(|key| XWing::sk_to_pk(&key).to_bytes().to_vec())
            .unwrap_or_default()
    }

    /// The 32 bytes to keep (encrypted) until the context ends.
    #[must_use]
    pub fn store_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(self.seed.to_vec())
    }

    /// The key that was [stored](Self::store_bytes).
    ///
    /// # Errors
    /// [`Error::Malformed`] unless 32 bytes are given.
    pub fn from_stored(bytes: &[u8]) -> Result<Self> {
        if bytes.len() != STORED_BYTES {
            return Err(Error::Malformed(
                "a stored one-time key has 32 bytes".into(),
            ));
        }
        let mut seed = Box::new(Zeroizing::new([0; STORED_BYTES]));
        seed.copy_from_slice(bytes);
        Ok(Self { seed })
    }

    /// hpke wipes this type's seed on drop (x-wing's `zeroize`); it never outlives one call.
    fn expand(&self) -> Result<PrivateKey> {
        PrivateKey::from_bytes(self.seed.as_slice())
            .map_err(|_| Error::Fault("no X-Wing key from 32 bytes".into()))
    }

    /// Opens what [`SealingKey::seal`] made for the same binding.
    pub(crate) fn open(&self, binding: &Binding, sealed: &[u8]) -> Result<SecretBlock> {
        if sealed.len() != SEALED_SHARE_BYTES {
            return Err(Error::Malformed(format!(
                "seat {} sealed {} bytes, not {SEALED_SHARE_BYTES}",
                binding.sender,
                sealed.len()
            )));
        }
        let plain = self
            .open_bytes(binding.label, sealed, &binding.associated_data())?
            .ok_or(Error::Failed(Check::Sealed(binding.sender)))?;
        SecretBlock::parse(&plain)
    }

    /// Opens what [`SealingKey::seal_bytes`] made; `None` when it was not made for this key, label and data.
    pub(crate) fn open_bytes(
        &self,
        label: Label,
        sealed: &[u8],
        associated_data: &[u8],
    ) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let Some((encapped, ciphertext)) = sealed.split_at_checked(ENCAPPED_BYTES) else {
            return Ok(None);
        };
        let Ok(encapped) = EncappedKey::from_bytes(encapped) else {
            return Ok(None);
        };
        let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, XWing>(
            &OpModeR::Base,
            &self.expand()?,
            &encapped,
            label.as_bytes(),
            ciphertext,
            associated_data,
        );
        Ok(opened.ok().map(Zeroizing::new))
    }
}

/// The public half of a member's [`OneTimeKey`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealingKey(PublicKey);

impl SealingKey {
    /// Parses the [`PUBLIC_KEY_BYTES`] bytes of a public key.
    ///
    /// # Errors
    /// [`Error::Malformed`] when they are not an X-Wing public key.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() != PUBLIC_KEY_BYTES {
            return Err(Error::Malformed(format!(
                "a sealing key of {} bytes, not {PUBLIC_KEY_BYTES}",
                bytes.len()
            )));
        }
        PublicKey::from_bytes(bytes)
            .map(Self)
            .map_err(|_| Error::Malformed("not an X-Wing public key".into()))
    }

    /// Seals a block to this key: encapsulated key ‖ ciphertext ‖ tag.
    pub(crate) fn seal(
        &self,
        binding: &Binding,
        block: &SecretBlock,
        entropy: &mut Entropy,
    ) -> Result<Vec<u8>> {
        self.seal_bytes(
            binding.label,
            &block.to_bytes(),
            &binding.associated_data(),
            entropy,
        )
    }

    /// Seals bytes to this key under a label, with data that they are bound to.
    pub(crate) fn seal_bytes(
        &self,
        label: Label,
        plain: &[u8],
        associated_data: &[u8],
        entropy: &mut Entropy,
    ) -> Result<Vec<u8>> {
        let (encapped, ciphertext) =
            hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, XWing>(
                &OpModeS::Base,
                &self.0,
                label.as_bytes(),
                plain,
                associated_data,
                entropy,
            )
            .map_err(|_| Error::Fault("HPKE did not seal".into()))?;
        Ok([encapped.to_bytes().as_slice(), &ciphertext].concat())
    }
}

/// What a sealed block is bound to: it opens under no other.
pub(crate) struct Binding<'a> {
    /// HPKE's info.
    pub(crate) label: Label,
    pub(crate) context: &'a Context,
    /// For shares of the key sum.
    pub(crate) roster: Option<&'a Digest>,
    pub(crate) sender: ShareIndex,
    pub(crate) recipient: ShareIndex,
}

impl Binding<'_> {
    /// context ‖ \[roster ‖\] sender ‖ recipient, seats as little-endian u16.
    fn associated_data(&self) -> Vec<u8> {
        let roster = self
            .roster
            .map(|digest| digest.as_bytes().as_slice())
            .unwrap_or_default();
        let (sender, recipient) = (self.sender.get(), self.recipient.get());
        [
            self.context.as_bytes(),
            roster,
            &sender.to_le_bytes(),
            &recipient.to_le_bytes(),
        ]
        .concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ciphertune_round::label;

    fn seat(place: u16) -> ShareIndex {
        ShareIndex::new(place).unwrap()
    }

    #[test]
    fn a_sealed_block_opens_under_its_own_binding_only() {
        let mut entropy = Entropy::from_os().unwrap();
        let key = OneTimeKey::generate(&mut entropy).unwrap();
        let other = OneTimeKey::generate(&mut entropy).unwrap();
        let public = SealingKey::parse(&key.public()).unwrap();
        let (context, elsewhere) = (Context::of_plan(b"a"), Context::of_plan(b"b"));
        let (roster, forged) = (Digest::sha256(b"roster"), Digest::sha256(b"forged"));
        let binding = || Binding {
            label: label::SEAL_KEY_SUM,
            context: &context,
            roster: Some(&roster),
            sender: seat(1),
            recipient: seat(2),
        };
        let mut block = SecretBlock::zero();
        block.expose_mut().fill(7);
        let sealed = public.seal(&binding(), &block, &mut entropy).unwrap();
        assert_eq!(sealed.len(), SEALED_SHARE_BYTES);
        assert!(key.open(&binding(), &sealed).unwrap().expose() == block.expose());

        let wrong = [
            Binding {
                label: label::SEAL_SHARE,
                ..binding()
            },
            Binding {
                context: &elsewhere,
                ..binding()
            },
            Binding {
                roster: Some(&forged),
                ..binding()
            },
            Binding {
                roster: None,
                ..binding()
            },
            Binding {
                sender: seat(2),
                ..binding()
            },
            Binding {
                recipient: seat(1),
                ..binding()
            },
        ];
        for wrong in wrong {
            assert!(matches!(
                key.open(&wrong, &sealed),
                Err(Error::Failed(Check::Sealed(_)))
            ));
        }
        assert!(matches!(
            other.open(&binding(), &sealed),
            Err(Error::Failed(_))
        ));
        for place in [0, ENCAPPED_BYTES, SEALED_SHARE_BYTES - 1] {
            let mut altered = sealed.clone();
            altered[place] ^= 1;
            assert!(matches!(
                key.open(&binding(), &altered),
                Err(Error::Failed(_))
            ));
        }
        assert!(matches!(
            key.open(&binding(), &sealed[1..]),
            Err(Error::Malformed(_))
        ));
    }

    #[test]
    fn a_stored_key_opens_what_was_sealed_to_it() {
        let key = OneTimeKey::generate(&mut Entropy::from_os().unwrap()).unwrap();
        let back = OneTimeKey::from_stored(&key.store_bytes()).unwrap();
        assert_eq!(key.public(), back.public());
        assert_eq!(key.public().len(), PUBLIC_KEY_BYTES);
        assert!(matches!(
            OneTimeKey::from_stored(&[0; 31]),
            Err(Error::Malformed(_))
        ));
    }

    #[test]
    fn bytes_that_are_no_public_key_are_refused() {
        assert!(matches!(
            SealingKey::parse(&[0; 32]),
            Err(Error::Malformed(_))
        ));
        // ML-KEM's encapsulation key check: coefficients must be below 3329.
        assert!(matches!(
            SealingKey::parse(&[0xFF; PUBLIC_KEY_BYTES]),
            Err(Error::Malformed(_))
        ));
    }
}
