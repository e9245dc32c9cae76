//! Sizes that hold on both sides, before anything is allocated, and how many connections a server holds. What one party's
//! calls may take is in the server's own limits.

use std::time::Duration;

use ciphertune_round::{Object as _, Plan, Roster};
use ciphertune_sum::BLOCK_BYTES;

/// The largest message: a plan of a thousand seats fits, and the roster of a thousand with a committee of 200.
pub const MESSAGE_BYTES: usize = 8 << 20;

/// The largest message that a server takes. Plans and rosters go the other way; the largest that a member sends are 256
/// one-time keys (some 350 KB) and a header beside [`SHARES_A_MESSAGE`] (some 300 KB).
pub const REQUEST_BYTES: usize = 2 << 20;

/// How long a peer may take over its handshake, and then over its first bytes. An honest one takes three round trips: even
/// with each of them lost once, less than half of it.
pub const HANDSHAKE: Duration = Duration::from_secs(10);

/// Handshakes under way. For one more, the oldest of the address with most of them is dropped, so that sockets that say
/// nothing keep nobody out: whoever opens them from one address loses its own. (From as many addresses as there are places,
/// an attacker must open 256 within an honest handshake's time.) Some 20 KB each.
pub const HANDSHAKES: usize = 256;

/// Connections with one certificate. A party needs one, and a moment's second when it comes back over a network that lost
/// the first unseen; the researcher and the auditor use one a command. For one more the OLDEST gives way: it is the likelier one
/// to be dead, and refusing the new one would lock a member out until its dead ones are found out. Who could use that
/// against a party has its key.
pub const CONNECTIONS_OF_ONE: usize = 8;

/// Connections in all: four for each of a thousand members. For one more, the oldest of whoever has most gives way. The
/// operating system's limit on open files must be above it, or it is the limit.
pub const CONNECTIONS: usize = 4_096;

/// What is around a signed object in a message, amply.
const AROUND: usize = 1 << 10;

/// Bytes of a body or sum in one message of a stream. A multiple of a word, and of a block of 4,096 words.
pub const CHUNK_BYTES: usize = 256 << 10;

/// One-time keys that one call may add.
pub const KEYS_A_CALL: usize = 256;

/// One-time keys that the server holds for one member.
pub const KEY_STOCK: usize = 1_024;

/// The largest sealed share: a block, and room for what sealing adds.
pub const SHARE_BYTES: usize = BLOCK_BYTES + (8 << 10);

/// Bytes of sealed shares that one message of an upload carries, unless a single one is larger. A server holds one message, about
/// twice, for each member that sends.
pub const SHARES_A_MESSAGE: usize = 64 << 10;

/// Whether a roster of so many contributors, whose headers name a share for each of so many holders, fits a message.
pub const fn roster_fits(contributors: usize, holders: usize) -> bool {
    Roster::most_bytes(contributors, holders) + AROUND <= MESSAGE_BYTES
}

/// Whether a plan, and the roster that comes of it when all of its cohort contribute, fit into messages; if not, what would,
/// in words.
pub fn check_plan(plan: &Plan) -> Result<(), String> {
    let (seats, holders) = (plan.seats.len(), plan.holders().count());
    let plan = plan.serialise().len();
    if plan + AROUND > MESSAGE_BYTES {
        return Err(format!(
            "a plan of {plan} bytes does not fit a message of {MESSAGE_BYTES}: fewer members, or fewer policies of sites, do"
        ));
    }
    if !roster_fits(seats, holders) {
        let most = (0..holders)
            .rev()
            .find(|holders| roster_fits(seats, *holders));
        return Err(format!(
            "the roster of {seats} members with shares for {holders} each does not fit a message of {MESSAGE_BYTES} bytes; \
             that with shares for {} does",
            most.unwrap_or(0)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the documentation promises: a thousand with a committee of two hundred, and everybody in smaller cohorts.
    #[test]
    fn the_rosters_that_fit_are_those_promised() {
        assert!(roster_fits(1_000, 200));
        assert!(!roster_fits(1_000, 1_000));
        let whole = (2..=1_000).filter(|n| roster_fits(*n, *n)).count() + 1;
        assert_eq!(whole, 494);
        let committee = (2..=1_000).filter(|k| roster_fits(1_000, *k)).count() + 1;
        assert_eq!(committee, 241);
    }
}
