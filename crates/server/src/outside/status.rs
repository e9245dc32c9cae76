//! What can be seen of the server: the page, the metrics and `/status.json` are made of it.

use std::collections::HashMap;

use ciphertune_audit::in_words;
use ciphertune_identity::Manifest;
use ciphertune_wire::proto::MemberState;
use serde::Serialize;

use super::{
    attempt::{Attempt, Phases},
    health,
    tally::{OBJECTS, Submitted, Tally},
};
use crate::{
    coordinator::Coordinator,
    moment::Moment,
    phase::{Machine, Phase},
};

/// The version of `/status.json`: fields may be added under one number, and none is changed or taken away.
const SCHEMA: u32 = 1;

/// The phases of a job that runs, in their order.
pub const PHASES: [&str; 6] = [
    "admitting",
    "gathering",
    "contributing",
    "closing",
    "opening",
    "agreeing",
];

/// The server at one moment. Times are RFC 3339, UTC, as in the log; spans are seconds.
#[derive(Serialize)]
pub struct Status {
    pub schema: u32,
    pub version: &'static str,
    pub federation: String,
    pub server: String,
    pub now: String,
    pub uptime_seconds: f64,
    pub ready: bool,
    /// Why it is not.
    pub not_ready: Option<String>,
    pub certificate: Ends,
    pub revocation_list: Ends,
    pub revocation_list_number: u64,
    pub revoked_certificates: usize,
    pub members: Vec<Member>,
    /// The jobs that run; `null` when the coordinator was busy.
    pub jobs: Option<Vec<Job>>,
    /// Attempts that are over, the latest first.
    pub rounds: Vec<Round>,
    pub refusals: Vec<Refusal>,
    pub ended: Vec<Ended>,
    pub totals: Totals,
    pub log: Log,
}

/// When something ends.
#[derive(Serialize)]
pub struct Ends {
    pub at: String,
    pub seconds_left: u64,
    #[serde(skip)]
    pub timestamp: u64,
}

/// A member of the federation.
#[derive(Serialize)]
pub struct Member {
    pub name: String,
    pub party: String,
    pub present: bool,
}

/// A job that runs.
#[derive(Serialize)]
pub struct Job {
    pub job: String,
    pub name: String,
    pub researcher: Option<String>,
    pub submitted: Option<String>,
    pub phase: String,
    pub round: u32,
    pub rounds: u32,
    pub rounds_completed: u32,
    pub attempt: u32,
    pub max_attempts: u32,
    pub expected_members: usize,
    /// Until when the phase may last, and how much of that is left.
    pub deadline: Option<String>,
    pub seconds_left: Option<f64>,
    /// Why it does not go on: there is no room on the disk.
    pub paused: Option<String>,
    pub current: Option<Current>,
    pub accepted: usize,
    pub refused: usize,
    pub present: usize,
    pub done: usize,
    pub members: Vec<Progress>,
}

/// The attempt that a job is at.
#[derive(Serialize)]
pub struct Current {
    pub context: String,
    pub cohort: usize,
    pub threshold: usize,
    pub min_contributors: usize,
    pub planned: Option<String>,
    pub body_bytes: Option<u64>,
    pub bodies: u64,
}

/// A member in a job that runs.
#[derive(Serialize)]
pub struct Progress {
    pub name: String,
    /// `waiting`, `accepted`, `refused`.
    pub admission: String,
    pub reason: String,
    pub present: bool,
    pub seated: bool,
    /// Of this phase: `none`, `partial`, `done`.
    pub progress: String,
}

/// An attempt that is over.
#[derive(Serialize)]
pub struct Round {
    pub job: String,
    pub name: Option<String>,
    pub round: u64,
    pub attempt: u64,
    pub context: String,
    /// `complete`, `void`, `ended`.
    pub outcome: &'static str,
    pub reason: String,
    pub planned: String,
    pub over: String,
    pub cohort: u64,
    pub threshold: u64,
    pub contributions: u64,
    pub contributors: Option<u64>,
    pub contributor_names: Option<Vec<String>>,
    pub agreements: u64,
    pub body_bytes: Option<u64>,
    pub received_bytes: Option<u64>,
    pub seconds: Seconds,
}

/// Seconds in each phase.
#[derive(Clone, Copy, Serialize)]
pub struct Seconds {
    pub gathering: f64,
    pub contributing: Option<f64>,
    pub closing: Option<f64>,
    pub opening: Option<f64>,
    pub agreeing: Option<f64>,
    pub total: f64,
}

/// What somebody would not take.
#[derive(Serialize)]
pub struct Refusal {
    pub at: String,
    /// `server` or `member`.
    pub refused_by: &'static str,
    pub what: String,
    pub job: String,
    pub job_name: Option<String>,
    pub party: String,
    pub name: String,
    pub reason: String,
}

/// A job that has ended.
#[derive(Serialize)]
pub struct Ended {
    pub at: String,
    pub job: String,
    pub name: Option<String>,
    pub completed: bool,
    pub rounds: u64,
    pub reason: String,
}

/// Counted since the log began.
#[derive(Serialize)]
pub struct Totals {
    pub starts: u64,
    pub jobs: u64,
    pub jobs_completed: u64,
    pub jobs_failed: u64,
    pub rounds_completed: u64,
    pub attempts: u64,
    pub attempts_void: u64,
    pub contributions: u64,
    pub bodies: u64,
    pub body_bytes: u64,
    pub sum_bytes: u64,
    pub jobs_declined: u64,
    pub refused: Vec<Refused>,
    pub events: u64,
}

/// Refused objects of one kind.
#[derive(Serialize)]
pub struct Refused {
    pub what: &'static str,
    pub count: u64,
}

/// The audit log.
#[derive(Serialize)]
pub struct Log {
    pub entries: u64,
    pub last: String,
}

impl Status {
    /// A look at the server: what the log adds up to, and the jobs that run, if they could be had.
    pub fn of(
        coordinator: &Coordinator,
        running: Option<Vec<(Machine, Option<String>)>>,
        since: Moment,
    ) -> Self {
        let (tally, now) = (coordinator.history().look(), coordinator.now());
        let manifest: &Manifest = coordinator.federation().manifest();
        let names = Names::of(manifest);
        let credentials = coordinator.gate().credentials();
        let list = credentials.revocations();
        let ends = |validity: ciphertune_identity::Validity| Ends {
            at: validity.end().to_string(),
            seconds_left: validity.seconds_left(now.to_system()),
            timestamp: validity.not_after(),
        };
        let present = coordinator.present();
        let members = coordinator.federation().members().into_iter();
        let members = members.map(|member| Member {
            name: names.of_party(&member.to_string()),
            party: member.to_string(),
            present: present.contains(&member),
        });
        let not_ready = health::ready(coordinator).err();
        let jobs = running.map(|machines| {
            let look = |(machine, paused): &(Machine, Option<String>)| Job {
                paused: paused.clone(),
                ..job(
                    machine,
                    machine.status(&present, now).members,
                    &tally,
                    &names,
                    now,
                )
            };
            let mut jobs: Vec<Job> = machines.iter().map(look).collect();
            jobs.sort_by(|a, b| (&a.submitted, &a.job).cmp(&(&b.submitted, &b.job)));
            jobs
        });
        Self {
            schema: SCHEMA,
            version: env!("CARGO_PKG_VERSION"),
            federation: manifest.federation().to_string(),
            server: manifest
                .server()
                .map(|party| party.name.to_string())
                .unwrap_or_default(),
            now: in_words(now.as_millis()),
            uptime_seconds: now.since(since).as_secs_f64(),
            ready: not_ready.is_none(),
            not_ready,
            certificate: ends(*credentials.certificate().validity()),
            revocation_list: ends(*list.validity()),
            revocation_list_number: list.number(),
            revoked_certificates: list.revoked().len(),
            members: members.collect(),
            jobs,
            rounds: (tally.attempts.iter())
                .map(|attempt| round(attempt, &tally, &names))
                .collect(),
            refusals: refusals(&tally, &names),
            ended: ended(&tally),
            totals: totals(&tally, *coordinator.announced().borrow()),
            log: Log {
                entries: tally.entries,
                last: in_words(tally.last),
            },
        }
    }

    /// The last round that ended with a model.
    pub fn last_complete(&self) -> Option<&Round> {
        (self.rounds.iter()).find(|round| round.outcome == "complete")
    }
}

/// Who is behind a fingerprint.
struct Names(HashMap<String, String>);

impl Names {
    fn of(manifest: &Manifest) -> Self {
        let parties = manifest.parties().iter();
        Self(
            parties
                .map(|party| (party.fingerprint().to_string(), party.name.to_string()))
                .collect(),
        )
    }

    /// A stranger, as one of an older manifest is, has no name but its key's.
    fn of_party(&self, party: &str) -> String {
        self.0.get(party).map_or(party, String::as_str).to_owned()
    }
}

fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

fn name_of(tally: &Tally, job: &str) -> Option<String> {
    Some(tally.job(job)?.says.as_ref()?.name.clone())
}

fn job(
    machine: &Machine,
    members: Vec<MemberState>,
    tally: &Tally,
    names: &Names,
    now: Moment,
) -> Job {
    let (wanted, digest) = (machine.job(), machine.digest().to_string());
    let (phase, deadline) = phase(machine.phase());
    let submitted: Option<&Submitted> = tally.job(&digest);
    let attempt = machine.current();
    let seated: Vec<String> = attempt
        .map(|attempt| attempt.plan.seats.iter())
        .into_iter()
        .flatten()
        .map(|seat| names.of_party(&seat.member.to_string()))
        .collect();
    let seated: std::collections::HashSet<String> = seated.into_iter().collect();
    let members: Vec<Progress> = members
        .into_iter()
        .map(|member| Progress {
            seated: seated.contains(&member.name),
            name: member.name,
            admission: member.admission,
            reason: member.refusal,
            present: member.present,
            progress: member.progress,
        })
        .collect();
    let count = |is: &dyn Fn(&Progress) -> bool| members.iter().filter(|it| is(it)).count();
    Job {
        paused: None,
        name: wanted.name.clone(),
        researcher: submitted.map(|job| names.of_party(&job.researcher)),
        submitted: submitted.map(|job| in_words(job.at)),
        phase: phase.into(),
        round: machine.round(),
        rounds: wanted.rounds,
        rounds_completed: machine.completed(),
        attempt: machine.attempt(),
        max_attempts: wanted.max_attempts,
        expected_members: wanted.expected_members,
        deadline: deadline.map(|deadline| in_words(deadline.as_millis())),
        seconds_left: deadline.map(|deadline| deadline.since(now).as_secs_f64()),
        current: attempt.map(|attempt| {
            let context = attempt.context.to_string();
            let logged = tally.under_way(&context);
            Current {
                cohort: attempt.plan.seats.len(),
                threshold: attempt.plan.threshold,
                min_contributors: attempt.plan.min_contributors,
                planned: logged.map(|it| in_words(it.planned)),
                body_bytes: logged.and_then(|it| it.bytes),
                bodies: logged.map_or(0, |it| it.bodies),
                context,
            }
        }),
        accepted: count(&|it| it.admission == "accepted"),
        refused: count(&|it| it.admission == "refused"),
        present: count(&|it| it.present),
        done: count(&|it| it.progress == "done"),
        members,
        job: digest,
    }
}

fn phase(phase: &Phase) -> (&'static str, Option<Moment>) {
    match phase {
        Phase::Admitting => ("admitting", None),
        Phase::Gathering { until } => ("gathering", Some(*until)),
        Phase::Contributing { until } => ("contributing", Some(*until)),
        Phase::Closing => ("closing", None),
        Phase::Opening { until } => ("opening", Some(*until)),
        Phase::Agreeing { until } => ("agreeing", Some(*until)),
        Phase::Ended { .. } => ("ended", None),
    }
}

fn round(attempt: &Attempt, tally: &Tally, names: &Names) -> Round {
    let over = attempt.over.as_ref();
    let at = over.map_or(attempt.planned, |over| over.at);
    let Phases {
        gathering,
        contributing,
        closing,
        opening,
        agreeing,
    } = attempt.phases();
    let all = attempt.names.as_ref().map(|parties| {
        let parties = parties.iter();
        parties.map(|party| names.of_party(party)).collect()
    });
    Round {
        name: name_of(tally, &attempt.job),
        job: attempt.job.clone(),
        round: attempt.round,
        attempt: attempt.attempt,
        context: attempt.context.clone(),
        outcome: over.map_or("", |over| over.how),
        reason: over.map(|over| over.reason.clone()).unwrap_or_default(),
        planned: in_words(attempt.planned),
        over: in_words(at),
        cohort: attempt.cohort,
        threshold: attempt.threshold,
        contributions: attempt.contributions,
        contributors: attempt.contributors,
        contributor_names: all,
        agreements: attempt.agreements,
        body_bytes: attempt.bytes,
        received_bytes: attempt.bytes.map(|bytes| bytes * attempt.bodies),
        seconds: Seconds {
            gathering: seconds(gathering),
            contributing: contributing.map(seconds),
            closing: closing.map(seconds),
            opening: opening.map(seconds),
            agreeing: agreeing.map(seconds),
            total: seconds(gathering + at.saturating_sub(attempt.planned)),
        },
    }
}

fn refusals(tally: &Tally, names: &Names) -> Vec<Refusal> {
    let refusals = tally.refusals.iter();
    let refusals = refusals.map(|refusal| Refusal {
        at: in_words(refusal.at),
        refused_by: match refusal.by_server {
            true => "server",
            false => "member",
        },
        what: refusal.what.clone(),
        job_name: name_of(tally, &refusal.job),
        job: refusal.job.clone(),
        name: names.of_party(&refusal.by),
        party: refusal.by.clone(),
        reason: refusal.reason.clone(),
    });
    refusals.collect()
}

fn ended(tally: &Tally) -> Vec<Ended> {
    let ends = tally.ends.iter();
    let ends = ends.map(|end| Ended {
        at: in_words(end.at),
        job: end.job.clone(),
        name: end.name.clone(),
        completed: end.completed,
        rounds: end.rounds,
        reason: end.reason.clone(),
    });
    ends.collect()
}

fn totals(tally: &Tally, events: u64) -> Totals {
    let totals = &tally.totals;
    let refused = OBJECTS.into_iter().map(|what| Refused {
        what,
        count: totals.refused.get(what).copied().unwrap_or(0),
    });
    Totals {
        starts: totals.starts,
        jobs: totals.jobs,
        jobs_completed: totals.jobs_completed,
        jobs_failed: totals.jobs_failed,
        rounds_completed: totals.rounds,
        attempts: totals.attempts,
        attempts_void: totals.void,
        contributions: totals.contributions,
        bodies: totals.bodies,
        body_bytes: totals.body_bytes,
        sum_bytes: totals.sum_bytes,
        jobs_declined: totals.declined,
        refused: refused.collect(),
        events,
    }
}
