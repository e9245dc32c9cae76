//! Pauses between tries: they double, and each is drawn, so that a thousand members that lost one server do not come back at once.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(15);

/// Exponential back-off with full jitter: the k-th pause is uniform in [0, min(½ s·2^k, 15 s)] (M. Brooker, "Exponential
/// Backoff And Jitter", AWS Architecture Blog, 2015: of the variants compared, the fewest calls until all are served).
#[derive(Debug)]
pub struct Backoff {
    span: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { span: FIRST }
    }
}

impl Backoff {
    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        // Nothing secret: a system without entropy has fellows wait alike.
        let drawn = getrandom::u32().unwrap_or(u32::MAX / 2);
        let pause = self.span.mul_f64(f64::from(drawn) / f64::from(u32::MAX));
        self.span = (self.span * 2).min(LONGEST);
        pause
    }

    /// Waits for it.
    pub async fn wait(&mut self) {
        tokio::time::sleep(self.pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_differ() {
        let pauses = |count: usize| -> Vec<Duration> {
            let mut backoff = Backoff::default();
            (0..count).map(|_| backoff.pause()).collect()
        };
        for _ in 0..100 {
            for (k, pause) in pauses(12).into_iter().enumerate() {
                assert!(pause <= LONGEST.min(FIRST * (1 << k)), "{k}: {pause:?}");
            }
        }
        // A thousand members that were lost together: nowhere do more than a few come back at once.
        let mut firsts: Vec<u128> = (0..1_000).map(|_| pauses(1)[0].as_millis() / 25).collect();
        firsts.sort_unstable();
        let busiest = firsts.chunk_by(|a, b| a == b).map(<[_]>::len).max();
        assert!(
            busiest < Some(120),
            "{busiest:?} of 1,000 in 25 ms; 50 expected"
        );
    }
}
