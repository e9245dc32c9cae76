//! One round of three: from seeds to sealed shares, the sum of keys, the opened sum and the agreement.

use std::convert::Infallible;

use ciphertune_round::{Context, Digest, ShareIndex, label};
use ciphertune_sum::{N, Parameters, add_bodies};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{Deserializable, Kem, OpModeS, Serializable};
use rand_chacha::ChaCha12Rng;
use rand_core::{SeedableRng, TryCryptoRng, TryRng};
use serde_json::Value;

use super::{
    array, bytes32, digest, encoded, expect_values, expect_words, key_of, number, pair, parameters,
    points, read, small, text,
};
use crate::body::{Masks, seal_block};
use crate::contribute::seat_at;
use crate::packing::pack;
use crate::ring::Ring;
use crate::secret::SecretBlock;
use crate::{KeySum, KeySumShare, OneTimeKey, check_value, open, shamir, sum_shares};

/// X-Wing's randomness as the vector gives it.
struct Given(Vec<u8>);

impl TryRng for Given {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("only bytes are drawn")
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("only bytes are drawn")
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        let rest = self.0.split_off(bytes.len());
        bytes.copy_from_slice(&std::mem::replace(&mut self.0, rest));
        Ok(())
    }
}

impl TryCryptoRng for Given {}

/// What HPKE seals with that randomness, held to the digest that Python came to.
fn sealed(
    to: &OneTimeKey,
    info: &str,
    associated: &[&[u8]],
    words: &[u64],
    expected: &Value,
) -> Vec<u8> {
    let key = <XWing as Kem>::PublicKey::from_bytes(&to.public()).unwrap();
    let mut randomness = Given(hex::decode(text(&expected["randomness"])).unwrap());
    let (encapped, ciphertext) =
        hpke::single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, XWing>(
            &OpModeS::Base,
            &key,
            info.as_bytes(),
            &encoded(words),
            &associated.concat(),
            &mut randomness,
        )
        .unwrap();
    let bytes = [encapped.to_bytes().as_slice(), &ciphertext].concat();
    assert_eq!(Digest::sha256(&bytes), digest(&expected["sha256"]));
    bytes
}

/// The round as the file gives it, with what follows from it at once.
struct Round {
    vector: Value,
    parameters: Parameters,
    length: usize,
    threshold: usize,
    context: Context,
    roster: Digest,
    keys: Vec<OneTimeKey>,
}

impl Round {
    fn read() -> Self {
        let vector = read("round.json");
        let keys: Vec<OneTimeKey> = array(&vector["contributors"])
            .iter()
            .map(|member| OneTimeKey::from_stored(&bytes32(&member["one_time_key"])).unwrap())
            .collect();
        Self {
            parameters: parameters(&vector),
            length: number(&vector["length"]),
            threshold: number(&vector["threshold"]),
            context: Context::from_digest(digest(&vector["context"])),
            roster: digest(&vector["roster"]),
            keys,
            vector,
        }
    }

    fn members(&self) -> &[Value] {
        array(&self.vector["contributors"])
    }

    fn magnitude(&self) -> u64 {
        number(&self.vector["small_magnitude"])
    }

    fn body(&self, member: &Value) -> Vec<u8> {
        let (ring, masks) = (Ring::new(), Masks::of(&self.context).unwrap());
        let spectrum = ring.spectrum(&key_of(member, self.magnitude()));
        let bound = self.parameters.value_bound();
        let values = small(&member["value_seed"], 0, self.length, bound);
        expect_values(&values, &member["values"]);
        let mut body = Vec::new();
        for (j, values) in values
            .chunks(self.parameters.values_per_block())
            .enumerate()
        {
            let errors = small(&member["error_seed"], j as u64, N, self.magnitude());
            let (mut block, mut message) = (vec![0; N], vec![0; N]);
            masks.fill(j, &mut block);
            pack(&self.parameters, values, &mut message);
            seal_block(&ring, &spectrum, &errors, &message, &mut block);
            body.extend_from_slice(&block);
        }
        expect_words(&body, &member["body"]);
        encoded(&body)
    }

    /// The key shares of a member, as sealed to each seat.
    fn shares(&self, sender: ShareIndex, member: &Value) -> Vec<Vec<u8>> {
        let mut rng = ChaCha12Rng::from_seed(bytes32(&member["coefficient_seed"]));
        let key = key_of(member, self.magnitude());
        let shares = shamir::split(&key, self.threshold, &points(self.keys.len()), &mut rng);
        let words: Vec<&SecretBlock> = shares.iter().collect();
        self.sealed_to_all(label::SEAL_SHARE, &[], sender, &words, &member["shares"])
    }

    fn sealed_to_all(
        &self,
        info: &str,
        roster: &[u8],
        sender: ShareIndex,
        words: &[&SecretBlock],
        expected: &Value,
    ) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        for (at, (words, expected)) in words.iter().zip(array(expected)).enumerate() {
            let (from, to) = (
                sender.get().to_le_bytes(),
                seat_at(at).unwrap().get().to_le_bytes(),
            );
            let associated = [self.context.as_bytes(), roster, &from, &to];
            assert_eq!(number::<u16>(&expected["to"]), u16::from_le_bytes(to));
            all.push(sealed(
                &self.keys[at],
                info,
                &associated,
                words.expose(),
                expected,
            ));
        }
        assert_eq!(all.len(), self.keys.len());
        all
    }

    /// σ_j of every seat, from the shares sealed to it.
    fn key_sum_shares(&self) -> Vec<KeySumShare> {
        let sealed: Vec<(ShareIndex, Vec<Vec<u8>>)> = (self.members().iter().enumerate())
            .map(|(at, member)| {
                (
                    seat_at(at).unwrap(),
                    self.shares(seat_at(at).unwrap(), member),
                )
            })
            .collect();
        let share = |(at, key): (usize, &OneTimeKey)| {
            let to_this: Vec<_> = (sealed.iter())
                .map(|(sender, sealed)| (*sender, sealed[at].clone()))
                .collect();
            let share = sum_shares(key, &self.context, seat_at(at).unwrap(), &to_this).unwrap();
            expect_words(share.words.expose(), &self.members()[at]["key_sum_share"]);
            share
        };
        self.keys.iter().enumerate().map(share).collect()
    }

    /// What the first member opens of what every member released.
    fn released(&self) -> Vec<(ShareIndex, KeySumShare)> {
        let mut opened = Vec::new();
        for (at, share) in self.key_sum_shares().iter().enumerate() {
            let (sender, words) = (seat_at(at).unwrap(), vec![&share.words; self.keys.len()]);
            let roster = self.roster.as_bytes();
            let expected = &self.members()[at]["key_sum_shares"];
            let sealed = self.sealed_to_all(label::SEAL_KEY_SUM, roster, sender, &words, expected);
            for (to, (key, sealed)) in self.keys.iter().zip(&sealed).enumerate() {
                let (recipient, context) = (seat_at(to).unwrap(), &self.context);
                let share =
                    KeySumShare::open(key, context, &self.roster, sender, recipient, sealed);
                let (sender, share) = share.unwrap();
                assert!(share.words.expose() == words[0].expose());
                if to == 0 {
                    opened.push((sender, share));
                }
            }
        }
        opened
    }
}

#[test]
fn one_time_keys_are_those_of_the_vectors() {
    let round = Round::read();
    for (key, member) in round.keys.iter().zip(round.members()) {
        assert_eq!(
            Digest::sha256(&key.public()),
            digest(&member["public_key_sha256"])
        );
    }
}

#[test]
fn a_whole_round_comes_to_what_the_vectors_say() {
    let round = Round::read();
    let (p, length) = (&round.parameters, round.length);
    let bodies: Vec<Vec<u8>> = round.members().iter().map(|m| round.body(m)).collect();
    let checks: Vec<_> = bodies
        .iter()
        .map(|body| check_value(p, length, &round.roster, body.as_slice()).unwrap())
        .collect();
    for (check, member) in checks.iter().zip(round.members()) {
        assert_eq!(*check, pair(&member["check_value"]));
    }
    let mut sum = Vec::new();
    let mut readers: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    add_bodies(p, length, &mut readers, &mut sum).unwrap();
    let sum_digest = digest(&round.vector["sum"]["sha256"]);
    assert_eq!(Digest::sha256(&sum), sum_digest);

    let key = KeySum::rebuild(p, round.released(), round.threshold, bodies.len()).unwrap();
    assert!(key.disagreeing().is_empty());
    expect_words(key.words.expose(), &round.vector["key_sum"]);
    let (opened, _) = open(
        p,
        length,
        &round.context,
        &round.roster,
        &key,
        bodies.len(),
        &checks,
        &sum_digest,
        sum.as_slice(),
    )
    .unwrap();
    expect_values(&opened.into_values(), &round.vector["opened"]);
    // The vector's errors add up to the very largest sum that opens.
    assert_eq!(
        number::<u64>(&round.vector["largest_residual"]),
        p.error_bound(3)
    );

    let model = digest(&round.vector["model"]);
    assert_eq!(
        key.agreement_key()
            .unwrap()
            .agreement(&round.context, &model),
        digest(&round.vector["agreement"])
    );
}
