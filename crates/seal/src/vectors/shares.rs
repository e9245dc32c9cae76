//! A key to its shares, back again, and to the digest of an agreement.

use ciphertune_round::{Context, ShareIndex};
use ciphertune_sum::{CohortSize, Parameters, Q, ValueBound};
use rand_chacha::ChaCha12Rng;
use rand_core::SeedableRng;

use super::{array, bytes32, digest, expect_words, key_of, number, points, read};
use crate::contribute::seat_at;
use crate::{KeySum, KeySumShare, shamir};

#[test]
fn shares_the_key_and_the_agreement_are_those_of_the_vectors() {
    let vector = read("shares.json");
    let (t, n) = (number(&vector["threshold"]), number(&vector["members"]));
    let mut rng = ChaCha12Rng::from_seed(bytes32(&vector["coefficient_seed"]));
    let secret = key_of(&vector, number(&vector["small_magnitude"]));
    let mut shares: Vec<(ShareIndex, KeySumShare)> =
        shamir::split(&secret, t, &points(n), &mut rng)
            .into_iter()
            .enumerate()
            .map(|(i, words)| (seat_at(i).unwrap(), KeySumShare { words }))
            .collect();
    for ((point, share), expected) in shares.iter().zip(array(&vector["shares"])) {
        assert_eq!(point.get(), number::<u16>(&expected["point"]));
        expect_words(share.words.expose(), expected);
    }
    let from: Vec<u16> = array(&vector["rebuild_from"])
        .iter()
        .map(number::<u16>)
        .collect();
    shares.retain(|(point, _)| from.contains(&point.get()));
    let p = Parameters::derive(CohortSize::new(n).unwrap(), ValueBound::new(2047).unwrap());
    let key = KeySum::rebuild(&p.unwrap(), shares, t, 1).unwrap();
    expect_words(key.words.expose(), &vector["key"]);
    assert!(key.words.expose().iter().all(|word| *word < Q));

    let agreement = &vector["agreement"];
    let context = Context::from_digest(digest(&agreement["context"]));
    let model = digest(&agreement["model"]);
    let agreed = key.agreement_key().unwrap().agreement(&context, &model);
    assert_eq!(agreed, digest(&agreement["digest"]));
}
