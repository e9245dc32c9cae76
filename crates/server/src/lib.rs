//! The server of a federation: it adds what it cannot open.
//!
//! [`Machine`](phase::Machine) is the life of a job as a pure machine; [`storage`] makes it durable; the service
//! authenticates, translates and calls. This crate's graph holds no code that could open a body or a share.

mod allowance;
mod config;
mod coordinator;
mod diary;
mod download;
mod error;
mod events;
mod federation;
mod gate;
mod limits;
mod moment;
mod outside;
pub mod phase;
mod presence;
mod run;
mod service;
mod shares;
pub mod storage;
mod throttle;
mod upload;
mod uploads;

pub use config::{Clock, Config, Outside};
pub use error::{Error, Refused, Result};
pub use federation::Federation;
pub use moment::Moment;
pub use run::run;
