//! Room for a bounded number of comers: who comes when it is full is let in, and whoever has most gives a place up.
//!
//! Turning new ones away would let silent sockets keep everybody out, and a member whose network lost its connection
//! unseen would be kept out by what is left of that.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use tokio::sync::oneshot;

/// Places, each held in somebody's name.
pub(crate) struct Places<K> {
    taken: Arc<Mutex<Taken<K>>>,
    most: usize,
    most_of_one: usize,
}

struct Taken<K> {
    come: u64,
    /// By number, so the oldest first. A place that is given up loses its sender.
    held: BTreeMap<u64, (K, oneshot::Sender<()>)>,
}

impl<K: Clone + Eq + Hash> Places<K> {
    /// `most` in all, `most_of_one` in one name.
    pub(crate) fn new(most: usize, most_of_one: usize) -> Self {
        let taken = Taken {
            come: 0,
            held: BTreeMap::new(),
        };
        Self {
            taken: Arc::new(Mutex::new(taken)),
            most,
            most_of_one,
        }
    }

    /// Takes a place in this name. For it the oldest of the same name gives way, if that has as many as one may have; else
    /// the oldest of the name that has most, if all are taken.
    pub(crate) fn take(&self, name: K) -> Place<K> {
        let mut taken = lock(&self.taken);
        if let Some(oldest) = self.gives_way(&taken, &name) {
            taken.held.remove(&oldest);
        }
        taken.come += 1;
        let (number, (stay, leave)) = (taken.come, oneshot::channel());
        taken.held.insert(number, (name, stay));
        Place {
            taken: Arc::clone(&self.taken),
            number,
            leave: Some(leave),
        }
    }

    fn gives_way(&self, taken: &Taken<K>, name: &K) -> Option<u64> {
        let mut held: HashMap<&K, (usize, u64)> = HashMap::new();
        for (number, (name, _)) in &taken.held {
            held.entry(name).or_insert((0, *number)).0 += 1;
        }
        let own = held.get(name).filter(|own| own.0 >= self.most_of_one);
        if let Some((_, oldest)) = own {
            return Some(*oldest);
        }
        let full = taken.held.len() >= self.most;
        let most = held
            .into_values()
            .max_by_key(|&(count, oldest)| (count, Reverse(oldest)));
        most.filter(|_| full).map(|(_, oldest)| oldest)
    }
}

/// A place, as long as it lives.
pub(crate) struct Place<K> {
    taken: Arc<Mutex<Taken<K>>>,
    number: u64,
    /// Gone once it was ready.
    leave: Option<oneshot::Receiver<()>>,
}

impl<K> Place<K> {
    /// Ready when it is somebody else's.
    pub(crate) fn poll_given_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(leave) = &mut self.leave {
            std::task::ready!(std::pin::Pin::new(leave).poll(cx)).unwrap_or_default();
            self.leave = None;
        }
        Poll::Ready(())
    }

    /// The same, to be awaited.
    pub(crate) async fn given_up(&mut self) {
        std::future::poll_fn(|cx| self.poll_given_up(cx)).await;
    }
}

impl<K> Drop for Place<K> {
    fn drop(&mut self) {
        lock(&self.taken).held.remove(&self.number);
    }
}

fn lock<K>(taken: &Mutex<Taken<K>>) -> MutexGuard<'_, Taken<K>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_given_up<K>(place: &mut Place<K>) -> bool {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        place.poll_given_up(&mut cx).is_ready()
    }

    #[test]
    fn who_has_as_many_as_one_may_gives_up_its_own_oldest() {
        let places = Places::new(10, 2);
        let mut other = places.take("other");
        let mut mine: Vec<_> = (0..3).map(|_| places.take("mine")).collect();
        let gone: Vec<bool> = mine.iter_mut().map(is_given_up).collect();
        assert_eq!(gone, [true, false, false]);
        assert!(!is_given_up(&mut other));
        assert!(is_given_up(&mut mine[0]), "and stays so");
    }

    #[test]
    fn when_all_are_taken_the_oldest_of_who_has_most_gives_way() {
        let places = Places::new(4, 4);
        let mut honest = places.take("honest");
        let mut many: Vec<_> = (0..3).map(|_| places.take("many")).collect();
        let mut new = places.take("new");
        let gone: Vec<bool> = many.iter_mut().map(is_given_up).collect();
        assert_eq!(gone, [true, false, false]);
        assert!(!is_given_up(&mut honest) && !is_given_up(&mut new));
    }

    #[test]
    fn a_place_that_was_left_is_free() {
        let places = Places::new(2, 2);
        let mut stays = places.take("a");
        for _ in 0..5 {
            drop(places.take("b"));
        }
        assert!(!is_given_up(&mut stays));
    }
}
