//! A run of p-tuning on one machine: epochs, early stop, and a state from which a run that was killed goes on to the same
//! bits.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::batch::training_order;
use crate::evaluate::Evaluation;
use crate::optimiser::Optimiser;
use crate::random::SplitMix;
use crate::task::Encoded;
use crate::trainer::{ORDER, Trainer, select};
use crate::{Error, Result};

/// How long a run goes on. Everything else is the trainer's specification, whose `local_epochs` are the run's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Patience {
    /// Ends after so many evaluations in a row without a lower validation loss, and the best model is kept; none: never.
    pub evaluations: Option<u32>,
    /// Optimiser steps between evaluations; none: one at the end of each epoch.
    pub evaluate_every: Option<u64>,
}

/// What a run learns from.
#[derive(Clone, Copy)]
pub struct Data<'d> {
    /// Examples to train on.
    pub training: &'d Encoded,
    /// Examples to validate with; none: the last θ is the one that counts.
    pub validation: Option<&'d Encoded>,
}

/// Where a run stands between two steps: all that the rest of it depends on, besides specification and data.
#[derive(Clone, PartialEq)]
pub struct State {
    /// θ.
    pub parameters: Vec<f32>,
    /// The optimiser's moments.
    pub moments: Vec<f32>,
    /// θ at the lowest validation loss; empty before the first evaluation.
    pub best: Vec<f32>,
    /// The rest.
    pub place: Place,
}

/// The small part of a [`State`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Optimiser steps taken.
    pub steps: u64,
    /// The epoch under way, from 0.
    pub epoch: u32,
    /// Batches of it that are done.
    pub batch: usize,
    /// Loss summed over the examples of the epoch so far.
    pub epoch_loss: f64,
    /// Validation, oldest first, each with the step after which it was.
    pub history: Vec<(u64, Evaluation)>,
    /// Training loss of each finished epoch.
    pub epoch_losses: Vec<f64>,
    /// The position in `history` of the lowest loss.
    pub best: Option<usize>,
    /// Whether the run is over.
    pub ended: Option<Ending>,
}

/// Why a run is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// Every epoch is done.
    Finished,
    /// Validation got no better for as long as was to be waited.
    StoppedEarly,
}

/// Training that a killed run may lose.
const KEEP_EVERY: Duration = Duration::from_secs(30);

/// What a run tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'e> {
    /// A step was taken.
    Step {
        /// Steps so far, of `steps`.
        step: u64,
        /// Steps of the whole run.
        steps: u64,
        /// The epoch, from 0.
        epoch: u32,
        /// Mean loss of the step's batch.
        loss: f64,
        /// Tokens of it, virtual ones included.
        tokens: usize,
        /// How long it took.
        took: Duration,
    },
    /// The model was evaluated on the validation data.
    Evaluated {
        /// After so many steps.
        step: u64,
        /// What was found.
        found: &'e Evaluation,
        /// Whether it is the best so far.
        best: bool,
    },
}

impl State {
    /// Before the first step, at θ.
    pub fn new(trainer: &Trainer<'_>, parameters: Vec<f32>) -> Self {
        let moments = trainer.spec().optimiser.moments() * parameters.len();
        Self {
            parameters,
            moments: vec![0.0; moments],
            best: Vec::new(),
            place: Place::default(),
        }
    }

    /// θ that a run ends with: the best that validation saw, where there was any.
    pub fn chosen(&self) -> &[f32] {
        match self.best.is_empty() {
            true => &self.parameters,
            false => &self.best,
        }
    }

    /// The evaluation of [`State::chosen`].
    pub fn found(&self) -> Option<&Evaluation> {
        let (_, found) = self.place.history.get(self.place.best?)?;
        Some(found)
    }
}

impl Trainer<'_> {
    /// Goes on from `state` to the end of the last epoch, or until patience ends. `keep` is given the state after every
    /// epoch and every evaluation, twice a minute, and when `stop` is set, and is what makes a killed run one that can go on.
    ///
    /// # Errors
    /// [`Error::Stopped`] where `stop` is set, after `keep`; [`Error::Misuse`] for no data or a state that does not fit;
    /// [`Error::Refused`] where training diverges; what `keep` says ends the run.
    pub fn run<E: From<Error>>(
        &mut self,
        state: &mut State,
        patience: &Patience,
        data: Data<'_>,
        observer: &mut dyn FnMut(Event<'_>),
        keep: &mut dyn FnMut(&State) -> Result<(), E>,
        stop: &AtomicBool,
    ) -> Result<(), E> {
        let Data {
            training: data,
            validation,
        } = data;
        if data.is_empty() {
            return Err(Error::Misuse("no example to train on".to_owned()).into());
        }
        self.trainable().assign(&state.parameters)?;
        let (batch_size, epochs) = (self.spec().batch_size, self.spec().local_epochs);
        let lengths = data.lengths();
        let per_epoch = lengths.len().div_ceil(batch_size);
        let steps = per_epoch * epochs as usize;
        let place = &state.place;
        let stands = u64::from(place.epoch) * per_epoch as u64 + place.batch as u64;
        if place.batch >= per_epoch
            || stands != place.steps
            || (place.ended.is_none() && place.epoch >= epochs)
        {
            return Err(Error::Malformed(format!(
                "a run's state that stands at batch {} of {per_epoch} in epoch {} of {epochs}, after {} steps",
                place.batch, place.epoch, place.steps
            ))
            .into());
        }
        let mut optimiser = Optimiser::resumed(
            self.spec().optimiser,
            self.dimension(),
            &state.moments,
            state.place.steps,
        )?;
        let mut kept = Instant::now();
        while state.place.ended.is_none() {
            let parts = [ORDER, 0, u64::from(state.place.epoch)];
            let mut random = SplitMix::derived(self.spec().seed, &parts);
            let order = training_order(&lengths, batch_size, &mut random);
            for indices in order.iter().skip(state.place.batch) {
                if stop.load(Ordering::Relaxed) {
                    state.moments = optimiser.moments().collect();
                    keep(state)?;
                    return Err(Error::Stopped.into());
                }
                let start = Instant::now();
                let (loss, gradient) = self.gradient(&select(data, indices))?;
                let rates = self.rates_over(state.place.steps, steps as u64);
                optimiser.step(&mut state.parameters, &gradient, &rates)?;
                self.trainable().assign(&state.parameters)?;
                let place = &mut state.place;
                place.steps = optimiser.steps();
                place.batch += 1;
                place.epoch_loss += loss * indices.len() as f64;
                observer(Event::Step {
                    step: place.steps,
                    steps: steps as u64,
                    epoch: place.epoch,
                    loss,
                    tokens: indices.iter().map(|&i| lengths[i]).sum::<usize>()
                        + indices.len() * self.spec().virtual_tokens,
                    took: start.elapsed(),
                });
                let ends = place.batch == order.len();
                if ends {
                    place
                        .epoch_losses
                        .push(place.epoch_loss / data.len() as f64);
                    place.epoch_loss = 0.0;
                    place.batch = 0;
                    place.epoch += 1;
                    if place.epoch >= epochs {
                        place.ended = Some(Ending::Finished);
                    }
                }
                let due = match patience.evaluate_every {
                    Some(every) => place.steps.is_multiple_of(every.max(1)),
                    None => ends,
                } || place.ended.is_some();
                if let Some(validation) = validation.filter(|_| due) {
                    self.measure(state, patience, validation, observer)?;
                }
                if due || ends || kept.elapsed() > KEEP_EVERY {
                    kept = Instant::now();
                    state.moments = optimiser.moments().collect();
                    keep(state)?;
                }
                if state.place.ended.is_some() {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Evaluates, remembers the best, and ends a run whose patience is over.
    fn measure(
        &mut self,
        state: &mut State,
        patience: &Patience,
        validation: &Encoded,
        observer: &mut dyn FnMut(Event<'_>),
    ) -> Result<()> {
        let found = self.evaluate(&state.parameters, validation)?;
        if !found.loss.is_finite() {
            return Err(Error::Refused(format!(
                "the validation loss is {}: the training diverged; lower the learning rate",
                found.loss
            )));
        }
        let place = &mut state.place;
        let lowest = place.best.and_then(|at| place.history.get(at));
        let better = lowest.is_none_or(|(_, lowest)| found.loss < lowest.loss);
        observer(Event::Evaluated {
            step: place.steps,
            found: &found,
            best: better,
        });
        place.history.push((place.steps, found));
        let last = place.history.len() - 1;
        if better {
            place.best = Some(last);
            state.best.clone_from(&state.parameters);
        } else if let (Some(best), Some(most)) = (place.best, patience.evaluations)
            && last - best >= most as usize
            && place.ended.is_none()
        {
            place.ended = Some(Ending::StoppedEarly);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{EncoderSpec, TrainingSpec};
    use crate::task::{Route, Task};
    use crate::template::Template;
    use crate::toy::{Toy, headline_tokenizer, headlines};

    fn trainer<'a>(toy: &'a Toy, rate: f64) -> Trainer<'a> {
        let template = Template::parse("{sentence} sentiment: {label}").unwrap();
        let labels = ["negative", "neutral", "positive"].map(str::to_owned);
        let task = Task::new(template, labels.to_vec(), Route::Verbalizer).unwrap();
        let spec = TrainingSpec {
            encoder: EncoderSpec::Mlp { hidden: 12 },
            prompt_rate: rate,
            batch_size: 7,
            local_epochs: 3,
            ..TrainingSpec::default()
        };
        Trainer::new(toy, spec, headline_tokenizer(), task).unwrap()
    }

    /// Runs until `last` steps are done, or to the end, and says what was kept.
    fn run(
        trainer: &mut Trainer<'_>,
        state: &mut State,
        patience: &Patience,
        last: u64,
    ) -> (Result<()>, Option<State>) {
        let training = trainer.encode(&headlines()[..50]).unwrap();
        let validation = trainer.encode(&headlines()[50..]).unwrap();
        let data = Data {
            training: &training,
            validation: Some(&validation),
        };
        let stop = AtomicBool::new(last == 0);
        let mut kept = None;
        let ended = trainer.run(
            state,
            patience,
            data,
            &mut |event| {
                if let Event::Step { step, .. } = event {
                    stop.store(step >= last, Ordering::Relaxed);
                }
            },
            &mut |state| {
                kept = Some(state.clone());
                Ok::<_, Error>(())
            },
            &stop,
        );
        (ended, kept)
    }

    #[test]
    fn a_run_that_was_stopped_anywhere_goes_on_to_the_same_bits() {
        let toy = Toy::new(64, 16, 32);
        let mut trainer = trainer(&toy, 0.02);
        let start = trainer.initial_parameters(1).unwrap();
        let patience = Patience {
            evaluations: None,
            evaluate_every: Some(5),
        };
        let mut straight = State::new(&trainer, start.clone());
        run(&mut trainer, &mut straight, &patience, 999).0.unwrap();
        assert_eq!((straight.place.steps, straight.place.epoch), (24, 3));
        assert_eq!(straight.place.ended, Some(Ending::Finished));
        // Every fifth step, and the last.
        assert_eq!(straight.place.history.len(), 5);
        for last in [0, 1, 4, 5, 8, 13, 16, 23] {
            let mut state = State::new(&trainer, start.clone());
            let (stopped, kept) = run(&mut trainer, &mut state, &patience, last);
            assert!(matches!(stopped, Err(Error::Stopped)), "{last}");
            let mut state = kept.unwrap();
            assert_eq!(state.place.steps, last);
            run(&mut trainer, &mut state, &patience, 999).0.unwrap();
            assert!(state == straight, "stopped after {last}");
        }
        let mut again = straight.clone();
        run(&mut trainer, &mut again, &patience, 999).0.unwrap();
        assert!(again == straight);
    }

    #[test]
    fn patience_ends_a_run_that_gets_no_better_and_the_best_is_kept() {
        let toy = Toy::new(64, 16, 32);
        // So fast that validation soon suffers.
        let mut trainer = trainer(&toy, 1.0);
        let start = trainer.initial_parameters(1).unwrap();
        let patience = Patience {
            evaluations: Some(2),
            evaluate_every: Some(1),
        };
        let mut state = State::new(&trainer, start);
        run(&mut trainer, &mut state, &patience, 999).0.unwrap();
        assert_eq!(state.place.ended, Some(Ending::StoppedEarly));
        let losses: Vec<f64> = state
            .place
            .history
            .iter()
            .map(|(_, found)| found.loss)
            .collect();
        let best = state.place.best.unwrap();
        assert_eq!(losses.len(), best + 3, "{losses:?}");
        assert!(losses.iter().all(|loss| *loss >= losses[best]));
        let validation = trainer.encode(&headlines()[50..]).unwrap();
        let found = trainer.evaluate(state.chosen(), &validation).unwrap();
        assert_eq!(Some(&found), state.found());
    }

    #[test]
    fn a_state_that_contradicts_itself_and_training_that_diverges_are_refused() {
        let toy = Toy::new(64, 16, 32);
        let mut trainer = trainer(&toy, 0.02);
        let start = trainer.initial_parameters(1).unwrap();
        for (epoch, batch, steps) in [(0, 8, 8), (0, 3, 4), (3, 0, 24), (0, 0, u64::MAX)] {
            let mut state = State::new(&trainer, start.clone());
            state.place = Place {
                epoch,
                batch,
                steps,
                ..Place::default()
            };
            let (refused, _) = run(&mut trainer, &mut state, &Patience::default(), 999);
            assert!(
                matches!(refused, Err(Error::Malformed(_))),
                "{epoch} {batch}"
            );
        }
        let mut endless = State::new(&trainer, vec![f32::NAN; start.len()]);
        let (refused, kept) = run(&mut trainer, &mut endless, &Patience::default(), 999);
        assert!(matches!(refused, Err(Error::Refused(_))) && kept.is_none());
    }

    #[test]
    fn a_state_of_another_shape_is_misuse() {
        let toy = Toy::new(64, 16, 32);
        let mut trainer = trainer(&toy, 0.02);
        let mut state = State::new(&trainer, vec![0.0; 3]);
        let (refused, _) = run(&mut trainer, &mut state, &Patience::default(), 9);
        assert!(matches!(refused, Err(Error::Misuse(_))));
    }
}
