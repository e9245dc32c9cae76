//! The certificate that a roster is the one of its context: t echoes of it, as they were signed.
//!
//! Two rosters of one context cannot both gather t echoes (2t ≥ n + c + 1 among those that hold shares), so what a
//! contribution has cost follows from the one that did. On this evidence alone a ledger's charge is lowered.

use std::collections::BTreeSet;

use ciphertune_identity::{Manifest, Role};
use ciphertune_round::{
    Context, Contributor, Digest, Echo, Envelope, Fingerprint, MAX_SEATS, Plan, Roster, Signed,
};

use crate::{
    error::{Error, Result},
    site::verify_as,
};

/// A roster, its plan, and t echoes or more of distinct members that hold shares; every signature was verified.
#[derive(Debug)]
pub struct Certificate {
    plan: Signed<Plan>,
    roster: Signed<Roster>,
    echoes: Vec<Signed<Echo>>,
    contributors: Vec<Contributor>,
}

impl Certificate {
    /// Of a plan that was vetted.
    ///
    /// # Errors
    /// [`Error::Refused`] says what is missing for the roster to be the one of the plan's context.
    pub fn new(
        plan: Signed<Plan>,
        roster: Signed<Roster>,
        echoes: Vec<Signed<Echo>>,
        manifest: &Manifest,
    ) -> Result<Self> {
        let refused = |said: String| Err(Error::Refused(format!("certificate: {said}")));
        let contributors = roster.contributors(&plan, manifest, None)?;
        let (context, digest) = (plan.context(), roster.digest());
        let mut seats = BTreeSet::new();
        for echo in &echoes {
            if echo.context != context {
                return refused("an echo is for another context".into());
            }
            if echo.roster != digest {
                return refused("an echo is of another roster".into());
            }
            let seat = plan.seat_of(&echo.signer());
            let Some(seat) = seat.filter(|seat| plan.place_of(*seat).is_some()) else {
                return refused(format!("{} echoed and holds no shares", echo.signer()));
            };
            if !seats.insert(seat) {
                return refused(format!("seat {seat} echoed twice"));
            }
        }
        if seats.len() < plan.threshold {
            return refused(format!(
                "{} members echoed the roster, and it takes {}",
                seats.len(),
                plan.threshold
            ));
        }
        Ok(Self {
            plan,
            roster,
            echoes,
            contributors,
        })
    }

    /// Reads what [`Certificate::to_bytes`] wrote, and verifies all of it. Whether the plan is one that its job allows is
    /// another question ([`Plan::check_against`]).
    ///
    /// # Errors
    /// [`Error::Malformed`] for other bytes; else as [`Certificate::new`].
    pub fn parse(bytes: &[u8], manifest: &Manifest) -> Result<Self> {
        let envelopes = split(bytes)?;
        let [plan, roster, echoes @ ..] = envelopes.as_slice() else {
            return Err(malformed("no plan and roster"));
        };
        let echoes = echoes
            .iter()
            .map(|echo| verify_as(manifest, echo.clone(), Role::Member))
            .collect::<Result<_>>()?;
        Self::new(
            verify_as(manifest, plan.clone(), Role::Server)?,
            verify_as(manifest, roster.clone(), Role::Server)?,
            echoes,
            manifest,
        )
    }

    /// The signed plan, the signed roster, and the signed echoes, each after its length as 4 bytes, most significant first.
    pub fn to_bytes(&self) -> Vec<u8> {
        let echoes = self.echoes.iter().map(Signed::encode);
        joined(
            [self.plan.encode(), self.roster.encode()]
                .into_iter()
                .chain(echoes),
        )
    }

    /// SHA-256 of [`Certificate::to_bytes`].
    pub fn digest(&self) -> Digest {
        Digest::sha256(&self.to_bytes())
    }

    /// The attempt.
    pub fn context(&self) -> Context {
        self.plan.context()
    }

    /// Digest of the roster.
    pub fn roster(&self) -> Digest {
        self.roster.digest()
    }

    /// |U|, the members whose updates the roster sums.
    pub fn contributors(&self) -> usize {
        self.contributors.len()
    }

    /// c of the plan: how many of them are assumed to subtract their own noise.
    pub fn colluders(&self) -> usize {
        self.plan.colluders
    }

    /// Whether the roster names a member.
    pub fn names(&self, member: &Fingerprint) -> bool {
        let is = |one: &Contributor| one.header.signer() == *member;
        self.contributors.iter().any(is)
    }
}

/// Envelopes one after the other, each after its length as 4 bytes, most significant first.
pub(crate) fn joined(envelopes: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
    envelopes
        .flat_map(|one| [&(one.len() as u32).to_be_bytes()[..], &one].concat())
        .collect()
}

/// The envelopes one after the other; no more than a plan, a roster, and an echo of everybody.
pub(crate) fn split(mut bytes: &[u8]) -> Result<Vec<Envelope>> {
    let mut envelopes = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let (one, rest) = rest
            .split_at_checked(length)
            .ok_or_else(|| malformed("it ends within an envelope"))?;
        if envelopes.len() == 2 + MAX_SEATS {
            return Err(malformed("more echoes than members"));
        }
        envelopes.push(Envelope::decode(one)?);
        bytes = rest;
    }
    if bytes.is_empty() {
        Ok(envelopes)
    } else {
        Err(malformed("it ends within a length"))
    }
}

fn malformed(detail: &str) -> Error {
    Error::malformed("certificate", detail)
}
