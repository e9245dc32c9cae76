//! Sizes that hold on both sides, before anything is allocated.

use ciphertune_round::{Object as _, Plan, Roster};
use ciphertune_sum::BLOCK_BYTES;

/// The largest message: a plan of a thousand seats fits, and the roster of a thousand with a committee of 200.
pub const MESSAGE_BYTES: usize = 8 << 20;

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
