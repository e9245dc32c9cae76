//! The backbone with its prompt and its task: a batch to the losses of its answers.

use candle_core::{D, DType, Tensor, Var};

use crate::backbone::{Backbone, log_likelihood};
use crate::batch::pad;
use crate::encoder::Encoder;
use crate::encoder::embedding::Embedding;
use crate::encoder::mlp::Mlp;
use crate::evaluate::best;
use crate::head::{Classifier, Pooling, normalise};
use crate::parameters::Trainable;
use crate::random::SplitMix;
use crate::spec::{EncoderSpec, HeadStart, TrainingSpec};
use crate::task::{Example, Route, Task};
use crate::tokenizer::Tokenizer;
use crate::verbalizer::Verbalizer;
use crate::{Error, Result};

/// A frozen backbone, what is trained, and how answers are scored.
pub(crate) struct Model<'a> {
    backbone: &'a dyn Backbone,
    encoder: Box<dyn Encoder>,
    trainable: Trainable,
    answer: Answer,
}

/// What one record gives at θ. It is of that record alone: no `Debug`.
pub struct RecordGradient {
    /// Its gradient, in prompt space: ∂ℓ/∂P row-major, then the classifier's.
    pub values: Vec<f32>,
    /// Its own loss.
    pub loss: f64,
    /// Whether the likeliest label was its own; `None` without a classifier.
    pub right: Option<bool>,
}

/// How answers are scored.
enum Answer {
    /// log softmax of a layer over pooled hidden states.
    Classifier {
        classifier: Classifier,
        pooling: Pooling,
        feature_length: Option<f64>,
    },
    /// Σ log p of the answer's tokens.
    Verbalizer(Verbalizer),
}

/// Domains of [`SplitMix::derived`].
const PROMPT: u64 = 1;
const HEAD: u64 = 2;

impl<'a> Model<'a> {
    /// A model whose parameters start as `seed` says.
    pub(crate) fn new(
        backbone: &'a dyn Backbone,
        spec: &TrainingSpec,
        tokenizer: &Tokenizer,
        task: &Task,
        seed: u64,
    ) -> Result<Self> {
        let encoder = start_encoder(backbone, spec, SplitMix::derived(seed, &[PROMPT]))?;
        let (device, hidden) = (backbone.device(), backbone.hidden());
        let answer = match task.route() {
            Route::Classifier => {
                let labels = task.labels().len();
                let classifier = match spec.head_start {
                    HeadStart::Zeros => Classifier::zeros(labels, hidden, device)?,
                    HeadStart::Random => {
                        let seed = SplitMix::derived(seed, &[HEAD]).word();
                        Classifier::random(labels, hidden, seed, device)?
                    }
                };
                let (pooling, feature_length) = (spec.pooling, spec.feature_length);
                Answer::Classifier {
                    classifier,
                    pooling,
                    feature_length,
                }
            }
            Route::Verbalizer => Answer::Verbalizer(Verbalizer::new(task, tokenizer)?),
        };
        let classifier = match &answer {
            Answer::Classifier { classifier, .. } => Some(classifier),
            Answer::Verbalizer(_) => None,
        };
        let trainable = Trainable::gather(encoder.as_ref(), classifier);
        Ok(Self {
            backbone,
            encoder,
            trainable,
            answer,
        })
    }

    pub(crate) fn trainable(&self) -> &Trainable {
        &self.trainable
    }

    pub(crate) fn backbone(&self) -> &dyn Backbone {
        self.backbone
    }

    pub(crate) fn encoder(&self) -> &dyn Encoder {
        self.encoder.as_ref()
    }

    /// Number of parameters that are the classifier's, at the end of θ.
    pub(crate) fn classifier_dimension(&self) -> usize {
        match &self.answer {
            Answer::Classifier { classifier, .. } => {
                classifier.labels() * (self.backbone.hidden() + 1)
            }
            Answer::Verbalizer(_) => 0,
        }
    }

    /// Positions that are not the prompt text's: V virtual tokens, and the answer's inputs.
    pub(crate) fn reserved(&self) -> usize {
        let answer = match &self.answer {
            Answer::Classifier { .. } => 0,
            Answer::Verbalizer(verbalizer) => verbalizer.longest().saturating_sub(1),
        };
        self.encoder.virtual_tokens() + answer
    }

    /// −log p(answer | prompt) of each example, `[B]`, differentiable in θ.
    pub(crate) fn losses(&self, examples: &[&Example]) -> Result<Tensor> {
        self.losses_after(&self.prompts(examples.len())?, examples)
    }

    /// log p of each label, `[B, L]`: over the labels for a classifier, over all that the
    /// model could say for a verbalizer.
    pub(crate) fn scores(&self, examples: &[&Example]) -> Result<Tensor> {
        self.scores_after(&self.prompts(examples.len())?, examples)
    }

    /// P(θ) for each of `batch` examples, `[B, V, H]`.
    fn prompts(&self, batch: usize) -> Result<Tensor> {
        let prompt = self.encoder.forward()?;
        let (virtual_tokens, width) = prompt.dims2()?;
        Ok(prompt
            .unsqueeze(0)?
            .broadcast_as((batch, virtual_tokens, width))?)
    }

    /// Each example's own gradient of its own loss, `[B]` vectors: ∂ℓ_b/∂P row-major, then,
    /// where there is a classifier, (p_b − 1_b) ⊗ f_b for its weight and p_b − 1_b for its
    /// bias (the softmax's derivative, with the features f_b).
    ///
    /// Each example gets a copy of the prompt of its own as a leaf, and the losses are
    /// summed: one backward pass gives every ∂ℓ_b/∂P.
    pub(crate) fn record_gradients(&self, examples: &[&Example]) -> Result<Vec<RecordGradient>> {
        let leaf = Var::from_tensor(&self.prompts(examples.len())?.detach().contiguous()?)?;
        let labels: Vec<u32> = examples.iter().map(|e| e.label as u32).collect();
        let (losses, head) = match &self.answer {
            Answer::Classifier { classifier, .. } => {
                let features = self.features(leaf.as_tensor(), examples)?;
                let scores = log_softmax(&classifier.forward(&features)?)?;
                let features = features.detach().to_vec2::<f32>()?;
                let probabilities = scores.detach().exp()?.to_vec2::<f32>()?;
                (
                    pick(&scores, &labels)?.neg()?,
                    Some((features, probabilities)),
                )
            }
            Answer::Verbalizer(_) => (self.losses_after(leaf.as_tensor(), examples)?, None),
        };
        let each_loss = losses.detach().to_vec1::<f32>()?;
        let right: Vec<Option<bool>> = match &head {
            Some((_, probabilities)) => (probabilities.iter().zip(&labels))
                .map(|(p, label)| Some(best(p) == *label as usize))
                .collect(),
            None => vec![None; labels.len()],
        };
        let gradients = losses.sum_all()?.backward()?;
        let gradient = gradients.get(&leaf).ok_or_else(|| {
            Error::Fault("no gradient reached the prompts: an operation without one".to_owned())
        })?;
        let mut records = gradient.flatten_from(1)?.to_vec2::<f32>()?;
        if let Some((features, mut slopes)) = head {
            for (b, slope) in slopes.iter_mut().enumerate() {
                slope[labels[b] as usize] -= 1.0;
                for s in slope.iter() {
                    records[b].extend(features[b].iter().map(|f| s * f));
                }
                records[b].extend_from_slice(slope);
            }
        }
        let each = records.into_iter().zip(each_loss).zip(right);
        Ok(each
            .map(|((values, loss), right)| RecordGradient {
                values,
                loss: loss.into(),
                right,
            })
            .collect())
    }

    fn losses_after(&self, prompts: &Tensor, examples: &[&Example]) -> Result<Tensor> {
        match &self.answer {
            Answer::Classifier { .. } => {
                let labels: Vec<u32> = examples.iter().map(|e| e.label as u32).collect();
                Ok(pick(&self.scores_after(prompts, examples)?, &labels)?.neg()?)
            }
            Answer::Verbalizer(verbalizer) => {
                let answers: Vec<&[u32]> = examples
                    .iter()
                    .map(|e| answer(verbalizer, e.label))
                    .collect::<Result<_>>()?;
                Ok(self
                    .answer_log_probabilities(prompts, examples, &answers)?
                    .neg()?)
            }
        }
    }

    fn scores_after(&self, prompts: &Tensor, examples: &[&Example]) -> Result<Tensor> {
        match &self.answer {
            Answer::Classifier { classifier, .. } => {
                log_softmax(&classifier.forward(&self.features(prompts, examples)?)?)
            }
            Answer::Verbalizer(verbalizer) => match verbalizer.single_tokens() {
                Some(tokens) => {
                    let empty = vec![&[][..]; examples.len()];
                    let logits = self.answer_logits(prompts, examples, &empty)?;
                    let tokens = Tensor::new(tokens, self.backbone.device())?;
                    Ok(log_softmax(&logits)?.index_select(&tokens, 1)?)
                }
                None => {
                    let columns = (verbalizer.answers().iter())
                        .map(|a| {
                            self.answer_log_probabilities(
                                prompts,
                                examples,
                                &vec![a; examples.len()],
                            )
                        })
                        .collect::<Result<Vec<_>>>()?;
                    Ok(Tensor::stack(&columns, 1)?)
                }
            },
        }
    }

    /// The classifier's features, `[B, H]`.
    fn features(&self, prompts: &Tensor, examples: &[&Example]) -> Result<Tensor> {
        let Answer::Classifier {
            pooling,
            feature_length,
            ..
        } = &self.answer
        else {
            return Err(Error::Misuse("a verbalizer has no features".to_owned()));
        };
        let sequences: Vec<&[u32]> = examples.iter().map(|e| e.ids.as_slice()).collect();
        let (hidden, mask) = self.hidden(prompts, &sequences)?;
        let features = pooling.features(self.backbone, &hidden, &mask)?;
        match feature_length {
            Some(length) => normalise(&features, *length),
            None => Ok(features),
        }
    }

    /// Hidden states `[B, V + T, H]` and their mask `[B, V + T]`.
    fn hidden(&self, prompts: &Tensor, sequences: &[&[u32]]) -> Result<(Tensor, Tensor)> {
        let (ids, mask) = pad(sequences, self.backbone.device())?;
        let (batch, virtual_tokens, _) = prompts.dims3()?;
        let embeds = Tensor::cat(&[prompts, &self.backbone.embed(&ids)?], 1)?;
        let ones = Tensor::ones((batch, virtual_tokens), DType::F32, self.backbone.device())?;
        let mask = Tensor::cat(&[&ones, &mask], 1)?;
        Ok((self.backbone.forward(&embeds, &mask)?, mask))
    }

    /// log p(answer | prompt) of each example, `[B]`.
    fn answer_log_probabilities(
        &self,
        prompts: &Tensor,
        examples: &[&Example],
        answers: &[impl AsRef<[u32]>],
    ) -> Result<Tensor> {
        // The last token of an answer is predicted, never read.
        let read: Vec<&[u32]> = answers
            .iter()
            .map(|a| a.as_ref().split_last().map_or(&[][..], |(_, r)| r))
            .collect();
        let said: Vec<u32> = answers
            .iter()
            .flat_map(|a| a.as_ref().iter().copied())
            .collect();
        let logits = self.answer_logits(prompts, examples, &read)?;
        let each = log_likelihood(&logits, &said)?;
        if said.len() == examples.len() {
            return Ok(each);
        }
        // Sums the tokens of each answer: a [B, R] matrix of ones and zeros times [R, 1].
        let mut sums = vec![0_f32; examples.len() * said.len()];
        let mut column = 0;
        for (row, answer) in answers.iter().enumerate() {
            for _ in answer.as_ref() {
                sums[row * said.len() + column] = 1.0;
                column += 1;
            }
        }
        let shape = (examples.len(), said.len());
        let sums = Tensor::from_vec(sums, shape, self.backbone.device())?;
        Ok(sums.matmul(&each.unsqueeze(1)?)?.squeeze(1)?)
    }

    /// Logits `[R, vocabulary]` at the last position of each prompt and at every token of
    /// what is read after it, examples in turn.
    fn answer_logits(
        &self,
        prompts: &Tensor,
        examples: &[&Example],
        read: &[&[u32]],
    ) -> Result<Tensor> {
        let whole: Vec<Vec<u32>> = examples
            .iter()
            .zip(read)
            .map(|(e, read)| [e.ids.as_slice(), read].concat())
            .collect();
        let sequences: Vec<&[u32]> = whole.iter().map(Vec::as_slice).collect();
        let (hidden, _) = self.hidden(prompts, &sequences)?;
        let (_, positions, _) = hidden.dims3()?;
        let virtual_tokens = self.encoder.virtual_tokens();
        let mut rows = Vec::new();
        for (b, (example, read)) in examples.iter().zip(read).enumerate() {
            let first = b * positions + virtual_tokens + example.ids.len() - 1;
            rows.extend((first..=first + read.len()).map(|row| row as u32));
        }
        let rows = Tensor::new(rows, self.backbone.device())?;
        self.backbone
            .logits(&hidden.flatten(0, 1)?.index_select(&rows, 0)?)
    }
}

fn answer(verbalizer: &Verbalizer, label: usize) -> Result<&[u32]> {
    let answer = verbalizer.answers().get(label).map(Vec::as_slice);
    answer.ok_or_else(|| Error::Misuse(format!("the task has no label number {label}")))
}

fn start_encoder(
    backbone: &dyn Backbone,
    spec: &TrainingSpec,
    mut random: SplitMix,
) -> Result<Box<dyn Encoder>> {
    let (tokens, hidden, device) = (spec.virtual_tokens, backbone.hidden(), backbone.device());
    Ok(match spec.encoder {
        EncoderSpec::Embedding => {
            Box::new(Embedding::random(tokens, hidden, random.word(), device)?)
        }
        EncoderSpec::Words => {
            let words: Vec<u32> = (0..tokens)
                .map(|_| random.below(backbone.vocabulary()) as u32)
                .collect();
            let ids = Tensor::from_vec(words, (1, tokens), device)?;
            Box::new(Embedding::from_rows(&backbone.embed(&ids)?.squeeze(0)?)?)
        }
        EncoderSpec::Mlp { hidden: inner } => {
            Box::new(Mlp::random(tokens, hidden, inner, random.word(), device)?)
        }
    })
}

/// log softmax over the last dimension, from operations that all have gradients. (The maximum
/// is a constant: the result does not depend on it.)
fn log_softmax(logits: &Tensor) -> Result<Tensor> {
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(D::Minus1)?)?;
    let sum = shifted.exp()?.sum_keepdim(D::Minus1)?;
    Ok(shifted.broadcast_sub(&sum.log()?)?)
}

/// One column of each row: `[R, C]` and R columns → `[R]`.
fn pick(rows: &Tensor, columns: &[u32]) -> Result<Tensor> {
    let columns = Tensor::new(columns, rows.device())?.unsqueeze(1)?;
    Ok(rows.gather(&columns, 1)?.squeeze(1)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn log_softmax_is_right_for_large_scores_and_so_is_its_gradient() {
        let scores = Var::new(&[[1000_f32, 1001.0], [0.0, -2.0]], &Device::Cpu).unwrap();
        let picked = pick(&log_softmax(&scores).unwrap(), &[1, 0]).unwrap();
        let want = [-(1.0 + (-1_f64).exp()).ln(), -(1.0 + (-2_f64).exp()).ln()];
        for (have, want) in picked.to_vec1::<f32>().unwrap().into_iter().zip(want) {
            assert!((f64::from(have) - want).abs() < 1e-6, "{have} {want}");
        }
        let gradients = picked.sum_all().unwrap().backward().unwrap();
        let gradient = gradients.get(&scores).unwrap().to_vec2::<f32>().unwrap();
        // d log p_i / d s_j = [i = j] − p_j
        let p = 1.0 / (1.0 + (-1_f64).exp());
        assert!(
            (f64::from(gradient[0][1]) - (1.0 - p)).abs() < 1e-6,
            "{gradient:?}"
        );
        assert!(
            (f64::from(gradient[0][0]) + (1.0 - p)).abs() < 1e-6,
            "{gradient:?}"
        );
    }
}
