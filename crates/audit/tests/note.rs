//! A signed checkpoint: the bytes that the C2SP formats state, held by its owner's key alone.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ciphertune_audit::{Checkpoint, Note};
use ciphertune_round::{Signer, VerifyingKey};
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use sha2::{Digest as _, Sha256};

struct Owner(Ed25519KeyPair);

impl Owner {
    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }
}

impl Signer for Owner {
    fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey::from_bytes(self.0.public_key().as_ref()).unwrap()
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).as_ref().try_into().unwrap()
    }
}

const ORIGIN: &str = "ciphertune/test/member/north";

fn note() -> Note {
    Note::sign(
        Checkpoint::new(ORIGIN, 12, [7; 32]).unwrap(),
        &Owner::new(1),
    )
}

#[test]
fn a_note_is_the_checkpoint_an_empty_line_and_a_signature_over_its_text_under_its_name() {
    let owner = Owner::new(1);
    let text = note().to_text();
    let body = format!("{ORIGIN}\n12\n{}\n", STANDARD.encode([7; 32]));
    let key = owner.verifying_key();
    let id = Sha256::digest([ORIGIN.as_bytes(), b"\n\x01", key.as_bytes()].concat());
    let signature = [&id[..4], &owner.sign(body.as_bytes())].concat();
    let line = format!("\u{2014} {ORIGIN} {}\n", STANDARD.encode(signature));
    assert_eq!(text, format!("{body}\n{line}"));
    let read = Note::parse(&text).unwrap();
    assert_eq!(read, note());
    assert_eq!(read.verify(&key).unwrap().size(), 12);
}

#[test]
fn another_key_and_another_text_do_not_hold() {
    let key = Owner::new(1).verifying_key();
    assert!(note().verify(&Owner::new(2).verifying_key()).is_err());
    let text = note().to_text();
    for changed in [
        text.replacen("\n12\n", "\n13\n", 1),
        text.replacen(ORIGIN, "ciphertune/test/member/south", 2),
    ] {
        let read = Note::parse(&changed).unwrap();
        assert!(read.verify(&key).is_err(), "{changed}");
    }
    for broken in [
        String::new(),
        text.trim_end().to_owned(),
        format!("{text}\n"),
        text.replacen(ORIGIN, "other", 1),
        text.replacen("\n\n", "\n", 1),
        text.replacen('\u{2014}', "-", 1),
        format!("{text}{}", text.lines().last().unwrap()),
        text.replace('=', ""),
        "x".repeat(2000),
    ] {
        assert!(Note::parse(&broken).is_err(), "{broken}");
    }
}
