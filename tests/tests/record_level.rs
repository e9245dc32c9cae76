//! Record level: batches drawn by coins, each gradient clipped on its own, one step a round along the opened sum. What is
//! agreed on is the model and the moments of its optimiser.

use std::{collections::BTreeSet, fs, path::Path, sync::atomic::AtomicBool};

use ciphertune_client::{
    Error,
    draft::Draft,
    learner::{Learner as _, Start},
    mechanism::Reckoned,
    member::Options,
    report::Happening,
    tuning::{Tuner, Tuning},
};
use ciphertune_dp::{ExampleSum, Mechanism, PoissonBatch, SamplingRate};
use ciphertune_gauss::Entropy;
use ciphertune_policy::{Instant, Metric, Policy, Role};
use ciphertune_round::Job;
use ciphertune_tests::{
    federation::{
        Batches, Federation, LABORATORY, Member, RECORD, Wish, changed, is_over, until, until_job,
    },
    front::{Lies, Put},
    learner::{Gate, Vectors, gradient, start, stepped},
    plaintext::add_up,
};
use ciphertune_tune::{
    backbone::random::{small_llama, write_random_llama},
    device::Device,
    spec::{EncoderSpec, TrainingSpec},
    task::Route,
    tokenizer::word_level,
};

const DIMENSION: usize = 2_000;

fn revealing(folder: &Path) -> impl Fn(Options) -> Options + use<> {
    let folder = folder.to_owned();
    move |mut options| {
        options.dangerous_plaintext = Some(folder.clone());
        options
    }
}

fn integers(path: &Path) -> Vec<i64> {
    let bytes = fs::read(path).unwrap();
    let words = bytes.as_chunks::<8>().0.iter();
    words.map(|word| i64::from_le_bytes(*word)).collect()
}

/// Σ/(2^s·nominal batch): one division in f64, one rounding to f32.
fn mean(job: &Job, sum: &[i64]) -> Vec<f32> {
    let reckoned = Reckoned::of(job, job.min_contributors, job.colluders).unwrap();
    let divisor = reckoned.mechanism.scale()
        * f64::from(job.mechanism.batches.as_ref().unwrap().nominal_batch);
    sum.iter()
        .map(|sum| (*sum as f64 / divisor) as f32)
        .collect()
}

/// How many records each round's batch had, as the member was told at home.
fn batch_sizes(member: &Member) -> Vec<usize> {
    let (mut sizes, mut size) = (Vec::new(), 0);
    for happening in member.happenings() {
        match happening {
            Happening::Training { steps, .. } => size = steps,
            Happening::Finished(_) => sizes.push(std::mem::take(&mut size)),
            _ => {}
        }
    }
    sizes
}

/// Runs a job of three members and holds every opened sum to the plain sum of the noised vectors, and every state to
/// steps along them. Returns the members.
async fn along_the_plain_sums(policy: &str, wish: Wish, learners: [Vectors; 3]) -> Vec<Member> {
    let mut federation = Federation::found(3, policy).await;
    let server = federation.serve();
    let plaintext = federation.plaintext_folder();
    let mut members: Vec<_> = learners
        .into_iter()
        .map(|learner| federation.join_with(learner, revealing(&plaintext)))
        .collect();
    let job = wish.job(policy).unwrap();
    let (_, digest) = federation.submit_job(job.clone()).await;
    for run in &mut members {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
    }
    let mut state = start(DIMENSION, true).state;
    for round in 1..=wish.rounds {
        let read = |name: String| integers(&plaintext.join(name));
        let sealed = [1, 2, 3].map(|seat| read(format!("{round}-1-{seat}.i64")));
        let sum = add_up(&sealed);
        for seat in 1..=3 {
            assert!(
                read(format!("{round}-1-sum-by-{seat}.i64")) == sum,
                "round {round}"
            );
        }
        state = stepped(&state, &mean(&job, &sum));
    }
    for member in 0..3 {
        let model = federation.model(member, &digest).expect("a model");
        assert_eq!(model.round, wish.rounds);
        assert!(model.state == state, "member {member}");
    }
    server.stop().await;
    members
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_step_along_the_plain_sum_of_their_noised_batches() {
    let wish = Wish {
        rounds: 3,
        ..Wish::of_batches(3, DIMENSION)
    };
    let learners = [0, 1, 2].map(|member| Vectors::of(member, DIMENSION).long(4.0));
    let members = along_the_plain_sums(RECORD, wish, learners).await;
    let sizes: Vec<usize> = members.iter().flat_map(batch_sizes).collect();
    // Nine draws of 40 coins with q = ¼: all alike, or one beyond 30, happens with a probability below 10⁻⁶.
    assert!(sizes.iter().collect::<BTreeSet<_>>().len() > 1, "{sizes:?}");
    assert!(sizes.iter().all(|size| *size <= 30), "{sizes:?}");
    for report in members.iter().flat_map(Member::reports) {
        assert_eq!((report.contributors, report.clipped_share), (3, Some(1.0)));
        assert!(report.epsilon.unwrap() <= 8.0 && report.zeroed_share.unwrap() < 0.9);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_is_hidden_members_may_step_along_batches_too_without_noise() {
    let learners = [0, 1, 2].map(|member| Vectors::of(member, DIMENSION).with_records(5));
    let wish = Wish {
        rounds: 2,
        batches: Some(Batches {
            sampling_rate: "1",
            nominal_batch: 15,
            max_examples: 5,
        }),
        ..Wish::of_batches(3, DIMENSION)
    };
    let members = along_the_plain_sums(LABORATORY, wish, learners).await;
    for report in members.iter().flat_map(Member::reports) {
        assert_eq!((report.contributors, report.epsilon), (3, None));
    }
    assert_eq!(
        members.iter().flat_map(batch_sizes).collect::<Vec<_>>(),
        [5; 6]
    );
}

/// Three in four records are right, and each has a loss of 1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_that_the_policy_allows_ride_in_the_sum_and_are_the_same_for_everybody() {
    let metrics = vec![Metric::TrainingLoss, Metric::TrainingAccuracy];
    let wish = Wish {
        batches: Some(Batches {
            sampling_rate: "1",
            nominal_batch: 120,
            max_examples: 40,
        }),
        metrics: metrics.clone(),
        ..Wish::of_batches(3, DIMENSION)
    };
    let refused = wish.job(LABORATORY).unwrap();
    let with = "metrics = [\"training-accuracy\", \"training-loss\"]";
    // Without noise the means come back to the rounding of integers, with it to the noise of a coordinate.
    for (policy, within) in [(LABORATORY, 1e-2), (RECORD, 0.5)] {
        let policy = changed(policy, "metrics = []", with);
        let mut federation = Federation::found(3, &policy).await;
        let server = federation.serve();
        let mut members: Vec<_> = [0, 1, 2]
            .map(|member| Vectors::of(member, DIMENSION).long(7.0).with_records(40))
            .map(|learner| federation.join_with(learner, |options| options))
            .into();
        let job = wish.job(&policy).unwrap();
        assert_eq!(job.dimension, DIMENSION as u64 + 2);
        let (_, digest) = federation.submit_job(job).await;
        let mut said = BTreeSet::new();
        for run in &mut members {
            let outcome = run.end().await.unwrap();
            assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
            let report = &run.reports()[0];
            let of = |metric: Metric| report.released[metric.as_str()];
            assert!(
                (of(Metric::TrainingLoss) - 1.0).abs() < 4.0 * within,
                "{:?}",
                report.released
            );
            assert!(
                (of(Metric::TrainingAccuracy) - 0.75).abs() < within,
                "{:?}",
                report.released
            );
            assert_eq!(report.clipped_share, Some(1.0));
            said.insert(format!("{:?}", report.released));
        }
        assert_eq!(said.len(), 1, "{said:?}");
        assert_eq!(
            federation.model(0, &digest).unwrap().state.len(),
            2 * DIMENSION
        );
        server.stop().await;
    }
    // A policy that allows none refuses the job.
    let policy = Policy::parse(LABORATORY).unwrap();
    let terms = refused.terms(&policy, 3, 3).unwrap();
    let said = policy
        .admit(&refused.proposal(&terms, Role::Researcher, Instant::EPOCH))
        .unwrap_err()
        .to_string();
    assert!(
        said.contains(
            "releases.metrics: asked for training-loss, training-accuracy, allowed is none"
        ),
        "{said}"
    );
}

/// With q = 1 the batch is known, and what is left of the sum is noise: of the width that was calibrated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_opened_sum_has_beyond_its_gradients_is_the_noise_of_three_shares() {
    // Of three contributors one knows its own noise: distributed, the other two add half of it each.
    for (placement, shares) in [("distributed", 2.0_f64), ("local", 1.0)] {
        let policy = changed(RECORD, "distributed", placement);
        let policy = changed(&policy, "min_contributors = 2", "min_contributors = 3");
        let wish = Wish {
            batches: Some(Batches {
                sampling_rate: "1",
                nominal_batch: 15,
                max_examples: 5,
            }),
            ..Wish::of_batches(3, DIMENSION)
        };
        let mut federation = Federation::found(3, &policy).await;
        let server = federation.serve();
        let plaintext = federation.plaintext_folder();
        let mut members: Vec<_> = [0, 1, 2]
            .map(|member| Vectors::of(member, DIMENSION).with_records(5))
            .map(|learner| federation.join_with(learner, revealing(&plaintext)))
            .into();
        let job = wish.job(&policy).unwrap();
        federation.submit_job(job.clone()).await;
        for run in &mut members {
            assert!(run.end().await.unwrap().completed, "{:?}", run.voided());
            assert_eq!(batch_sizes(run), [5]);
        }
        let mechanism = Reckoned::of(&job, job.min_contributors, job.colluders)
            .unwrap()
            .mechanism;
        let sigma = mechanism.share_variance().unwrap().standard_deviation();
        let target = job.mechanism.noise_multiplier.to_f64_up() * 3.0 * mechanism.scale();
        assert!(
            (sigma * shares.sqrt() / target - 1.0).abs() < 1e-6,
            "{placement}: {sigma} {target}"
        );
        let sum = integers(&plaintext.join("1-1-sum-by-1.i64"));
        let squares: f64 = (0..DIMENSION)
            .map(|at| {
                let signal: f64 = (0..3)
                    .flat_map(|member| (0..5).map(move |record| (member, record)))
                    .map(|(member, record)| {
                        f64::from(gradient(member, record, DIMENSION, 1.0)[at]) * mechanism.scale()
                    })
                    .sum();
                (sum[at] as f64 - signal).powi(2)
            })
            .sum();
        // √(2/2000) = 3.2 % is one standard error.
        let variance = squares / DIMENSION as f64;
        let ratio = variance / (3.0 * sigma.powi(2));
        assert!((ratio - 1.0).abs() < 0.16, "{placement}: {ratio}");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_batches_are_summed_and_sent_like_any_other() {
    let wish = Wish {
        rounds: 2,
        batches: Some(Batches {
            sampling_rate: "0.000000000001",
            nominal_batch: 1,
            max_examples: 40,
        }),
        ..Wish::of_batches(3, DIMENSION)
    };
    let learners = [0, 1, 2].map(|member| Vectors::of(member, DIMENSION));
    let members = along_the_plain_sums(RECORD, wish, learners).await;
    for run in &members {
        assert_eq!(batch_sizes(run), [0, 0]);
        for report in run.reports() {
            assert_eq!((report.contributors, report.update_norm), (3, Some(0.0)));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_with_more_records_than_the_job_reckons_with_refuses_and_says_the_number_at_home_alone()
 {
    let mut federation = Federation::found(3, RECORD).await;
    let (server, front) = federation.serve_behind(Lies::none()).await;
    let mut members: Vec<_> = [40, 41, 40]
        .into_iter()
        .enumerate()
        .map(|(member, records)| {
            federation.join(Vectors::of(member, DIMENSION).with_records(records))
        })
        .collect();
    let (mut researcher, job) = federation.submit(&Wish::of_batches(3, DIMENSION)).await;
    let state = until_job(&mut researcher, job, is_over).await;
    assert_eq!(state.phase, "ended");
    until(|| !members[1].refusals().is_empty()).await;
    let told = "this member's data or backbone do not fit the job; its own output says why";
    assert!(
        members[1].refusals()[0].ends_with(told),
        "{:?}",
        members[1].refusals()
    );
    assert!(state.members[1].refusal.ends_with(told), "{state:?}");
    let at_home = members[1].happenings().into_iter().any(|happening| {
        matches!(happening, Happening::Warning { said }
            if said.contains("41 records, and the job reckons with 40 at most"))
    });
    assert!(at_home, "{:?}", members[1].happenings());
    for run in &mut members {
        run.stop().await; // who was admitted may have left when the job ended
    }
    assert_eq!(front.count(Put::KeyShares) + front.count(Put::Body), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_differs_in_one_bit_of_one_moment_agrees_with_nobodys() {
    let mut federation = Federation::found(3, RECORD).await;
    let server = federation.serve();
    let mut members: Vec<_> = [
        Vectors::of(0, DIMENSION),
        Vectors::of(1, DIMENSION).differing_after(2),
        Vectors::of(2, DIMENSION),
    ]
    .map(|learner| federation.join(learner))
    .into();
    let wish = Wish {
        rounds: 2,
        seconds: [60, 60, 5],
        ..Wish::of_batches(3, DIMENSION)
    };
    let (mut researcher, job) = federation.submit(&wish).await;
    let state = until_job(&mut researcher, job, is_over).await;
    assert_eq!(state.phase, "ended", "{state:?}");
    for (member, run) in members.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(!outcome.completed);
        // Round 1, in which all agreed, is where the one that differs stands, and whoever heard it before two said the same.
        let round = federation.model(member, &job).expect("a model").round;
        assert!(
            round == 1 || (round == 2 && member != 1),
            "{member}: {round}"
        );
        if round == 1 && member != 1 {
            let voided = run.voided();
            let differs = |said: &String| said.contains("seat 2 opened another model");
            let ended = |said: &String| said.contains("agree");
            assert!(
                voided.iter().any(|said| differs(said) || ended(said)),
                "{voided:?}"
            );
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_missed_a_round_gets_the_moments_with_the_model() {
    const LATE: usize = 1;
    let mut federation = Federation::found(4, RECORD).await;
    let server = federation.serve();
    let (first, second) = (Gate::default(), Gate::default());
    let late = Vectors::of(LATE, DIMENSION).behind(&first);
    let mut late = federation.join(late);
    let mut others: Vec<_> = [0, 2, 3]
        .map(|member| Vectors::of(member, DIMENSION).behind_in(2, &second))
        .map(|learner| federation.join(learner))
        .into();
    let wish = Wish {
        rounds: 2,
        seconds: [5, 60, 3],
        ..Wish::of_batches(4, DIMENSION)
    };
    let (_, job) = federation.submit(&wish).await;
    for other in &others {
        other
            .waits_for(|happening| matches!(happening, Happening::Finished(_)))
            .await;
    }
    first.open();
    late.waits_for(|happening| matches!(happening, Happening::CatchingUp { from: 0, to: 1 }))
        .await;
    late.waits_for(|happening| matches!(happening, Happening::Planned { round: 2, .. }))
        .await;
    second.open();
    for run in others.iter_mut().chain([&mut late]) {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
    }
    let state = |member| federation.model(member, &job).expect("a model").state;
    let expected = state(0);
    assert_eq!(expected.len(), 2 * DIMENSION);
    for member in 1..4 {
        assert!(state(member) == expected, "member {member}");
    }
    server.stop().await;
}

const SENTENCES: [&str; 6] = [
    "sales rose@up",
    "profit rose sharply@up",
    "sales fell@down",
    "orders fell sharply@down",
    "profit fell@down",
    "orders rose@up",
];

/// A small model in a folder, and a member's records in a file of it.
fn tuner(folder: &Path, name: &str, sentences: &[&str]) -> Tuner {
    let text: Vec<&str> = SENTENCES
        .iter()
        .map(|line| line.split_once('@').unwrap().0)
        .collect();
    let words = word_level(&text, 64).unwrap();
    write_random_llama(folder, &small_llama(words.vocab_size(), 16, 1), 7).unwrap();
    words.save(&folder.join("tokenizer.json")).unwrap();
    let data = folder.join(name);
    fs::write(&data, sentences.join("\n")).unwrap();
    Tuner::load(folder, &Device::Cpu, &data, None).unwrap()
}

fn tuning(encoder: EncoderSpec) -> Tuning {
    Tuning {
        template: "{sentence}".into(),
        labels: vec!["down".into(), "up".into()],
        route: Route::Classifier,
        tokenizer: None,
        training: TrainingSpec {
            encoder,
            batch_size: 2,
            ..TrainingSpec::default()
        },
    }
}

fn job_of(tuner: &Tuner, tuning: Tuning) -> (Job, Start) {
    let policy = Policy::parse(RECORD).unwrap();
    let start = tuner.start(&tuning, true).unwrap();
    let draft = Draft {
        name: "headlines".into(),
        rounds: 2,
        max_attempts: 1,
        members: 3,
        committee: None,
        value_bits: 16,
        sampling_rate: Some("0.5".parse().unwrap()),
        nominal_batch: Some(4),
        max_examples: Some(6),
        metrics: BTreeSet::new(),
        contribute_seconds: 60,
        open_seconds: 60,
        agree_seconds: 60,
        tuning,
    };
    let backbone = tuner.backbone();
    (draft.job("test", &policy, backbone, &start).unwrap(), start)
}

#[test]
fn a_member_that_reads_with_another_tokenizer_refuses_the_job() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let researcher = tuner(ours.path(), "north.txt", &SENTENCES);
    let pinned = researcher.pin(tuning(EncoderSpec::Words)).unwrap();
    assert_eq!(pinned.tokenizer, Some(researcher.tokenizer().to_string()));
    let (job, _) = job_of(&researcher, pinned.clone());

    // The same weights, and a tokenizer that knows words in another order.
    let mut member = tuner(theirs.path(), "north.txt", &SENTENCES);
    member.prepare(&job).unwrap();
    let words = word_level(&["orders sales profit fell rose sharply"], 64).unwrap();
    words.save(&theirs.path().join("tokenizer.json")).unwrap();
    let data = theirs.path().join("north.txt");
    let mut member = Tuner::load(theirs.path(), &Device::Cpu, &data, None).unwrap();
    assert_eq!(member.backbone(), researcher.backbone());
    for refused in [member.prepare(&job).map(drop), member.pin(pinned).map(drop)] {
        let Err(Error::Refused(why)) = refused else {
            panic!("{refused:?}");
        };
        let other = member.tokenizer().to_string();
        assert!(
            why.contains(&other) && why.contains("take the model's folder"),
            "{why}"
        );
    }
}

#[test]
fn the_tuning_engine_sums_gradients_of_its_own_records_and_steps_alike_everywhere() {
    let folder = tempfile::tempdir().unwrap();
    let mut north = tuner(folder.path(), "north.txt", &SENTENCES[..4]);
    let mut south = tuner(folder.path(), "south.txt", &SENTENCES[2..]);
    let (job, start) = job_of(&north, tuning(EncoderSpec::Words));
    // θ and Adam's two moments of each parameter: 4 virtual tokens and a classifier of 2 labels, hidden size 16.
    let d = 4 * 16 + 2 * (16 + 1);
    assert_eq!((job.dimension, job.state), (d, 3 * d));
    for member in [&mut north, &mut south] {
        assert_eq!(member.prepare(&job).unwrap(), start);
        assert_eq!(member.records(), 4);
    }
    let mechanism: Mechanism = Reckoned::of(&job, job.min_contributors, job.colluders)
        .unwrap()
        .mechanism;
    let mut entropy = Entropy::from_os().unwrap();
    let all = PoissonBatch::draw(4, SamplingRate::WHOLE, &mut entropy);
    let none = PoissonBatch::draw(0, SamplingRate::WHOLE, &mut entropy);
    let go = AtomicBool::new(false);
    let mut steps = Vec::new();
    let mut sum = ExampleSum::new(&mechanism);
    let loss = north.add_gradients(
        &start.state,
        1,
        &all,
        &mut sum,
        &mut |at| steps.push((at.step, at.steps)),
        &go,
    );
    assert!(
        (loss.unwrap().unwrap() - 2_f64.ln()).abs() < 1e-5,
        "a classifier of zeros"
    );
    assert_eq!(steps, [(1, 4), (2, 4), (3, 4), (4, 4)]);
    assert_eq!(sum.examples(), 4);
    let (_, report) = sum.finish();
    assert!(report.norm_before > 0.0 && report.zeroed_share < 0.9);
    let mut empty = ExampleSum::new(&mechanism);
    let loss = north.add_gradients(&start.state, 1, &none, &mut empty, &mut |_| {}, &go);
    assert_eq!((loss.unwrap(), empty.examples()), (None, 0));
    let stop = AtomicBool::new(true);
    let stopped = north.add_gradients(&start.state, 1, &all, &mut empty, &mut |_| {}, &stop);
    assert!(matches!(stopped, Err(Error::Stopped)));

    let mean: Vec<f32> = (0..d).map(|at| (at % 11) as f32 / 11.0 - 0.4).collect();
    let mut state = start.state.clone();
    for round in 1..=2 {
        let next = north.step(&state, mean.clone(), round).unwrap();
        let elsewhere = south.step(&state, mean.clone(), round).unwrap();
        assert!(
            next.iter()
                .map(|x| x.to_bits())
                .eq(elsewhere.iter().map(|x| x.to_bits()))
        );
        assert_eq!(next.len(), state.len());
        assert!(next != state);
        state = next;
    }
    // The round is the optimiser's count of steps.
    let first = north.step(&start.state, mean.clone(), 1).unwrap();
    assert!(north.step(&start.state, mean.clone(), 2).unwrap() != first);
    assert!(north.step(&start.state[1..], mean, 1).is_err());
}

/// d has nothing to do with the encoder's size: what is noised is as short as for plain prompt embeddings.
#[test]
fn an_mlp_encoder_has_gradients_in_prompt_space_and_takes_its_steps_in_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let mut north = tuner(folder.path(), "north.txt", &SENTENCES);
    let (job, start) = job_of(&north, tuning(EncoderSpec::Mlp { hidden: 8 }));
    let (prompt, classifier) = (4 * 16, 2 * (16 + 1));
    let encoder = prompt + (8 * 16 + 8) + (8 * 8 + 8) + (16 * 8 + 16);
    assert_eq!(job.dimension, prompt + classifier);
    assert_eq!(job.state, 3 * (encoder + classifier));
    assert_eq!(north.prepare(&job).unwrap(), start);
    let mechanism = Reckoned::of(&job, job.min_contributors, job.colluders)
        .unwrap()
        .mechanism;
    let mut entropy = Entropy::from_os().unwrap();
    let all = PoissonBatch::draw(6, SamplingRate::WHOLE, &mut entropy);
    let mut sum = ExampleSum::new(&mechanism);
    let go = AtomicBool::new(false);
    north
        .add_gradients(&start.state, 1, &all, &mut sum, &mut |_| {}, &go)
        .unwrap();
    assert_eq!(sum.examples(), 6);
    let mean: Vec<f32> = (0..job.dimension).map(|at| (at % 5) as f32 / 5.0).collect();
    let next = north.step(&start.state, mean, 1).unwrap();
    let moved = |range: std::ops::Range<u64>| {
        let range = range.start as usize..range.end as usize;
        next[range.clone()]
            .iter()
            .zip(&start.state[range])
            .any(|(x, y)| x != y)
    };
    assert_eq!(next.len(), start.state.len());
    assert!(moved(0..prompt) && moved(prompt..encoder) && moved(encoder..encoder + classifier));
}
