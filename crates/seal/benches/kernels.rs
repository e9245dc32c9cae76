//! What sealing and opening a block cost, kernel by kernel. `cargo bench -p ciphertune-seal`.

#![allow(missing_docs)] // of the function that criterion's macro makes

use ciphertune_seal::kernels::Kernels;
use ciphertune_sum::{BLOCK_BYTES, CohortSize, N, Parameters, Q, ValueBound};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn kernels(criterion: &mut Criterion) {
    let cohort = CohortSize::new(3).unwrap();
    let parameters = Parameters::derive(cohort, ValueBound::new(2047).unwrap()).unwrap();
    let mut kernels = Kernels::new(&parameters).unwrap();
    let mut group = criterion.benchmark_group("block");
    group.throughput(Throughput::Bytes(BLOCK_BYTES as u64));
    let mut measure = |name: &str, kernel: fn(&mut Kernels)| {
        group.bench_function(name, |bencher| bencher.iter(|| kernel(&mut kernels)));
    };
    measure("mask words", Kernels::mask);
    measure("NTT product", Kernels::product);
    measure("errors", Kernels::errors);
    measure("pack", Kernels::pack);
    measure("seal", Kernels::seal);
    measure("open", Kernels::open);
    measure("unpack", Kernels::unpack);
    measure("check value", Kernels::check);
    measure("SHA-256", Kernels::digest);

    // What a library takes for the product: why the transform is our own.
    let plan = tfhe_ntt::prime64::Plan::try_new(N, Q).unwrap();
    let (mut words, mut key) = (vec![1; N], vec![2; N]);
    plan.fwd(&mut key);
    group.bench_function("NTT product by tfhe-ntt", |bencher| {
        bencher.iter(|| {
            plan.fwd(&mut words);
            plan.mul_assign_normalize(&mut words, &key);
            plan.inv(&mut words);
        });
    });
}

criterion_group!(benches, kernels);
criterion_main!(benches);
