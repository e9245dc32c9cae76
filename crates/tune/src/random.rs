//! Numbers that start a parameter: the same bits from the same seed on every machine.

/// SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators",
/// OOPSLA 2014). For initial weights only: it is no source of secrets or of privacy noise.
pub struct SplitMix(u64);

impl SplitMix {
    /// The generator that `seed` names.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// One sample of U[0, 1), 53 bits.
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// `count` samples of U[−bound, bound).
    pub fn uniform(&mut self, count: usize, bound: f64) -> Vec<f32> {
        (0..count)
            .map(|_| ((2.0 * self.unit() - 1.0) * bound) as f32)
            .collect()
    }

    /// `count` samples of N(0, deviation²), by Box and Muller's transform in f64 with the
    /// pure-Rust `libm`, so that no system library decides a bit.
    pub fn normal(&mut self, count: usize, deviation: f64) -> Vec<f32> {
        (0..count)
            .map(|_| {
                let radius = libm::sqrt(-2.0 * libm::log(1.0 - self.unit()));
                let angle = 2.0 * std::f64::consts::PI * self.unit();
                (deviation * radius * libm::cos(angle)) as f32
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_first_words_come_out() {
        // https://prng.di.unimi.it/splitmix64.c, seed 1234567.
        let mut words = SplitMix::new(1_234_567);
        assert_eq!(words.word(), 6_457_827_717_110_365_317);
        assert_eq!(words.word(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn samples_have_the_moments_they_claim() {
        let normal = SplitMix::new(7).normal(20_000, 0.5);
        let mean = normal.iter().map(|&x| f64::from(x)).sum::<f64>() / 20_000.0;
        let variance = normal.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / 20_000.0;
        assert!(mean.abs() < 0.02, "mean {mean}");
        assert!((variance - 0.25).abs() < 0.02, "variance {variance}");
        let uniform = SplitMix::new(7).uniform(20_000, 0.25);
        assert!(uniform.iter().all(|x| x.abs() <= 0.25));
        assert!(uniform.iter().any(|x| *x > 0.24) && uniform.iter().any(|x| *x < -0.24));
    }
}
