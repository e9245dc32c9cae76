//! Record-level privacy: every record's own gradient, and a step along what was released.

use crate::batch::evaluation_order;
use crate::optimiser::Optimiser;
use crate::task::Encoded;
use crate::trainer::{Trainer, select};
use crate::{Error, Result};

impl Trainer<'_> {
    /// Each record's own gradient at `parameters`, in θ's order: of its loss for its copy of
    /// the prompt embeddings, then for the classifier. What record-level privacy clips, sums
    /// and noises. Records come back in the order of `indices`, a batch at a time inside.
    ///
    /// # Errors
    /// [`Error::Refused`] for an encoder other than the embeddings themselves;
    /// [`Error::Misuse`] for an index or a `parameters` that does not fit.
    pub fn record_gradients(
        &mut self,
        parameters: &[f32],
        data: &Encoded,
        indices: &[usize],
    ) -> Result<Vec<Vec<f32>>> {
        self.demand_prompt_space()?;
        if let Some(index) = indices.iter().find(|&&i| i >= data.len()) {
            return Err(Error::Misuse(format!("record {index} of {}", data.len())));
        }
        self.model.trainable().assign(parameters)?;
        let lengths: Vec<usize> = indices
            .iter()
            .map(|&i| data.examples()[i].ids.len())
            .collect();
        let mut gradients = vec![Vec::new(); indices.len()];
        for batch in evaluation_order(&lengths, self.spec().batch_size) {
            let chosen: Vec<usize> = batch.iter().map(|&at| indices[at]).collect();
            let each = self.model.record_gradients(&select(data, &chosen))?;
            for (at, gradient) in batch.into_iter().zip(each) {
                gradients[at] = gradient;
            }
        }
        Ok(gradients)
    }

    /// One step of the optimiser along a released gradient (a mean over the policy's nominal
    /// batch, noise and all), in place, alike for every member: scalar arithmetic in a fixed
    /// order, on the CPU, whatever device trains. `state` starts as [`Optimiser::new`] of the
    /// specification's optimiser and goes from release to release.
    ///
    /// # Errors
    /// [`Error::Refused`] for an encoder other than the embeddings themselves;
    /// [`Error::Misuse`] for lengths that differ; [`Error::Fault`] for a gradient not finite.
    pub fn apply_release(
        &self,
        parameters: &mut [f32],
        gradient: &[f32],
        state: &mut Optimiser,
    ) -> Result<()> {
        self.demand_prompt_space()?;
        state.step(parameters, gradient, &self.rates(state.steps(), 1))
    }

    fn demand_prompt_space(&self) -> Result<()> {
        match self.spec().encoder.kind() {
            "embedding" => Ok(()),
            kind => Err(Error::Refused(format!(
                "per-record gradients are taken for the embedding encoder, not {kind}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::SplitMix;
    use crate::spec::{EncoderSpec, TrainingSpec};
    use crate::task::{Route, Task};
    use crate::template::Template;
    use crate::toy::{Toy, headline_tokenizer, headlines};

    fn trainer(toy: &Toy, encoder: EncoderSpec, route: Route) -> Trainer<'_> {
        let spec = TrainingSpec {
            encoder,
            virtual_tokens: 3,
            batch_size: 8,
            ..TrainingSpec::default()
        };
        let template = Template::parse("{sentence} sentiment: {label}").unwrap();
        let labels = ["negative", "neutral", "positive"]
            .map(str::to_owned)
            .to_vec();
        let task = Task::new(template, labels, route).unwrap();
        Trainer::new(toy, spec, headline_tokenizer(), task).unwrap()
    }

    fn toy() -> Toy {
        Toy::new(64, 16, 32)
    }

    #[test]
    fn a_records_gradient_is_the_gradient_of_it_alone() {
        let toy = toy();
        for route in [Route::Classifier, Route::Verbalizer] {
            let mut trainer = trainer(&toy, EncoderSpec::Words, route);
            let data = trainer.encode(&headlines()).unwrap();
            let mut theta = trainer.initial_parameters(2).unwrap();
            let mut random = SplitMix::new(4);
            theta
                .iter_mut()
                .for_each(|t| *t += random.uniform(1, 0.2)[0]);
            let indices = [41, 0, 13, 37, 5, 6, 7, 8, 59, 3];
            let each = trainer.record_gradients(&theta, &data, &indices).unwrap();
            for (gradient, index) in each.iter().zip(indices) {
                let (_, alone) = trainer.gradient(&select(&data, &[index])).unwrap();
                assert_eq!(gradient.len(), trainer.dimension());
                assert!(alone.iter().any(|&a| a.abs() > 1e-3));
                for (g, a) in gradient.iter().zip(alone) {
                    assert!((g - a).abs() < 1e-5, "{route:?}, record {index}: {g} {a}");
                }
            }
        }
    }

    #[test]
    fn steps_along_summed_record_gradients_lower_the_loss_and_repeat() {
        let toy = toy();
        let mut trainer = trainer(&toy, EncoderSpec::Words, Route::Classifier);
        let data = trainer.encode(&headlines()).unwrap();
        let all: Vec<usize> = (0..data.len()).collect();
        let mut run = || {
            let mut theta = trainer.initial_parameters(2).unwrap();
            let mut state = Optimiser::new(trainer.spec().optimiser, theta.len()).unwrap();
            for _ in 0..20 {
                let mut mean = vec![0_f32; theta.len()];
                for gradient in trainer.record_gradients(&theta, &data, &all).unwrap() {
                    mean.iter_mut()
                        .zip(gradient)
                        .for_each(|(m, g)| *m += g / 60.0);
                }
                trainer
                    .apply_release(&mut theta, &mean, &mut state)
                    .unwrap();
            }
            theta
        };
        let theta = run();
        assert_eq!(theta, run());
        let start = trainer.initial_parameters(2).unwrap();
        let before = trainer.evaluate(&start, &data).unwrap().loss;
        let after = trainer.evaluate(&theta, &data).unwrap().loss;
        assert!(after < 0.95 * before, "{before} {after}");
    }

    #[test]
    fn record_gradients_are_refused_where_they_are_not_defined() {
        let toy = toy();
        let mut mlp = trainer(&toy, EncoderSpec::Mlp { hidden: 12 }, Route::Classifier);
        let data = mlp.encode(&headlines()).unwrap();
        let theta = mlp.initial_parameters(2).unwrap();
        let refused = mlp.record_gradients(&theta, &data, &[0]);
        assert!(
            matches!(refused, Err(Error::Refused(_))),
            "{:?}",
            refused.err()
        );
        let mut plain = trainer(&toy, EncoderSpec::Words, Route::Classifier);
        let theta = plain.initial_parameters(2).unwrap();
        let outside = plain.record_gradients(&theta, &data, &[60]);
        assert!(
            matches!(outside, Err(Error::Misuse(_))),
            "{:?}",
            outside.err()
        );
    }
}
