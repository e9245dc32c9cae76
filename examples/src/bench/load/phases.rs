//! What each phase took each member.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

/// One member's part in one job.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timed {
    /// Its answer to the job.
    pub admit: Duration,
    /// Waiting for the plan: for all others' answers.
    pub plan: Duration,
    /// Header and shares.
    pub shares: Duration,
    /// Header, shares and body.
    pub contribute: Duration,
    /// Waiting for the roster: for all others' bodies, and their sum.
    pub roster: Duration,
    /// Its echo, and those of the threshold.
    pub echo: Duration,
    /// Its release, those of the threshold, and all shares.
    pub release: Duration,
    /// The sum.
    pub sum: Duration,
    /// Echo, release and sum.
    pub open: Duration,
    /// Its agreement.
    pub agree: Duration,
    /// When it began and ended to contribute.
    pub contributed: Option<(Instant, Instant)>,
}

/// How a phase is called, and where it stands.
pub type Phase = (&'static str, fn(&Timed) -> Duration);

/// Every phase.
pub const PHASES: [Phase; 10] = [
    ("admit", |timed| timed.admit),
    ("plan", |timed| timed.plan),
    ("shares", |timed| timed.shares),
    ("contribute", |timed| timed.contribute),
    ("roster", |timed| timed.roster),
    ("echo", |timed| timed.echo),
    ("release", |timed| timed.release),
    ("sum", |timed| timed.sum),
    ("open", |timed| timed.open),
    ("agree", |timed| timed.agree),
];

/// Seconds that half of the members, and 99 of 100, were done in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiles {
    /// Half.
    pub p50: f64,
    /// 99 of 100.
    pub p99: f64,
}

/// Of one phase over all parts.
pub fn quantiles(timed: &[Timed], of: fn(&Timed) -> Duration) -> Quantiles {
    let mut seconds: Vec<f64> = timed.iter().map(|it| of(it).as_secs_f64()).collect();
    seconds.sort_by(f64::total_cmp);
    // The smallest that so many are not above.
    let at = |percent: usize| {
        let rank = (seconds.len() * percent).div_ceil(100).max(1);
        seconds.get(rank - 1).copied().unwrap_or(f64::NAN)
    };
    Quantiles {
        p50: at(50),
        p99: at(99),
    }
}

/// Of every phase.
pub fn to_json(timed: &[Timed]) -> Value {
    let phases = PHASES.map(|(name, of)| {
        let Quantiles { p50, p99 } = quantiles(timed, of);
        (name.to_owned(), json!({ "p50": p50, "p99": p99 }))
    });
    Value::Object(Map::from_iter(phases))
}

/// From the first that began to contribute to the last that was done, seconds.
pub fn upload_seconds(timed: &[Timed]) -> f64 {
    let spans = || timed.iter().filter_map(|it| it.contributed);
    let (first, last) = (
        spans().map(|(began, _)| began).min(),
        spans().map(|(_, ended)| ended).max(),
    );
    first
        .zip(last)
        .map_or(f64::NAN, |(first, last)| (last - first).as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_and_all_but_one_in_a_hundred_are_counted_by_rank() {
        let timed: Vec<Timed> = (1..=200)
            .map(|seconds| Timed {
                sum: Duration::from_secs(seconds),
                ..Timed::default()
            })
            .collect();
        let found = quantiles(&timed, |it| it.sum);
        assert_eq!((found.p50, found.p99), (100.0, 198.0));
        let one = quantiles(&timed[..1], |it| it.sum);
        assert_eq!((one.p50, one.p99), (1.0, 1.0));
    }
}
