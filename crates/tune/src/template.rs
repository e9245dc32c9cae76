//! Templates: how a record becomes the text the backbone reads.

use std::fmt;

use crate::data::Record;
use crate::{Error, Result};

/// The placeholder of the answer.
const LABEL: &str = "label";

/// A parsed template, e.g. `"{sentence} sentiment: {label}"`.
///
/// `{name}` stands for a column, `{label}` for the answer, `{{` and `}}` for
/// braces. The answer, where there is one, comes last and once; white space
/// before it belongs to the answer (most tokenizers keep a word's leading
/// space in the word).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
    /// The white space between the prompt and the answer; none: the template has no answer.
    answer: Option<String>,
    source: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Column(String),
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// [`Error::Misuse`] for a brace without its partner, an empty name, no
    /// column at all, or an answer that is not last.
    pub fn parse(source: &str) -> Result<Self> {
        let misuse = |what: String| Error::Misuse(format!("template {source:?}: {what}"));
        let mut pieces = Vec::new();
        let mut text = String::new();
        let mut answer = None;
        let mut rest = source.chars().peekable();
        while let Some(c) = rest.next() {
            if answer.is_some() {
                return Err(misuse("nothing may follow {label}".to_owned()));
            }
            match c {
                '{' | '}' if rest.peek() == Some(&c) => {
                    rest.next();
                    text.push(c);
                }
                '{' => {
                    let mut name = String::new();
                    loop {
                        match rest.next() {
                            Some('}') => break,
                            Some('{') | None => {
                                return Err(misuse(format!("`{{{name}` is not closed by `}}`")));
                            }
                            Some(c) => name.push(c),
                        }
                    }
                    let name = name.trim();
                    if name.is_empty() {
                        return Err(misuse("`{}` names no column".to_owned()));
                    }
                    if name == LABEL {
                        let kept = text.trim_end().len();
                        answer = Some(text.split_off(kept));
                    }
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text)));
                    }
                    if name != LABEL {
                        pieces.push(Piece::Column(name.to_owned()));
                    }
                }
                '}' => return Err(misuse("`}` without `{`; write `}}` for a brace".to_owned())),
                c => text.push(c),
            }
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        if !pieces.iter().any(|p| matches!(p, Piece::Column(_))) {
            return Err(misuse("names no column, e.g. {sentence}".to_owned()));
        }
        Ok(Self {
            pieces,
            answer,
            source: source.to_owned(),
        })
    }

    /// The text before the answer, of one record.
    ///
    /// # Errors
    /// [`Error::Misuse`] for a column the record has not, listing those it has.
    pub fn prompt(&self, record: &Record) -> Result<String> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(literal) => text.push_str(literal),
                Piece::Column(name) => match record.fields.get(name) {
                    Some(value) => text.push_str(value.trim()),
                    None => {
                        return Err(Error::Misuse(format!(
                            "template {:?}: no column {name:?}; the columns are {:?}",
                            self.source,
                            record.columns().collect::<Vec<_>>()
                        )));
                    }
                },
            }
        }
        Ok(text)
    }

    /// The answer's text for a label, with its leading white space; none where the template has no `{label}`.
    pub fn answer(&self, label: &str) -> Option<String> {
        self.answer.as_ref().map(|space| format!("{space}{label}"))
    }

    /// The literal text between the last column and the answer.
    pub fn tail(&self) -> &str {
        match self.pieces.last() {
            Some(Piece::Text(text)) => text,
            _ => "",
        }
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_fills_the_template_and_the_space_goes_to_the_answer() {
        let template = Template::parse("News: {sentence} sentiment: {label}").unwrap();
        let record = Record::sentence(" Sales {rose} ", "positive");
        assert_eq!(
            template.prompt(&record).unwrap(),
            "News: Sales {rose} sentiment:"
        );
        assert_eq!(template.answer("positive").unwrap(), " positive");
        assert_eq!(template.tail(), " sentiment:");
        assert_eq!(template.to_string(), "News: {sentence} sentiment: {label}");
    }

    #[test]
    fn braces_are_written_twice_and_an_answer_is_optional() {
        let template = Template::parse("{{{sentence}}}").unwrap();
        assert_eq!(template.prompt(&Record::sentence("a", "x")).unwrap(), "{a}");
        assert_eq!(template.answer("x"), None);
        let bare = Template::parse("{sentence} {label}").unwrap();
        assert_eq!(
            (bare.tail(), bare.answer("x").unwrap().as_str()),
            ("", " x")
        );
    }

    #[test]
    fn a_column_that_does_not_exist_is_an_error_that_lists_those_that_do() {
        let template = Template::parse("{headline}: {label}").unwrap();
        let error = template
            .prompt(&Record::sentence("a", "x"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("\"headline\"") && error.contains("[\"sentence\"]"),
            "{error}"
        );
    }

    #[test]
    fn broken_templates_are_refused() {
        for (source, want) in [
            ("{sentence", "not closed"),
            ("{sen{tence}", "not closed"),
            ("sentence}", "without `{`"),
            ("{ } {sentence}", "names no column"),
            ("plain", "names no column"),
            ("sentiment: {label}", "names no column"),
            ("{sentence} {label}.", "nothing may follow"),
            ("{sentence} {label} {label}", "nothing may follow"),
        ] {
            let error = Template::parse(source).unwrap_err().to_string();
            assert!(error.contains(want) && error.contains(source), "{error}");
        }
    }
}
