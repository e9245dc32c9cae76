//! What is wanted: signed by a researcher, constant for its life.

use std::{collections::BTreeSet, time::Duration};

use ciphertune_policy::{Adjacency, Decimal, Metric, Placement, Unit};
use prost::Message as _;

use crate::{
    digest::Digest,
    error::{Result, malformed},
    label::{self, Label},
    message,
    seat::MAX_SEATS,
    signed::{Object, decode, text},
};

/// The longest update, and the longest state: 2⁴⁰ numbers would be 2 TB; this is 2³².
pub const MAX_DIMENSION: u64 = 1 << 32;
/// What an aggregation remembers of each parameter, at most.
const MOST_MOMENTS: u64 = 2;

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
    /// With batches a round is one step along the sum of single records' clipped gradients; without, a sum of what members
    /// learned in their own training. Unit record has them always, unit institution never.
    pub batches: Option<Batches>,
}

/// Poisson batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batches {
    /// q: the probability with which each record enters a batch, on its own; 0 < q ≤ 1.
    pub sampling_rate: Decimal,
    /// The public number that the opened sum is divided by, whatever the batches' true sizes.
    pub nominal_batch: u32,
    /// The most examples that one member sums.
    pub max_examples: usize,
    /// What rides in the sum after each record's gradient, a coordinate each, in this order.
    pub metrics: BTreeSet<Metric>,
}

impl Mechanism {
    /// q: the probability with which a unit is part of a round.
    #[must_use]
    pub fn sampling_rate(&self) -> Decimal {
        self.batches
            .as_ref()
            .map_or(Decimal::ONE, |batches| batches.sampling_rate)
    }

    /// What is released of each round beside the model.
    #[must_use]
    pub fn metrics(&self) -> BTreeSet<Metric> {
        self.batches
            .as_ref()
            .map(|batches| batches.metrics.clone())
            .unwrap_or_default()
    }

    /// The most clipped vectors that one member sums.
    #[must_use]
    pub fn max_examples(&self) -> usize {
        self.batches
            .as_ref()
            .map_or(1, |batches| batches.max_examples)
    }
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
    /// d: length of the update; with batches, of one record's gradient and metrics.
    pub dimension: u64,
    /// Length of what members agree on after a round: the model, and after it the moments of the optimiser, with batches, or of
    /// the aggregation, without: none, d or 2·d.
    pub state: u64,
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
    /// Digest of the first state, which is derived from the seed in `tuning`.
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
        let mechanism = parse_mechanism(mechanism)?;
        let state = match raw.state {
            0 => raw.dimension,
            // The model, and what an aggregation remembers of each parameter.
            state
                if mechanism.batches.is_none()
                    && (!state.is_multiple_of(raw.dimension)
                        || state > MOST_MOMENTS * raw.dimension + raw.dimension) =>
            {
                return Err(malformed(
                    NAME,
                    format!(
                        "state = {state} without batches, of a model of {}",
                        raw.dimension
                    ),
                ));
            }
            state @ 1..=MAX_DIMENSION => state,
            state => return Err(malformed(NAME, format!("state = {state}"))),
        };
        Ok(Self {
            federation: text(NAME, "federation", raw.federation, 64)?,
            name: text(NAME, "name", raw.name, 256)?,
            backbone: Digest::parse(&raw.backbone)?,
            tuning: text(NAME, "tuning", raw.tuning, 64 << 10)?,
            task: text(NAME, "task", raw.task, 64)?,
            encoder: text(NAME, "encoder", raw.encoder, 64)?,
            mechanism,
            dimension: raw.dimension,
            state,
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
        let batches = mechanism.batches.as_ref();
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
                max_examples: mechanism.max_examples() as u32,
                sampling_rate: batches
                    .map(|batches| batches.sampling_rate.to_string())
                    .unwrap_or_default(),
                nominal_batch: batches.map_or(0, |batches| batches.nominal_batch),
                metrics: mechanism
                    .metrics()
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
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
            state: if self.state == self.dimension {
                0
            } else {
                self.state
            },
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
    let unit = raw.unit.parse().map_err(word)?;
    if raw.max_examples == 0 {
        return Err(malformed(NAME, "max_examples = 0"));
    }
    let metrics = raw
        .metrics
        .iter()
        .map(|metric| metric.parse().map_err(word));
    let metrics = metrics.collect::<Result<Vec<Metric>>>()?;
    if !metrics.is_sorted_by(|a, b| a < b) {
        return Err(malformed(NAME, "metrics out of order, or twice"));
    }
    let silent = raw.sampling_rate.is_empty()
        && raw.nominal_batch == 0
        && raw.max_examples == 1
        && metrics.is_empty();
    let batches = match unit {
        Unit::Institution | Unit::None if silent => None,
        Unit::Institution => return Err(malformed(NAME, format!("batches with unit {unit}"))),
        Unit::Record | Unit::None => {
            let rate = decimal("sampling_rate", &raw.sampling_rate)?;
            if rate.is_zero() || rate > Decimal::ONE {
                return Err(malformed(NAME, format!("sampling_rate = {rate}")));
            }
            if raw.nominal_batch == 0 {
                return Err(malformed(NAME, "nominal_batch = 0"));
            }
            Some(Batches {
                sampling_rate: rate,
                nominal_batch: raw.nominal_batch,
                max_examples: raw.max_examples as usize,
                metrics: metrics.into_iter().collect(),
            })
        }
    };
    Ok(Mechanism {
        unit,
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
        batches,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(unit: Unit) -> Job {
        let private = unit != Unit::None;
        Job {
            federation: "lab".into(),
            name: "batches".into(),
            backbone: Digest::sha256(b"backbone"),
            tuning: "{}".into(),
            task: "classification".into(),
            encoder: "embedding".into(),
            mechanism: Mechanism {
                unit,
                adjacency: Adjacency::ZeroOut,
                placement: Placement::Distributed,
                clip_norm: Decimal::ONE,
                noise_multiplier: if private { Decimal::ONE } else { Decimal::ZERO },
                epsilon: private.then_some(Decimal::ONE),
                delta: private.then(|| "1e-5".parse().unwrap()),
                value_bits: 12,
                batches: (unit == Unit::Record).then_some(Batches {
                    sampling_rate: Decimal::ONE,
                    nominal_batch: 1,
                    max_examples: 1,
                    metrics: BTreeSet::new(),
                }),
            },
            dimension: 5,
            state: 5,
            value_bound: 2047,
            rounds: 1,
            max_attempts: 1,
            min_contributors: 3,
            colluders: 0,
            threshold: None,
            committee: None,
            deadlines: Deadlines {
                contribute: Duration::from_secs(1),
                open: Duration::from_secs(1),
                agree: Duration::from_secs(1),
            },
            initial_model: Digest::sha256(b"model"),
            expected_members: 3,
            nonce: [0; 32],
        }
    }

    fn in_batches(unit: Unit) -> Job {
        let mut job = job(unit);
        job.mechanism.batches = Some(Batches {
            sampling_rate: "0.1".parse().unwrap(),
            nominal_batch: 180,
            max_examples: 600,
            metrics: Metric::ALL.iter().copied().collect(),
        });
        job.state = 15;
        job
    }

    /// What is said of a job whose bytes were changed.
    fn refused(job: &Job, change: impl FnOnce(&mut message::Job)) -> String {
        let mut raw = message::Job::decode(job.serialise().as_slice()).unwrap();
        change(&mut raw);
        Job::parse(&raw.encode_to_vec()).unwrap_err().to_string()
    }

    #[test]
    fn jobs_of_every_unit_survive_their_bytes() {
        for job in [
            job(Unit::None),
            job(Unit::Institution),
            job(Unit::Record),
            in_batches(Unit::Record),
            in_batches(Unit::None),
        ] {
            assert_eq!(Job::parse(&job.serialise()).unwrap(), job);
        }
        // A job without batches says nothing of them: as short as ever.
        let raw = message::Job::decode(job(Unit::Institution).serialise().as_slice()).unwrap();
        let mechanism = raw.mechanism.unwrap();
        assert_eq!(
            (mechanism.sampling_rate.as_str(), mechanism.nominal_batch),
            ("", 0)
        );
        assert_eq!(raw.state, 0);
    }

    #[test]
    fn a_sampling_rate_that_is_missing_or_no_probability_above_0_is_refused() {
        for rate in ["", "0", "1.0001", "2", "-0.1", "0,1", "nan"] {
            let said = refused(&in_batches(Unit::Record), |raw| {
                raw.mechanism.as_mut().unwrap().sampling_rate = rate.into();
            });
            assert!(said.contains("sampling_rate"), "{rate:?}: {said}");
        }
        let said = refused(&in_batches(Unit::Record), |raw| {
            raw.mechanism.as_mut().unwrap().nominal_batch = 0;
        });
        assert!(said.contains("nominal_batch = 0"), "{said}");
    }

    #[test]
    fn an_institution_has_no_batches_half_a_batch_is_none_and_moments_go_with_batches() {
        let changes: [fn(&mut message::Mechanism); 4] = [
            |raw| raw.sampling_rate = "0.1".into(),
            |raw| raw.nominal_batch = 1,
            |raw| raw.max_examples = 2,
            |raw| raw.metrics = vec!["training-loss".into()],
        ];
        for change in changes {
            let of = |unit| refused(&job(unit), |raw| change(raw.mechanism.as_mut().unwrap()));
            assert!(of(Unit::Institution).contains("batches with unit"));
            let said = of(Unit::None);
            assert!(
                said.contains("sampling_rate") || said.contains("nominal_batch"),
                "{said}"
            );
        }
        for unit in [Unit::None, Unit::Institution] {
            let mut moved = job(unit);
            moved.state = 15;
            assert_eq!(Job::parse(&moved.serialise()).unwrap(), moved);
            let said = refused(&job(unit), |raw| raw.state = 14);
            assert!(said.contains("without batches, of a model of"), "{said}");
            let said = refused(&job(unit), |raw| raw.state = 4 * raw.dimension);
            assert!(said.contains("without batches, of a model of"), "{said}");
        }
        let said = refused(&in_batches(Unit::Record), |raw| {
            raw.state = MAX_DIMENSION + 1
        });
        assert!(said.contains("state = 4294967297"), "{said}");
    }
}
