//! One attempt of one round: what each seat has handed in.

use std::{collections::BTreeMap, sync::Arc};

use ciphertune_round::{
    Agreement, Context, Digest, Echo, Fingerprint, Header, Plan, Release, ShareIndex, Signed,
};

use super::{Shares, parcels::Wanted};
use crate::storage::Item;

/// An attempt and all that came of it. Big objects are shared: cloning is cheap.
#[derive(Clone)]
pub struct Attempt {
    /// What everything in it is bound to.
    pub context: Context,
    /// Its plan.
    pub plan: Arc<Plan>,
    /// Who of the cohort agreed on the model that it starts from, and so has it, by seat.
    pub have_model: Vec<Fingerprint>,
    /// Digest of its roster, once there is one.
    pub roster: Option<Digest>,
    /// U: whose bodies the sum is of; empty before the attempt is closed.
    pub contributors: Vec<ShareIndex>,
    /// What each seat has handed in.
    pub seats: Vec<Held>,
}

/// What one seat has handed in.
#[derive(Clone, Default)]
pub struct Held {
    /// Header, with its sealed shares in storage.
    pub header: Option<Arc<Signed<Header>>>,
    /// Digest of the whole body in storage.
    pub body: Option<Digest>,
    /// Echo.
    pub echo: Option<Arc<Signed<Echo>>>,
    /// Release, with its sealed shares in storage.
    pub release: Option<Arc<Signed<Release>>>,
    /// Agreement.
    pub agreement: Option<Arc<Signed<Agreement>>>,
    /// The model that it missed, if it asked.
    pub parcel: Option<Wanted>,
    /// Its member's certificate was revoked before the close: nothing of it is taken, and nobody waits for it.
    pub out: bool,
}

impl Held {
    /// Header, shares and body are here.
    pub fn is_complete(&self) -> bool {
        !self.out && self.header.is_some() && self.body.is_some()
    }
}

impl Attempt {
    pub(crate) fn new(context: Context, plan: Plan, agreed: &[Fingerprint]) -> Self {
        Self {
            context,
            have_model: plan
                .seats
                .iter()
                .map(|seat| seat.member)
                .filter(|member| agreed.contains(member))
                .collect(),
            seats: vec![Held::default(); plan.seats.len()],
            plan: Arc::new(plan),
            roster: None,
            contributors: Vec::new(),
        }
    }

    /// The seats whose contribution is complete.
    pub fn complete(&self) -> Vec<ShareIndex> {
        self.seats
            .iter()
            .enumerate()
            .filter(|(_, held)| held.is_complete())
            .filter_map(|(position, _)| ShareIndex::at(position).ok())
            .collect()
    }

    /// How many seats may still come to be complete, or are.
    pub fn possible(&self) -> usize {
        self.seats.iter().filter(|held| !held.out).count()
    }

    /// Where the shares are that a seat has sealed, and how many.
    pub(crate) fn shares_of(&self, sender: ShareIndex, kind: Shares) -> Option<(Item, usize)> {
        let held = self.seats.get(sender.position())?;
        let (signed, shares) = match kind {
            Shares::Key => (
                held.header.as_ref()?.digest(),
                &held.header.as_ref()?.shares,
            ),
            Shares::KeySum => (
                held.release.as_ref()?.digest(),
                &held.release.as_ref()?.shares,
            ),
        };
        let item = Item::Shares {
            sender,
            kind,
            signed,
        };
        Some((item, shares.len()))
    }

    /// The seats that hold shares and have released theirs of the sum of keys.
    pub fn released(&self) -> Vec<ShareIndex> {
        let released = |seat: &ShareIndex| {
            let held = self.seats.get(seat.position());
            held.is_some_and(|held| held.release.is_some())
        };
        self.plan.holders().filter(released).collect()
    }

    /// How many of these members hold shares here.
    pub fn holders_among(&self, members: &[Fingerprint]) -> usize {
        self.plan
            .holders()
            .filter_map(|seat| self.plan.seats.get(seat.position()))
            .filter(|seat| members.contains(&seat.member))
            .count()
    }

    /// The members behind each keyed digest of a model, most first; ties in the order of the digests.
    pub fn votes(&self) -> Vec<(Digest, Vec<Fingerprint>)> {
        let mut votes: BTreeMap<Digest, Vec<Fingerprint>> = BTreeMap::new();
        for (seat, held) in self.plan.seats.iter().zip(&self.seats) {
            if let Some(agreement) = &held.agreement {
                votes.entry(agreement.model).or_default().push(seat.member);
            }
        }
        let mut votes: Vec<_> = votes.into_iter().collect();
        votes.sort_by_key(|(_, members)| std::cmp::Reverse(members.len()));
        votes
    }
}
