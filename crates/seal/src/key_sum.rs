use ciphertune_gauss::Entropy;
use ciphertune_round::{ShareIndex, label};
use ciphertune_sum::{N, Parameters, modular};
use hkdf::Hkdf;
use rand_core::Rng;
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::check::inner_product;
use crate::key_sum_share::refuse_duplicates;
use crate::secret::SecretBlock;
use crate::shamir::{Lagrange, combine};
use crate::words::uniform_words;
use crate::{AgreementKey, Check, Error, KeySumShare, Result};

/// How many t-subsets of the shares are tried at most: all of them up to here, else as many at
/// random. A subset of garbage is turned away after [`PROBE`] words.
const MAX_TRIES: usize = 4096;

/// How many different sums of the right size are held at most.
const MAX_CANDIDATES: usize = 16;

/// Words of S that decide whether the rest is worth computing: garbage passes with probability
/// below (2·1822/q)⁴ < 2⁻²⁰⁰.
const PROBE: usize = 4;

/// S = Σ_{i∈U} s_i, the sum of the contributors' keys: it opens the sum of their bodies and
/// nothing else.
pub struct KeySum {
    pub(crate) words: SecretBlock,
    disagreeing: Vec<ShareIndex>,
}

impl KeySum {
    /// Rebuilds S from at least `threshold` key-sum shares of one roster with `contributors`
    /// members (Lagrange at 0): the first of the [`candidates`](Self::candidates), if it is the
    /// only one that as many shares agree on.
    ///
    /// # Errors
    /// As [`candidates`](Self::candidates); [`Check::KeySum`] too when two different sums are
    /// agreed on equally.
    pub fn rebuild(
        parameters: &Parameters,
        shares: Vec<(ShareIndex, KeySumShare)>,
        threshold: usize,
        contributors: usize,
    ) -> Result<Self> {
        let mut candidates =
            Self::candidates(parameters, &shares, threshold, contributors)?.into_iter();
        let best = candidates.next().ok_or(Error::Failed(Check::KeySum))?;
        let tied = candidates
            .next()
            .is_some_and(|n| n.disagreeing.len() == best.disagreeing.len());
        if tied {
            Err(Error::Failed(Check::KeySum))
        } else {
            Ok(best)
        }
    }

    /// Every S that some t of the shares give and that has the right size, best first.
    ///
    /// A right S is recognised by its size: |S| ≤ 9·σ·√|U| in every coefficient. Surplus shares
    /// must lie on the same polynomials; with garbage among them other t-subsets are tried (all,
    /// or 4,096 at random). A share that is not garbage but bent by a little can give a second
    /// sum of the right size; [`open`](crate::open) tells which is right, so a caller tries them
    /// in turn before it voids the attempt. Almost always there is one.
    ///
    /// # Errors
    /// [`Error::Refused`] with fewer than `threshold` shares; [`Error::Misuse`] when a seat is
    /// named twice or is outside the cohort, or the numbers do not fit it; [`Error::Failed`] with
    /// [`Check::KeySum`] when no tried subset gives an S of that size.
    pub fn candidates(
        parameters: &Parameters,
        shares: &[(ShareIndex, KeySumShare)],
        threshold: usize,
        contributors: usize,
    ) -> Result<Vec<Self>> {
        let n = parameters.members();
        if !(2..=n).contains(&threshold) || !(1..=n).contains(&contributors) {
            return Err(Error::Misuse(format!(
                "threshold {threshold} and {contributors} contributors in a cohort of {n}"
            )));
        }
        refuse_duplicates(shares.iter().map(|(seat, _)| *seat))?;
        if let Some((seat, _)) = shares.iter().find(|(seat, _)| usize::from(seat.get()) > n) {
            return Err(Error::Misuse(format!(
                "a share of seat {seat} in a cohort of {n}"
            )));
        }
        if shares.len() < threshold {
            return Err(Error::Refused(format!(
                "it takes {threshold} shares of the key sum to open, and {} are here",
                shares.len()
            )));
        }
        let bound = parameters.error_bound(contributors);
        Search::new(shares, threshold, bound)?.run()
    }

    /// The seats whose shares disagreed with S. Garbage, or made with the help of a contributor
    /// whose sealed shares were: nobody can be blamed for certain.
    #[must_use]
    pub fn disagreeing(&self) -> &[ShareIndex] {
        &self.disagreeing
    }

    /// HKDF-SHA-256(S, "agree"): keys the digests by which members agree on a model.
    ///
    /// # Errors
    /// [`Error::Fault`], not expected: HKDF gives 32 bytes.
    pub fn agreement_key(&self) -> Result<AgreementKey> {
        let mut key = AgreementKey::zero();
        Hkdf::<Sha256>::new(Some(label::AGREE.as_bytes()), &self.words.to_bytes())
            .expand(b"agree", key.expose_mut())
            .map_err(|_| Error::Fault("HKDF gave no key".into()))?;
        Ok(key)
    }
}

/// The search for the t-subset whose S is right.
struct Search<'a> {
    shares: &'a [(ShareIndex, KeySumShare)],
    threshold: usize,
    bound: u64,
    /// (⟨r₁, σ_j⟩, ⟨r₂, σ_j⟩) for secret random r₁, r₂: points that lie on one polynomial of
    /// degree t − 1 exactly when all N words of the shares do, but for probability 2⁻¹²⁷.
    projections: Vec<Zeroizing<[u64; 2]>>,
    entropy: Entropy,
}

impl<'a> Search<'a> {
    fn new(shares: &'a [(ShareIndex, KeySumShare)], threshold: usize, bound: u64) -> Result<Self> {
        let mut entropy = Entropy::from_os()?;
        let mut r = Zeroizing::new(vec![0; 2 * N]);
        uniform_words(&mut entropy, &mut r);
        let (r1, r2) = r.split_at(N);
        let project = |(_, share): &(ShareIndex, KeySumShare)| {
            let words = share.words.expose();
            Zeroizing::new([inner_product(r1, words), inner_product(r2, words)])
        };
        let projections = shares.iter().map(project).collect();
        Ok(Self {
            shares,
            threshold,
            bound,
            projections,
            entropy,
        })
    }

    /// Two polynomials of degree t − 1 that each meet all but ⌊(m − t)/2⌋ of m shares are equal,
    /// so a sum as good as that is the only one. Otherwise all that the tries give, best first.
    fn run(mut self) -> Result<Vec<KeySum>> {
        let (m, t) = (self.shares.len(), self.threshold);
        let exhaustive = subsets_at_most(m, t, MAX_TRIES);
        let mut subset: Vec<usize> = (0..t).collect();
        let mut found: Vec<KeySum> = Vec::new();
        for _ in 0..MAX_TRIES {
            if !found.iter().any(|key| self.meets(key, &subset))
                && let Some(key) = self.try_subset(&subset)
            {
                if key.disagreeing.len() <= (m - t) / 2 {
                    return Ok(vec![key]);
                }
                found.push(key);
            }
            if found.len() == MAX_CANDIDATES {
                break;
            }
            if exhaustive {
                if !next_subset(&mut subset, m) {
                    break;
                }
            } else {
                self.random_subset(&mut subset);
            }
        }
        found.sort_by_key(|key| key.disagreeing.len());
        if found.is_empty() {
            Err(Error::Failed(Check::KeySum))
        } else {
            Ok(found)
        }
    }

    /// Whether a whole subset agrees with a sum: then it can give no other.
    fn meets(&self, key: &KeySum, subset: &[usize]) -> bool {
        subset
            .iter()
            .all(|i| !key.disagreeing.contains(&self.shares[*i].0))
    }

    /// S of one subset, if it has the right size.
    fn try_subset(&self, subset: &[usize]) -> Option<KeySum> {
        let lagrange = Lagrange::through(subset.iter().map(|i| self.point(*i)).collect());
        let chosen: Vec<&SecretBlock> = subset.iter().map(|i| &self.shares[*i].1.words).collect();
        let at_zero = lagrange.coefficients_at(0);
        let mut words = SecretBlock::zero();
        combine(&at_zero, &chosen, &mut words.expose_mut()[..PROBE]);
        if !within(&words.expose()[..PROBE], self.bound) {
            return None;
        }
        combine(&at_zero, &chosen, words.expose_mut());
        if !within(words.expose(), self.bound) {
            return None;
        }
        let disagreeing = (0..self.shares.len())
            .filter(|i| !subset.contains(i) && !self.agrees(&lagrange, subset, *i))
            .map(|i| self.shares[i].0)
            .collect();
        Some(KeySum { words, disagreeing })
    }

    /// Whether the share at `index` lies on the polynomials through the subset.
    fn agrees(&self, lagrange: &Lagrange, subset: &[usize], index: usize) -> bool {
        let coefficients = lagrange.coefficients_at(self.point(index));
        let mut expected = [0; 2];
        for (&coefficient, &i) in coefficients.iter().zip(subset) {
            for (sum, &word) in expected.iter_mut().zip(self.projections[i].iter()) {
                *sum = modular::add(*sum, modular::mul(coefficient, word));
            }
        }
        // The outcome is public, and the projections are blinded by r: no need for constant time.
        expected == *self.projections[index]
    }

    fn point(&self, index: usize) -> u64 {
        self.shares[index].0.get().into()
    }

    /// A uniformly drawn t-subset (Floyd), up to the negligible bias of a 64-bit remainder.
    fn random_subset(&mut self, subset: &mut Vec<usize>) {
        let m = self.shares.len();
        subset.clear();
        for last in m - self.threshold..m {
            let drawn = (self.entropy.next_u64() % (last as u64 + 1)) as usize;
            subset.push(if subset.contains(&drawn) { last } else { drawn });
        }
    }
}

/// |S_i| ≤ bound for every word, without an early exit.
fn within(words: &[u64], bound: u64) -> bool {
    words.iter().fold(true, |all, word| {
        all & (modular::centred(*word).unsigned_abs() <= bound)
    })
}

/// Whether C(m, t) ≤ limit.
fn subsets_at_most(m: usize, t: usize, limit: usize) -> bool {
    let mut count = 1_u128;
    for i in 0..t.min(m - t) {
        count = count * (m - i) as u128 / (i as u128 + 1);
        if count > limit as u128 {
            return false;
        }
    }
    true
}

/// The next t-subset of 0..m in lexicographic order; false after the last.
fn next_subset(subset: &mut [usize], m: usize) -> bool {
    let t = subset.len();
    let Some(place) = (0..t).rev().find(|place| subset[*place] < m - t + place) else {
        return false;
    };
    subset[place] += 1;
    for later in place + 1..t {
        subset[later] = subset[later - 1] + 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contribute::{draw_key, lattice_gaussian, seat_at};
    use crate::shamir;
    use ciphertune_gauss::insecure::InsecureEntropy;
    use ciphertune_round::{Context, Digest};
    use ciphertune_sum::{CohortSize, ValueBound};

    struct Dealt {
        parameters: Parameters,
        key: SecretBlock,
        shares: Vec<(ShareIndex, KeySumShare)>,
    }

    fn deal(n: usize, t: usize) -> Dealt {
        let bound = ValueBound::new(2047).unwrap();
        let parameters = Parameters::derive(CohortSize::new(n).unwrap(), bound).unwrap();
        let mut rng = InsecureEntropy::from_seed(n as u64);
        let key = draw_key(&lattice_gaussian().unwrap(), &mut rng);
        let points: Vec<u64> = (1..=n as u64).collect();
        let words = shamir::split(&key, t, &points, &mut rng);
        let share = |(i, words)| (seat_at(i).unwrap(), KeySumShare { words });
        Dealt {
            parameters,
            key,
            shares: words.into_iter().enumerate().map(share).collect(),
        }
    }

    impl Dealt {
        fn spoil(&mut self, position: usize) {
            let words = self.shares[position].1.words.expose_mut();
            uniform_words(&mut InsecureEntropy::from_seed(99), words);
        }

        fn rebuild(self, t: usize) -> Result<(Vec<u16>, bool)> {
            let sum = KeySum::rebuild(&self.parameters, self.shares, t, 1)?;
            let right = sum.words.expose() == self.key.expose();
            Ok((
                sum.disagreeing.iter().map(|seat| seat.get()).collect(),
                right,
            ))
        }
    }

    fn failed<T>(result: Result<T>) -> bool {
        matches!(result, Err(Error::Failed(Check::KeySum)))
    }

    #[test]
    fn shares_without_surplus_give_the_key() {
        assert_eq!(deal(3, 3).rebuild(3).unwrap(), (vec![], true));
        let mut dealt = deal(7, 5);
        dealt.shares.drain(1..3);
        assert_eq!(dealt.rebuild(5).unwrap(), (vec![], true));
    }

    #[test]
    fn garbage_among_surplus_shares_is_passed_over_and_named() {
        for spoilt in 0..4 {
            let mut dealt = deal(4, 3);
            dealt.spoil(spoilt);
            assert_eq!(dealt.rebuild(3).unwrap(), (vec![spoilt as u16 + 1], true));
        }
        let mut dealt = deal(7, 5);
        dealt.spoil(0);
        dealt.spoil(4);
        assert_eq!(dealt.rebuild(5).unwrap(), (vec![1, 5], true));
    }

    #[test]
    fn garbage_among_many_is_passed_over_by_random_subsets() {
        let mut dealt = deal(24, 13);
        assert!(!subsets_at_most(24, 13, MAX_TRIES));
        for spoilt in [0, 5, 12] {
            dealt.spoil(spoilt);
        }
        assert_eq!(dealt.rebuild(13).unwrap(), (vec![1, 6, 13], true));
    }

    #[test]
    fn garbage_without_surplus_fails() {
        let mut dealt = deal(3, 3);
        dealt.spoil(1);
        assert!(failed(dealt.rebuild(3)));
        let mut dealt = deal(4, 3);
        dealt.spoil(1);
        dealt.spoil(2);
        assert!(failed(dealt.rebuild(3)));
    }

    #[test]
    fn one_changed_word_is_seen_though_it_is_beyond_the_probe() {
        let mut dealt = deal(3, 3);
        dealt.shares[2].1.words.expose_mut()[N - 1] ^= 1 << 40;
        assert!(failed(dealt.rebuild(3)));
    }

    #[test]
    fn a_share_bent_to_a_small_wrong_key_is_outvoted() {
        // λ₁ at 0 for nodes 1, 2, 3 is 3: adding 1/3 to share 1 shifts that subset's S by 1.
        let mut dealt = deal(5, 3);
        let word = &mut dealt.shares[0].1.words.expose_mut()[0];
        *word = modular::add(*word, modular::inv(3));
        assert_eq!(dealt.rebuild(3).unwrap(), (vec![1], true));
        // With one share of surplus the wrong S meets as many shares as the right one: both are
        // candidates, and only opening can tell.
        let mut dealt = deal(4, 3);
        let word = &mut dealt.shares[0].1.words.expose_mut()[0];
        *word = modular::add(*word, modular::inv(3));
        let candidates = KeySum::candidates(&dealt.parameters, &dealt.shares, 3, 1).unwrap();
        let right = candidates
            .iter()
            .filter(|sum| sum.words.expose() == dealt.key.expose());
        assert_eq!((candidates.len(), right.count()), (2, 1));
        assert!(failed(dealt.rebuild(3)));
    }

    #[test]
    fn swapped_shares_fail() {
        let mut dealt = deal(3, 2);
        dealt.shares.truncate(2);
        let (one, two) = dealt.shares.split_at_mut(1);
        std::mem::swap(&mut one[0].1, &mut two[0].1);
        assert!(failed(dealt.rebuild(2)));
    }

    #[test]
    fn too_few_shares_are_refused_with_the_numbers() {
        let mut dealt = deal(4, 3);
        dealt.shares.truncate(2);
        let error = dealt.rebuild(3).unwrap_err().to_string();
        assert!(error.contains('3') && error.contains('2'), "{error}");
    }

    #[test]
    fn a_seat_named_twice_or_outside_the_cohort_is_misuse() {
        let mut dealt = deal(3, 2);
        dealt.shares[1].0 = dealt.shares[0].0;
        assert!(matches!(dealt.rebuild(2), Err(Error::Misuse(_))));
        let mut dealt = deal(3, 2);
        dealt.shares[1].0 = ShareIndex::new(4).unwrap();
        assert!(matches!(dealt.rebuild(2), Err(Error::Misuse(_))));
        assert!(matches!(deal(3, 2).rebuild(1), Err(Error::Misuse(_))));
    }

    #[test]
    fn every_subset_is_tried_once() {
        let mut subset = vec![0, 1, 2];
        let mut all = vec![subset.clone()];
        while next_subset(&mut subset, 6) {
            all.push(subset.clone());
        }
        assert_eq!(all.len(), 20);
        all.dedup();
        assert_eq!(all.len(), 20);
        assert!(subsets_at_most(6, 3, 20) && !subsets_at_most(6, 3, 19));
        assert!(subsets_at_most(1000, 1000, 1) && !subsets_at_most(1000, 500, usize::MAX));
    }

    #[test]
    fn agreements_are_equal_for_one_key_context_and_model_only() {
        let agree = |n: usize, plan: &[u8], model: &[u8]| {
            let dealt = deal(n, 2);
            let key = KeySum::rebuild(&dealt.parameters, dealt.shares, 2, 1).unwrap();
            key.agreement_key()
                .unwrap()
                .agreement(&Context::of_plan(plan), &Digest::sha256(model))
        };
        let one = agree(3, b"plan", b"model");
        assert_eq!(one, agree(3, b"plan", b"model"));
        assert_ne!(one, agree(4, b"plan", b"model"));
        assert_ne!(one, agree(3, b"plan 2", b"model"));
        assert_ne!(one, agree(3, b"plan", b"model 2"));
    }
}
