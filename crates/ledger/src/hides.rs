//! What a dataset's budget is a promise of.

use std::fmt;

use ciphertune_policy::{Adjacency, Unit};

/// Whose presence a budget hides, and against which neighbours. A charge is right for these alone: what was spent on hiding
/// institutions says nothing of single records, and under replace-one it would have been four times as much as under zero-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hides {
    /// Whose presence.
    pub unit: Unit,
    /// Which inputs are neighbours.
    pub adjacency: Adjacency,
}

impl Hides {
    /// Exactly what is displayed.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (unit, adjacency) = text.split_once(' ')?;
        Some(Self {
            unit: unit.parse().ok()?,
            adjacency: adjacency.parse().ok()?,
        })
    }
}

impl fmt::Display for Hides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.unit, self.adjacency)
    }
}
