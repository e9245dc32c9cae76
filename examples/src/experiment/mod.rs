//! Many runs of the demonstration, compared. Every run is a cell: a folder that is finished once it has its `cell.json`,
//! and is then never run again.
//!
//! Read [`cells`] (what is kept, and begun anew), then [`mod@privacy`] (accuracy against ε) and [`mod@canaries`] (what a
//! trained prompt shows of its own ε).

pub mod canaries;
pub mod cells;
pub mod level;
pub mod options;
pub mod privacy;
