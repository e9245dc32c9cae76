//! For tests: a causal "backbone" of a few lines, whose every operation candle differentiates.

use candle_core::{Device, Tensor};

use crate::backbone::Backbone;
use crate::data::Record;
use crate::random::SplitMix;
use crate::tokenizer::{Tokenizer, word_level};
use crate::{Error, Result};

/// hidden_t = tanh(W·(e_t + mean_{s ≤ t} e_s)); logits = E·hidden.
pub(crate) struct Toy {
    table: Tensor,
    weight: Tensor,
    positions: usize,
}

impl Toy {
    pub(crate) fn new(vocabulary: usize, hidden: usize, positions: usize) -> Self {
        let mut random = SplitMix::new(17);
        let table = random.normal(vocabulary * hidden, 1.0);
        let weight = random.normal(hidden * hidden, 1.0 / (hidden as f64).sqrt());
        Self {
            table: Tensor::from_vec(table, (vocabulary, hidden), &Device::Cpu).unwrap(),
            weight: Tensor::from_vec(weight, (hidden, hidden), &Device::Cpu).unwrap(),
            positions,
        }
    }
}

impl Backbone for Toy {
    fn hidden(&self) -> usize {
        self.weight.dims()[0]
    }

    fn vocabulary(&self) -> usize {
        self.table.dims()[0]
    }

    fn max_positions(&self) -> usize {
        self.positions
    }

    fn kind(&self) -> &'static str {
        "toy"
    }

    fn device(&self) -> &Device {
        &Device::Cpu
    }

    fn embed(&self, ids: &Tensor) -> Result<Tensor> {
        let (batch, length) = ids.dims2()?;
        let rows = self.table.index_select(&ids.flatten_all()?, 0)?;
        Ok(rows.reshape((batch, length, self.hidden()))?)
    }

    fn forward(&self, embeds: &Tensor, mask: &Tensor) -> Result<Tensor> {
        let (batch, length, hidden) = embeds.dims3()?;
        if length > self.positions || mask.dims() != [batch, length] {
            return Err(Error::Misuse(format!(
                "{length} positions, mask {:?}",
                mask.dims()
            )));
        }
        let means: Vec<f32> = (0..length * length)
            .map(|i| (i / length, i % length))
            .map(|(t, s)| if s <= t { 1.0 / (t + 1) as f32 } else { 0.0 })
            .collect();
        let means = Tensor::from_vec(means, (1, length, length), &Device::Cpu)?;
        let means = means.broadcast_as((batch, length, length))?.contiguous()?;
        let mixed = (embeds + means.matmul(&embeds.contiguous()?)?)?;
        let rows = mixed
            .reshape((batch * length, hidden))?
            .matmul(&self.weight)?
            .tanh()?;
        let hidden = rows.reshape((batch, length, hidden))?;
        Ok(hidden.broadcast_mul(&mask.unsqueeze(2)?)?)
    }

    fn speaks(&self) -> bool {
        true
    }

    fn pools(&self) -> bool {
        true
    }

    fn logits(&self, rows: &Tensor) -> Result<Tensor> {
        Ok(rows.matmul(&self.table.t()?)?)
    }

    fn pool(&self, rows: &Tensor) -> Result<Tensor> {
        Ok(rows.clone())
    }

    fn is_small(&self) -> bool {
        true
    }

    fn digest(&self) -> [u8; 32] {
        [0; 32]
    }
}

/// Sixty made-up headlines: five subjects, three moods of four verbs.
pub(crate) fn headlines() -> Vec<Record> {
    let moods = [
        ("positive", ["rose", "improved", "doubled", "recovered"]),
        ("negative", ["fell", "shrank", "halved", "collapsed"]),
        (
            "neutral",
            [
                "were reported",
                "stayed flat",
                "are due today",
                "did not change",
            ],
        ),
    ];
    let subjects = [
        "sales",
        "exports of pulp",
        "profits",
        "orders at the yard",
        "margins",
    ];
    (subjects.iter())
        .flat_map(|subject| moods.iter().map(move |mood| (subject, mood)))
        .flat_map(|(subject, (label, verbs))| {
            verbs
                .iter()
                .map(move |verb| Record::sentence(format!("{subject} {verb}"), *label))
        })
        .collect()
}

/// A word-level tokenizer of the headlines and of what templates around them say.
pub(crate) fn headline_tokenizer() -> Tokenizer {
    let mut sentences: Vec<String> = headlines()
        .into_iter()
        .map(|r| format!("{} {}", r.fields["sentence"], r.label))
        .collect();
    sentences.push("sentiment: very".to_owned());
    word_level(&sentences, 64).unwrap()
}
