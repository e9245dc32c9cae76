//! Seconds, sampled.

use std::time::{Duration, Instant};

use serde::Serialize;

/// The seconds of each run of one phase.
#[derive(Clone, Debug, Serialize)]
pub struct Samples {
    /// The middle one (the mean of the two in the middle).
    pub median: f64,
    /// The shortest.
    pub least: f64,
    /// All, in order.
    pub samples: Vec<f64>,
}

impl Samples {
    /// Of at least one sample.
    pub fn of(samples: Vec<f64>) -> Self {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (low, high) = (sorted.len().saturating_sub(1) / 2, sorted.len() / 2);
        let at = |place: usize| sorted.get(place).copied().unwrap_or(f64::NAN);
        Self {
            median: (at(low) + at(high)) / 2.0,
            least: at(0),
            samples,
        }
    }
}

/// How often a phase is run: at least so many times, and for at least so long.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Samples.
    pub repeats: u32,
    /// Time.
    pub seconds: f64,
}

impl Effort {
    /// Runs a phase that takes its own time.
    pub fn sample<E>(
        self,
        mut phase: impl FnMut(usize) -> Result<Duration, E>,
    ) -> Result<Samples, E> {
        let started = Instant::now();
        let mut samples = Vec::new();
        while samples.len() < self.repeats as usize
            || started.elapsed().as_secs_f64() < self.seconds
        {
            samples.push(phase(samples.len())?.as_secs_f64());
        }
        Ok(Samples::of(samples))
    }
}

/// What a function gives, and how long it took.
pub fn timed<T>(function: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let given = function();
    (given, started.elapsed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_of_an_odd_and_of_an_even_number() {
        assert_eq!(Samples::of(vec![3.0, 1.0, 2.0]).median, 2.0);
        assert_eq!(Samples::of(vec![4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Samples::of(vec![5.0]).least, 5.0);
    }

    #[test]
    fn a_phase_is_sampled_as_often_and_as_long_as_is_asked() {
        let quick = |_| Ok::<_, ()>(Duration::from_millis(1));
        let effort = Effort {
            repeats: 4,
            seconds: 0.0,
        };
        assert_eq!(effort.sample(quick).unwrap().samples.len(), 4);
        let effort = Effort {
            repeats: 1,
            seconds: 0.01,
        };
        let started = Instant::now();
        assert!(effort.sample(quick).unwrap().samples.len() > 1);
        assert!(started.elapsed().as_secs_f64() >= 0.01);
    }
}
