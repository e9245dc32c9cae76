use std::io::Write;
use std::num::NonZeroUsize;

use ciphertune_gauss::{DiscreteGaussian, Entropy, Variance};
use ciphertune_round::{Context, Digest, Hasher, ShareIndex, label};
use ciphertune_sum::{BLOCK_BYTES, N, Parameters, SIGMA_SQUARED, codec, modular, vectorised};
use rand_core::Rng;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::body::{Masks, seal_block};
use crate::one_time_key::Binding;
use crate::packing::pack;
use crate::ring::{KeySpectrum, Ring};
use crate::secret::SecretBlock;
use crate::threads::{blocks_each, in_order, of_use};
use crate::{Error, Result, SealingKey, shamir};

/// What a member sends beside its body, and what its header names.
#[derive(Clone, Debug)]
pub struct SealedContribution {
    /// SHA-256 of the body as written.
    pub body_sha256: Digest,
    /// The share of s for each holder, sealed to its key, in the order of the holders.
    pub sealed_shares: Vec<Vec<u8>>,
}

/// Seals `values` for one context: writes the body b_j = a_j·s + e_j + Δ·m_j to `body` block by
/// block, and shares the fresh key s among the `holders`, any `threshold` of whom can help to open
/// a sum: each a seat, which is the point of its share, and the key to seal to.
///
/// s and every e_j are discrete Gaussian (σ = 6.4) from entropy of the operating system, hedged
/// with the context, the sender and SHA-256(values). s exists only inside this call. To be called
/// **once** for a context: a crash or a lost connection is answered with the same bytes again.
///
/// Memory is the shares (32 KiB a holder) and a few blocks, whatever the length. `body` is neither
/// flushed nor synced. After an error, what was written is not to be used.
///
/// # Errors
/// [`Error::Misuse`] when there are no values, a value is beyond B, the holders are not distinct
/// seats of the cohort in ascending order, the sender has no seat, or the threshold is not from 2
/// to the number of holders; [`Error::Fault`] when `body` or the
/// operating system fails.
pub fn contribute<W: Write>(
    parameters: &Parameters,
    context: &Context,
    sender: ShareIndex,
    threshold: usize,
    holders: &[(ShareIndex, SealingKey)],
    values: &[i64],
    body: W,
) -> Result<SealedContribution> {
    let one = NonZeroUsize::MIN;
    contribute_on(
        one, parameters, context, sender, threshold, holders, values, body,
    )
}

/// [`contribute`] on so many threads at most, in the same order of bytes. Each draws its errors from an
/// [`Entropy`] of its own, keyed by the operating system and hedged with the thread's number too.
///
/// Memory is a megabyte a thread more when there are several.
///
/// # Errors
/// As [`contribute`].
#[allow(clippy::too_many_arguments)] // those of `contribute`, and one
pub fn contribute_on<W: Write>(
    threads: NonZeroUsize,
    parameters: &Parameters,
    context: &Context,
    sender: ShareIndex,
    threshold: usize,
    holders: &[(ShareIndex, SealingKey)],
    values: &[i64],
    body: W,
) -> Result<SealedContribution> {
    check(parameters, sender, threshold, holders, values)?;
    let digest = digest_of(threads, parameters, values)?;
    let place = sender.get().to_le_bytes();
    let mut entropy = Entropy::hedged(&[context.as_bytes(), &place, digest.as_slice()])?;
    let ring = Ring::new();
    let gaussian = lattice_gaussian()?;

    let key = draw_key(&gaussian, &mut entropy);
    let points: Vec<u64> = holders.iter().map(|(seat, _)| seat.get().into()).collect();
    let shares = shamir::split(&key, threshold, &points, &mut entropy);
    let spectrum = ring.spectrum(&key);
    drop(key);
    let mut sealed_shares = Vec::with_capacity(holders.len());
    for (share, (recipient, key)) in shares.into_iter().zip(holders) {
        let binding = Binding {
            label: label::SEAL_SHARE,
            context,
            roster: None,
            sender,
            recipient: *recipient,
        };
        sealed_shares.push(key.seal(&binding, &share, &mut entropy)?);
    }

    let mut sealers = vec![Sealer::with(entropy)];
    for thread in 1..of_use(threads, parameters.blocks(values.len())) {
        let thread = (thread as u64).to_le_bytes();
        let hedge: [&[u8]; 4] = [context.as_bytes(), &place, digest.as_slice(), &thread];
        sealers.push(Sealer::with(Entropy::hedged(&hedge)?));
    }
    let secrets = Secrets {
        parameters,
        ring: &ring,
        masks: &Masks::of(context)?,
        key: &spectrum,
        gaussian: &gaussian,
    };
    let body_sha256 = write_body(&secrets, &mut sealers, values, body)?;
    Ok(SealedContribution {
        body_sha256,
        sealed_shares,
    })
}

/// Everybody of a cohort as a holder of shares, from the keys of its seats in order.
///
/// # Errors
/// [`Error::Misuse`] for more keys than a cohort has seats.
pub fn every_seat(keys: &[SealingKey]) -> Result<Vec<(ShareIndex, SealingKey)>> {
    keys.iter()
        .enumerate()
        .map(|(position, key)| Ok((seat_at(position)?, key.clone())))
        .collect()
}

/// N_ℤ(0, σ²) with σ = 6.4, for secrets and errors alike.
pub(crate) fn lattice_gaussian() -> Result<DiscreteGaussian> {
    let (numerator, denominator) = SIGMA_SQUARED;
    Ok(DiscreteGaussian::new(&Variance::new(
        numerator.into(),
        denominator.into(),
    )?)?)
}

pub(crate) fn seat_at(position: usize) -> Result<ShareIndex> {
    ShareIndex::at(position).map_err(|e| Error::Misuse(e.to_string()))
}

/// s: N discrete Gaussian coefficients modulo q.
pub(crate) fn draw_key(gaussian: &DiscreteGaussian, rng: &mut impl Rng) -> SecretBlock {
    let mut drawn = Zeroizing::new(vec![0_i64; N]);
    gaussian.fill(rng, &mut drawn);
    let mut key = SecretBlock::zero();
    for (word, &coefficient) in key.expose_mut().iter_mut().zip(drawn.iter()) {
        *word = modular::from_i64(coefficient);
    }
    key
}

/// What every thread of one call shares.
struct Secrets<'a> {
    parameters: &'a Parameters,
    ring: &'a Ring,
    masks: &'a Masks,
    key: &'a KeySpectrum,
    gaussian: &'a DiscreteGaussian,
}

/// One thread's own: the entropy of its errors, which no other thread ever draws from.
struct Sealer {
    entropy: Entropy,
    block: Vec<u64>,
    errors: Zeroizing<Vec<i64>>,
    message: Zeroizing<Vec<i64>>,
}

impl Sealer {
    fn with(entropy: Entropy) -> Self {
        Self {
            entropy,
            block: vec![0; N],
            errors: Zeroizing::new(vec![0; N]),
            message: Zeroizing::new(vec![0; N]),
        }
    }

    /// Encrypts consecutive blocks, of which `first` is the number of the first.
    fn seal(&mut self, secrets: &Secrets, first: usize, values: &[i64], bytes: &mut [u8]) {
        let places = bytes.chunks_exact_mut(BLOCK_BYTES);
        let blocks = values.chunks(secrets.parameters.values_per_block());
        for ((position, values), place) in (first..).zip(blocks).zip(places) {
            secrets.masks.fill(position, &mut self.block);
            secrets.gaussian.fill(&mut self.entropy, &mut self.errors);
            pack(secrets.parameters, values, &mut self.message);
            let (errors, message) = (&self.errors, &self.message);
            seal_block(secrets.ring, secrets.key, errors, message, &mut self.block);
            codec::write_words(&self.block, place);
        }
    }
}

/// Encrypts and writes in order; returns SHA-256 of what was written.
///
/// While several threads seal, this one hashes and writes what they are done with.
fn write_body<W: Write>(
    secrets: &Secrets,
    sealers: &mut [Sealer],
    values: &[i64],
    mut body: W,
) -> Result<Digest> {
    let mut hasher = Hasher::default();
    let each = blocks_each(sealers.len());
    let values_per_block = secrets.parameters.values_per_block();
    let mut batches = (0..)
        .step_by(each)
        .zip(values.chunks(each * values_per_block));
    in_order(
        sealers,
        |spare: Option<Vec<u8>>| {
            let batch = batches.next();
            Ok(batch.map(|(first, values)| (first, values, spare.unwrap_or_default())))
        },
        |sealer, (first, values, mut bytes)| {
            bytes.resize(values.len().div_ceil(values_per_block) * BLOCK_BYTES, 0);
            sealer.seal(secrets, first, values, &mut bytes);
            Ok(bytes)
        },
        |bytes| {
            hasher.update(bytes);
            body.write_all(bytes)
                .map_err(|e| Error::Fault(format!("writing the body: {e}")))
        },
    )?;
    Ok(hasher.finish())
}

fn check(
    parameters: &Parameters,
    sender: ShareIndex,
    threshold: usize,
    holders: &[(ShareIndex, SealingKey)],
    values: &[i64],
) -> Result<()> {
    let n = parameters.members();
    let misuse = |what: String| Err(Error::Misuse(what));
    let seats = || holders.iter().map(|(seat, _)| seat);
    if let Some(seat) = seats()
        .chain([&sender])
        .find(|seat| usize::from(seat.get()) > n)
    {
        return misuse(format!("seat {seat} in a cohort of {n}"));
    }
    if !seats().is_sorted_by(|a, b| a < b) {
        return misuse("holders that are not distinct, in the order of their seats".into());
    }
    if !(2..=holders.len()).contains(&threshold) {
        return misuse(format!(
            "threshold {threshold} is not in 2..={}",
            holders.len()
        ));
    }
    if values.is_empty() {
        return misuse("no values to seal".into());
    }
    Ok(())
}

/// Blocks that are digested as one piece.
const PIECE: usize = 64;

/// SHA-256 of the number of values and of the SHA-256 of every [`PIECE`] blocks of them as they are packed, |v| ≤ B
/// checked on the way: two vectors with one digest have one message. The same on any number of threads.
fn digest_of(
    threads: NonZeroUsize,
    parameters: &Parameters,
    values: &[i64],
) -> Result<Zeroizing<[u8; 32]>> {
    let pieces = values.chunks(PIECE * parameters.values_per_block());
    let threads = threads.get().min(pieces.len()).max(1);
    let mut digests: Vec<Zeroizing<[u8; 32]>> = vec![Zeroizing::default(); pieces.len()];
    let mut pieces = pieces.zip(&mut digests);
    in_order(
        &mut vec![(); threads],
        |_| Ok(pieces.next()),
        |(), (piece, digest)| digest_of_piece(parameters, piece, digest),
        |()| Ok(()),
    )?;
    let mut hasher = Sha256::new_with_prefix((values.len() as u64).to_le_bytes());
    for digest in &digests {
        hasher.update(digest.as_slice());
    }
    Ok(Zeroizing::new(hasher.finalize().into()))
}

fn digest_of_piece(parameters: &Parameters, values: &[i64], digest: &mut [u8; 32]) -> Result<()> {
    let bound = parameters.value_bound();
    let mut hasher = Sha256::new();
    let mut message = Zeroizing::new(vec![0_i64; N]);
    let mut bytes = Zeroizing::new(vec![0_u8; BLOCK_BYTES]);
    for values in values.chunks(parameters.values_per_block()) {
        let within = vectorised(
            #[inline(always)]
            || {
                values
                    .iter()
                    .fold(true, |all, value| all & (value.unsigned_abs() <= bound))
            },
        );
        // Which value is too large is not said: values are private.
        if !within {
            return Err(Error::Misuse(format!(
                "a value is beyond the bound {bound}"
            )));
        }
        pack(parameters, values, &mut message);
        for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(message.iter()) {
            *place = word.to_le_bytes();
        }
        hasher.update(bytes.as_slice());
    }
    hasher.finalize_into(digest.into());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::open_block;
    use crate::threads::BATCH;
    use crate::{KeySum, OneTimeKey, sum_shares};
    use ciphertune_sum::{CohortSize, ValueBound};

    /// Mean and mean square, with the tolerance of six standard deviations of each.
    fn expect_lattice_gaussian(samples: &[i64]) {
        let count = samples.len() as f64;
        let mean = samples.iter().sum::<i64>() as f64 / count;
        let square = samples.iter().map(|x| x * x).sum::<i64>() as f64 / count;
        assert!(mean.abs() < 6.0 * 6.4 / count.sqrt(), "mean {mean}");
        assert!(
            (square - 40.96).abs() < 6.0 * 40.96 * (2.0 / count).sqrt(),
            "variance {square}"
        );
    }

    #[test]
    fn the_digest_of_values_is_of_all_of_them_on_any_number_of_threads() {
        let p = Parameters::derive(CohortSize::new(3).unwrap(), ValueBound::new(2047).unwrap());
        let p = p.unwrap();
        let piece = PIECE * p.values_per_block();
        let mut values: Vec<i64> = (0..2 * piece + 7).map(|i| i as i64 % 4095 - 2047).collect();
        let digest = |threads, values: &[i64]| {
            digest_of(NonZeroUsize::new(threads).unwrap(), &p, values).map(|digest| *digest)
        };
        let whole = digest(1, &values).unwrap();
        for threads in [2, 3, 5] {
            assert_eq!(digest(threads, &values).unwrap(), whole);
        }
        // A zero more packs to the same words.
        values.push(0);
        assert_ne!(digest(2, &values).unwrap(), whole);
        values.pop();
        for at in [0, piece, 2 * piece + 6] {
            values[at] += 1;
            assert_ne!(digest(1, &values).unwrap(), whole, "{at}");
            values[at] = 2048;
            for threads in [1, 2, 3] {
                assert!(matches!(digest(threads, &values), Err(Error::Misuse(_))));
            }
            values[at] = at as i64 % 4095 - 2047;
        }
        assert_eq!(digest(2, &values).unwrap(), whole);
    }

    #[test]
    fn the_key_and_every_blocks_errors_are_fresh_gaussians_on_any_number_of_threads() {
        let p = Parameters::derive(CohortSize::new(2).unwrap(), ValueBound::new(2047).unwrap());
        let (p, context, t) = (p.unwrap(), Context::of_plan(b"gaussian"), 2);
        let mut entropy = Entropy::from_os().unwrap();
        let keys = [(); 2].map(|()| OneTimeKey::generate(&mut entropy).unwrap());
        let seats = keys
            .each_ref()
            .map(|key| SealingKey::parse(&key.public()).unwrap());
        let seats = every_seat(&seats).unwrap();
        let (ring, masks) = (Ring::new(), Masks::of(&context).unwrap());
        let from = seat_at(0).unwrap();
        // Several batches for each of three threads, and a last one that does not reach all.
        for (threads, blocks) in [(1, 8), (3, 6 * BATCH + 3)] {
            let threads = NonZeroUsize::new(threads).unwrap();
            let zeros = vec![0; blocks * p.values_per_block() - 5];
            let mut body = Vec::new();
            let sealed =
                contribute_on(threads, &p, &context, from, t, &seats, &zeros, &mut body).unwrap();
            assert_eq!(sealed.body_sha256, Digest::sha256(&body));
            let share = |at: usize| {
                let (to, sealed) = (seat_at(at).unwrap(), sealed.sealed_shares[at].clone());
                let share = sum_shares(&keys[at], &context, to, &[(from, sealed)]).unwrap();
                (to, share)
            };
            let key = KeySum::rebuild(&p, vec![share(0), share(1)], t, 1).unwrap();
            let centred = |words: &[u64]| -> Vec<i64> {
                words.iter().map(|word| modular::centred(*word)).collect()
            };
            expect_lattice_gaussian(&centred(key.words.expose()));

            let spectrum = ring.spectrum(&key.words);
            let mut errors: Vec<Vec<i64>> = Vec::new();
            for (position, bytes) in body.chunks(BLOCK_BYTES).enumerate() {
                let (mut block, mut words) = (vec![0; N], vec![0; N]);
                codec::decode_words(bytes, &mut block).unwrap();
                masks.fill(position, &mut words);
                open_block(&ring, &spectrum, &block, &mut words);
                errors.push(centred(&words));
            }
            assert_eq!(errors.len(), blocks);
            expect_lattice_gaussian(&errors.concat());
            for (i, one) in errors.iter().enumerate() {
                for other in &errors[..i] {
                    // Independent errors are equal in about 4.4 % of places (1/(2σ√π)).
                    let equal = one.iter().zip(other).filter(|(a, b)| a == b).count();
                    assert!(equal < N / 10, "{equal} equal errors");
                }
            }
        }
    }
}
