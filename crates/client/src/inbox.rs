//! The server's events, in order, over any number of lost connections.

use std::{collections::VecDeque, time::Duration};

use ciphertune_wire::{
    Client,
    proto::{Event, EventKind, EventsRequest},
};
use tokio::sync::mpsc;

use crate::error::{Error, Result};

/// Events that wait while a member trains; then the stream itself waits.
const WAITING: usize = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

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
    /// [`Error::Server`] when the server turned the stream down for good (a lost connection is retried for ever), or
    /// left a gap in the sequence.
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
    pub fn put_back(&mut self, events: impl DoubleEndedIterator<Item = Event>) {
        for event in events.rev() {
            self.held.push_front(event);
        }
    }
}

async fn follow(mut client: Client, mut after: u64, arrived: mpsc::Sender<Result<Event>>) {
    let mut pause = FIRST_PAUSE;
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
                            pause = FIRST_PAUSE;
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
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether a failed call may succeed if it is made again.
pub fn passing(status: &tonic::Status) -> bool {
    use tonic::Code;
    match status.code() {
        Code::Unavailable | Code::Cancelled | Code::Aborted => true,
        // What tonic says of a connection that broke under a call.
        Code::Unknown | Code::Internal => ciphertune_wire::Refusal::of(status).is_none(),
        _ => false,
    }
}

/// The kind of an event; unspecified for one that a newer server may send.
pub fn kind(event: &Event) -> EventKind {
    EventKind::try_from(event.kind).unwrap_or(EventKind::Unspecified)
}
