//! Templates: how a record becomes the text the backbone reads.

use std::fmt;

use crate::data::Record;
use crate::{Error, Result};

/// The placeholder of an answer that is one of a list.
const LABEL: &str = "label";
/// The placeholder of an answer in its own words, where it stands last; a column anywhere else.
const ANSWER: &str = "answer";

/// A parsed template, e.g. `"{sentence} sentiment: {label}"` or `"{context} {question} Answer: {answer}"`.
///
/// `{name}` stands for a column, `{label}` or `{answer}` for the answer, `{{` and `}}` for
/// braces. The answer, where there is one, comes last and once; white space
/// before it belongs to the answer (most tokenizers keep a word's leading
/// space in the word).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
    /// The answer's placeholder, and the white space before it; none: the template has no answer.
    answer: Option<(&'static str, String)>,
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
        let mut rest = source.chars().peekable();
        while let Some(c) = rest.next() {
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
                    if !text.is_empty() {
                        pieces.push(Piece::Text(std::mem::take(&mut text)));
                    }
                    pieces.push(Piece::Column(name.to_owned()));
                }
                '}' => return Err(misuse("`}` without `{`; write `}}` for a brace".to_owned())),
                c => text.push(c),
            }
        }
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
        let answer = take_answer(&mut pieces);
        if pieces
            .iter()
            .any(|p| matches!(p, Piece::Column(name) if name == LABEL))
        {
            return Err(misuse("nothing may follow {label}".to_owned()));
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
        (self.answer.as_ref()).map(|(_, space)| format!("{space}{label}"))
    }

    /// The column that answers are read from, as the template calls it.
    pub fn answer_column(&self) -> Option<&'static str> {
        self.answer.as_ref().map(|(name, _)| *name)
    }

    /// The one column that the text before the answer is made of, where it is one.
    pub fn only_column(&self) -> Option<&str> {
        let mut names = self.pieces.iter().filter_map(|piece| match piece {
            Piece::Column(name) => Some(name.as_str()),
            Piece::Text(_) => None,
        });
        names
            .next()
            .filter(|first| names.all(|name| name == *first))
    }

    /// The literal text between the last column and the answer.
    pub fn tail(&self) -> &str {
        match self.pieces.last() {
            Some(Piece::Text(text)) => text,
            _ => "",
        }
    }
}

/// Takes the answer's placeholder off the end, with the white space before it.
fn take_answer(pieces: &mut Vec<Piece>) -> Option<(&'static str, String)> {
    let name = [LABEL, ANSWER]
        .into_iter()
        .find(|known| matches!(pieces.last(), Some(Piece::Column(name)) if name == known))?;
    pieces.pop();
    let Some(Piece::Text(text)) = pieces.last_mut() else {
        return Some((name, String::new()));
    };
    let space = text.split_off(text.trim_end().len());
    if text.is_empty() {
        pieces.pop();
    }
    Some((name, space))
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
    fn an_answer_in_its_own_words_stands_last_and_is_a_column_elsewhere() {
        let template = Template::parse("{context} Question: {question} Answer: {answer}").unwrap();
        assert_eq!(template.answer_column(), Some("answer"));
        assert_eq!(template.answer("42").unwrap(), " 42");
        assert_eq!(
            (template.tail(), template.only_column()),
            (" Answer:", None)
        );
        let judged = Template::parse("{answer} is {label}").unwrap();
        assert_eq!(judged.answer_column(), Some("label"));
        assert_eq!(judged.only_column(), Some("answer"));
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
