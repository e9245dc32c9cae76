//! What must hold of a job whatever ended its members' runs, and when: no byte sent twice differently, one header and
//! one roster a context, no byte without its charge and its audit entries, no key left, and sums that are sums.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::SystemTime,
};

use ciphertune_audit::Evidence;
use ciphertune_client::{mechanism::Reckoned, quorum::Certificate, verify::Audit};
use ciphertune_ledger::{Cost, Entry, Kind};
use ciphertune_round::{
    Context, Digest, Echo, Envelope, Fingerprint, Job, Object as _, Plan, Release, Roster,
};
use ciphertune_wire::proto::EventKind;

use crate::{
    federation::Federation,
    front::{Front, Lies, Put, Sent},
    plaintext::add_up,
};

/// The plans and rosters that a server sent.
#[derive(Clone, Default)]
pub struct Record {
    plans: Arc<Mutex<BTreeMap<Context, Plan>>>,
    rosters: Arc<Mutex<BTreeMap<Context, Roster>>>,
}

impl Record {
    /// No lies: all that passes is recorded.
    pub fn lies(&self) -> Lies {
        let record = self.clone();
        Lies::none().about_events(move |_, event| {
            record.hear(event.kind(), &event.envelope);
            Some(event)
        })
    }

    fn hear(&self, kind: EventKind, envelope: &[u8]) {
        let envelope = Envelope::decode(envelope).unwrap();
        let payload = envelope.payload();
        match kind {
            EventKind::Plan => {
                let plan = Plan::parse(payload).unwrap();
                let context = Context::of_plan(payload);
                self.plans.lock().unwrap().insert(context, plan);
            }
            EventKind::Roster => {
                let roster = Roster::parse(payload).unwrap();
                self.rosters.lock().unwrap().insert(roster.context, roster);
            }
            _ => {}
        }
    }
}

/// Holds a job that is over to everything that must hold. Panics with what does not.
pub async fn examine(
    federation: &Federation,
    members: usize,
    front: &Front,
    record: &Record,
    job: &Job,
    plaintext: &Path,
) {
    let sent = front.sent();
    nothing_was_sent_twice_differently(&sent);
    one_roster_a_context(&sent);
    every_sum_is_the_sum(record, plaintext);
    for member in 0..members {
        let contexts = contexts_of(&sent, federation.fingerprint(member));
        charged(federation, member, job, contexts.len() as u64).await;
        in_the_audit_log(federation, member, &contexts);
        no_key_is_left(federation, member);
    }
    an_auditor_finds_nothing(federation, members).await;
}

/// Whatever happened was honest: no crash, restart or void attempt looks like history that was changed.
async fn an_auditor_finds_nothing(federation: &Federation, members: usize) {
    let homes = (0..members).map(|member| federation.member(member).home.root().to_owned());
    let folders: Vec<PathBuf> = homes.chain([federation.data()]).collect();
    let audit = Audit::of(&folders, None, SystemTime::now(), &mut |_, _| {})
        .await
        .unwrap();
    assert!(audit.holds(), "{:#?}", audit.findings);
}

/// Contexts in which a member sent a byte of a contribution.
fn contexts_of(sent: &[Sent], member: Fingerprint) -> BTreeSet<Context> {
    sent.iter()
        .filter(|sent| sent.by == member && matches!(sent.put, Put::KeyShares | Put::Body))
        .map(|sent| sent.context)
        .collect()
}

fn nothing_was_sent_twice_differently(sent: &[Sent]) {
    let mut whole: BTreeMap<(Fingerprint, Put, Context), &Sent> = BTreeMap::new();
    let mut bodies: BTreeMap<(Fingerprint, Context), BTreeMap<u64, u8>> = BTreeMap::new();
    for one in sent {
        if one.put == Put::Body {
            let body = bodies.entry((one.by, one.context)).or_default();
            for (place, byte) in (one.offset..).zip(&one.bytes) {
                let first = body.entry(place).or_insert(*byte);
                assert_eq!(first, byte, "byte {place} of a body changed");
            }
        } else {
            let first = whole.entry((one.by, one.put, one.context)).or_insert(one);
            assert!(*first == one, "two {:?} in one context differ", one.put);
        }
    }
}

fn one_roster_a_context(sent: &[Sent]) {
    let mut rosters: BTreeMap<(Fingerprint, Context), BTreeSet<Digest>> = BTreeMap::new();
    for one in sent {
        let roster = match one.put {
            Put::Echo => parse::<Echo>(&one.bytes).roster,
            Put::Release => parse::<Release>(&one.bytes).roster,
            _ => continue,
        };
        rosters
            .entry((one.by, one.context))
            .or_default()
            .insert(roster);
    }
    assert!(rosters.values().all(|digests| digests.len() == 1));
}

fn parse<T: ciphertune_round::Object>(bytes: &[u8]) -> T {
    T::parse(Envelope::decode(bytes).unwrap().payload()).unwrap()
}

/// Every sum that any member opened is the sum of what the roster's contributors sealed, number by number.
fn every_sum_is_the_sum(record: &Record, plaintext: &Path) {
    let (plans, rosters) = (record.plans.lock().unwrap(), record.rosters.lock().unwrap());
    let mut opened = 0;
    for (context, plan) in plans.iter() {
        let start = format!("{}-{}-", plan.round, plan.attempt);
        for path in files(plaintext) {
            let name = path.file_name().unwrap().to_str().unwrap();
            if !name.starts_with(&format!("{start}sum-by-")) {
                continue;
            }
            let sealed: Vec<Vec<i64>> = rosters[context]
                .headers
                .iter()
                .map(|header| {
                    let member = header.signer();
                    let position = plan.seats.iter().position(|seat| seat.member == member);
                    let seat = position.unwrap() + 1;
                    read(&plaintext.join(format!("{start}{seat}.i64")))
                })
                .collect();
            assert!(read(&path) == add_up(&sealed), "{name} is not the sum");
            opened += 1;
        }
    }
    assert!(opened > 0, "nothing was opened");
}

fn read(path: &Path) -> Vec<i64> {
    let bytes = fs::read(path).unwrap();
    let (words, rest) = bytes.as_chunks::<8>();
    assert!(rest.is_empty());
    words.iter().map(|word| i64::from_le_bytes(*word)).collect()
}

/// No byte left without a charge: at least as many charges as contexts in which one did.
async fn charged(federation: &Federation, member: usize, job: &Job, contexts: u64) {
    let reckoned = Reckoned::of(job, job.min_contributors, job.colluders).unwrap();
    let cost = reckoned.attempt_cost().unwrap();
    if cost == Cost::ZERO {
        return; // no privacy, nothing to charge
    }
    let history = federation.history(member).await;
    let of_kind = |word: &str| -> Vec<&Entry> {
        let is = |entry: &&Entry| entry.kind.word() == word;
        history.iter().filter(is).collect()
    };
    let charges = of_kind("charge");
    assert!(charges.iter().all(|charge| charge.cost == cost));
    assert!(
        charges.len() as u64 >= contexts,
        "member {member}: {} charges, and bytes left in {contexts} contexts",
        charges.len()
    );
    let mut evidence = 0;
    for settled in of_kind("settle") {
        let Kind::Settle { certificate, .. } = settled.kind else {
            unreachable!("of its kind")
        };
        let evidence_of = Evidence::beside(&federation.member(member).home.audit());
        let bytes = evidence_of.get(&Digest::from_bytes(certificate).to_string());
        let bytes = bytes.expect("the evidence");
        let manifest = federation.site(member).manifest().clone();
        let certificate = Certificate::parse(&bytes, manifest.value()).unwrap();
        let (roster, digest) = (certificate.roster(), certificate.digest());
        let kind = Kind::Settle {
            roster: *roster.as_bytes(),
            certificate: *digest.as_bytes(),
        };
        assert!(settled.kind == kind && *certificate.context().as_bytes() == settled.context);
        let contributors = certificate.contributors();
        let gives = match certificate.names(&federation.fingerprint(member)) {
            true => reckoned.cost_with(contributors, certificate.colluders()),
            false => Ok(Cost::ZERO),
        };
        assert_eq!(settled.cost, gives.unwrap());
        evidence += 1;
    }
    println!(
        "member {member}: {} charges, {evidence} settled",
        charges.len()
    );
    let standing = federation.standing(member).await.expect("a ledger");
    // The job is over: nothing is held back for it any more.
    assert_eq!(standing.held, standing.spent);
}

/// The log's chain holds, and names every context in which a byte left.
fn in_the_audit_log(federation: &Federation, member: usize, contexts: &BTreeSet<Context>) {
    let path = federation.member(member).home.audit();
    ciphertune_audit::verify_file(&path).unwrap();
    let log = fs::read_to_string(path).unwrap();
    for context in contexts {
        for kind in ["plan", "charge", "contribution"] {
            let entries: BTreeSet<&str> = log
                .lines()
                .filter(|line| line.contains(&format!(r#""kind":"{kind}""#)))
                .filter(|line| line.contains(&context.to_string()))
                .map(|line| line.split_once(r#""fields":"#).unwrap().1)
                .collect();
            // Noted again when it was resumed, and never otherwise than before.
            assert_eq!(entries.len(), 1, "{kind} in {context}: {entries:?}");
        }
    }
}

/// No private half that a plan named is left, no key that a parcel was sealed to, and nothing half-written beside them.
fn no_key_is_left(federation: &Federation, member: usize) {
    let folder = federation.member(member).home.root();
    for path in files(&folder.join("one-time-keys")) {
        let named = path.with_extension("context").exists();
        let extension = path.extension().and_then(|extension| extension.to_str());
        assert!(extension != Some("tmp"), "{} is left", path.display());
        assert!(
            !(named && extension == Some("key")),
            "{} is left",
            path.display()
        );
    }
    for job in files(&folder.join("jobs")) {
        for attempt in files(&job.join("attempts")) {
            let names = files(&attempt);
            let stays = ["roster", "over"];
            let may_stay = |path: &PathBuf| stays.iter().any(|name| path.ends_with(name));
            assert!(names.iter().all(may_stay), "{names:?} are left");
        }
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect()
}
