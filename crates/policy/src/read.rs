//! Reading a policy document: every key, every rule between keys.

use std::collections::BTreeSet;

use crate::allowed::{Allowed, is_digest, is_plain, is_word};
use crate::decimal::Decimal;
use crate::document::Document;
use crate::error::Error;
use crate::instant::Instant;
use crate::policy::{
    Aggregation, Loss, MAX_DAYS, MAX_MEMBERS, MAX_ROUNDS, MaxAge, Policy, Privacy, Roles, Time,
};
use crate::schema;
use crate::setting::{Metric, Role, Unit};

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
            document.complain(
                "privacy",
                "clip_norm",
                "0 would clip everything away: it must be more than 0",
            );
        }
        document.require("privacy", "rounds", "the most rounds of one job");
        let rounds = document.count("privacy", "rounds", 1..=MAX_ROUNDS);
        let max_sampling_rate = read_rate(document, unit);
        let aggregation = Aggregation::read(document, unit);
        let allowed = "list what is allowed, or write [\"any\"]";
        for name in ["backbones", "encoders", "tasks"] {
            document.require("model", name, allowed);
        }
        let backbones = read_list(
            document,
            "backbones",
            "a model's SHA-256 in 64 lowercase hex digits",
            is_digest,
        );
        let encoders = read_list(document, "encoders", "a prompt encoder's name", is_word);
        let tasks = read_list(document, "tasks", "a task's name", is_word);
        let datasets = if document.has("model", "datasets") {
            read_list(document, "datasets", "a dataset's name", is_plain)
        } else {
            Some(Allowed::Any)
        };
        document.require(
            "releases",
            "metrics",
            "write metrics = []: no metric leaves",
        );
        let metrics = read_metrics(document, unit);
        let max_age_days = MaxAge {
            certificate: document.count("identity", "max_certificate_age_days", 1..=MAX_DAYS),
            revocation_list: document.count(
                "identity",
                "max_revocation_list_age_days",
                1..=MAX_DAYS,
            ),
        };
        let roles = Roles::read(document);
        let retention_days = document.count("audit", "retention_days", 1..=MAX_DAYS);
        let time = Time::read(document);
        Some(Self {
            max_sampling_rate,
            datasets: datasets?,
            max_age_days,
            roles,
            retention_days,
            time,
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

/// A list of words, each complained about that is none; `None` when the key is not written.
fn read_words<T: Ord + std::str::FromStr<Err = Error>>(
    document: &mut Document<'_>,
    section: &str,
    name: &str,
) -> Option<BTreeSet<T>> {
    let mut words = BTreeSet::new();
    for word in document.list(section, name)? {
        match word.parse::<T>() {
            Ok(word) => {
                words.insert(word);
            }
            Err(error) => document.complain(section, name, &error.to_string()),
        }
    }
    Some(words)
}

fn read_rate(document: &mut Document<'_>, unit: Option<Unit>) -> Option<Decimal> {
    if unit == Some(Unit::Institution) {
        document.forbid(
            "privacy",
            "max_sampling_rate",
            "records are drawn into batches, and unit institution has none",
        );
    }
    let rate = document.decimal("privacy", "max_sampling_rate")?;
    if rate.is_zero() || rate > Decimal::ONE {
        let what = format!("{rate} is no probability above 0 and up to 1");
        document.complain("privacy", "max_sampling_rate", &what);
    }
    // 1 is any rate.
    (rate != Decimal::ONE).then_some(rate)
}

impl Roles {
    fn read(document: &mut Document<'_>) -> Self {
        let least = Self::default();
        Self {
            submit_job: read_words(document, "roles", "submit_job").unwrap_or(least.submit_job),
            abort_job: read_words(document, "roles", "abort_job").unwrap_or(least.abort_job),
            read_log: read_words(document, "roles", "read_log").unwrap_or(least.read_log),
            change_policy: read_changers(document).unwrap_or(least.change_policy),
        }
    }
}

fn read_changers(document: &mut Document<'_>) -> Option<BTreeSet<Role>> {
    let roles: BTreeSet<Role> = read_words(document, "roles", "change_policy")?;
    if let Some(role) = roles.iter().find(|role| **role != Role::Officer) {
        let what = format!(
            "{} signs no policy: write [\"officer\"], or [] for nobody",
            role.with_article()
        );
        document.complain("roles", "change_policy", &what);
    }
    Some(roles)
}

impl Time {
    fn read(document: &mut Document<'_>) -> Self {
        let time = Self {
            valid_from: (document.word("time", "valid_from"))
                .filter(|from| *from != Instant::EPOCH),
            valid_until: document.word("time", "valid_until"),
        };
        if let (Some(from), Some(until)) = (time.valid_from, time.valid_until)
            && until < from
        {
            let what = format!(
                "{until} is before valid_from = {from}: the policy would never hold; write a later one"
            );
            document.complain("time", "valid_until", &what);
        }
        time
    }
}

fn read_metrics(document: &mut Document<'_>, unit: Option<Unit>) -> Option<BTreeSet<Metric>> {
    let metrics = read_words(document, "releases", "metrics")?;
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
        for (key, budget, job) in [
            ("epsilon", promise.budget.epsilon, promise.job.epsilon),
            ("delta", promise.budget.delta, promise.job.delta),
        ] {
            if budget < job {
                let what = format!(
                    "{budget} is less than privacy.{key} = {job}: no such job could run; raise the budget or lower the \
                     job's"
                );
                document.complain("budget", key, &what);
            }
        }
        Some(promise)
    }
}

impl Loss {
    fn read(document: &mut Document<'_>, section: &str) -> Option<Self> {
        let epsilon = document.decimal(section, "epsilon");
        if epsilon.is_some_and(|epsilon| epsilon.is_zero()) {
            document.complain(
                section,
                "epsilon",
                "0 would let nothing run: it must be more than 0",
            );
        }
        let delta = document.decimal(section, "delta");
        if let Some(delta) = delta.filter(|delta| delta.is_zero() || *delta >= Decimal::ONE) {
            let what = format!(
                "{delta} is no such probability: it must be more than 0 and less than 1; well below 1 / records"
            );
            document.complain(section, "delta", &what);
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
                "{min_contributors} is less than colluders + 2 = {}: two honest contributors hide each other; raise it, or \
                 assume fewer colluders",
                colluders + 2
            );
            document.complain("aggregation", "min_contributors", &what);
        }
        if unit == Some(Unit::None) && min_contributors < 3 {
            document.complain(
                "aggregation",
                "min_contributors",
                "2 would show each of the two the other's update: it must be at least 3 where no noise is added",
            );
        }
        let min_cohort = min_cohort.unwrap_or(min_contributors);
        if min_cohort < min_contributors {
            let what = format!(
                "{min_cohort} is less than min_contributors = {min_contributors}: such a round could never be opened; leave \
                 it out, or raise it"
            );
            document.complain("aggregation", "min_cohort", &what);
        }
        // It takes 2 in any case.
        let threshold = threshold.filter(|threshold| *threshold > 2);
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
    let items = document.list("model", name)?;
    Allowed::parse(items, wanted, is_item)
        .map_err(|what| document.complain("model", name, &what))
        .ok()
}
