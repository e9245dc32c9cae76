//! What bounds sealing on this machine: one core's ChaCha12, SHA-256, copying, and memory that was never touched.

use std::{hint::black_box, time::Instant};

use ciphertune_round::Digest;
use rand_chacha::ChaCha12Rng;
use rand_core::{Rng as _, SeedableRng as _};
use serde::Serialize;

/// Bytes a second of one core.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Reference {
    /// `rand_chacha`'s ChaCha12 into a buffer that stays in the cache.
    pub chacha12_bytes_per_second: f64,
    /// SHA-256 of a buffer that stays in the cache.
    pub sha256_bytes_per_second: f64,
    /// Copying between buffers that do not fit into the cache; each byte is read once and written once.
    pub memcpy_bytes_per_second: f64,
    /// Writing memory that the system has just handed out, page by page: what the opened vector costs at least.
    pub fresh_memory_bytes_per_second: f64,
}

const CACHED: usize = 256 << 10;
const LARGE: usize = 96 << 20;

/// A fraction of a second each.
pub fn measure() -> Reference {
    let mut cached = vec![0; CACHED];
    let mut generator = ChaCha12Rng::from_seed([7; 32]);
    let chacha12 = throughput(CACHED, || generator.fill_bytes(black_box(&mut cached)));
    let sha256 = throughput(CACHED, || {
        black_box(Digest::sha256(black_box(&cached)));
    });
    let (from, mut to) = (vec![1_u8; LARGE], vec![2_u8; LARGE]);
    let memcpy = throughput(LARGE, || to.copy_from_slice(black_box(&from)));
    black_box(&to);
    let fresh = throughput(LARGE, || {
        black_box(vec![3_u8; LARGE]);
    });
    Reference {
        chacha12_bytes_per_second: chacha12,
        sha256_bytes_per_second: sha256,
        memcpy_bytes_per_second: memcpy,
        fresh_memory_bytes_per_second: fresh,
    }
}

/// Of the fastest of some runs: what the machine can do when nobody else asks it.
fn throughput(bytes: usize, mut run: impl FnMut()) -> f64 {
    let started = Instant::now();
    let mut least = f64::INFINITY;
    for count in 0.. {
        if count >= 4 && started.elapsed().as_secs_f64() > 0.15 {
            break;
        }
        let one = Instant::now();
        run();
        least = least.min(one.elapsed().as_secs_f64());
    }
    bytes as f64 / least
}
