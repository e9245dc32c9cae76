//! The policy files drive everything: without one nothing runs, beyond one nothing is sent, and each number of the
//! mechanism follows from them.

use std::{
    collections::HashSet,
    fs,
    sync::{Arc, Mutex},
};

use ciphertune_client::{Error, site::Site};
use ciphertune_ledger::Cost;
use ciphertune_policy::Policy;
use ciphertune_round::{Envelope, Job, Object as _, OneTimeKeyOffer, Plan};
use ciphertune_tests::{
    federation::{
        Batches, Federation, INSTITUTION, LABORATORY, RECORD, Wish, changed, is_over, until,
        until_job,
    },
    front::{Lies, Put},
    keys::passphrase,
    learner::{Gate, Vectors},
};
use ciphertune_wire::proto::EventKind;

const DIMENSION: usize = 1_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_home_without_a_policy_is_refused_in_words() {
    let federation = Federation::found(1, INSTITUTION).await;
    let home = federation.member(0).home.clone();
    let policy = home.policy().join("federation.policy");
    fs::remove_file(&policy).unwrap();
    let Err(Error::Refused(said)) = Site::open(home, &passphrase()) else {
        panic!("a home without a policy was opened");
    };
    assert!(
        said.contains("federation.policy is missing: install the kit"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_that_no_officer_signed_is_refused() {
    let federation = Federation::found(1, INSTITUTION).await;
    let home = federation.member(0).home.clone();
    let policy = home.policy().join("federation.policy");
    let mut bytes = fs::read(&policy).unwrap();
    let epsilon = bytes
        .windows(3)
        .position(|window| window == b"\"8\"")
        .unwrap();
    bytes[epsilon + 1] = b'9';
    fs::write(&policy, bytes).unwrap();
    let refused = Site::open(home, &passphrase()).err().expect("a refusal");
    assert!(refused.to_string().contains("signature"), "{refused}");
}

#[test]
fn an_unknown_key_is_an_error_that_names_the_nearest() {
    let policy = changed(INSTITUTION, "clip_norm", "clip_nrom");
    let said = Policy::parse(&policy).unwrap_err().to_string();
    assert!(
        said.contains("clip_nrom") && said.contains("the nearest known key is `clip_norm`"),
        "{said}"
    );
    let misplaced = changed(INSTITUTION, "[privacy]\n", "[privacy]\ncolluders = 1\n");
    let said = Policy::parse(&misplaced).unwrap_err().to_string();
    assert!(
        said.contains("`colluders` belongs in [aggregation]"),
        "{said}"
    );
}

#[test]
fn a_policy_without_a_unit_is_an_error() {
    let policy = changed(LABORATORY, "unit = \"none\"\n", "");
    let said = Policy::parse(&policy).unwrap_err().to_string();
    assert!(said.contains("there is no default"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_whose_own_policy_has_an_unknown_key_takes_part_in_nothing() {
    let typo = changed(INSTITUTION, "epsilon = \"8\"", "epsilom = \"8\"");
    let said = refusal_of_all(
        INSTITUTION,
        &[Some(typo.as_str()); 3],
        Wish::of(3, DIMENSION),
    )
    .await;
    for said in said {
        assert!(
            said.contains("the nearest known key is `epsilon`"),
            "{said}"
        );
    }
}

/// Submits the job that the federation's policy makes of a wish to members with policies of their own. All must
/// refuse, in the words that this returns; nothing may be trained, charged or sent.
async fn refusal_of_all(federation: &str, sites: &[Option<&str>], wish: Wish) -> Vec<String> {
    let job = wish.job(federation).unwrap();
    refusal_of_job(federation, sites, job).await
}

async fn refusal_of_job(federation: &str, sites: &[Option<&str>], job: Job) -> Vec<String> {
    let dimension = job.dimension as usize;
    let mut federation = Federation::found_with(federation, sites).await;
    let (server, front) = federation.serve_behind(Lies::none()).await;
    let gate = Gate::default();
    let mut members: Vec<_> = (0..sites.len())
        .map(|member| federation.join(Vectors::of(member, dimension).behind(&gate)))
        .collect();
    let (mut researcher, job) = federation.submit_job(job).await;
    let state = until_job(&mut researcher, job, is_over).await;
    assert_eq!(state.phase, "ended");
    let mut refusals = Vec::new();
    for (member, run) in members.iter_mut().enumerate() {
        until(|| !run.refusals().is_empty()).await;
        let said = run.refusals();
        assert_eq!(said.len(), 1, "{said:?}");
        let known = &state.members[member];
        assert_eq!(known.name, format!("hospital-{}", member + 1));
        assert!(
            known.admission == "waiting" || known.admission == "refused",
            "{known:?}"
        );
        if known.admission == "refused" {
            assert_eq!(
                known.refusal, said[0],
                "the researcher hears the same words"
            );
            assert!(state.reason.contains(&known.name), "{}", state.reason);
        }
        refusals.extend(said);
        run.drop_out().await;
        assert!(federation.model(member, &job).is_none());
        if let Some(standing) = federation.standing(member).await {
            assert_eq!((standing.spent, standing.held), (Cost::ZERO, Cost::ZERO));
        }
    }
    assert!(!gate.is_reached(), "nobody trains");
    assert_eq!(front.count(Put::KeyShares) + front.count(Put::Body), 0);
    assert_eq!(server.holds(), Vec::<String>::new());
    server.stop().await;
    refusals
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_beyond_a_sites_policy_is_refused_with_the_rule_and_the_numbers() {
    let strict = |from: &str, to: &str| changed(INSTITUTION, from, to);
    let sites = [
        (
            strict("epsilon = \"8\"", "epsilon = \"2\""),
            "privacy.epsilon: asked for 8, allowed is at most 2",
        ),
        (
            strict("delta = \"1e-5\"", "delta = \"1e-6\""),
            "privacy.delta: asked for 1e-5, allowed is at most 1e-6",
        ),
        (
            strict("rounds = 10", "rounds = 1"),
            "privacy.rounds: asked for 2, allowed is at most 1",
        ),
        (
            strict("clip_norm = \"3\"", "clip_norm = \"1.5\""),
            "privacy.clip_norm: asked for 3, allowed is at most 1.5",
        ),
        (
            strict("adjacency = \"zero-out\"", "adjacency = \"replace-one\""),
            "privacy.adjacency: asked for zero-out, allowed is at least replace-one",
        ),
        (
            strict("placement = \"distributed\"", "placement = \"local\""),
            "privacy.placement: asked for distributed, allowed is at least local",
        ),
        (
            strict("colluders = 0", "colluders = 0\nmin_cohort = 9"),
            "aggregation.min_cohort: asked for 8, allowed is at least 9",
        ),
        (
            strict("colluders = 0", "colluders = 0\nthreshold = 9"),
            "threshold within the cohort: asked for 9, allowed is at most 8",
        ),
    ];
    let policies: Vec<Option<&str>> = sites
        .iter()
        .map(|(policy, _)| Some(policy.as_str()))
        .collect();
    let wish = Wish {
        rounds: 2,
        ..Wish::of(8, DIMENSION)
    };
    let said = refusal_of_all(INSTITUTION, &policies, wish).await;
    for (said, (_, words)) in said.iter().zip(&sites) {
        assert!(said.contains(words), "{said:?} does not say {words:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_names_every_rule_that_the_job_breaks() {
    let federation = changed(INSTITUTION, "[\"embedding\"]", "[\"embedding\", \"mlp\"]");
    let mut site = federation.clone();
    for (from, to) in [
        ("epsilon = \"8\"", "epsilon = \"1\""),
        ("rounds = 10", "rounds = 1"),
        ("clip_norm = \"3\"", "clip_norm = \"0.5\""),
        ("[\"embedding\", \"mlp\"]", "[\"mlp\"]"),
        ("colluders = 0", "colluders = 0\nmin_cohort = 4"),
    ] {
        site = changed(&site, from, to);
    }
    let wish = Wish {
        rounds: 2,
        ..Wish::of(3, DIMENSION)
    };
    for said in refusal_of_all(&federation, &[Some(site.as_str()); 3], wish).await {
        for rule in [
            "the plan goes beyond the policy",
            "privacy.epsilon: asked for 8, allowed is at most 1",
            "privacy.rounds: asked for 2, allowed is at most 1",
            "privacy.clip_norm: asked for 3, allowed is at most 0.5",
            "model.encoders: asked for embedding, allowed is mlp",
            "aggregation.min_cohort: asked for 3, allowed is at least 4",
        ] {
            assert!(said.contains(rule), "{said:?} does not say {rule:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_of_a_laboratory_is_refused_where_privacy_is_promised() {
    let job = Wish::of(3, DIMENSION).job(LABORATORY).unwrap();
    for said in refusal_of_job(INSTITUTION, &[None; 3], job).await {
        assert!(
            said.contains("privacy.unit: asked for none, allowed is institution"),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_hides_another_unit_than_the_policy_is_refused() {
    let records = Wish::of_batches(3, DIMENSION).job(RECORD).unwrap();
    let institutions = Wish::of(3, DIMENSION).job(INSTITUTION).unwrap();
    for (policy, job, said) in [
        (
            INSTITUTION,
            records,
            "asked for record, allowed is institution",
        ),
        (
            RECORD,
            institutions,
            "asked for institution, allowed is record",
        ),
    ] {
        for refusal in refusal_of_job(policy, &[None; 3], job).await {
            assert!(refusal.contains(said), "{refusal}");
        }
    }
}

#[test]
fn a_job_file_says_how_batches_are_drawn_where_records_are_hidden_and_not_at_institution_level() {
    let wish = Wish::of_batches(3, DIMENSION);
    let batches = wish.batches.unwrap();
    let refused = |policy: &str, batches: Option<Batches>| {
        let wish = Wish {
            batches,
            ..wish.clone()
        };
        wish.job(policy).unwrap_err().to_string()
    };
    assert!(refused(RECORD, None).contains("no sampling_rate"));
    for sampling_rate in ["0", "1.5"] {
        let batches = Batches {
            sampling_rate,
            ..batches
        };
        let said = refused(RECORD, Some(batches));
        assert!(said.contains("a probability above 0 and up to 1"), "{said}");
    }
    let nominal_batch = 0;
    let said = refused(
        RECORD,
        Some(Batches {
            nominal_batch,
            ..batches
        }),
    );
    assert!(said.contains("at least 1"), "{said}");
    let said = refused(INSTITUTION, Some(batches));
    let want = "sampling_rate belongs to jobs at record level, or of unit none with a sampling_rate; the policy's unit is \
                institution";
    assert!(said.contains(want), "{said}");
    let laboratory = wish.job(LABORATORY).unwrap().mechanism;
    assert_eq!(laboratory.max_examples(), 40);
    assert!(laboratory.noise_multiplier.is_zero());
    // More records a sum is wider by as many bits, and rarer records want less noise.
    let job = wish.job(RECORD).unwrap().mechanism;
    assert_eq!(
        (
            job.max_examples(),
            job.value_bits,
            job.batches.unwrap().nominal_batch
        ),
        (40, 12 + 6, 20)
    );
    let whole = Wish {
        batches: Some(Batches {
            sampling_rate: "1",
            ..batches
        }),
        ..wish
    };
    let whole = whole.job(RECORD).unwrap().mechanism;
    assert!(job.noise_multiplier < whole.noise_multiplier);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_promises_less_than_it_costs_is_refused() {
    let wish = Wish {
        rounds: 2,
        ..Wish::of(3, DIMENSION)
    };
    let mut job = wish.job(INSTITUTION).unwrap();
    job.rounds = 4; // the noise was calibrated for two
    for said in refusal_of_job(INSTITUTION, &[None; 3], job).await {
        assert!(
            said.contains(
                "the job promises epsilon = 8 at delta = 1e-5, but 4 attempts of its mechanism cost"
            ),
            "{said}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_noise_counts_on_fewer_colluders_than_the_policy_is_refused() {
    let four = changed(INSTITUTION, "min_contributors = 2", "min_contributors = 4");
    let site = changed(&four, "colluders = 0", "colluders = 2");
    let said = refusal_of_all(&four, &[Some(site.as_str()); 5], Wish::of(5, DIMENSION)).await;
    for said in said {
        assert!(said.contains("2 colluders only 2 may be there"), "{said}");
    }
}

/// Each key of the policy that speaks of privacy changes the job's numbers, and in the right direction.
#[test]
fn unit_epsilon_delta_clip_placement_and_adjacency_drive_the_mechanism() {
    let wish = Wish::of(3, DIMENSION);
    let job = |policy: &str| wish.job(policy).unwrap();
    let with = |from: &str, to: &str| job(&changed(INSTITUTION, from, to)).mechanism;
    let base = job(INSTITUTION).mechanism;
    assert_eq!(base.epsilon.unwrap().to_string(), "8");

    let half = with("epsilon = \"8\"", "epsilon = \"4\"");
    assert!(half.noise_multiplier > base.noise_multiplier);
    assert_eq!(half.epsilon.unwrap().to_string(), "4");

    let rarer = with("delta = \"1e-5\"", "delta = \"1e-7\"");
    assert!(rarer.noise_multiplier > base.noise_multiplier);

    let tight = with("clip_norm = \"3\"", "clip_norm = \"0.75\"");
    assert_eq!(tight.clip_norm.to_string(), "0.75");
    assert_eq!(
        tight.noise_multiplier, base.noise_multiplier,
        "z is relative to C"
    );

    let replace = with("adjacency = \"zero-out\"", "adjacency = \"replace-one\"");
    assert_ne!(replace.adjacency, base.adjacency);
    let local = with("placement = \"distributed\"", "placement = \"local\"");
    assert_ne!(local.placement, base.placement);

    let laboratory = job(LABORATORY).mechanism;
    assert_ne!(laboratory.unit, base.unit);
    assert!(laboratory.noise_multiplier.to_string() == "0" && laboratory.epsilon.is_none());

    // What travels is sized accordingly: 14 bits for one noised integer at most, or none for noise.
    let wide = Wish {
        value_bits: 4,
        ..Wish::of(3, DIMENSION)
    };
    let bound = |policy: &str| wide.job(policy).unwrap().value_bound;
    let replaced = changed(
        INSTITUTION,
        "adjacency = \"zero-out\"",
        "adjacency = \"replace-one\"",
    );
    assert!(
        bound(&replaced) > bound(INSTITUTION),
        "twice the sensitivity, twice the noise"
    );
    assert!(bound(INSTITUTION) > bound(LABORATORY));
    let three = changed(INSTITUTION, "min_contributors = 2", "min_contributors = 3");
    let three_local = changed(
        &three,
        "placement = \"distributed\"",
        "placement = \"local\"",
    );
    let four = changed(&three, "min_contributors = 3", "min_contributors = 9");
    assert!(
        bound(&four) <= bound(&three_local),
        "shares of noise are smaller than all of it"
    );
}

#[test]
fn cohort_minimum_colluders_and_threshold_drive_the_job() {
    let wish = Wish::of(7, DIMENSION);
    let base = wish.job(LABORATORY).unwrap();
    assert_eq!(
        (base.min_contributors, base.colluders, base.threshold),
        (3, 0, None)
    );
    let strict = changed(
        LABORATORY,
        "min_contributors = 3",
        "min_contributors = 5\nthreshold = 6",
    );
    let strict = changed(&strict, "colluders = 0", "colluders = 2");
    let strict = wish.job(&strict).unwrap();
    assert_eq!(
        (strict.min_contributors, strict.colluders, strict.threshold),
        (5, 2, Some(6))
    );
}

/// What the policy says arrives in the plan that members follow, the strictest of all sites' at that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plan_follows_the_strictest_of_all_policies_and_no_one_time_key_is_used_twice() {
    let colluding = changed(LABORATORY, "colluders = 0", "colluders = 1");
    let many = changed(LABORATORY, "min_contributors = 3", "min_contributors = 4");
    let mut federation =
        Federation::found_with(LABORATORY, &[Some(&colluding), None, Some(&many), None]).await;
    let plans: Arc<Mutex<Vec<Plan>>> = Arc::default();
    let (heard, first) = (Arc::clone(&plans), federation.fingerprint(0));
    let lies = Lies::none().about_events(move |member, event| {
        if *member == first && event.kind() == EventKind::Plan {
            let envelope = Envelope::decode(&event.envelope).unwrap();
            heard
                .lock()
                .unwrap()
                .push(Plan::parse(envelope.payload()).unwrap());
        }
        Some(event)
    });
    let (server, _front) = federation.serve_behind(lies).await;
    let mut members: Vec<_> = (0..4)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    // More rounds than a stock of eight keys lasts.
    let wish = Wish {
        rounds: 10,
        ..Wish::of(4, DIMENSION)
    };
    federation.submit(&wish).await;
    for run in &mut members {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
    }
    let plans = std::mem::take(&mut *plans.lock().unwrap());
    assert_eq!(plans.len(), 10);
    let mut keys = HashSet::new();
    for plan in &plans {
        assert_eq!(
            (plan.colluders, plan.min_contributors, plan.threshold),
            (1, 4, 3)
        );
        assert_eq!(plan.policies.len(), 3);
        for seat in &plan.seats {
            let offer = OneTimeKeyOffer::parse(seat.one_time_key.payload()).unwrap();
            assert_eq!(offer.member, seat.member);
            assert!(keys.insert(offer.public_key), "a key was used twice");
            let place = (0..4)
                .find(|at| federation.fingerprint(*at) == seat.member)
                .unwrap();
            let stock = federation.member(place).home.root().join("one-time-keys");
            assert!(
                !stock.join(format!("{}.key", offer.serial)).exists(),
                "not erased"
            );
        }
    }
    assert_eq!(keys.len(), 40);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_job_beyond_the_datasets_budget_is_refused_before_training() {
    let policy = changed(INSTITUTION, "epsilon = \"16\"", "epsilon = \"8\"");
    let policy = changed(&policy, "delta = \"2e-5\"", "delta = \"1e-5\"");
    let mut federation = Federation::found(3, &policy).await;
    let (server, front) = federation.serve_behind(Lies::none()).await;
    let wish = Wish::of(3, DIMENSION);
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION)))
        .collect();
    federation.submit(&wish).await;
    for (member, run) in members.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
        let standing = federation.standing(member).await.unwrap();
        assert!(standing.spent != Cost::ZERO && standing.spent == standing.held);
    }
    assert_eq!(front.count(Put::Body), 3);

    let gate = Gate::default();
    let mut members: Vec<_> = (0..3)
        .map(|member| federation.join(Vectors::of(member, DIMENSION).behind(&gate)))
        .collect();
    let (mut researcher, job) = federation.submit(&wish).await;
    let state = until_job(&mut researcher, job, is_over).await;
    assert_eq!(state.phase, "ended", "{}", state.reason);
    for (member, run) in members.iter_mut().enumerate() {
        until(|| !run.refusals().is_empty()).await;
        // Others learn nothing of the numbers.
        assert!(run.refusals()[0].ends_with("its own output says why"));
        let said = &run.warnings()[0];
        let spent = federation.standing(member).await.unwrap().spent;
        assert!(
            said.contains("in the worst case (1 attempts), and ")
                && said.contains(
                    "is left for dataset \"vectors\", whose budget is epsilon = 8 at delta = 1e-5"
                )
                && said.ends_with("0 such rounds still fit"),
            "{said}"
        );
        run.drop_out().await;
        assert_eq!(federation.standing(member).await.unwrap().spent, spent);
    }
    assert!(!gate.is_reached());
    assert_eq!(front.count(Put::Body), 3, "of the first job alone");
    server.stop().await;
}
