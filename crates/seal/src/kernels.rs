//! What sealing and opening a block are made of, one by one. For measurement alone: nothing here
//! takes part in a round, and the keys are such as no member ever had.

use std::hint::black_box;

use ciphertune_gauss::{DiscreteGaussian, Entropy};
use ciphertune_round::{Context, Digest};
use ciphertune_sum::{BLOCK_BYTES, N, Parameters};

use crate::Result;
use crate::body::{Masks, open_block, seal_block};
use crate::check::Checker;
use crate::contribute::{draw_key, lattice_gaussian};
use crate::packing::{pack, unpack};
use crate::ring::{KeySpectrum, Ring};
use crate::secret::SecretBlock;

/// One block, and everything that is done to it.
pub struct Kernels {
    parameters: Parameters,
    ring: Ring,
    masks: Masks,
    checker: Checker,
    key: KeySpectrum,
    gaussian: DiscreteGaussian,
    entropy: Entropy,
    values: Vec<i64>,
    message: Vec<i64>,
    errors: Vec<i64>,
    block: Vec<u64>,
    body: Vec<u64>,
    bytes: Vec<u8>,
}

/// The spectrum that a key is kept as while it is in use, for whoever looks for what was left of one.
#[must_use]
pub fn spectrum(key: &[u64]) -> Vec<u64> {
    let mut block = SecretBlock::zero();
    block.expose_mut().copy_from_slice(key);
    Ring::new().spectrum(&block).expose().to_vec()
}

impl Kernels {
    /// For blocks of these parameters.
    ///
    /// # Errors
    /// [`Error::Fault`](crate::Error::Fault) when the operating system gives no entropy.
    pub fn new(parameters: &Parameters) -> Result<Self> {
        let (ring, gaussian) = (Ring::new(), lattice_gaussian()?);
        let mut entropy = Entropy::from_os()?;
        let key = ring.spectrum(&draw_key(&gaussian, &mut entropy));
        let bound = parameters.value_bound() as i64;
        let values = (0..parameters.values_per_block() as i64)
            .map(|i| i.wrapping_mul(0x9E37_79B9) % (bound + 1))
            .collect();
        let mut kernels = Self {
            parameters: *parameters,
            ring,
            masks: Masks::of(&Context::of_plan(b"kernels"))?,
            checker: Checker::of(&Digest::sha256(b"kernels"))?,
            key,
            gaussian,
            entropy,
            values,
            message: vec![0; N],
            errors: vec![0; N],
            block: vec![0; N],
            body: vec![0; N],
            bytes: vec![0; BLOCK_BYTES],
        };
        kernels.mask();
        kernels.body.copy_from_slice(&kernels.block);
        Ok(kernels)
    }

    /// a_j: N mask words.
    pub fn mask(&mut self) {
        self.masks.fill(black_box(7), &mut self.block);
    }

    /// a ← a·s.
    pub fn product(&mut self) {
        self.ring.multiply(&mut self.block, &self.key);
    }

    /// N errors.
    pub fn errors(&mut self) {
        self.gaussian.fill(&mut self.entropy, &mut self.errors);
    }

    /// k·N values into N coefficients.
    pub fn pack(&mut self) {
        pack(&self.parameters, black_box(&self.values), &mut self.message);
    }

    /// The product, the errors and the packed values into a body block.
    pub fn seal(&mut self) {
        let (errors, message) = (&self.errors, &self.message);
        seal_block(&self.ring, &self.key, errors, message, &mut self.block);
    }

    /// The product, taken off a body block.
    pub fn open(&mut self) {
        open_block(&self.ring, &self.key, &self.body, &mut self.block);
    }

    /// N words into k·N values, with their bounds.
    pub fn unpack(&mut self) {
        black_box(unpack(&self.parameters, &self.block, &mut self.values));
    }

    /// A block's part of a check value.
    pub fn check(&mut self) {
        self.checker.absorb(7, &self.body);
    }

    /// SHA-256 of a block's bytes.
    pub fn digest(&mut self) {
        black_box(Digest::sha256(black_box(&self.bytes)));
    }
}
