//! Three programs: the demonstration, [`mod@experiment`] (many demonstrations, compared), and [`mod@bench`] (what the parts
//! of a round cost).
//!
//! The demonstration is a whole federation on one machine, by production's code, every party in a process of its own.
//!
//! Read [`demo`] (what happens, in order), then what it stands on: [`setup`] (everything before the first process),
//! [`corpus`] and [`headlines`] (sentences and a
//! model), [`federation`] (authority, keys, manifest, policy, homes), [`party`] (what a child process does),
//! [`children`] (how it is started, heard and ended), [`tally`] (what the rounds gave), [`compare`] (the opened sums
//! against plain ones), [`progress`], [`summary`] and [`table`] (what is told).

pub mod bench;
pub mod children;
pub mod compare;
pub mod corpus;
pub mod demo;
mod error;
pub mod experiment;
pub mod federation;
pub mod headlines;
pub mod options;
pub mod party;
pub mod progress;
pub mod setup;
pub mod summary;
pub mod table;
pub mod tally;

pub use error::{Error, Result};
