//! One attempt of one round of one job: made and signed by the server, held by every member against all that it knows.

use ciphertune_policy::Sharing;
use ciphertune_sum::{CohortSize, Parameters, ValueBound};
use prost::Message as _;

use crate::{
    committee::Committee,
    digest::{Context, Digest, Fingerprint},
    envelope::{Envelope, Keyring},
    error::{Error, Result, malformed},
    job::{Job, MAX_DIMENSION},
    label::{self, Label},
    message,
    one_time_key::OneTimeKeyOffer,
    seat::{MAX_SEATS, Seat, ShareIndex},
    signed::{Object, Signed, decode, require, text},
    terms::Terms,
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
    /// Number of the authority's revocation list that the server holds callers to.
    pub revocation_number: u64,
    /// Its digest.
    pub revocations: Digest,
    /// Digest of the effective policy: the strictest of `policies`.
    pub policy: Digest,
    /// The policies that it merges, each signed by an officer; the federation's first.
    pub policies: Vec<Envelope>,
    /// The cohort, in the manifest's order.
    pub seats: Vec<Seat>,
    /// The committee that holds shares; `None`: every seat holds one.
    pub committee: Option<Committee>,
    /// t: how many of those who hold shares it takes to open the sum.
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
        let committee = committee(raw.committee, &raw.holders, seats.len())?;
        Ok(Self {
            federation: text(NAME, "federation", raw.federation, 64)?,
            manifest: Digest::parse(&raw.manifest)?,
            job: Digest::parse(&raw.job)?,
            round: raw.round,
            attempt: raw.attempt,
            model: Digest::parse(&raw.model)?,
            revocation_number: raw.revocation_number,
            revocations: Digest::parse(&raw.revocations)?,
            policy: Digest::parse(&raw.policy)?,
            policies: raw
                .policies
                .iter()
                .map(|policy| Envelope::decode(policy))
                .collect::<Result<_>>()?,
            seats,
            committee,
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
            revocation_number: self.revocation_number,
            revocations: self.revocations.as_bytes().to_vec(),
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
            committee: self.committee.as_ref().map_or(0, |drawn| drawn.size) as u32,
            holders: self
                .committee
                .iter()
                .flat_map(|drawn| &drawn.holders)
                .map(|seat| seat.get().into())
                .collect(),
        }
        .encode_to_vec()
    }
}

/// The committee as a plan states it: seats of the cohort, ascending, no more than were drawn.
fn committee(size: u32, holders: &[u32], seats: usize) -> Result<Option<Committee>> {
    const NAME: &str = "plan";
    let size = size as usize;
    if size > MAX_SEATS || holders.len() > size.min(seats) {
        return Err(malformed(
            NAME,
            format!("{} holders of a committee of {size}", holders.len()),
        ));
    }
    if size == 0 {
        return Ok(None);
    }
    let holders = holders
        .iter()
        .map(|seat| {
            u16::try_from(*seat)
                .ok()
                .and_then(|seat| ShareIndex::new(seat).ok())
                .filter(|seat| seat.position() < seats)
                .ok_or_else(|| malformed(NAME, format!("a holder at seat {seat} of {seats}")))
        })
        .collect::<Result<Vec<_>>>()?;
    if !holders.is_sorted_by(|a, b| a < b) {
        return Err(malformed(
            NAME,
            "the holders are not in the order of their seats",
        ));
    }
    Ok(Some(Committee { size, holders }))
}

impl Signed<Plan> {
    /// What everything in this attempt is bound to.
    pub fn context(&self) -> Context {
        Context::of_plan(self.envelope().payload())
    }
}

impl Plan {
    /// The plan's counts, in a federation of so many members.
    pub fn terms(&self, members: usize) -> Terms {
        Terms {
            members,
            cohort: self.seats.len(),
            min_contributors: self.min_contributors,
            colluders: self.colluders,
            committee: self.committee.as_ref().map(|drawn| drawn.size),
            threshold: self.threshold,
        }
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

    /// Holds the plan against its job, the thresholds against one another (protocol §2), and the committee against the
    /// draw among `members`, all members of the manifest that the plan names: a plan may be stricter than its job, never
    /// wider.
    pub fn check_against(&self, job: &Signed<Job>, members: &[Fingerprint]) -> Result<()> {
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
        require(self.min_contributors <= n, || {
            format!(
                "min_contributors {} does not fit a cohort of {n}",
                self.min_contributors
            )
        })?;
        self.check_sharing(job, members)?;
        require(self.min_contributors >= self.colluders + 2, || {
            format!(
                "min_contributors {} leaves fewer than two honest contributors beside {} colluders",
                self.min_contributors, self.colluders
            )
        })
    }

    /// Who holds shares, and how many of them open: within the committee as within a cohort (protocol §2), and enough of
    /// the drawn members have seats.
    fn check_sharing(&self, job: &Job, members: &[Fingerprint]) -> Result<()> {
        let (n, t) = (self.seats.len(), self.threshold);
        let size = self.committee.as_ref().map(|drawn| drawn.size);
        require(
            size.is_none_or(|size| job.committee.is_some_and(|least| size >= least)),
            || {
                format!(
                    "a committee of {} is not what the job asks for",
                    size.unwrap_or_default()
                )
            },
        )?;
        let sharing = Sharing::of(members.len(), n, self.colluders, size)
            .map_err(|error| Error::Refused(error.to_string()))?;
        let among = if size.is_some() {
            "committee"
        } else {
            "cohort"
        };
        let Sharing { holders, colluders } = sharing;
        require(t <= holders, || {
            format!("threshold {t} does not fit a {among} of {holders}")
        })?;
        require(t >= sharing.least_threshold(), || {
            format!(
                "threshold {t} admits two rosters: 2t ≥ n + c + 1 wants {} with n = {holders}, c = {colluders} in the {among}",
                sharing.least_threshold(),
            )
        })?;
        let Some(stated) = &self.committee else {
            return Ok(());
        };
        let drawn = Committee::draw(stated.size, &self.job, &self.model, members, &self.seats);
        require(drawn == *stated, || {
            "the plan's committee is not the one that job and model draw".into()
        })?;
        require(drawn.holders.len() >= t, || {
            format!(
                "{} of the {} drawn members have seats, and it takes {t} to open a sum",
                drawn.holders.len(),
                drawn.size
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
