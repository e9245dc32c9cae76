//! A text on the command line or a line of standard input, as a record without an answer.

use std::collections::BTreeMap;

use ciphertune_client::{Error, Result};
use ciphertune_tune::{data::Record, template::Template};
use serde_json::{Map, Value};

/// A JSON object gives the template's columns by name; anything else is the template's only column.
///
/// # Errors
/// [`Error::Misuse`] naming the text (from 1): a text where the template has several columns, or columns that it does not have.
pub fn parse(text: &str, template: &Template, number: usize) -> Result<Record> {
    let refused = |what: String| Error::Misuse(format!("text {number}: {what}"));
    let fields = match serde_json::from_str::<Map<String, Value>>(text) {
        Ok(object) => {
            let mut fields = BTreeMap::new();
            for (name, value) in object {
                let value = match value {
                    Value::String(text) => text,
                    Value::Number(number) => number.to_string(),
                    Value::Bool(truth) => truth.to_string(),
                    _ => {
                        return Err(refused(format!(
                            "column {name:?} is not a string, a number or true/false"
                        )));
                    }
                };
                fields.insert(name, value);
            }
            fields
        }
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

/// Standard input that cannot be read.
pub fn unreadable(error: std::io::Error) -> Error {
    Error::Misuse(format!("cannot read standard input: {error}"))
}
