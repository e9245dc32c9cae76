use std::io::Write;

use ciphertune_gauss::{DiscreteGaussian, Entropy, Variance};
use ciphertune_round::{Context, Digest, Hasher, ShareIndex, label};
use ciphertune_sum::{BLOCK_BYTES, N, Parameters, SIGMA_SQUARED, codec, modular};
use rand_core::Rng;
use sha2::{Digest as _, Sha256};
use zeroize::{Zeroize, Zeroizing};

use crate::body::{Masks, seal_block};
use crate::one_time_key::Binding;
use crate::ring::{KeySpectrum, Ring};
use crate::secret::SecretBlock;
use crate::{Error, Result, SealingKey, shamir};

/// What a member sends beside its body, and what its header names.
#[derive(Clone, Debug)]
pub struct SealedContribution {
    /// SHA-256 of the body as written.
    pub body_sha256: Digest,
    /// The share of s for each seat, sealed to its key, in the order of the seats.
    pub sealed_shares: Vec<Vec<u8>>,
}

/// Seals `values` for one context: writes the body b_j = a_j·s + e_j + Δ·m_j to `body` block by
/// block, and shares the fresh key s among the seats, any `threshold` of which can help to open
/// a sum.
///
/// s and every e_j are discrete Gaussian (σ = 6.4) from entropy of the operating system, hedged
/// with the context, the sender and SHA-256(values). s exists only inside this call. To be called
/// **once** for a context: a crash or a lost connection is answered with the same bytes again.
///
/// Memory is the shares (32 KiB a seat) and a few blocks, whatever the length. `body` is neither
/// flushed nor synced. After an error, what was written is not to be used.
///
/// # Errors
/// [`Error::Misuse`] when there are no values, a value is beyond B, the seats are not n, the
/// sender has none, or the threshold is not in 2..=n; [`Error::Fault`] when `body` or the
/// operating system fails.
pub fn contribute<W: Write>(
    parameters: &Parameters,
    context: &Context,
    sender: ShareIndex,
    threshold: usize,
    seats: &[SealingKey],
    values: &[i64],
    mut body: W,
) -> Result<SealedContribution> {
    check(parameters, sender, threshold, seats, values)?;
    let digest = Zeroizing::new(digest_of(values));
    let place = sender.get().to_le_bytes();
    let mut entropy = Entropy::hedged(&[context.as_bytes(), &place, digest.as_slice()])?;
    let ring = Ring::new()?;
    let gaussian = lattice_gaussian()?;

    let key = draw_key(&gaussian, &mut entropy);
    let shares = shamir::split(&key, threshold, seats.len(), &mut entropy);
    let spectrum = ring.spectrum(&key);
    drop(key);
    let mut sealed_shares = Vec::with_capacity(seats.len());
    for (position, (share, seat)) in shares.into_iter().zip(seats).enumerate() {
        let recipient = seat_at(position)?;
        let binding = Binding {
            label: label::SEAL_SHARE,
            context,
            roster: None,
            sender,
            recipient,
        };
        sealed_shares.push(seat.seal(&binding, &share, &mut entropy)?);
    }

    let masks = Masks::of(context)?;
    let body_sha256 = write_body(
        parameters,
        &ring,
        &masks,
        &spectrum,
        &gaussian,
        values,
        &mut entropy,
        &mut body,
    )?;
    Ok(SealedContribution {
        body_sha256,
        sealed_shares,
    })
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

/// Encrypts and writes block by block; returns SHA-256 of what was written.
#[allow(clippy::too_many_arguments)] // one straight line, called once
fn write_body<W: Write>(
    parameters: &Parameters,
    ring: &Ring,
    masks: &Masks,
    key: &KeySpectrum,
    gaussian: &DiscreteGaussian,
    values: &[i64],
    rng: &mut impl Rng,
    body: &mut W,
) -> Result<Digest> {
    let mut block = vec![0; N];
    let mut bytes = Vec::with_capacity(BLOCK_BYTES);
    let mut errors = Zeroizing::new(vec![0_i64; N]);
    let mut hasher = Hasher::default();
    for (position, values) in values.chunks(parameters.values_per_block()).enumerate() {
        masks.fill(position, &mut block);
        gaussian.fill(rng, &mut errors);
        seal_block(ring, parameters, key, &errors, values, &mut block);
        bytes.clear();
        codec::encode_words(&block, &mut bytes);
        hasher.update(&bytes);
        body.write_all(&bytes)
            .map_err(|e| Error::Fault(format!("writing the body: {e}")))?;
    }
    Ok(hasher.finish())
}

fn check(
    parameters: &Parameters,
    sender: ShareIndex,
    threshold: usize,
    seats: &[SealingKey],
    values: &[i64],
) -> Result<()> {
    let n = parameters.members();
    let misuse = |what: String| Err(Error::Misuse(what));
    if seats.len() != n {
        return misuse(format!("{} seats for a cohort of {n}", seats.len()));
    }
    if usize::from(sender.get()) > n {
        return misuse(format!("seat {sender} in a cohort of {n}"));
    }
    if !(2..=n).contains(&threshold) {
        return misuse(format!("threshold {threshold} is not in 2..={n}"));
    }
    if values.is_empty() {
        return misuse("no values to seal".into());
    }
    // Which value is too large is not said: values are private.
    let bound = parameters.value_bound();
    if !values
        .iter()
        .fold(true, |all, value| all & (value.unsigned_abs() <= bound))
    {
        return misuse(format!("a value is beyond the bound {bound}"));
    }
    Ok(())
}

/// SHA-256 of the values as little-endian i64.
fn digest_of(values: &[i64]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    let mut bytes = [0_u8; 4096];
    for chunk in values.chunks(bytes.len() / 8) {
        let bytes = &mut bytes[..8 * chunk.len()];
        for (place, value) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(chunk) {
            *place = value.to_le_bytes();
        }
        hasher.update(bytes);
    }
    bytes.zeroize();
    hasher.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body::open_block;
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
    fn the_key_and_every_blocks_errors_are_fresh_gaussians() {
        let p = Parameters::derive(CohortSize::new(2).unwrap(), ValueBound::new(2047).unwrap());
        let (p, context, t) = (p.unwrap(), Context::of_plan(b"gaussian"), 2);
        let mut entropy = Entropy::from_os().unwrap();
        let keys = [(); 2].map(|()| OneTimeKey::generate(&mut entropy).unwrap());
        let seats = keys
            .each_ref()
            .map(|key| SealingKey::parse(&key.public()).unwrap());
        let zeros = vec![0; 8 * p.values_per_block()];
        let mut body = Vec::new();
        let from = seat_at(0).unwrap();
        let sealed = contribute(&p, &context, from, t, &seats, &zeros, &mut body).unwrap();
        assert_eq!(sealed.body_sha256, Digest::sha256(&body));
        let share = |at: usize| {
            let (to, sealed) = (seat_at(at).unwrap(), sealed.sealed_shares[at].clone());
            (
                to,
                sum_shares(&keys[at], &context, to, &[(from, sealed)]).unwrap(),
            )
        };
        let key = KeySum::rebuild(&p, vec![share(0), share(1)], t, 1).unwrap();
        let key_words: Vec<i64> = key
            .words
            .expose()
            .iter()
            .map(|w| modular::centred(*w))
            .collect();
        expect_lattice_gaussian(&key_words);

        let (ring, masks) = (Ring::new().unwrap(), Masks::of(&context).unwrap());
        let spectrum = ring.spectrum(&key.words);
        let mut errors: Vec<Vec<i64>> = Vec::new();
        for (position, bytes) in body.chunks(BLOCK_BYTES).enumerate() {
            let (mut block, mut words) = (vec![0; N], vec![0; N]);
            codec::decode_words(bytes, &mut block).unwrap();
            masks.fill(position, &mut words);
            open_block(&ring, &spectrum, &block, &mut words);
            errors.push(words.iter().map(|word| modular::centred(*word)).collect());
        }
        assert_eq!(errors.len(), 8);
        expect_lattice_gaussian(&errors.concat());
        for pair in errors.windows(2) {
            // Independent errors are equal in about 4.4 % of places (1/(2σ√π)).
            let equal = pair[0].iter().zip(&pair[1]).filter(|(a, b)| a == b).count();
            assert!(equal < N / 10, "{equal} equal errors");
        }
    }
}
