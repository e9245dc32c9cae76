//! From when until when a certificate or a revocation list holds.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use time::OffsetDateTime;

use crate::error::{Error, Result};

/// The authority's own certificate, by default: ten years.
pub const AUTHORITY_DAYS: u32 = 3650;
/// A party's certificate, by default: ninety days.
pub const LEAF_DAYS: u32 = 90;

/// How much two parties' clocks may differ when something was just issued: five minutes.
const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// 9999-12-31T23:59:59Z: the last second that a certificate can write (RFC 5280 §4.1.2.5).
const LAST: u64 = 253_402_300_799;

/// Two instants in whole seconds since 1970, UTC, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    not_before: u64,
    not_after: u64,
}

impl Validity {
    /// From `not_before` until `not_after`, each cut to its second.
    pub fn between(not_before: SystemTime, not_after: SystemTime) -> Result<Self> {
        Self::of_seconds(seconds(not_before)?, seconds(not_after)?)
    }

    /// From `start`, for so many days.
    pub fn days(start: SystemTime, days: u32) -> Result<Self> {
        let end = start
            .checked_add(Duration::from_secs(u64::from(days) * 86_400))
            .ok_or_else(out_of_range)?;
        Self::between(start, end)
    }

    /// For so many days from `now` on, and from a little before: clocks differ.
    pub fn issued(now: SystemTime, days: u32) -> Result<Self> {
        let from = now.checked_sub(CLOCK_SKEW).unwrap_or(UNIX_EPOCH);
        let until = Self::days(now, days)?.not_after;
        Self::of_seconds(seconds(from)?, until)
    }

    pub(crate) fn of_seconds(not_before: u64, not_after: u64) -> Result<Self> {
        if not_after > LAST {
            return Err(out_of_range());
        }
        if not_after <= not_before {
            return Err(Error::Misuse(
                "a validity that ends before it begins".into(),
            ));
        }
        Ok(Self {
            not_before,
            not_after,
        })
    }

    /// First second, since 1970.
    pub fn not_before(&self) -> u64 {
        self.not_before
    }

    /// Last second, since 1970.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// Whether it holds at `now`, or did before.
    pub fn has_begun(&self, now: SystemTime) -> bool {
        seconds(now).is_ok_and(|now| self.not_before <= now)
    }

    /// Whether `now` is inside.
    pub fn contains(&self, now: SystemTime) -> bool {
        seconds(now).is_ok_and(|now| (self.not_before..=self.not_after).contains(&now))
    }

    /// First second, for people.
    pub fn start(&self) -> Moment {
        Self::instant(self.not_before)
    }

    /// Last second, for people.
    pub fn end(&self) -> Moment {
        Self::instant(self.not_after)
    }

    /// How many seconds are left at `now`; 0 when it has ended.
    pub fn seconds_left(&self, now: SystemTime) -> u64 {
        self.not_after.saturating_sub(seconds(now).unwrap_or(0))
    }

    /// Seconds since 1970, for people.
    pub fn instant(seconds: u64) -> Moment {
        Moment(seconds)
    }

    /// A moment, for people.
    pub fn moment(at: SystemTime) -> Moment {
        Moment(seconds(at).unwrap_or(0))
    }

    pub(crate) fn encloses(&self, inner: &Self) -> bool {
        self.not_before <= inner.not_before && inner.not_after <= self.not_after
    }

    /// Both ends as a certificate writes them.
    pub(crate) fn dates(&self) -> Result<(OffsetDateTime, OffsetDateTime)> {
        Ok((date(self.not_before)?, date(self.not_after)?))
    }
}

/// A second as RFC 3339 writes it, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment(u64);

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = date(self.0.min(LAST)).map_err(|_| fmt::Error)?;
        let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
        let (hour, minute, second) = at.to_hms();
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

fn seconds(at: SystemTime) -> Result<u64> {
    at.duration_since(UNIX_EPOCH)
        .map(|since| since.as_secs())
        .map_err(|_| out_of_range())
}

pub(crate) fn date(seconds: u64) -> Result<OffsetDateTime> {
    let seconds = i64::try_from(seconds).map_err(|_| out_of_range())?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| out_of_range())
}

fn out_of_range() -> Error {
    Error::Misuse("an instant before 1970 or after the year 9999".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_validity_that_ends_before_it_begins_is_refused() {
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert!(Validity::between(now, now).is_err());
        assert!(Validity::between(now, now - Duration::from_secs(1)).is_err());
        assert!(Validity::days(now, 0).is_err());
        assert!(Validity::days(now, u32::MAX).is_err());
        assert!(Validity::days(UNIX_EPOCH - Duration::from_secs(9), 1).is_err());
    }

    #[test]
    fn a_moment_is_written_in_utc() {
        let validity = Validity::of_seconds(951_782_399, LAST).unwrap();
        assert_eq!(validity.start().to_string(), "2000-02-28T23:59:59Z");
        assert_eq!(validity.end().to_string(), "9999-12-31T23:59:59Z");
        let before = UNIX_EPOCH + Duration::from_secs(LAST - 9);
        assert_eq!(validity.seconds_left(before), 9);
    }

    #[test]
    fn both_ends_are_inside() {
        let start = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let validity = Validity::days(start, LEAF_DAYS).unwrap();
        let end = start + Duration::from_secs(90 * 86_400);
        for (at, inside) in [
            (start - Duration::from_secs(1), false),
            (start, true),
            (end, true),
            (end + Duration::from_secs(1), false),
        ] {
            assert_eq!(validity.contains(at), inside);
        }
    }
}
