//! What runs without any file: sentences written for this project, and a small frozen model made from a seed.

use std::path::Path;

use ciphertune_tune::{
    backbone::random::{small_llama, write_random_llama},
    data::{Dataset, Schema},
    optimiser::OptimiserSpec,
    spec::TrainingSpec,
    tokenizer::word_level,
};

use crate::error::Result;

/// `sentence@label` lines: short financial headlines about companies that do not exist.
pub const HEADLINES: &str = include_str!("../assets/headlines.txt");

/// The name that errors and reports give them.
pub const NAME: &str = "the embedded headlines";

const SEED: u64 = 20_240_229;
const VOCABULARY: usize = 2_048;
const HIDDEN: usize = 128;
const LAYERS: usize = 2;

/// The embedded sentences.
pub fn read() -> Result<Dataset> {
    let schema = Schema::with_labels(["negative", "neutral", "positive"]);
    Ok(Dataset::parse(HEADLINES.as_bytes(), "txt", NAME, &schema)?)
}

/// Writes a Llama of two layers and hidden size 64 that was never trained, and a tokenizer of the headlines' words.
pub fn write_model(folder: &Path) -> Result<()> {
    let sentences: Vec<&str> = HEADLINES
        .lines()
        .filter_map(|line| line.rsplit_once('@'))
        .map(|(sentence, _)| sentence)
        .collect();
    let tokenizer = word_level(&sentences, VOCABULARY)?;
    let config = small_llama(tokenizer.vocab_size(), HIDDEN, LAYERS);
    write_random_llama(folder, &config, SEED)?;
    tokenizer.save(&folder.join("tokenizer.json"))?;
    Ok(())
}

/// How the small model is tuned: four steps a round, each over all that a member has. The hidden states of a model that
/// was never trained have one large direction in common, along which the labels of a small batch push the classifier
/// to and fro; over all records they do not.
pub fn training() -> TrainingSpec {
    TrainingSpec {
        virtual_tokens: 1,
        optimiser: OptimiserSpec::Sgd { momentum: 0.5 },
        prompt_rate: 0.02,
        classifier_rate: 0.02,
        batch_size: 360,
        local_epochs: 4,
        ..TrainingSpec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headlines_are_balanced_and_none_is_there_twice() {
        let data = read().unwrap();
        assert_eq!(data.duplicates(), 0);
        assert!(data.records().len() >= 300);
        for (label, count) in data.counts() {
            let share = count as f64 / data.records().len() as f64;
            assert!((0.25..0.42).contains(&share), "{label}: {share}");
        }
    }

    #[test]
    fn the_model_is_the_same_every_time() {
        let digest = || {
            let folder = tempfile::tempdir().unwrap();
            write_model(folder.path()).unwrap();
            let device = candle_core::Device::Cpu;
            let backbone = ciphertune_tune::backbone::load(folder.path(), &device).unwrap();
            assert_eq!((backbone.kind(), backbone.hidden()), ("llama", HIDDEN));
            backbone.digest()
        };
        assert_eq!(digest(), digest());
    }
}
