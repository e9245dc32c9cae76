//! Who has an event stream open.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use ciphertune_identity::Peer;
use ciphertune_round::Fingerprint;
use tokio::sync::Notify;

/// See [`Presence::pause`].
const EACH: Duration = Duration::from_micros(100);
const LONGEST: Duration = Duration::from_millis(200);

/// Open event streams, each with the certificate that it was opened with.
pub struct Presence {
    streams: Mutex<Streams>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct Streams {
    opened: u64,
    open: HashMap<u64, Peer>,
}

impl Presence {
    /// Nobody; `changed` hears of each who comes or goes.
    pub fn new(changed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            streams: Mutex::default(),
            changed,
        })
    }

    /// A stream of this party is open as long as the guard lives.
    pub fn enter(self: &Arc<Self>, who: Peer) -> Guard {
        let mut streams = self.lock();
        streams.opened += 1;
        let number = streams.opened;
        streams.open.insert(number, who);
        drop(streams);
        self.changed.notify_one();
        Guard {
            presence: Arc::clone(self),
            number,
        }
    }

    /// How long one who follows may wait for more to be said: a tenth of a millisecond for each who does. Everybody is told
    /// everything, which is their number squared; what is told together costs little more than one.
    pub fn pause(&self) -> Duration {
        let open = u32::try_from(self.lock().open.len()).unwrap_or(u32::MAX);
        (EACH * open).min(LONGEST)
    }

    /// Those of `members` who are present with a certificate that is admitted, in that order. (A stream that its reader lets
    /// stand still is not closed the moment that its certificate is revoked.)
    pub fn present(
        &self,
        members: &[Fingerprint],
        admits: impl Fn(&Peer) -> bool,
    ) -> Vec<Fingerprint> {
        let streams = self.lock();
        let admitted: HashSet<Fingerprint> = (streams.open.values())
            .filter(|peer| admits(peer))
            .map(|peer| peer.fingerprint)
            .collect();
        let members = members.iter().copied();
        members.filter(|member| admitted.contains(member)).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open stream.
pub struct Guard {
    presence: Arc<Presence>,
    number: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.presence.lock().open.remove(&self.number);
        self.presence.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use ciphertune_identity::{Name, Role, Serial, SigningKey};
    use ciphertune_round::Signer as _;

    use super::*;

    fn peer(serial: u8) -> Peer {
        let key = SigningKey::generate().unwrap().verifying_key();
        Peer {
            federation: Name::new("lab").unwrap(),
            name: Name::new("north").unwrap(),
            role: Role::Member,
            fingerprint: key.fingerprint(),
            key,
            serial: Serial::new(&[serial]).unwrap(),
            issued_at: 0,
            ends_at: 1,
        }
    }

    #[test]
    fn who_has_two_streams_is_present_until_both_are_closed() {
        let presence = Presence::new(Arc::default());
        let who = peer(1);
        let first = presence.enter(who.clone());
        let second = presence.enter(who.clone());
        drop(first);
        assert_eq!(
            presence.present(&[who.fingerprint], |_| true),
            [who.fingerprint]
        );
        drop(second);
        assert!(presence.present(&[who.fingerprint], |_| true).is_empty());
    }

    #[test]
    fn who_is_not_admitted_any_more_is_not_present_while_a_stream_stands_open() {
        let presence = Presence::new(Arc::default());
        let (old, new) = (
            peer(1),
            Peer {
                serial: Serial::new(&[2]).unwrap(),
                ..peer(1)
            },
        );
        let members = [old.fingerprint, new.fingerprint];
        let _streams = [presence.enter(old.clone()), presence.enter(new.clone())];
        let present = presence.present(&members, |peer| peer.serial != old.serial);
        assert_eq!(present, [new.fingerprint]);
    }
}
