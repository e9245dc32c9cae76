//! What the machine holds jobs to beside their numbers: time, roles, revocation lists, and the policies of all who accepted.

use ciphertune_identity::SigningKey;
use ciphertune_policy::Instant;
use ciphertune_round::{Abort, PolicyDocument, Signed};
use ciphertune_wire::{Refusal, proto::EventKind};

use super::{
    Input, Machine, Phase,
    lab::{Lab, POLICY, events, job, reason},
};

/// A laboratory under the usual policy and this table. It is 1970-01-01T00:16:40Z there.
fn lab(table: &str, members: usize, attempts: u32) -> Lab {
    let policy = format!("{POLICY}{table}\n");
    Lab::under(&policy, members, job(members, 1, attempts))
}

fn all_accept(lab: &mut Lab) {
    for member in 0..lab.members.len() {
        lab.feed(Input::Admission(lab.admission(member, None)))
            .unwrap();
    }
}

#[test]
fn a_policy_that_runs_out_ends_the_job_before_its_next_plan() {
    let table = "[time]\nvalid_until = \"1970-01-01T00:16:40Z\"";
    let mut lab = lab(table, 3, 2);
    lab.begin();
    lab.wait(100);
    assert!(matches!(lab.machine.phase(), Phase::Gathering { .. }));
    assert_eq!(events(&lab.poll(&[0, 1, 2])), [EventKind::Ended]);
    let said = reason(&lab.machine);
    assert!(
        said.contains("time.valid_until: asked for 1970-01-01T00:18:20Z, allowed is at most"),
        "{said}"
    );
}

#[test]
fn a_policy_that_does_not_hold_yet_ends_the_job() {
    let mut lab = lab("[time]\nvalid_from = \"2027-01-01T00:00:00Z\"", 3, 1);
    all_accept(&mut lab);
    assert_eq!(events(&lab.poll(&[0, 1, 2])), [EventKind::Ended]);
    assert!(reason(&lab.machine).contains("time.valid_from"));
}

#[test]
fn where_a_young_revocation_list_is_asked_for_no_round_begins_with_an_old_one() {
    let table = "[identity]\nmax_revocation_list_age_days = 1";
    let mut lab = lab(table, 3, 1);
    all_accept(&mut lab);
    assert_eq!(events(&lab.poll(&[0, 1, 2])), [EventKind::Plan]);
    let plan = &lab.machine.current().unwrap().plan;
    let list = Lab::list();
    assert_eq!(
        (plan.revocation_number, plan.revocations),
        (list.number, list.digest)
    );
    let mut lab = self::lab(table, 3, 1);
    lab.wait(Instant::EPOCH.after_days(1).seconds());
    all_accept(&mut lab);
    assert_eq!(events(&lab.poll(&[0, 1, 2])), [EventKind::Ended]);
    let said = reason(&lab.machine);
    assert!(
        said.contains("asked for a revocation list issued at 1970-01-01T00:00:00Z, allowed is one at most 1 days old"),
        "{said}"
    );
}

#[test]
fn a_job_is_submitted_by_whom_the_policy_names() {
    let submit = |lab: &Lab, key: &SigningKey| {
        let job = Signed::sign(job(3, 1, 1), key);
        let submitted = Machine::submit(lab.federation.clone(), job, lab.now);
        submitted.map(drop).map_err(|refused| refused.code)
    };
    let stranger = SigningKey::generate().unwrap();
    for (table, officers) in [
        ("", Err(Refusal::Role)),
        (
            "[roles]\nsubmit_job = [\"officer\", \"researcher\"]",
            Ok(()),
        ),
    ] {
        let lab = lab(table, 3, 1);
        assert_eq!(submit(&lab, &lab.officer), officers, "{table}");
        assert_eq!(submit(&lab, &lab.researcher), Ok(()));
        assert_eq!(submit(&lab, &lab.members[0]), Err(Refusal::Role));
        assert_eq!(submit(&lab, &stranger), Err(Refusal::Role));
    }
}

/// Whose key signs.
type By = fn(&Lab) -> &SigningKey;

#[test]
fn a_job_is_stopped_by_its_signer_or_by_whom_the_policy_names() {
    let stop = |table: &str, by: By| {
        let mut lab = lab(table, 3, 1);
        let abort = Abort {
            job: lab.machine.digest(),
            reason: "enough".into(),
        };
        let abort = Signed::sign(abort, by(&lab));
        lab.feed(Input::Abort(abort))
            .map(|effects| events(&effects))
    };
    let member: By = |lab| &lab.members[0];
    let officer: By = |lab| &lab.officer;
    let signer: By = |lab| &lab.researcher;
    let ended = Ok(vec![EventKind::Ended]);
    for (table, by, expected) in [
        ("", member, ended.clone()),
        ("", officer, Err(Refusal::Role)),
        (
            "[roles]\nabort_job = [\"officer\"]",
            member,
            Err(Refusal::Role),
        ),
        ("[roles]\nabort_job = [\"officer\"]", officer, ended.clone()),
        ("[roles]\nabort_job = []", officer, Err(Refusal::Role)),
        ("[roles]\nabort_job = []", signer, ended),
    ] {
        assert_eq!(stop(table, by), expected, "{table}");
    }
}

/// A job's policies are those of all who accepted, whoever comes to a round.
#[test]
fn the_policy_of_a_site_that_stays_away_binds_the_next_plan_too() {
    let mut lab = lab("", 4, 2);
    let strict = POLICY.replace("rounds = 100", "rounds = 50");
    let document = PolicyDocument {
        federation: "lab".into(),
        toml: strict,
    };
    let mut admission = lab.admission(3, None).value().clone();
    admission.site_policy = Some(Signed::sign(document, &lab.officer).envelope().clone());
    let admission = Signed::sign(admission, &lab.members[3]);
    lab.feed(Input::Admission(admission)).unwrap();
    for member in 0..3 {
        lab.feed(Input::Admission(lab.admission(member, None)))
            .unwrap();
    }
    assert_eq!(events(&lab.poll(&[0, 1, 2, 3])), [EventKind::Plan]);
    let first = lab.machine.current().unwrap().plan.clone();
    lab.wait(100);
    lab.poll(&[0, 1, 2]);
    lab.wait(60);
    if matches!(lab.machine.phase(), Phase::Gathering { .. }) {
        lab.poll(&[0, 1, 2]);
    }
    let second = &lab.machine.current().unwrap().plan;
    assert_eq!((second.attempt, second.seats.len()), (2, 3));
    assert_eq!((second.policies.len(), second.policy), (2, first.policy));
}
