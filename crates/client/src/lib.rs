//! The client: a member's run of a job, and the commands of members, researchers and officers.
//!
//! Read [`site`] (a party at home), [`learner`] and [`tuning`] (what trains), then [`member`] (the run, one file a
//! phase), with what it stands on: [`inbox`], [`transfer`], [`disk`] (every durable write), [`desk`] (what must not be
//! forgotten), [`stock`] (one-time keys), [`model`], [`mechanism`], [`quorum`] (what lowers a charge). What a
//! ledger says to people is [`budget`]. A researcher's side is [`draft`] and [`researcher`], an officer's [`officer`] and
//! [`outlook`], an auditor's [`verify`] (offline) and [`auditor`] (the server's log over the network); [`retention`] removes evidence that policies no longer keep. Without a federation: [`local`] (tuning on
//! one machine) and [`tuned`] (the folder it leaves).

pub mod auditor;
mod backoff;
pub mod budget;
pub mod desk;
pub mod disk;
pub mod draft;
mod error;
pub mod inbox;
pub mod learner;
pub mod local;
pub mod mechanism;
pub mod member;
pub mod model;
pub mod officer;
pub mod outlook;
pub mod quorum;
pub mod report;
pub mod researcher;
pub mod retention;
mod rules;
pub mod site;
pub mod stock;
pub mod transfer;
pub mod tuned;
pub mod tuning;
pub mod verify;

pub use error::{Error, Result};
