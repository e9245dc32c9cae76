//! How long the accountants take.

use ciphertune_dp::{
    FrozenSchedule, SamplingRate,
    accounting::{self, Accountant},
};
use ciphertune_policy::{Adjacency, Decimal};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    options::AccountOptions,
    samples::{Effort, Samples, timed},
};
use crate::{Error, Result};

/// One run of `bench account`.
pub struct Accounts {
    steps: u32,
    epsilon: Decimal,
    delta: Decimal,
    accountants: Vec<Timed>,
}

/// One accountant.
#[derive(Serialize)]
struct Timed {
    accountant: &'static str,
    /// 1 for zcdp, which does not sample.
    sampling_rate: f64,
    noise_multiplier: f64,
    /// The ε that this multiplier reaches.
    reached: f64,
    calibrate_seconds: Samples,
    epsilon_seconds: Samples,
}

/// Calibrates, and accounts for what came out of it, by each accountant.
pub fn measure(options: &AccountOptions) -> Result<Accounts> {
    let accountants = Accountant::ALL
        .into_iter()
        .map(|accountant| one(accountant, options))
        .collect::<Result<_>>()?;
    Ok(Accounts {
        steps: options.steps,
        epsilon: options.epsilon,
        delta: options.delta,
        accountants,
    })
}

fn one(accountant: Accountant, options: &AccountOptions) -> Result<Timed> {
    let rate = match accountant {
        Accountant::Zcdp => SamplingRate::WHOLE,
        Accountant::Rdp | Accountant::Pld(_) => SamplingRate::new(options.sampling_rate)?,
    };
    let effort = Effort {
        repeats: options.repeats,
        seconds: 0.0,
    };
    let (mut multiplier, mut reached) = (Decimal::ZERO, 0.0);
    let calibrate_seconds = effort.sample(|_| {
        let (found, took) = timed(|| {
            accounting::calibrate(
                accountant,
                &options.epsilon,
                &options.delta,
                rate,
                options.steps,
                Adjacency::ZeroOut,
            )
        });
        multiplier = found?;
        Ok::<_, Error>(took)
    })?;
    let schedule = FrozenSchedule::planned(rate, &multiplier, options.steps, Adjacency::ZeroOut)?;
    let epsilon_seconds = effort.sample(|_| {
        let (found, took) = timed(|| accounting::epsilon(accountant, &schedule, &options.delta));
        reached = found?.epsilon.get();
        Ok::<_, Error>(took)
    })?;
    Ok(Timed {
        accountant: accountant.name(),
        sampling_rate: rate.get().to_f64_nearest(),
        noise_multiplier: multiplier.to_f64_nearest(),
        reached,
        calibrate_seconds,
        epsilon_seconds,
    })
}

impl Accounts {
    /// One object; seconds are medians.
    pub fn to_json(&self) -> Value {
        let seconds = |of: fn(&Timed) -> f64| -> serde_json::Map<String, Value> {
            self.accountants
                .iter()
                .map(|timed| (timed.accountant.to_owned(), of(timed).into()))
                .collect()
        };
        json!({
            "steps": self.steps,
            "epsilon": self.epsilon.to_f64_nearest(),
            "delta": self.delta.to_f64_nearest(),
            "calibrate_seconds": seconds(|timed| timed.calibrate_seconds.median),
            "epsilon_seconds": seconds(|timed| timed.epsilon_seconds.median),
            "accountants": self.accountants,
        })
    }

    /// For people.
    pub fn to_table(&self) -> String {
        let head = format!(
            "{} steps, epsilon {} at delta {}, zero-out\n\n",
            self.steps, self.epsilon, self.delta
        );
        self.accountants.iter().fold(head, |text, timed| {
            let Timed {
                accountant,
                sampling_rate,
                noise_multiplier,
                reached,
                calibrate_seconds,
                epsilon_seconds,
            } = timed;
            format!(
                "{text}{accountant:<5} calibrate {:.4} s   one epsilon {:.4} s   \
                 z = {noise_multiplier:.3} at sampling rate {sampling_rate:.4}, reaching {reached:.6}\n",
                calibrate_seconds.median, epsilon_seconds.median
            )
        })
    }
}
