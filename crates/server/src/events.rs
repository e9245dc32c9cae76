//! The latest events, encoded once for all who follow them.
//!
//! tonic encodes a message for each stream, into a buffer that keeps the size of the largest: a plan of a thousand seats, told to a
//! thousand members, would be a gigabyte for as long as they are connected. So what is sent of events is made here, and the body of
//! the reply is replaced by it.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use ciphertune_wire::proto::Event;
use http_body_util::StreamBody;
use hyper::{HeaderMap, body::Frame};
use prost::{Message as _, bytes::Bytes};
use tokio::sync::mpsc;
use tonic::{Status, body::Body, codegen::http::Response};

/// Bytes of events that are kept.
const KEPT: usize = 16 << 20;

/// Events that one look gives.
const A_LOOK: usize = 16;

/// Events that are smaller are sent together.
const SMALL: usize = 16 << 10;

/// An event as gRPC sends it: not compressed, its length, itself.
#[derive(Clone)]
pub struct Told {
    /// The last event's number.
    pub sequence: u64,
    bytes: Bytes,
}

impl From<&Event> for Told {
    fn from(event: &Event) -> Self {
        let length = event.encoded_len();
        let mut bytes = Vec::with_capacity(length + 5);
        bytes.push(0);
        bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend(event.encode_to_vec());
        Self {
            sequence: event.sequence,
            bytes: bytes.into(),
        }
    }
}

/// The same events, small ones that follow each other in one piece.
pub fn together(events: Vec<Told>) -> Vec<Told> {
    let small = |told: &Told| told.bytes.len() < SMALL;
    events
        .chunk_by(|one, next| small(one) && small(next))
        .filter_map(|run| match run {
            [] => None,
            [one] => Some(one.clone()),
            [.., last] => Some(Told {
                sequence: last.sequence,
                bytes: run
                    .iter()
                    .flat_map(|told| told.bytes.iter().copied())
                    .collect(),
            }),
        })
        .collect()
}

/// Events of this process, newest last, without gaps.
#[derive(Default)]
pub struct Events(Mutex<Recent>);

#[derive(Default)]
struct Recent {
    events: VecDeque<Told>,
    bytes: usize,
}

impl Events {
    /// Keeps what a step announced, durably, up to number `last`.
    pub fn keep(&self, last: u64, announced: Vec<(i32, Vec<u8>)>) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = last + 1 - (announced.len() as u64).min(last);
        if (recent.events.back()).is_some_and(|newest| newest.sequence + 1 != first) {
            *recent = Recent::default();
        }
        for (sequence, (kind, envelope)) in (first..).zip(announced) {
            let told = Told::from(&Event {
                sequence,
                kind,
                envelope,
            });
            recent.bytes += told.bytes.len();
            recent.events.push_back(told);
        }
        while recent.bytes > KEPT
            && recent.events.len() > 1
            && let Some(oldest) = recent.events.pop_front()
        {
            recent.bytes -= oldest.bytes.len();
        }
    }

    /// Some events after a number, in order; `None` when the next one is not kept.
    pub fn after(&self, number: u64) -> Option<Vec<Told>> {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = recent.events.front()?.sequence;
        let skip = usize::try_from((number + 1).checked_sub(first)?).ok()?;
        let events = recent.events.iter().skip(skip).take(A_LOOK);
        let events: Vec<_> = events.cloned().collect();
        (!events.is_empty()).then_some(events)
    }
}

type Receiver = mpsc::Receiver<Result<Told, Status>>;

/// What a reply carries to [`answer`].
#[derive(Clone)]
pub struct Following(Arc<Mutex<Option<Receiver>>>);

impl Following {
    /// Of what is told.
    pub fn new(told: Receiver) -> Self {
        Self(Arc::new(Mutex::new(Some(told))))
    }
}

/// The same reply; one that carries events gets them for its body.
pub fn answer(mut reply: Response<Body>) -> Response<Body> {
    let Some(Following(told)) = reply.extensions_mut().remove() else {
        return reply;
    };
    let told = told.lock().unwrap_or_else(PoisonError::into_inner).take();
    reply.map(|_| Body::new(StreamBody::new(Frames(told))))
}

/// Frames of events, and the trailer that says how they end.
struct Frames(Option<Receiver>);

impl tokio_stream::Stream for Frames {
    type Item = Result<Frame<Bytes>, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(told) = &mut self.0 else {
            return Poll::Ready(None);
        };
        told.poll_recv(context).map(|told| match told {
            Some(Ok(told)) => Some(Ok(Frame::data(told.bytes))),
            ended => {
                self.0 = None;
                let status = match ended {
                    Some(Err(status)) => status,
                    _ => Status::ok(""),
                };
                let mut trailers = HeaderMap::new();
                let said = status.add_header(&mut trailers);
                Some(said.map(|()| Frame::trailers(trailers)))
            }
        })
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
        // Number 9 was another's.
        events.keep(10, vec![(1, vec![0; KEPT])]);
        assert_eq!(numbers(&events, 8), None);
        assert_eq!(numbers(&events, 9), Some(vec![10]));
        events.keep(11, vec![(1, vec![0])]);
        assert_eq!(numbers(&events, 9), None);
        assert_eq!(numbers(&events, 10), Some(vec![11]));
    }

    #[test]
    fn small_events_go_out_together_and_nothing_is_lost() {
        let told = |sequence, length| {
            Told::from(&Event {
                sequence,
                kind: 1,
                envelope: vec![7; length],
            })
        };
        let events = vec![told(1, 3), told(2, 4), told(3, SMALL), told(4, 5)];
        let all: Vec<u8> = events.iter().flat_map(|it| it.bytes.to_vec()).collect();
        let pieces = together(events);
        let numbers: Vec<u64> = pieces.iter().map(|it| it.sequence).collect();
        assert_eq!(numbers, [2, 3, 4]);
        let sent: Vec<u8> = pieces.iter().flat_map(|it| it.bytes.to_vec()).collect();
        assert_eq!(sent, all);
    }
}
