//! A member's place in a cohort.

use std::fmt;

use crate::{
    digest::Fingerprint,
    envelope::Envelope,
    error::{Result, malformed},
};

/// The largest cohort (architecture: parameters are derived up to here).
pub const MAX_SEATS: usize = 1_000;

/// The point at which a member's Shamir share is evaluated: its place in the cohort, from 1.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShareIndex(u16);

impl ShareIndex {
    /// The seat with this number, from 1 to [`MAX_SEATS`].
    pub fn new(place: u16) -> Result<Self> {
        if place == 0 || usize::from(place) > MAX_SEATS {
            return Err(malformed(
                "seat",
                format!("{place} is not in 1..={MAX_SEATS}"),
            ));
        }
        Ok(Self(place))
    }

    /// The seat at this position, from 0.
    pub fn at(position: usize) -> Result<Self> {
        u16::try_from(position + 1)
            .map_err(|_| malformed("seat", format!("position {position}")))
            .and_then(Self::new)
    }

    /// The number, from 1.
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The position, from 0.
    pub const fn position(self) -> usize {
        self.0 as usize - 1
    }
}

impl fmt::Display for ShareIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A member of the cohort and the one-time key to seal to it with in this context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// Who sits here.
    pub member: Fingerprint,
    /// Its signed [`OneTimeKey`](crate::OneTimeKeyOffer).
    pub one_time_key: Envelope,
}
