use ciphertune_gauss::Entropy;
use ciphertune_round::{AGREEMENT_KEY_BYTES, Digest, Parcel, label};
use zeroize::Zeroizing;

use crate::{AgreementKey, Check, Error, OneTimeKey, Result, SealingKey};

/// Seals a state, and the key of the agreement on it, to the member that asked: encapsulated key ‖ ciphertext ‖ tag over
/// key ‖ state as little-endian f32, bound to the digest of the request (and so to its context, model and sender).
///
/// # Errors
/// [`Error::Fault`] when HPKE does not seal.
pub fn seal_parcel(
    to: &SealingKey,
    request: &Digest,
    key: &AgreementKey,
    parameters: &[f32],
    entropy: &mut Entropy,
) -> Result<Vec<u8>> {
    let mut plain = Zeroizing::new(Vec::with_capacity(
        AGREEMENT_KEY_BYTES + size_of_val(parameters),
    ));
    plain.extend_from_slice(key.expose());
    parameters
        .iter()
        .for_each(|x| plain.extend_from_slice(&x.to_le_bytes()));
    to.seal_bytes(label::SEAL_PARCEL, &plain, request.as_bytes(), entropy)
}

/// Opens what [`seal_parcel`] made for the same request. Whoever sealed it may have put anything into it: hold it to
/// what was agreed on.
///
/// # Errors
/// [`Error::Malformed`] when it has not the size of `length` parameters; [`Error::Failed`] with [`Check::Parcel`] when
/// it was sealed to another key or for another request, or altered.
pub fn open_parcel(
    with: &OneTimeKey,
    request: &Digest,
    length: usize,
    sealed: &[u8],
) -> Result<(AgreementKey, Vec<f32>)> {
    let bytes = Parcel::sealed_bytes(length as u64);
    if sealed.len() as u64 != bytes {
        return Err(Error::Malformed(format!(
            "a parcel of {} bytes, not {bytes}",
            sealed.len()
        )));
    }
    let plain = with
        .open_bytes(label::SEAL_PARCEL, sealed, request.as_bytes())?
        .ok_or(Error::Failed(Check::Parcel))?;
    let (key, parameters) = plain
        .split_at_checked(AGREEMENT_KEY_BYTES)
        .ok_or(Error::Failed(Check::Parcel))?;
    let (words, _) = parameters.as_chunks::<4>();
    Ok((
        AgreementKey::parse(key)?,
        words.iter().map(|word| f32::from_le_bytes(*word)).collect(),
    ))
}

#[cfg(test)]
mod tests {
    use ciphertune_round::Context;

    use super::*;

    #[test]
    fn a_parcel_opens_for_its_key_and_request_only_and_keeps_every_bit() {
        let mut entropy = Entropy::from_os().unwrap();
        let key = OneTimeKey::generate(&mut entropy).unwrap();
        let to = SealingKey::parse(&key.public()).unwrap();
        let request = Digest::sha256(b"request");
        let agreement = AgreementKey::parse(&[7; AGREEMENT_KEY_BYTES]).unwrap();
        let theta = [0.5, -0.0, f32::MIN_POSITIVE, f32::from_bits(1), f32::NAN];
        let sealed = seal_parcel(&to, &request, &agreement, &theta, &mut entropy).unwrap();
        assert_eq!(sealed.len() as u64, Parcel::sealed_bytes(5));

        let (found, opened) = open_parcel(&key, &request, 5, &sealed).unwrap();
        assert!(
            opened
                .iter()
                .map(|x| x.to_bits())
                .eq(theta.map(f32::to_bits))
        );
        let (context, model) = (Context::of_plan(b"plan"), Digest::sha256(b"model"));
        assert_eq!(
            found.agreement(&context, &model),
            agreement.agreement(&context, &model)
        );

        let other = OneTimeKey::generate(&mut entropy).unwrap();
        let failed = |opened: Result<_>| matches!(opened, Err(Error::Failed(Check::Parcel)));
        assert!(failed(open_parcel(&other, &request, 5, &sealed).map(drop)));
        let elsewhere = Digest::sha256(b"another request");
        assert!(failed(open_parcel(&key, &elsewhere, 5, &sealed).map(drop)));
        for place in [0, 1_120, sealed.len() - 1] {
            let mut altered = sealed.clone();
            altered[place] ^= 1;
            assert!(failed(open_parcel(&key, &request, 5, &altered).map(drop)));
        }
        let malformed = |opened: Result<_>| matches!(opened, Err(Error::Malformed(_)));
        assert!(malformed(open_parcel(&key, &request, 4, &sealed).map(drop)));
        assert!(malformed(
            open_parcel(&key, &request, 5, &sealed[1..]).map(drop)
        ));
    }
}
