//! The second, independent opening: tfhe's own decryption of one block.

use ciphertune_sum::{N, Q};
use subtle::ConstantTimeEq;
use tfhe::core_crypto::prelude::{
    CiphertextModulus, GlweCiphertext, GlweSecretKey, PlaintextList, PolynomialSize,
    decrypt_glwe_ciphertext,
};
use zeroize::Zeroizing;

use crate::secret::SecretBlock;

/// Whether tfhe opens (mask, body) under `key` to the same words b − a·s as `opened`.
///
/// The GLWE parameters are k = 1, N = 4096 and the custom modulus q. tfhe is lent a view of the
/// key: its own key type would print, clone and serialise itself and is never wiped. (Its Karatsuba
/// product leaves intermediate sums in freed memory; they are out of our reach.)
pub(crate) fn tfhe_agrees(key: &SecretBlock, mask: &[u64], body: &[u64], opened: &[u64]) -> bool {
    let mut decrypted = Zeroizing::new(vec![0; N]);
    tfhe_decrypt(key, mask, body, &mut decrypted);
    decrypted.as_slice().ct_eq(opened).into()
}

fn tfhe_decrypt(key: &SecretBlock, mask: &[u64], body: &[u64], out: &mut [u64]) {
    let ciphertext = GlweCiphertext::from_container(
        [mask, body].concat(),
        PolynomialSize(N),
        CiphertextModulus::new(u128::from(Q)),
    );
    let key = GlweSecretKey::from_container(key.expose(), PolynomialSize(N));
    decrypt_glwe_ciphertext(&key, &ciphertext, &mut PlaintextList::from_container(out));
}

#[cfg(test)]
mod tests {
    use ciphertune_gauss::Entropy;
    use ciphertune_round::Context;
    use ciphertune_sum::{CohortSize, Parameters, ValueBound, modular};
    use rand_core::Rng;
    use tfhe::core_crypto::commons::generators::DeterministicSeeder;
    use tfhe::core_crypto::commons::math::random::Seed;
    use tfhe::core_crypto::prelude::{
        DefaultRandomGenerator, EncryptionRandomGenerator, Gaussian, GlweSize, StandardDev,
        encrypt_glwe_ciphertext,
    };

    use super::*;
    use crate::body::{Masks, open_block, seal_block};
    use crate::contribute::{draw_key, lattice_gaussian};
    use crate::packing::{add_packed, pack, unpack};
    use crate::ring::Ring;

    fn parameters() -> Parameters {
        Parameters::derive(CohortSize::new(3).unwrap(), ValueBound::new(2047).unwrap()).unwrap()
    }

    fn some_values(p: &Parameters, rng: &mut impl Rng) -> Vec<i64> {
        (0..p.values_per_block())
            .map(|_| (rng.next_u64() % 4095) as i64 - 2047)
            .collect()
    }

    #[test]
    fn tfhe_opens_a_block_of_ours_to_the_same_words() {
        let (p, ring, gaussian) = (parameters(), Ring::new(), lattice_gaussian().unwrap());
        let mut rng = Entropy::from_os().unwrap();
        let key = draw_key(&gaussian, &mut rng);
        let spectrum = ring.spectrum(&key);
        let mut mask = vec![0; N];
        Masks::of(&Context::of_plan(b"tfhe"))
            .unwrap()
            .fill(3, &mut mask);
        let mut errors = vec![0; N];
        gaussian.fill(&mut rng, &mut errors);
        let values = some_values(&p, &mut rng);
        let (mut body, mut message) = (mask.clone(), vec![0; N]);
        pack(&p, &values, &mut message);
        seal_block(&ring, &spectrum, &errors, &message, &mut body);

        let mut expected: Vec<u64> = errors.iter().map(|e| modular::from_i64(*e)).collect();
        add_packed(&p, &values, &mut expected);
        let mut decrypted = vec![0; N];
        tfhe_decrypt(&key, &mask, &body, &mut decrypted);
        assert!(decrypted == expected);
        assert!(tfhe_agrees(&key, &mask, &body, &expected));
        expected[N - 1] ^= 1;
        assert!(!tfhe_agrees(&key, &mask, &body, &expected));
    }

    #[test]
    fn a_body_that_tfhe_encrypts_is_opened_by_ours() {
        let (p, ring, gaussian) = (parameters(), Ring::new(), lattice_gaussian().unwrap());
        let mut rng = Entropy::from_os().unwrap();
        let key = draw_key(&gaussian, &mut rng);
        let values = some_values(&p, &mut rng);
        let mut message = vec![0; N];
        add_packed(&p, &values, &mut message);

        let mut seeder = DeterministicSeeder::<DefaultRandomGenerator>::new(Seed(1));
        let mut generator =
            EncryptionRandomGenerator::<DefaultRandomGenerator>::new(Seed(2), &mut seeder);
        let noise = Gaussian::from_dispersion_parameter(StandardDev(6.4 / 2_f64.powi(64)), 0.0);
        let modulus = CiphertextModulus::new(u128::from(Q));
        let mut ciphertext = GlweCiphertext::new(0_u64, GlweSize(2), PolynomialSize(N), modulus);
        encrypt_glwe_ciphertext(
            &GlweSecretKey::from_container(key.expose(), PolynomialSize(N)),
            &mut ciphertext,
            &PlaintextList::from_container(message),
            noise,
            &mut generator,
        );

        let words = ciphertext.into_container();
        let (mask, body) = words.split_at(N);
        let mut opened = mask.to_vec();
        open_block(&ring, &ring.spectrum(&key), body, &mut opened);
        let mut found_values = vec![0; values.len()];
        let found = unpack(&p, &opened, &mut found_values);
        assert_eq!(found_values, values);
        assert!(
            found.residual <= p.error_bound(1) && found.residual > 0,
            "{}",
            found.residual
        );
        assert_eq!(found.beyond, 0);
    }
}
