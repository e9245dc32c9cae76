//! The keys of a policy document, schema version 1: each is documented here and nowhere else.

use crate::policy::{MAX_DAYS, MAX_MEMBERS, MAX_ROUNDS};
use crate::setting::{Adjacency, Metric, Placement, Role, Unit};

/// The only schema this program knows.
pub const VERSION: u32 = 1;

/// One key of the policy language, and all that is said of it: the table of `policies/README.md` and the JSON Schema for
/// editors are written from this.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The table it stands in; empty for the top of the document.
    pub section: &'static str,
    /// Its name within the table.
    pub name: &'static str,
    /// What may be written.
    pub kind: Kind,
    /// When it may be left out.
    pub presence: Presence,
    /// What it means, in Markdown.
    pub meaning: &'static str,
    /// Which of two settings is the stricter, in Markdown.
    pub stricter: &'static str,
    /// What whoever is refused by it can do.
    pub remedy: &'static str,
}

/// What may be written for a key.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// The schema's version.
    Version,
    /// A text of 1 to 128 characters.
    Text,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A decimal above 0.
    Positive,
    /// A decimal above 0 and below 1.
    Probability,
    /// A decimal above 0, and at most 1.
    Rate,
    /// A whole number from the first to the second.
    Count(u32, u32),
    /// A moment in UTC.
    Instant,
    /// A list of SHA-256 digests, or any.
    Digests,
    /// A list of names, or any.
    Names,
    /// A list of some of these words, or of none.
    Words(&'static [&'static str]),
}

/// When a key may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Never.
    Required,
    /// Never, but with unit none, which promises no privacy: then it must not be written.
    Private,
    /// At will; what that means, in Markdown.
    Optional(&'static str),
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

/// The key at a path such as `privacy.epsilon`.
#[must_use]
pub fn key_at(path: &str) -> Option<&'static Key> {
    let (section, name) = path.split_once('.').unwrap_or(("", path));
    find(section, name)
}

/// The key `section.name`.
#[must_use]
pub fn find(section: &str, name: &str) -> Option<&'static Key> {
    KEYS.iter()
        .find(|key| key.section == section && key.name == name)
}

macro_rules! keys {
    ($($section:literal { $($name:literal: $kind:expr, $presence:expr, $meaning:literal, stricter $stricter:literal, remedy $remedy:literal;)* })*) => {
        /// Every key there is, in the order of the documentation.
        pub const KEYS: &[Key] = &[$($(Key {
            section: $section,
            name: $name,
            kind: $kind,
            presence: $presence,
            meaning: $meaning,
            stricter: $stricter,
            remedy: $remedy,
        }),*),*];
        /// The tables of a document.
        pub const SECTIONS: &[&str] = &[$($section),*];
    };
}

/// Who can sign policies at all.
const CHANGERS: &[&str] = &["officer"];

/// About a rule that is no key.
const DRAFT_ANEW: &str =
    "draft the job anew: this is the protocol's own rule, which no policy loosens";

keys! {
    "" {
        "schema": Kind::Version, Presence::Required,
            "the version of this table",
            stricter "–", remedy "write schema = 1";
        "name": Kind::Text, Presence::Required,
            "shown in reports and refusals",
            stricter "all are kept", remedy "give the policy a name";
    }
    "privacy" {
        "unit": Kind::Word(Unit::WORDS), Presence::Required,
            "whose presence is hidden: one member's whole update of a round; one training example; nobody's. No default",
            stricter "a unit is stricter than none; institution and record do not mix, their officers must agree on one",
            remedy "draft the job anew from these policies: its unit follows from them";
        "adjacency": Kind::Word(Adjacency::WORDS), Presence::Private,
            "hidden against being replaced by nothing, or by any other (twice the noise)",
            stricter "replace-one", remedy "draft the job anew from these policies: its adjacency follows from them";
        "epsilon": Kind::Positive, Presence::Private,
            "the most ε one job may cost, every attempt of every round counted",
            stricter "the smaller", remedy "draft the job anew with no more than this ε (more noise, or fewer rounds)";
        "delta": Kind::Probability, Presence::Private,
            "the δ that goes with it; well below 1 / records",
            stricter "the smaller", remedy "draft the job anew with no more than this δ";
        "clip_norm": Kind::Positive, Presence::Required,
            "the largest L2 norm of an update (in batches of records: of one example's gradient) after clipping",
            stricter "the smaller", remedy "draft the job anew with a clip norm within this";
        "placement": Kind::Word(Placement::WORDS), Presence::Private,
            "who adds the noise: each member a share, or each member all of it",
            stricter "local", remedy "draft the job anew from these policies: its placement follows from them";
        "rounds": Kind::Count(1, MAX_ROUNDS), Presence::Required,
            "the most rounds of one job",
            stricter "the smaller", remedy "submit a job with fewer rounds";
        "max_sampling_rate": Kind::Rate, Presence::Optional("any rate"),
            "where a job draws batches of records: the greatest probability with which a record may enter a round. Not with unit institution",
            stricter "the smaller", remedy "submit a job with a sampling_rate within this";
    }
    "budget" {
        "epsilon": Kind::Positive, Presence::Private,
            "the most ε a dataset may cost over its whole life, over all jobs; at least `privacy.epsilon`",
            stricter "the smaller", remedy "ciphertune budget show says what is left; another dataset has its own";
        "delta": Kind::Probability, Presence::Private,
            "the δ that goes with it; at least `privacy.delta`",
            stricter "the smaller", remedy "ciphertune budget show says what is left; another dataset has its own";
    }
    "aggregation" {
        "min_contributors": Kind::Count(2, MAX_MEMBERS), Presence::Required,
            "fewer contributors than this are never summed; at least `colluders` + 2, and 3 with unit none",
            stricter "the larger", remedy "draft the job anew from these policies: it asks for as many contributors as they do";
        "colluders": Kind::Count(0, MAX_MEMBERS - 2), Presence::Required,
            "how many members are assumed to help the server",
            stricter "the larger", remedy "draft the job anew from these policies: it assumes as many colluders as they do";
        "threshold": Kind::Count(2, MAX_MEMBERS), Presence::Optional("⌊(n + c)/2⌋ + 1 of n who hold shares, c of them colluding, and never less"),
            "how many of those who hold shares it takes to open a sum",
            stricter "the larger", remedy "draft the job anew from these policies: its threshold is no lower than theirs";
        "committee": Kind::Count(2, MAX_MEMBERS), Presence::Optional("they may not"),
            "shares of keys may go to a committee of at least so many members, drawn by a hash, instead of to everybody",
            stricter "left out; else the larger", remedy "submit a job with a larger committee, or with none";
        "min_cohort": Kind::Count(2, MAX_MEMBERS), Presence::Optional("`min_contributors`"),
            "a round is not started with fewer members; at least `min_contributors`",
            stricter "the larger", remedy "wait until more members take part: a job's `members` says for how many";
    }
    "model" {
        "backbones": Kind::Digests, Presence::Required,
            "the frozen models that may be tuned, as SHA-256 digests",
            stricter "what both list", remedy "submit a job for a backbone that is listed";
        "encoders": Kind::Names, Presence::Required,
            "the prompt encoders that may be trained: `embedding`, `mlp`, `nemo-mlp`, `lstm`",
            stricter "what both list", remedy "submit a job with an encoder that is listed";
        "tasks": Kind::Names, Presence::Required,
            "the tasks that may be trained for: `classification` (one of a list of labels), `generation` (answers in words)",
            stricter "what both list", remedy "submit a job for a task that is listed";
        "datasets": Kind::Names, Presence::Optional("any"),
            "the names of the datasets that members may train on (`join --dataset`). A name stands for what all members call so: each trains on its own part",
            stricter "what both list", remedy "join with --dataset and a name that is listed";
    }
    "releases" {
        "metrics": Kind::Words(Metric::WORDS), Presence::Required,
            "the metrics that may be released of each round within the sealed sum, noised unless the unit is none (see below). Only `[]` with unit institution",
            stricter "what both list", remedy "submit a job without these metrics";
    }
    "identity" {
        "max_certificate_age_days": Kind::Count(1, MAX_DAYS), Presence::Optional("any age within the certificate's validity"),
            "a party's certificate was issued at most so many days ago: the server holds every caller to the federation's, each member its own to the strictest",
            stricter "the smaller", remedy "have the authority issue a new certificate for the same key";
        "max_revocation_list_age_days": Kind::Count(1, MAX_DAYS), Presence::Optional("any age of a list that has not ended"),
            "the authority's revocation list that callers are held to was issued at most so many days ago: else the server starts no round, and members refuse its plan",
            stricter "the smaller", remedy "have the authority issue the next list (`ciphertune identity crl`), and the server's operator put it into its kit";
    }
    "roles" {
        "submit_job": Kind::Words(Role::WORDS), Presence::Optional("`[\"researcher\"]`"),
            "whose certificates may sign jobs; `[]` is nobody's. Members hold each job to it, and the server",
            stricter "what both list", remedy "have a job signed by a party with one of these roles";
        "abort_job": Kind::Words(Role::WORDS), Presence::Optional("`[\"member\"]`"),
            "who may stop a job beside the party that signed it, which always may; held by the server, to the federation's policy alone",
            stricter "what both list", remedy "ask the party that signed the job, or one with one of these roles";
        "read_log": Kind::Words(Role::WORDS), Presence::Optional("`[\"auditor\"]`"),
            "who may get the server's audit log and its evidence over the network (`ciphertune audit fetch`); held by the server, to the federation's policy alone",
            stricter "what both list", remedy "ask for the log with a certificate of one of these roles";
        "change_policy": Kind::Words(CHANGERS), Presence::Optional("`[\"officer\"]`"),
            "who may sign a federation policy in the place of this one; `[]`: nobody, and every home keeps this one until there is another manifest",
            stricter "what both list", remedy "have the authority issue another manifest (`ciphertune identity issue-manifest`), and the kits with it";
    }
    "audit" {
        "retention_days": Kind::Count(1, MAX_DAYS), Presence::Optional("for ever"),
            "the signed objects that an audit log rests on are kept for so many days after their job ended, at least; then `ciphertune audit prune` may remove them. The log itself is never shortened",
            stricter "left out; else the larger", remedy "keep them until then";
    }
    "time" {
        "valid_from": Kind::Instant, Presence::Optional("no earliest time"),
            "no job is admitted and no round begun before",
            stricter "the later", remedy "wait until then, or have officers sign policies that hold now";
        "valid_until": Kind::Instant, Presence::Optional("no end"),
            "nor after, in mid-job either",
            stricter "the earlier", remedy "have officers sign policies that hold now, and submit a new job";
    }
}

/// What can be done about a rule that a plan breaks: a key's path, or one of the protocol's own.
#[must_use]
pub fn remedy(rule: &str) -> &'static str {
    match key_at(rule) {
        Some(key) => key.remedy,
        None => DRAFT_ANEW,
    }
}

/// Whether `section.name` is a key.
#[must_use]
pub fn is_key(section: &str, name: &str) -> bool {
    find(section, name).is_some()
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
