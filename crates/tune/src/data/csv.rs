//! CSV (RFC 4180) with a header line.

use std::collections::{BTreeMap, HashSet};

use super::{Record, Result, Source, decode};

/// Reads a header and one record a row; quoted fields may span lines.
pub(super) fn parse(bytes: &[u8], source: &Source<'_>) -> Result<Vec<Record>> {
    let text = decode(bytes);
    let mut reader = csv::ReaderBuilder::new()
        .flexible(true)
        .from_reader(text.as_bytes());
    let header: Vec<String> = reader
        .headers()
        .map_err(|e| source.malformed(1, e))?
        .iter()
        .map(|column| column.trim().to_owned())
        .collect();
    if header.iter().all(String::is_empty) {
        return Ok(Vec::new());
    }
    check_header(&header, source)?;
    let mut records = Vec::new();
    for row in reader.records() {
        let row = row.map_err(|e| {
            let line = e.position().map_or(0, csv::Position::line);
            source.malformed(line as usize, e)
        })?;
        let number = row.position().map_or(0, csv::Position::line) as usize;
        if row.len() != header.len() {
            let what = format!("{} fields; the header has {}", row.len(), header.len());
            return Err(source.malformed(number, what));
        }
        let mut fields: BTreeMap<String, String> = (header.iter().cloned())
            .zip(row.iter().map(str::to_owned))
            .collect();
        let label = fields.remove(&source.schema.label_column);
        let label = source.label(number, label.as_deref().unwrap_or(""))?;
        records.push(Record { fields, label });
    }
    Ok(records)
}

fn check_header(header: &[String], source: &Source<'_>) -> Result<()> {
    let column = &source.schema.label_column;
    if !header.contains(column) {
        let what = format!("no column {column:?} for the label; the header has {header:?}");
        return Err(source.malformed(1, what));
    }
    let mut seen = HashSet::new();
    for name in header {
        if !seen.insert(name) {
            return Err(source.malformed(1, format!("two columns are named {name:?}")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::data::{Dataset, Schema};

    fn read(text: &str) -> crate::Result<Dataset> {
        Dataset::parse(text.as_bytes(), "csv", "a.csv", &Schema::default())
    }

    #[test]
    fn quoted_fields_keep_their_commas_and_line_breaks() {
        let data = read("sentence, label,n\r\n\"a, \"\"b\"\"\nc\",x,1\r\nd,y,2\r\n").unwrap();
        let [first, second] = data.records() else {
            panic!("{data:?}")
        };
        assert_eq!(first.fields["sentence"], "a, \"b\"\nc");
        assert_eq!((first.label.as_str(), second.label.as_str()), ("x", "y"));
        assert_eq!(second.columns().collect::<Vec<_>>(), ["n", "sentence"]);
    }

    #[test]
    fn a_malformed_row_or_header_is_an_error_with_its_file_and_line() {
        for (text, want) in [
            (
                "sentence,label\na,x\nb\n",
                "a.csv, line 3: 1 fields; the header has 2",
            ),
            (
                "sentence,label\n\"a\nb\",x\nc,y,z\n",
                "a.csv, line 4: 3 fields",
            ),
            ("sentence,tag\na,x\n", "line 1: no column \"label\""),
            ("label,label\na,x\n", "line 1: two columns are named"),
            ("sentence,label\na,\n", "line 2: the label is empty"),
            ("sentence,label\n", "holds no record"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }

    #[test]
    fn the_label_column_can_be_named() {
        let schema = Schema {
            label_column: "tag".to_owned(),
            labels: vec![],
        };
        let data = Dataset::parse(b"sentence,tag\na,x\n", "csv", "f", &schema).unwrap();
        assert_eq!(data.records()[0].label, "x");
    }
}
