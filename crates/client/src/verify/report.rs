//! A job as a regulator wants to see it: facts that the logs prove, in one page and in JSON.

use std::{collections::BTreeMap, time::SystemTime};

use ciphertune_identity::{Role, Validity};
use ciphertune_policy::{Decimal, Unit};
use ciphertune_round::{Context, Digest, Fingerprint};
use ciphertune_sum::{
    CohortSize, N, Parameters, ValueBound,
    security::{Leak, Lwe, MODULUS_BITS, STANDARD_ROWS, Sieve},
};
use minijinja::{Environment, value::Serde};
use serde::Serialize;

use super::{
    Audit, Refusal, Verdict,
    case::{AttemptFacts, JobFacts},
};
use crate::error::{Error, Result};

/// The page.
const PAGE: &str = include_str!("report.html");

/// All that is said of one job.
#[derive(Serialize)]
pub struct Report {
    /// When it was written, UTC.
    pub written: String,
    /// What wrote it.
    pub program: String,
    /// Whether everything holds, and what was read.
    pub verdict: Verdict,
    /// Who is who.
    pub federation: FederationFacts,
    /// What was wanted.
    pub job: JobSummary,
    /// Who took part.
    pub members: Vec<MemberFacts>,
    /// How it was encrypted, and how hard that is to break.
    pub encryption: Option<Encryption>,
    /// What allowed it.
    pub policies: Vec<PolicyFacts>,
    /// What happened, attempt by attempt.
    pub rounds: Vec<RoundFacts>,
    /// Refusals, in the order of time.
    pub refusals: Vec<Refusal>,
}

/// The federation.
#[derive(Serialize)]
pub struct FederationFacts {
    name: String,
    manifest: String,
    manifest_serial: u64,
    server: String,
    members: usize,
}

/// A job in its researcher's words.
#[derive(Serialize)]
pub struct JobSummary {
    digest: String,
    evidence: String,
    name: String,
    researcher: String,
    submitted: String,
    task: String,
    encoder: String,
    backbone: String,
    initial_model: String,
    final_model: Option<String>,
    trained_numbers: u64,
    rounds: u32,
    max_attempts: u32,
    min_contributors: usize,
    colluders: usize,
    unit: String,
    adjacency: String,
    placement: String,
    clip_norm: String,
    noise_multiplier: String,
    epsilon: Option<String>,
    delta: Option<String>,
    sampling_rate: Option<String>,
    metrics: Vec<String>,
    completed: Option<bool>,
    end: Option<String>,
}

/// A member's part in it.
#[derive(Serialize)]
pub struct MemberFacts {
    name: String,
    party: String,
    /// `accepted`, or why not; `None` where it did not answer.
    answer: Option<String>,
    /// Whether its folder was audited: else what only its own log says is missing here.
    audited: bool,
    rounds: u64,
    /// Sealed bytes that left it: bodies and key shares.
    sealed_bytes: Option<u64>,
    /// All bytes that left and reached it in rounds that ended with a model.
    bytes_up: Option<u64>,
    bytes_down: Option<u64>,
    budgets: Vec<BudgetFacts>,
}

/// What the job cost one dataset.
#[derive(Serialize)]
pub struct BudgetFacts {
    dataset: String,
    epsilon_of_job: Option<f64>,
    epsilon_of_life: Option<f64>,
    epsilon_promised: Option<f64>,
    delta: Option<f64>,
    without_privacy: bool,
}

/// The parameter set.
#[derive(Serialize)]
pub struct Encryption {
    name: String,
    ring_degree: usize,
    modulus_bits: u32,
    bytes_per_number: f64,
    standard_classical: Option<u32>,
    standard_quantum: Option<u32>,
    /// Bits, rounded down, against who knows the sum of two honest members' keys: the better of two attacks.
    estimated_classical: f64,
    estimated_quantum: f64,
}

/// A policy document.
#[derive(Serialize)]
pub struct PolicyFacts {
    name: String,
    digest: String,
    officer: String,
}

/// An attempt at a round.
#[derive(Serialize)]
pub struct RoundFacts {
    round: u32,
    attempt: u32,
    planned: String,
    context: String,
    plan_evidence: String,
    policy: String,
    cohort: usize,
    threshold: usize,
    min_contributors: usize,
    roster: Option<String>,
    roster_evidence: Option<String>,
    sum: Option<String>,
    contributors: Vec<String>,
    echoes: usize,
    releases: usize,
    agreed: Option<String>,
    void: Option<String>,
}

impl Report {
    pub(super) fn of(audit: &Audit, wanted: &str) -> Result<Self> {
        let (digest, facts) = find(audit, wanted)?;
        let case = &audit.case;
        let manifest = case.manifest.as_ref();
        let manifest =
            manifest.ok_or_else(|| Error::Refused("the folders hold no manifest".into()))?;
        let mut attempts: Vec<(&Context, &AttemptFacts)> = (case.attempts.iter())
            .filter(|(_, it)| it.job == digest)
            .collect();
        attempts.sort_by_key(|(_, it)| (it.round, it.attempt));
        let name_of = |party: &Fingerprint| case.name_of(party);
        let numbered = |who: u32| {
            let party = case.numbered.get(who as usize);
            party.map(name_of).unwrap_or_default()
        };
        let members = manifest.members().map(|party| {
            let fingerprint = party.fingerprint();
            member(audit, facts, &digest, &fingerprint, &attempts)
        });
        let mut refusals = facts.refusals.clone();
        refusals.sort_by(|a, b| a.time.cmp(&b.time));
        refusals.dedup();
        Ok(Self {
            written: Validity::moment(SystemTime::now()).to_string(),
            program: format!("ciphertune {}", env!("CARGO_PKG_VERSION")),
            verdict: audit.verdict(),
            federation: FederationFacts {
                name: manifest.federation().to_string(),
                manifest: manifest.digest().to_string(),
                manifest_serial: manifest.serial(),
                server: manifest
                    .with_role(Role::Server)
                    .map(|party| party.name.to_string())
                    .collect(),
                members: manifest.members().count(),
            },
            job: summary(
                facts,
                digest,
                &attempts,
                case.ends.get(&digest),
                name_of(&facts.job.signer()),
            ),
            members: members.collect(),
            encryption: attempts
                .last()
                .and_then(|(_, last)| encryption(facts, last)),
            policies: facts
                .policies
                .iter()
                .map(|(name, digest, officer)| PolicyFacts {
                    name: name.clone(),
                    digest: digest.to_string(),
                    officer: name_of(officer),
                })
                .collect(),
            rounds: attempts
                .iter()
                .map(|(context, attempt)| round(context, attempt, &numbered))
                .collect(),
            refusals,
        })
    }

    /// The job's digest.
    pub fn digest(&self) -> &str {
        &self.job.digest
    }

    /// The same in one page without anything from elsewhere: for a browser, a printer and a file.
    ///
    /// # Errors
    /// [`Error::Fault`] if it cannot be made.
    pub fn to_html(&self) -> Result<String> {
        let fault = |error: minijinja::Error| Error::fault("writing the report", error);
        let mut environment = Environment::new();
        // Its name says that what is put in is escaped.
        environment
            .add_template("report.html", PAGE)
            .map_err(fault)?;
        environment.add_filter("short", |text: String| {
            text.chars().take(12).collect::<String>()
        });
        environment.add_filter("places", |number: f64| format!("{number:.4}"));
        environment.add_filter("thousands", thousands);
        environment.add_filter("plain", plain);
        let page = environment.get_template("report.html").map_err(fault)?;
        page.render(Serde(self)).map_err(fault)
    }
}

fn find<'a>(audit: &'a Audit, wanted: &str) -> Result<(Digest, &'a JobFacts)> {
    let jobs = &audit.case.jobs;
    let mut fitting = jobs.iter().filter(|(digest, facts)| {
        facts.job.name == wanted || (wanted.len() >= 4 && digest.to_string().starts_with(wanted))
    });
    if let (true, Some(first)) = (jobs.is_empty(), audit.findings.first()) {
        return Err(Error::Refused(format!("no job could be believed: {first}")));
    }
    match (fitting.next(), fitting.next()) {
        (Some((digest, facts)), None) => Ok((*digest, facts)),
        (first, _) => {
            let known: Vec<String> = jobs
                .iter()
                .map(|(digest, facts)| format!("  {digest}  {}", facts.job.name))
                .collect();
            let wrong = match first {
                Some(_) => "more than one job fits",
                None => "no such job is in the logs",
            };
            Err(Error::Misuse(format!(
                "{wrong}: {wanted:?}; name one by its digest, or the first characters of it:\n{}",
                known.join("\n")
            )))
        }
    }
}

fn summary(
    facts: &JobFacts,
    digest: Digest,
    attempts: &[(&Context, &AttemptFacts)],
    end: Option<&(bool, u32, String)>,
    researcher: String,
) -> JobSummary {
    let job = &facts.job;
    let mechanism = &job.mechanism;
    let text = |decimal: &Option<Decimal>| decimal.as_ref().map(ToString::to_string);
    let is_private = mechanism.unit != Unit::None;
    JobSummary {
        digest: digest.to_string(),
        evidence: facts.evidence.clone(),
        name: job.name.clone(),
        researcher,
        submitted: Validity::instant(facts.time / 1000).to_string(),
        task: job.task.clone(),
        encoder: job.encoder.clone(),
        backbone: job.backbone.to_string(),
        initial_model: job.initial_model.to_string(),
        final_model: attempts
            .iter()
            .rev()
            .find_map(|(_, it)| it.agreed)
            .map(|it| it.to_string()),
        trained_numbers: job.dimension - mechanism.metrics().len() as u64,
        rounds: job.rounds,
        max_attempts: job.max_attempts,
        min_contributors: job.min_contributors,
        colluders: job.colluders,
        unit: mechanism.unit.to_string(),
        adjacency: mechanism.adjacency.to_string(),
        placement: mechanism.placement.to_string(),
        clip_norm: mechanism.clip_norm.to_string(),
        noise_multiplier: mechanism.noise_multiplier.to_string(),
        epsilon: text(&mechanism.epsilon).filter(|_| is_private),
        delta: text(&mechanism.delta).filter(|_| is_private),
        sampling_rate: mechanism
            .batches
            .as_ref()
            .map(|batches| batches.sampling_rate.to_string()),
        metrics: mechanism
            .metrics()
            .iter()
            .map(ToString::to_string)
            .collect(),
        completed: end.map(|(completed, ..)| *completed),
        end: end.map(|(.., reason)| reason.clone()),
    }
}

fn member(
    audit: &Audit,
    facts: &JobFacts,
    job: &Digest,
    party: &Fingerprint,
    attempts: &[(&Context, &AttemptFacts)],
) -> MemberFacts {
    let case = &audit.case;
    let (place, number) = (case.place_of(party), case.number_if_met(party));
    let views = || attempts.iter().filter_map(|(_, it)| it.views.get(&place?));
    let is_in = |attempt: &AttemptFacts| {
        let roster = attempt.roster.as_ref();
        roster.is_some_and(|it| it.contributors.iter().any(|who| Some(*who) == number))
    };
    let node = place.and_then(|place| audit.nodes.get(place));
    let spent = audit
        .spending
        .iter()
        .filter(|it| node.is_some_and(|node| node.name == it.node));
    let of_job = job.to_string();
    MemberFacts {
        name: case.name_of(party),
        party: party.to_string(),
        answer: facts.answers.get(party).map(|refusal| {
            let reason = refusal.as_ref();
            reason.map_or("accepted".into(), |reason| format!("refused: {reason}"))
        }),
        audited: place.is_some(),
        rounds: attempts
            .iter()
            .filter(|(_, it)| it.agreed.is_some() && is_in(it))
            .count() as u64,
        sealed_bytes: node.map(|_| views().map(|it| it.body_bytes + it.share_bytes).sum()),
        bytes_up: node.map(|_| views().map(|it| it.bytes_up).sum()),
        bytes_down: node.map(|_| views().map(|it| it.bytes_down).sum()),
        budgets: spent
            .filter(|it| it.jobs.contains_key(&of_job))
            .map(|it| BudgetFacts {
                dataset: it.dataset.clone(),
                epsilon_of_job: it.jobs.get(&of_job).copied().flatten(),
                epsilon_of_life: it.epsilon,
                epsilon_promised: it.epsilon_budget,
                delta: it.delta,
                without_privacy: it.without_privacy,
            })
            .collect(),
    }
}

fn encryption(facts: &JobFacts, attempt: &AttemptFacts) -> Option<Encryption> {
    let parameters = Parameters::derive(
        CohortSize::new(attempt.cohort).ok()?,
        ValueBound::new(facts.job.value_bound).ok()?,
    )
    .ok()?;
    let [row, ..] = &STANDARD_ROWS;
    let problem = Lwe::of_bodies(Leak::SumOfTwo);
    let bits = |sieve: Sieve| {
        let best = problem.primal(sieve).bits.min(problem.dual(sieve).bits);
        best.floor()
    };
    Some(Encryption {
        name: attempt.parameters.clone(),
        ring_degree: N,
        modulus_bits: MODULUS_BITS,
        bytes_per_number: parameters.bytes_per_parameter(),
        standard_classical: row.classical_level(MODULUS_BITS).map(|(level, _)| level),
        standard_quantum: row.quantum_level(MODULUS_BITS).map(|(level, _)| level),
        estimated_classical: bits(Sieve::Classical),
        estimated_quantum: bits(Sieve::Quantum),
    })
}

fn round(context: &Context, attempt: &AttemptFacts, name_of: &dyn Fn(u32) -> String) -> RoundFacts {
    let roster = attempt.roster.as_ref();
    // Of all logs the one that knows most: a member's has its own alone.
    let most = |count: fn(&super::case::View) -> usize| {
        let views: &BTreeMap<usize, super::case::View> = &attempt.views;
        views.values().map(count).max().unwrap_or(0)
    };
    RoundFacts {
        round: attempt.round,
        attempt: attempt.attempt,
        planned: Validity::instant(attempt.time / 1000).to_string(),
        context: context.to_string(),
        plan_evidence: attempt.plan.clone(),
        policy: attempt.policy.to_string(),
        cohort: attempt.cohort,
        threshold: attempt.threshold,
        min_contributors: attempt.min_contributors,
        roster: roster.map(|it| it.digest.to_string()),
        roster_evidence: roster.map(|it| it.evidence.clone()),
        sum: roster.map(|it| it.sum.to_string()),
        contributors: roster
            .map(|it| it.contributors.iter().map(|who| name_of(*who)).collect())
            .unwrap_or_default(),
        echoes: most(|view| view.echoes),
        releases: most(|view| view.releases),
        agreed: attempt.agreed.map(|it| it.to_string()),
        void: attempt.void.clone(),
    }
}

/// 8 and 1e-5, not 8.0 and 0.00001.
fn plain(number: f64) -> String {
    if number != 0.0 && number.abs() < 1e-3 {
        format!("{number:e}")
    } else {
        let rounded = (number * 1e4).round() / 1e4;
        rounded.to_string()
    }
}

/// 1234567 as 1 234 567, with narrow spaces that do not break.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}
