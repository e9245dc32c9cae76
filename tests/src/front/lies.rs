//! How the front lies: about what passes, to whom, in whose name.

use ciphertune_identity::SigningKey;
use ciphertune_round::{Envelope, Fingerprint, Object, Signed};
use ciphertune_wire::proto::{Event, EventKind, PutSharesRequest, SealedShare, ShareKind};

use super::tape::{Put, Tape};

type OnEvent = dyn Fn(&Fingerprint, Event) -> Vec<Event> + Send + Sync;
type OnSum = dyn Fn(&Fingerprint, &mut Vec<u8>) + Send + Sync;
type OnBody = dyn Fn(&Fingerprint, u32, &mut Vec<u8>) + Send + Sync;
type OnShare = dyn Fn(&Fingerprint, ShareKind, SealedShare) -> Option<SealedShare> + Send + Sync;
type OnParcel = dyn Fn(&Fingerprint, &mut Vec<u8>) + Send + Sync;
type OnPut = dyn Fn(&Fingerprint, Put) -> bool + Send + Sync;
type OnSharesSent = dyn Fn(&Fingerprint, &SigningKey, &mut PutSharesRequest) + Send + Sync;
type OnBodySent = dyn Fn(&Fingerprint, &mut Vec<u8>) + Send + Sync;

/// How the front lies; where nothing is said it forwards.
pub struct Lies {
    pub(super) event: Box<OnEvent>,
    pub(super) sum: Box<OnSum>,
    pub(super) body: Box<OnBody>,
    pub(super) share: Box<OnShare>,
    pub(super) parcel: Box<OnParcel>,
    pub(super) garbled: Option<Fingerprint>,
    pub(super) put: Box<OnPut>,
    pub(super) shares_sent: Box<OnSharesSent>,
    pub(super) body_sent: Box<OnBodySent>,
    pub(super) relays: bool,
    pub(super) tape: Tape,
}

impl Lies {
    /// None.
    pub fn none() -> Self {
        Self {
            event: Box::new(|_, event| vec![event]),
            sum: Box::new(|_, _| {}),
            body: Box::new(|_, _, _| {}),
            share: Box::new(|_, _, share| Some(share)),
            parcel: Box::new(|_, _| {}),
            garbled: None,
            put: Box::new(|_, _| true),
            shares_sent: Box::new(|_, _, _| {}),
            body_sent: Box::new(|_, _| {}),
            relays: false,
            tape: Tape::default(),
        }
    }

    /// What members send under these lies, for lies that are made of it.
    pub fn tape(&self) -> Tape {
        self.tape.clone()
    }

    /// About an event to a member: `None` hides it, several are told in its place, each with its number; they are told
    /// without gaps. A number that the lie changes stays changed.
    pub fn about_events<I: IntoIterator<Item = Event>>(
        mut self,
        lie: impl Fn(&Fingerprint, Event) -> I + Send + Sync + 'static,
    ) -> Self {
        self.event = Box::new(move |member, event| lie(member, event).into_iter().collect());
        self
    }

    /// Echoes, releases and agreements go from member to member through the front alone: the honest server, which knows
    /// one roster, never hears of them.
    pub fn relaying(mut self) -> Self {
        self.relays = true;
        self
    }

    /// About one kind of signed object: changed, and signed with the server's key.
    pub fn about<T: Object>(
        self,
        kind: EventKind,
        key: SigningKey,
        lie: impl Fn(&mut T) + Send + Sync + 'static,
    ) -> Self {
        self.about_events(move |_, event| {
            if event.kind != i32::from(kind) {
                return [event];
            }
            [resigned(event, &key, &lie)]
        })
    }

    /// About the sum that a member fetches.
    pub fn about_the_sum(
        mut self,
        lie: impl Fn(&Fingerprint, &mut Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        self.sum = Box::new(lie);
        self
    }

    /// About the body of a seat that a member fetches.
    pub fn about_bodies(
        mut self,
        lie: impl Fn(&Fingerprint, u32, &mut Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        self.body = Box::new(lie);
        self
    }

    /// About a share that a member fetches. `None` keeps it back.
    pub fn about_shares(
        mut self,
        lie: impl Fn(&Fingerprint, ShareKind, SealedShare) -> Option<SealedShare>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        self.share = Box::new(lie);
        self
    }

    /// About the parcel that a member fetches.
    pub fn about_parcels(
        mut self,
        lie: impl Fn(&Fingerprint, &mut Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        self.parcel = Box::new(lie);
        self
    }

    /// With a member that sends garbage for the model that it is asked for, and signs it.
    pub fn with_garbled_parcels_of(mut self, sender: Fingerprint) -> Self {
        self.garbled = Some(sender);
        self
    }

    /// About a header or a release with its shares, as a malicious member sends it; the key is that member's.
    pub fn about_shares_sent(
        mut self,
        lie: impl Fn(&Fingerprint, &SigningKey, &mut PutSharesRequest) + Send + Sync + 'static,
    ) -> Self {
        self.shares_sent = Box::new(lie);
        self
    }

    /// About the body that a malicious member sends.
    pub fn about_bodies_sent(
        mut self,
        lie: impl Fn(&Fingerprint, &mut Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        self.body_sent = Box::new(lie);
        self
    }

    /// Which of what members send reach the server; the rest is confirmed and swallowed.
    pub fn forwarding(
        mut self,
        forwards: impl Fn(&Fingerprint, Put) -> bool + Send + Sync + 'static,
    ) -> Self {
        self.put = Box::new(forwards);
        self
    }
}

/// An event with its signed object changed, and signed anew.
pub fn resigned<T: Object>(event: Event, key: &SigningKey, change: impl FnOnce(&mut T)) -> Event {
    let envelope = Envelope::decode(&event.envelope).unwrap();
    let mut value = T::parse(envelope.payload()).unwrap();
    change(&mut value);
    Event {
        envelope: Signed::sign(value, key).encode(),
        ..event
    }
}
