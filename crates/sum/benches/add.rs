//! What a server does with a block. `cargo bench -p ciphertune-sum`.

#![allow(missing_docs)] // of the function that criterion's macro makes

use ciphertune_sum::{
    BLOCK_BYTES, CohortSize, N, Parameters, Q, ValueBound, add_assign, add_bodies, add_encoded,
    codec,
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

fn add(criterion: &mut Criterion) {
    let words: Vec<u64> = (0..N as u64)
        .map(|i| i.wrapping_mul(0x9E37_79B9_7F4A_7C15) % Q)
        .collect();
    let mut bytes = Vec::new();
    codec::encode_words(&words, &mut bytes);
    let mut sum = words.clone();

    let mut group = criterion.benchmark_group("block");
    group.throughput(Throughput::Bytes(BLOCK_BYTES as u64));
    group.bench_function("add words", |bencher| {
        bencher.iter(|| add_assign(&mut sum, &words))
    });
    group.bench_function("add bytes", |bencher| {
        bencher.iter(|| add_encoded(&mut sum, &bytes))
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| codec::decode_words(&bytes, &mut sum))
    });
    group.bench_function("check", |bencher| {
        bencher.iter(|| codec::check_words(&bytes))
    });
    group.finish();

    const BLOCKS: usize = 64;
    let parameters =
        Parameters::derive(CohortSize::new(3).unwrap(), ValueBound::new(2047).unwrap()).unwrap();
    let body = bytes.repeat(BLOCKS);
    let mut out = Vec::with_capacity(body.len());
    let mut group = criterion.benchmark_group("bodies");
    group.throughput(Throughput::Bytes(3 * body.len() as u64));
    group.bench_function("three of 2 MiB", |bencher| {
        bencher.iter(|| {
            out.clear();
            let length = BLOCKS * parameters.values_per_block();
            add_bodies(&parameters, length, &mut [&body[..]; 3], &mut out)
        });
    });
    group.finish();
}

criterion_group!(benches, add);
criterion_main!(benches);
