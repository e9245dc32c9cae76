//! JSON Lines: one object a line.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{Record, Result, Source};

/// Reads one object a line; every object has the first one's columns.
pub(super) fn parse(bytes: &[u8], source: &Source<'_>) -> Result<Vec<Record>> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut records: Vec<Record> = Vec::new();
    for (index, line) in bytes.split(|&b| b == b'\n').enumerate() {
        let number = index + 1;
        if line.trim_ascii().is_empty() {
            continue;
        }
        let object: Map<String, Value> = serde_json::from_slice(line).map_err(|e| {
            let what = format!("not a JSON object ({e}); expected one object a line");
            source.malformed(number, what)
        })?;
        let record = record(object, number, source)?;
        if let Some(first) = records.first() {
            same_columns(first, &record, number, source)?;
        }
        records.push(record);
    }
    Ok(records)
}

/// An object's columns as text.
///
/// # Errors
/// What is wrong with a column, in words.
pub fn fields(object: Map<String, Value>) -> Result<BTreeMap<String, String>, String> {
    let text = |(column, value)| match value {
        Value::String(text) => Ok((column, text)),
        Value::Number(number) => Ok((column, number.to_string())),
        Value::Bool(truth) => Ok((column, truth.to_string())),
        Value::Null | Value::Array(_) | Value::Object(_) => Err(format!(
            "column {column:?} is not a string, a number or true/false"
        )),
    };
    object.into_iter().map(text).collect()
}

fn record(object: Map<String, Value>, number: usize, source: &Source<'_>) -> Result<Record> {
    let mut fields = fields(object).map_err(|what| source.malformed(number, what))?;
    let column = &source.schema.label_column;
    let Some(label) = fields.remove(column) else {
        let known: Vec<_> = fields.keys().collect();
        let what = format!("no column {column:?} for the label; the columns are {known:?}");
        return Err(source.malformed(number, what));
    };
    let label = source.label(number, &label)?;
    Ok(Record { fields, label })
}

fn same_columns(first: &Record, this: &Record, number: usize, source: &Source<'_>) -> Result<()> {
    if first.columns().eq(this.columns()) {
        return Ok(());
    }
    let want: Vec<_> = first.columns().collect();
    let have: Vec<_> = this.columns().collect();
    Err(source.malformed(
        number,
        format!("columns {have:?}; expected {want:?} as in the first record"),
    ))
}

#[cfg(test)]
mod tests {
    use crate::data::{Dataset, Schema};

    fn read(text: &str) -> crate::Result<Dataset> {
        Dataset::parse(text.as_bytes(), "jsonl", "a.jsonl", &Schema::default())
    }

    #[test]
    fn objects_become_records_with_numbers_as_text() {
        let text = "{\"context\":\"c ä\",\"n\":2,\"label\":1}\r\n\n{\"label\":\"x\",\"n\":true,\"context\":\"d\"}";
        let data = read(text).unwrap();
        let [first, second] = data.records() else {
            panic!("{data:?}")
        };
        assert_eq!(
            (first.label.as_str(), first.fields["n"].as_str()),
            ("1", "2")
        );
        assert_eq!(first.fields["context"], "c ä");
        assert_eq!(second.columns().collect::<Vec<_>>(), ["context", "n"]);
    }

    #[test]
    fn a_malformed_line_is_an_error_with_its_file_and_line() {
        let good = "{\"s\":\"a\",\"label\":\"x\"}\n";
        for (bad, want) in [
            ("{\"s\":\"a\"", "not a JSON object"),
            ("[1,2]", "not a JSON object"),
            ("{\"s\":\"a\"}", "no column \"label\""),
            (
                "{\"s\":[\"a\"],\"label\":\"x\"}",
                "column \"s\" is not a string",
            ),
            ("{\"s\":\"a\",\"label\":\" \"}", "the label is empty"),
            ("{\"t\":\"a\",\"label\":\"x\"}", "expected [\"s\"]"),
        ] {
            let error = read(&format!("{good}{bad}\n")).unwrap_err().to_string();
            assert!(
                error.contains("a.jsonl, line 2") && error.contains(want),
                "{error}"
            );
        }
        let latin = Dataset::parse(b"{\"s\":\"\xF6\"}", "jsonl", "f", &Schema::default());
        assert!(latin.unwrap_err().to_string().contains("line 1"));
    }
}
