//! What page and metrics say of the past: what the audit log's entries add up to, one after the other. While the server runs and
//! after a restart it is the same sum over the same lines, so nothing is in it that the log does not hold.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use ciphertune_audit::Evidence;
use ciphertune_round::{Envelope, Job, Object as _};
use ciphertune_sum::{CohortSize, Parameters, ValueBound};
use serde_json::{Map, Value};

use super::attempt::{Attempt, Over, Unread};

/// Attempts that are over, of which everything is kept.
const ATTEMPTS: usize = 24;
/// Jobs that have ended.
const ENDS: usize = 16;
/// Refusals.
const REFUSALS: usize = 32;
/// Entries that are looked through for one that stands twice.
const RECENT: usize = 256;

/// Of what kinds refused objects are, as the log names them: the labels of a metric are these and no others.
pub const OBJECTS: [&str; 10] = [
    "abort",
    "admission",
    "agreement",
    "contribution",
    "echo",
    "job",
    "parcel",
    "parcel request",
    "release",
    "other",
];

/// The sum so far. Times are milliseconds after 1970; parties, jobs and contexts are written as the log writes them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Tally {
    /// Entries of the log.
    pub entries: u64,
    /// When the last one was written.
    pub last: u64,
    /// All that is counted.
    pub totals: Totals,
    /// Attempts that are over, the latest first.
    pub attempts: VecDeque<Arc<Attempt>>,
    /// Jobs that have ended, the latest first.
    pub ends: VecDeque<End>,
    /// What was refused, the latest first.
    pub refusals: VecDeque<Refusal>,
    jobs: BTreeMap<String, Submitted>,
    /// The attempts under way, by context.
    open: BTreeMap<String, Arc<Attempt>>,
    recent: VecDeque<(u64, String, Map<String, Value>)>,
}

/// Counted since the log began.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Totals {
    /// Times that the server started.
    pub starts: u64,
    /// Jobs that were taken.
    pub jobs: u64,
    /// Jobs that ended with a model of every round.
    pub jobs_completed: u64,
    /// Jobs that ended otherwise.
    pub jobs_failed: u64,
    /// Rounds that ended with a model.
    pub rounds: u64,
    /// Plans.
    pub attempts: u64,
    /// Attempts that were void.
    pub void: u64,
    /// Signed contributions.
    pub contributions: u64,
    /// Whole bodies.
    pub bodies: u64,
    /// Bytes of those, as jobs and plans fix them.
    pub body_bytes: u64,
    /// Bytes of sums that members opened: one sum for each agreement.
    pub sum_bytes: u64,
    /// Jobs that members would not take part in, each member once.
    pub declined: u64,
    /// Signed objects that were refused, by kind.
    pub refused: BTreeMap<&'static str, u64>,
}

/// A job that was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Submitted {
    /// When.
    pub at: u64,
    /// Who signed it.
    pub researcher: String,
    /// What it says; `None` when the signed job is kept no more.
    pub says: Option<Says>,
    /// Since when the next plan is waited for.
    waiting: u64,
    ended: bool,
}

/// What is told of a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Says {
    /// Its name.
    pub name: String,
    /// Rounds that it wants.
    pub rounds: u32,
    /// Milliseconds for contributing.
    contribute: u64,
    dimension: u64,
    value_bound: u64,
}

/// A job's end.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// When.
    pub at: u64,
    /// Which.
    pub job: String,
    /// Its name, if the signed job was kept.
    pub name: Option<String>,
    /// Whether every round has a model.
    pub completed: bool,
    /// How many have.
    pub rounds: u64,
    /// Why.
    pub reason: String,
}

/// What somebody would not take: the server a signed object, or a member a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// When.
    pub at: u64,
    /// Of which job.
    pub job: String,
    /// What was refused, as the log names it.
    pub what: String,
    /// Who signed it.
    pub by: String,
    /// Whether the server refused it, and not a member.
    pub by_server: bool,
    /// Why.
    pub reason: String,
}

impl Tally {
    /// Takes the log's next entry. `look` finds a kept object by its name.
    pub fn take(
        &mut self,
        kind: &str,
        fields: &Map<String, Value>,
        at: u64,
        look: &dyn Fn(&str) -> Option<Vec<u8>>,
    ) {
        self.entries += 1;
        // As the log writes it: its times never fall.
        self.last = self.last.max(at);
        if self.stands_twice(kind, fields) {
            return;
        }
        let entry = Fields(fields);
        let at = self.last;
        match kind {
            "started" => self.totals.starts += 1,
            "job" => self.submitted(&entry, at, look),
            "admission" => self.admission(&entry, at),
            "refused" => self.refused(&entry, at),
            "plan" => self.planned(&entry, at),
            "contribution" => {
                self.totals.contributions += 1;
                if let Some(attempt) = self.attempt_of(&entry) {
                    attempt.contributions += 1;
                    attempt.last_in = at;
                }
            }
            "body" => {
                self.totals.bodies += 1;
                let bytes = self.attempt_of(&entry).map(|attempt| {
                    attempt.bodies += 1;
                    attempt.last_in = at;
                    attempt.bytes.unwrap_or(0)
                });
                self.totals.body_bytes += bytes.unwrap_or(0);
            }
            "revoked" => {
                if let Some(attempt) = self.attempt_of(&entry) {
                    attempt.out += 1;
                    attempt.last_in = at;
                }
            }
            "roster" => {
                if let Some(attempt) = self.attempt_of(&entry) {
                    attempt.contributors = entry.number("contributors");
                    attempt.summed = Some(at);
                    attempt.roster = entry.object();
                }
            }
            "release" => {
                if let Some(attempt) = self.attempt_of(&entry) {
                    attempt.releases.push((entry.text("member"), at));
                }
            }
            "agreement" => {
                let bytes = self.attempt_of(&entry).map(|attempt| {
                    attempt.agreements += 1;
                    attempt.bytes.unwrap_or(0)
                });
                self.totals.sum_bytes += bytes.unwrap_or(0);
            }
            "complete" => {
                self.totals.rounds += 1;
                self.over_of_job(&entry.text("job"), "complete", "", at);
            }
            "void" => {
                self.totals.void += 1;
                let context = entry.text("context");
                self.over(&context, "void", &entry.text("reason"), at);
            }
            "ended" => self.ended(&entry, at),
            _ => {}
        }
    }

    /// What the log says of a job that runs or is spoken of.
    pub fn job(&self, digest: &str) -> Option<&Submitted> {
        self.jobs.get(digest)
    }

    /// The attempt of a context, while it is under way.
    pub fn under_way(&self, context: &str) -> Option<&Attempt> {
        self.open.get(context).map(Arc::as_ref)
    }

    /// What is to be read before everything is told of the attempts that are over.
    pub fn unread(&self) -> Vec<Unread> {
        let attempts = self.attempts.iter();
        attempts.flat_map(|attempt| attempt.unread()).collect()
    }

    /// Takes what such an object says: members. Without any, there is nothing to be had.
    pub fn learn(&mut self, object: &Unread, members: Option<Arc<[String]>>) {
        for attempt in &mut self.attempts {
            if attempt.unread().contains(object) {
                let attempt = Arc::make_mut(attempt);
                match object {
                    Unread::Plan(_) => {
                        attempt.holders.clone_from(&members);
                        attempt.plan = None;
                    }
                    Unread::Roster(_) => {
                        attempt.names.clone_from(&members);
                        attempt.roster = None;
                    }
                }
            }
        }
    }

    /// After a crash between database and log an entry may stand twice, with one number.
    fn stands_twice(&mut self, kind: &str, fields: &Map<String, Value>) -> bool {
        let Some(number) = fields.get("number").and_then(Value::as_u64) else {
            return false;
        };
        let twice = self.recent.iter().any(|(other, its_kind, its_fields)| {
            *other == number && its_kind == kind && its_fields == fields
        });
        if !twice {
            keep(
                &mut self.recent,
                (number, kind.to_owned(), fields.clone()),
                RECENT,
            );
        }
        twice
    }

    fn submitted(&mut self, entry: &Fields<'_>, at: u64, look: &dyn Fn(&str) -> Option<Vec<u8>>) {
        self.totals.jobs += 1;
        let signed = entry.object().and_then(|name| look(&name));
        let job = Submitted {
            at,
            researcher: entry.text("researcher"),
            says: signed.and_then(|bytes| Says::read(&bytes)),
            waiting: at,
            ended: false,
        };
        self.jobs.insert(entry.text("job"), job);
    }

    fn admission(&mut self, entry: &Fields<'_>, at: u64) {
        if entry.flag("accepted") {
            return;
        }
        self.totals.declined += 1;
        let refusal = Refusal {
            at,
            job: entry.text("job"),
            what: "job".into(),
            by: entry.text("member"),
            by_server: false,
            reason: entry.text("reason"),
        };
        keep(&mut self.refusals, refusal, REFUSALS);
    }

    fn refused(&mut self, entry: &Fields<'_>, at: u64) {
        let what = entry.text("what");
        let known = OBJECTS.into_iter().find(|object| *object == what);
        *self
            .totals
            .refused
            .entry(known.unwrap_or("other"))
            .or_default() += 1;
        let refusal = Refusal {
            at,
            job: entry.text("job"),
            what,
            by: entry.text("by"),
            by_server: true,
            reason: entry.text("reason"),
        };
        keep(&mut self.refusals, refusal, REFUSALS);
    }

    fn planned(&mut self, entry: &Fields<'_>, at: u64) {
        self.totals.attempts += 1;
        let (job, context) = (entry.text("job"), entry.text("context"));
        let known = self.jobs.get(&job);
        let says = known.and_then(|job| job.says.as_ref());
        let number = |field| entry.number(field).unwrap_or(0);
        let (cohort, holders) = (number("cohort"), number("holders"));
        let attempt = Attempt {
            context: context.clone(),
            round: number("round"),
            attempt: number("attempt"),
            cohort,
            threshold: number("threshold"),
            planned: at,
            contributions: 0,
            bytes: says.and_then(|says| says.body_bytes(cohort)),
            bodies: 0,
            contributors: None,
            names: None,
            agreements: 0,
            over: None,
            waiting: known.map_or(at, |job| job.waiting),
            contribute: says.map(|says| says.contribute),
            everybody: holders == cohort,
            out: 0,
            last_in: at,
            summed: None,
            releases: Vec::new(),
            holders: None,
            plan: entry.object(),
            roster: None,
            job,
        };
        self.open.insert(context, Arc::new(attempt));
    }

    fn attempt_of(&mut self, entry: &Fields<'_>) -> Option<&mut Attempt> {
        let attempt = self.open.get_mut(&entry.text("context"))?;
        Some(Arc::make_mut(attempt))
    }

    fn over_of_job(&mut self, job: &str, how: &'static str, reason: &str, at: u64) {
        let contexts = self.open.iter().filter(|(_, attempt)| attempt.job == job);
        let contexts: Vec<String> = contexts.map(|(context, _)| context.clone()).collect();
        for context in contexts {
            self.over(&context, how, reason, at);
        }
    }

    fn over(&mut self, context: &str, how: &'static str, reason: &str, at: u64) {
        let Some(mut attempt) = self.open.remove(context) else {
            return;
        };
        if let Some(job) = self.jobs.get_mut(&attempt.job) {
            job.waiting = at;
        }
        Arc::make_mut(&mut attempt).over = Some(Over {
            at,
            how,
            reason: reason.to_owned(),
        });
        keep(&mut self.attempts, attempt, ATTEMPTS);
    }

    fn ended(&mut self, entry: &Fields<'_>, at: u64) {
        let (job, reason) = (entry.text("job"), entry.text("reason"));
        let completed = entry.flag("completed");
        let ended = match completed {
            true => &mut self.totals.jobs_completed,
            false => &mut self.totals.jobs_failed,
        };
        *ended += 1;
        self.over_of_job(&job, "ended", &reason, at);
        let known = self.jobs.get_mut(&job);
        let says = known.and_then(|job| {
            job.ended = true;
            job.says.as_ref()
        });
        let end = End {
            at,
            name: says.map(|says| says.name.clone()),
            completed,
            rounds: entry.number("rounds").unwrap_or(0),
            reason,
            job,
        };
        keep(&mut self.ends, end, ENDS);
        self.forget();
    }

    /// Forgets the jobs that have ended and of which nothing else is told.
    fn forget(&mut self) {
        let told: BTreeSet<&String> = (self.attempts.iter().map(|attempt| &attempt.job))
            .chain(self.refusals.iter().map(|refusal| &refusal.job))
            .collect();
        (self.jobs).retain(|digest, job| !job.ended || told.contains(digest));
    }
}

impl Says {
    /// Of a job as it was signed.
    fn read(envelope: &[u8]) -> Option<Self> {
        let job = Job::parse(Envelope::decode(envelope).ok()?.payload()).ok()?;
        Some(Self {
            name: job.name,
            rounds: job.rounds,
            contribute: u64::try_from(job.deadlines.contribute.as_millis()).ok()?,
            dimension: job.dimension,
            value_bound: job.value_bound,
        })
    }

    fn body_bytes(&self, cohort: u64) -> Option<u64> {
        let size = CohortSize::new(usize::try_from(cohort).ok()?).ok()?;
        let parameters = Parameters::derive(size, ValueBound::new(self.value_bound).ok()?).ok()?;
        Some(parameters.body_bytes(usize::try_from(self.dimension).ok()?))
    }
}

/// An entry's fields, as whoever wrote the log wrote them.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn text(&self, name: &str) -> String {
        let text = self.0.get(name).and_then(Value::as_str);
        text.unwrap_or_default().to_owned()
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.0.get(name)?.as_u64()
    }

    fn flag(&self, name: &str) -> bool {
        self.0.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The name of the first object that the entry rests on.
    fn object(&self) -> Option<String> {
        let first = self.0.get(Evidence::FIELD)?.as_array()?.first()?;
        first.as_str().map(str::to_owned)
    }
}

/// In front of the others, of which the oldest goes.
fn keep<T>(kept: &mut VecDeque<T>, new: T, most: usize) {
    kept.truncate(most - 1);
    kept.push_front(new);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::attempt::Phases, *};

    fn take(tally: &mut Tally, kind: &str, fields: Value, at: u64) {
        let fields = fields.as_object().unwrap();
        tally.take(kind, fields, at, &|_| None);
    }

    fn plan(tally: &mut Tally, context: &str, at: u64) {
        let fields = json!({ "job": "j", "context": context, "round": 1, "attempt": 1, "cohort": 3, "holders": 3, "threshold": 2 });
        take(tally, "plan", fields, at);
    }

    fn a_round(tally: &mut Tally) {
        take(
            tally,
            "job",
            json!({ "job": "j", "researcher": "r" }),
            1_000,
        );
        plan(tally, "c", 3_000);
        for (member, at) in [("a", 4_000), ("b", 5_000), ("c", 9_000)] {
            take(
                tally,
                "contribution",
                json!({ "context": "c", "member": member }),
                at,
            );
            take(
                tally,
                "body",
                json!({ "context": "c", "member": member }),
                at + 500,
            );
        }
        take(
            tally,
            "roster",
            json!({ "context": "c", "contributors": 3 }),
            9_700,
        );
        for (member, at) in [("b", 9_900), ("a", 10_700), ("c", 11_000)] {
            take(
                tally,
                "release",
                json!({ "context": "c", "member": member }),
                at,
            );
        }
        take(
            tally,
            "agreement",
            json!({ "context": "c", "member": "a" }),
            12_000,
        );
        take(tally, "complete", json!({ "job": "j", "round": 1 }), 13_000);
    }

    #[test]
    fn a_rounds_phases_are_the_times_between_its_entries() {
        let mut tally = Tally::default();
        a_round(&mut tally);
        let expected = Phases {
            gathering: 2_000,
            contributing: Some(6_500),
            closing: Some(200),
            opening: Some(1_000),
            agreeing: Some(2_300),
        };
        assert_eq!(tally.attempts[0].phases(), expected);
        assert_eq!((tally.totals.rounds, tally.totals.contributions), (1, 3));
        // Phases leave nothing out: from the job to the end.
        let all = 2_000 + 6_500 + 200 + 1_000 + 2_300;
        assert_eq!(all, 13_000 - 1_000);
    }

    #[test]
    fn an_entry_that_stands_twice_with_one_number_counts_once() {
        let mut tally = Tally::default();
        for _ in 0..2 {
            take(
                &mut tally,
                "complete",
                json!({ "job": "j", "number": 7 }),
                1,
            );
        }
        take(
            &mut tally,
            "complete",
            json!({ "job": "k", "number": 7 }),
            1,
        );
        assert_eq!((tally.entries, tally.totals.rounds), (3, 2));
    }

    #[test]
    fn an_attempt_that_is_void_says_how_far_it_came_and_why_it_ended() {
        let mut tally = Tally::default();
        take(&mut tally, "job", json!({ "job": "j" }), 0);
        plan(&mut tally, "c", 1_000);
        take(
            &mut tally,
            "void",
            json!({ "context": "c", "reason": "too few" }),
            61_000,
        );
        plan(&mut tally, "d", 62_000);
        take(
            &mut tally,
            "ended",
            json!({ "job": "j", "completed": false, "reason": "stopped" }),
            63_000,
        );
        let [second, first] = [&tally.attempts[0], &tally.attempts[1]];
        assert_eq!(first.phases().contributing, Some(60_000));
        assert_eq!(first.over.as_ref().unwrap().reason, "too few");
        assert_eq!(second.phases().gathering, 1_000);
        assert_eq!(second.over.as_ref().unwrap().how, "ended");
        assert_eq!((tally.totals.void, tally.totals.jobs_failed), (1, 1));
        assert!(tally.open.is_empty());
    }

    #[test]
    fn however_long_the_log_a_bounded_part_of_it_is_kept() {
        let mut tally = Tally::default();
        for job in 0..500 {
            let job = format!("j{job}");
            take(&mut tally, "job", json!({ "job": job }), 0);
            let fields = json!({ "job": job, "context": job, "round": 1, "attempt": 1, "cohort": 3, "holders": 3, "threshold": 2 });
            take(&mut tally, "plan", fields, 0);
            take(&mut tally, "refused", json!({ "what": job, "job": job }), 0);
            take(&mut tally, "ended", json!({ "job": job, "number": 3 }), 0);
        }
        assert_eq!(tally.attempts.len(), ATTEMPTS);
        assert_eq!((tally.ends.len(), tally.refusals.len()), (ENDS, REFUSALS));
        assert!(tally.jobs.len() <= REFUSALS + 1, "{}", tally.jobs.len());
        assert_eq!(tally.totals.refused, BTreeMap::from([("other", 500)]));
    }
}
