//! One line of a log: written, and read back strictly.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Map, Value};
use time::{Date, Month, PrimitiveDateTime, Time};

use crate::{
    error::{Error, Result},
    evidence::Evidence,
    frontier::{self, Hash},
};

/// Longest line, newline excluded.
pub(crate) const LINE_BYTES: usize = 256 * 1024;
/// 9999-12-31T23:59:59Z, the last second that RFC 3339 can write, in seconds after 1970.
const LAST_SECOND: u64 = 253_402_300_799;

/// An entry of a log, as it was read.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Its place, from 0.
    pub sequence: u64,
    /// When, in milliseconds after 1970, UTC.
    pub time: u64,
    /// What happened, one word.
    pub kind: String,
    /// What there is to say of it: names, counts, digests.
    pub fields: Map<String, Value>,
    /// SHA-256(0x00 ‖ line): its leaf in the Merkle tree.
    pub leaf: Hash,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    sequence: u64,
    time: String,
    kind: String,
    fields: Fields,
}

/// Each name once: two readers of a line read the same.
struct Fields(Map<String, Value>);

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Names;
        impl<'de> Visitor<'de> for Names {
            type Value = Fields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Fields, A::Error> {
                let mut fields = Map::new();
                while let Some((name, value)) = map.next_entry::<String, Value>()? {
                    if fields.insert(name, value).is_some() {
                        return Err(A::Error::custom("a field stands twice"));
                    }
                }
                Ok(Fields(fields))
            }
        }
        deserializer.deserialize_map(Names)
    }
}

impl Record {
    /// Reads a line, without its newline.
    ///
    /// # Errors
    /// `Malformed` for what a log never writes.
    pub fn parse(line: &[u8]) -> Result<Self> {
        let wrong = |what: String| Error::Malformed(what);
        if line.len() > LINE_BYTES {
            return Err(wrong(format!("longer than {LINE_BYTES} bytes")));
        }
        let raw: Raw = serde_json::from_slice(line).map_err(|error| {
            wrong(format!(
                "not the four fields sequence, time, kind, fields in JSON: {error}"
            ))
        })?;
        let time = millis(&raw.time).ok_or_else(|| wrong("no time in UTC".into()))?;
        if !is_kind(&raw.kind) {
            return Err(wrong("no kind".into()));
        }
        let fields = raw.fields.0;
        if let Some((name, _)) = fields.iter().find(|(_, value)| !is_plain(value)) {
            return Err(wrong(format!(
                "its field {name:?} is a float or an object, which no log has"
            )));
        }
        Ok(Self {
            sequence: raw.sequence,
            time,
            kind: raw.kind,
            fields,
            leaf: frontier::leaf(line),
        })
    }

    /// A field that is text.
    #[must_use]
    pub fn text(&self, field: &str) -> Option<&str> {
        self.fields.get(field)?.as_str()
    }

    /// A field that is a whole number.
    #[must_use]
    pub fn number(&self, field: &str) -> Option<u64> {
        self.fields.get(field)?.as_u64()
    }

    /// The names of the objects that the entry rests on.
    pub fn evidence(&self) -> impl Iterator<Item = &str> {
        let names = self.fields.get(Evidence::FIELD).and_then(Value::as_array);
        names
            .into_iter()
            .flatten()
            .map(|name| name.as_str().unwrap_or_default())
    }

    /// When, as the system counts.
    #[must_use]
    pub fn at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.time)
    }

    /// When, in words: RFC 3339, UTC, milliseconds.
    #[must_use]
    pub fn when(&self) -> String {
        in_words(self.time)
    }
}

/// `{"sequence":0,"time":"2026-01-31T12:00:00.000Z","kind":"plan","fields":{…}}`, without a newline.
pub(crate) fn write(
    sequence: u64,
    kind: &str,
    fields: &Map<String, Value>,
    time: u64,
) -> Result<Vec<u8>> {
    if !is_kind(kind) {
        return Err(Error::Misuse(
            "a kind is 1 to 64 of a-z, 0-9, '.', '_' and '-'".into(),
        ));
    }
    if let Some(name) = fields
        .iter()
        .find(|(_, value)| !is_plain(value))
        .map(|(name, _)| name)
    {
        return Err(Error::Misuse(format!(
            "audit field `{name}` is a float or an object: measurements never enter the log, and exact decimals are strings"
        )));
    }
    let fields =
        serde_json::to_string(fields).map_err(|error| Error::Misuse(format!("fields: {error}")))?;
    let time = in_words(time);
    let line =
        format!(r#"{{"sequence":{sequence},"time":"{time}","kind":"{kind}","fields":{fields}}}"#);
    if line.len() > LINE_BYTES {
        return Err(Error::Misuse(format!(
            "an audit entry of more than {LINE_BYTES} bytes"
        )));
    }
    Ok(line.into_bytes())
}

/// Milliseconds after 1970 of a clock that is one.
///
/// # Errors
/// `Fault` before 1970 and past 9999.
pub(crate) fn since_1970(now: SystemTime) -> Result<u64> {
    now.duration_since(UNIX_EPOCH)
        .ok()
        .filter(|since| since.as_secs() <= LAST_SECOND)
        .and_then(|since| u64::try_from(since.as_millis()).ok())
        .ok_or_else(|| Error::Fault("the clock is not between the years 1970 and 9999".into()))
}

fn is_kind(kind: &str) -> bool {
    (1..=64).contains(&kind.len())
        && kind
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

/// A text, a whole number, a truth value, or a list of these.
fn is_plain(value: &Value) -> bool {
    match value {
        Value::Number(number) => !number.is_f64(),
        Value::Array(items) => items.iter().all(|item| !item.is_array() && is_plain(item)),
        Value::Object(_) => false,
        _ => true,
    }
}

/// Milliseconds after 1970 as a log writes them: RFC 3339, UTC.
#[must_use]
pub fn in_words(millis: u64) -> String {
    let t = time::OffsetDateTime::from(UNIX_EPOCH + Duration::from_millis(millis));
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second(),
        t.millisecond()
    )
}

/// Reads [`in_words`] and nothing else.
fn millis(text: &str) -> Option<u64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<u16> {
        let digits = bytes.get(from..to)?;
        let all = digits.iter().all(u8::is_ascii_digit);
        all.then(|| text.get(from..to)?.parse().ok()).flatten()
    };
    let small = |from, to| u8::try_from(number(from, to)?).ok();
    let month = Month::try_from(small(5, 7)?).ok()?;
    let date = Date::from_calendar_date(number(0, 4)?.into(), month, small(8, 10)?).ok()?;
    let time = Time::from_hms_milli(
        small(11, 13)?,
        small(14, 16)?,
        small(17, 19)?,
        number(20, 23)?,
    );
    let nanos = PrimitiveDateTime::new(date, time.ok()?)
        .assume_utc()
        .unix_timestamp_nanos();
    let millis = u64::try_from(nanos / 1_000_000).ok()?;
    (in_words(millis) == text).then_some(millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_700_000_000_123;

    #[test]
    fn a_line_is_the_stated_bytes_and_reads_back() {
        let fields = Map::from_iter([
            ("job".to_owned(), Value::from("ab")),
            ("round".to_owned(), Value::from(3)),
        ]);
        let line = write(7, "plan.accepted", &fields, NOW).unwrap();
        let expected = r#"{"sequence":7,"time":"2023-11-14T22:13:20.123Z","kind":"plan.accepted","fields":{"job":"ab","round":3}}"#;
        assert_eq!(String::from_utf8(line.clone()).unwrap(), expected);
        let record = Record::parse(&line).unwrap();
        assert_eq!((record.sequence, record.time), (7, NOW));
        assert_eq!(
            (record.kind.as_str(), &record.fields),
            ("plan.accepted", &fields)
        );
        assert_eq!(record.when(), "2023-11-14T22:13:20.123Z");
    }

    #[test]
    fn floats_and_odd_kinds_are_refused() {
        let loss = Map::from_iter([("losses".to_owned(), Value::from(vec![0.5]))]);
        assert!(
            write(0, "round", &loss, NOW)
                .unwrap_err()
                .to_string()
                .contains("`losses` is a float or")
        );
        for kind in ["", "Plan", "a b", "a\"b", &"x".repeat(65)] {
            assert!(write(0, kind, &Map::new(), NOW).is_err(), "{kind}");
        }
    }

    #[test]
    fn a_clock_out_of_range_is_a_fault_without_a_panic() {
        for now in [
            UNIX_EPOCH - Duration::from_secs(1),
            UNIX_EPOCH + Duration::from_secs(LAST_SECOND + 1),
        ] {
            assert!(matches!(since_1970(now), Err(Error::Fault(_))));
        }
        let last = since_1970(UNIX_EPOCH + Duration::from_secs(LAST_SECOND)).unwrap();
        let line = write(0, "x", &Map::new(), last).unwrap();
        assert_eq!(Record::parse(&line).unwrap().time, last);
    }

    #[test]
    fn other_shapes_are_not_lines() {
        for line in [
            "",
            "[]",
            "{}",
            r#"{"sequence":0,"time":"2023-11-14T22:13:20.123Z","kind":"x"}"#,
            r#"{"sequence":0,"time":"2023-11-14T22:13:20.123Z","kind":"x","fields":{},"more":1}"#,
            r#"{"sequence":0,"time":"2023-11-14T22:13:20.123Z","kind":"x","fields":{},"kind":"y"}"#,
            r#"{"sequence":0,"time":"2023-11-14T22:13:20.123Z","kind":"x","fields":[]}"#,
            r#"{"sequence":0,"time":"2023-11-14T22:13:20.123Z","kind":"x","fields":{"a":1,"a":2}}"#,
            r#"{"sequence":0,"time":"2023-11-14T22:13:20.123Z","kind":"x","fields":{"a":[1.5]}}"#,
            r#"{"sequence":0,"time":"2023-11-14T22:13:20.123Z","kind":"x","fields":{"a":{}}}"#,
            r#"{"sequence":0,"time":"2023-11-14T22:13:20.123Z","kind":"x","fields":{"a":[[]]}}"#,
            r#"{"sequence":-1,"time":"2023-11-14T22:13:20.123Z","kind":"x","fields":{}}"#,
            r#"{"sequence":0,"time":"2023-11-14T22:13:20.123Z","kind":"","fields":{}}"#,
            r#"{"sequence":0,"time":"noon","kind":"x","fields":{}}"#,
            r#"{"sequence":0,"time":"2023-11-14T22:13:20Z","kind":"x","fields":{}}"#,
            r#"{"sequence":0,"time":"2023-02-30T22:13:20.123Z","kind":"x","fields":{}}"#,
            r#"{"sequence":0,"time":"2023-11-14T22:13:20.123+01:00","kind":"x","fields":{}}"#,
            r#"{"sequence":0,"time":"1969-11-14T22:13:20.123Z","kind":"x","fields":{}}"#,
        ] {
            assert!(Record::parse(line.as_bytes()).is_err(), "{line}");
        }
    }
}
