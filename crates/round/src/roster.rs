//! Whose bodies the sum is of: signed by the server, echoed by members before anything is opened.

use prost::Message as _;

use crate::{
    digest::{Context, Digest},
    envelope::{Envelope, Keyring},
    error::{Result, malformed},
    header::Header,
    label::{self, Label},
    message,
    plan::Plan,
    seat::{MAX_SEATS, ShareIndex},
    signed::{Object, Signed, decode, require},
};

/// A roster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    /// The attempt.
    pub context: Context,
    /// The contributors' signed headers, by seat.
    pub headers: Vec<Envelope>,
    /// SHA-256 of the sum.
    pub sum: Digest,
}

impl Object for Roster {
    const LABEL: Label = label::ROSTER;

    fn parse(payload: &[u8]) -> Result<Self> {
        let raw: message::Roster = decode("roster", payload)?;
        if raw.headers.len() > MAX_SEATS {
            return Err(malformed(
                "roster",
                format!("{} headers", raw.headers.len()),
            ));
        }
        Ok(Self {
            context: Context::from_digest(Digest::parse(&raw.context)?),
            headers: raw
                .headers
                .iter()
                .map(|header| Envelope::decode(header))
                .collect::<Result<_>>()?,
            sum: Digest::parse(&raw.sum)?,
        })
    }

    fn serialise(&self) -> Vec<u8> {
        message::Roster {
            context: self.context.as_bytes().to_vec(),
            headers: self.headers.iter().map(Envelope::encode).collect(),
            sum: self.sum.as_bytes().to_vec(),
        }
        .encode_to_vec()
    }
}

/// A contributor, as a checked roster names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contributor {
    /// Its seat.
    pub seat: ShareIndex,
    /// Its signed header.
    pub header: Signed<Header>,
}

impl Roster {
    /// At most so many bytes is a signed roster of `contributors`, whose headers name a share for each of `holders`.
    pub const fn most_bytes(contributors: usize, holders: usize) -> usize {
        const DIGEST: usize = 2 + 32; // with its tag and length
        const ENVELOPE: usize = 5 + DIGEST + 2 + 64; // around a payload: its tag and length, signer, signature
        let header = ENVELOPE + 2 * DIGEST + holders * DIGEST;
        ENVELOPE + 2 * DIGEST + contributors * (5 + header)
    }

    /// Checks a roster against its plan (protocol §3, step 4): the context; every header's signature; members of the
    /// cohort, distinct, in the order of their seats; a share for every holder; at least `min_contributors`; and
    /// `own`, this member's header if it contributed, unchanged.
    ///
    /// # Errors
    /// [`Error::Refused`](crate::Error::Refused) says which of these does not hold.
    pub fn contributors(
        &self,
        plan: &Signed<Plan>,
        keyring: &dyn Keyring,
        own: Option<&Signed<Header>>,
    ) -> Result<Vec<Contributor>> {
        require(self.context == plan.context(), || {
            "the roster is for another context".into()
        })?;
        require(self.headers.len() >= plan.min_contributors, || {
            format!(
                "the roster names {} contributors, the plan wants at least {}",
                self.headers.len(),
                plan.min_contributors
            )
        })?;
        let holders = plan.holders().count();
        let mut contributors: Vec<Contributor> = Vec::with_capacity(self.headers.len());
        for envelope in &self.headers {
            let header = Signed::<Header>::verify(envelope.clone(), keyring)?;
            let seat = plan.seat_of(&header.signer());
            require(seat.is_some(), || {
                format!("{} contributed from outside the cohort", header.signer())
            })?;
            let Some(seat) = seat else { continue };
            require(header.context == self.context, || {
                format!("the header of seat {seat} is for another context")
            })?;
            require(header.shares.len() == holders, || {
                format!(
                    "the header of seat {seat} has {} shares for {holders} seats that hold them",
                    header.shares.len(),
                )
            })?;
            require(
                contributors.last().is_none_or(|last| last.seat < seat),
                || format!("seat {seat} is named twice or out of order"),
            )?;
            contributors.push(Contributor { seat, header });
        }
        if let Some(own) = own {
            let listed = contributors
                .iter()
                .find(|contributor| contributor.header.signer() == own.signer());
            require(
                listed.is_none_or(|listed| {
                    listed.header.envelope().payload() == own.envelope().payload()
                }),
                || "the roster changes this member's own header".into(),
            )?;
        }
        Ok(contributors)
    }
}
