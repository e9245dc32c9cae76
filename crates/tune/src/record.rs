//! Record-level privacy: every record's own gradient, and a step along what was released.
//!
//! What members share from round to round is the *state*: θ, and after it the optimiser's moments. A round is a step, so
//! the state and the number of the round are all that the next step needs.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use crate::model::RecordGradient;
use crate::optimiser::Optimiser;
use crate::spec::ClipSpace;
use crate::task::Encoded;
use crate::tensors::joined;
use crate::trainer::{Trainer, select};
use crate::{Error, Result};

/// Records that each thread is given at a time: what is between two looks at the clock, or at whoever wants to stop.
const AT_A_TIME: usize = 16;

impl Trainer<'_> {
    /// The length of a record's gradient: in prompt space V·H, and a classifier's
    /// labels·(H + 1); in parameter space that of θ.
    pub fn gradient_dimension(&self) -> usize {
        match self.spec().clip_space {
            ClipSpace::Prompt => self.prompt_dimension() + self.classifier_dimension(),
            ClipSpace::Parameters => self.dimension(),
        }
    }

    /// V·H.
    fn prompt_dimension(&self) -> usize {
        self.encoder().virtual_tokens() * self.model.backbone().hidden()
    }

    /// The state before the first step: [`Trainer::initial_parameters`] of `seed`, and
    /// moments of zero.
    ///
    /// # Errors
    /// [`Error::Fault`] if the tensor library fails.
    pub fn initial_state(&self, seed: u64) -> Result<Vec<f32>> {
        let mut state = self.initial_parameters(seed)?;
        state.resize(self.state_dimension(), 0.0);
        Ok(state)
    }

    /// The length of the state.
    pub fn state_dimension(&self) -> usize {
        self.dimension() * (1 + self.spec().optimiser.moments())
    }

    /// Each record's own gradient at `parameters`: of its loss for its copy of the prompt
    /// embeddings, then for the classifier. What record-level privacy clips, sums and noises:
    /// `each` gets one after the other, in order. Every record runs through the backbone alone: in
    /// company its last bits would depend on who else was drawn, and what is clipped must be
    /// a function of the one record, bit for bit.
    ///
    /// # Errors
    /// What `each` says ends it; [`Error::Misuse`] for an index or a `parameters` that does not
    /// fit.
    pub fn record_gradients<E: From<Error>>(
        &mut self,
        parameters: &[f32],
        data: &Encoded,
        indices: &[usize],
        mut each: impl FnMut(usize, RecordGradient) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some(index) = indices.iter().find(|&&i| i >= data.len()) {
            return Err(Error::Misuse(format!("record {index} of {}", data.len())).into());
        }
        self.model.trainable().assign(parameters)?;
        let model = &self.model;
        let prompt = model.prompt()?;
        let alone = |&index: &usize| -> Result<Vec<RecordGradient>> {
            let mut gradients = model.record_gradients(&select(data, &[index]))?;
            if self.spec().clip_space == ClipSpace::Parameters {
                for gradient in &mut gradients {
                    let (of_prompt, of_classifier) =
                        gradient.values.split_at(self.prompt_dimension());
                    let shape = prompt.embeddings().shape();
                    let of_prompt = Tensor::from_slice(of_prompt, shape, &Device::Cpu)?;
                    let mut slope = joined(&prompt.pull_back(&of_prompt)?)?;
                    slope.extend_from_slice(of_classifier);
                    gradient.values = slope;
                }
            }
            Ok(gradients)
        };
        // A large model keeps its cores busy with one record, and has no memory for more.
        let at_a_time = match model.backbone().is_small() {
            true => AT_A_TIME * rayon::current_num_threads(),
            false => 1,
        };
        for indices in indices.chunks(at_a_time) {
            let gradients: Vec<_> = match indices {
                [one] => vec![alone(one)],
                several => several.par_iter().map(alone).collect(),
            };
            for (&index, gradients) in indices.iter().zip(gradients) {
                for gradient in gradients? {
                    each(index, gradient)?;
                }
            }
        }
        Ok(())
    }

    /// From a gradient in prompt space, classifier behind, to one of θ.
    fn pull_back(&self, parameters: &[f32], gradient: &[f32]) -> Result<Vec<f32>> {
        let (prompt, classifier) = gradient.split_at(self.prompt_dimension());
        let encoder = &parameters[..self.dimension() - self.classifier_dimension()];
        let mut slope = self.encoder().pull_back(encoder, prompt)?;
        slope.extend_from_slice(classifier);
        Ok(slope)
    }

    /// The state after one step of the optimiser along a released gradient (a mean over the
    /// nominal batch, noise and all), pulled back through the encoder from prompt space; alike for
    /// every member: scalar arithmetic in a fixed order, on the CPU, whatever device trains.
    /// `steps` were taken before.
    ///
    /// # Errors
    /// [`Error::Refused`] for a gradient that is not finite; [`Error::Misuse`] for lengths
    /// that do not fit.
    pub fn apply_release(&self, state: &[f32], gradient: &[f32], steps: u64) -> Result<Vec<f32>> {
        if state.len() != self.state_dimension() || gradient.len() != self.gradient_dimension() {
            return Err(Error::Misuse(format!(
                "a state of {} numbers, not {}, or a gradient of {}, not {}",
                state.len(),
                self.state_dimension(),
                gradient.len(),
                self.gradient_dimension()
            )));
        }
        let (parameters, moments) = state.split_at(self.dimension());
        let slope = match self.spec().clip_space {
            ClipSpace::Prompt => self.pull_back(parameters, gradient)?,
            ClipSpace::Parameters => gradient.to_vec(),
        };
        let mut next = parameters.to_vec();
        let spec = self.spec().optimiser;
        let mut optimiser = Optimiser::resumed(spec, next.len(), moments, steps)?;
        optimiser.step(&mut next, &slope, &self.rates(steps, 1))?;
        next.extend(optimiser.moments());
        Ok(next)
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

    fn trainer_in(toy: &Toy, encoder: EncoderSpec, clip_space: ClipSpace) -> Trainer<'_> {
        let spec = TrainingSpec {
            clip_space,
            ..trainer(toy, encoder, Route::Classifier).spec().clone()
        };
        let labels = ["negative", "neutral", "positive"]
            .map(str::to_owned)
            .to_vec();
        let template = Template::parse("{sentence} sentiment: {label}").unwrap();
        let task = Task::new(template, labels, Route::Classifier).unwrap();
        Trainer::new(toy, spec, headline_tokenizer(), task).unwrap()
    }

    fn toy() -> Toy {
        Toy::new(64, 16, 32)
    }

    /// In the order of `indices`.
    fn gradients(
        trainer: &mut Trainer<'_>,
        theta: &[f32],
        data: &Encoded,
        indices: &[usize],
    ) -> Result<Vec<RecordGradient>> {
        let mut found = Vec::new();
        trainer.record_gradients(theta, data, indices, |index, gradient| {
            found.push((index, gradient));
            Ok::<_, Error>(())
        })?;
        found.sort_by_key(|(index, _)| indices.iter().position(|at| at == index));
        Ok(found.into_iter().map(|(_, gradient)| gradient).collect())
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
            let each = gradients(&mut trainer, &theta, &data, &indices).unwrap();
            assert_eq!(each.len(), indices.len());
            for (found, index) in each.iter().zip(indices) {
                let (loss, alone) = trainer.gradient(&select(&data, &[index])).unwrap();
                assert!((found.loss - loss).abs() < 1e-5);
                assert_eq!(found.values.len(), trainer.gradient_dimension());
                assert!(alone.iter().any(|&a| a.abs() > 1e-3));
                for (g, a) in found.values.iter().zip(alone) {
                    assert!((g - a).abs() < 1e-5, "{route:?}, record {index}: {g} {a}");
                }
                // Not one bit of it depends on the company.
                let alone = gradients(&mut trainer, &theta, &data, &[index]).unwrap();
                assert!(alone[0].values == found.values && alone[0].loss == found.loss);
            }
        }
    }

    #[test]
    fn steps_along_summed_record_gradients_lower_the_loss_and_repeat() {
        for encoder in [EncoderSpec::Words, EncoderSpec::Mlp { hidden: 12 }] {
            steps_lower_the_loss(encoder);
        }
    }

    fn steps_lower_the_loss(encoder: EncoderSpec) {
        let toy = toy();
        let mut trainer = trainer(&toy, encoder, Route::Classifier);
        let data = trainer.encode(&headlines()).unwrap();
        let all: Vec<usize> = (0..data.len()).collect();
        let mut run = || {
            let mut state = trainer.initial_state(2).unwrap();
            let dimension = trainer.dimension();
            for step in 0..20 {
                let mut mean = vec![0_f32; trainer.gradient_dimension()];
                for gradient in gradients(&mut trainer, &state[..dimension], &data, &all).unwrap() {
                    mean.iter_mut()
                        .zip(gradient.values)
                        .for_each(|(m, g)| *m += g / 60.0);
                }
                state = trainer.apply_release(&state, &mean, step).unwrap();
            }
            state.truncate(dimension);
            state
        };
        let theta = run();
        assert_eq!(theta, run());
        let start = trainer.initial_parameters(2).unwrap();
        let before = trainer.evaluate(&start, &data).unwrap().loss;
        let after = trainer.evaluate(&theta, &data).unwrap().loss;
        assert!(after < 0.95 * before, "{before} {after}");
    }

    #[test]
    fn in_parameter_space_a_records_gradient_is_pulled_back_before_it_is_clipped() {
        let toy = toy();
        let encoder = EncoderSpec::Mlp { hidden: 8 };
        let mut prompt = trainer(&toy, encoder, Route::Classifier);
        let mut parameters = trainer_in(&toy, encoder, ClipSpace::Parameters);
        let data = prompt.encode(&headlines()).unwrap();
        let state = prompt.initial_state(2).unwrap();
        let theta = &state[..prompt.dimension()];
        assert_eq!(parameters.gradient_dimension(), theta.len());
        assert_ne!(prompt.gradient_dimension(), theta.len());
        for index in [0, 7, 41] {
            let narrow = gradients(&mut prompt, theta, &data, &[index]).unwrap();
            let wide = gradients(&mut parameters, theta, &data, &[index]).unwrap();
            assert_eq!(wide[0].loss, narrow[0].loss);
            let (_, whole) = parameters.gradient(&select(&data, &[index])).unwrap();
            for (g, a) in wide[0].values.iter().zip(&whole) {
                assert!((g - a).abs() < 1e-5, "record {index}: {g} {a}");
            }
            // Of one record, un-noised, both step alike.
            let narrow = prompt.apply_release(&state, &narrow[0].values, 0).unwrap();
            let wide = parameters
                .apply_release(&state, &wide[0].values, 0)
                .unwrap();
            let pairs = narrow.iter().zip(&wide);
            assert!(
                pairs.clone().all(|(n, w)| (n - w).abs() < 1e-5),
                "record {index}"
            );
        }
    }

    #[test]
    fn record_gradients_are_refused_where_they_are_not_defined() {
        let toy = toy();
        let mut plain = trainer(&toy, EncoderSpec::Words, Route::Classifier);
        let data = plain.encode(&headlines()).unwrap();
        let theta = plain.initial_parameters(2).unwrap();
        let outside = gradients(&mut plain, &theta, &data, &[60]);
        assert!(matches!(outside, Err(Error::Misuse(_))));
        // What ends the visits ends the work.
        let mut visits = 0;
        let stopped = plain.record_gradients(&theta, &data, &[0, 1, 2], |_, _| {
            visits += 1;
            Err(Error::Stopped)
        });
        assert!(matches!(stopped, Err(Error::Stopped)) && visits == 1);
    }

    #[test]
    fn a_step_has_these_bits_on_every_machine_and_fits_its_state_alone() {
        let toy = toy();
        let trainer = trainer(&toy, EncoderSpec::Words, Route::Classifier);
        let dimension = trainer.dimension();
        let state: Vec<f32> = (0..trainer.state_dimension())
            .map(|at| (at % 97) as f32 / 97.0 + 0.01)
            .collect();
        let gradient: Vec<f32> = (0..dimension)
            .map(|at| (at % 13) as f32 / 7.0 - 0.9)
            .collect();
        let next = trainer.apply_release(&state, &gradient, 6).unwrap();
        assert_eq!(next.len(), state.len());
        let places = [0, 1, dimension - 1, dimension, 2 * dimension + 5];
        let bits = places.map(|place| next[place].to_bits());
        // Worked out in Python, every operation in double and rounded to single at once, which
        // for + − × ÷ √ is the single operation itself (Figueroa 1995: 53 ≥ 2·24 + 2).
        let expected = [
            0x3C2B_0644,
            0x3CA8_6BC0,
            0x3C9E_F0E9,
            0xBD7F_C48B,
            0x3DD2_5C5A,
        ];
        assert_eq!(bits, expected, "{bits:#010X?}");
        let misuse = |state: &[f32], gradient: &[f32]| {
            matches!(
                trainer.apply_release(state, gradient, 6),
                Err(Error::Misuse(_))
            )
        };
        assert!(misuse(&state[1..], &gradient) && misuse(&state, &gradient[1..]));
        let mut endless = gradient.clone();
        endless[3] = f32::INFINITY;
        let refused = trainer.apply_release(&state, &endless, 6);
        assert!(matches!(refused, Err(Error::Refused(_))));
    }
}
