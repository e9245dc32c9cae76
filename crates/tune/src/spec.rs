//! Every choice of a training job: what members must agree on before the first round.

use serde::{Deserialize, Serialize};

use crate::aggregation::Aggregation;
use crate::head::Pooling;
use crate::optimiser::{OptimiserSpec, Schedule};
use crate::{Error, Result};

/// How one member p-tunes in one round. What a file leaves out is as [`TrainingSpec::default`] has it, but for
/// `feature_length`: left out, there is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainingSpec {
    /// What makes the virtual-token embeddings.
    pub encoder: EncoderSpec,
    /// V, the number of virtual tokens.
    pub virtual_tokens: usize,
    /// How hidden states become the classifier's features.
    #[serde(with = "pooling")]
    pub pooling: Pooling,
    /// Features are scaled to this length; none: left as they are.
    #[serde(default)]
    pub feature_length: Option<f64>,
    /// How the classifier starts.
    pub head_start: HeadStart,
    /// Where a record's gradient is clipped, at record level.
    #[serde(default, skip_serializing_if = "ClipSpace::is_prompt")]
    pub clip_space: ClipSpace,
    /// Learning rate of the encoder's parameters.
    pub prompt_rate: f64,
    /// Learning rate of the classifier's.
    pub classifier_rate: f64,
    /// The optimiser; its state is fresh in every round, but goes from round to round at record level.
    pub optimiser: OptimiserSpec,
    /// How the learning rates move over all rounds.
    pub schedule: Schedule,
    /// The rounds that the schedule spans.
    pub rounds: u32,
    /// Examples a step; at record level, where coins decide who is in one, examples computed at a time.
    pub batch_size: usize,
    /// Passes over the member's data a round; without meaning at record level, as is `proximal`.
    pub local_epochs: u32,
    /// FedProx's μ: the loss gains μ/2·‖θ − θ_global‖² (Li et al. 2020, eq. 2); 0: FedAvg.
    pub proximal: f64,
    /// How the mean of the members' updates moves the model; without meaning at record level, where the optimiser does.
    #[serde(default, skip_serializing_if = "Aggregation::is_fed_avg")]
    pub aggregation: Aggregation,
    /// Decides the order of examples.
    pub seed: u64,
}

impl Default for TrainingSpec {
    /// What served best on a sentence encoder of hidden size 384 and three labels, three
    /// members of 600 sentences.
    fn default() -> Self {
        Self {
            encoder: EncoderSpec::Words,
            virtual_tokens: 4,
            pooling: Pooling::Mean,
            feature_length: Some(8.0),
            head_start: HeadStart::Zeros,
            clip_space: ClipSpace::Prompt,
            prompt_rate: 0.01,
            classifier_rate: 0.03,
            optimiser: OptimiserSpec::default(),
            schedule: Schedule::Constant,
            rounds: 10,
            batch_size: 32,
            local_epochs: 1,
            proximal: 0.0,
            aggregation: Aggregation::FedAvg,
            seed: 0,
        }
    }
}

impl TrainingSpec {
    /// Refuses values outside their ranges.
    ///
    /// # Errors
    /// [`Error::Misuse`] naming the value.
    pub fn check(&self) -> Result<()> {
        let positive = |name: &str, ok: bool, value: String| {
            if ok {
                Ok(())
            } else {
                Err(Error::Misuse(format!("{name} = {value} must be positive")))
            }
        };
        let real = |name: &str, x: f64| positive(name, x > 0.0 && x.is_finite(), x.to_string());
        let count = |name: &str, n: u64| positive(name, n > 0, n.to_string());
        // A specification comes from somebody else: bounded before anything is allocated for it.
        let most = |name: &str, n: usize, limit: usize| {
            if n <= limit {
                Ok(())
            } else {
                Err(Error::Misuse(format!("{name} = {n} is more than {limit}")))
            }
        };
        most("virtual_tokens", self.virtual_tokens, 4_096)?;
        most("batch_size", self.batch_size, 1 << 20)?;
        let (inner, layers) = self.encoder.size();
        most("encoder.hidden", inner, 16_384)?;
        most("encoder.layers", layers, 16)?;
        count("virtual_tokens", self.virtual_tokens as u64)?;
        count("batch_size", self.batch_size as u64)?;
        count("local_epochs", u64::from(self.local_epochs))?;
        count("rounds", u64::from(self.rounds))?;
        real("prompt_rate", self.prompt_rate)?;
        real("classifier_rate", self.classifier_rate)?;
        count("encoder.hidden", inner as u64)?;
        count("encoder.layers", layers as u64)?;
        if let Some(length) = self.feature_length {
            real("feature_length", length)?;
        }
        if !(self.proximal >= 0.0 && self.proximal.is_finite()) {
            return Err(Error::Misuse(format!(
                "proximal = {} must be 0 or more",
                self.proximal
            )));
        }
        self.aggregation.check()?;
        self.optimiser.check()
    }
}

/// Parameters that an encoder may have: twice those of PEFT's LSTM before the 20-billion GPT, 2 GB in f32.
const MOST_PARAMETERS: u128 = 1 << 29;

impl TrainingSpec {
    /// Refuses an encoder too large to be made for embeddings of length `width`, before any of it is.
    ///
    /// # Errors
    /// [`Error::Refused`] with its size.
    pub fn check_size(&self, width: usize) -> Result<()> {
        let size = self
            .encoder
            .parameters(self.virtual_tokens as u128, width as u128);
        if size <= MOST_PARAMETERS {
            return Ok(());
        }
        Err(Error::Refused(format!(
            "an encoder of {size} parameters; at most {MOST_PARAMETERS}: lower encoder.hidden, encoder.layers or virtual_tokens"
        )))
    }
}

/// Which prompt encoder, and how it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "lowercase", deny_unknown_fields)]
#[non_exhaustive]
pub enum EncoderSpec {
    /// The embeddings themselves, started from N(0, 1).
    Embedding,
    /// The embeddings themselves, started from those of random tokens of the vocabulary: in
    /// the range the backbone is used to.
    Words,
    /// PEFT's three-layer perceptron over an embedding.
    Mlp {
        /// Width of its inner layers.
        hidden: usize,
    },
    /// NeMo's two-layer perceptron over an embedding.
    #[serde(rename = "nemo-mlp")]
    NemoMlp {
        /// Width between its layers.
        hidden: usize,
    },
    /// PEFT's bidirectional LSTM over an embedding, and a two-layer perceptron.
    Lstm {
        /// M, the width of a direction.
        hidden: usize,
        /// Layers of the LSTM.
        layers: usize,
    },
}

impl EncoderSpec {
    /// The name a policy knows the encoder by.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Embedding | Self::Words => "embedding",
            Self::Mlp { .. } => "mlp",
            Self::NemoMlp { .. } => "nemo-mlp",
            Self::Lstm { .. } => "lstm",
        }
    }

    /// |θ| of the encoder, of V virtual tokens of length H.
    fn parameters(&self, tokens: u128, width: u128) -> u128 {
        let linear = |inputs: u128, outputs: u128| (inputs + 1) * outputs;
        let embedding = tokens * width;
        match *self {
            Self::Embedding | Self::Words => embedding,
            Self::Mlp { hidden } => {
                let inner = hidden as u128;
                embedding + linear(width, inner) + linear(inner, inner) + linear(inner, width)
            }
            Self::NemoMlp { hidden } => {
                embedding + linear(width, hidden as u128) + linear(hidden as u128, width)
            }
            Self::Lstm { hidden, layers } => {
                let inner = hidden as u128;
                let direction = |inputs: u128| 4 * inner * (inputs + inner + 2);
                let deeper = (layers as u128).saturating_sub(1) * direction(2 * inner);
                embedding
                    + 2 * (direction(width) + deeper)
                    + linear(2 * inner, 2 * inner)
                    + linear(2 * inner, width)
            }
        }
    }

    /// Inner width and layers; 1 where there is no such thing.
    fn size(&self) -> (usize, usize) {
        match *self {
            Self::Embedding | Self::Words => (1, 1),
            Self::Mlp { hidden } | Self::NemoMlp { hidden } => (hidden, 1),
            Self::Lstm { hidden, layers } => (hidden, layers),
        }
    }
}

/// Of what a record's gradient is the gradient when it is clipped, and so what is sealed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClipSpace {
    /// Of the prompt, V·H numbers; what was opened is pulled back through the encoder afterwards. Little has to be drowned in
    /// noise, and little is sent.
    #[default]
    Prompt,
    /// Of θ itself: pulled back record by record, before it is clipped. Noise falls on as many numbers as the encoder has.
    Parameters,
}

impl ClipSpace {
    fn is_prompt(&self) -> bool {
        *self == Self::Prompt
    }
}

/// How the classifier's weights start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HeadStart {
    /// All zero.
    Zeros,
    /// N(0, 0.02²), as transformers starts it.
    Random,
}

/// [`Pooling`] by name.
mod pooling {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::head::Pooling;

    pub fn serialize<S: Serializer>(pooling: &Pooling, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(match pooling {
            Pooling::First => "first",
            Pooling::Mean => "mean",
        })
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Pooling, D::Error> {
        match String::deserialize(d)?.as_str() {
            "first" => Ok(Pooling::First),
            "mean" => Ok(Pooling::Mean),
            other => Err(D::Error::unknown_variant(other, &["first", "mean"])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spec_survives_json_and_unknown_keys_are_refused() {
        let mut spec = TrainingSpec {
            schedule: Schedule::Cosine { warmup: 3 },
            ..TrainingSpec::default()
        };
        let mut json = String::new();
        for encoder in [
            EncoderSpec::Mlp { hidden: 128 },
            EncoderSpec::NemoMlp { hidden: 128 },
            EncoderSpec::Lstm {
                hidden: 128,
                layers: 2,
            },
        ] {
            spec.encoder = encoder;
            json = serde_json::to_string(&spec).unwrap();
            assert!(json.contains(&format!("{{\"name\":\"{}\",", encoder.kind())));
            assert_eq!(serde_json::from_str::<TrainingSpec>(&json).unwrap(), spec);
        }
        let wrong = json.replacen("\"seed\"", "\"sead\"", 1);
        assert!(serde_json::from_str::<TrainingSpec>(&wrong).is_err());
        let wrong = json.replacen("\"mean\"", "\"mode\"", 1);
        assert!(serde_json::from_str::<TrainingSpec>(&wrong).is_err());
    }

    #[test]
    fn an_encoder_is_counted_before_it_is_made() {
        let toy = crate::toy::Toy::new(64, 16, 32);
        let template = crate::template::Template::parse("{sentence} {label}").unwrap();
        let labels = vec!["positive".to_owned(), "negative".to_owned()];
        let task =
            crate::task::Task::new(template, labels, crate::task::Route::Verbalizer).unwrap();
        for encoder in [
            EncoderSpec::Words,
            EncoderSpec::Mlp { hidden: 5 },
            EncoderSpec::NemoMlp { hidden: 5 },
            EncoderSpec::Lstm {
                hidden: 5,
                layers: 3,
            },
        ] {
            let spec = TrainingSpec {
                encoder,
                ..TrainingSpec::default()
            };
            let tokenizer = crate::toy::headline_tokenizer();
            let trainer =
                crate::trainer::Trainer::new(&toy, spec, tokenizer, task.clone()).unwrap();
            assert_eq!(trainer.dimension() as u128, encoder.parameters(4, 16));
        }
        let huge = TrainingSpec {
            encoder: EncoderSpec::Lstm {
                hidden: 16_384,
                layers: 16,
            },
            ..TrainingSpec::default()
        };
        assert!(huge.check().is_ok());
        assert!(matches!(huge.check_size(384), Err(Error::Refused(_))));
        // The largest that is published: the 20-billion GPT with NeMo's and with PEFT's encoders.
        for encoder in [
            EncoderSpec::Mlp { hidden: 6_144 },
            EncoderSpec::Lstm {
                hidden: 2_048,
                layers: 2,
            },
        ] {
            let spec = TrainingSpec {
                encoder,
                ..TrainingSpec::default()
            };
            assert!(spec.check_size(6_144).is_ok());
        }
    }

    #[test]
    fn values_outside_their_ranges_are_refused_by_name() {
        let refused = |change: fn(&mut TrainingSpec), name: &str| {
            let mut spec = TrainingSpec::default();
            change(&mut spec);
            let error = spec.check().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        };
        assert!(TrainingSpec::default().check().is_ok());
        refused(|s| s.virtual_tokens = 0, "virtual_tokens");
        refused(|s| s.batch_size = 0, "batch_size");
        refused(|s| s.local_epochs = 0, "local_epochs");
        refused(|s| s.prompt_rate = f64::NAN, "prompt_rate");
        refused(|s| s.classifier_rate = -1.0, "classifier_rate");
        refused(|s| s.feature_length = Some(0.0), "feature_length");
        refused(|s| s.proximal = -0.1, "proximal");
        refused(
            |s| s.encoder = EncoderSpec::Mlp { hidden: 0 },
            "encoder.hidden",
        );
        refused(
            |s| s.encoder = EncoderSpec::NemoMlp { hidden: 16_385 },
            "encoder.hidden",
        );
        refused(
            |s| {
                s.encoder = EncoderSpec::Lstm {
                    hidden: 8,
                    layers: 0,
                }
            },
            "encoder.layers",
        );
        refused(
            |s| s.optimiser = OptimiserSpec::Sgd { momentum: 2.0 },
            "momentum",
        );
    }
}
