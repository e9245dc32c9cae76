//! What an operator's monitoring collects: Prometheus' text format.

use std::fmt::{Display, Write as _};

use super::status::{PHASES, Seconds, Status};

/// Version 0.0.4 of it.
pub const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// All metrics. Labels have fixed values: no peer makes a new series.
pub fn text(status: &Status) -> String {
    let totals = &status.totals;
    let mut text = Text(String::new());
    text.of_server(status);
    if let Some(jobs) = &status.jobs {
        let in_phase = |phase| jobs.iter().filter(|job| job.phase == phase).count();
        let samples = PHASES.map(|phase| (phase, in_phase(phase)));
        text.labelled(
            "jobs",
            "gauge",
            "Jobs that run, by phase.",
            "phase",
            &samples,
        );
    }
    text.counter("jobs_submitted", "Jobs that were taken.", totals.jobs);
    text.labelled(
        "jobs_ended_total",
        "counter",
        "Jobs that ended: completed with a model of every round, or not.",
        "completed",
        &[
            ("true", totals.jobs_completed),
            ("false", totals.jobs_failed),
        ],
    );
    for (name, help, value) in [
        (
            "rounds_completed",
            "Rounds that ended with a model.",
            totals.rounds_completed,
        ),
        (
            "attempts",
            "Attempts at a round: plans that were signed.",
            totals.attempts,
        ),
        (
            "attempts_void",
            "Attempts that ended without a model.",
            totals.attempts_void,
        ),
        (
            "contributions",
            "Signed contributions that were taken.",
            totals.contributions,
        ),
        ("bodies", "Sealed bodies that came whole.", totals.bodies),
        (
            "body_received_bytes",
            "Bytes of sealed bodies that came whole.",
            totals.body_bytes,
        ),
        (
            "sum_opened_bytes",
            "Bytes of sums that members opened: one sum for each agreement.",
            totals.sum_bytes,
        ),
        (
            "jobs_declined",
            "Answers of members that would not take part in a job.",
            totals.jobs_declined,
        ),
    ] {
        text.counter(name, help, value);
    }
    let refused = totals.refused.iter().map(|it| (it.what, it.count));
    text.labelled(
        "refused_objects_total",
        "counter",
        "Signed objects that the log notes as refused, by what they were.",
        "what",
        &refused.collect::<Vec<_>>(),
    );
    if let Some(round) = status.last_complete() {
        text.labelled(
            "last_round_phase_seconds",
            "gauge",
            "How long the last round with a model was in each phase.",
            "phase",
            &phases(&round.seconds),
        );
        text.gauge(
            "last_round_contributors",
            "Members whose updates the last opened sum is of.",
            round.contributors.unwrap_or(0),
        );
    }
    text.counter(
        "events",
        "Events that were announced to members.",
        totals.events,
    );
    text.counter(
        "log_entries",
        "Entries of the audit log.",
        status.log.entries,
    );
    text.counter(
        "starts",
        "Times that the server was started.",
        totals.starts,
    );
    text.0
}

fn phases(seconds: &Seconds) -> Vec<(&'static str, f64)> {
    let phases = [
        ("gathering", Some(seconds.gathering)),
        ("contributing", seconds.contributing),
        ("closing", seconds.closing),
        ("opening", seconds.opening),
        ("agreeing", seconds.agreeing),
    ];
    let known = phases.into_iter();
    known
        .filter_map(|(phase, seconds)| Some((phase, seconds?)))
        .collect()
}

struct Text(String);

impl Text {
    fn of_server(&mut self, status: &Status) {
        let present = status.members.iter().filter(|member| member.present);
        for (name, help, value) in [
            (
                "certificate_expiry_timestamp_seconds",
                "When the server's certificate ends, in seconds since 1970.",
                status.certificate.timestamp,
            ),
            (
                "revocation_list_expiry_timestamp_seconds",
                "When the revocation list in force ends: past it everybody is refused.",
                status.revocation_list.timestamp,
            ),
            (
                "revocation_list_number",
                "Number of the revocation list in force.",
                status.revocation_list_number,
            ),
            (
                "revoked_certificates",
                "Certificates that the revocation list in force names.",
                status.revoked_certificates as u64,
            ),
            (
                "members",
                "Members of the federation.",
                status.members.len() as u64,
            ),
            (
                "members_present",
                "Members with an open event stream.",
                present.count() as u64,
            ),
            (
                "ready",
                "1 when calls are served, as /readyz says.",
                status.ready.into(),
            ),
        ] {
            self.gauge(name, help, value);
        }
        self.gauge(
            "uptime_seconds",
            "Since the server was started.",
            status.uptime_seconds,
        );
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.head(name, help, "gauge");
        let _ = writeln!(self.0, "ciphertune_{name} {value}");
    }

    /// Its name gets the ending that counters have.
    fn counter(&mut self, name: &str, help: &str, value: u64) {
        let name = format!("{name}_total");
        self.head(&name, help, "counter");
        let _ = writeln!(self.0, "ciphertune_{name} {value}");
    }

    fn labelled(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        samples: &[(&'static str, impl Display)],
    ) {
        self.head(name, help, kind);
        for (of, value) in samples {
            let _ = writeln!(self.0, "ciphertune_{name}{{{label}=\"{of}\"}} {value}");
        }
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = write!(
            self.0,
            "# HELP ciphertune_{name} {help}\n# TYPE ciphertune_{name} {kind}\n"
        );
    }
}
