//! Gathering: a plan is made as soon as a cohort is present.

use ciphertune_policy::{Instant, Policy};
use ciphertune_round::{
    Committee, Context, Digest, Envelope, Fingerprint, Object as _, OneTimeKeyOffer, Plan, Seat,
};
use ciphertune_sum::{CohortSize, Parameters, ValueBound};
use ciphertune_wire::{limits::check_plan, proto::EventKind};

use super::{Announcement, Answer, Attempt, Effect, ListInForce, Machine, Phase, Present, note};
use crate::moment::Moment;

/// Makes the next plan if it is time.
///
/// The first waits for `expected_members` to be present. Later ones take everybody who accepted if all are present, and
/// after some patience whoever is, if they are enough.
pub(super) fn poll(
    machine: &mut Machine,
    present: &[Present],
    nonce: [u8; 32],
    list: &ListInForce,
    now: Moment,
) -> Vec<Effect> {
    let seats = ready(machine, present);
    let accepted = machine.accepted().count();
    let everybody = seats.len() == accepted;
    let due = match machine.phase {
        Phase::Admitting => seats.len() >= machine.job.expected_members,
        _ => {
            everybody
                || (now >= machine.patient_until && seats.len() >= machine.job.min_contributors)
        }
    };
    if !due || seats.len() < 2 {
        return Vec::new();
    }
    match plan(machine, seats, nonce, list, now) {
        Ok(plan) => start(machine, plan, now),
        Err(reason) if everybody || machine.phase == Phase::Admitting => {
            machine.end(false, &reason)
        }
        // With more members present it may yet be allowed; the deadline ends the waiting.
        Err(_) => Vec::new(),
    }
}

/// Whether a plan may be due with these present, should each have a one-time key: only then are keys looked for.
pub(super) fn may_be_due(machine: &Machine, present: &[Fingerprint], now: Moment) -> bool {
    let here = present
        .iter()
        .filter(|member| machine.has_accepted(member))
        .count();
    match machine.phase {
        Phase::Admitting => here >= machine.job.expected_members,
        Phase::Gathering { .. } => {
            here == machine.accepted().count()
                || (now >= machine.patient_until && here >= machine.job.min_contributors)
        }
        _ => false,
    }
}

/// Who accepted, is present and has a one-time key that this job never used; in the manifest's order.
fn ready(machine: &Machine, present: &[Present]) -> Vec<(Seat, Digest)> {
    let accepted: Vec<_> = machine.accepted().collect();
    machine
        .federation
        .members()
        .into_iter()
        .filter(|member| accepted.contains(&member))
        .filter_map(|member| {
            let key = present
                .iter()
                .find(|present| present.member == member)?
                .one_time_key
                .clone()?;
            let digest = key_digest(&key)?;
            let seat = Seat {
                member,
                one_time_key: key,
            };
            (!machine.spent.contains(&digest)).then_some((seat, digest))
        })
        .collect()
}

/// SHA-256 of the public key that an envelope offers: what may never be used twice.
pub(crate) fn key_digest(envelope: &Envelope) -> Option<Digest> {
    let offer = OneTimeKeyOffer::parse(envelope.payload()).ok()?;
    Some(Digest::sha256(&offer.public_key))
}

/// The plan for this cohort, or in words why no policy allows it. The policies are those of all who accepted, seated or
/// not: they are the job's for its whole life.
fn plan(
    machine: &Machine,
    seats: Vec<(Seat, Digest)>,
    nonce: [u8; 32],
    list: &ListInForce,
    now: Moment,
) -> Result<Plan, String> {
    let job = &machine.job;
    let n = seats.len();
    let federation = &machine.federation;
    let mut documents = vec![federation.document().envelope().clone()];
    let mut parts: Vec<&Policy> = vec![federation.policy()];
    for member in federation.members() {
        if let Some(Answer::Accepted {
            site: Some(site), ..
        }) = machine.answers.get(&member)
        {
            documents.push(site.0.clone());
            parts.push(&site.1);
        }
    }
    let policy = Policy::merge(&parts).map_err(|error| error.to_string())?;
    let members = federation.members();
    let terms = job
        .terms(&policy, members.len(), n)
        .map_err(|error| error.to_string())?;
    let author = federation
        .role_of(&job.signer())
        .ok_or("the job's author is not in the manifest")?;
    let at = Instant::from(now.to_system());
    policy
        .admit(&job.proposal(&terms, author, at))
        .map_err(|refusal| refusal.to_string())?;
    policy
        .admit_revocation_list(list.issued_at, at)
        .map_err(|refusal| refusal.to_string())?;
    let parameters = CohortSize::new(n)
        .and_then(|size| Parameters::derive(size, ValueBound::new(job.value_bound)?))
        .map_err(|error| error.to_string())?;
    let seats: Vec<Seat> = seats.into_iter().map(|(seat, _)| seat).collect();
    let plan = Plan {
        committee: terms
            .committee
            .map(|size| Committee::draw(size, &machine.digest, &machine.model, &members, &seats)),
        federation: federation.name().to_string(),
        manifest: federation.manifest().digest(),
        job: machine.digest,
        round: machine.round,
        attempt: machine.attempt,
        model: machine.model,
        revocation_number: list.number,
        revocations: list.digest,
        policy: Digest::from_bytes(policy.digest()),
        policies: documents,
        seats,
        threshold: terms.threshold,
        min_contributors: terms.min_contributors,
        colluders: terms.colluders,
        parameters: parameters.name(),
        dimension: job.dimension,
        value_bound: job.value_bound,
        nonce,
    };
    plan.check_against(job, &members)
        .map_err(|error| error.to_string())?;
    check_plan(&plan)?;
    Ok(plan)
}

fn start(machine: &mut Machine, plan: Plan, now: Moment) -> Vec<Effect> {
    let payload = plan.serialise();
    let context = Context::of_plan(&payload);
    let mut effects = Vec::new();
    if let Some(last) = machine.current.take() {
        machine.past.insert(last.context);
        effects.push(Effect::DeleteContext(last.context));
    }
    let keys: Vec<Envelope> = plan
        .seats
        .iter()
        .map(|seat| seat.one_time_key.clone())
        .collect();
    machine.spent.extend(keys.iter().filter_map(key_digest));
    effects.push(Effect::OpenContext { context, keys });
    effects.push(Effect::Emit(Announcement::Own(
        EventKind::Plan,
        Plan::LABEL,
        payload,
    )));
    let planned = note(
        "plan",
        [
            ("job", machine.digest.to_string().into()),
            ("context", context.to_string().into()),
            ("round", plan.round.into()),
            ("attempt", plan.attempt.into()),
            ("policy", plan.policy.to_string().into()),
            ("revocation_list", plan.revocation_number.into()),
            ("cohort", plan.seats.len().into()),
            ("holders", plan.holders().count().into()),
            ("threshold", plan.threshold.into()),
        ],
    );
    effects.push(planned.on_announced());
    machine.current = Some(Attempt::new(context, plan, &machine.agreed));
    machine.phase = Phase::Contributing {
        until: now.after(machine.job.deadlines.contribute),
    };
    effects
}
