//! Where the time of a block goes, stage by stage, in the cache.

use std::time::Instant;

use ciphertune_seal::kernels::Kernels;
use serde::Serialize;

use super::options::Shape;
use crate::{Error, Result};

/// Nanoseconds a block of N words (k·N parameters), median of many.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Stages {
    /// Mask words: ChaCha12.
    pub mask: f64,
    /// a·s: two number-theoretic transforms and the product between them.
    pub product: f64,
    /// Discrete Gaussian errors.
    pub errors: f64,
    /// Packing k·N values.
    pub pack: f64,
    /// Unpacking as many, with their bounds.
    pub unpack: f64,
    /// Both halves of the check value: ChaCha12 twice, inner product twice.
    pub check: f64,
    /// SHA-256 of the block's bytes.
    pub sha256: f64,
}

const RUNS: usize = 200;

/// Some milliseconds each.
pub fn measure(shape: &Shape) -> Result<Stages> {
    let mut kernels =
        Kernels::new(&shape.parameters).map_err(|error| Error::fault("kernels", error))?;
    let mut of = |stage: fn(&mut Kernels)| {
        let mut taken: Vec<f64> = (0..RUNS)
            .map(|_| {
                let started = Instant::now();
                stage(&mut kernels);
                started.elapsed().as_secs_f64() * 1e9
            })
            .collect();
        taken.sort_by(f64::total_cmp);
        taken[RUNS / 2]
    };
    Ok(Stages {
        mask: of(Kernels::mask),
        product: of(Kernels::product),
        errors: of(Kernels::errors),
        pack: of(Kernels::pack),
        unpack: of(Kernels::unpack),
        check: of(Kernels::check),
        sha256: of(Kernels::digest),
    })
}
