//! How long it takes to make an update private: clip and quantise, then noise, by production's code.

use ciphertune_dp::{Clipped, Mechanism, MechanismSpec};
use ciphertune_gauss::Entropy;
use ciphertune_policy::{Adjacency, Placement, Unit};
use serde_json::{Value, json};

use super::{
    options::PrivatiseOptions,
    samples::{Effort, Samples, timed},
    values::values,
};
use crate::{Error, Result};

/// One run of `bench privatise`.
pub struct Privatised {
    mechanism: Mechanism,
    clip: Samples,
    noise: Samples,
    /// Of the whole, a sample each.
    whole: Samples,
    zeroed_share: f64,
}

/// Clips, quantises and noises a vector twice as long as the clip, on one thread.
pub fn measure(options: &PrivatiseOptions) -> Result<Privatised> {
    let dimension =
        usize::try_from(options.parameters).map_err(|error| Error::Usage(error.to_string()))?;
    let mechanism = Mechanism::derive(&MechanismSpec {
        unit: Unit::Institution,
        adjacency: Adjacency::ZeroOut,
        placement: Placement::Distributed,
        clip_norm: options.clip_norm,
        noise_multiplier: options.noise_multiplier,
        scale_log2: None,
        value_bits: options.value_bits,
        min_contributors: options.members,
        colluders: 1,
        dimension,
        max_examples: 1,
    })?;
    let update = update(dimension, 2.0 * options.clip_norm.to_f64_up());
    let mut entropy = Entropy::from_os().map_err(|error| Error::Fault(error.to_string()))?;
    let effort = Effort {
        repeats: options.repeats,
        seconds: 0.0,
    };
    let (mut clip, mut noise, mut zeroed_share) = (Vec::new(), Vec::new(), 0.0);
    let whole = effort.sample(|_| {
        let (clipped, clipping) = timed(|| Clipped::new(&update, &mechanism));
        let (clipped, report) = clipped?;
        zeroed_share = report.zeroed_share;
        let (noised, noising) = timed(|| clipped.add_noise(&mechanism, &mut entropy));
        drop(noised?);
        clip.push(clipping.as_secs_f64());
        noise.push(noising.as_secs_f64());
        Ok::<_, Error>(clipping + noising)
    })?;
    Ok(Privatised {
        mechanism,
        clip: Samples::of(clip),
        noise: Samples::of(noise),
        whole,
        zeroed_share,
    })
}

/// A vector of this length in L2, its coordinates alike in distribution.
fn update(dimension: usize, norm: f64) -> Vec<f32> {
    const BOUND: u64 = (1 << 24) - 1;
    // Uniform over −B..=B: a mean square of B²/3.
    let unit = norm / (dimension as f64 / 3.0).sqrt() / BOUND as f64;
    values(0, dimension, BOUND)
        .map(|value| (value as f64 * unit) as f32)
        .collect()
}

impl Privatised {
    fn standard_deviation(&self) -> f64 {
        let variance = self.mechanism.share_variance();
        variance.map_or(0.0, |variance| variance.standard_deviation())
    }

    /// One object; seconds are medians.
    pub fn to_json(&self) -> Value {
        let dimension = self.mechanism.dimension() as f64;
        json!({
            "parameters": self.mechanism.dimension(),
            "seconds": self.whole.median,
            "per_second": dimension / self.whole.median,
            "clip_seconds": self.clip,
            "noise_seconds": self.noise,
            "whole_seconds": self.whole,
            "noise_standard_deviation": self.standard_deviation(),
            "value_bound": self.mechanism.value_bound(),
            "zeroed_share": self.zeroed_share,
            "noise_to_signal": self.mechanism.noise_to_signal(),
            "threads": 1,
        })
    }

    /// For people.
    pub fn to_table(&self) -> String {
        let dimension = self.mechanism.dimension() as f64;
        let line = |what: &str, samples: &Samples| {
            format!(
                "{what:<18} {:>8.3} s {:>8.1} M/s\n",
                samples.median,
                dimension / samples.median / 1e6
            )
        };
        format!(
            "{} parameters, one thread; noise of {:.1} integer units a coordinate, value bound {}; {:.1} % rounded to 0\n\n{}{}{}",
            self.mechanism.dimension(),
            self.standard_deviation(),
            self.mechanism.value_bound(),
            100.0 * self.zeroed_share,
            line("clip and quantise", &self.clip),
            line("noise", &self.noise),
            line("both", &self.whole)
        )
    }
}
