//! What differs between two policies, and which way.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use crate::allowed::Allowed;
use crate::policy::Policy;
use crate::schema::{KEYS, Key};
use crate::setting::{Unit, listed};

/// One key that two policies set differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// The key's path.
    pub key: String,
    /// The first policy's setting, in words.
    pub from: String,
    /// The second's.
    pub to: String,
    /// What the second makes of the first.
    pub direction: Direction,
}

/// What a change does to what is allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Less is allowed: a merger of the two has the second's setting.
    Stricter,
    /// More is allowed: a merger has the first's.
    Weaker,
    /// Neither contains the other, or nothing depends on it.
    Other,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stricter => "stricter",
            Self::Weaker => "weaker",
            Self::Other => "other",
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}: {} instead of {}: {}",
            self.key, self.to, self.from, self.direction
        )
    }
}

impl Policy {
    /// Every key that `other` sets otherwise than this policy, in the order of the documentation.
    #[must_use]
    pub fn diff(&self, other: &Self) -> Vec<Change> {
        let change = |key: &Key| {
            let path = key.path();
            let Compared {
                words: [from, to],
                direction,
            } = compared(&path, [self, other])?;
            Some(Change {
                key: path,
                from,
                to,
                direction: direction?,
            })
        };
        KEYS.iter().filter_map(change).collect()
    }

    /// Whether this policy allows nothing that `other` does not.
    #[must_use]
    pub fn is_as_strict_as(&self, other: &Self) -> bool {
        let harmless =
            |change: &Change| change.direction == Direction::Stricter || change.key == "name";
        other.diff(self).iter().all(harmless)
    }
}

/// Two settings of one key in words, and what the second makes of the first; `None` when they are equal.
struct Compared {
    words: [String; 2],
    direction: Option<Direction>,
}

/// `None` for what is no setting (the schema's version).
fn compared(path: &str, both: [&Policy; 2]) -> Option<Compared> {
    const NO_PROMISE: &str = "no promise";
    let promises = both.map(|it| it.privacy.as_ref());
    let aggregations = both.map(|it| it.aggregation);
    Some(match path {
        "name" => {
            let names = both.map(|it| it.names().collect::<Vec<_>>().join(" + "));
            let direction = (names[0] != names[1]).then_some(Direction::Other);
            Compared {
                words: names,
                direction,
            }
        }
        "privacy.unit" => units(both.map(Policy::unit)),
        "privacy.adjacency" => larger(both.map(Policy::adjacency), NO_PROMISE),
        "privacy.placement" => larger(both.map(Policy::placement), NO_PROMISE),
        "privacy.epsilon" => smaller(promises.map(|it| Some(it?.job.epsilon)), NO_PROMISE),
        "privacy.delta" => smaller(promises.map(|it| Some(it?.job.delta)), NO_PROMISE),
        "budget.epsilon" => smaller(promises.map(|it| Some(it?.budget.epsilon)), NO_PROMISE),
        "budget.delta" => smaller(promises.map(|it| Some(it?.budget.delta)), NO_PROMISE),
        "privacy.clip_norm" => smaller(both.map(|it| Some(it.clip_norm)), ""),
        "privacy.rounds" => smaller(both.map(|it| Some(it.rounds)), ""),
        "privacy.max_sampling_rate" => smaller(both.map(|it| it.max_sampling_rate), "any"),
        "aggregation.min_contributors" => {
            larger(aggregations.map(|it| Some(it.min_contributors)), "")
        }
        "aggregation.colluders" => larger(aggregations.map(|it| Some(it.colluders)), ""),
        "aggregation.threshold" => larger(aggregations.map(|it| it.threshold), "what follows"),
        "aggregation.committee" => none_or_larger(aggregations.map(|it| it.committee), "none"),
        "aggregation.min_cohort" => larger(aggregations.map(|it| Some(it.min_cohort)), ""),
        "model.backbones" => lists(both.map(|it| &it.backbones)),
        "model.encoders" => lists(both.map(|it| &it.encoders)),
        "model.tasks" => lists(both.map(|it| &it.tasks)),
        "model.datasets" => lists(both.map(|it| &it.datasets)),
        "releases.metrics" => words(both.map(|it| &it.metrics), "none"),
        "identity.max_certificate_age_days" => {
            smaller(both.map(|it| it.max_age_days.certificate), "any")
        }
        "identity.max_revocation_list_age_days" => {
            smaller(both.map(|it| it.max_age_days.revocation_list), "any")
        }
        "roles.submit_job" => words(both.map(|it| &it.roles.submit_job), "nobody"),
        "roles.abort_job" => words(both.map(|it| &it.roles.abort_job), "nobody"),
        "roles.read_log" => words(both.map(|it| &it.roles.read_log), "nobody"),
        "roles.change_policy" => words(both.map(|it| &it.roles.change_policy), "nobody"),
        "audit.retention_days" => none_or_larger(both.map(|it| it.retention_days), "for ever"),
        "time.valid_from" => larger(both.map(|it| it.time.valid_from), "no earliest time"),
        "time.valid_until" => smaller(both.map(|it| it.time.valid_until), "no end"),
        _ => return None,
    })
}

/// The larger is the stricter, and any is stricter than none.
fn larger<T: Ord + fmt::Display>(both: [Option<T>; 2], none: &str) -> Compared {
    scale(both, none, |from, to| from.cmp(to))
}

/// The smaller is the stricter, and any is stricter than none.
fn smaller<T: Ord + fmt::Display>(both: [Option<T>; 2], none: &str) -> Compared {
    scale(both, none, |from, to| match (from, to) {
        (Some(from), Some(to)) => to.cmp(from),
        (from, to) => from.is_some().cmp(&to.is_some()),
    })
}

/// None is stricter than any, as a share for everybody than a committee, and the larger than the smaller.
fn none_or_larger(both: [Option<u32>; 2], none: &str) -> Compared {
    scale(both, none, |from, to| match (from, to) {
        (Some(from), Some(to)) => from.cmp(to),
        (from, to) => from.is_none().cmp(&to.is_none()),
    })
}

/// `climbs` is less when the second is the stricter.
fn scale<T: fmt::Display>(
    both: [Option<T>; 2],
    none: &str,
    climbs: impl Fn(&Option<T>, &Option<T>) -> Ordering,
) -> Compared {
    let [from, to] = &both;
    let direction = match climbs(from, to) {
        Ordering::Less => Some(Direction::Stricter),
        Ordering::Equal => None,
        Ordering::Greater => Some(Direction::Weaker),
    };
    Compared {
        words: both.map(|it| it.map_or_else(|| none.to_owned(), |it| it.to_string())),
        direction,
    }
}

/// Any unit is stricter than none; two units promise different things.
fn units(both: [Unit; 2]) -> Compared {
    let direction = match both {
        [from, to] if from == to => None,
        [Unit::None, _] => Some(Direction::Stricter),
        [_, Unit::None] => Some(Direction::Weaker),
        _ => Some(Direction::Other),
    };
    Compared {
        words: both.map(|unit| unit.to_string()),
        direction,
    }
}

fn lists(both: [&Allowed; 2]) -> Compared {
    let [from, to] = both;
    let common = from.intersection(to);
    Compared {
        words: both.map(|it| it.items().join(", ")),
        direction: contained(
            from == to,
            common.as_ref() == Some(to),
            common.as_ref() == Some(from),
        ),
    }
}

fn words<T: Ord + fmt::Display>(both: [&BTreeSet<T>; 2], none: &str) -> Compared {
    let [from, to] = both;
    Compared {
        words: both.map(|it| listed(it, none)),
        direction: contained(from == to, to.is_subset(from), from.is_subset(to)),
    }
}

/// Of two sets.
fn contained(equal: bool, second_in_first: bool, first_in_second: bool) -> Option<Direction> {
    match (equal, second_in_first, first_in_second) {
        (true, ..) => None,
        (_, true, _) => Some(Direction::Stricter),
        (_, _, true) => Some(Direction::Weaker),
        _ => Some(Direction::Other),
    }
}
