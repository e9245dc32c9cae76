//! Signatures that were verified already: several at once, ahead of the entries, and none twice.

use std::{collections::HashSet, num::NonZeroUsize, thread};

use ciphertune_audit::{Evidence, Record};
use ciphertune_identity::Manifest;
use ciphertune_round::{
    Digest, Envelope, Fingerprint, Hasher, Keyring, Object as _, Plan, Roster, VerifyingKey,
    label::{self, Label},
};

use super::finding::{Breaks, Check, Rule, demand};
use crate::quorum::split;

/// Envelopes whose signature holds, of these entries and those just before: a signature holds whatever the manifest says of its
/// signer, which is asked anew each time.
#[derive(Default)]
pub(super) struct Seen {
    earlier: HashSet<Digest>,
    now: HashSet<Digest>,
}

/// A manifest that does not verify anew what was seen.
pub(super) struct SeenBy<'a> {
    pub manifest: &'a Manifest,
    pub seen: &'a Seen,
}

impl Keyring for SeenBy<'_> {
    fn key(&self, fingerprint: &Fingerprint) -> Option<VerifyingKey> {
        self.manifest.key(fingerprint)
    }

    fn verify(&self, label: Label, envelope: &Envelope) -> ciphertune_round::Result<()> {
        let name = name_of(label, envelope);
        let known = self.seen.now.contains(&name) || self.seen.earlier.contains(&name);
        // Who is in no manifest is nobody, whatever it signed before.
        match self.key(&envelope.signer()) {
            Some(_) if known => Ok(()),
            _ => Keyring::verify(self.manifest, label, envelope),
        }
    }
}

/// The objects of these entries, each held to its name, in order; what of them is well signed is seen from now on.
pub(super) fn load(
    evidence: &Evidence,
    manifest: Option<&Manifest>,
    records: &[Record],
    seen: &mut Seen,
) -> Vec<Check<Vec<Vec<u8>>>> {
    seen.earlier = std::mem::take(&mut seen.now);
    let threads = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let each = records.len().div_ceil(threads).max(1);
    let work = |records: &[Record]| {
        let mut signed = Vec::new();
        let loaded: Vec<_> = records
            .iter()
            .map(|record| load_one(evidence, manifest, record, &mut signed))
            .collect();
        (loaded, signed)
    };
    let parts: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = records
            .chunks(each)
            .map(|part| (part, scope.spawn(move || work(part))))
            .collect();
        // A thread that failed is made up for.
        let finished = running
            .into_iter()
            .map(|(part, it)| it.join().unwrap_or_else(|_| work(part)));
        finished.collect()
    });
    let mut all = Vec::with_capacity(records.len());
    for (loaded, signed) in parts {
        all.extend(loaded);
        seen.now.extend(signed);
    }
    all
}

fn load_one(
    evidence: &Evidence,
    manifest: Option<&Manifest>,
    record: &Record,
    signed: &mut Vec<Digest>,
) -> Check<Vec<Vec<u8>>> {
    let names: Vec<&str> = record.evidence().collect();
    demand(names.len() <= MOST_OBJECTS, Rule::Evidence, || {
        format!(
            "an entry {:?} that rests on {} objects",
            record.kind,
            names.len()
        )
    })?;
    let objects = names
        .iter()
        .map(|name| evidence.get(name).breaks(Rule::Evidence))
        .collect::<Check<Vec<_>>>()?;
    let Some(manifest) = manifest else {
        return Ok(objects);
    };
    let mut look_at = |label: Label, envelope: &Envelope| {
        if Keyring::verify(manifest, label, envelope).is_ok() {
            signed.push(name_of(label, envelope));
        }
    };
    for object in &objects {
        let Some(label) = label_of(&record.kind) else {
            break;
        };
        // What is none is said when its entry is looked at.
        if record.kind == "agreed" {
            let agreements = split(object).unwrap_or_default();
            agreements
                .iter()
                .for_each(|agreement| look_at(label, agreement));
            continue;
        }
        let Ok(envelope) = Envelope::decode(object) else {
            continue;
        };
        look_at(label, &envelope);
        if label == label::PLAN
            && let Ok(plan) = Plan::parse(envelope.payload())
        {
            let keys = plan.seats.iter().map(|seat| &seat.one_time_key);
            keys.for_each(|key| look_at(label::ONE_TIME_KEY, key));
        }
        if label == label::ROSTER
            && record.text("sum").is_none() // a member's log: its own contribution is all that it has seen
            && let Ok(roster) = Roster::parse(envelope.payload())
        {
            roster
                .headers
                .iter()
                .for_each(|header| look_at(label::HEADER, header));
        }
    }
    Ok(objects)
}

/// How many objects an entry may rest on.
const MOST_OBJECTS: usize = 2;

/// How many bytes an entry's objects are, where they are no more than its kind has.
pub(super) fn bytes_of(evidence: &Evidence, record: &Record) -> u64 {
    let names = record.evidence().take(MOST_OBJECTS);
    let places = names.filter_map(|name| evidence.place_of_any(name));
    let sizes = places.filter_map(|place| std::fs::metadata(place).ok());
    sizes.map(|metadata| metadata.len()).sum()
}

/// What the objects of an entry are signed as, where there are many such.
fn label_of(kind: &str) -> Option<Label> {
    Some(match kind {
        "plan" => label::PLAN,
        "contribution" => label::HEADER,
        "roster" => label::ROSTER,
        "echo" => label::ECHO,
        "release" => label::RELEASE,
        "agreement" | "agreed" => label::AGREEMENT,
        _ => return None,
    })
}

/// SHA-256(label ‖ 0x00 ‖ the envelope): what the signature is over, and the signature.
fn name_of(label: Label, envelope: &Envelope) -> Digest {
    let mut hasher = Hasher::default();
    hasher.update(label.as_bytes());
    hasher.update(&[0]);
    hasher.update(&envelope.encode());
    hasher.finish()
}
