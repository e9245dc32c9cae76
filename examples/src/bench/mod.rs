//! Measurements by production's code: what the parts of a round cost on this machine.
//!
//! Read [`round`] (a round of sealed aggregation, timed), then [`mod@reference`] (what bounds it), [`stages`] (where a
//! block's time goes), [`memory`] (what each party holds, in processes of their own), [`samples`] and [`report`]. Beside it
//! [`mod@sockets`], a round of a whole federation, whose members send [`vectors`], [`mod@load`], hundreds of light members at once, [`mod@committee`]: who holds the shares of
//! keys, and what that costs as a cohort grows, [`mod@account`], the privacy accountants, [`mod@privatise`], clipping and noise, [`mod@step`], a
//! training step record by record, [`mod@audit`], an audit of a long log, and [`mod@tune`], a training step beside PyTorch's.

pub mod account;
pub mod audit;
pub mod committee;
pub mod load;
pub mod memory;
pub mod options;
pub mod privatise;
pub mod reference;
pub mod report;
pub mod round;
pub mod samples;
pub mod sockets;
pub mod stages;
pub mod step;
pub mod tune;
pub mod values;
pub mod vectors;

use std::fmt::Display;

use crate::Result;
use options::{
    AccountOptions, AuditOptions, CommitteeOptions, LoadOptions, PrivatiseOptions, SealOptions,
    SocketOptions, StepOptions, TuneOptions,
};

/// `bench seal`: measures and tells.
pub fn seal(options: &SealOptions) -> Result<()> {
    let shape = options.shape()?;
    let report = report::Report {
        shape,
        threads: options.threads,
        reference: reference::measure(),
        stages: stages::measure(&shape)?,
        round: round::measure(options, &shape)?,
        peak_memory: memory::measure(&shape)?,
    };
    tell(options.json, report.to_json(), &report.to_table());
    Ok(())
}

/// `bench sockets`: measures and tells.
pub fn sockets(options: &SocketOptions) -> Result<()> {
    let measured = sockets::measure(options)?;
    tell(options.json, measured.to_json(), &measured.to_table());
    Ok(())
}

/// `bench load`: measures and tells.
pub fn load(options: &LoadOptions) -> Result<()> {
    let measured = load::measure(options)?;
    tell(options.json, measured.to_json(), &measured.to_table());
    Ok(())
}

/// `bench committee`: measures and tells.
pub fn committee(options: &CommitteeOptions) -> Result<()> {
    let report = committee::measure(options)?;
    tell(options.json, report.to_json(), &report.to_table());
    Ok(())
}

/// `bench step`: measures and tells.
pub fn step(options: &StepOptions) -> Result<()> {
    let measured = step::measure(options)?;
    tell(options.json, measured.to_json(), &measured.to_table());
    Ok(())
}

/// `bench tune`: measures and tells.
pub fn tune(options: &TuneOptions) -> Result<()> {
    let measured = tune::measure(options)?;
    tell(options.json, measured.to_json(), &measured.to_table());
    Ok(())
}

/// `bench account`: measures and tells.
pub fn account(options: &AccountOptions) -> Result<()> {
    let measured = account::measure(options)?;
    tell(options.json, measured.to_json(), &measured.to_table());
    Ok(())
}

/// `bench privatise`: measures and tells.
pub fn privatise(options: &PrivatiseOptions) -> Result<()> {
    let measured = privatise::measure(options)?;
    tell(options.json, measured.to_json(), &measured.to_table());
    Ok(())
}

/// `bench audit`: measures and tells.
pub fn audit(options: &AuditOptions) -> Result<()> {
    let measured = audit::measure(options)?;
    tell(options.json, measured.to_json(), &measured.to_table());
    Ok(())
}

/// One object, or what is for people.
fn tell(json: bool, object: impl Display, table: &str) {
    if json {
        println!("{object}");
    } else {
        print!("{table}");
    }
}
