//! A list of what may be used, or "any", written out.

use std::collections::BTreeSet;

/// What a policy allows out of an open set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// Everything: the policy writes `["any"]`.
    Any,
    /// These alone; never empty.
    Only(BTreeSet<String>),
}

impl Allowed {
    /// Reads a list whose items `is_item` accepts.
    pub(crate) fn parse(
        items: Vec<String>,
        wanted: &str,
        is_item: fn(&str) -> bool,
    ) -> Result<Self, String> {
        if items.is_empty() {
            return Err(format!(
                "an empty list allows nothing: list {wanted}, or write [\"any\"]"
            ));
        }
        if items.iter().any(|item| item == "any") {
            return match items.len() {
                1 => Ok(Self::Any),
                _ => Err("\"any\" stands alone".into()),
            };
        }
        match items.iter().find(|item| !is_item(item)) {
            Some(item) => Err(format!(
                "{:?} is not {wanted}",
                item.chars().take(80).collect::<String>()
            )),
            None => Ok(Self::Only(items.into_iter().collect())),
        }
    }

    /// Whether `item` may be used.
    #[must_use]
    pub fn allows(&self, item: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Only(items) => items.contains(item),
        }
    }

    /// What both allow; `None` when that is nothing.
    pub(crate) fn intersection(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (Self::Any, one) | (one, Self::Any) => Some(one.clone()),
            (Self::Only(a), Self::Only(b)) => {
                let both: BTreeSet<String> = a.intersection(b).cloned().collect();
                (!both.is_empty()).then_some(Self::Only(both))
            }
        }
    }

    /// The items as the policy writes them, sorted.
    #[must_use]
    pub fn items(&self) -> Vec<String> {
        match self {
            Self::Any => vec!["any".to_owned()],
            Self::Only(items) => items.iter().cloned().collect(),
        }
    }
}

/// A SHA-256 digest as lowercase hex.
pub(crate) fn is_digest(text: &str) -> bool {
    text.len() == 64
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A dataset's name, as people write them: short, and printable on one line.
pub(crate) fn is_plain(text: &str) -> bool {
    (1..=64).contains(&text.chars().count())
        && text.trim() == text
        && !text.chars().any(char::is_control)
}

/// A name such as `mlp` or `nemo-mlp`.
pub(crate) fn is_word(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'_' | b'-' | b'.'))
}
