//! Who has an event stream open.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use ciphertune_round::Fingerprint;
use tokio::sync::Notify;

/// Open event streams, counted by member.
pub struct Presence {
    streams: Mutex<HashMap<Fingerprint, usize>>,
    changed: Arc<Notify>,
}

impl Presence {
    /// Nobody; `changed` hears of each who comes or goes.
    pub fn new(changed: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            streams: Mutex::new(HashMap::new()),
            changed,
        })
    }

    /// A stream of this party is open as long as the guard lives.
    pub fn enter(self: &Arc<Self>, who: Fingerprint) -> Guard {
        *self.lock().entry(who).or_insert(0) += 1;
        self.changed.notify_one();
        Guard {
            presence: Arc::clone(self),
            who,
        }
    }

    /// Those of `members` who are present, in that order.
    pub fn present(&self, members: &[Fingerprint]) -> Vec<Fingerprint> {
        let streams = self.lock();
        members
            .iter()
            .filter(|member| streams.contains_key(member))
            .copied()
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Fingerprint, usize>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open stream.
pub struct Guard {
    presence: Arc<Presence>,
    who: Fingerprint,
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut streams = self.presence.lock();
        if let Some(count) = streams.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                streams.remove(&self.who);
            }
        }
        drop(streams);
        self.presence.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ciphertune_round::Digest;

    #[test]
    fn who_has_two_streams_is_present_until_both_are_closed() {
        let presence = Presence::new(Arc::default());
        let who = Fingerprint::from_digest(Digest::sha256(b"north"));
        let first = presence.enter(who);
        let second = presence.enter(who);
        drop(first);
        assert_eq!(presence.present(&[who]), [who]);
        drop(second);
        assert!(presence.present(&[who]).is_empty());
    }
}
