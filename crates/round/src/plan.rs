//! One attempt of one round of one job: made and signed by the server, held by every member against all that it knows.

use ciphertune_policy::Proposal;
use ciphertune_sum::{CohortSize, Parameters, ValueBound};
use prost::Message as _;

use crate::{
    digest::{Context, Digest, Fingerprint},
    envelope::{Envelope, Keyring},
    error::{Error, Result, malformed},
    job::{Job, MAX_DIMENSION},
    label::{self, Label},
    message,
    one_time_key::OneTimeKeyOffer,
    seat::{MAX_SEATS, Seat, ShareIndex},
    signed::{Object, Signed, decode, require, text},
};

/// The protocol's version, in every plan.
pub const VERSION: u32 = 1;

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The federation.
    pub federation: String,
    /// Digest of the manifest in force.
    pub manifest: Digest,
    /// Digest of the job.
    pub job: Digest,
    /// Round, from 1.
    pub round: u32,
    /// Attempt at this round, from 1.
    pub attempt: u32,
    /// Round 1: the job's first model; later: the keyed digest that the last round agreed on.
    pub model: Digest,
    /// Digest of the effective policy: the strictest of `policies`.
    pub policy: Digest,
    /// The policies that it merges, each signed by an officer; the federation's first.
    pub policies: Vec<Envelope>,
    /// The cohort, in the manifest's order.
    pub seats: Vec<Seat>,
    /// t: members that it takes to open the sum.
    pub threshold: usize,
    /// Fewest contributors whose sum is opened.
    pub min_contributors: usize,
    /// c: members assumed to help the server.
    pub colluders: usize,
    /// Name of the parameter set.
    pub parameters: String,
    /// d: length of the update.
    pub dimension: u64,
    /// B: bound on one integer of one contribution.
    pub value_bound: u64,
    /// From the server's entropy: no two contexts are alike.
    pub nonce: [u8; 32],
}

impl Object for Plan {
    const LABEL: Label = label::PLAN;

    fn parse(payload: &[u8]) -> Result<Self> {
        const NAME: &str = "plan";
        let raw: message::Plan = decode(NAME, payload)?;
        require(raw.version == VERSION, || {
            format!(
                "the plan speaks version {}, this member {VERSION}",
                raw.version
            )
        })?;
        if raw.seats.len() < 2 || raw.seats.len() > MAX_SEATS {
            return Err(malformed(NAME, format!("{} seats", raw.seats.len())));
        }
        if raw.round == 0 || raw.attempt == 0 {
            return Err(malformed(NAME, "rounds and attempts count from 1"));
        }
        if raw.dimension == 0 || raw.dimension > MAX_DIMENSION {
            return Err(malformed(NAME, format!("dimension = {}", raw.dimension)));
        }
        if raw.policies.is_empty() || raw.policies.len() > MAX_SEATS + 1 {
            return Err(malformed(NAME, format!("{} policies", raw.policies.len())));
        }
        let seats = raw
            .seats
            .iter()
            .map(|seat| {
                Ok(Seat {
                    member: Fingerprint::parse(&seat.member)?,
                    one_time_key: Envelope::decode(&seat.one_time_key)?,
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let mut members: Vec<_> = seats.iter().map(|seat| seat.member).collect();
        members.sort_unstable();
        members.dedup();
        if members.len() != seats.len() {
            return Err(malformed(NAME, "a member has two seats"));
        }
        Ok(Self {
            federation: text(NAME, "federation", raw.federation, 64)?,
            manifest: Digest::parse(&raw.manifest)?,
            job: Digest::parse(&raw.job)?,
            round: raw.round,
            attempt: raw.attempt,
            model: Digest::parse(&raw.model)?,
            policy: Digest::parse(&raw.policy)?,
            policies: raw
                .policies
                .iter()
                .map(|policy| Envelope::decode(policy))
                .collect::<Result<_>>()?,
            seats,
            threshold: raw.threshold as usize,
            min_contributors: raw.min_contributors as usize,
            colluders: raw.colluders as usize,
            parameters: text(NAME, "parameters", raw.parameters, 128)?,
            dimension: raw.dimension,
            value_bound: raw.value_bound,
            nonce: *Digest::parse(&raw.nonce)?.as_bytes(),
        })
    }

    fn serialise(&self) -> Vec<u8> {
        message::Plan {
            version: VERSION,
            federation: self.federation.clone(),
            manifest: self.manifest.as_bytes().to_vec(),
            job: self.job.as_bytes().to_vec(),
            round: self.round,
            attempt: self.attempt,
            model: self.model.as_bytes().to_vec(),
            policy: self.policy.as_bytes().to_vec(),
            policies: self.policies.iter().map(Envelope::encode).collect(),
            seats: self
                .seats
                .iter()
                .map(|seat| message::Seat {
                    member: seat.member.as_bytes().to_vec(),
                    one_time_key: seat.one_time_key.encode(),
                })
                .collect(),
            threshold: self.threshold as u32,
            min_contributors: self.min_contributors as u32,
            colluders: self.colluders as u32,
            parameters: self.parameters.clone(),
            dimension: self.dimension,
            value_bound: self.value_bound,
            nonce: self.nonce.to_vec(),
        }
        .encode_to_vec()
    }
}

impl Signed<Plan> {
    /// What everything in this attempt is bound to.
    pub fn context(&self) -> Context {
        Context::of_plan(self.envelope().payload())
    }
}

impl Plan {
    /// What the plan asks of a policy, for its job.
    pub fn proposal(&self, job: &Job) -> Proposal {
        job.proposal(
            self.seats.len(),
            self.threshold,
            self.min_contributors,
            self.colluders,
        )
    }

    /// The seat of a member, or `None` for one outside the cohort.
    pub fn seat_of(&self, member: &Fingerprint) -> Option<ShareIndex> {
        let position = self.seats.iter().position(|seat| seat.member == *member)?;
        ShareIndex::at(position).ok()
    }

    /// The length of the update as an index.
    pub fn length(&self) -> Result<usize> {
        usize::try_from(self.dimension)
            .map_err(|_| Error::Refused(format!("{} numbers do not fit here", self.dimension)))
    }

    /// The parameter set, derived anew from (n, B) and held to the plan's name for it.
    pub fn parameters(&self) -> Result<Parameters> {
        let refused = |error: ciphertune_sum::Error| Error::Refused(error.to_string());
        let parameters = Parameters::derive(
            CohortSize::new(self.seats.len()).map_err(refused)?,
            ValueBound::new(self.value_bound).map_err(refused)?,
        )
        .map_err(refused)?;
        require(parameters.name() == self.parameters, || {
            format!(
                "the plan names parameters {}, but its cohort and value bound give {}",
                self.parameters,
                parameters.name()
            )
        })?;
        Ok(parameters)
    }

    /// Holds the plan against its job, and the thresholds against one another (protocol §2): a plan may be stricter
    /// than its job, never wider.
    pub fn check_against(&self, job: &Signed<Job>) -> Result<()> {
        let n = self.seats.len();
        require(self.job == job.digest(), || {
            "the plan is for another job".into()
        })?;
        require(self.federation == job.federation, || {
            format!(
                "the plan is for federation {:?}, the job for {:?}",
                self.federation, job.federation
            )
        })?;
        require(self.round <= job.rounds, || {
            format!("round {} of {}", self.round, job.rounds)
        })?;
        require(self.attempt <= job.max_attempts, || {
            format!("attempt {} of {}", self.attempt, job.max_attempts)
        })?;
        require(self.round > 1 || self.model == job.initial_model, || {
            "round 1 does not start from the job's first model".into()
        })?;
        require(self.dimension == job.dimension, || {
            format!(
                "the plan's update has {} numbers, the job's {}",
                self.dimension, job.dimension
            )
        })?;
        require(self.value_bound == job.value_bound, || {
            format!(
                "the plan's value bound is {}, the job's {}",
                self.value_bound, job.value_bound
            )
        })?;
        require(self.min_contributors >= job.min_contributors, || {
            format!(
                "min_contributors {} is below the job's {}",
                self.min_contributors, job.min_contributors
            )
        })?;
        require(self.colluders >= job.colluders, || {
            format!(
                "colluders {} are fewer than the job's {}",
                self.colluders, job.colluders
            )
        })?;
        require(
            job.threshold.is_none_or(|least| self.threshold >= least),
            || format!("threshold {} is below the job's", self.threshold),
        )?;
        require(self.min_contributors <= n && self.threshold <= n, || {
            format!(
                "threshold {} and min_contributors {} do not fit a cohort of {n}",
                self.threshold, self.min_contributors
            )
        })?;
        require(2 * self.threshold > n + self.colluders, || {
            format!(
                "threshold {} admits two rosters: 2t ≥ n + c + 1 wants {} with n = {n}, c = {}",
                self.threshold,
                (n + self.colluders) / 2 + 1,
                self.colluders
            )
        })?;
        require(self.min_contributors >= self.colluders + 2, || {
            format!(
                "min_contributors {} leaves fewer than two honest contributors beside {} colluders",
                self.min_contributors, self.colluders
            )
        })
    }

    /// Verifies each seat's one-time key with its member's key: nobody else could have made it.
    pub fn one_time_keys(&self, keyring: &dyn Keyring) -> Result<Vec<Signed<OneTimeKeyOffer>>> {
        self.seats
            .iter()
            .map(|seat| {
                let offer = Signed::<OneTimeKeyOffer>::verify(seat.one_time_key.clone(), keyring)?;
                require(
                    offer.signer() == seat.member && offer.member == seat.member,
                    || "a seat's one-time key was signed by another".into(),
                )?;
                Ok(offer)
            })
            .collect()
    }
}
