//! The records of a run: read, checked, split into the members' shares and a common validation set.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::Path,
};

use ciphertune_tune::data::{Dataset, Record, SENTENCE, Schema, counts, split};
use serde_json::{Map, Value};

use crate::{
    error::{Error, Result},
    headlines,
    options::Options,
};

/// Sentences a member unless the command line says otherwise, with `--data`.
const PER_MEMBER: usize = 600;
/// The share of the embedded headlines that validates: one in so many.
const VALIDATION: usize = 6;

/// What is learned from, dealt out.
#[derive(Clone)]
pub struct Corpus {
    /// Where it comes from.
    pub source: String,
    /// The labels, sorted.
    pub labels: Vec<String>,
    /// How a record becomes text.
    pub template: String,
    /// Lines that repeated another, left out.
    pub duplicates: usize,
    /// One member's records each.
    pub members: Vec<Vec<Record>>,
    /// The rest.
    pub validation: Vec<Record>,
}

impl Corpus {
    /// The records that a command line names, dealt out.
    ///
    /// # Errors
    /// As [`Corpus::read`].
    pub fn of(options: &Options) -> Result<Self> {
        Self::read(
            options.data.as_deref(),
            options.members,
            options.per_member,
            options.seed,
        )
    }

    /// Reads `file`, or the embedded headlines, and deals them out.
    ///
    /// # Errors
    /// A malformed line is named with its file; too few records for the members are counted.
    pub fn read(
        file: Option<&Path>,
        members: usize,
        per_member: Option<usize>,
        seed: u64,
    ) -> Result<Self> {
        let data = match file {
            None => headlines::read()?,
            Some(path) => {
                fs::metadata(path).map_err(|error| {
                    Error::Usage(format!("data file {}: {error}", path.display()))
                })?;
                Dataset::read(path, &Schema::default())?
            }
        };
        let source = file.map_or_else(
            || headlines::NAME.to_owned(),
            |path| path.display().to_string(),
        );
        let labels: Vec<String> = data.counts().into_keys().collect();
        if labels.len() < 2 {
            return Err(Error::Refused(format!(
                "{source}: every record has the label {:?}; there is nothing to tell apart",
                labels.first().map_or("", String::as_str)
            )));
        }
        let template = template(data.records(), &source)?;
        let duplicates = data.duplicates();
        let records = data.into_records();
        let per_member = per_member.unwrap_or(match file {
            Some(_) => PER_MEMBER,
            None => (records.len() - records.len() / VALIDATION) / members.max(1),
        });
        let shares = split::federate(records, members, per_member, seed)?;
        Ok(Self {
            source,
            labels,
            template,
            duplicates,
            members: shares.members,
            validation: shares.validation,
        })
    }

    /// The share of the validation records that always answering the commonest label gets right.
    pub fn majority_class(&self) -> f64 {
        let most = counts(&self.validation).into_values().max().unwrap_or(0);
        most as f64 / self.validation.len().max(1) as f64
    }
}

/// `{sentence}`, or the one column that there is.
fn template(records: &[Record], source: &str) -> Result<String> {
    let columns: Vec<&str> = records
        .first()
        .map_or(Vec::new(), |record| record.columns().collect());
    match columns.as_slice() {
        columns if columns.contains(&SENTENCE) => Ok(format!("{{{SENTENCE}}}")),
        [only] => Ok(format!("{{{only}}}")),
        _ => Err(Error::Refused(format!(
            "{source}: no column {SENTENCE:?}; the columns are {columns:?}"
        ))),
    }
}

/// Writes records as JSON Lines.
pub fn write(records: &[Record], path: &Path) -> Result<()> {
    let failed =
        |error: std::io::Error| Error::fault(format_args!("writing {}", path.display()), error);
    let mut file = BufWriter::new(File::create(path).map_err(failed)?);
    for record in records {
        let mut object: Map<String, Value> = record
            .fields
            .iter()
            .map(|(column, text)| (column.clone(), text.as_str().into()))
            .collect();
        object.insert("label".into(), record.label.as_str().into());
        writeln!(file, "{}", Value::Object(object)).map_err(failed)?;
    }
    file.flush().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_survives_its_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("share.jsonl");
        let records = vec![
            Record::sentence("up \"5\" percent,\nsays A@B", "positive"),
            Record::sentence("flat", "neutral"),
        ];
        write(&records, &path).unwrap();
        let read = Dataset::read(&path, &Schema::default()).unwrap();
        assert_eq!(read.records(), records);
    }

    #[test]
    fn the_headlines_are_dealt_out_evenly_and_a_sixth_validates() {
        let corpus = Corpus::read(None, 3, None, 7).unwrap();
        assert_eq!(corpus.members.len(), 3);
        assert!(corpus.members.iter().all(|share| share.len() == 100));
        assert_eq!(corpus.validation.len(), 60);
        assert_eq!(corpus.template, "{sentence}");
        assert!(corpus.majority_class() < 0.6);
    }

    #[test]
    fn one_label_two_unknown_columns_and_too_few_records_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let refused = |name: &str, text: &str, want: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            let error = Corpus::read(Some(&path), 2, Some(1), 0).err().unwrap();
            assert!(error.to_string().contains(want), "{error}");
        };
        refused("a.txt", "a@x\nb@x\nc@x\n", "nothing to tell apart");
        refused(
            "b.csv",
            "p,q,label\n1,2,x\n3,4,y\n5,6,y\n",
            "no column \"sentence\"",
        );
        refused("c.txt", "a@x\nb@y\n", "2 records");
        refused("d.txt", "a@x\nbad\n", "d.txt, line 2");
    }
}
