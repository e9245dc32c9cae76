//! The keys of a policy document, schema version 1.

/// The only schema this program knows.
pub const VERSION: u32 = 1;

/// One key of the policy language.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The table it stands in; empty for the top of the document.
    pub section: &'static str,
    /// Its name within the table.
    pub name: &'static str,
}

impl Key {
    /// `section.name`, or `name` at the top of the document.
    #[must_use]
    pub fn path(&self) -> String {
        if self.section.is_empty() {
            self.name.to_owned()
        } else {
            format!("{}.{}", self.section, self.name)
        }
    }
}

macro_rules! keys {
    ($($section:literal: $($name:literal)*;)*) => {
        /// Every key there is, in the order of the documentation.
        pub const KEYS: &[Key] = &[$($(Key { section: $section, name: $name }),*),*];
        /// The tables of a document.
        pub const SECTIONS: &[&str] = &[$($section),*];
    };
}

keys! {
    "": "schema" "name";
    "privacy": "unit" "adjacency" "epsilon" "delta" "clip_norm" "placement" "rounds";
    "budget": "epsilon" "delta";
    "aggregation": "min_contributors" "colluders" "threshold" "committee" "min_cohort";
    "model": "backbones" "encoders" "tasks";
    "releases": "metrics";
}

/// Whether `section.name` is a key.
#[must_use]
pub fn is_key(section: &str, name: &str) -> bool {
    KEYS.iter()
        .any(|key| key.section == section && key.name == name)
}

/// Whether `name` is a table of the document.
#[must_use]
pub fn is_section(name: &str) -> bool {
    !name.is_empty() && SECTIONS.contains(&name)
}

/// What the author of an unknown key most likely meant: the same name in another table, else the key or
/// table of the same place at the least edit distance.
#[must_use]
pub fn nearest(section: &str, unknown: &str) -> String {
    if let Some(key) = KEYS
        .iter()
        .find(|key| key.name == unknown && !key.section.is_empty())
    {
        return format!("`{unknown}` belongs in [{}]", key.section);
    }
    let here = KEYS
        .iter()
        .filter(|key| key.section == section)
        .map(|key| key.name);
    let tables = SECTIONS
        .iter()
        .copied()
        .filter(|name| section.is_empty() && !name.is_empty());
    here.chain(tables)
        .min_by_key(|known| edit_distance(known, unknown))
        .map_or_else(String::new, |known| {
            format!("the nearest known key is `{known}`")
        })
}

/// Levenshtein distance in characters.
fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for (y, pair) in b.iter().zip(row.windows(2)) {
            let (&[diagonal, above], &[.., left]) = (pair, next.as_slice()) else {
                continue;
            };
            next.push(
                (diagonal + usize::from(x != *y))
                    .min(above + 1)
                    .min(left + 1),
            );
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_is_levenshteins() {
        for (a, b, distance) in [
            ("", "", 0),
            ("abc", "", 3),
            ("", "abc", 3),
            ("kitten", "sitting", 3),
            ("a", "a", 0),
        ] {
            assert_eq!(edit_distance(a, b), distance, "{a} {b}");
        }
    }

    #[test]
    fn the_nearest_key_is_found_in_its_place() {
        assert_eq!(
            nearest("privacy", "epsilom"),
            "the nearest known key is `epsilon`"
        );
        assert_eq!(nearest("", "privcy"), "the nearest known key is `privacy`");
        assert_eq!(
            nearest("privacy", "colluders"),
            "`colluders` belongs in [aggregation]"
        );
    }
}
