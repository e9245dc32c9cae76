//! Admitting: members answer the job.

use std::sync::Arc;

use ciphertune_identity::Role;
use ciphertune_policy::Sharing;
use ciphertune_round::{Admission, Job, Signed};
use ciphertune_sum::{CohortSize, Parameters, ValueBound};
use ciphertune_wire::Refusal;

use super::{Answer, Effect, Machine, Outcome, Phase, note};
use crate::{error::Refused, federation::Federation};

/// Whether a job can be run here at all.
pub(super) fn check(federation: &Federation, job: &Signed<Job>) -> Result<(), Refused> {
    if !federation.may_submit(&job.signer()) {
        return Err(Refused::new(
            Refusal::Role,
            "the job is not signed by a party of the manifest whose role may submit jobs (roles.submit_job)",
        ));
    }
    if job.federation != federation.name().as_str() {
        return Err(Refused::malformed("the job is for another federation"));
    }
    let members = federation.manifest().members().count();
    if job.expected_members > members || job.min_contributors > job.expected_members {
        return Err(Refused::malformed(format!(
            "the job expects {} members and at least {} contributors of a federation of {members}",
            job.expected_members, job.min_contributors
        )));
    }
    if let Some(size) = job.committee {
        Sharing::among_committee(members, job.colluders, size).map_err(Refused::malformed)?;
    }
    Parameters::derive(
        CohortSize::new(job.expected_members).map_err(Refused::malformed)?,
        ValueBound::new(job.value_bound).map_err(Refused::malformed)?,
    )
    .map_err(Refused::malformed)?;
    Ok(())
}

/// A member's answer: one for each, the same one as often as it likes.
pub(super) fn admission(machine: &mut Machine, admission: &Signed<Admission>) -> Outcome {
    let member = admission.signer();
    if machine
        .federation
        .manifest()
        .party_as(&member, Role::Member)
        .is_none()
    {
        return Err(Refused::new(
            Refusal::Role,
            "an admission by somebody who is no member",
        ));
    }
    if admission.job != machine.digest {
        return Err(Refused::new(
            Refusal::Unknown,
            "an admission to another job",
        ));
    }
    if let Some(Answer::Accepted { said, .. } | Answer::Refused { said, .. }) =
        machine.answers.get(&member)
    {
        return if said.payload() == admission.envelope().payload() {
            Ok(Vec::new())
        } else {
            Err(Refused::new(
                Refusal::Conflict,
                "a second, different admission",
            ))
        };
    }
    if machine.phase != Phase::Admitting {
        return Err(Refused::new(Refusal::Late, "the job has begun or ended"));
    }
    let said = Arc::new(admission.envelope().clone());
    let answer = match &admission.refusal {
        Some(reason) => Answer::Refused {
            said,
            reason: reason.clone(),
        },
        None => {
            if admission.federation_policy != machine.federation.document().digest() {
                return Err(Refused::new(
                    Refusal::Conflict,
                    "the member holds another federation policy than the server",
                ));
            }
            let site = match &admission.site_policy {
                Some(envelope) => {
                    let policy = machine.federation.site_policy(envelope.clone())?;
                    Some(Arc::new((envelope.clone(), policy)))
                }
                None => None,
            };
            Answer::Accepted { said, site }
        }
    };
    machine.answers.insert(member, answer);
    let reason = admission.refusal.clone().unwrap_or_default();
    let mut effects = vec![
        note(
            "admission",
            [
                ("job", machine.digest.to_string().into()),
                ("member", member.to_string().into()),
                ("admission", admission.digest().to_string().into()),
                ("accepted", admission.refusal.is_none().into()),
                ("reason", reason.into()),
            ],
        )
        .on(admission.envelope()),
    ];
    effects.extend(hopeless(machine));
    Ok(effects)
}

/// Ends a job that all members have answered and too few accepted.
fn hopeless(machine: &mut Machine) -> Vec<Effect> {
    let members = machine.federation.members();
    let accepted = machine.accepted().count();
    let unanswered = members
        .iter()
        .filter(|member| !machine.answers.contains_key(member))
        .count();
    if unanswered > 0 || accepted >= machine.job.expected_members {
        return Vec::new();
    }
    let mut reason = format!(
        "{accepted} members accepted the job, which expects {}",
        machine.job.expected_members
    );
    for member in &members {
        if let Some(Answer::Refused { reason: words, .. }) = machine.answers.get(member) {
            reason.push_str(&format!(
                "\n{}: {words}",
                machine.federation.name_of(member)
            ));
        }
    }
    let mut effects = vec![note(
        "hopeless",
        [("job", machine.digest.to_string().into())],
    )];
    effects.extend(machine.end(false, &reason));
    effects
}
