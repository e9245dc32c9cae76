//! What hiding single records costs a training step: one step over a batch as usual, and one in which every record's
//! gradient is taken and clipped alone, the sum noised, by production's code.

use std::sync::atomic::AtomicBool;

use candle_core::Device;
use ciphertune_dp::{ExampleSum, Mechanism, MechanismSpec};
use ciphertune_gauss::Entropy;
use ciphertune_policy::{Adjacency, Decimal, Placement, Unit};
use ciphertune_tune::{
    backbone,
    data::{Dataset, Schema},
    spec::{ClipSpace, EncoderSpec, TrainingSpec},
    task::{Route, Task},
    template::Template,
    tokenizer::Tokenizer,
    trainer::Trainer,
};
use serde_json::{Value, json};

use super::{
    options::StepOptions,
    samples::{Samples, timed},
};
use crate::{Error, Result, setup::one_step_a_round};

/// One run of `bench step`.
pub struct Steps {
    records: usize,
    numbers: usize,
    plain: Samples,
    by_record: Samples,
    /// The part of `by_record` that is not training.
    clip_and_noise: Samples,
}

/// Takes steps of both kinds over the same records, one after the other in turn.
pub fn measure(options: &StepOptions) -> Result<Steps> {
    let backbone = backbone::load(&options.model, &Device::Cpu)?;
    let tokenizer = Tokenizer::load(&options.model.join("tokenizer.json"))?;
    let data = Dataset::read(&options.data, &Schema::default())?;
    let labels: Vec<String> = data.counts().into_keys().collect();
    let task = Task::new(Template::parse("{sentence}")?, labels, Route::Classifier)?;
    // The whole batch is one step.
    let spec = TrainingSpec {
        batch_size: options.batch,
        local_epochs: 1,
        encoder: match options.mlp {
            Some(hidden) => EncoderSpec::Mlp { hidden },
            None => EncoderSpec::Words,
        },
        clip_space: match options.in_parameter_space {
            true => ClipSpace::Parameters,
            false => ClipSpace::Prompt,
        },
        ..one_step_a_round()
    };
    let mut trainer = Trainer::new(&*backbone, spec, tokenizer, task)?;
    let records = data.into_records();
    let records = records.get(..options.batch).ok_or_else(|| {
        Error::Usage(format!(
            "a batch of {} of {} records",
            options.batch,
            records.len()
        ))
    })?;
    let batch = trainer.encode(records)?;
    let state = trainer.initial_state(0)?;
    let parameters = &state[..trainer.dimension()];
    let mechanism = mechanism(trainer.gradient_dimension(), options.batch)?;
    let mut entropy = Entropy::from_os().map_err(|error| Error::fault("entropy", error))?;
    let everybody: Vec<usize> = (0..options.batch).collect();
    let go = AtomicBool::new(false);

    let (mut plain, mut by_record, mut clip_and_noise) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.repeats {
        let (step, taken) = timed(|| trainer.train(parameters, &batch, 0, &mut |_| {}, &go));
        step?;
        plain.push(taken.as_secs_f64());

        let mut aside = 0.0;
        let (step, taken) = timed(|| -> Result<()> {
            let mut sum = ExampleSum::new(&mechanism);
            trainer.record_gradients(parameters, &batch, &everybody, |_, gradient| {
                let (added, taken) = timed(|| sum.add(&gradient.values));
                aside += taken.as_secs_f64();
                added.map_err(Error::from)
            })?;
            let (noised, taken) = timed(|| sum.finish().0.add_noise(&mechanism, &mut entropy));
            aside += taken.as_secs_f64();
            drop(noised?);
            // As long as a mean of the noised sums would be.
            let mean = vec![1e-3; trainer.gradient_dimension()];
            trainer.apply_release(&state, &mean, 0)?;
            Ok(())
        });
        step?;
        by_record.push(taken.as_secs_f64());
        clip_and_noise.push(aside);
    }
    Ok(Steps {
        records: options.batch,
        numbers: trainer.gradient_dimension(),
        plain: Samples::of(plain),
        by_record: Samples::of(by_record),
        clip_and_noise: Samples::of(clip_and_noise),
    })
}

/// That of three members under policies/record-epsilon-8.toml.
fn mechanism(dimension: usize, batch: usize) -> Result<Mechanism> {
    Ok(Mechanism::derive(&MechanismSpec {
        unit: Unit::Record,
        adjacency: Adjacency::ZeroOut,
        placement: Placement::Distributed,
        clip_norm: Decimal::ONE,
        noise_multiplier: "0.936".parse()?,
        scale_log2: None,
        value_bits: 24,
        min_contributors: 3,
        colluders: 0,
        dimension,
        max_examples: batch,
    })?)
}

impl Steps {
    fn ratio(&self) -> f64 {
        self.by_record.median / self.plain.median
    }

    /// One object; seconds are medians with their samples.
    pub fn to_json(&self) -> Value {
        json!({
            "records": self.records,
            "numbers": self.numbers,
            "plain_seconds": self.plain,
            "by_record_seconds": self.by_record,
            "clip_and_noise_seconds": self.clip_and_noise,
            "ratio": self.ratio(),
        })
    }

    /// For people.
    pub fn to_table(&self) -> String {
        format!(
            "a step over {} records, {} numbers a gradient\n\n\
             plain, as one batch          {:>8.3} s\n\
             record by record             {:>8.3} s, {:.2} times as long\n\
             of which clipping and noise  {:>8.4} s\n",
            self.records,
            self.numbers,
            self.plain.median,
            self.by_record.median,
            self.ratio(),
            self.clip_and_noise.median
        )
    }
}
