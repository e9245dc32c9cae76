//! A TOML document read key by key, every complaint with its place in the file.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::decimal::Decimal;
use crate::error::Error;
use crate::schema;

/// Longest document read: a policy is a page or two.
const DOCUMENT_BYTES: usize = 64 * 1024;

/// A parsed document, and what was found wrong with it so far.
pub(crate) struct Document<'a> {
    text: &'a str,
    root: DeTable<'a>,
    problems: Vec<(usize, String)>,
}

impl<'a> Document<'a> {
    /// Reads the TOML and complains about every key that the schema does not know.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Error> {
        if text.len() > DOCUMENT_BYTES {
            return Err(Error::Malformed(format!(
                "a policy of more than {DOCUMENT_BYTES} bytes is not read"
            )));
        }
        let root = DeTable::parse(text).map_err(|error| {
            let place = error
                .span()
                .map_or_else(String::new, |span| place(text, span.start));
            Error::Malformed(format!("{place}not TOML: {}", error.message().trim()))
        })?;
        let mut document = Self {
            text,
            root: root.into_inner(),
            problems: Vec::new(),
        };
        document.check_keys();
        Ok(document)
    }

    fn check_keys(&mut self) {
        let mut found = Vec::new();
        for (key, value) in &self.root {
            let name = key.get_ref().as_ref();
            if schema::is_section(name) {
                let DeValue::Table(table) = value.get_ref() else {
                    found.push((
                        key.span().start,
                        format!("`{name}` is a table: write [{name}]"),
                    ));
                    continue;
                };
                for inner in table.keys() {
                    let inner_name = inner.get_ref().as_ref();
                    if !schema::is_key(name, inner_name) {
                        let hint = schema::nearest(name, inner_name);
                        found.push((
                            inner.span().start,
                            format!("unknown key `{}` in [{name}]; {hint}", shown(inner_name)),
                        ));
                    }
                }
            } else if !schema::is_key("", name) {
                let hint = schema::nearest("", name);
                found.push((
                    key.span().start,
                    format!("unknown key `{}`; {hint}", shown(name)),
                ));
            }
        }
        self.problems.extend(found);
    }

    /// The value of a key, where there is one.
    fn value(&self, section: &str, name: &str) -> Option<&Spanned<DeValue<'a>>> {
        debug_assert!(schema::is_key(section, name), "{section}.{name}");
        match section {
            "" => self.root.get(name),
            _ => self.root.get(section)?.get_ref().as_table()?.get(name),
        }
    }

    /// Whether the key is written.
    pub(crate) fn has(&self, section: &str, name: &str) -> bool {
        self.value(section, name).is_some()
    }

    /// Records a complaint about a key; at its value where it has one, else at its table.
    pub(crate) fn complain(&mut self, section: &str, name: &str, what: &str) {
        let at = self.span(section, name);
        let path = schema::KEYS
            .iter()
            .find(|key| key.section == section && key.name == name);
        let path = path.map_or_else(|| name.to_owned(), schema::Key::path);
        self.problems.push((at.start, format!("{path}: {what}")));
    }

    fn span(&self, section: &str, name: &str) -> Range<usize> {
        let table = self.root.get_key_value(section).map(|(key, _)| key.span());
        self.value(section, name)
            .map(Spanned::span)
            .or(table)
            .unwrap_or(0..0)
    }

    /// Complains where a key is missing that must be there.
    pub(crate) fn require(&mut self, section: &str, name: &str, why: &str) {
        if !self.has(section, name) {
            self.complain(section, name, &format!("missing: {why}"));
        }
    }

    /// Complains where a key is written that means nothing here.
    pub(crate) fn forbid(&mut self, section: &str, name: &str, why: &str) {
        if self.has(section, name) {
            self.complain(
                section,
                name,
                &format!("must not be written: {why}; delete it"),
            );
        }
    }

    /// A string.
    pub(crate) fn text(&mut self, section: &str, name: &str) -> Option<String> {
        let value = self.value(section, name)?.get_ref();
        if let Some(text) = value.as_str() {
            return Some(text.to_owned());
        }
        let what = format!("a string is wanted, not {}", described(value));
        self.complain(section, name, &what);
        None
    }

    /// One word out of a closed set.
    pub(crate) fn word<T: std::str::FromStr<Err = Error>>(
        &mut self,
        section: &str,
        name: &str,
    ) -> Option<T> {
        let text = self.text(section, name)?;
        text.parse()
            .map_err(|error: Error| self.complain(section, name, &error.to_string()))
            .ok()
    }

    /// An exact decimal, written as a string.
    pub(crate) fn decimal(&mut self, section: &str, name: &str) -> Option<Decimal> {
        let number = match self.value(section, name)?.get_ref() {
            DeValue::Integer(number) => Some(number.as_str().to_owned()),
            DeValue::Float(number) => Some(number.as_str().to_owned()),
            _ => None,
        };
        if let Some(number) = number {
            let what = format!(
                "TOML's numbers are not exact decimals: write {name} = \"{number}\", as a string"
            );
            self.complain(section, name, &what);
            return None;
        }
        self.word(section, name)
    }

    /// A whole number in a range, written as a TOML integer.
    pub(crate) fn count(
        &mut self,
        section: &str,
        name: &str,
        range: std::ops::RangeInclusive<u32>,
    ) -> Option<u32> {
        let value = self.value(section, name)?.get_ref();
        let number = match value {
            DeValue::Integer(number) => u32::from_str_radix(number.as_str(), number.radix()).ok(),
            _ => None,
        };
        match number {
            Some(number) if range.contains(&number) => Some(number),
            _ => {
                let (low, high) = range.into_inner();
                let what = format!(
                    "a whole number from {low} to {high} is wanted, not {}",
                    described(value)
                );
                self.complain(section, name, &what);
                None
            }
        }
    }

    /// A list of strings.
    pub(crate) fn list(&mut self, section: &str, name: &str) -> Option<Vec<String>> {
        let value = self.value(section, name)?.get_ref();
        let items = value.as_array().and_then(|items| {
            items
                .iter()
                .map(|item| item.get_ref().as_str().map(str::to_owned))
                .collect::<Option<Vec<_>>>()
        });
        if items.is_none() {
            self.complain(section, name, "a list of strings is wanted, like [\"any\"]");
        }
        items
    }

    /// Everything found wrong, in the order of the file; `None` when nothing was.
    pub(crate) fn problems(mut self) -> Option<Error> {
        if self.problems.is_empty() {
            return None;
        }
        self.problems.sort();
        let lines: Vec<String> = self
            .problems
            .iter()
            .map(|(at, what)| format!("{}{what}", place(self.text, *at)))
            .collect();
        Some(Error::Malformed(lines.join("\n")))
    }
}

/// The line, from 1, in which a document writes the key at `path`; `None` where it leaves it out.
pub(crate) fn line_of(text: &str, path: &str) -> Option<usize> {
    let key = schema::key_at(path)?;
    let document = Document::parse(text).ok()?;
    let value = document.value(key.section, key.name)?;
    Some(line(text, value.span().start))
}

/// A value in an error message.
fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::Integer(number) => number.as_str().to_owned(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::String(text) => format!("{:?}", text.chars().take(64).collect::<String>()),
        other => format!("a value of type {}", other.type_str()),
    }
}

/// "line 4, column 1: "
fn place(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = line(text, offset);
    let column = before
        .rsplit('\n')
        .next()
        .map_or(0, |last| last.chars().count())
        + 1;
    format!("line {line}, column {column}: ")
}

fn line(text: &str, offset: usize) -> usize {
    let before = text.get(..offset).unwrap_or(text);
    before.matches('\n').count() + 1
}

/// A key as a terminal may show it: its first 64 characters, none that would move the cursor.
fn shown(key: &str) -> String {
    let first: String = key.chars().take(64).collect();
    first.escape_debug().to_string()
}
