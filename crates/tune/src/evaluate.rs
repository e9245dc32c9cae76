//! How good a model is on labelled examples.

use serde::{Deserialize, Serialize};

/// Loss, accuracy and confusion of predictions on a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean of −log p(label | record); of answers in words, of each answer's mean over its tokens.
    pub loss: f64,
    /// Share of examples whose best-scored label is theirs; of answers in words, share that the likeliest tokens, one after the
    /// other, give exactly.
    pub accuracy: f64,
    /// Mean over labels of F₁ = 2tp/(2tp + fp + fn); a label that neither occurs nor is
    /// predicted does not count. None of answers in words.
    pub macro_f1: Option<f64>,
    /// Share of the answers' tokens that were the likeliest after those before them; none of labels.
    pub token_accuracy: Option<f64>,
    /// `confusion[truth][prediction]`, in the task's order of labels; empty of answers in words.
    pub confusion: Vec<Vec<u64>>,
    /// Number of examples.
    pub examples: usize,
}

/// What becomes an [`Evaluation`], example by example.
pub(crate) struct Sheet {
    confusion: Vec<Vec<u64>>,
    loss: f64,
    right: u64,
    examples: usize,
    /// Tokens that were right, and all of them.
    tokens: (usize, usize),
}

impl Sheet {
    /// For `labels` labels; 0 for answers in words.
    pub(crate) fn new(labels: usize) -> Self {
        Self {
            confusion: vec![vec![0; labels]; labels],
            loss: 0.0,
            right: 0,
            examples: 0,
            tokens: (0, 0),
        }
    }

    /// An example of a label, and log p of each.
    pub(crate) fn label(&mut self, truth: usize, scores: &[f32]) {
        let prediction = best(scores);
        self.examples += 1;
        self.loss -= f64::from(scores.get(truth).copied().unwrap_or(f32::NAN));
        self.right += u64::from(prediction == truth);
        let row = self.confusion.get_mut(truth);
        if let Some(cell) = row.and_then(|row| row.get_mut(prediction)) {
            *cell += 1;
        }
    }

    /// An answer in words.
    pub(crate) fn answer(&mut self, loss: f64, tokens: usize, right: usize) {
        self.examples += 1;
        self.loss += loss;
        self.right += u64::from(tokens == right);
        self.tokens.0 += right;
        self.tokens.1 += tokens;
    }

    pub(crate) fn finish(self) -> Evaluation {
        let share = |sum: f64, of: usize| if of == 0 { 0.0 } else { sum / of as f64 };
        let labels = self.confusion.len();
        let scores: Vec<f64> = (0..labels).filter_map(|l| f1(&self.confusion, l)).collect();
        Evaluation {
            loss: share(self.loss, self.examples),
            accuracy: share(self.right as f64, self.examples),
            macro_f1: (labels > 0).then(|| share(scores.iter().sum(), scores.len())),
            token_accuracy: (labels == 0).then(|| share(self.tokens.0 as f64, self.tokens.1)),
            confusion: self.confusion,
            examples: self.examples,
        }
    }
}

/// 2tp/(2tp + fp + fn) of one label; none where it neither occurs nor is predicted.
fn f1(confusion: &[Vec<u64>], label: usize) -> Option<f64> {
    let right = confusion[label][label];
    let occurs: u64 = confusion[label].iter().sum();
    let predicted: u64 = confusion.iter().map(|row| row[label]).sum();
    let total = occurs + predicted;
    (total > 0).then(|| 2.0 * right as f64 / total as f64)
}

/// The position of the greatest score, the first of equals; NaN is never the greatest.
pub fn best(scores: &[f32]) -> usize {
    let mut best = 0;
    for (label, score) in scores.iter().enumerate() {
        if *score > scores[best] || scores[best].is_nan() {
            best = label;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn measures_are_those_of_a_worked_example() {
        // Truth a a a b b, predicted a a b b b; c never occurs.
        let mut sheet = Sheet::new(3);
        for (truth, prediction) in [(0, 0), (0, 0), (0, 1), (1, 1), (1, 1)] {
            let mut scores = [-1.0; 3];
            scores[prediction] = -0.25;
            sheet.label(truth, &scores);
        }
        let evaluation = sheet.finish();
        assert_eq!(evaluation.confusion, [[2, 1, 0], [0, 2, 0], [0, 0, 0]]);
        assert_eq!((evaluation.loss, evaluation.accuracy), (0.4, 0.8));
        // F₁: a = 4/5, b = 4/5.
        assert!((evaluation.macro_f1.unwrap() - 0.8).abs() < 1e-12);
        assert_eq!((evaluation.examples, evaluation.token_accuracy), (5, None));
    }

    #[test]
    fn an_answer_in_words_is_right_when_every_token_is() {
        let mut sheet = Sheet::new(0);
        sheet.answer(0.5, 3, 3);
        sheet.answer(1.5, 5, 4);
        let evaluation = sheet.finish();
        assert_eq!((evaluation.loss, evaluation.accuracy), (1.0, 0.5));
        assert_eq!(evaluation.token_accuracy, Some(7.0 / 8.0));
        assert!(evaluation.macro_f1.is_none() && evaluation.confusion.is_empty());
    }

    #[test]
    fn nothing_to_evaluate_measures_zero() {
        let evaluation = Sheet::new(2).finish();
        assert_eq!((evaluation.loss, evaluation.accuracy), (0.0, 0.0));
        assert_eq!(evaluation.macro_f1, Some(0.0));
    }

    #[test]
    fn the_best_score_is_the_first_of_equals_and_never_a_nan() {
        assert_eq!(best(&[0.0, 2.0, 2.0]), 1);
        assert_eq!(best(&[f32::NAN, -1.0, -2.0]), 1);
        assert_eq!(best(&[]), 0);
    }
}
