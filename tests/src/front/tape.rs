//! What members sent through the front.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use ciphertune_round::{Context, Envelope, Fingerprint, Object};

/// What members send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Put {
    /// An admission or refusal of a job.
    Admission,
    /// One-time keys.
    Keys,
    /// A header and the shares of a key.
    KeyShares,
    /// A body.
    Body,
    /// An echo.
    Echo,
    /// A release and the shares of the sum of keys.
    Release,
    /// An agreement.
    Agreement,
    /// A request for the model of a round that was missed.
    ParcelRequest,
    /// A parcel.
    Parcel,
}

/// What a member sent for one context, as it sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// The member.
    pub by: Fingerprint,
    /// What it is.
    pub put: Put,
    /// What for.
    pub context: Context,
    /// Where in the whole these bytes stand: 0 but for a part of a body.
    pub offset: u64,
    /// The signed object; of a body, the bytes.
    pub bytes: Vec<u8>,
    /// The sealed shares that came with it.
    pub shares: Vec<Vec<u8>>,
}

impl Sent {
    /// The signed object.
    pub fn object<T: Object>(&self) -> T {
        T::parse(Envelope::decode(&self.bytes).unwrap().payload()).unwrap()
    }
}

/// What members sent, in order, whether it was forwarded or not.
#[derive(Clone, Default)]
pub struct Tape(Arc<Mutex<Taped>>);

#[derive(Default)]
pub(super) struct Taped {
    pub(super) seen: Vec<(Fingerprint, Put)>,
    pub(super) sent: Vec<Sent>,
    pub(super) keys: Vec<(Fingerprint, Vec<u8>)>,
}

impl Tape {
    /// Every call.
    pub fn seen(&self) -> Vec<(Fingerprint, Put)> {
        self.taped().seen.clone()
    }

    /// How many times something was sent.
    pub fn count(&self, put: Put) -> usize {
        let taped = self.taped();
        taped.seen.iter().filter(|(_, seen)| *seen == put).count()
    }

    /// Counts, at any later time, what one member has sent.
    pub fn counter(&self, by: Fingerprint) -> impl Fn() -> usize + Send + Sync + 'static {
        let tape = self.clone();
        move || {
            let taped = tape.taped();
            taped
                .seen
                .iter()
                .filter(|(sender, _)| *sender == by)
                .count()
        }
    }

    /// What was sent for contexts, byte by byte.
    pub fn sent(&self) -> Vec<Sent> {
        self.taped().sent.clone()
    }

    /// Of that, what is of one kind.
    pub fn of(&self, put: Put) -> Vec<Sent> {
        let mut sent = self.sent();
        sent.retain(|sent| sent.put == put);
        sent
    }

    /// The bodies that a member sent, each whole, in the order of their contexts.
    pub fn bodies_of(&self, by: &Fingerprint) -> Vec<Vec<u8>> {
        let mut bodies: Vec<(Context, Vec<u8>)> = Vec::new();
        for part in self.of(Put::Body).iter().filter(|part| part.by == *by) {
            if bodies.iter().all(|(context, _)| *context != part.context) {
                bodies.push((part.context, Vec::new()));
            }
            let (start, body) = (part.offset as usize, bodies.iter_mut());
            for (_, body) in body.filter(|(context, _)| *context == part.context) {
                body.resize(body.len().max(start + part.bytes.len()), 0);
                body[start..start + part.bytes.len()].copy_from_slice(&part.bytes);
            }
        }
        bodies.into_iter().map(|(_, body)| body).collect()
    }

    /// The last of them.
    pub fn body_of(&self, by: &Fingerprint) -> Vec<u8> {
        self.bodies_of(by).pop().expect("a body")
    }

    /// The one-time keys that a member offered, in envelopes.
    pub fn keys_of(&self, by: &Fingerprint) -> Vec<Vec<u8>> {
        let taped = self.taped();
        let keys = taped.keys.iter().filter(|(member, _)| member == by);
        keys.map(|(_, key)| key.clone()).collect()
    }

    /// What no member may do, in words: say two different things in one context.
    pub fn contradictions(&self) -> Vec<String> {
        let mut first: BTreeMap<_, Sent> = BTreeMap::new();
        let mut contradictions = Vec::new();
        for sent in self.sent() {
            let place = (sent.by, sent.put, sent.context, sent.offset);
            if *first.entry(place).or_insert_with(|| sent.clone()) != sent {
                contradictions.push(format!("{} sent two of {:?}", sent.by, sent.put));
            }
        }
        contradictions
    }

    pub(super) fn taped(&self) -> std::sync::MutexGuard<'_, Taped> {
        self.0.lock().unwrap()
    }
}
