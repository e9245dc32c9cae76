//! What one party's calls may take of the server, and why so much. Generous to an honest member, also on a network that
//! loses its connection every few seconds: what is refused here is tried again a little later. How large messages are and
//! how many connections there may be stands in [`ciphertune_wire::limits`].

use std::time::Duration;

/// Calls under way with one certificate, event streams and transfers among them. A member needs three or four, and a
/// moment's double after a lost connection. Each may hold one request's bytes or a few chunks: some 2 MB, so 64 MB a party.
pub const CALLS_AT_ONCE: usize = 32;

/// Tokens of one certificate, and how many come back in a second. Most calls cost one. A member makes some twenty calls a
/// round, five more for each lost connection; a researcher that watches a job asks a few times a second.
pub const TOKENS: u32 = 2_000;
/// See [`TOKENS`].
pub const TOKENS_A_SECOND: u32 = 100;

/// What a call costs that has hundreds of signatures verified, or a job considered: some 20 ms of a core.
pub const DEAR: u32 = 20;

/// Certificates whose calls are remembered without need: their buckets are full again, and nothing of theirs is under way.
pub const REMEMBERED: usize = 1_024;

/// A request that is not whole must go on by [`PACE`] bytes in this time. A network that slow carries no body in any
/// deadline; a call that waits for nothing ends, and with it the place that it has.
pub const IDLE: Duration = Duration::from_secs(60);
/// See [`IDLE`]. Less than one packet.
pub const PACE: usize = 1 << 10;

/// Calls on one connection.
pub const STREAMS: u32 = 64;

/// Bytes of a call's headers; an honest one has 300.
pub const HEADER_BYTES: u32 = 8 << 10;

/// Calls that a peer may open and take back before they were looked at ("rapid reset", CVE-2023-44487), before its
/// connection ends. An honest client takes one back when its attempt is over.
pub const RESETS: usize = 20;

/// Frames that the server may refuse on a connection before it ends. What is still on its way of an upload that was refused, up
/// to [`CALL_WINDOW`] in frames of 16 KiB, may be among them: four such uploads.
pub const ERRORS: usize = 1_024;

/// A connection without a word for so long is asked whether it lives.
pub const PING: Duration = Duration::from_secs(10);
/// And is dead without an answer in this time: behind what a slow line has queued, one may take a while.
pub const PONG: Duration = Duration::from_secs(20);

/// How far ahead of the server all members together may send: it is memory, however many they are.
const AHEAD: usize = 64 << 20;

/// Of it, what one call gets at least, and at most: 4 MiB fill 300 Mbit/s at 100 ms.
const CALL_WINDOW: (usize, usize) = (64 << 10, 4 << 20);

/// Failed handshakes that the log tells of in a minute; of the others it gives the number.
pub const TOLD: u32 = 20;

/// How far ahead of the server a member of so many may send in one call; twice as far on one connection.
pub fn call_window(members: usize) -> u32 {
    let window = (AHEAD / members.max(1)).clamp(CALL_WINDOW.0, CALL_WINDOW.1);
    u32::try_from(window).unwrap_or(u32::MAX)
}
