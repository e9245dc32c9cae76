//! The latest events, read once for all who follow them.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use ciphertune_wire::proto::Event;
use tokio::sync::mpsc;
use tonic::Status;

/// Bytes of events that are kept.
const KEPT: usize = 16 << 20;

/// Events that one look gives.
const A_LOOK: usize = 16;

/// Events of this process, newest last, without gaps.
#[derive(Default)]
pub struct Events(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
}

impl Events {
    /// Keeps what a step announced, durably, up to number `last`.
    pub fn keep(&self, last: u64, announced: Vec<(i32, Vec<u8>)>) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = last + 1 - (announced.len() as u64).min(last);
        if recent
            .events
            .back()
            .is_some_and(|it| it.sequence + 1 != first)
        {
            *recent = Recent::default();
        }
        for (sequence, (kind, envelope)) in (first..).zip(announced) {
            recent.bytes += envelope.len();
            recent.events.push_back(Arc::new(Event {
                sequence,
                kind,
                envelope,
            }));
        }
        while recent.bytes > KEPT
            && recent.events.len() > 1
            && let Some(oldest) = recent.events.pop_front()
        {
            recent.bytes -= oldest.envelope.len();
        }
    }

    /// Some events after a number, in order; `None` when the next one is not kept.
    pub fn after(&self, number: u64) -> Option<Vec<Arc<Event>>> {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = recent.events.front()?.sequence;
        let skip = usize::try_from((number + 1).checked_sub(first)?).ok()?;
        let events: Vec<_> = recent
            .events
            .iter()
            .skip(skip)
            .take(A_LOOK)
            .cloned()
            .collect();
        (!events.is_empty()).then_some(events)
    }
}

/// What one follower is told. An event is copied when it is sent, and not while it waits for that: a thousand follow.
pub struct Following(mpsc::Receiver<Result<Arc<Event>, Status>>);

impl Following {
    /// Of what is told.
    pub fn new(told: mpsc::Receiver<Result<Arc<Event>, Status>>) -> Self {
        Self(told)
    }
}

impl tokio_stream::Stream for Following {
    type Item = Result<Event, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let told = self.0.poll_recv(context);
        told.map(|told| told.map(|event| event.map(|event| Event::clone(&event))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(events: &Events, after: u64) -> Option<Vec<u64>> {
        let events = events.after(after)?;
        Some(events.iter().map(|event| event.sequence).collect())
    }

    #[test]
    fn events_are_kept_without_gaps_and_only_so_many() {
        let events = Events::default();
        assert_eq!(numbers(&events, 0), None);
        events.keep(7, vec![(1, vec![1]), (2, vec![2])]);
        events.keep(8, vec![(3, vec![3])]);
        assert_eq!(numbers(&events, 4), None, "the database has it");
        assert_eq!(numbers(&events, 5), Some(vec![6, 7, 8]));
        assert_eq!(numbers(&events, 7), Some(vec![8]));
        assert_eq!(numbers(&events, 8), None);
        events.keep(8, Vec::new());
        assert_eq!(numbers(&events, 7), Some(vec![8]));
        // Number 9 was another's.
        events.keep(10, vec![(1, vec![0; KEPT])]);
        assert_eq!(
            (numbers(&events, 8), numbers(&events, 9)),
            (None, Some(vec![10]))
        );
        events.keep(11, vec![(1, vec![0])]);
        assert_eq!(numbers(&events, 9), None);
        assert_eq!(numbers(&events, 10), Some(vec![11]));
    }
}
