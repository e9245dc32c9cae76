//! A moment in UTC, to the second, as a policy writes it.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::Error;

/// Seconds since 1970-01-01T00:00:00Z, to the end of the year 9999. Written `2027-01-31T00:00:00Z` (RFC 3339, UTC, no
/// fraction): one text a value, since the policy's digest is taken over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(u64);

const DAY: u64 = 86_400;
/// 9999-12-31T23:59:59Z
const LAST: u64 = 253_402_300_799;

impl Instant {
    /// 1970-01-01T00:00:00Z
    pub const EPOCH: Self = Self(0);

    /// The instant so many seconds after 1970 began; `None` past the year 9999.
    #[must_use]
    pub fn from_seconds(seconds: u64) -> Option<Self> {
        (seconds <= LAST).then_some(Self(seconds))
    }

    /// Seconds since 1970.
    #[must_use]
    pub fn seconds(self) -> u64 {
        self.0
    }

    /// The instant so many days later, held to the last there is.
    #[must_use]
    pub fn after_days(self, days: u32) -> Self {
        Self((self.0 + u64::from(days) * DAY).min(LAST))
    }
}

impl From<SystemTime> for Instant {
    /// Cut to its second; a clock before 1970 or past 9999 gives the nearest end.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self(since.as_secs().min(LAST))
    }
}

impl fmt::Display for Instant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil_of(self.0 / DAY);
        let second = self.0 % DAY;
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

impl FromStr for Instant {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let parsed = parse(text);
        // One spelling: what it prints is what was written.
        match parsed.filter(|instant| instant.to_string() == text) {
            Some(instant) => Ok(instant),
            None => Err(Error::Malformed(format!(
                "{:?} is no instant from 1970 to 9999: write it in UTC like \"2027-01-31T00:00:00Z\"",
                text.chars().take(64).collect::<String>()
            ))),
        }
    }
}

fn parse(text: &str) -> Option<Instant> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let numbers = |text: &str, between: char| -> Option<[u64; 3]> {
        let parts: Vec<u64> = text
            .split(between)
            .map(|part| {
                let digits = part.bytes().all(|byte| byte.is_ascii_digit());
                part.parse().ok().filter(|_| digits && part.len() <= 4)
            })
            .collect::<Option<_>>()?;
        parts.try_into().ok()
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(time, ':')?;
    let plausible = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 60;
    plausible.then(|| Instant(days_of(year, month, day) * DAY + hour * 3600 + minute * 60 + second))
}

/// Days from 1970-01-01 to a date of the Gregorian calendar (Hinnant, "chrono-compatible low-level date algorithms",
/// `days_from_civil`, for years from 1970 on): years begin in March, so that the leap day is the last of one.
fn days_of(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// The date of a day since 1970 (the same source, `civil_from_days`).
fn civil_of(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = era * 400 + year + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_the_seconds_that_others_reckon() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2027-01-15T08:00:00Z", 1_800_000_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("9999-12-31T23:59:59Z", LAST),
        ] {
            let instant: Instant = text.parse().unwrap();
            assert_eq!(
                (instant.seconds(), instant.to_string().as_str()),
                (seconds, text)
            );
        }
    }

    #[test]
    fn days_of_every_year_survive_their_text() {
        for day in (0..=LAST / DAY).step_by(7) {
            let instant = Instant(day * DAY + day % DAY);
            assert_eq!(instant.to_string().parse::<Instant>().unwrap(), instant);
        }
    }

    #[test]
    fn other_spellings_and_days_that_never_come_are_refused() {
        for text in [
            "",
            "2027-01-31",
            "2027-01-31T00:00:00",
            "2027-01-31T00:00:00+00:00",
            "2027-1-31T00:00:00Z",
            "2027-02-29T00:00:00Z",
            "2027-02-31T00:00:00Z",
            "2027-01-31T24:00:00Z",
            "2027-01-31T00:00:60Z",
            "1969-12-31T23:59:59Z",
            "12027-01-31T00:00:00Z",
            "2027-01-31t00:00:00z",
            "２０２７-01-31T00:00:00Z",
        ] {
            let said = text.parse::<Instant>().unwrap_err().to_string();
            assert!(said.contains("2027-01-31T00:00:00Z"), "{said}");
        }
    }
}
