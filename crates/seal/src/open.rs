use std::io::Read;
use std::num::NonZeroUsize;

use ciphertune_gauss::Entropy;
use ciphertune_round::{Context, Digest, Hasher};
use ciphertune_sum::{BLOCK_BYTES, N, Parameters, codec, expect_end, read_bytes};
use rand_core::Rng;
use zeroize::{Zeroize, Zeroizing};

use crate::body::{Masks, open_block};
use crate::check::Checker;
use crate::packing::{Found, unpack};
use crate::ring::{KeySpectrum, Ring};
use crate::second::tfhe_agrees;
use crate::threads::{blocks_each, of_use, read_through};
use crate::{Check, CheckValue, Error, KeySum, Result};

/// Σ_{i∈U} v_i over the integers, opened and checked. Private to the members until it is released.
pub struct OpenedSum {
    values: Vec<i64>,
}

impl OpenedSum {
    /// Over what the caller gave, and wiped in its place from here on.
    fn over(mut values: Vec<i64>, length: usize) -> Self {
        if values.len() != length {
            values.zeroize();
            values = vec![0; length];
        }
        Self { values }
    }

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
/// 2. the check values add up to the sum's;
/// 3. every residual error is at most 9·σ·√|U|;
/// 4. every value is at most |U|·B, and the padding is zero;
/// 5. tfhe's `decrypt_glwe_ciphertext` of one random block gives the same words.
///
/// Memory is the values and a few blocks, on one thread. See [`open_on`] for several, and for a vector that stands
/// ready.
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
    sum: R,
) -> Result<(OpenedSum, SecondOpening)> {
    let one = NonZeroUsize::MIN;
    open_on(
        one,
        parameters,
        length,
        context,
        roster,
        key,
        contributors,
        checks,
        expected_sum,
        sum,
        Vec::new(),
    )
}

/// [`open`] on so many threads at most, into the memory of `into`.
///
/// A vector of `length` values is written over as it stands; of any other length, an empty one too, it is wiped and a
/// fresh one takes its place. Memory that the system has handed out already is worth a third of the time: the first
/// write to a page costs more than all that is computed for it. Whatever fails, `into` is wiped.
///
/// Memory is a megabyte a thread more when there are several.
///
/// # Errors
/// As [`open`].
#[allow(clippy::too_many_arguments)] // those of `open`, and two
pub fn open_on<R: Read>(
    threads: NonZeroUsize,
    parameters: &Parameters,
    length: usize,
    context: &Context,
    roster: &Digest,
    key: &KeySum,
    contributors: usize,
    checks: &[CheckValue],
    expected_sum: &Digest,
    mut sum: R,
    into: Vec<i64>,
) -> Result<(OpenedSum, SecondOpening)> {
    let mut opened = OpenedSum::over(into, length);
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

    let ring = Ring::new();
    let keys = Keys {
        parameters,
        masks: &Masks::of(context)?,
        spectrum: &ring.spectrum(&key.words),
        ring: &ring,
        key,
        second: second.block,
    };
    let mut openers = (0..of_use(threads, blocks))
        .map(|_| Opener::of(roster))
        .collect::<Result<Vec<_>>>()?;
    // Every byte goes through the digest, in order.
    let mut hasher = Hasher::default();
    let read = |bytes: &mut [u8]| {
        read_bytes(&mut sum, bytes)?;
        hasher.update(bytes);
        Ok(())
    };
    let places = blocks_each(openers.len()) * parameters.values_per_block();
    read_through(
        &mut openers,
        blocks,
        read,
        opened.values.chunks_mut(places),
        |opener, first, bytes, values| opener.open(&keys, first, bytes, values),
    )?;
    expect_end(&mut sum)?;

    let found = openers
        .iter()
        .fold(Found::default(), |found, opener| found.and(opener.found));
    let padding_is_zero = openers.iter().all(|opener| opener.padding_is_zero);
    let second_agrees = openers.iter().any(|opener| opener.second_agrees);
    let parts: Vec<CheckValue> = openers
        .into_iter()
        .map(|opener| opener.checker.finish())
        .collect();
    let value_bound = contributors as u64 * parameters.value_bound();
    let verdicts = [
        (hasher.finish() == *expected_sum, Check::Digest),
        (
            CheckValue::sum(&parts) == CheckValue::sum(checks),
            Check::CheckValue,
        ),
        (
            found.residual <= parameters.error_bound(contributors),
            Check::Residual,
        ),
        (
            found.value <= value_bound && found.beyond == 0 && padding_is_zero,
            Check::ValueBound,
        ),
        (second_agrees, Check::SecondOpening),
    ];
    match verdicts.into_iter().find(|(holds, _)| !holds) {
        None => Ok((opened, second)),
        Some((_, check)) => Err(Error::Failed(check)),
    }
}

/// What every thread of one call shares.
struct Keys<'a> {
    parameters: &'a Parameters,
    ring: &'a Ring,
    masks: &'a Masks,
    spectrum: &'a KeySpectrum,
    key: &'a KeySum,
    /// The block that tfhe opens too.
    second: usize,
}

/// One thread's part of what the opening is held to.
struct Opener {
    checker: Checker,
    body: Vec<u64>,
    words: Zeroizing<Vec<u64>>,
    found: Found,
    padding_is_zero: bool,
    second_agrees: bool,
}

impl Opener {
    fn of(roster: &Digest) -> Result<Self> {
        Ok(Self {
            checker: Checker::of(roster)?,
            body: vec![0; N],
            words: Zeroizing::new(vec![0; N]),
            found: Found::default(),
            padding_is_zero: true,
            second_agrees: false,
        })
    }

    /// Opens consecutive blocks, of which `first` is the number of the first.
    fn open(&mut self, keys: &Keys, first: usize, bytes: &[u8], values: &mut [i64]) -> Result<()> {
        let places = values.chunks_mut(keys.parameters.values_per_block());
        let blocks = bytes.chunks_exact(BLOCK_BYTES);
        for ((position, bytes), place) in (first..).zip(blocks).zip(places) {
            codec::decode_words(bytes, &mut self.body)?;
            self.checker.absorb(position, &self.body);
            keys.masks.fill(position, &mut self.words);
            open_block(keys.ring, keys.spectrum, &self.body, &mut self.words);
            if position == keys.second {
                let mut mask = vec![0; N];
                keys.masks.fill(position, &mut mask);
                let words = &keys.key.words;
                self.second_agrees = tfhe_agrees(words, &mask, &self.body, &self.words);
            }
            self.found = self.found.and(self.unpack(keys.parameters, place));
        }
        Ok(())
    }

    fn unpack(&mut self, parameters: &Parameters, place: &mut [i64]) -> Found {
        if place.len() == parameters.values_per_block() {
            return unpack(parameters, &self.words, place);
        }
        let mut slots = Zeroizing::new(vec![0_i64; parameters.values_per_block()]);
        let found = unpack(parameters, &self.words, &mut slots);
        let (values, padding) = slots.split_at(place.len());
        place.copy_from_slice(values);
        self.padding_is_zero &= padding.iter().fold(true, |all, value| all & (*value == 0));
        found
    }
}
