//! One member's local work: p-tune from the global parameters, return what changed.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backbone::Backbone;
use crate::batch::{evaluation_order, training_order};
use crate::data::Record;
use crate::evaluate::{Evaluation, Sheet};
use crate::head::{Classifier, Pooling};
use crate::model::{Model, prompts_of};
use crate::optimiser::Optimiser;
use crate::parameters::Trainable;
use crate::random::SplitMix;
use crate::spec::TrainingSpec;
use crate::task::{Encoded, Example, Room, Route, Task};
use crate::tokenizer::Tokenizer;
use crate::{Error, Result};

/// Domain of [`SplitMix::derived`] for the order of examples.
pub(crate) const ORDER: u64 = 3;

/// P-tunes one backbone on one task.
///
/// The same specification, tokenizer, task, data and global parameters give
/// the same update, bit for bit, on the same machine and number of threads.
pub struct Trainer<'a> {
    pub(crate) model: Model<'a>,
    at_a_time: usize,
    spec: TrainingSpec,
    tokenizer: Tokenizer,
    task: Task,
}

/// Where training stands, after each step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Steps done in this call.
    pub step: usize,
    /// Steps this call will take.
    pub steps: usize,
    /// The local epoch, from 0.
    pub epoch: u32,
    /// Mean loss of the step's batch.
    pub loss: f64,
}

/// What one member's local epochs did.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalUpdate {
    /// θ_local − θ_global.
    pub delta: Vec<f32>,
    /// Mean loss over the examples of the last epoch, as they were met.
    pub loss: f64,
    /// Examples the member has.
    pub examples: usize,
    /// Optimiser steps taken.
    pub steps: usize,
}

impl LocalUpdate {
    /// ‖Δθ‖₂.
    pub fn norm(&self) -> f64 {
        self.delta
            .iter()
            .map(|&d| f64::from(d) * f64::from(d))
            .sum::<f64>()
            .sqrt()
    }
}

impl<'a> Trainer<'a> {
    /// A trainer whose parameters start as [`Trainer::initial_parameters`] of the
    /// specification's seed.
    ///
    /// # Errors
    /// [`Error::Misuse`] for a specification out of range or a prompt longer than the
    /// backbone's context; [`Error::Refused`] for labels that cannot be verbalised.
    pub fn new(
        backbone: &'a dyn Backbone,
        spec: TrainingSpec,
        tokenizer: Tokenizer,
        task: Task,
    ) -> Result<Self> {
        spec.check()?;
        spec.check_size(backbone.hidden())?;
        can_answer(backbone, &spec, task.route())?;
        let model = Model::new(backbone, &spec, &tokenizer, &task, spec.seed)?;
        let reserved = spec.virtual_tokens + model.longest_label().saturating_sub(1);
        if reserved >= backbone.max_positions() {
            return Err(Error::Misuse(format!(
                "{} virtual tokens leave no room in the backbone's {} positions",
                spec.virtual_tokens,
                backbone.max_positions()
            )));
        }
        Ok(Self {
            model,
            at_a_time: usize::MAX,
            spec,
            tokenizer,
            task,
        })
    }

    /// The job's first model: the same vector from the same seed for every member.
    ///
    /// # Errors
    /// [`Error::Fault`] if the tensor library fails.
    pub fn initial_parameters(&self, seed: u64) -> Result<Vec<f32>> {
        let backbone = self.model.backbone();
        let model = Model::new(backbone, &self.spec, &self.tokenizer, &self.task, seed)?;
        model.trainable().flatten()
    }

    /// |θ|, the length of every parameter vector here.
    pub fn dimension(&self) -> usize {
        self.model.trainable().dimension()
    }

    /// How many of the last entries of θ are the classifier's.
    pub fn classifier_dimension(&self) -> usize {
        self.model.classifier_dimension()
    }

    /// The named variables behind θ, for saving.
    pub fn trainable(&self) -> &Trainable {
        self.model.trainable()
    }

    /// The prompt encoder, for writing an adapter.
    pub fn encoder(&self) -> &dyn crate::encoder::Encoder {
        self.model.encoder()
    }

    /// The specification.
    pub fn spec(&self) -> &TrainingSpec {
        &self.spec
    }

    /// The task.
    pub fn task(&self) -> &Task {
        &self.task
    }

    /// Records as tokens that fit the backbone behind the virtual tokens.
    ///
    /// # Errors
    /// As [`Task::encode`].
    pub fn encode(&self, records: &[Record]) -> Result<Encoded> {
        self.task.encode(&self.tokenizer, records, &self.room())
    }

    /// What the backbone has room for behind the virtual tokens.
    pub(crate) fn room(&self) -> Room {
        let backbone = self.model.backbone();
        Room {
            positions: backbone.max_positions() - self.spec.virtual_tokens,
            vocabulary: backbone.vocabulary(),
            longest_label: self.model.longest_label(),
            end: backbone.end_of_text().first().copied(),
        }
    }

    /// Computes a batch's gradient of no more than so many examples at a time and adds (gradient accumulation): less
    /// memory, the same step but for rounding.
    pub fn at_a_time(mut self, examples: NonZeroUsize) -> Self {
        self.at_a_time = examples.get();
        self
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The classifier, where there is one.
    pub fn classifier(&self) -> Option<&Classifier> {
        self.model.classifier()
    }

    /// Trains the local epochs of `round` (from 0) from `global` and returns the difference.
    /// `progress` hears of every step; `stop` is looked at before each.
    ///
    /// # Errors
    /// [`Error::Misuse`] for no data or a `global` of another length; [`Error::Stopped`]
    /// where `stop` is set; [`Error::Refused`] where training diverges.
    pub fn train(
        &mut self,
        global: &[f32],
        data: &Encoded,
        round: u32,
        progress: &mut dyn FnMut(Progress),
        stop: &AtomicBool,
    ) -> Result<LocalUpdate> {
        if data.is_empty() {
            return Err(Error::Misuse("no example to train on".to_owned()));
        }
        self.model.trainable().assign(global)?;
        let mut local = global.to_vec();
        let mut optimiser = Optimiser::new(self.spec.optimiser, local.len())?;
        let lengths = data.lengths();
        let per_epoch = data.len().div_ceil(self.spec.batch_size);
        let steps = per_epoch * self.spec.local_epochs as usize;
        let mut epoch_loss = 0.0;
        for epoch in 0..self.spec.local_epochs {
            let parts = [ORDER, u64::from(round), u64::from(epoch)];
            let mut random = SplitMix::derived(self.spec.seed, &parts);
            epoch_loss = 0.0;
            for indices in training_order(&lengths, self.spec.batch_size, &mut random) {
                if stop.load(Ordering::Relaxed) {
                    return Err(Error::Stopped);
                }
                let (loss, mut gradient) = self.gradient(&select(data, &indices))?;
                self.pull_towards(global, &local, &mut gradient);
                let step = u64::from(round) * steps as u64 + optimiser.steps();
                optimiser.step(&mut local, &gradient, &self.rates(step, steps))?;
                self.model.trainable().assign(&local)?;
                epoch_loss += loss * indices.len() as f64;
                let step = optimiser.steps() as usize;
                progress(Progress {
                    step,
                    steps,
                    epoch,
                    loss,
                });
            }
        }
        Ok(LocalUpdate {
            delta: local.iter().zip(global).map(|(l, g)| l - g).collect(),
            loss: epoch_loss / data.len() as f64,
            examples: data.len(),
            steps,
        })
    }

    /// Loss, accuracy and confusion of `parameters` on `data`.
    ///
    /// # Errors
    /// [`Error::Misuse`] for parameters of another length.
    pub fn evaluate(&mut self, parameters: &[f32], data: &Encoded) -> Result<Evaluation> {
        self.model.trainable().assign(parameters)?;
        let prompt = self.model.prompt()?;
        let prompt = prompt.embeddings();
        let mut sheet = Sheet::new(self.task.labels().len());
        let size = self.spec.batch_size.min(self.at_a_time);
        for indices in evaluation_order(&data.lengths(), size) {
            let examples = select(data, &indices);
            if self.task.route() == Route::Generation {
                let parts = (self.model).in_parts(&examples, |part| self.model.met(prompt, part));
                for met in parts?.into_iter().flatten() {
                    sheet.answer(met.loss, met.tokens, met.right);
                }
                continue;
            }
            let parts = self.model.in_parts(&examples, |part| {
                let scores = self.model.scores(prompt, &prompts_of(part))?;
                Ok(scores.to_vec2::<f32>()?)
            });
            for (example, scores) in examples.iter().zip(parts?.into_iter().flatten()) {
                sheet.label(example.label()?, &scores);
            }
        }
        Ok(sheet.finish())
    }

    /// The mean loss of a batch and its gradient as one vector, in θ's order.
    pub(crate) fn gradient(&self, examples: &[&Example]) -> Result<(f64, Vec<f32>)> {
        self.model.gradient(examples, self.at_a_time)
    }

    /// FedProx: g ← g + μ(θ − θ_global).
    fn pull_towards(&self, global: &[f32], local: &[f32], gradient: &mut [f32]) {
        let mu = self.spec.proximal as f32;
        if mu > 0.0 {
            for ((g, l), w) in gradient.iter_mut().zip(local).zip(global) {
                *g += mu * (l - w);
            }
        }
    }

    /// The learning rates of the encoder's and the classifier's parameters at a step of the
    /// whole job.
    pub(crate) fn rates(&self, step: u64, steps_per_round: usize) -> [(usize, f64); 2] {
        self.rates_over(step, u64::from(self.spec.rounds) * steps_per_round as u64)
    }

    /// The same at a step of `total`.
    pub(crate) fn rates_over(&self, step: u64, total: u64) -> [(usize, f64); 2] {
        let factor = self.spec.schedule.factor(step, total);
        let classifier = self.classifier_dimension();
        [
            (
                self.dimension() - classifier,
                self.spec.prompt_rate * factor,
            ),
            (classifier, self.spec.classifier_rate * factor),
        ]
    }
}

/// Refuses a route or a pooling that the backbone has no part for.
fn can_answer(backbone: &dyn Backbone, spec: &TrainingSpec, route: Route) -> Result<()> {
    let kind = backbone.kind();
    match route {
        Route::Verbalizer | Route::Generation if !backbone.speaks() => {
            Err(Error::Refused(format!(
                "this {kind} has no language-model head to answer with: its route is `classifier`"
            )))
        }
        Route::Classifier if spec.pooling == Pooling::First && !backbone.pools() => {
            Err(Error::Refused(format!(
                "this {kind} has no pooler for the first position: its pooling is `mean`"
            )))
        }
        _ => Ok(()),
    }
}

/// The examples at given positions; positions that do not exist are left out.
pub(crate) fn select<'d>(data: &'d Encoded, indices: &[usize]) -> Vec<&'d Example> {
    indices
        .iter()
        .filter_map(|&i| data.examples().get(i))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimiser::{OptimiserSpec, Schedule};
    use crate::spec::EncoderSpec;
    use crate::template::Template;
    use crate::toy::{Toy, headline_tokenizer, headlines};

    const LABELS: [&str; 3] = ["negative", "neutral", "positive"];

    fn spec(encoder: EncoderSpec) -> TrainingSpec {
        TrainingSpec {
            encoder,
            virtual_tokens: 3,
            local_epochs: 4,
            batch_size: 8,
            ..TrainingSpec::default()
        }
    }

    fn task(route: Route) -> Task {
        let template = Template::parse("{sentence} sentiment: {label}").unwrap();
        let labels = match route {
            Route::Generation => Vec::new(),
            _ => LABELS.map(str::to_owned).to_vec(),
        };
        Task::new(template, labels, route).unwrap()
    }

    fn trainer<'a>(toy: &'a Toy, spec: TrainingSpec, route: Route) -> Trainer<'a> {
        Trainer::new(toy, spec, headline_tokenizer(), task(route)).unwrap()
    }

    fn toy() -> Toy {
        Toy::new(64, 16, 32)
    }

    fn run(trainer: &mut Trainer<'_>, global: &[f32], round: u32) -> LocalUpdate {
        let data = trainer.encode(&headlines()).unwrap();
        trainer
            .train(global, &data, round, &mut |_| {}, &AtomicBool::new(false))
            .unwrap()
    }

    #[test]
    fn local_epochs_lower_the_loss_on_every_route_and_encoder() {
        let toy = toy();
        let mlp = EncoderSpec::Mlp { hidden: 12 };
        let lstm = EncoderSpec::Lstm {
            hidden: 6,
            layers: 2,
        };
        let nemo = EncoderSpec::NemoMlp { hidden: 12 };
        for route in [Route::Classifier, Route::Verbalizer, Route::Generation] {
            for encoder in [EncoderSpec::Embedding, EncoderSpec::Words, mlp, nemo, lstm] {
                // Toward words the prompt has further to go than toward a trained layer.
                let prompt_rate = match route {
                    Route::Classifier => 0.01,
                    Route::Verbalizer | Route::Generation => 0.05,
                };
                let spec = TrainingSpec {
                    prompt_rate,
                    ..spec(encoder)
                };
                let mut trainer = trainer(&toy, spec, route);
                let data = trainer.encode(&headlines()).unwrap();
                let global = trainer.initial_parameters(1).unwrap();
                let before = trainer.evaluate(&global, &data).unwrap();
                let update = run(&mut trainer, &global, 0);
                let local: Vec<f32> = global
                    .iter()
                    .zip(&update.delta)
                    .map(|(g, d)| g + d)
                    .collect();
                let after = trainer.evaluate(&local, &data).unwrap();
                assert!(
                    after.loss < 0.95 * before.loss,
                    "{route:?} {encoder:?}: {} then {}",
                    before.loss,
                    after.loss
                );
                assert_eq!((update.examples, update.steps), (60, 32));
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_bits_and_another_does_not() {
        let toy = toy();
        let bits = |seed, round| {
            let spec = TrainingSpec {
                seed,
                ..spec(EncoderSpec::Mlp { hidden: 12 })
            };
            let mut trainer = trainer(&toy, spec, Route::Classifier);
            let global = trainer.initial_parameters(5).unwrap();
            let update = run(&mut trainer, &global, round);
            update.delta.iter().map(|d| d.to_bits()).collect::<Vec<_>>()
        };
        assert_eq!(bits(1, 0), bits(1, 0));
        assert_ne!(bits(1, 0), bits(2, 0));
        assert_ne!(bits(1, 0), bits(1, 1));
    }

    #[test]
    fn a_second_call_does_not_remember_the_first() {
        let toy = toy();
        let mut trainer = trainer(&toy, spec(EncoderSpec::Embedding), Route::Verbalizer);
        let global = trainer.initial_parameters(5).unwrap();
        let first = run(&mut trainer, &global, 0);
        assert_eq!(first, run(&mut trainer, &global, 0));
    }

    #[test]
    fn initial_parameters_depend_on_their_seed_alone() {
        let toy = toy();
        let mut a = trainer(&toy, spec(EncoderSpec::Words), Route::Classifier);
        let b = trainer(
            &toy,
            TrainingSpec {
                seed: 9,
                ..spec(EncoderSpec::Words)
            },
            Route::Classifier,
        );
        let global = a.initial_parameters(3).unwrap();
        run(&mut a, &global, 0);
        assert_eq!(global, a.initial_parameters(3).unwrap());
        assert_eq!(global, b.initial_parameters(3).unwrap());
        assert_ne!(global, b.initial_parameters(4).unwrap());
        assert_eq!(global.len(), a.dimension());
        assert_eq!((a.dimension(), a.classifier_dimension()), (3 * 16 + 51, 51));
    }

    #[test]
    fn the_gradient_is_the_losses_slope() {
        let toy = toy();
        for route in [Route::Classifier, Route::Verbalizer, Route::Generation] {
            let trainer = trainer(&toy, spec(EncoderSpec::Mlp { hidden: 12 }), route);
            let data = trainer.encode(&headlines()).unwrap();
            let examples = select(&data, &[0, 13, 37]);
            let mut theta = trainer.initial_parameters(2).unwrap();
            let mut random = SplitMix::new(4);
            theta
                .iter_mut()
                .for_each(|t| *t += random.uniform(1, 0.2)[0]);
            trainer.trainable().assign(&theta).unwrap();
            let (_, gradient) = trainer.gradient(&examples).unwrap();
            let loss = |theta: &[f32]| {
                trainer.trainable().assign(theta).unwrap();
                trainer.gradient(&examples).unwrap().0
            };
            // Along the gradient itself, the slope is ‖g‖².
            let norm = gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>();
            let h = 1e-2 / norm.sqrt();
            let moved = |h: f64| -> Vec<f32> {
                theta
                    .iter()
                    .zip(&gradient)
                    .map(|(t, g)| t + (h as f32) * g)
                    .collect()
            };
            let slope = (loss(&moved(h)) - loss(&moved(-h))) / (2.0 * h);
            assert!(
                (slope / norm - 1.0).abs() < 0.02,
                "{route:?}: {slope} {norm}"
            );
        }
    }

    #[test]
    fn accumulated_gradients_are_those_of_the_whole_batch() {
        let toy = toy();
        for route in [Route::Classifier, Route::Verbalizer, Route::Generation] {
            let spec = spec(EncoderSpec::Mlp { hidden: 12 });
            let whole = trainer(&toy, spec.clone(), route);
            let data = whole.encode(&headlines()).unwrap();
            let examples = select(&data, &[0, 13, 37, 5, 41, 59, 22]);
            let (loss, gradient) = whole.gradient(&examples).unwrap();
            for count in [1, 3, 7, 100] {
                let parts = trainer(&toy, spec.clone(), route);
                let parts = parts.at_a_time(NonZeroUsize::new(count).unwrap());
                let (sum, summed) = parts.gradient(&examples).unwrap();
                assert!((loss - sum).abs() < 1e-5, "{loss} {sum}");
                let top = gradient.iter().fold(0_f32, |top, g| top.max(g.abs()));
                for (g, s) in gradient.iter().zip(&summed) {
                    assert!((g - s).abs() < 1e-5 * top.max(1.0), "{count}: {g} {s}");
                }
            }
        }
    }

    #[test]
    fn answers_in_words_are_met_by_the_likeliest_tokens() {
        let toy = toy();
        let spec = TrainingSpec {
            prompt_rate: 0.1,
            local_epochs: 30,
            ..spec(EncoderSpec::Words)
        };
        let mut trainer = trainer(&toy, spec, Route::Generation);
        let data = trainer.encode(&headlines()).unwrap();
        let global = trainer.initial_parameters(1).unwrap();
        let before = trainer.evaluate(&global, &data).unwrap();
        assert_eq!(before.macro_f1, None);
        let update = run(&mut trainer, &global, 0);
        let moved: Vec<f32> = global
            .iter()
            .zip(&update.delta)
            .map(|(g, d)| g + d)
            .collect();
        let after = trainer.evaluate(&moved, &data).unwrap();
        // One token an answer, so the share of tokens is that of answers.
        assert_eq!(after.token_accuracy, Some(after.accuracy));
        assert!(
            after.accuracy > before.accuracy + 0.2 && after.loss < before.loss,
            "{before:?} {after:?}"
        );
    }

    #[test]
    fn padding_changes_no_loss() {
        let toy = toy();
        for route in [Route::Classifier, Route::Verbalizer, Route::Generation] {
            let trainer = trainer(&toy, spec(EncoderSpec::Embedding), route);
            let data = trainer.encode(&headlines()).unwrap();
            let lengths = data.lengths();
            let (short, long) = (
                (0..60).min_by_key(|&i| lengths[i]).unwrap(),
                (0..60).max_by_key(|&i| lengths[i]).unwrap(),
            );
            assert!(lengths[short] < lengths[long]);
            let loss = |indices: &[usize]| trainer.gradient(&select(&data, indices)).unwrap().0;
            let (alone, together) = ((loss(&[short]) + loss(&[long])) / 2.0, loss(&[short, long]));
            assert!(
                (alone - together).abs() < 1e-5,
                "{route:?}: {alone} {together}"
            );
        }
    }

    #[test]
    fn answers_of_several_tokens_are_scored_whole() {
        let toy = toy();
        let labels = vec!["very positive".to_owned(), "very negative".to_owned()];
        let template = Template::parse("{sentence} sentiment: {label}").unwrap();
        let task = Task::new(template, labels, Route::Verbalizer).unwrap();
        let trainer = Trainer::new(
            &toy,
            spec(EncoderSpec::Embedding),
            headline_tokenizer(),
            task,
        )
        .unwrap();
        let data = trainer
            .encode(&[Record::sentence("sales rose", "very positive")])
            .unwrap();
        let examples = select(&data, &[0]);
        let prompt = trainer.model.prompt().unwrap();
        let scores = trainer
            .model
            .scores(prompt.embeddings(), &prompts_of(&examples))
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        let (loss, _) = trainer.gradient(&examples).unwrap();
        assert!((loss + f64::from(scores[0][0])).abs() < 1e-6);
        // By the chain rule, from two tasks of one token each: p(very)·p(positive | very).
        let single = |sentence: &str, words: [&str; 2]| {
            let template = Template::parse("{sentence} {label}").unwrap();
            let labels = words.map(str::to_owned).to_vec();
            let task = Task::new(template, labels, Route::Verbalizer).unwrap();
            let spec = spec(EncoderSpec::Embedding);
            let mut trainer = Trainer::new(&toy, spec, headline_tokenizer(), task).unwrap();
            let data = trainer
                .encode(&[Record::sentence(sentence, words[0])])
                .unwrap();
            let start = trainer.initial_parameters(0).unwrap();
            trainer.evaluate(&start, &data).unwrap().loss
        };
        let chain = single("sales rose sentiment:", ["very", "sales"])
            + single("sales rose sentiment: very", ["positive", "negative"]);
        assert!(
            (chain + f64::from(scores[0][0])).abs() < 1e-4,
            "{chain} {scores:?}"
        );
    }

    #[test]
    fn a_proximal_term_keeps_the_update_smaller() {
        let toy = toy();
        let norm = |proximal| {
            let sgd = OptimiserSpec::Sgd { momentum: 0.0 };
            let spec = TrainingSpec {
                proximal,
                optimiser: sgd,
                prompt_rate: 0.1,
                classifier_rate: 0.1,
                ..spec(EncoderSpec::Embedding)
            };
            let mut trainer = trainer(&toy, spec, Route::Classifier);
            let global = trainer.initial_parameters(5).unwrap();
            run(&mut trainer, &global, 0).norm()
        };
        assert!(norm(5.0) < 0.8 * norm(0.0), "{} {}", norm(5.0), norm(0.0));
    }

    #[test]
    fn progress_hears_every_step_and_a_schedule_reaches_over_rounds() {
        let toy = toy();
        let spec = TrainingSpec {
            schedule: Schedule::Cosine { warmup: 0 },
            rounds: 2,
            ..spec(EncoderSpec::Embedding)
        };
        let mut trainer = trainer(&toy, spec, Route::Classifier);
        let data = trainer.encode(&headlines()).unwrap();
        let global = trainer.initial_parameters(5).unwrap();
        let mut heard = Vec::new();
        let go = AtomicBool::new(false);
        trainer
            .train(&global, &data, 0, &mut |p| heard.push(p), &go)
            .unwrap();
        assert_eq!(
            heard.iter().map(|p| p.step).collect::<Vec<_>>(),
            (1..=32).collect::<Vec<_>>()
        );
        assert_eq!(
            (heard[0].epoch, heard[31].epoch, heard[31].steps),
            (0, 3, 32)
        );
        let rate = |step| trainer.rates(step, 32)[1].1 / trainer.spec().classifier_rate;
        assert!((rate(0) - 1.0).abs() < 1e-12 && (rate(32) - 0.5).abs() < 1e-12);
    }

    #[test]
    fn training_stops_when_asked_and_refuses_what_does_not_fit() {
        let toy = toy();
        let mut trainer = trainer(&toy, spec(EncoderSpec::Embedding), Route::Classifier);
        let data = trainer.encode(&headlines()).unwrap();
        let global = trainer.initial_parameters(5).unwrap();
        let stop = AtomicBool::new(false);
        let mut steps = 0;
        let stopped = trainer.train(
            &global,
            &data,
            0,
            &mut |_| {
                steps += 1;
                stop.store(steps == 2, Ordering::Relaxed);
            },
            &stop,
        );
        assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
        assert_eq!(steps, 2);
        let go = AtomicBool::new(false);
        let none = trainer.train(&global, &Encoded::default(), 0, &mut |_| {}, &go);
        assert!(matches!(none, Err(Error::Misuse(_))), "{none:?}");
        let short = trainer.train(&global[1..], &data, 0, &mut |_| {}, &go);
        assert!(matches!(short, Err(Error::Misuse(_))), "{short:?}");
        assert!(matches!(
            trainer.evaluate(&global[1..], &data),
            Err(Error::Misuse(_))
        ));
        let long = TrainingSpec {
            virtual_tokens: 32,
            ..spec(EncoderSpec::Embedding)
        };
        let refused = Trainer::new(&toy, long, headline_tokenizer(), task(Route::Classifier));
        assert!(refused.err().unwrap().to_string().contains("32 positions"));
    }

    #[test]
    fn long_records_are_cut_to_the_backbones_context_and_counted() {
        let toy = Toy::new(64, 16, 12);
        let mut trainer = trainer(&toy, spec(EncoderSpec::Embedding), Route::Verbalizer);
        let records = [
            Record::sentence("sales rose ".repeat(20), "positive"),
            headlines()[0].clone(),
        ];
        let data = trainer.encode(&records).unwrap();
        assert_eq!((data.truncated(), data.lengths()[0]), (1, 9));
        let global = trainer.initial_parameters(0).unwrap();
        let go = AtomicBool::new(false);
        assert!(trainer.train(&global, &data, 0, &mut |_| {}, &go).is_ok());
    }
}
