//! One line of the log: written, and read back strictly.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Longest line, newline excluded.
pub(crate) const LINE_BYTES: usize = 256 * 1024;
/// 9999-12-31T23:59:59Z, the last second that RFC 3339 can write, in seconds after 1970.
const LAST_SECOND: u64 = 253_402_300_799;

/// `{"sequence":0,"time":"2026-01-31T12:00:00.000Z","kind":"plan","fields":{…}}`, without a newline.
pub(crate) fn write(
    sequence: u64,
    kind: &str,
    fields: &Map<String, Value>,
    now: SystemTime,
) -> Result<Vec<u8>> {
    if !is_kind(kind) {
        return Err(Error::Misuse(
            "a kind is 1 to 64 of a-z, 0-9, '.', '_' and '-'".into(),
        ));
    }
    if let Some(name) = fields
        .iter()
        .find(|(_, value)| holds_float(value))
        .map(|(name, _)| name)
    {
        return Err(Error::Misuse(format!(
            "audit field `{name}` is a float: measurements never enter the log, and exact decimals are strings"
        )));
    }
    let fields =
        serde_json::to_string(fields).map_err(|error| Error::Misuse(format!("fields: {error}")))?;
    let time = utc(now)?;
    let line =
        format!(r#"{{"sequence":{sequence},"time":"{time}","kind":"{kind}","fields":{fields}}}"#);
    if line.len() > LINE_BYTES {
        return Err(Error::Misuse(format!(
            "an audit entry of more than {LINE_BYTES} bytes"
        )));
    }
    Ok(line.into_bytes())
}

/// Holds a line against its place; says what is wrong with it.
pub(crate) fn check(line: &[u8], sequence: u64) -> std::result::Result<(), String> {
    if line.len() > LINE_BYTES {
        return Err(format!("longer than {LINE_BYTES} bytes"));
    }
    let object: Map<String, Value> =
        serde_json::from_slice(line).map_err(|error| format!("not a JSON object: {error}"))?;
    if object.len() != 4 || !object.get("fields").is_some_and(Value::is_object) {
        return Err("not the four fields sequence, time, kind, fields".into());
    }
    if !object
        .get("time")
        .and_then(Value::as_str)
        .is_some_and(|time| time.ends_with('Z'))
    {
        return Err("no time in UTC".into());
    }
    if !object
        .get("kind")
        .and_then(Value::as_str)
        .is_some_and(is_kind)
    {
        return Err("no kind".into());
    }
    match object.get("sequence").and_then(Value::as_u64) {
        Some(found) if found == sequence => Ok(()),
        Some(found) => Err(format!("sequence number {found} where {sequence} belongs")),
        None => Err("no sequence number".into()),
    }
}

/// The kind and the fields of a line that was checked.
pub(crate) fn parts(line: &[u8]) -> Option<(String, Value)> {
    let mut object: Map<String, Value> = serde_json::from_slice(line).ok()?;
    let kind = object.get("kind")?.as_str()?.to_owned();
    Some((kind, object.remove("fields")?))
}

fn is_kind(kind: &str) -> bool {
    (1..=64).contains(&kind.len())
        && kind
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-'))
}

fn holds_float(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(holds_float),
        Value::Object(fields) => fields.values().any(holds_float),
        _ => false,
    }
}

/// RFC 3339, UTC, milliseconds.
fn utc(now: SystemTime) -> Result<String> {
    let since = now
        .duration_since(UNIX_EPOCH)
        .ok()
        .filter(|since| since.as_secs() <= LAST_SECOND);
    let since = since
        .ok_or_else(|| Error::Fault("the clock is not between the years 1970 and 9999".into()))?;
    let t = time::OffsetDateTime::from(UNIX_EPOCH + since);
    Ok(format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
        t.year(),
        u8::from(t.month()),
        t.day(),
        t.hour(),
        t.minute(),
        t.second(),
        t.millisecond()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_line_is_the_stated_bytes() {
        let fields = Map::from_iter([
            ("job".to_owned(), Value::from("ab")),
            ("round".to_owned(), Value::from(3)),
        ]);
        let now = UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        let line = write(7, "plan.accepted", &fields, now).unwrap();
        let expected = r#"{"sequence":7,"time":"2023-11-14T22:13:20.123Z","kind":"plan.accepted","fields":{"job":"ab","round":3}}"#;
        assert_eq!(String::from_utf8(line.clone()).unwrap(), expected);
        assert_eq!(check(&line, 7), Ok(()));
        assert!(check(&line, 8).unwrap_err().contains("7 where 8 belongs"));
    }

    #[test]
    fn floats_and_odd_kinds_are_refused() {
        let now = UNIX_EPOCH;
        let loss = Map::from_iter([("losses".to_owned(), Value::from(vec![0.5]))]);
        assert!(
            write(0, "round", &loss, now)
                .unwrap_err()
                .to_string()
                .contains("`losses` is a float")
        );
        for kind in ["", "Plan", "a b", "a\"b", &"x".repeat(65)] {
            assert!(write(0, kind, &Map::new(), now).is_err(), "{kind}");
        }
    }

    #[test]
    fn a_clock_out_of_range_is_a_fault_without_a_panic() {
        for now in [
            UNIX_EPOCH - Duration::from_secs(1),
            UNIX_EPOCH + Duration::from_secs(LAST_SECOND + 1),
        ] {
            assert!(matches!(
                write(0, "x", &Map::new(), now),
                Err(Error::Fault(_))
            ));
        }
        assert!(
            write(
                0,
                "x",
                &Map::new(),
                UNIX_EPOCH + Duration::from_secs(LAST_SECOND)
            )
            .is_ok()
        );
    }

    #[test]
    fn other_shapes_are_not_lines() {
        for line in [
            "",
            "[]",
            "{}",
            r#"{"sequence":0,"time":"2023-11-14T22:13:20.123Z","kind":"x"}"#,
            r#"{"sequence":0,"time":"2023-11-14T22:13:20.123Z","kind":"x","fields":{},"more":1}"#,
            r#"{"sequence":0,"time":"2023-11-14T22:13:20.123Z","kind":"x","fields":[]}"#,
            r#"{"sequence":-1,"time":"2023-11-14T22:13:20.123Z","kind":"x","fields":{}}"#,
            r#"{"sequence":0,"time":"noon","kind":"x","fields":{}}"#,
        ] {
            assert!(check(line.as_bytes(), 0).is_err(), "{line}");
        }
    }
}
