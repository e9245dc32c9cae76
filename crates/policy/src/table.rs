//! The policy language as a table in Markdown, for people.

use std::fmt::Write as _;

use crate::schema::{KEYS, Key, Kind, Presence, VERSION};

/// The table of `policies/README.md`: a line for each key, from the one list of them.
#[must_use]
pub fn markdown_table() -> String {
    let mut table = String::from(
        "| key | values | meaning | the stricter of two | when left out |\n|---|---|---|---|---|\n",
    );
    for key in KEYS {
        let absent = match key.presence {
            Presence::Required => "an error",
            Presence::Private => "an error; with unit none it must be left out",
            Presence::Optional(absent) => absent,
        };
        let _ = writeln!(
            table,
            "| `{}` | {} | {} | {} | {absent} |",
            key.path(),
            values(key),
            key.meaning,
            key.stricter
        );
    }
    table
}

fn values(key: &Key) -> String {
    let quoted = |words: &[&str]| {
        let words: Vec<String> = words.iter().map(|word| format!("`\"{word}\"`")).collect();
        words.join(", ")
    };
    match key.kind {
        Kind::Version => format!("`{VERSION}`"),
        Kind::Text => "1 to 128 characters".into(),
        Kind::Word(words) => quoted(words),
        Kind::Positive => "decimal above 0".into(),
        Kind::Probability => "decimal between 0 and 1".into(),
        Kind::Rate => "decimal above 0, at most 1".into(),
        Kind::Count(least, most) => format!("{least} to {most}"),
        Kind::Instant => "`\"2027-01-31T00:00:00Z\"`, in UTC".into(),
        Kind::Digests => "list of SHA-256 digests in hex, or `[\"any\"]`".into(),
        Kind::Names => "list of names, or `[\"any\"]`".into(),
        Kind::Words(words) => format!("list of {}; `[]` for none", quoted(words)),
    }
}
