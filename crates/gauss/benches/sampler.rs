//! Errors and noise, draw by draw. `cargo bench -p ciphertune-gauss`.

#![allow(missing_docs)] // of the function that criterion's macro makes

use ciphertune_gauss::{DiscreteGaussian, Entropy, Variance};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rand_core::Rng as _;

fn sampler(criterion: &mut Criterion) {
    let mut entropy = Entropy::from_os().unwrap();
    let mut out = vec![0; 4096];
    let mut group = criterion.benchmark_group("gaussian");
    group.throughput(Throughput::Elements(out.len() as u64));
    for (name, variance) in [
        ("lattice error, σ = 6.4", (1024, 25)),
        ("one table, σ = 300", (90_000, 1)),
        ("two tables, σ = 2^15", (1 << 30, 1)),
    ] {
        let sampler =
            DiscreteGaussian::new(&Variance::new(variance.0, variance.1).unwrap()).unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| sampler.fill(&mut entropy, &mut out))
        });
    }
    group.finish();

    let mut bytes = vec![0; 1 << 14];
    let mut group = criterion.benchmark_group("entropy");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("bytes", |bencher| {
        bencher.iter(|| entropy.fill_bytes(&mut bytes))
    });
    group.finish();
}

criterion_group!(benches, sampler);
criterion_main!(benches);
