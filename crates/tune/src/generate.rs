//! Text that a model writes behind a tuned prompt, one token at a time.

use candle_core::Tensor;

use crate::backbone::Cache;
use crate::data::Record;
use crate::random::SplitMix;
use crate::trainer::Trainer;
use crate::{Error, Result};

/// How the next token is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sampling {
    /// Scores are divided by this before the softmax; 0: always the likeliest token (greedy).
    pub temperature: f64,
    /// Of the likeliest tokens, only as many as are needed to reach this probability are drawn from (Holtzman et al., "The
    /// curious case of neural text degeneration", ICLR 2020); 1: all.
    pub top_p: f64,
    /// Tokens at most.
    pub most_tokens: usize,
    /// Decides what is drawn.
    pub seed: u64,
}

impl Default for Sampling {
    /// Greedy, 64 tokens.
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_p: 1.0,
            most_tokens: 64,
            seed: 0,
        }
    }
}

impl Sampling {
    /// Refuses values outside their ranges.
    ///
    /// # Errors
    /// [`Error::Misuse`] naming the value.
    pub fn check(&self) -> Result<()> {
        let refused = |name: &str, value: &dyn std::fmt::Display, range: &str| {
            Err(Error::Misuse(format!("{name} = {value} must be {range}")))
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return refused("temperature", &self.temperature, "0 or more");
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return refused("top_p", &self.top_p, "above 0 and at most 1");
        }
        if self.most_tokens == 0 {
            return refused("most_tokens", &self.most_tokens, "1 or more");
        }
        Ok(())
    }

    /// The next token, from the logits of the whole vocabulary.
    fn choose(&self, logits: &[f32], random: &mut SplitMix) -> u32 {
        if self.temperature == 0.0 {
            return crate::evaluate::best(logits) as u32;
        }
        let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let mut likely: Vec<(u32, f64)> = (0..)
            .zip(logits)
            .map(|(token, s)| (token, (f64::from(s - top) / self.temperature).exp()))
            .collect();
        if self.top_p < 1.0 {
            // Equal ones in the vocabulary's order: the same choice on every run.
            likely.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let enough = self.top_p * likely.iter().map(|(_, p)| p).sum::<f64>();
            let mut sum = 0.0;
            let before = likely.iter().take_while(|(_, p)| {
                let more = sum < enough;
                sum += p;
                more
            });
            let kept = before.count().max(1);
            likely.truncate(kept);
        }
        let mut left = random.unit() * likely.iter().map(|(_, p)| p).sum::<f64>();
        for (token, p) in &likely {
            left -= p;
            if left < 0.0 {
                return *token;
            }
        }
        likely.last().map_or(0, |(token, _)| *token)
    }
}

/// What was written behind one text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its tokens, without the one that ended it.
    pub tokens: Vec<u32>,
    /// Their text.
    pub text: String,
    /// Why it ended.
    pub ending: Ending,
    /// Whether the text before it was cut to the backbone's context.
    pub truncated: bool,
}

/// Why a text ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// The model said that the text ends.
    EndOfText,
    /// It had as many tokens as were asked for.
    MostTokens,
    /// The backbone has no more positions.
    Context,
}

/// A tuned prompt that texts are written behind: its keys and values are computed once.
pub struct Writer<'t> {
    trainer: &'t Trainer<'t>,
    prefix: Cache,
}

impl Trainer<'_> {
    /// Gets ready to write behind the prompt of `parameters`.
    ///
    /// # Errors
    /// [`Error::Misuse`] for parameters of another length, or a backbone that cannot write.
    pub fn writer(&self, parameters: &[f32]) -> Result<Writer<'_>> {
        self.trainable().assign(parameters)?;
        let backbone = self.model.backbone();
        let mut prefix = backbone.start()?;
        let prompt = self.model.prompt()?;
        let prompt = prompt.embeddings().to_device(backbone.device())?;
        backbone.extend(&prompt.unsqueeze(0)?, &mut prefix)?;
        Ok(Writer {
            trainer: self,
            prefix,
        })
    }
}

impl Writer<'_> {
    /// Writes behind each record's prompt. `progress` hears each token's text as it comes, and ends the writing by
    /// `false`.
    ///
    /// # Errors
    /// As [`crate::task::Task::prompts`]; [`Error::Misuse`] as [`Sampling::check`].
    pub fn write(
        &self,
        record: &Record,
        sampling: &Sampling,
        progress: &mut dyn FnMut(&str) -> bool,
    ) -> Result<Written> {
        sampling.check()?;
        let trainer = self.trainer;
        let backbone = trainer.model.backbone();
        let room = trainer.room();
        // A prompt leaves room for what is asked for, but no less than half the room is its own.
        let reserved = sampling.most_tokens.min(room.positions / 2);
        let records = std::slice::from_ref(record);
        let texts = (trainer.task()).prompts(trainer.tokenizer(), records, &room, reserved)?;
        let [(ids, truncated)] = texts.as_slice() else {
            return Err(Error::Fault("one record gave no prompt".to_owned()));
        };
        let mut cache = self.prefix.clone();
        let mut random = SplitMix::new(sampling.seed);
        let (mut tokens, mut text) = (Vec::new(), String::new());
        let mut read = ids.clone();
        let ending = loop {
            let count = read.len();
            let ids = Tensor::from_vec(read, (1, count), backbone.device())?;
            let hidden = backbone.extend(&backbone.embed(&ids)?, &mut cache)?;
            let last = hidden.narrow(1, count - 1, 1)?.squeeze(1)?;
            let logits = backbone.logits(&last)?.squeeze(0)?.to_vec1::<f32>()?;
            let token = sampling.choose(&logits, &mut random);
            if backbone.end_of_text().contains(&token) {
                break Ending::EndOfText;
            }
            tokens.push(token);
            // A character may be several tokens: what is there is decoded whole.
            let whole = trainer.tokenizer().decode(&tokens)?;
            let more = match whole.strip_prefix(text.as_str()) {
                Some(new) if !new.ends_with('\u{FFFD}') => progress(new).then(|| whole.clone()),
                _ => Some(text.clone()),
            };
            match more {
                Some(said) => text = said,
                None => return Err(Error::Stopped),
            }
            if tokens.len() == sampling.most_tokens {
                break Ending::MostTokens;
            }
            if cache.len() == backbone.max_positions() {
                break Ending::Context;
            }
            read = vec![token];
        };
        let whole = trainer.tokenizer().decode(&tokens)?;
        match whole.strip_prefix(text.as_str()) {
            Some("") => {}
            Some(rest) => drop(progress(rest)),
            // A later token changed how an earlier one reads.
            None => drop(progress(&format!("\n{whole}"))),
        }
        Ok(Written {
            text: whole,
            tokens,
            ending,
            truncated: *truncated,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [1.0, 3.0, 2.0, f32::NEG_INFINITY];

    fn shares(sampling: Sampling) -> [f64; 4] {
        let mut random = SplitMix::new(5);
        let mut counts = [0_u32; 4];
        for _ in 0..20_000 {
            counts[sampling.choose(&LOGITS, &mut random) as usize] += 1;
        }
        counts.map(|count| f64::from(count) / 20_000.0)
    }

    #[test]
    fn greedy_takes_the_likeliest_and_temperature_draws_by_softmax() {
        assert_eq!(shares(Sampling::default()), [0.0, 1.0, 0.0, 0.0]);
        for temperature in [0.5, 1.0, 3.0] {
            let drawn = shares(Sampling {
                temperature,
                ..Sampling::default()
            });
            let raised = LOGITS.map(|s| (f64::from(s) / temperature).exp());
            let sum: f64 = raised.iter().sum();
            for (have, want) in drawn.iter().zip(raised) {
                assert!((have - want / sum).abs() < 0.02, "{drawn:?}");
            }
        }
    }

    #[test]
    fn top_p_leaves_the_likeliest_that_reach_it() {
        // Softmax: 0.090, 0.665, 0.245.
        for (top_p, kept) in [(0.5, 1), (0.7, 2), (0.95, 3)] {
            let drawn = shares(Sampling {
                temperature: 1.0,
                top_p,
                ..Sampling::default()
            });
            assert_eq!(drawn.iter().filter(|share| **share > 0.0).count(), kept);
        }
    }

    #[test]
    fn values_outside_their_ranges_are_refused_by_name() {
        for (sampling, name) in [
            (
                Sampling {
                    temperature: -1.0,
                    ..Sampling::default()
                },
                "temperature",
            ),
            (
                Sampling {
                    top_p: 0.0,
                    ..Sampling::default()
                },
                "top_p",
            ),
            (
                Sampling {
                    top_p: f64::NAN,
                    ..Sampling::default()
                },
                "top_p",
            ),
            (
                Sampling {
                    most_tokens: 0,
                    ..Sampling::default()
                },
                "most_tokens",
            ),
        ] {
            let refused = sampling.check().unwrap_err().to_string();
            assert!(refused.contains(name), "{refused}");
        }
    }
}
