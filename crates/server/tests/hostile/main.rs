//! Hostile peers against a real socket, each attack by its name, in a file a kind. What matters is the same everywhere: while the
//! attack stands an honest member's call is answered, the round of the honest members completes, and nothing of the attack is
//! left on the disk. Times are generous bounds, not measurements.

#[path = "../common/mod.rs"]
mod common;

mod connections;
mod frames;
mod identity;
mod raw;
mod siege;
mod streams;
mod uploads;
