//! What is wanted: signed by a researcher, constant for its life.

use std::time::Duration;

use ciphertune_policy::{Adjacency, Decimal, Placement, Unit};
use prost::Message as _;

use crate::{
    digest::Digest,
    error::{Result, malformed},
    label::{self, Label},
    message,
    seat::MAX_SEATS,
    signed::{Object, decode, text},
};

/// The longest update: 2⁴⁰ numbers would be 2 TB; this is 2³².
pub const MAX_DIMENSION: u64 = 1 << 32;

/// The numbers of the privacy mechanism, as the job's author reckons them. Each member reckons anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mechanism {
    /// Whose presence is hidden.
    pub unit: Unit,
    /// Which inputs are neighbours.
    pub adjacency: Adjacency,
    /// Who adds the noise.
    pub placement: Placement,
    /// Clip bound C in L2.
    pub clip_norm: Decimal,
    /// z = σ/Δ₂; 0 for unit none alone.
    pub noise_multiplier: Decimal,
    /// Cost of the whole job; `None` for unit none.
    pub epsilon: Option<Decimal>,
    /// δ of that cost; `None` for unit none.
    pub delta: Option<Decimal>,
    /// Bits that one noised integer may take, sign included.
    pub value_bits: u32,
    /// Unit record: the most examples that one member sums; 1 for the other units.
    pub max_examples: usize,
}

/// One deadline a phase, counted from the phase's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// For training, sealing and sending.
    pub contribute: Duration,
    /// For echo and release.
    pub open: Duration,
    /// For opening the sum and agreeing on the model.
    pub agree: Duration,
}

/// A job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The federation that it is for.
    pub federation: String,
    /// A name for people.
    pub name: String,
    /// Digest of the frozen backbone's folder.
    pub backbone: Digest,
    /// Specification of the tuning engine, as JSON; the engine parses it. It carries no code.
    pub tuning: String,
    /// The kind of task, as policies name it; members hold it to `tuning`.
    pub task: String,
    /// The kind of prompt encoder, likewise.
    pub encoder: String,
    /// The privacy mechanism.
    pub mechanism: Mechanism,
    /// d: length of the update.
    pub dimension: u64,
    /// B: bound on one integer of one contribution.
    pub value_bound: u64,
    /// Rounds.
    pub rounds: u32,
    /// Attempts that one round may take.
    pub max_attempts: u32,
    /// Fewest contributors whose sum is opened.
    pub min_contributors: usize,
    /// Members assumed to help the server.
    pub colluders: usize,
    /// How many of those who hold shares it takes to open a sum, at least; `None`: as many as their number wants.
    pub threshold: Option<usize>,
    /// How many members are drawn to hold shares, at least; `None`: everybody in the cohort holds one.
    pub committee: Option<usize>,
    /// How long each phase may take.
    pub deadlines: Deadlines,
    /// Digest of the first model, which is derived from the seed in `tuning`.
    pub initial_model: Digest,
    /// How many admissions the server waits for before round 1.
    pub expected_members: usize,
    /// Two jobs with the same wishes stay two jobs.
    pub nonce: [u8; 32],
}

impl Object for Job {
    const LABEL: Label = label::JOB;

    fn parse(payload: &[u8]) -> Result<Self> {
        const NAME: &str = "job";
        let raw: message::Job = decode(NAME, payload)?;
        let mechanism = raw
            .mechanism
            .ok_or_else(|| malformed(NAME, "no mechanism"))?;
        let seats = |field: &str, value: u32, least: u32| {
            if value < least || value as usize > MAX_SEATS {
                return Err(malformed(
                    NAME,
                    format!("{field} = {value} is not in {least}..={MAX_SEATS}"),
                ));
            }
            Ok(value as usize)
        };
        let count = |field: &str, value: u32| {
            if value == 0 || value > 1_000_000 {
                return Err(malformed(NAME, format!("{field} = {value}")));
            }
            Ok(value)
        };
        let seconds = |field: &str, value: u32| {
            if value == 0 || value > 30 * 86_400 {
                return Err(malformed(
                    NAME,
                    format!("{field} = {value} s is not within 30 days"),
                ));
            }
            Ok(Duration::from_secs(value.into()))
        };
        if raw.dimension == 0 || raw.dimension > MAX_DIMENSION {
            return Err(malformed(NAME, format!("dimension = {}", raw.dimension)));
        }
        Ok(Self {
            federation: text(NAME, "federation", raw.federation, 64)?,
            name: text(NAME, "name", raw.name, 256)?,
            backbone: Digest::parse(&raw.backbone)?,
            tuning: text(NAME, "tuning", raw.tuning, 64 << 10)?,
            task: text(NAME, "task", raw.task, 64)?,
            encoder: text(NAME, "encoder", raw.encoder, 64)?,
            mechanism: parse_mechanism(mechanism)?,
            dimension: raw.dimension,
            value_bound: raw.value_bound,
            rounds: count("rounds", raw.rounds)?,
            max_attempts: count("max_attempts", raw.max_attempts)?,
            min_contributors: seats("min_contributors", raw.min_contributors, 2)?,
            colluders: seats("colluders", raw.colluders, 0)?,
            threshold: match seats("threshold", raw.threshold, 0)? {
                0 => None,
                threshold => Some(threshold),
            },
            committee: match seats("committee", raw.committee, 0)? {
                0 => None,
                size => Some(size),
            },
            deadlines: Deadlines {
                contribute: seconds("contribute_seconds", raw.contribute_seconds)?,
                open: seconds("open_seconds", raw.open_seconds)?,
                agree: seconds("agree_seconds", raw.agree_seconds)?,
            },
            initial_model: Digest::parse(&raw.initial_model)?,
            expected_members: seats("expected_members", raw.expected_members, 2)?,
            nonce: *Digest::parse(&raw.nonce)?.as_bytes(),
        })
    }

    fn serialise(&self) -> Vec<u8> {
        let mechanism = &self.mechanism;
        let decimal =
            |value: &Option<Decimal>| value.as_ref().map(ToString::to_string).unwrap_or_default();
        message::Job {
            federation: self.federation.clone(),
            name: self.name.clone(),
            backbone: self.backbone.as_bytes().to_vec(),
            tuning: self.tuning.clone(),
            mechanism: Some(message::Mechanism {
                unit: mechanism.unit.to_string(),
                adjacency: mechanism.adjacency.to_string(),
                placement: mechanism.placement.to_string(),
                clip_norm: mechanism.clip_norm.to_string(),
                noise_multiplier: mechanism.noise_multiplier.to_string(),
                epsilon: decimal(&mechanism.epsilon),
                delta: decimal(&mechanism.delta),
                value_bits: mechanism.value_bits,
                max_examples: mechanism.max_examples as u32,
            }),
            dimension: self.dimension,
            value_bound: self.value_bound,
            rounds: self.rounds,
            max_attempts: self.max_attempts,
            min_contributors: self.min_contributors as u32,
            colluders: self.colluders as u32,
            threshold: self.threshold.unwrap_or(0) as u32,
            contribute_seconds: self.deadlines.contribute.as_secs() as u32,
            open_seconds: self.deadlines.open.as_secs() as u32,
            agree_seconds: self.deadlines.agree.as_secs() as u32,
            initial_model: self.initial_model.as_bytes().to_vec(),
            expected_members: self.expected_members as u32,
            nonce: self.nonce.to_vec(),
            task: self.task.clone(),
            encoder: self.encoder.clone(),
            committee: self.committee.unwrap_or(0) as u32,
        }
        .encode_to_vec()
    }
}

fn parse_mechanism(raw: message::Mechanism) -> Result<Mechanism> {
    const NAME: &str = "mechanism";
    let decimal = |field: &str, value: &str| {
        value
            .parse::<Decimal>()
            .map_err(|error| malformed(NAME, format!("{field}: {error}")))
    };
    let optional = |field: &str, value: &str| match value {
        "" => Ok(None),
        value => decimal(field, value).map(Some),
    };
    let word = |error: ciphertune_policy::Error| malformed(NAME, error.to_string());
    Ok(Mechanism {
        unit: raw.unit.parse().map_err(word)?,
        adjacency: raw.adjacency.parse().map_err(word)?,
        placement: raw.placement.parse().map_err(word)?,
        clip_norm: decimal("clip_norm", &raw.clip_norm)?,
        noise_multiplier: decimal("noise_multiplier", &raw.noise_multiplier)?,
        epsilon: optional("epsilon", &raw.epsilon)?,
        delta: optional("delta", &raw.delta)?,
        value_bits: match raw.value_bits {
            bits @ 2..=48 => bits,
            bits => return Err(malformed(NAME, format!("value_bits = {bits}"))),
        },
        max_examples: match raw.max_examples {
            0 => return Err(malformed(NAME, "max_examples = 0")),
            examples => examples as usize,
        },
    })
}
