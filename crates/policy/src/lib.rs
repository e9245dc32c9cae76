//! What is allowed: policies, the strictest of several, what differs between two, and the admission of a plan.
//!
//! [`schema`] is the one list of keys, each with all that is said of it. A [`Policy`] is read from TOML ([`Policy::parse`]) or is
//! the strictest of several ([`Policy::merge`]); a plan is a [`Proposal`], and [`Policy::admit`] answers it with an [`Admitted`]
//! or a [`Refusal`] in words, which [`Refusal::sourced`] traces to lines. For people: [`Policy::explain`], [`Policy::diff`],
//! [`Policy::findings`], [`markdown_table`], [`json_schema`]. Pure: no input or output, no clock, no randomness.

mod admit;
mod allowed;
mod canonical;
mod committee;
mod decimal;
mod diff;
mod document;
mod error;
mod explain;
mod finding;
mod instant;
mod json_schema;
mod merge;
mod policy;
mod read;
pub mod schema;
mod setting;
mod table;

pub use admit::{Admitted, Proposal, Refusal, Source, Violation, default_threshold};
pub use allowed::Allowed;
pub use committee::{BAD_COMMITTEE_LOG2, Sharing, odds_of_more_log2};
pub use decimal::Decimal;
pub use diff::{Change, Direction};
pub use error::Error;
pub use finding::Finding;
pub use instant::Instant;
pub use json_schema::json_schema;
pub use policy::{Loss, MAX_DAYS, MAX_MEMBERS, MAX_ROUNDS, Policy};
pub use setting::{Adjacency, Metric, Placement, Role, Unit};
pub use table::markdown_table;
