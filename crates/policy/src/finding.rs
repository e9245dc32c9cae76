//! What a valid policy will not do, or hardly: found before members meet it.

use std::fmt;

use serde::Serialize;

use crate::allowed::Allowed;
use crate::committee::Sharing;
use crate::decimal::Decimal;
use crate::instant::Instant;
use crate::policy::Policy;
use crate::setting::{Role, Unit};

/// ε from which the odds change by more than 20,000: whatever one calls it, it hides little.
const LARGE_EPSILON: u32 = 10;
/// 1 / δ of which one would think twice: a mechanism may give one in so many records away whole.
const RECORDS_OF_LARGE_DELTA: i128 = 1_000;

/// What jobs call their prompt encoder and their task.
const ENCODERS: &[&str] = &["embedding", "lstm", "mlp", "nemo-mlp"];
const TASKS: &[&str] = &["classification", "generation"];

/// Something that whoever signs a policy should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The key's path.
    pub key: &'static str,
    /// Whether no job can run so.
    pub fatal: bool,
    /// What, with the numbers, and what to do.
    pub said: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.fatal { "cannot work" } else { "note" };
        write!(f, "{kind}: {}: {}", self.key, self.said)
    }
}

impl Policy {
    /// What cannot work, or will surprise, in a federation of `members` where that is known, as of `now`. In the order of
    /// the keys; noise and budgets need an accountant, which this crate has not.
    #[must_use]
    pub fn findings(&self, members: Option<usize>, now: Instant) -> Vec<Finding> {
        let mut found = Found(Vec::new());
        self.find_promises(&mut found);
        self.find_thresholds(members, &mut found);
        found.unknown("model.encoders", &self.encoders, ENCODERS);
        found.unknown("model.tasks", &self.tasks, TASKS);
        if !self
            .roles
            .submit_job
            .iter()
            .any(|role| *role != Role::Server)
        {
            found.fatal(
                "roles.submit_job",
                "nobody may submit a job (a server signs none): list \"researcher\", say".into(),
            );
        }
        if let Some(from) = self.time.valid_from.filter(|from| now < *from) {
            found.note(
                "time.valid_from",
                format!("it is {now}; nothing runs before {from}"),
            );
        }
        if let Some(until) = self.time.valid_until.filter(|until| *until < now) {
            found.fatal(
                "time.valid_until",
                format!(
                    "it is {now}; the policy ended at {until}: have an officer sign a later one"
                ),
            );
        }
        found.0
    }

    fn find_promises(&self, found: &mut Found) {
        let Some(promise) = &self.privacy else {
            found.note(
                "privacy.unit",
                "NO DIFFERENTIAL PRIVACY: for public data alone".into(),
            );
            return;
        };
        let (epsilon, delta) = (promise.job.epsilon, promise.job.delta);
        if epsilon > Decimal::from(LARGE_EPSILON) {
            found.note(
                "privacy.epsilon",
                format!(
                    "ε = {epsilon} hides little: above {LARGE_EPSILON} the odds of a guess may grow more than 20,000-fold; \
                     lower it"
                ),
            );
        }
        let large = delta > Decimal::new(1, 3).unwrap_or(Decimal::ONE);
        if promise.unit == Unit::Record && large {
            found.note(
                "privacy.delta",
                format!(
                    "δ = {delta} allows a mechanism that gives more than one in {RECORDS_OF_LARGE_DELTA} records away whole: \
                     write less than 1 / records"
                ),
            );
        }
    }

    fn find_thresholds(&self, members: Option<usize>, found: &mut Found) {
        let limits = &self.aggregation;
        let (n, c) = (limits.min_cohort as usize, limits.colluders as usize);
        let least = Sharing::among_all(n, c).least_threshold();
        let stated = limits.threshold.map(|threshold| threshold as usize);
        match stated {
            Some(stated) if stated > n => found.note(
                "aggregation.threshold",
                format!(
                    "it takes {stated} to open a sum, and a round may start with {n}: rounds of fewer than {stated} members \
                     are refused; write min_cohort = {stated}"
                ),
            ),
            Some(stated) if stated < least => found.note(
                "aggregation.threshold",
                format!(
                    "{stated} has no effect: of {n} members, {c} of them colluding, it takes {least} in any case \
                     (2t ≥ n + c + 1); leave it out, or raise it"
                ),
            ),
            _ if least.max(stated.unwrap_or(0)) == n => found.note(
                "aggregation.colluders",
                format!(
                    "with the fewest {n} members, {c} of them colluding, it takes all to open a sum: one that drops out voids \
                     the round; with a larger min_cohort, or a colluder less, one may"
                ),
            ),
            _ => {}
        }
        if let (Some(committee), Some(stated)) = (limits.committee, stated)
            && stated > committee as usize
        {
            found.note(
                "aggregation.committee",
                format!(
                    "a committee of {committee} could never open a sum that takes {stated}: write committee = {stated} or more"
                ),
            );
        }
        if limits.min_contributors == 2 {
            found.note(
                "aggregation.min_contributors",
                "of two contributors each sees the other's update, noise and all: write 3 or more"
                    .into(),
            );
        }
        let Some(members) = members else { return };
        if n > members {
            found.fatal(
                "aggregation.min_cohort",
                format!("a round needs {n} members, and the federation has {members}: lower it, or win more members"),
            );
        }
        if let Some(committee) = limits.committee
            && let Err(error) = Sharing::among_committee(members, c, committee as usize)
        {
            found.note("aggregation.committee", error.to_string());
        }
        if stated.is_some_and(|stated| stated > members) {
            found.fatal(
                "aggregation.threshold",
                format!(
                    "it takes {} to open a sum, and the federation has {members} members: lower it",
                    stated.unwrap_or_default()
                ),
            );
        }
    }
}

struct Found(Vec<Finding>);

impl Found {
    /// Names of a list that no job can give.
    fn unknown(&mut self, key: &'static str, allowed: &Allowed, known: &[&str]) {
        let Allowed::Only(names) = allowed else {
            return;
        };
        let unknown: Vec<&String> = (names.iter())
            .filter(|name| !known.contains(&name.as_str()))
            .collect();
        let said = |unknown: &[&String]| {
            let words: Vec<String> = unknown.iter().map(|name| format!("{name:?}")).collect();
            format!(
                "this program knows no {}: write some of {}, or [\"any\"]",
                words.join(", "),
                known.join(", ")
            )
        };
        if unknown.len() == names.len() {
            self.fatal(key, said(&unknown));
        } else if !unknown.is_empty() {
            self.note(key, said(&unknown));
        }
    }

    fn note(&mut self, key: &'static str, said: String) {
        let fatal = false;
        self.0.push(Finding { key, fatal, said });
    }

    fn fatal(&mut self, key: &'static str, said: String) {
        let fatal = true;
        self.0.push(Finding { key, fatal, said });
    }
}
