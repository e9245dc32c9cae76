//! A text on the command line or a line of standard input, as a record without an answer.

use std::{collections::BTreeMap, io::BufRead as _};

use ciphertune_client::{Error, Result};
use ciphertune_tune::{
    data::{Record, decode, fields},
    template::Template,
};
use serde_json::{Map, Value};

/// A JSON object gives the template's columns by name; anything else is the template's only column.
///
/// # Errors
/// [`Error::Misuse`] naming the text (from 1): a text where the template has several columns, or columns that it does not have.
pub fn parse(text: &str, template: &Template, number: usize) -> Result<Record> {
    let refused = |what: String| Error::Misuse(format!("text {number}: {what}"));
    let fields = match serde_json::from_str::<Map<String, Value>>(text) {
        Ok(object) => fields(object).map_err(refused)?,
        Err(_) => match template.only_column() {
            Some(column) => BTreeMap::from([(column.to_owned(), text.to_owned())]),
            None => {
                return Err(refused(format!(
                    "the template {template} has several columns; give a JSON object with each of them"
                )));
            }
        },
    };
    let record = Record {
        fields,
        label: String::new(),
    };
    template
        .prompt(&record)
        .map_err(|error| refused(error.to_string()))?;
    Ok(record)
}

/// The lines of standard input, from 1, UTF-8 or Latin-1, white space at their ends taken off.
pub fn lines() -> impl Iterator<Item = Result<(usize, String)>> {
    let mut input = std::io::stdin().lock();
    (1..).map_while(move |number| {
        let mut line = Vec::new();
        match input.read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) => Some(Ok((number, decode(&line).trim().to_owned()))),
            Err(error) => Some(Err(Error::Fault(format!(
                "standard input, line {number}: {error}"
            )))),
        }
    })
}
