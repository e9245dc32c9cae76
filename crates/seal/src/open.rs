use std::io::Read;

use ciphertune_gauss::Entropy;
use ciphertune_round::{Context, Digest, Hasher};
use ciphertune_sum::{BLOCK_BYTES, N, Parameters, expect_end, read_block};
use rand_core::Rng;
use zeroize::{Zeroize, Zeroizing};

use crate::body::{Masks, open_block};
use crate::check::Checker;
use crate::packing::{Found, unpack};
use crate::ring::Ring;
use crate::second::tfhe_agrees;
use crate::{Check, CheckValue, Error, KeySum, Result};

/// Σ_{i∈U} v_i over the integers, opened and checked. Private to the members until it is released.
pub struct OpenedSum {
    values: Vec<i64>,
}

impl OpenedSum {
    /// The values, no longer wiped by this type.
    #[must_use]
    pub fn into_values(mut self) -> Vec<i64> {
        std::mem::take(&mut self.values)
    }

    /// How many values there are.
    #[must_use]
    pub fn length(&self) -> usize {
        self.values.len()
    }
}

impl Drop for OpenedSum {
    fn drop(&mut self) {
        self.values.zeroize();
    }
}

/// That tfhe's own decryption opened a block, chosen at random after the sum was fixed, to the
/// same words as ours. For the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondOpening {
    /// The block, from 0.
    pub block: usize,
    /// How many blocks the sum has.
    pub blocks: usize,
}

/// Opens the sum of the bodies of a roster: sum − a_j·S block by block.
///
/// `length` is the number of values, `contributors` = |U|, `checks` their check values (one
/// each), `expected_sum` the roster's SHA-256(sum). Nothing is returned unless all of these hold,
/// and are reported in this order:
///
/// 1. the sum has the right length and words below q, and the roster's digest;
/// 2. Σ c_i = (⟨h₁, sum⟩, ⟨h₂, sum⟩);
/// 3. every residual error is at most 9·σ·√|U|;
/// 4. every value is at most |U|·B, and the padding is zero;
/// 5. tfhe's `decrypt_glwe_ciphertext` of one random block gives the same words.
///
/// Memory is the values and a few blocks.
///
/// # Errors
/// [`Error::Malformed`] for a sum too short, too long or with a word not below q;
/// [`Error::Failed`] with the [`Check`] that failed; [`Error::Misuse`] when the numbers do not fit
/// the cohort; [`Error::Fault`] when reading or the operating system fails.
#[allow(clippy::too_many_arguments)] // each is a different thing that the opening is held to
pub fn open<R: Read>(
    parameters: &Parameters,
    length: usize,
    context: &Context,
    roster: &Digest,
    key: &KeySum,
    contributors: usize,
    checks: &[CheckValue],
    expected_sum: &Digest,
    mut sum: R,
) -> Result<(OpenedSum, SecondOpening)> {
    if !(1..=parameters.members()).contains(&contributors) || checks.len() != contributors {
        return Err(Error::Misuse(format!(
            "{contributors} contributors with {} check values in a cohort of {}",
            checks.len(),
            parameters.members()
        )));
    }
    if length == 0 {
        return Err(Error::Misuse("no values to open".into()));
    }
    let blocks = parameters.blocks(length);
    let second = Entropy::from_os()?.next_u64() % blocks as u64;
    let second = SecondOpening {
        block: second as usize,
        blocks,
    };

    let ring = Ring::new()?;
    let masks = Masks::of(context)?;
    let spectrum = ring.spectrum(&key.words);
    let (mut hasher, mut checker) = (Hasher::default(), Checker::of(roster)?);
    let (mut bytes, mut body) = (vec![0; BLOCK_BYTES], vec![0; N]);
    let mut words = Zeroizing::new(vec![0; N]);
    let mut slots = Zeroizing::new(vec![0_i64; parameters.values_per_block()]);
    let mut opened = OpenedSum {
        values: Vec::with_capacity(length),
    };
    let mut found = Found {
        residual: 0,
        value: 0,
        overflow: false,
    };
    let mut padding_is_zero = true;
    let mut second_agrees = false;

    for block in 0..blocks {
        read_block(&mut sum, &mut bytes, &mut body)?;
        hasher.update(&bytes);
        checker.absorb(&body);
        masks.fill(block, &mut words);
        open_block(&ring, &spectrum, &body, &mut words);
        if block == second.block {
            let mut mask = vec![0; N];
            masks.fill(block, &mut mask);
            second_agrees = tfhe_agrees(&key.words, &mask, &body, &words);
        }
        found = found.and(unpack(parameters, &words, &mut slots));
        let (values, padding) = slots.split_at(slots.len().min(length - opened.values.len()));
        opened.values.extend_from_slice(values);
        padding_is_zero &= padding.iter().fold(true, |all, value| all & (*value == 0));
    }
    expect_end(&mut sum)?;

    let value_bound = contributors as u64 * parameters.value_bound();
    let verdicts = [
        (hasher.finish() == *expected_sum, Check::Digest),
        (
            checker.finish() == CheckValue::sum(checks),
            Check::CheckValue,
        ),
        (
            found.residual <= parameters.error_bound(contributors),
            Check::Residual,
        ),
        (
            found.value <= value_bound && !found.overflow && padding_is_zero,
            Check::ValueBound,
        ),
        (second_agrees, Check::SecondOpening),
    ];
    match verdicts.into_iter().find(|(holds, _)| !holds) {
        None => Ok((opened, second)),
        Some((_, check)) => Err(Error::Failed(check)),
    }
}
