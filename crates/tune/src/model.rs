//! The backbone with its prompt and its task: a batch to the losses of its answers.

use candle_core::{D, DType, Device, Tensor, Var};

use crate::backbone::{Backbone, log_likelihood};
use crate::batch::pad;
use crate::encoder::embedding::Embedding;
use crate::encoder::lstm::Lstm;
use crate::encoder::mlp::{Depth, Mlp};
use crate::encoder::{Encoder, Prompt};
use crate::evaluate::best;
use crate::head::{Classifier, Pooling, normalise};
use crate::parameters::Trainable;
use crate::random::SplitMix;
use crate::spec::{EncoderSpec, HeadStart, TrainingSpec};
use crate::task::{Answer, Example, Route, Task};
use crate::tokenizer::Tokenizer;
use crate::verbalizer::Verbalizer;
use crate::{Error, Result};

/// A frozen backbone, what is trained, and how answers are scored.
pub(crate) struct Model<'a> {
    backbone: &'a dyn Backbone,
    encoder: Box<dyn Encoder>,
    trainable: Trainable,
    scoring: Scoring,
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

/// How an answer in words was met by what the model would have said.
pub(crate) struct Met {
    /// Mean of −log p over the answer's tokens, each after those before it.
    pub(crate) loss: f64,
    /// Tokens of the answer.
    pub(crate) tokens: usize,
    /// How many of them were the likeliest after those before them.
    pub(crate) right: usize,
}

/// How answers are scored.
enum Scoring {
    /// log softmax of a layer over pooled hidden states.
    Classifier {
        classifier: Classifier,
        pooling: Pooling,
        feature_length: Option<f64>,
    },
    /// Σ log p of the label's tokens.
    Verbalizer(Verbalizer),
    /// Mean of log p over the tokens of the record's own answer.
    Words,
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
        let scoring = match task.route() {
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
                Scoring::Classifier {
                    classifier,
                    pooling,
                    feature_length,
                }
            }
            Route::Verbalizer => Scoring::Verbalizer(Verbalizer::new(task, tokenizer)?),
            Route::Generation => Scoring::Words,
        };
        let classifier = match &scoring {
            Scoring::Classifier { classifier, .. } => Some(classifier),
            Scoring::Verbalizer(_) | Scoring::Words => None,
        };
        let trainable = Trainable::gather(encoder.as_ref(), classifier);
        Ok(Self {
            backbone,
            encoder,
            trainable,
            scoring,
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

    /// The classifier, where labels are scored by one.
    pub(crate) fn classifier(&self) -> Option<&Classifier> {
        match &self.scoring {
            Scoring::Classifier { classifier, .. } => Some(classifier),
            Scoring::Verbalizer(_) | Scoring::Words => None,
        }
    }

    /// Number of parameters that are the classifier's, at the end of θ.
    pub(crate) fn classifier_dimension(&self) -> usize {
        (self.classifier()).map_or(0, |it| it.labels() * (self.backbone.hidden() + 1))
    }

    /// Tokens of the longest label that the language model says.
    pub(crate) fn longest_label(&self) -> usize {
        match &self.scoring {
            Scoring::Verbalizer(verbalizer) => verbalizer.longest(),
            Scoring::Classifier { .. } | Scoring::Words => 0,
        }
    }

    /// P(θ), for [`Model::scores`] and [`Model::met`].
    pub(crate) fn prompt(&self) -> Result<Prompt> {
        self.encoder.forward()
    }

    /// Each example's own gradient of its own loss, `[B]` vectors: ∂ℓ_b/∂P row-major, then,
    /// where there is a classifier, (p_b − 1_b) ⊗ f_b for its weight and p_b − 1_b for its
    /// bias (the softmax's derivative, with the features f_b).
    ///
    /// Each example gets a copy of the prompt of its own as a leaf, and the losses are
    /// summed: one backward pass gives every ∂ℓ_b/∂P.
    pub(crate) fn record_gradients(&self, examples: &[&Example]) -> Result<Vec<RecordGradient>> {
        let prompt = self.prompt()?;
        let leaf = for_each(prompt.embeddings(), examples.len())?.contiguous()?;
        let leaf = Var::from_tensor(&leaf)?;
        let (losses, head) = match &self.scoring {
            Scoring::Classifier { classifier, .. } => {
                let labels = labels(examples)?;
                let features = self.features(leaf.as_tensor(), &prompts_of(examples))?;
                let scores = log_softmax(&classifier.forward(&features)?)?;
                let features = features.detach().to_vec2::<f32>()?;
                let probabilities = scores.detach().exp()?.to_vec2::<f32>()?;
                (
                    pick(&scores, &labels)?.neg()?,
                    Some((features, probabilities, labels)),
                )
            }
            Scoring::Verbalizer(_) | Scoring::Words => {
                (self.losses(leaf.as_tensor(), examples)?, None)
            }
        };
        let each_loss = losses.detach().to_vec1::<f32>()?;
        let right: Vec<Option<bool>> = match &head {
            Some((_, probabilities, labels)) => (probabilities.iter().zip(labels))
                .map(|(p, label)| Some(best(p) == *label as usize))
                .collect(),
            None => vec![None; examples.len()],
        };
        let gradients = losses.sum_all()?.backward()?;
        let gradient = gradients.get(&leaf).ok_or_else(no_gradient)?;
        let mut records = gradient.flatten_from(1)?.to_vec2::<f32>()?;
        if let Some((features, mut slopes, labels)) = head {
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

    /// −log p(answer | prompt) of each example, `[B]`, differentiable in `prompts`: `[V, H]` for all of them, or one each,
    /// `[B, V, H]`. Of an answer in words, the mean over its tokens.
    pub(crate) fn losses(&self, prompts: &Tensor, examples: &[&Example]) -> Result<Tensor> {
        let answers: Vec<&[u32]> = match &self.scoring {
            Scoring::Classifier { .. } => {
                let scores = self.scores(prompts, &prompts_of(examples))?;
                return Ok(pick(&scores, &labels(examples)?)?.neg()?);
            }
            Scoring::Verbalizer(verbalizer) => (examples.iter())
                .map(|example| answer(verbalizer, example.label()?))
                .collect::<Result<_>>()?,
            Scoring::Words => words(examples)?,
        };
        let logits = self.answer_logits(prompts, &prompts_of(examples), &read(&answers))?;
        let each = log_likelihood(&logits, &answers.concat())?;
        let share = |answer: &[u32]| match &self.scoring {
            Scoring::Words => 1.0 / answer.len() as f32,
            _ => 1.0,
        };
        Ok(sum_by_answer(&each, &answers, share)?.neg()?)
    }

    /// log p of each label, `[B, L]`, after prompts as in [`Model::losses`]: over the labels for a classifier, over all that the
    /// model could say for a verbalizer.
    ///
    /// # Errors
    /// [`Error::Misuse`] where answers are in words.
    pub(crate) fn scores(&self, prompts: &Tensor, texts: &[&[u32]]) -> Result<Tensor> {
        match &self.scoring {
            Scoring::Classifier { classifier, .. } => {
                log_softmax(&classifier.forward(&self.features(prompts, texts)?)?)
            }
            Scoring::Verbalizer(verbalizer) => match verbalizer.single_tokens() {
                Some(tokens) => {
                    let nothing = vec![&[][..]; texts.len()];
                    let logits = self.answer_logits(prompts, texts, &nothing)?;
                    let tokens = Tensor::new(tokens, self.backbone.device())?;
                    Ok(log_softmax(&logits)?.index_select(&tokens, 1)?)
                }
                None => {
                    let column = |answer: &Vec<u32>| {
                        let answers = vec![answer.as_slice(); texts.len()];
                        let logits = self.answer_logits(prompts, texts, &read(&answers))?;
                        let each = log_likelihood(&logits, &answers.concat())?;
                        sum_by_answer(&each, &answers, |_| 1.0)
                    };
                    let columns = verbalizer.answers().iter().map(column);
                    Ok(Tensor::stack(&columns.collect::<Result<Vec<_>>>()?, 1)?)
                }
            },
            Scoring::Words => Err(Error::Misuse(
                "answers in words are not of a list to be scored".to_owned(),
            )),
        }
    }

    /// How the model meets answers in words.
    pub(crate) fn met(&self, prompts: &Tensor, examples: &[&Example]) -> Result<Vec<Met>> {
        let answers = words(examples)?;
        let logits = self.answer_logits(prompts, &prompts_of(examples), &read(&answers))?;
        let likeliest = logits.argmax(D::Minus1)?.to_vec1::<u32>()?;
        let each = log_likelihood(&logits, &answers.concat())?.to_vec1::<f32>()?;
        let (mut each, mut likeliest) = (each.into_iter(), likeliest.into_iter());
        let met = answers.iter().map(|answer| {
            let loss: f64 = each.by_ref().take(answer.len()).map(f64::from).sum();
            let said = likeliest.by_ref().take(answer.len());
            Met {
                loss: -loss / answer.len() as f64,
                tokens: answer.len(),
                right: said
                    .zip(*answer)
                    .filter(|(said, token)| said == *token)
                    .count(),
            }
        });
        Ok(met.collect())
    }

    /// The classifier's features, `[B, H]`.
    fn features(&self, prompts: &Tensor, texts: &[&[u32]]) -> Result<Tensor> {
        let Scoring::Classifier {
            pooling,
            feature_length,
            ..
        } = &self.scoring
        else {
            return Err(Error::Misuse("only a classifier has features".to_owned()));
        };
        let (hidden, mask) = self.hidden(prompts, texts)?;
        let features = pooling.features(self.backbone, &hidden, &mask)?;
        match feature_length {
            Some(length) => normalise(&features, *length),
            None => Ok(features),
        }
    }

    /// Hidden states `[B, V + T, H]` and their mask `[B, V + T]`.
    fn hidden(&self, prompts: &Tensor, sequences: &[&[u32]]) -> Result<(Tensor, Tensor)> {
        let device = self.backbone.device();
        let prompts = match prompts.rank() {
            2 => for_each(prompts, sequences.len())?,
            _ => prompts.clone(),
        };
        let prompts = prompts.to_device(device)?;
        let (ids, mask) = pad(sequences, device)?;
        let (batch, virtual_tokens, _) = prompts.dims3()?;
        let embeds = Tensor::cat(&[&prompts, &self.backbone.embed(&ids)?], 1)?;
        let ones = Tensor::ones((batch, virtual_tokens), DType::F32, device)?;
        let mask = Tensor::cat(&[&ones, &mask], 1)?;
        Ok((self.backbone.forward(&embeds, &mask)?, mask))
    }

    /// Logits `[R, vocabulary]` at the last position of each text and at every token of
    /// what is read after it, texts in turn.
    fn answer_logits(&self, prompts: &Tensor, texts: &[&[u32]], read: &[&[u32]]) -> Result<Tensor> {
        let pairs = || texts.iter().zip(read);
        let whole: Vec<Vec<u32>> = pairs().map(|(text, read)| [*text, read].concat()).collect();
        let sequences: Vec<&[u32]> = whole.iter().map(Vec::as_slice).collect();
        let (hidden, _) = self.hidden(prompts, &sequences)?;
        let (_, positions, _) = hidden.dims3()?;
        let virtual_tokens = self.encoder.virtual_tokens();
        let mut rows = Vec::new();
        for (b, (text, read)) in pairs().enumerate() {
            let first = b * positions + virtual_tokens + text.len() - 1;
            rows.extend((first..=first + read.len()).map(|row| row as u32));
        }
        let rows = Tensor::new(rows, self.backbone.device())?;
        self.backbone
            .logits(&hidden.flatten(0, 1)?.index_select(&rows, 0)?)
    }
}

/// P `[V, H]` once for each of `batch` examples.
fn for_each(prompt: &Tensor, batch: usize) -> Result<Tensor> {
    let (virtual_tokens, width) = prompt.dims2()?;
    let shape = (batch, virtual_tokens, width);
    Ok(prompt.unsqueeze(0)?.broadcast_as(shape)?)
}

/// Their prompts' tokens.
pub(crate) fn prompts_of<'e>(examples: &[&'e Example]) -> Vec<&'e [u32]> {
    examples
        .iter()
        .map(|example| example.ids.as_slice())
        .collect()
}

fn labels(examples: &[&Example]) -> Result<Vec<u32>> {
    let each = examples.iter().map(|example| Ok(example.label()? as u32));
    each.collect()
}

/// Their answers in words.
fn words<'e>(examples: &[&'e Example]) -> Result<Vec<&'e [u32]>> {
    let each = examples.iter().map(|example| match &example.answer {
        Answer::Words(tokens) => Ok(tokens.as_slice()),
        Answer::Label(_) => Err(Error::Misuse("a label is no answer in words".to_owned())),
    });
    each.collect()
}

/// What is read of each answer: the last token is predicted, never read.
fn read<'t>(answers: &[&'t [u32]]) -> Vec<&'t [u32]> {
    let each = answers.iter();
    each.map(|answer| answer.split_last().map_or(&[][..], |(_, read)| read))
        .collect()
}

/// Σ over each answer's tokens of `each` `[R]`, times the answer's share: `[B]`.
fn sum_by_answer(
    each: &Tensor,
    answers: &[&[u32]],
    share: impl Fn(&[u32]) -> f32,
) -> Result<Tensor> {
    let (count, total) = (answers.len(), each.elem_count());
    // A [B, R] matrix of shares and zeros times [R, 1].
    let mut sums = vec![0_f32; count * total];
    let mut column = 0;
    for (row, answer) in answers.iter().enumerate() {
        let first = row * total + column;
        sums[first..first + answer.len()].fill(share(answer));
        column += answer.len();
    }
    let sums = Tensor::from_vec(sums, (count, total), each.device())?;
    Ok(sums.matmul(&each.unsqueeze(1)?)?.squeeze(1)?)
}

pub(crate) fn no_gradient() -> Error {
    Error::Fault("no gradient came back: an operation without one".to_owned())
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
    // Encoders are small, and all members' must agree to the bit: they stay on the CPU.
    let (tokens, hidden, device) = (spec.virtual_tokens, backbone.hidden(), &Device::Cpu);
    Ok(match spec.encoder {
        EncoderSpec::Embedding => {
            Box::new(Embedding::random(tokens, hidden, random.word(), device)?)
        }
        EncoderSpec::Words => {
            let words: Vec<u32> = (0..tokens)
                .map(|_| random.below(backbone.vocabulary()) as u32)
                .collect();
            let ids = Tensor::from_vec(words, (1, tokens), backbone.device())?;
            let rows = backbone.embed(&ids)?.squeeze(0)?.to_device(device)?;
            Box::new(Embedding::from_rows(&rows)?)
        }
        EncoderSpec::Mlp { hidden: inner } | EncoderSpec::NemoMlp { hidden: inner } => {
            let depth = match spec.encoder {
                EncoderSpec::NemoMlp { .. } => Depth::Nemo,
                _ => Depth::Peft,
            };
            let seed = random.word();
            Box::new(Mlp::random(tokens, hidden, inner, depth, seed, device)?)
        }
        EncoderSpec::Lstm {
            hidden: inner,
            layers,
        } => {
            let seed = random.word();
            Box::new(Lstm::random(tokens, hidden, inner, layers, seed, device)?)
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
