//! Signed objects, their envelope, digests.

use std::{collections::HashMap, sync::OnceLock};

use ciphertune_identity::Manifest;
use ciphertune_policy::{Instant, Policy, Role};
use ciphertune_round::{
    Abort, Admission, Agreement, Digest, Echo, Ended, Envelope, Fingerprint, Header, Job, Object,
    OneTimeKeyOffer, Parcel, ParcelCall, ParcelRequest, Plan, PolicyDocument, Release, Roster,
    Signed, Terms, VerifyingKey, Void,
};

use super::text;
use crate::vectors::Vectors;

/// A round whose objects the mutated ones are held against: that of the known-answer vectors.
struct Known {
    keys: HashMap<Fingerprint, VerifyingKey>,
    job: Signed<Job>,
    plan: Signed<Plan>,
    policy: Policy,
    members: Vec<Fingerprint>,
}

fn known() -> &'static Known {
    static KNOWN: OnceLock<Known> = OnceLock::new();
    KNOWN.get_or_init(|| {
        let vectors = Vectors::read();
        let keys = vectors.keys();
        let keyring = |fingerprint: &Fingerprint| keys.get(fingerprint).copied();
        let signed = |name: &str| vectors.envelope(name);
        let manifest = Signed::<Manifest>::verify(signed("manifest"), &keyring).unwrap();
        let policy = Signed::<PolicyDocument>::verify(signed("policy"), &keyring).unwrap();
        Known {
            policy: Policy::parse(&policy.toml).unwrap(),
            members: manifest
                .members()
                .map(|party| party.fingerprint())
                .collect(),
            job: Signed::verify(signed("job"), &keyring).unwrap(),
            plan: Signed::verify(signed("plan"), &keyring).unwrap(),
            keys,
        }
    })
}

fn key(fingerprint: &Fingerprint) -> Option<VerifyingKey> {
    known().keys.get(fingerprint).copied()
}

/// What was parsed serialises to what parses to the same value, with the same bytes from then on.
fn parsed<T: Object + PartialEq>(data: &[u8]) -> Option<T> {
    let value = T::parse(data).ok()?;
    let bytes = value.serialise();
    let again = T::parse(&bytes).expect("what was parsed serialises to what parses");
    assert!(again == value, "another value after serialising");
    assert!(again.serialise() == bytes, "other bytes for the same value");
    Some(value)
}

/// An envelope, and whose signature it bears: no mutation may pass for a signed object.
pub fn envelope(data: &[u8]) -> bool {
    let Ok(envelope) = Envelope::decode(data) else {
        return false;
    };
    let bytes = envelope.encode();
    assert!(bytes.len() <= Envelope::MAX_BYTES);
    assert!(Envelope::decode(&bytes).unwrap() == envelope);
    for verified in [
        Signed::<Job>::verify(envelope.clone(), &key).map(|signed| signed.digest()),
        Signed::<Plan>::verify(envelope.clone(), &key).map(|signed| signed.digest()),
    ] {
        let known = [known().job.digest(), known().plan.digest()];
        assert!(
            verified.is_err() || known.contains(&verified.unwrap()),
            "a forgery"
        );
    }
    true
}

/// A manifest.
pub fn manifest(data: &[u8]) -> bool {
    let Some(manifest) = parsed::<Manifest>(data) else {
        return false;
    };
    assert!(manifest.parties().len() <= Manifest::MAX_PARTIES);
    assert!(manifest.server().is_some() && manifest.members().next().is_some());
    for party in manifest.parties() {
        assert!(manifest.party(&party.fingerprint()) == Some(party));
        assert!(manifest.party_named(&party.name) == Some(party));
    }
    manifest.issued_at();
    assert!(manifest.check_succeeds(&manifest).is_err());
    true
}

/// A policy document; the policy inside has a target of its own.
pub fn policy_document(data: &[u8]) -> bool {
    parsed::<PolicyDocument>(data).is_some()
}

/// A job.
pub fn job(data: &[u8]) -> bool {
    let Some(job) = parsed::<Job>(data) else {
        return false;
    };
    let terms = Terms {
        members: 3,
        cohort: 3,
        min_contributors: job.min_contributors,
        colluders: job.colluders,
        committee: job.committee,
        threshold: 2,
    };
    let proposal = job.proposal(&terms, Role::Researcher, Instant::EPOCH);
    assert_eq!(
        (proposal.rounds, proposal.committee),
        (job.rounds, job.committee)
    );
    true
}

/// A member's answer to a job.
pub fn admission(data: &[u8]) -> bool {
    parsed::<Admission>(data).is_some()
}

/// The public half of a one-time key, as offered.
pub fn one_time_key(data: &[u8]) -> bool {
    parsed::<OneTimeKeyOffer>(data).is_some()
}

/// A plan, and all that a member works out from it before it trusts it.
pub fn plan(data: &[u8]) -> bool {
    let Some(plan) = parsed::<Plan>(data) else {
        return false;
    };
    for (at, seat) in plan.seats.iter().enumerate() {
        assert_eq!(
            plan.seat_of(&seat.member).map(|seat| seat.position()),
            Some(at)
        );
    }
    if let (Ok(parameters), Ok(length)) = (plan.parameters(), plan.length()) {
        assert_eq!(parameters.members(), plan.seats.len());
        assert!(parameters.body_bytes(length) >= 8 * length as u64 / parameters.slots() as u64);
    }
    assert!(plan.holders().count() <= plan.seats.len());
    for (place, seat) in plan.holders().enumerate() {
        assert_eq!(plan.place_of(seat), Some(place));
        assert!(plan.is_holder(&plan.seats[seat.position()].member));
    }
    let terms = plan.terms(known().members.len());
    let admitted = known().policy.admit(&known().job.proposal(
        &terms,
        Role::Researcher,
        Instant::EPOCH,
    ));
    // A plan that holds for itself is one that its policy admits.
    let held = plan.check_against(&known().job, &known().members);
    assert!(held.is_err() || admitted.is_ok(), "{held:?}, {admitted:?}");
    let _ = plan.one_time_keys(&key);
    true
}

/// A header.
pub fn header(data: &[u8]) -> bool {
    parsed::<Header>(data).is_some()
}

/// A roster, held to a plan: whoever it lists sits in the cohort, once.
pub fn roster(data: &[u8]) -> bool {
    let Some(roster) = parsed::<Roster>(data) else {
        return false;
    };
    let plan = &known().plan;
    if let Ok(contributors) = roster.contributors(plan, &key, None) {
        assert!(
            contributors.len() >= plan.min_contributors && contributors.len() <= plan.seats.len()
        );
        assert!(contributors.is_sorted_by(|a, b| a.seat < b.seat));
    }
    true
}

/// An echo.
pub fn echo(data: &[u8]) -> bool {
    parsed::<Echo>(data).is_some()
}

/// A release: its check words are below q.
pub fn release(data: &[u8]) -> bool {
    let Some(release) = parsed::<Release>(data) else {
        return false;
    };
    assert!(
        release
            .check
            .iter()
            .flatten()
            .all(|word| *word < ciphertune_sum::Q)
    );
    true
}

/// An agreement.
pub fn agreement(data: &[u8]) -> bool {
    parsed::<Agreement>(data).is_some()
}

/// A request for the model of a round that was missed.
pub fn parcel_request(data: &[u8]) -> bool {
    parsed::<ParcelRequest>(data).is_some()
}

/// A call on a member for a parcel.
pub fn parcel_call(data: &[u8]) -> bool {
    parsed::<ParcelCall>(data).is_some()
}

/// What travels with a sealed model.
pub fn parcel(data: &[u8]) -> bool {
    parsed::<Parcel>(data).is_some()
}

/// The end of an attempt.
pub fn void(data: &[u8]) -> bool {
    parsed::<Void>(data).is_some()
}

/// The end of a job.
pub fn ended(data: &[u8]) -> bool {
    parsed::<Ended>(data).is_some()
}

/// A request to stop a job.
pub fn abort(data: &[u8]) -> bool {
    parsed::<Abort>(data).is_some()
}

/// A digest in hexadecimal, as a person types it, or as 32 bytes; the same 32 bytes as a public key.
pub fn digest(data: &[u8]) -> bool {
    if let Ok(digest) = Digest::parse(data) {
        assert_eq!(digest.as_bytes(), data);
        let key = VerifyingKey::from_bytes(data).unwrap();
        assert!(key.verify(data, &[7; 64]).is_err());
        return true;
    }
    let Some(Ok(digest)) = text(data).map(Digest::from_hex) else {
        return false;
    };
    assert_eq!(digest.to_string().as_bytes(), data.to_ascii_lowercase());
    true
}
