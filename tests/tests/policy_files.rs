//! The files of `policies/` each run a round; each setting of a policy that no number of the mechanism follows from
//! refuses what is beyond it; and a job keeps its policy.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use ciphertune_policy::{Policy, Unit};
use ciphertune_round::{Digest, Plan};
use ciphertune_tests::{
    federation::{Federation, INSTITUTION, LABORATORY, RECORD, Wish, changed, until},
    front::{Lies, Put},
    learner::{Gate, Vectors},
};
use ciphertune_wire::proto::EventKind;

const DIMENSION: usize = 500;

fn files() -> Vec<PathBuf> {
    let folder = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies"));
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_policy_file_runs_a_round_and_its_digest_is_in_the_plan() {
    let files = files();
    assert_eq!(files.len(), 6);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let policy = Policy::parse(&text).unwrap();
        let members = policy.min_cohort() as usize;
        let wish = match policy.unit() {
            Unit::Record => Wish::of_batches(members, DIMENSION),
            Unit::Institution | Unit::None => Wish::of(members, DIMENSION),
        };
        let mut federation = Federation::found(members, &text).await;
        let server = federation.serve();
        let mut runs: Vec<_> = (0..members)
            .map(|member| federation.join(Vectors::of(member, DIMENSION)))
            .collect();
        federation.submit(&wish).await;
        let digest = Digest::from_bytes(policy.digest()).to_string();
        for (member, run) in runs.iter_mut().enumerate() {
            let outcome = run.end().await.unwrap();
            let said = (outcome.reason, run.refusals(), run.warnings(), run.voided());
            assert!(outcome.completed, "{}: {said:?}", file.display());
            let plans = federation.log(member, "plan");
            assert_eq!(plans.len(), 1);
            assert_eq!(plans[0]["policy"], digest, "{}", file.display());
        }
        server.stop().await;
    }
}

/// A line added to a table of a policy.
fn with(policy: &str, table: &str, line: &str) -> String {
    let header = format!("[{table}]\n");
    if policy.contains(&header) {
        changed(policy, &header, &format!("{header}{line}\n"))
    } else {
        format!("{policy}{header}{line}\n")
    }
}

/// What one member says, to all and at home, to a job that its site's policy does not admit.
async fn refused_by_site(policy: &str, site: &str, wish: &Wish) -> (String, Vec<String>) {
    let mut federation = Federation::found_with(policy, &[Some(site), None, None]).await;
    let (server, front) = federation.serve_behind(Lies::none()).await;
    let gate = Gate::default();
    let mut run = federation.join(Vectors::of(0, wish.dimension).behind(&gate));
    federation.submit(wish).await;
    until(|| !run.refusals().is_empty()).await;
    let said = run.refusals().remove(0);
    let at_home = run.warnings();
    run.drop_out().await;
    assert!(!gate.is_reached(), "nothing is trained");
    assert_eq!(front.count(Put::KeyShares) + front.count(Put::Body), 0);
    server.stop().await;
    (said, at_home)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rate_time_and_role_are_refused_with_the_value_the_limit_the_line_and_what_to_do() {
    let records = Wish::of_batches(3, DIMENSION);
    let updates = Wish::of(3, DIMENSION);
    for (policy, table, line, wish, words) in [
        (
            RECORD,
            "privacy",
            "max_sampling_rate = \"0.1\"",
            &records,
            &[
                "privacy.max_sampling_rate: asked for 0.25, allowed is at most 0.1 (site.policy, line 5)",
                "submit a job with a sampling_rate within this",
            ],
        ),
        (
            INSTITUTION,
            "time",
            "valid_until = \"2020-12-31T23:59:59Z\"",
            &updates,
            &[
                "allowed is at most 2020-12-31T23:59:59Z (site.policy, line 25)",
                "have officers sign policies that hold now",
            ],
        ),
        (
            INSTITUTION,
            "time",
            "valid_from = \"9000-01-01T00:00:00Z\"",
            &updates,
            &[
                "allowed is at least 9000-01-01T00:00:00Z (site.policy, line 25)",
                "wait until then",
            ],
        ),
        (
            INSTITUTION,
            "roles",
            "submit_job = [\"officer\"]",
            &updates,
            &[
                "roles.submit_job: asked for a job signed by a researcher, allowed is nobody's",
                "have a job signed by a party with one of these roles",
            ],
        ),
    ] {
        let site = with(policy, table, line);
        let (said, _) = refused_by_site(policy, &site, wish).await;
        for words in words {
            assert!(said.contains(words), "{said:?} does not say {words:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dataset_that_no_policy_names_is_not_trained_on_and_its_name_stays_at_home() {
    let site = with(INSTITUTION, "model", "datasets = [\"ward\", \"clinic\"]");
    let (said, at_home) = refused_by_site(INSTITUTION, &site, &Wish::of(3, DIMENSION)).await;
    assert!(said.ends_with("its own output says why"), "{said}");
    assert!(!said.contains("vectors") && !said.contains("ward"));
    let words = "model.datasets: asked for \"vectors\", allowed is clinic, ward";
    assert!(at_home[0].contains(words), "{at_home:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_certificate_is_too_old_takes_part_in_nothing() {
    let policy = with(LABORATORY, "identity", "max_certificate_age_days = 30");
    let federation = Federation::found(1, &policy).await;
    let (site, now) = (federation.site(0), SystemTime::now());
    let policy = site.policy().unwrap();
    site.check_certificate(&policy, now.into()).unwrap();
    let later = now + Duration::from_secs(31 * 86_400);
    let said = site.check_certificate(&policy, later.into()).unwrap_err();
    let said = said.to_string();
    assert!(
        said.contains("identity.max_certificate_age_days: asked for a certificate issued at 20")
            && said.contains("allowed is one at most 30 days old")
            && said.contains("have the authority issue a new certificate"),
        "{said}"
    );
}

/// The server leaves a site's policy out of the second round's plan: for the others it would be a valid plan, and weaker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weaker_policy_in_mid_job_is_refused() {
    let strict = with(LABORATORY, "time", "valid_until = \"9000-01-01T00:00:00Z\"");
    let sites = [None, None, None, Some(strict.as_str())];
    let mut federation = Federation::found_with(LABORATORY, &sites).await;
    let lies = Lies::none().about(
        EventKind::Plan,
        federation.server_key(),
        |plan: &mut Plan| {
            if plan.round == 2 {
                plan.policies.truncate(1);
                plan.policy = Digest::from_bytes(Policy::parse(LABORATORY).unwrap().digest());
            }
        },
    );
    let (server, front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..4)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    let wish = Wish {
        rounds: 2,
        ..Wish::of(4, DIMENSION)
    };
    federation.submit(&wish).await;
    for (member, run) in members.iter_mut().enumerate() {
        until(|| !run.voided().is_empty()).await;
        let said = run.voided().remove(0);
        let words: &[&str] = match member {
            3 => &["this member's own policy is not among the plan's"],
            _ => &[
                "the plan's effective policy is weaker than that of round 1, attempt 1, of the same job",
                "submit a new job",
                "time.valid_until: no end instead of 9000-01-01T00:00:00Z: weaker",
            ],
        };
        for words in words {
            assert!(said.contains(words), "{said:?} does not say {words:?}");
        }
        run.drop_out().await;
        assert_eq!(run.reports().len(), 1);
    }
    assert_eq!(front.count(Put::Body), 4, "of round 1 alone");
    server.stop().await;
}

/// The same from the other side: a member comes back in mid-job under another policy of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_that_comes_back_under_another_policy_waits_for_a_new_job() {
    let strict = changed(INSTITUTION, "rounds = 10", "rounds = 5");
    let sites = [None, Some(strict.as_str()), None];
    let mut federation = Federation::found_with(INSTITUTION, &sites).await;
    let server = federation.serve();
    let gate = Gate::default();
    let _others: Vec<_> = [0, 2]
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .into();
    let mut stopped = federation.join(Vectors::of(1, DIMENSION).behind_in(2, &gate));
    let wish = Wish {
        rounds: 2,
        ..Wish::of(3, DIMENSION)
    };
    federation.submit(&wish).await;
    until(|| gate.is_reached()).await;
    stopped.drop_out().await;
    gate.open();
    let other = federation.sign_policy(&changed(INSTITUTION, "rounds = 10", "rounds = 9"));
    let path = federation.member(1).home.policy().join("site.policy");
    fs::write(path, other.encode()).unwrap();
    let mut again = federation.join(Vectors::of(1, DIMENSION));
    until(|| !again.voided().is_empty()).await;
    let said = again.voided().remove(0);
    assert!(
        said.contains("this member's own policy is not among the plan's")
            && said.contains("takes part in a new job"),
        "{said}"
    );
    again.drop_out().await;
    server.stop().await;
}
