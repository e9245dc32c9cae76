//! What the logs say, brought together: jobs, attempts, and what each log's owner has told others of it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use ciphertune_identity::{AuthorityCertificate, Manifest};
use ciphertune_policy::Loss;
use ciphertune_round::{Context, Digest, Fingerprint, Job, Signed};
use serde::Serialize;

use super::finding::{Check, Finding, Rule, demand};
use crate::mechanism::Reckoned;

/// Findings that are kept of one log: beyond, nothing is learnt.
const FINDINGS: usize = 200;

/// All that is known so far.
pub(super) struct Case {
    /// The authority that everything is held to.
    pub authority: Option<AuthorityCertificate>,
    /// Its fingerprint, where the auditor brought it.
    pub expected_authority: Option<Fingerprint>,
    /// The newest manifest.
    pub manifest: Option<Signed<Manifest>>,
    /// Whose folders are at hand.
    pub parties: Vec<Option<Fingerprint>>,
    /// When the audit is made, in milliseconds after 1970.
    pub now: u64,
    /// How each job ended, as the server signed it: completed or not, rounds, words.
    pub ends: HashMap<Digest, (bool, u32, String)>,
    /// When each log has it, by the node's place.
    pub ended_at: HashMap<Digest, BTreeMap<usize, u64>>,
    /// Jobs whose evidence a node has removed, by the node's place.
    pub pruned: Vec<HashSet<Digest>>,
    /// Parties by number.
    pub numbered: Vec<Fingerprint>,
    /// Jobs by digest.
    pub jobs: BTreeMap<Digest, JobFacts>,
    /// Attempts by context.
    pub attempts: HashMap<Context, AttemptFacts>,
    /// The one context of each round and attempt.
    pub plans: HashMap<(Digest, u32, u32), Context>,
    /// Heads of logs that others have signed for: whose log, how many entries.
    pub claims: BTreeMap<Fingerprint, BTreeMap<u64, Claim>>,
    /// Heads of ledgers that members have signed.
    pub ledger_heads: HashMap<Fingerprint, Vec<[u8; 32]>>,
    /// What does not hold, and when it was written.
    pub findings: Vec<(u64, Finding)>,
    /// How many there were in all.
    pub found: u64,
}

/// A job, and how it went.
pub(super) struct JobFacts {
    /// As its researcher signed it.
    pub job: Signed<Job>,
    /// Its mechanism; why it has none.
    pub reckoned: Result<Reckoned, String>,
    /// Name of the signed job among the evidence.
    pub evidence: String,
    /// When it was first heard of, in milliseconds after 1970.
    pub time: u64,
    /// The policies of its last plan: name, digest, who signed it.
    pub policies: Vec<(String, Digest, Fingerprint)>,
    /// Whose logs know of it, by the node's place.
    pub known_to: BTreeSet<usize>,
    /// Who answered it; why not, where that was the answer.
    pub answers: BTreeMap<Fingerprint, Option<String>>,
    /// Answers by digest: in a member's own log, and whether the server took it; in the server's.
    pub own_answers: BTreeMap<usize, BTreeMap<Digest, bool>>,
    /// See `own_answers`.
    pub received_answers: BTreeMap<Fingerprint, Digest>,
    /// The datasets that a member says it takes part with, by the node's place.
    pub datasets: BTreeMap<usize, BTreeSet<String>>,
    /// The strictest lifetime budget of its policies.
    pub budget: Option<Loss>,
    /// Whose logs hold its end, signed.
    pub ended_in: BTreeSet<usize>,
    /// Refusals that are in the logs.
    pub refusals: Vec<Refusal>,
}

/// An attempt, as the logs tell it.
pub(super) struct AttemptFacts {
    pub job: Digest,
    pub round: u32,
    pub attempt: u32,
    /// When its plan was first logged, in milliseconds after 1970.
    pub time: u64,
    /// Name of the signed plan among the evidence of the node that logged it first.
    pub plan: String,
    pub policy: Digest,
    pub parameters: String,
    pub threshold: usize,
    pub min_contributors: usize,
    pub colluders: usize,
    pub cohort: usize,
    /// The roster, and who was first to log it.
    pub roster: Option<RosterFacts>,
    /// Why it is void.
    pub void: Option<String>,
    /// The keyed digest of the model that was agreed on.
    pub agreed: Option<Digest>,
    /// Whether the server's log says that its round is complete.
    pub is_complete: bool,
    /// Whose contributions, and whose agreements, are in the server's log.
    pub contributed: BTreeSet<u32>,
    /// See `contributed`.
    pub agreed_with: BTreeSet<u32>,
    /// Whose agreements other members' logs hold.
    pub shown: BTreeSet<u32>,
    /// What each node's own log says of it, by the node's place.
    pub views: BTreeMap<usize, View>,
    /// What the server's log says that members sent, and when, of members whose folders are at hand.
    pub received: BTreeMap<(u32, Sent), (Digest, u64)>,
}

/// Somebody's no, or what it could not take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// Whose, by name.
    pub by: String,
    /// When, UTC.
    pub time: String,
    /// Why, in words.
    pub reason: String,
}

/// The roster of an attempt.
pub(super) struct RosterFacts {
    /// Name of the signed roster among the evidence.
    pub evidence: String,
    pub digest: Digest,
    pub sum: Digest,
    /// Contributors, by their [`Case::number_of`].
    pub contributors: Vec<u32>,
    /// Headers of those whose folders are at hand.
    pub headers: BTreeMap<u32, Digest>,
}

/// What a member sends in an attempt.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sent {
    Contribution,
    Echo,
    Release,
    Agreement,
}

/// What one node's log says of an attempt.
#[derive(Default)]
pub(super) struct View {
    pub plan_time: u64,
    pub roster_time: u64,
    /// A member's own, as it first stands in its log.
    pub sent: BTreeMap<Sent, (Digest, u64)>,
    /// The last body of each that came to the server, until the roster.
    pub bodies: BTreeMap<u32, Digest>,
    pub body_bytes: u64,
    pub share_bytes: u64,
    pub charged: bool,
    pub roster: Option<Digest>,
    /// The roster that enough members echoed, and the digest of the certificate that says so.
    pub quorum: Option<(Digest, Digest)>,
    pub is_open: bool,
    pub echoes: usize,
    pub releases: usize,
    /// Who has agreed on what so far, until enough have.
    pub agreements: BTreeMap<u32, Digest>,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

/// A head of somebody's log, as it was shown or signed.
#[derive(Clone, Copy)]
pub(super) struct Claim {
    pub root: [u8; 32],
    /// In whose agreement it is.
    pub signer: u32,
    /// Whether it stands in another log than the one that it is of.
    pub by_another: bool,
    /// Of which attempt.
    pub context: Context,
    /// Whether it is what the server showed the signer, rather than the signer's own.
    pub is_shown: bool,
}

impl Case {
    /// Adds a finding, at a time by which the first is found. Of very many in one log, which is read from its beginning, the first
    /// are kept.
    pub fn find(&mut self, time: u64, finding: Finding) {
        self.found += 1;
        let in_log = self
            .findings
            .iter()
            .filter(|(_, it)| it.node == finding.node);
        if in_log.count() < FINDINGS {
            self.findings.push((time, finding.printable()));
        }
    }

    /// What a log's owner has said, or shown, that the log was; another root of as many entries is a fork.
    pub fn claim(&mut self, owner: Fingerprint, size: u64, claim: Claim) -> Check {
        let held = (self.claims.entry(owner).or_default())
            .entry(size)
            .or_insert(claim);
        held.by_another |= claim.by_another;
        let first = *held;
        demand(first.root == claim.root, Rule::Fork, || {
            format!(
                "two histories of one log: at {size} entries its root is {} after {}, and {} after {}",
                Digest::from_bytes(first.root).short(),
                self.whose(&first),
                Digest::from_bytes(claim.root).short(),
                self.whose(&claim)
            )
        })
    }

    /// Who says it, and where.
    pub fn whose(&self, claim: &Claim) -> String {
        let signer = self.numbered.get(claim.signer as usize);
        let name = signer.map_or_else(String::new, |signer| self.name_of(signer));
        let context = claim.context.digest().short();
        match claim.is_shown {
            true => format!("the server, as shown to {name} in the agreement of {context}"),
            false => format!("{name} in the agreement of {context}"),
        }
    }

    /// A small number for a party: there are few, and they are in every attempt.
    pub fn number_of(&mut self, party: &Fingerprint) -> u32 {
        let place = self.numbered.iter().position(|one| one == party);
        let place = place.unwrap_or_else(|| {
            self.numbered.push(*party);
            self.numbered.len() - 1
        });
        place as u32
    }

    /// The same of a party that was met.
    pub fn number_if_met(&self, party: &Fingerprint) -> Option<u32> {
        let place = self.numbered.iter().position(|one| one == party);
        place.map(|place| place as u32)
    }

    /// Whether a party's folder is at hand.
    pub fn has(&self, party: &Fingerprint) -> bool {
        self.place_of(party).is_some()
    }

    /// The place of a party's folder.
    pub fn place_of(&self, party: &Fingerprint) -> Option<usize> {
        self.parties
            .iter()
            .position(|one| one.as_ref() == Some(party))
    }

    /// A party's name, for people.
    pub fn name_of(&self, party: &Fingerprint) -> String {
        match &self.manifest {
            Some(manifest) => crate::site::name_in(manifest, party),
            None => party.to_string(),
        }
    }
}
