//! The opened sum is plaintext FedAvg of the same updates, bit for bit: 2, 3, 4 and 7 members, vector lengths around
//! every packing boundary. What it must be is worked out by `plaintext`, which shares no code with the sealed path.

use std::{fs, path::Path};

use ciphertune_client::member::Options;
use ciphertune_sum::{CohortSize, N, Parameters, ValueBound};
use ciphertune_tests::{
    federation::{Federation, INSTITUTION, LABORATORY, Wish},
    learner::{Vectors, first_model},
    plaintext::{Noise, Quantiser, add_up},
};

/// C of both policies.
const CLIP: u64 = 3;

/// Every third member is clipped, every fifth far.
fn norm(member: usize) -> f64 {
    [2.0, 2.9, 3.7, 0.5, 40.0][member % 5]
}

/// Lengths around each place where packing begins a new coefficient, slot row or block.
fn boundaries(slots: usize) -> Vec<usize> {
    let block = slots * N;
    vec![
        1,
        slots,
        slots + 1,
        block - 1,
        block,
        block + 1,
        2 * block - slots,
        2 * block + 1,
    ]
}

fn slots(members: usize, bound: u64) -> usize {
    let parameters = Parameters::derive(
        CohortSize::new(members).unwrap(),
        ValueBound::new(bound).unwrap(),
    );
    parameters.unwrap().slots()
}

/// Runs a federation without noise and holds every member's model of every round to the plaintext average.
async fn without_noise(wish: Wish) {
    let Wish {
        members, dimension, ..
    } = wish;
    let mut federation = Federation::found(members, LABORATORY).await;
    let server = federation.serve();
    let learners: Vec<Vectors> = (0..members)
        .map(|member| Vectors::of(member, dimension).long(norm(member)))
        .collect();
    let mut joined: Vec<_> = learners
        .iter()
        .map(|learner| federation.join(learner.clone()))
        .collect();
    let (_, job) = federation.submit(&wish).await;

    let quantiser = Quantiser::derive(CLIP, None, wish.value_bits, dimension);
    let mut expected = first_model(dimension);
    for round in 1..=wish.rounds {
        let quantised: Vec<Vec<i64>> = learners
            .iter()
            .map(|learner| quantiser.quantise(&learner.update(round)))
            .collect();
        expected = quantiser.average_onto(&expected, &add_up(&quantised), members);
    }
    assert_ne!(
        bits(&expected),
        bits(&first_model(dimension)),
        "something was learned"
    );

    for (member, run) in joined.iter_mut().enumerate() {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
        let model = federation.model(member, &job).expect("a model");
        assert_eq!(model.round, wish.rounds);
        let first = first_difference(&model.state, &expected);
        assert_eq!(first, None, "member {member} of {members}, d = {dimension}");
        for report in run.reports() {
            assert_eq!(report.contributors, members);
            let clipped = norm(member) > CLIP as f64;
            assert_eq!(report.clipped_share, Some(f64::from(u8::from(clipped))));
            assert_eq!(report.epsilon, None);
        }
    }
    server.stop().await;
}

fn bits(model: &[f32]) -> Vec<u32> {
    model.iter().map(|x| x.to_bits()).collect()
}

fn first_difference(model: &[f32], expected: &[f32]) -> Option<(usize, f32, f32)> {
    assert_eq!(model.len(), expected.len());
    let differs = |(_, (a, b)): &(usize, (&f32, &f32))| a.to_bits() != b.to_bits();
    let mut pairs = model.iter().zip(expected).enumerate();
    pairs.find(differs).map(|(at, (a, b))| (at, *a, *b))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_open_the_plaintext_average_at_every_packing_boundary() {
    let slots = slots(3, 2047);
    assert_eq!(slots, 4);
    for dimension in boundaries(slots) {
        without_noise(Wish::of(3, dimension)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_open_the_plaintext_average_of_wider_values() {
    let slots = slots(3, 32_767);
    assert_eq!(slots, 3);
    for dimension in [slots * N, 2 * slots * N + 1] {
        without_noise(Wish {
            value_bits: 16,
            ..Wish::of(3, dimension)
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_members_open_the_plaintext_average_at_every_packing_boundary() {
    for dimension in boundaries(slots(4, 2047)) {
        without_noise(Wish::of(4, dimension)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seven_members_open_the_plaintext_average_at_every_packing_boundary() {
    let slots = slots(7, 2047);
    assert_eq!(slots, 3);
    for dimension in boundaries(slots) {
        without_noise(Wish::of(7, dimension)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_rounds_follow_one_another_from_the_model_agreed_on() {
    without_noise(Wish {
        rounds: 3,
        ..Wish::of(3, 1_000)
    })
    .await;
}

/// Runs a private federation; holds the model to the sum of the noised integers that members sealed, and those to the
/// quantised updates and the noise that the plan promises.
async fn with_noise(members: usize, dimension: usize) {
    let wish = Wish::of(members, dimension);
    let mut federation = Federation::found(members, INSTITUTION).await;
    let server = federation.serve();
    let folder = federation.plaintext_folder();
    let learners: Vec<Vectors> = (0..members)
        .map(|member| Vectors::of(member, dimension).long(norm(member)))
        .collect();
    let mut joined: Vec<_> = learners
        .iter()
        .map(|learner| {
            federation.join_with(learner.clone(), |options| Options {
                dangerous_plaintext: Some(folder.clone()),
                ..options
            })
        })
        .collect();
    let job = wish.job(INSTITUTION).unwrap();
    let multiplier: f64 = job.mechanism.noise_multiplier.to_string().parse().unwrap();
    let (_, digest) = federation.submit(&wish).await;
    for run in &mut joined {
        let outcome = run.end().await.unwrap();
        assert!(outcome.completed, "{}: {:?}", outcome.reason, run.voided());
    }

    let noise = Noise {
        multiplier_thousandths: (multiplier * 1_000.0).round() as u64,
        shares: 1, // min_contributors 2, less the fellow member who knows its own noise
        adjacency_factor: 1,
    };
    let quantiser = Quantiser::derive(CLIP, Some(noise), wish.value_bits, dimension);
    let variance = quantiser.share(noise).variance();
    let noised: Vec<Vec<i64>> = (1..=members)
        .map(|seat| read_integers(&folder.join(format!("1-1-{seat}.i64"))))
        .collect();
    let sum = add_up(&noised);
    let expected = quantiser.average_onto(&first_model(dimension), &sum, members);
    for (member, run) in joined.iter().enumerate() {
        let opened = folder.join(format!("1-1-sum-by-{}.i64", member + 1));
        assert_eq!(
            read_integers(&opened),
            sum,
            "member {member}, d = {dimension}"
        );
        let model = federation.model(member, &digest).expect("a model");
        assert_eq!(first_difference(&model.state, &expected), None);
        let [report] = &run.reports()[..] else {
            panic!("one round");
        };
        let epsilon = report.epsilon.expect("a private job has a cost");
        assert!(epsilon > 7.5 && epsilon <= 8.0, "{epsilon}");
    }
    for (learner, noised) in learners.iter().zip(&noised) {
        let added: Vec<f64> = quantiser
            .quantise(&learner.update(1))
            .iter()
            .zip(noised)
            .map(|(plain, noised)| (noised - plain) as f64)
            .collect();
        looks_like_noise(&added, variance);
    }
    server.stop().await;
}

/// Mean and variance within six standard deviations of their estimates; no coordinate beyond twelve.
fn looks_like_noise(added: &[f64], variance: f64) {
    let n = added.len() as f64;
    assert!(
        added
            .iter()
            .all(|x| x.abs() <= 12.0 * variance.sqrt() + 1.0)
    );
    if n < 100.0 {
        return;
    }
    let mean = added.iter().sum::<f64>() / n;
    assert!(mean.abs() < 6.0 * (variance / n).sqrt(), "mean {mean}");
    let ratio = added.iter().map(|x| x * x).sum::<f64>() / n / variance;
    assert!(
        (ratio - 1.0).abs() < 6.0 * (2.0 / n).sqrt(),
        "{ratio} of the variance"
    );
}

fn read_integers(path: &Path) -> Vec<i64> {
    let bytes = fs::read(path).unwrap();
    let (words, rest) = bytes.as_chunks::<8>();
    assert!(rest.is_empty());
    words.iter().map(|word| i64::from_le_bytes(*word)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_members_open_the_sum_of_what_they_noised_at_every_packing_boundary() {
    let bound = Wish::of(2, N).job(INSTITUTION).unwrap().value_bound;
    for dimension in boundaries(slots(2, bound)) {
        with_noise(2, dimension).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_members_open_the_sum_of_what_they_noised() {
    with_noise(3, 20_000).await;
}
