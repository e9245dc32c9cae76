//! A checkpoint that the log's owner signed: a C2SP signed note, which any tool for transparency logs reads.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ciphertune_round::{Signer, VerifyingKey};
use sha2::{Digest as _, Sha256};

use crate::{
    checkpoint::Checkpoint,
    error::{Error, Result},
};

/// The longest note that is read.
pub const NOTE_BYTES: usize = 1 << 10;

/// What a line with a signature begins with: an em dash and a space.
const SIGNATURE: &str = "— ";

/// Ed25519 over the note's text (C2SP signed-note, "Signature types").
const ED25519: u8 = 1;

/// A checkpoint's text, an empty line, and one line with the owner's signature under the log's name (C2SP signed-note).
///
/// The signature is over the bare text, as the format demands, and not over a label: no labelled message of this project is
/// without a zero byte, and no note has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    checkpoint: Checkpoint,
    key_id: [u8; 4],
    signature: [u8; 64],
}

impl Note {
    /// Signs a checkpoint.
    pub fn sign(checkpoint: Checkpoint, owner: &dyn Signer) -> Self {
        Self {
            key_id: key_id(checkpoint.origin(), &owner.verifying_key()),
            signature: owner.sign(&checkpoint.to_bytes()),
            checkpoint,
        }
    }

    /// Reads [`Self::to_text`] and nothing else. Whether the signature holds is asked by [`Self::verify`].
    ///
    /// # Errors
    /// `Malformed` on any other text.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || Error::Malformed("not a signed checkpoint with one signature".into());
        if text.len() > NOTE_BYTES {
            return Err(wrong());
        }
        let (body, signature) = text.split_once("\n\n").ok_or_else(wrong)?;
        let checkpoint = Checkpoint::parse(format!("{body}\n").as_bytes())?;
        let signed = signature
            .strip_prefix(SIGNATURE)
            .and_then(|line| line.strip_suffix('\n'))
            .and_then(|line| line.strip_prefix(checkpoint.origin()))
            .and_then(|line| line.strip_prefix(' '))
            .and_then(|bytes| STANDARD.decode(bytes).ok())
            .ok_or_else(wrong)?;
        let (key_id, signature) = signed.split_first_chunk::<4>().ok_or_else(wrong)?;
        let note = Self {
            key_id: *key_id,
            signature: signature.try_into().map_err(|_| wrong())?,
            checkpoint,
        };
        if note.to_text() == text {
            Ok(note)
        } else {
            Err(wrong())
        }
    }

    /// The note.
    #[must_use]
    pub fn to_text(&self) -> String {
        let signature = [&self.key_id[..], &self.signature].concat();
        format!(
            "{}\n{SIGNATURE}{} {}\n",
            String::from_utf8_lossy(&self.checkpoint.to_bytes()),
            self.checkpoint.origin(),
            STANDARD.encode(signature)
        )
    }

    /// Whether the owner of this key signed it.
    ///
    /// # Errors
    /// `Malformed` if another did, or nobody.
    pub fn verify(&self, owner: &VerifyingKey) -> Result<&Checkpoint> {
        let is_his = self.key_id == key_id(self.checkpoint.origin(), owner)
            && (owner.verify(&self.checkpoint.to_bytes(), &self.signature)).is_ok();
        if is_his {
            return Ok(&self.checkpoint);
        }
        Err(Error::Malformed(format!(
            "the checkpoint of {} at {} entries is not signed by the log's owner",
            self.checkpoint.origin(),
            self.checkpoint.size()
        )))
    }

    /// What it says; believed once it is verified.
    #[must_use]
    pub fn unverified(&self) -> &Checkpoint {
        &self.checkpoint
    }
}

/// SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key), the first four bytes.
fn key_id(name: &str, key: &VerifyingKey) -> [u8; 4] {
    let hash = Sha256::new_with_prefix(name)
        .chain_update([b'\n', ED25519])
        .chain_update(key.as_bytes())
        .finalize();
    let [a, b, c, d, ..] = hash.0;
    [a, b, c, d]
}
