//! Deterministic orders: which records go to whom, which examples meet in a batch.

use crate::random::SplitMix;

impl SplitMix {
    /// The generator of `seed` for one purpose: `parts` (a domain, a round, an epoch …) are
    /// mixed into the seed in order, so that purposes do not share a stream.
    pub fn derived(seed: u64, parts: &[u64]) -> Self {
        let mixed = parts.iter().fold(seed, |state, &part| {
            Self::new(state ^ Self::new(part).word().rotate_left(17)).word()
        });
        Self::new(mixed)
    }

    /// Uniform in 0..n without bias (words under 2⁶⁴ mod n are drawn again); 0 for n = 0.
    pub fn below(&mut self, n: usize) -> usize {
        let n = n as u64;
        if n < 2 {
            return 0;
        }
        let low = n.wrapping_neg() % n;
        loop {
            let word = self.word();
            if word >= low {
                return (word % n) as usize;
            }
        }
    }

    /// Fisher and Yates's shuffle: every order equally likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ranges_are_drawn_evenly() {
        let mut random = SplitMix::derived(1, &[2, 3]);
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[random.below(7)] += 1;
        }
        // Six standard deviations of a binomial(70 000, 1/7) are 556.
        assert!(
            counts.iter().all(|&c| (9_444..10_556).contains(&c)),
            "{counts:?}"
        );
        assert_eq!((random.below(0), random.below(1)), (0, 0));
    }

    #[test]
    fn purposes_have_different_streams() {
        let first = |seed, parts: &[u64]| SplitMix::derived(seed, parts).word();
        assert_ne!(first(0, &[0, 1]), first(0, &[1, 0]));
        assert_ne!(first(0, &[1]), first(1, &[1]));
        assert_ne!(first(0, &[]), first(0, &[0]));
    }

    #[test]
    fn a_shuffle_is_a_permutation() {
        let mut items: Vec<usize> = (0..50).collect();
        SplitMix::new(9).shuffle(&mut items);
        assert_ne!(items, (0..50).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }
}
