//! Labels for texts whose label is not known.

use crate::Result;
use crate::batch::evaluation_order;
use crate::data::Record;
use crate::evaluate::best;
use crate::trainer::Trainer;

/// A label, and how likely each is.
#[derive(Debug, Clone, PartialEq)]
pub struct Prediction {
    /// The likeliest label's position in the task's list.
    pub label: usize,
    /// p(label | record) among the task's labels, in their order.
    pub probabilities: Vec<f64>,
    /// Whether the text was cut to the backbone's context.
    pub truncated: bool,
}

impl Trainer<'_> {
    /// Predicts each record's label with `parameters`, in the records' order.
    ///
    /// # Errors
    /// As [`crate::task::Task::prompts`]; [`crate::Error::Misuse`] for parameters of another length, or answers in words.
    pub fn predict(&mut self, parameters: &[f32], records: &[Record]) -> Result<Vec<Prediction>> {
        self.trainable().assign(parameters)?;
        let room = self.room();
        let longest = room.longest_label;
        let texts = (self.task()).prompts(self.tokenizer(), records, &room, longest)?;
        let prompt = self.model.prompt()?;
        let lengths: Vec<usize> = texts.iter().map(|(ids, _)| ids.len()).collect();
        let mut found: Vec<Option<Prediction>> = vec![None; texts.len()];
        for indices in evaluation_order(&lengths, self.spec().batch_size) {
            let ids: Vec<&[u32]> = indices.iter().map(|&i| texts[i].0.as_slice()).collect();
            let scores = self
                .model
                .scores(prompt.embeddings(), &ids)?
                .to_vec2::<f32>()?;
            for (&index, scores) in indices.iter().zip(&scores) {
                found[index] = Some(Prediction {
                    label: best(scores),
                    probabilities: normalised(scores),
                    truncated: texts[index].1,
                });
            }
        }
        Ok(found.into_iter().flatten().collect())
    }
}

/// eˢ/Σ eˢ.
fn normalised(scores: &[f32]) -> Vec<f64> {
    let top = scores.iter().fold(f32::NEG_INFINITY, |top, s| top.max(*s));
    let raised = scores.iter().map(|s| f64::from(s - top).exp());
    let sum: f64 = raised.clone().sum();
    raised.map(|x| x / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::TrainingSpec;
    use crate::task::{Route, Task};
    use crate::template::Template;
    use crate::toy::{Toy, headline_tokenizer, headlines};

    #[test]
    fn predictions_come_in_the_records_order_and_agree_with_the_evaluation() {
        let toy = Toy::new(64, 16, 32);
        for route in [Route::Classifier, Route::Verbalizer] {
            let template = Template::parse("{sentence} sentiment: {label}").unwrap();
            let labels = ["negative", "neutral", "positive"].map(str::to_owned);
            let task = Task::new(template, labels.to_vec(), route).unwrap();
            let spec = TrainingSpec {
                batch_size: 7,
                head_start: crate::spec::HeadStart::Random,
                ..TrainingSpec::default()
            };
            let mut trainer = Trainer::new(&toy, spec, headline_tokenizer(), task).unwrap();
            let theta = trainer.initial_parameters(3).unwrap();
            let records = headlines();
            let found = trainer.predict(&theta, &records).unwrap();
            let right = (found.iter().zip(&records))
                .filter(|(found, record)| labels[found.label] == record.label)
                .count();
            let data = trainer.encode(&records).unwrap();
            let evaluation = trainer.evaluate(&theta, &data).unwrap();
            assert_eq!(right as f64 / 60.0, evaluation.accuracy);
            for found in &found {
                assert!((found.probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                let top = found.probabilities.iter().copied().fold(0.0, f64::max);
                assert_eq!(found.probabilities[found.label], top);
            }
            let alone = trainer.predict(&theta, &records[41..42]).unwrap();
            assert_eq!(alone[0].label, found[41].label);
            assert!(trainer.predict(&theta, &[]).unwrap().is_empty());
        }
    }
}
