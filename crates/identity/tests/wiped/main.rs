//! A party's key and pass-phrase are wiped before their memory is given back: they are made, saved and read on an
//! allocator that keeps every block as it was when it was freed.

#[allow(dead_code)] // what is for words is used by the test of that name in `seal`
#[path = "../../../seal/tests/wiped/freed.rs"]
mod freed;

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use ciphertune_identity::{Passphrase, SigningKey};
use freed::{Secret, Turn, found};
use pkcs8::{EncryptedPrivateKeyInfoRef, SecretDocument};

#[global_allocator]
static ALLOCATOR: freed::Keeping = freed::Keeping;

const PASSPHRASE: &str =
    "correct horse battery staple, and a good deal more of it than sixteen bytes at a time";

fn private_file(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}

/// The seed in a key file: the last 32 bytes of the PKCS#8 document.
fn seed(key: &Path) -> Vec<u8> {
    let text = fs::read_to_string(key).unwrap();
    let (_, document) = SecretDocument::from_pem(&text).unwrap();
    let info = EncryptedPrivateKeyInfoRef::try_from(document.as_bytes()).unwrap();
    let opened = info.decrypt(PASSPHRASE).unwrap();
    opened.as_bytes()[opened.as_bytes().len() - 32..].to_vec()
}

#[test]
fn no_freed_block_holds_the_key_or_its_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let (key, text) = (
        folder.path().join("key.pem"),
        folder.path().join("passphrase"),
    );
    private_file(&text, &format!("{PASSPHRASE}\n"));
    let ((), freed) = Turn::take().freed_during(|| {
        let passphrase = Passphrase::read(&text).unwrap();
        SigningKey::generate()
            .unwrap()
            .save(&key, &passphrase)
            .unwrap();
        SigningKey::load(&key, &passphrase).unwrap();
    });
    let path = Secret::bytes("the path of the key file", key.to_str().unwrap().as_bytes());
    assert!(
        !found(&freed, &[path]).is_empty(),
        "it looked in the wrong place"
    );
    let secrets = [
        Secret::bytes("the key's seed", &seed(&key)),
        Secret::bytes("the pass-phrase", PASSPHRASE.as_bytes()),
    ];
    assert_eq!(found(&freed, &secrets), Default::default());
}
