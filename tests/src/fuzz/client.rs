//! Job files, tuning specifications, models, certificates of a quorum.

use std::{fs, sync::OnceLock};

use ciphertune_client::{
    disk::Disk, draft::Draft, learner::Start, model, model::Model, quorum::Certificate,
    tuning::Tuning,
};
use ciphertune_identity::Manifest;
use ciphertune_policy::Policy;
use ciphertune_round::{Digest, Job, Object as _};

use super::{scratch, text};
use crate::vectors::Vectors;

/// A researcher's job file, up to the job that it leads to.
pub fn draft(data: &[u8]) -> bool {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    let policy = POLICY.get_or_init(|| {
        Policy::parse(include_str!("../../../policies/laboratory-no-privacy.toml")).unwrap()
    });
    let Some(Ok(draft)) = text(data).map(Draft::from_toml) else {
        return false;
    };
    let start = Start::of_updates(vec![0.0; 4]);
    let Ok(job) = draft.job("lab", policy, Digest::sha256(b"backbone"), &start) else {
        return false;
    };
    let read = Job::parse(&job.serialise()).expect("a job that was drafted is taken");
    assert!(
        read == job,
        "the job that is signed is not the one that was drafted"
    );
    true
}

/// What a job says to the tuning engine.
pub fn tuning(data: &[u8]) -> bool {
    let Some(Ok(tuning)) = text(data).map(Tuning::from_json) else {
        return false;
    };
    let again = Tuning::from_json(&tuning.to_json().unwrap()).unwrap();
    assert!(again == tuning);
    tuning.task().is_ok()
}

/// A member's model in a file.
pub fn model(data: &[u8]) -> bool {
    let folder = scratch();
    let path = folder.path().join("model.safetensors");
    fs::write(&path, data).unwrap();
    let Ok(Some(read)) = Model::read(&path) else {
        return false;
    };
    assert!(read.state.len() <= data.len() / 4);
    read.write(&Disk::default(), &path).unwrap();
    let again = Model::read(&path).unwrap().unwrap();
    // By their bytes: numbers may be NaN.
    assert_eq!(model::digest(&again.state), model::digest(&read.state));
    assert!(again.round == read.round && again.agreed == read.agreed);
    true
}

/// The certificate that a roster is the one of its context, as a member keeps it for auditors.
pub fn quorum(data: &[u8]) -> bool {
    static MANIFEST: OnceLock<Manifest> = OnceLock::new();
    let manifest = MANIFEST
        .get_or_init(|| Manifest::parse(Vectors::read().envelope("manifest").payload()).unwrap());
    let Ok(certificate) = Certificate::parse(data, manifest) else {
        return false;
    };
    let again = Certificate::parse(&certificate.to_bytes(), manifest).unwrap();
    assert!(again.digest() == certificate.digest());
    true
}
