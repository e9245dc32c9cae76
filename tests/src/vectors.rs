//! The known-answer vectors of a round's signed objects: `tests/vectors/signed/objects.json`.

use std::{collections::HashMap, path::Path};

use ciphertune_round::{
    Digest, Envelope, Fingerprint, Signer, VerifyingKey,
    label::{self, Label},
};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::Value;

/// What is said in a round, each under its label.
const LABELS: [Label; 17] = [
    label::MANIFEST,
    label::POLICY,
    label::JOB,
    label::ADMISSION,
    label::ONE_TIME_KEY,
    label::PLAN,
    label::HEADER,
    label::ROSTER,
    label::ECHO,
    label::RELEASE,
    label::AGREEMENT,
    label::PARCEL_REQUEST,
    label::PARCEL_CALL,
    label::PARCEL,
    label::VOID,
    label::ENDED,
    label::ABORT,
];

/// The folder of the vectors.
pub fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/vectors"))
}

/// A file of vectors.
pub fn read(name: &str) -> Value {
    let path = folder().join(name);
    let bytes = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&bytes).unwrap()
}

/// The text of a value.
pub fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// The bytes of a value in hexadecimal.
pub fn bytes(value: &Value) -> Vec<u8> {
    hex::decode(text(value)).unwrap()
}

/// The digest of a value in hexadecimal.
pub fn digest(value: &Value) -> Digest {
    Digest::from_hex(text(value)).unwrap()
}

/// The keys of a party, made from the seed that the vectors give.
pub struct Holder(Ed25519KeyPair);

impl Signer for Holder {
    fn verifying_key(&self) -> VerifyingKey {
        VerifyingKey::from_bytes(self.0.public_key().as_ref()).unwrap()
    }

    fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).as_ref().try_into().unwrap()
    }
}

/// The signed objects of one round.
pub struct Vectors(pub Value);

impl Vectors {
    /// Reads them.
    pub fn read() -> Self {
        Self(read("signed/objects.json"))
    }

    /// The objects, in the order in which they are said.
    pub fn objects(&self) -> &[Value] {
        self.0["objects"].as_array().unwrap()
    }

    /// The object of this name.
    pub fn object(&self, name: &str) -> &Value {
        self.objects()
            .iter()
            .find(|object| text(&object["name"]) == name)
            .unwrap_or_else(|| panic!("no object {name}"))
    }

    /// The keys of a party.
    pub fn holder(&self, name: &str) -> Holder {
        let party = (self.0["parties"].as_array().unwrap().iter())
            .find(|party| text(&party["name"]) == name)
            .unwrap_or_else(|| panic!("no party {name}"));
        Holder(Ed25519KeyPair::from_seed_unchecked(&bytes(&party["seed"])).unwrap())
    }

    /// Every party's public key.
    pub fn keys(&self) -> HashMap<Fingerprint, VerifyingKey> {
        let parties = self.0["parties"].as_array().unwrap();
        let key = |party: &Value| self.holder(text(&party["name"])).verifying_key();
        parties
            .iter()
            .map(|party| (key(party).fingerprint(), key(party)))
            .collect()
    }

    /// An object as it travels, signed anew: Ed25519 gives the same signature every time.
    pub fn envelope(&self, name: &str) -> Envelope {
        let object = self.object(name);
        let label = LABELS
            .into_iter()
            .find(|label| *label == text(&object["label"]))
            .unwrap();
        let signer = self.holder(text(&object["signer"]));
        Envelope::sign(label, bytes(&object["payload"]), &signer)
    }
}
