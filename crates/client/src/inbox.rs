//! The server's events, in order, over any number of lost connections.

use std::collections::VecDeque;

use ciphertune_wire::{
    Client,
    limits::MESSAGE_BYTES,
    proto::{Event, EventKind, EventsRequest},
};
use tokio::sync::mpsc;

use crate::{
    backoff::Backoff,
    error::{Error, Result},
};

/// Events that wait while a member trains; then the stream itself waits.
const WAITING: usize = 16;

/// What may be kept of events for later: more than an honest server has to say while a member waits for something else.
const MOST_KEPT: usize = 16_384;
const MOST_KEPT_BYTES: usize = 64 << 20;

/// Events that are put aside while something else is waited for, bounded in number and in bytes.
#[derive(Default)]
pub struct Backlog {
    events: VecDeque<Event>,
    bytes: usize,
}

impl Backlog {
    /// Puts an event aside.
    ///
    /// # Errors
    /// [`Error::Void`] when there are too many; this one is not among them then.
    pub fn push(&mut self, event: Event) -> Result<()> {
        let bytes = self.bytes + event.envelope.len();
        if self.events.len() == MOST_KEPT || bytes > MOST_KEPT_BYTES {
            return Err(Error::Void(
                "the server said too much while this member waited".into(),
            ));
        }
        self.bytes = bytes;
        self.events.push_back(event);
        Ok(())
    }

    /// Whether another one may be refused.
    pub fn is_full(&self) -> bool {
        self.events.len() == MOST_KEPT || self.bytes + MESSAGE_BYTES > MOST_KEPT_BYTES
    }

    /// Takes the oldest.
    pub fn pop(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.bytes -= event.envelope.len();
        Some(event)
    }
}

/// A member's view of the event stream.
pub struct Inbox {
    arriving: mpsc::Receiver<Result<Event>>,
    held: VecDeque<Event>,
}

impl Inbox {
    /// Follows the stream from its start. Holding it open is what makes a member present.
    pub fn open(client: &Client) -> Self {
        Self::open_after(client, 0)
    }

    /// Follows the stream from behind an event.
    pub fn open_after(client: &Client, sequence: u64) -> Self {
        let (arrived, arriving) = mpsc::channel(WAITING);
        tokio::spawn(follow(client.clone(), sequence, arrived));
        Self {
            arriving,
            held: VecDeque::new(),
        }
    }

    /// The next event. Waits as long as it takes; safe to drop half-way.
    ///
    /// # Errors
    /// [`Error::TurnedAway`] when the server turned the stream down for good (a lost connection is retried for ever);
    /// [`Error::Server`] when it left a gap in the sequence.
    pub async fn next(&mut self) -> Result<Event> {
        if let Some(event) = self.held.pop_front() {
            return Ok(event);
        }
        self.arriving
            .recv()
            .await
            .unwrap_or_else(|| Err(Error::Server("the event stream ended".into())))
    }

    /// Puts events back, to be read first.
    pub fn put_back(&mut self, mut kept: Backlog) {
        kept.events.append(&mut self.held);
        self.held = kept.events;
    }
}

async fn follow(mut client: Client, mut after: u64, arrived: mpsc::Sender<Result<Event>>) {
    let mut backoff = Backoff::default();
    loop {
        let lost = match client.events(EventsRequest { after }).await {
            Err(status) => status,
            Ok(reply) => {
                let mut stream = reply.into_inner();
                loop {
                    let event = tokio::select! {
                        () = arrived.closed() => return,
                        event = stream.message() => event,
                    };
                    match event {
                        Ok(Some(event)) if event.sequence == after + 1 => {
                            after = event.sequence;
                            backoff = Backoff::default();
                            if arrived.send(Ok(event)).await.is_err() {
                                return;
                            }
                        }
                        Ok(Some(event)) => {
                            let gap = format!("event {} came after {after}", event.sequence);
                            let _ = arrived.send(Err(Error::Server(gap))).await;
                            return;
                        }
                        Ok(None) => break tonic::Status::unavailable("the stream ended"),
                        Err(status) => break status,
                    }
                }
            }
        };
        if !passing(&lost) {
            let _ = arrived.send(Err(lost.into())).await;
            return;
        }
        tracing::warn!(code = %lost.code(), "lost the event stream; reconnecting");
        tokio::select! {
            () = arrived.closed() => return,
            () = backoff.wait() => {}
        }
    }
}

/// Whether a failed call may succeed if it is made again.
pub fn passing(status: &tonic::Status) -> bool {
    use tonic::Code;
    if ciphertune_wire::turned_away(status).is_some() {
        return false;
    }
    match status.code() {
        Code::Unavailable | Code::Cancelled | Code::Aborted => true,
        // What tonic says of a connection that broke under a call; and what a server says of its own fault, a disk perhaps, which
        // its operator sees to.
        Code::Unknown | Code::Internal => true,
        _ => false,
    }
}

/// The kind of an event; unspecified for one that a newer server may send.
pub fn kind(event: &Event) -> EventKind {
    EventKind::try_from(event.kind).unwrap_or(EventKind::Unspecified)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(sequence: u64, bytes: usize) -> Event {
        Event {
            sequence,
            kind: EventKind::Plan.into(),
            envelope: vec![0; bytes],
        }
    }

    #[test]
    fn a_backlog_is_bounded_in_number_and_in_bytes_and_keeps_what_fits() {
        let mut kept = Backlog::default();
        for sequence in 0..8 {
            kept.push(event(sequence, 8 << 20)).unwrap();
        }
        assert!(matches!(kept.push(event(8, 1)), Err(Error::Void(_))));
        kept.push(event(9, 0)).unwrap();
        assert_eq!(kept.pop().unwrap().sequence, 0);
        kept.push(event(10, 8 << 20)).unwrap();
        let left: Vec<u64> = std::iter::from_fn(|| kept.pop())
            .map(|event| event.sequence)
            .collect();
        assert_eq!(left, [1, 2, 3, 4, 5, 6, 7, 9, 10]);
        for sequence in 0..MOST_KEPT {
            kept.push(event(sequence as u64, 0)).unwrap();
        }
        assert!(matches!(kept.push(event(0, 0)), Err(Error::Void(_))));
    }

    #[tokio::test]
    async fn what_is_put_back_is_read_first_and_in_order() {
        let (_arrived, arriving) = mpsc::channel(1);
        let mut inbox = Inbox {
            arriving,
            held: VecDeque::from([event(3, 0)]),
        };
        let mut kept = Backlog::default();
        for sequence in [1, 2] {
            kept.push(event(sequence, 5)).unwrap();
        }
        inbox.put_back(kept);
        for sequence in 1..=3 {
            assert_eq!(inbox.next().await.unwrap().sequence, sequence);
        }
    }
}
