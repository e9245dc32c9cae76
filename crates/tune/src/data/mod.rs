//! Labelled records and the files they come from.
//!
//! One record type for every task: named text columns and one label. Three
//! file formats are read: `sentence@label` lines, JSON Lines and CSV. Nothing
//! is guessed about a line that does not fit: the error names the file, the
//! line and what was expected there.

mod csv;
mod jsonl;
mod sentence_label;
pub mod split;

pub use jsonl::fields;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::{Error, Result};

/// One labelled example: text columns by name, and the label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Record {
    /// Column name → text. The label's column is not among them.
    pub fields: BTreeMap<String, String>,
    /// The label as the file writes it, trimmed.
    pub label: String,
}

impl Record {
    /// A record of one column `sentence`, as `sentence@label` files hold.
    pub fn sentence(sentence: impl Into<String>, label: impl Into<String>) -> Self {
        Self {
            fields: BTreeMap::from([(SENTENCE.to_owned(), sentence.into())]),
            label: label.into(),
        }
    }

    /// The names of the columns, in order.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.fields.keys().map(String::as_str)
    }
}

/// The column a `sentence@label` file's text goes to.
pub const SENTENCE: &str = "sentence";

/// How a file writes records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `text@label`, one record a line; UTF-8 or Latin-1, LF or CRLF. The last `@` divides.
    SentenceLabel,
    /// One JSON object a line, UTF-8.
    JsonLines,
    /// RFC 4180 with a header line; UTF-8 or Latin-1.
    Csv,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SentenceLabel => "sentence@label",
            Self::JsonLines => "JSON Lines",
            Self::Csv => "CSV",
        })
    }
}

/// What the reader must find.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    /// The label's column in JSON Lines and CSV.
    pub label_column: String,
    /// The labels that may occur; empty: any.
    pub labels: Vec<String>,
}

impl Default for Schema {
    /// The column `label`, any value.
    fn default() -> Self {
        Self {
            label_column: "label".to_owned(),
            labels: Vec::new(),
        }
    }
}

impl Schema {
    /// The column `label`, holding one of `labels`.
    pub fn with_labels<S: Into<String>>(labels: impl IntoIterator<Item = S>) -> Self {
        Self {
            labels: labels.into_iter().map(Into::into).collect(),
            ..Self::default()
        }
    }
}

/// The distinct records of a file, in the file's order.
#[derive(Debug, Clone)]
pub struct Dataset {
    records: Vec<Record>,
    duplicates: usize,
    format: Format,
    sha256: [u8; 32],
}

impl Dataset {
    /// Reads `path`, in the format its extension or else its first line says.
    ///
    /// # Errors
    /// [`Error::Fault`] where the file cannot be read; [`Error::Malformed`]
    /// for an empty file, a line that is not a record, a missing column or a
    /// label outside `schema.labels`, naming the file and the line.
    pub fn read(path: &Path, schema: &Schema) -> Result<Self> {
        let bytes = std::fs::read(path)
            .map_err(|e| Error::Fault(format!("cannot read {}: {e}", path.display())))?;
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("");
        Self::parse(&bytes, extension, &path.display().to_string(), schema)
    }

    /// As [`Dataset::read`], of bytes already read; `name` stands for the file in errors.
    ///
    /// # Errors
    /// As [`Dataset::read`].
    pub fn parse(bytes: &[u8], extension: &str, name: &str, schema: &Schema) -> Result<Self> {
        let source = Source { name, schema };
        let format = source.format(bytes, extension)?;
        let parsed = match format {
            Format::SentenceLabel => sentence_label::parse(bytes, &source)?,
            Format::JsonLines => jsonl::parse(bytes, &source)?,
            Format::Csv => csv::parse(bytes, &source)?,
        };
        if parsed.is_empty() {
            return Err(Error::Malformed(format!("{name}: holds no record")));
        }
        let total = parsed.len();
        let records = distinct(parsed);
        Ok(Self {
            duplicates: total - records.len(),
            records,
            format,
            sha256: Sha256::digest(bytes).into(),
        })
    }

    /// The distinct records, in the file's order.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// The distinct records, in the file's order.
    pub fn into_records(self) -> Vec<Record> {
        self.records
    }

    /// How many lines repeated an earlier record exactly, and were left out.
    pub fn duplicates(&self) -> usize {
        self.duplicates
    }

    /// SHA-256 of the bytes that were read.
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }

    /// The format the file was read in.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Label → number of distinct records, in the labels' alphabetical order.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        counts(&self.records)
    }
}

/// Label → number of records, in the labels' alphabetical order.
pub fn counts(records: &[Record]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for record in records {
        *counts.entry(record.label.clone()).or_insert(0) += 1;
    }
    counts
}

/// The first of each set of equal records, in order.
fn distinct(records: Vec<Record>) -> Vec<Record> {
    let mut seen = HashSet::with_capacity(records.len());
    records
        .into_iter()
        .filter(|record| seen.insert(record.clone()))
        .collect()
}

/// The file being read, for its schema and its errors.
struct Source<'a> {
    name: &'a str,
    schema: &'a Schema,
}

impl Source<'_> {
    /// An error at a line (counted from 1).
    fn malformed(&self, line: usize, what: impl fmt::Display) -> Error {
        Error::Malformed(format!("{}, line {line}: {what}", self.name))
    }

    /// Checks and trims a label.
    fn label(&self, line: usize, label: &str) -> Result<String> {
        let label = label.trim();
        if label.is_empty() {
            return Err(self.malformed(line, "the label is empty"));
        }
        let known = &self.schema.labels;
        if !known.is_empty() && !known.iter().any(|k| k == label) {
            return Err(self.malformed(
                line,
                format!("unknown label {label:?}; expected one of {known:?}"),
            ));
        }
        Ok(label.to_owned())
    }

    /// The format by extension, else by the first line that is not blank.
    fn format(&self, bytes: &[u8], extension: &str) -> Result<Format> {
        match extension.to_ascii_lowercase().as_str() {
            "jsonl" | "ndjson" => return Ok(Format::JsonLines),
            "csv" => return Ok(Format::Csv),
            _ => {}
        }
        let text = decode(bytes);
        let Some((index, first)) = (text.lines().enumerate()).find(|(_, l)| !l.trim().is_empty())
        else {
            return Err(Error::Malformed(format!(
                "{}: the file is empty",
                self.name
            )));
        };
        if first.trim_start().starts_with('{') {
            Ok(Format::JsonLines)
        } else if first.contains('@') {
            Ok(Format::SentenceLabel)
        } else if first.contains(',') {
            Ok(Format::Csv)
        } else {
            Err(self.malformed(
                index + 1,
                "not a format known here; expected `sentence@label` lines, JSON Lines \
                 (one object a line) or CSV with a header",
            ))
        }
    }
}

/// UTF-8 (a byte-order mark is dropped) or, where the bytes are not UTF-8, Latin-1.
pub fn decode(bytes: &[u8]) -> String {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    match std::str::from_utf8(bytes) {
        Ok(utf8) => utf8.to_owned(),
        Err(_) => bytes.iter().map(|&b| char::from(b)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8], extension: &str) -> Result<Dataset> {
        Dataset::parse(text, extension, "file", &Schema::default())
    }

    #[test]
    fn the_format_is_chosen_by_extension_then_by_content() {
        let of = |text: &[u8], ext: &str| read(text, ext).unwrap().format();
        assert_eq!(of(b"a b@x\n", "txt"), Format::SentenceLabel);
        assert_eq!(of(b"a b@x\n", ""), Format::SentenceLabel);
        let json = br#"{"sentence":"a@b","label":"x"}"#;
        assert_eq!(of(json, "txt"), Format::JsonLines);
        assert_eq!(of(json, "jsonl"), Format::JsonLines);
        assert_eq!(of(b"sentence,label\na@b,x\n", "CSV"), Format::Csv);
        assert_eq!(of(b"sentence,label\na@b,x\n", "data"), Format::Csv);
    }

    #[test]
    fn an_empty_file_and_an_unknown_format_are_refused_by_name() {
        for extension in ["txt", "jsonl", "csv"] {
            let error = read(b" \r\n\n", extension).unwrap_err().to_string();
            assert!(error.contains("file"), "{error}");
        }
        let error = read(b"\njust words\n", "txt").unwrap_err().to_string();
        assert!(
            error.contains("file, line 2") && error.contains("CSV"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_a_fault_that_names_it() {
        let error = Dataset::read(Path::new("/no/such/file.csv"), &Schema::default()).unwrap_err();
        assert!(matches!(error, Error::Fault(_)));
        assert!(error.to_string().contains("/no/such/file.csv"));
    }

    #[test]
    fn exact_duplicates_are_left_out_and_counted_and_same_text_with_another_label_stays() {
        let data = read(b"a@x\nb@x\na@x\na@y\nb@x\n", "txt").unwrap();
        assert_eq!(data.duplicates(), 2);
        assert_eq!(
            data.records(),
            [
                Record::sentence("a", "x"),
                Record::sentence("b", "x"),
                Record::sentence("a", "y")
            ]
        );
        let counts: Vec<_> = data.counts().into_iter().collect();
        assert_eq!(counts, [("x".to_owned(), 2), ("y".to_owned(), 1)]);
    }

    #[test]
    fn phrasebank_reads_as_its_readme_counts_it() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/data/phrasebank/Sentences_AllAgree.txt"
        );
        if !Path::new(path).exists() {
            eprintln!("SKIPPED: no PhraseBank at {path}");
            return;
        }
        let schema = Schema::with_labels(["negative", "neutral", "positive"]);
        let data = Dataset::read(Path::new(path), &schema).unwrap();
        assert_eq!(data.records().len() + data.duplicates(), 2_264);
        assert!(
            (1..=6).contains(&data.duplicates()),
            "{}",
            data.duplicates()
        );
        // Latin-1 letters arrive as letters, not as replacement characters.
        let texts = || data.records().iter().map(|r| &r.fields[SENTENCE]);
        assert!(texts().any(|t| t.contains('ä') || t.contains('ö')));
        assert!(!texts().any(|t| t.contains('\u{FFFD}') || t.contains('\r')));
    }
}
