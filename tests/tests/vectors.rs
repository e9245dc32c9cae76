//! The known-answer vectors of signed objects, and that the script beside them still makes all of them. (Those of
//! sealing are held by `crates/seal/src/vectors/`, where keys and errors can be given.)

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use ciphertune_identity::Manifest;
use ciphertune_policy::{Policy, Sharing};
use ciphertune_round::{
    Abort, Admission, Agreement, Context, Digest, Echo, Ended, Envelope, Error, Fingerprint,
    Header, Job, Object, OneTimeKeyOffer, Parcel, ParcelCall, ParcelRequest, Plan, PolicyDocument,
    Release, Result, Roster, Signed, Signer as _, Void, draw,
};
use ciphertune_tests::vectors::{self, Vectors, bytes, digest, text};
use serde_json::Value;

/// Parses a payload as what its label (or the last part of it) says, and serialises it again.
fn parsed(label: &str, payload: &[u8]) -> Result<Vec<u8>> {
    fn again<T: Object>(payload: &[u8]) -> Result<Vec<u8>> {
        T::parse(payload).map(|value| value.serialise())
    }
    match label.rsplit('/').next().unwrap() {
        "manifest" => again::<Manifest>(payload),
        "policy" => again::<PolicyDocument>(payload),
        "job" => again::<Job>(payload),
        "admission" => again::<Admission>(payload),
        "one-time-key" => again::<OneTimeKeyOffer>(payload),
        "plan" => again::<Plan>(payload),
        "header" => again::<Header>(payload),
        "roster" => again::<Roster>(payload),
        "echo" => again::<Echo>(payload),
        "release" => again::<Release>(payload),
        "agreement" => again::<Agreement>(payload),
        "parcel-request" => again::<ParcelRequest>(payload),
        "parcel-call" => again::<ParcelCall>(payload),
        "parcel" => again::<Parcel>(payload),
        "void" => again::<Void>(payload),
        "ended" => again::<Ended>(payload),
        "abort" => again::<Abort>(payload),
        other => panic!("no object {other}"),
    }
}

fn signed<T: Object>(vectors: &Vectors, name: &str) -> Signed<T> {
    let keys = vectors.keys();
    let keyring = |fingerprint: &Fingerprint| keys.get(fingerprint).copied();
    Signed::verify(vectors.envelope(name), &keyring).unwrap()
}

#[test]
fn keys_payloads_digests_and_envelopes_are_those_of_the_vectors() {
    let vectors = Vectors::read();
    for party in vectors.0["parties"].as_array().unwrap() {
        let key = vectors.holder(text(&party["name"])).verifying_key();
        assert_eq!(key.as_bytes().to_vec(), bytes(&party["public_key"]));
        assert_eq!(
            key.fingerprint().as_bytes().to_vec(),
            bytes(&party["fingerprint"])
        );
    }
    let mut labels = BTreeSet::new();
    for object in vectors.objects() {
        let (name, label) = (text(&object["name"]), text(&object["label"]));
        let payload = bytes(&object["payload"]);
        assert_eq!(parsed(label, &payload).unwrap(), payload, "{name}");
        let envelope = vectors.envelope(name);
        let sha256 = Digest::sha256(&envelope.encode());
        assert_eq!(sha256, digest(&object["envelope_sha256"]), "{name}");
        let labelled = [label.as_bytes(), &[0], &payload].concat();
        assert_eq!(
            Digest::sha256(&labelled),
            digest(&object["digest"]),
            "{name}"
        );
        labels.insert(label.to_owned());
    }
    assert_eq!(labels.len(), 17, "every kind of signed object: {labels:?}");
}

/// The objects of the vectors make a round that our members would take part in.
#[test]
fn the_objects_of_the_vectors_fit_one_another() {
    let vectors = Vectors::read();
    let keys = vectors.keys();
    let keyring = |fingerprint: &Fingerprint| keys.get(fingerprint).copied();
    let (job, plan) = (
        signed::<Job>(&vectors, "job"),
        signed::<Plan>(&vectors, "plan"),
    );
    let manifest = signed::<Manifest>(&vectors, "manifest");
    let members: Vec<Fingerprint> = manifest
        .members()
        .map(|party| party.fingerprint())
        .collect();
    plan.check_against(&job, &members).unwrap();
    assert_eq!(plan.manifest, manifest.digest());
    assert_eq!(
        plan.context(),
        Context::from_digest(digest(&vectors.0["context"]))
    );
    assert_eq!(plan.parameters().unwrap().name(), "ct1-n3-b11-d8-w14-k4");
    assert_eq!(plan.one_time_keys(&keyring).unwrap().len(), 3);

    let policy = Policy::parse(&signed::<PolicyDocument>(&vectors, "policy").toml).unwrap();
    assert_eq!(
        policy.canonical_json(),
        text(&vectors.0["canonical_policy"])
    );
    assert_eq!(Digest::from_bytes(policy.digest()), plan.policy);

    let roster = signed::<Roster>(&vectors, "roster");
    let own = signed::<Header>(&vectors, "header of south");
    let contributors = roster.contributors(&plan, &keyring, Some(&own)).unwrap();
    assert_eq!(contributors.len(), 3);
    let round = vectors::read("seal/round.json");
    assert_eq!(roster.digest(), digest(&round["roster"]));
    assert_eq!(roster.sum, digest(&round["sum"]["sha256"]));
    for (contributor, sealed) in contributors
        .iter()
        .zip(round["contributors"].as_array().unwrap())
    {
        assert_eq!(contributor.header.body, digest(&sealed["body"]["sha256"]));
        let shares = sealed["shares"].as_array().unwrap();
        let shares: Vec<Digest> = shares
            .iter()
            .map(|share| digest(&share["sha256"]))
            .collect();
        assert_eq!(contributor.header.shares, shares);
    }
    assert_eq!(
        signed::<Echo>(&vectors, "echo of west").roster,
        roster.digest()
    );
    let agreement = signed::<Agreement>(&vectors, "agreement of north");
    assert_eq!(agreement.model, digest(&round["agreement"]));
}

/// The draw and the thresholds of committees, and a plan with one.
#[test]
fn committees_and_their_thresholds_are_those_of_the_vectors() {
    let vector = vectors::read("signed/committee.json");
    let number = |value: &Value| value.as_u64().unwrap() as usize;
    let members: Vec<Fingerprint> = (0..number(&vector["members"]))
        .map(|place| format!("member {place}"))
        .map(|name| Fingerprint::from_digest(Digest::sha256(name.as_bytes())))
        .collect();
    let drawn = draw(
        10,
        &digest(&vector["job"]),
        &digest(&vector["model"]),
        &members,
    );
    let places = vector["drawn"].as_array().unwrap().iter().map(number);
    let expected: Vec<Fingerprint> = places.map(|place| members[place]).collect();
    assert_eq!(drawn, expected);
    let mut refused = 0;
    for case in vector["thresholds"].as_array().unwrap() {
        let [members, colluders, size] =
            ["members", "colluders", "committee"].map(|name| number(&case[name]));
        match Sharing::among_committee(members, colluders, size) {
            Ok(sharing) => {
                assert_eq!(
                    sharing.colluders,
                    number(&case["colluders_within"]),
                    "{case}"
                );
                assert_eq!(
                    sharing.least_threshold(),
                    number(&case["threshold"]),
                    "{case}"
                );
            }
            Err(_) => {
                assert_eq!(text(&case["expect"]), "refused", "{case}");
                refused += 1;
            }
        }
    }
    assert_eq!(refused, 2);

    let vectors = Vectors::read();
    let job = signed::<Job>(&vectors, "job with a committee");
    let plan = signed::<Plan>(&vectors, "plan with a committee");
    let manifest = signed::<Manifest>(&vectors, "manifest");
    let members: Vec<Fingerprint> = manifest
        .members()
        .map(|party| party.fingerprint())
        .collect();
    plan.check_against(&job, &members).unwrap();
    assert_eq!((job.committee, plan.holders().count()), (Some(2), 2));
    // A job that asks for none gets none.
    let plain = signed::<Job>(&vectors, "job");
    assert!(plan.check_against(&plain, &members).is_err());
}

#[test]
fn payloads_are_parsed_or_refused_as_the_vectors_say() {
    let cases = vectors::read("signed/refused.json");
    let mut outcomes = BTreeSet::new();
    for case in cases["cases"].as_array().unwrap() {
        let payload = bytes(&case["payload"]);
        let found = match parsed(text(&case["object"]), &payload) {
            Ok(again) => {
                assert_eq!(again, payload);
                "parses"
            }
            Err(Error::Malformed { .. }) => "malformed",
            Err(Error::Refused(_)) => "refused",
            Err(other) => panic!("{}: {other}", case["what"]),
        };
        assert_eq!(
            found,
            text(&case["expect"]),
            "{}: {}",
            case["object"],
            case["what"]
        );
        outcomes.insert(found);
    }
    assert_eq!(outcomes.len(), 3, "{outcomes:?}");
}

#[test]
fn another_label_or_another_payload_breaks_a_signature() {
    let vectors = Vectors::read();
    let key = vectors.holder("north").verifying_key();
    let echo = vectors.envelope("echo of north");
    echo.verify(Echo::LABEL, &key).unwrap();
    assert!(echo.verify(Release::LABEL, &key).is_err());
    assert!(
        echo.verify(Echo::LABEL, &vectors.holder("south").verifying_key())
            .is_err()
    );
    let mut bytes = echo.encode();
    bytes[10] ^= 1;
    assert!(
        Envelope::decode(&bytes)
            .unwrap()
            .verify(Echo::LABEL, &key)
            .is_err()
    );
}

/// Every file below a folder, by its path.
fn files(folder: &Path) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for part in ["seal", "signed"] {
        for entry in fs::read_dir(folder.join(part)).unwrap() {
            found.insert(format!(
                "{part}/{}",
                entry.unwrap().file_name().to_string_lossy()
            ));
        }
    }
    found
}

#[test]
fn the_script_makes_the_same_files_again() {
    let folder = tempfile::tempdir().unwrap();
    let script = vectors::folder().join("generate.py");
    let made = Command::new("python3")
        .arg("-B")
        .arg(&script)
        .arg(folder.path())
        .output();
    let output = match made {
        Ok(output) => output,
        Err(error) => {
            eprintln!("SKIPPED: no python3 to make the vectors with ({error})");
            return;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let names = files(folder.path());
    assert_eq!(names, files(vectors::folder()));
    for name in names {
        let same = fs::read(folder.path().join(&name)).unwrap()
            == fs::read(vectors::folder().join(&name)).unwrap();
        assert!(same, "{name} is not what the script makes");
    }
}

/// The vectors say what they expect and which script made them.
#[test]
fn every_file_names_the_script_that_made_it() {
    for name in files(vectors::folder()) {
        if name.ends_with(".json") {
            let vector: Value = vectors::read(&name);
            assert_eq!(
                text(&vector["generated_by"]),
                "tests/vectors/generate.py",
                "{name}"
            );
        }
    }
}
