//! Everything that protocol §4 says can go wrong, each played by an attacker against a whole federation over real
//! sockets: a lying server (the honest one behind a front with its certificate) and lying members (with their own keys).
//! Each test asserts that nobody opens or sends what it must not, and that the victims' audit logs name what failed.
//!
//! Tests of other files that play an attack are listed too; a test's name is a sentence, and there is one of each.
//!
//! | attack | tests |
//! |---|---|
mod handed_out;
mod lying_member;
mod plans;
mod rosters;
mod stolen_disk;
mod victims;
