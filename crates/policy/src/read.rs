//! Reading a policy document: every key, every rule between keys.

use std::collections::BTreeSet;

use crate::allowed::{Allowed, is_digest, is_word};
use crate::decimal::Decimal;
use crate::document::Document;
use crate::error::Error;
use crate::policy::{Aggregation, Loss, MAX_MEMBERS, MAX_ROUNDS, Policy, Privacy};
use crate::schema;
use crate::setting::{Metric, Unit};

impl Policy {
    /// Reads a policy document, TOML, schema version 1 (`policies/README.md` explains every key).
    ///
    /// # Errors
    /// `Malformed` with everything that is wrong, a line each, in the order of the file: an unknown key and
    /// the nearest known one, a missing key, a float where an exact decimal is wanted, values that
    /// contradict each other.
    pub fn parse(toml: &str) -> Result<Self, Error> {
        let mut document = Document::parse(toml)?;
        let policy = Self::read(&mut document);
        match (document.problems(), policy) {
            (None, Some(policy)) => Ok(policy),
            (Some(problems), _) => Err(problems),
            (None, None) => Err(Error::Misuse(
                "a policy is incomplete without a complaint".into(),
            )),
        }
    }

    fn read(document: &mut Document<'_>) -> Option<Self> {
        document.require("", "schema", "write schema = 1");
        document.count("", "schema", schema::VERSION..=schema::VERSION);
        document.require("", "name", "a policy has a name, for reports and refusals");
        let name = document.text("", "name");
        if let Some(name) = &name
            && (name.trim().is_empty()
                || name.chars().count() > 128
                || name.chars().any(char::is_control))
        {
            document.complain(
                "",
                "name",
                "1 to 128 characters are wanted, without control characters",
            );
        }
        document.require(
            "privacy",
            "unit",
            "there is no default; write \"institution\", \"record\" or \"none\"",
        );
        let unit = document.word("privacy", "unit");
        let privacy = match unit {
            Some(Unit::None) => {
                for (section, key) in PRIVATE_KEYS {
                    document.forbid(section, key, "unit = \"none\" promises no privacy");
                }
                Some(None)
            }
            Some(unit) => Privacy::read(document, unit).map(Some),
            None => None,
        };
        document.require(
            "privacy",
            "clip_norm",
            "every update is clipped; write clip_norm = \"1\", say",
        );
        let clip_norm = document.decimal("privacy", "clip_norm");
        if clip_norm.is_some_and(|norm| norm.is_zero()) {
            document.complain("privacy", "clip_norm", "must be more than 0");
        }
        document.require("privacy", "rounds", "the most rounds of one job");
        let rounds = document.count("privacy", "rounds", 1..=MAX_ROUNDS);
        let aggregation = Aggregation::read(document, unit);
        let backbones = read_list(
            document,
            "backbones",
            "a model's SHA-256 in 64 lowercase hex digits",
            is_digest,
        );
        let encoders = read_list(document, "encoders", "a prompt encoder's name", is_word);
        let tasks = read_list(document, "tasks", "a task's name", is_word);
        document.require(
            "releases",
            "metrics",
            "write metrics = []: no metric leaves",
        );
        let metrics = read_metrics(document, unit);
        Some(Self {
            names: BTreeSet::from([name?]),
            privacy: privacy?,
            clip_norm: clip_norm?,
            rounds: rounds?,
            aggregation: aggregation?,
            backbones: backbones?,
            encoders: encoders?,
            tasks: tasks?,
            metrics: metrics?,
        })
    }
}

fn read_metrics(document: &mut Document<'_>, unit: Option<Unit>) -> Option<BTreeSet<Metric>> {
    let mut metrics = BTreeSet::new();
    for word in document.list("releases", "metrics")? {
        match word.parse::<Metric>() {
            Ok(metric) => {
                metrics.insert(metric);
            }
            Err(error) => document.complain("releases", "metrics", &error.to_string()),
        }
    }
    if unit == Some(Unit::Institution) && !metrics.is_empty() {
        document.complain(
            "releases",
            "metrics",
            "metrics ride in batches of records, and unit institution has none: write metrics = []",
        );
    }
    Some(metrics)
}

/// The keys that promise privacy, so mean nothing when the unit is none.
const PRIVATE_KEYS: [(&str, &str); 6] = [
    ("privacy", "adjacency"),
    ("privacy", "placement"),
    ("privacy", "epsilon"),
    ("privacy", "delta"),
    ("budget", "epsilon"),
    ("budget", "delta"),
];

impl Privacy {
    fn read(document: &mut Document<'_>, unit: Unit) -> Option<Self> {
        for (section, key) in PRIVATE_KEYS {
            document.require(section, key, "every unit but \"none\" needs it");
        }
        let adjacency = document.word("privacy", "adjacency");
        let placement = document.word("privacy", "placement");
        let job = Loss::read(document, "privacy");
        let budget = Loss::read(document, "budget");
        let promise = Self {
            unit,
            adjacency: adjacency?,
            placement: placement?,
            job: job?,
            budget: budget?,
        };
        if promise.budget.epsilon < promise.job.epsilon {
            document.complain(
                "budget",
                "epsilon",
                "less than privacy.epsilon: no such job could run",
            );
        }
        if promise.budget.delta < promise.job.delta {
            document.complain(
                "budget",
                "delta",
                "less than privacy.delta: no such job could run",
            );
        }
        Some(promise)
    }
}

impl Loss {
    fn read(document: &mut Document<'_>, section: &str) -> Option<Self> {
        let epsilon = document.decimal(section, "epsilon");
        if epsilon.is_some_and(|epsilon| epsilon.is_zero()) {
            document.complain(section, "epsilon", "must be more than 0");
        }
        let delta = document.decimal(section, "delta");
        if delta.is_some_and(|delta| delta.is_zero() || delta >= Decimal::ONE) {
            document.complain(section, "delta", "must be more than 0 and less than 1");
        }
        Some(Self {
            epsilon: epsilon?,
            delta: delta?,
        })
    }
}

impl Aggregation {
    fn read(document: &mut Document<'_>, unit: Option<Unit>) -> Option<Self> {
        document.require(
            "aggregation",
            "min_contributors",
            "the fewest contributors a sum may have",
        );
        document.require(
            "aggregation",
            "colluders",
            "how many members are assumed to help the server; 0 is an answer",
        );
        let min_contributors = document.count("aggregation", "min_contributors", 2..=MAX_MEMBERS);
        let colluders = document.count("aggregation", "colluders", 0..=MAX_MEMBERS - 2);
        let threshold = document.count("aggregation", "threshold", 2..=MAX_MEMBERS);
        let committee = document.count("aggregation", "committee", 2..=MAX_MEMBERS);
        let min_cohort = document.count("aggregation", "min_cohort", 2..=MAX_MEMBERS);
        let (min_contributors, colluders) = (min_contributors?, colluders?);
        if min_contributors < colluders + 2 {
            let what = format!(
                "{min_contributors} is less than colluders + 2 = {}",
                colluders + 2
            );
            document.complain("aggregation", "min_contributors", &what);
        }
        if unit == Some(Unit::None) && min_contributors < 3 {
            document.complain(
                "aggregation",
                "min_contributors",
                "must be at least 3 where no noise is added",
            );
        }
        let min_cohort = min_cohort.unwrap_or(min_contributors);
        if min_cohort < min_contributors {
            document.complain("aggregation", "min_cohort", "less than min_contributors");
        }
        Some(Self {
            min_contributors,
            colluders,
            threshold,
            committee,
            min_cohort,
        })
    }
}

fn read_list(
    document: &mut Document<'_>,
    name: &str,
    wanted: &str,
    is_item: fn(&str) -> bool,
) -> Option<Allowed> {
    document.require("model", name, "list what is allowed, or write [\"any\"]");
    let items = document.list("model", name)?;
    Allowed::parse(items, wanted, is_item)
        .map_err(|what| document.complain("model", name, &what))
        .ok()
}
