//! Large frames that are alike are one in memory: a plan of a thousand seats, which a thousand members are told at once, is encoded
//! for each of them, and would wait a thousand times for its reader.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use http_body_util::BodyExt as _;
use prost::bytes::Bytes;
use tonic::{body::Body, codegen::http::Response};

/// A frame is large from so many bytes on; chunks of bodies and sums are smaller.
const LARGE: usize = 300 << 10;

/// So many of the latest large frames are known.
const KNOWN: usize = 4;

/// The latest large frames.
#[derive(Default)]
pub struct Alike(Mutex<VecDeque<Bytes>>);

impl Alike {
    /// The same reply, whose frames share their memory with those that are alike.
    pub fn of(self: &Arc<Self>, reply: Response<Body>) -> Response<Body> {
        let this = Arc::clone(self);
        reply.map(|body| {
            Body::new(body.map_frame(move |frame| frame.map_data(|bytes| this.shared(bytes))))
        })
    }

    fn shared(&self, frame: Bytes) -> Bytes {
        if frame.len() < LARGE {
            return frame;
        }
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.iter().find(|known| **known == frame) {
            return same.clone();
        }
        if known.len() == KNOWN {
            known.pop_front();
        }
        known.push_back(frame.clone());
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_frames_that_are_alike_are_one_in_memory() {
        let alike = Alike::default();
        let frame = |byte, length| Bytes::from(vec![byte; length]);
        let first = alike.shared(frame(1, LARGE));
        let other = alike.shared(frame(2, LARGE));
        let again = alike.shared(frame(1, LARGE));
        assert_eq!(again, frame(1, LARGE));
        assert_eq!(first.as_ptr(), again.as_ptr());
        assert_ne!(other.as_ptr(), again.as_ptr());
        let small = frame(1, 9);
        assert_eq!(alike.shared(small.clone()).as_ptr(), small.as_ptr());
        for byte in 3..3 + KNOWN as u8 {
            alike.shared(frame(byte, LARGE));
        }
        assert_ne!(alike.shared(frame(1, LARGE)).as_ptr(), first.as_ptr());
    }
}
