//! How good a model is on labelled examples.

use serde::{Deserialize, Serialize};

/// Loss, accuracy and confusion of predictions on a data set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Mean of −log p(label | record).
    pub loss: f64,
    /// Share of examples whose best-scored label is theirs.
    pub accuracy: f64,
    /// Mean over labels of F₁ = 2tp/(2tp + fp + fn); a label that neither occurs nor is
    /// predicted does not count.
    pub macro_f1: f64,
    /// `confusion[truth][prediction]`, in the task's order of labels.
    pub confusion: Vec<Vec<u64>>,
    /// Number of examples.
    pub examples: usize,
}

impl Evaluation {
    /// From each example's (truth, prediction) among `labels` labels, and the summed loss.
    /// Pairs outside the labels are not counted.
    pub fn new(labels: usize, pairs: &[(usize, usize)], summed_loss: f64) -> Self {
        let mut confusion = vec![vec![0_u64; labels]; labels];
        for &(truth, prediction) in pairs {
            if let Some(cell) = confusion
                .get_mut(truth)
                .and_then(|row| row.get_mut(prediction))
            {
                *cell += 1;
            }
        }
        let examples = pairs.len();
        let right: u64 = (0..labels).map(|l| confusion[l][l]).sum();
        let share = |sum: f64, of: usize| if of == 0 { 0.0 } else { sum / of as f64 };
        let scores: Vec<f64> = (0..labels).filter_map(|l| f1(&confusion, l)).collect();
        Self {
            loss: share(summed_loss, examples),
            accuracy: share(right as f64, examples),
            macro_f1: share(scores.iter().sum(), scores.len()),
            confusion,
            examples,
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
        let pairs = [(0, 0), (0, 0), (0, 1), (1, 1), (1, 1)];
        let evaluation = Evaluation::new(3, &pairs, 2.5);
        assert_eq!(evaluation.confusion, [[2, 1, 0], [0, 2, 0], [0, 0, 0]]);
        assert_eq!((evaluation.loss, evaluation.accuracy), (0.5, 0.8));
        // F₁: a = 4/5, b = 4/5.
        assert!((evaluation.macro_f1 - 0.8).abs() < 1e-12);
        assert_eq!(evaluation.examples, 5);
    }

    #[test]
    fn nothing_to_evaluate_measures_zero() {
        let evaluation = Evaluation::new(2, &[], 0.0);
        assert_eq!(
            (evaluation.loss, evaluation.accuracy, evaluation.macro_f1),
            (0.0, 0.0, 0.0)
        );
    }

    #[test]
    fn the_best_score_is_the_first_of_equals_and_never_a_nan() {
        assert_eq!(best(&[0.0, 2.0, 2.0]), 1);
        assert_eq!(best(&[f32::NAN, -1.0, -2.0]), 1);
        assert_eq!(best(&[]), 0);
    }
}
