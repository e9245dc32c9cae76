//! What both sides are given: a model's folder, and a batch as text and as tokens.

use std::path::{Path, PathBuf};

use ciphertune_tune::{
    backbone::random::write_random_llama,
    tokenizer::{Tokenizer, word_level},
};
use serde::{Deserialize, Serialize};

use super::shape::{EncoderKind, Shape};
use crate::{Error, Result, bench::options::TuneOptions};

/// One batch for one model, as `tune_torch.py` reads it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Case {
    /// Which.
    pub shape: Shape,
    /// The model's folder, tokenizer included.
    pub model: PathBuf,
    /// The prompt encoder.
    pub encoder: EncoderKind,
    /// Width of its inner layers.
    pub encoder_hidden: usize,
    /// V.
    pub virtual_tokens: usize,
    /// Classes of a classifier; none: the answer is said by the language model.
    pub classes: Option<usize>,
    /// The examples' texts.
    pub sentences: Vec<String>,
    /// The text around them.
    pub template: String,
    /// What can be answered.
    pub names: Vec<String>,
    /// Each example's answer, by its place in `names`.
    pub labels: Vec<usize>,
    /// Each example's tokens, without the answer.
    pub inputs: Vec<Vec<u32>>,
    /// Each name's tokens; none of a classifier.
    pub answers: Vec<Vec<u32>>,
    /// Of AdamW.
    pub learning_rate: f64,
    /// Where both sides compute: `cpu`, `cuda`.
    pub device: String,
    /// Where this is written down.
    #[serde(skip)]
    pub path: PathBuf,
}

/// Tokens of an answer.
const ANSWER: usize = 4;
const SEED: u64 = 7;
/// Each one token of BERT's vocabulary.
const WORDS: [&str; 8] = [
    "profit", "sales", "rose", "fell", "company", "market", "year", "share",
];

impl Case {
    /// Writes `case.json` and, but for a model that is read, the model; `None` where that one is not given.
    pub fn write(shape: Shape, options: &TuneOptions, folder: &Path) -> Result<Option<Self>> {
        let batch = shape.batch();
        let case = match shape.llama() {
            Some(config) => {
                write_random_llama(folder, &config, SEED)?;
                let words: Vec<String> = (0..config.vocab_size).map(|i| format!("w{i}")).collect();
                let tokenizer = word_level(&[words.join(" ")], config.vocab_size)?;
                tokenizer.save(&folder.join("tokenizer.json"))?;
                let names = [0, 1].map(|name| words[name * ANSWER..(name + 1) * ANSWER].join(" "));
                let mut case = Self {
                    model: folder.to_path_buf(),
                    encoder_hidden: config.hidden_size,
                    template: "{sentence} is {label}".into(),
                    names: names.into(),
                    // "is" is a token too.
                    sentences: sentences(&words, batch.examples, batch.text_tokens - ANSWER - 1),
                    ..Self::empty(shape, options)
                };
                for name in &case.names {
                    case.answers.push(tokenizer.encode_bare(name)?);
                }
                let prompt = |sentence: &String| tokenizer.encode_bare(&format!("{sentence} is"));
                case.inputs = case
                    .sentences
                    .iter()
                    .map(prompt)
                    .collect::<Result<_, _>>()?;
                case
            }
            None => {
                let Some(model) = options.model.as_ref().filter(|model| model.exists()) else {
                    return Ok(None);
                };
                let tokenizer = Tokenizer::load(&model.join("tokenizer.json"))?;
                let words = WORDS.map(str::to_owned);
                let mut case = Self {
                    model: model.clone(),
                    encoder_hidden: hidden_size(model)?,
                    classes: Some(3),
                    template: "{sentence}".into(),
                    names: ["negative", "neutral", "positive"]
                        .map(str::to_owned)
                        .into(),
                    // [CLS] and [SEP] are tokens too.
                    sentences: sentences(&words, batch.examples, batch.text_tokens - 2),
                    ..Self::empty(shape, options)
                };
                let text = |sentence: &String| Ok::<_, Error>(tokenizer.encode(sentence)?.ids);
                case.inputs = case.sentences.iter().map(text).collect::<Result<_>>()?;
                case
            }
        };
        let answer = case.answers.first().map_or(0, Vec::len);
        if let Some(input) = case
            .inputs
            .iter()
            .find(|input| input.len() + answer != batch.text_tokens)
        {
            return Err(Error::Refused(format!(
                "{} tokens, not {}",
                input.len() + answer,
                batch.text_tokens
            )));
        }
        let case = Self {
            labels: (0..batch.examples)
                .map(|example| example % case.names.len())
                .collect(),
            path: folder.join("case.json"),
            ..case
        };
        let text = serde_json::to_string(&case).map_err(|error| Error::fault("a case", error))?;
        std::fs::write(&case.path, text).map_err(|error| Error::fault("writing a case", error))?;
        Ok(Some(case))
    }

    /// What [`Case::write`] wrote.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(|error| Error::fault("reading a case", error))?;
        serde_json::from_str(&text).map_err(|error| Error::fault("a case", error))
    }

    fn empty(shape: Shape, options: &TuneOptions) -> Self {
        Self {
            shape,
            model: PathBuf::new(),
            encoder: options.encoder,
            encoder_hidden: 0,
            virtual_tokens: shape.batch().virtual_tokens,
            classes: None,
            sentences: Vec::new(),
            template: String::new(),
            names: Vec::new(),
            labels: Vec::new(),
            inputs: Vec::new(),
            answers: Vec::new(),
            learning_rate: 1e-4,
            device: options.device.clone(),
            path: PathBuf::new(),
        }
    }
}

/// So many sentences of so many words, each another.
fn sentences(words: &[String], count: usize, length: usize) -> Vec<String> {
    let sentence = |example: usize| {
        let word = |place: usize| words[(example * 7_919 + place * 31) % words.len()].as_str();
        (0..length).map(word).collect::<Vec<_>>().join(" ")
    };
    (0..count).map(sentence).collect()
}

fn hidden_size(model: &Path) -> Result<usize> {
    #[derive(Deserialize)]
    struct Config {
        hidden_size: usize,
    }
    let path = model.join("config.json");
    let text = std::fs::read_to_string(&path)
        .map_err(|error| Error::Usage(format!("{}: {error}", path.display())))?;
    let config: Config = serde_json::from_str(&text)
        .map_err(|error| Error::Usage(format!("{}: {error}", path.display())))?;
    Ok(config.hidden_size)
}
