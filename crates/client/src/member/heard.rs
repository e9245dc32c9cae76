//! What is heard of one context: the roster, echoes and releases of fellow members.

use std::collections::BTreeMap;

use ciphertune_identity::Role;
use ciphertune_round::{Contributor, Digest, Echo, Release, Roster, ShareIndex, Signed};
use ciphertune_seal::CheckValue;
use ciphertune_wire::proto::{Event, EventKind};

use super::{Engagement, Member, vet::Vetted};
use crate::{
    error::{Error, Result},
    inbox::Backlog,
};

/// A roster that was checked, and is the one of this context.
pub(super) struct Accepted {
    pub signed: Signed<Roster>,
    pub digest: Digest,
    pub sum: Digest,
    pub contributors: Vec<Contributor>,
}

impl Accepted {
    /// Whether the roster names a seat.
    pub(super) fn names(&self, seat: ShareIndex) -> bool {
        let seats = |one: &Contributor| one.seat;
        self.contributors.binary_search_by_key(&seat, seats).is_ok()
    }
}

/// What was heard in one context; a member's first word counts.
#[derive(Default)]
pub(super) struct Heard {
    pub roster: Option<Signed<Roster>>,
    echoes: BTreeMap<ShareIndex, Signed<Echo>>,
    releases: BTreeMap<ShareIndex, Release>,
}

impl Heard {
    /// How many distinct members that hold shares echoed this roster.
    pub(super) fn echoes(&self, roster: &Accepted) -> usize {
        self.echoes_of(roster).count()
    }

    /// They, as they were signed.
    pub(super) fn echoes_of(&self, roster: &Accepted) -> impl Iterator<Item = &Signed<Echo>> {
        let digest = roster.digest;
        self.echoes
            .values()
            .filter(move |echo| echo.roster == digest)
    }

    /// How many members released their share of the sum of keys for this roster.
    pub(super) fn shares(&self, roster: &Accepted) -> usize {
        self.releases
            .values()
            .filter(|release| release.roster == roster.digest && !release.shares.is_empty())
            .count()
    }

    pub(super) fn release_of(&self, roster: &Accepted, seat: ShareIndex) -> Option<&Release> {
        self.releases
            .get(&seat)
            .filter(|release| release.roster == roster.digest)
    }

    pub(super) fn check_of(&self, roster: &Accepted, seat: ShareIndex) -> Option<CheckValue> {
        self.release_of(roster, seat)?.check.map(CheckValue)
    }
}

impl Member {
    /// Takes the next event into `heard`. What does not verify, or is for another context, is passed over.
    pub(super) async fn listen(
        &mut self,
        engaged: &Engagement,
        vetted: &Vetted,
        heard: &mut Heard,
        kept: &mut Backlog,
    ) -> Result<()> {
        let (kind, envelope) = self.next_of(engaged, vetted.context, kept).await?;
        let seat_of = |signer| vetted.plan.seat_of(&signer);
        match kind {
            EventKind::Roster => {
                if let Ok(roster) = self.site.verify_as::<Roster>(&envelope, Role::Server)
                    && roster.context == vetted.context
                {
                    heard.roster = Some(roster);
                }
            }
            EventKind::Echo => {
                if let Ok(echo) = self.site.verify_as::<Echo>(&envelope, Role::Member)
                    && echo.context == vetted.context
                    && let Some(seat) = seat_of(echo.signer())
                    && vetted.is_holder(seat)
                {
                    heard.echoes.entry(seat).or_insert(echo);
                }
            }
            EventKind::Release => {
                if let Ok(release) = self.site.verify_as::<Release>(&envelope, Role::Member)
                    && release.context == vetted.context
                    && let Some(seat) = seat_of(release.signer())
                    && release.shares.len() == vetted.shares_of_release(seat)
                {
                    heard
                        .releases
                        .entry(seat)
                        .or_insert(release.value().clone());
                }
            }
            // Others may be further than this member: their agreements wait for its own.
            EventKind::Agreement => kept.push(Event {
                sequence: 0, // looked at already
                kind: EventKind::Agreement.into(),
                envelope,
            })?,
            _ => {}
        }
        Ok(())
    }
}

/// Keeps the sealed shares whose digest, at this place among those that it signed, is their sender's.
pub(super) fn held_to_digests<'a>(
    sealed: Vec<(ShareIndex, Vec<u8>)>,
    place: usize,
    signed: impl Fn(ShareIndex) -> Option<&'a [Digest]>,
) -> Result<Vec<(ShareIndex, Vec<u8>)>> {
    let mut held: BTreeMap<ShareIndex, Vec<u8>> = BTreeMap::new();
    for (sender, sealed) in sealed {
        let Some(digest) = signed(sender).and_then(|digests| digests.get(place)) else {
            continue;
        };
        if Digest::sha256(&sealed) != *digest {
            return Err(Error::Void(format!(
                "the server's share of seat {sender} is not the one that its sender signed"
            )));
        }
        held.insert(sender, sealed);
    }
    Ok(held.into_iter().collect())
}
