//! What the rounds gave, as members report it and the server's signed plans and rosters say who is in which sum.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use ciphertune_client::{report::RoundReport, site::Site};
use ciphertune_identity::Role;
use ciphertune_round::{Context, Plan, Roster, Signed};

use crate::{compare, error::Result};

/// Everything that was heard, by round.
#[derive(Default)]
pub struct Tally {
    plans: BTreeMap<Context, Signed<Plan>>,
    contributors: BTreeMap<(u32, u32), Vec<u16>>,
    seats: BTreeMap<(u32, u32), Vec<Option<usize>>>,
    /// What members reported, by round and by member.
    pub reports: BTreeMap<u32, BTreeMap<usize, RoundReport>>,
    /// Whether the opened sums were the plain ones.
    pub equal: BTreeMap<u32, bool>,
}

impl Tally {
    /// Takes in a plan. `site` verifies it; anything else is passed over.
    pub fn plan(&mut self, site: &Site, envelope: &[u8]) {
        let Ok(plan) = site.verify_as::<Plan>(envelope, Role::Server) else {
            return;
        };
        let place = |member| {
            site.manifest()
                .members()
                .position(|party| party.fingerprint() == member)
        };
        let seats = plan.seats.iter().map(|seat| place(seat.member)).collect();
        self.seats.insert((plan.round, plan.attempt), seats);
        self.plans.insert(plan.context(), plan);
    }

    /// Takes in a roster of a plan that was heard.
    pub fn roster(&mut self, site: &Site, envelope: &[u8]) {
        let Ok(roster) = site.verify_as::<Roster>(envelope, Role::Server) else {
            return;
        };
        let Some(plan) = self.plans.get(&roster.context) else {
            return;
        };
        if let Ok(contributors) = roster.contributors(plan, site.manifest().value(), None) {
            let seats = contributors
                .iter()
                .map(|contributor| contributor.seat.get());
            self.contributors
                .insert((plan.round, plan.attempt), seats.collect());
        }
    }

    /// Takes in a member's report.
    pub fn report(&mut self, member: usize, report: RoundReport) {
        self.reports
            .entry(report.round)
            .or_default()
            .insert(member, report);
    }

    /// Compares the sums of every round that all of `living` reported, or of every reported round when `over`, and
    /// removes the files. The rounds that were compared now.
    pub fn compare(
        &mut self,
        plaintext: &Path,
        living: &BTreeSet<usize>,
        over: bool,
    ) -> Result<Vec<u32>> {
        let mut compared = Vec::new();
        for (round, reports) in &self.reports {
            if self.equal.contains_key(round) {
                continue;
            }
            let all = over || living.iter().all(|member| reports.contains_key(member));
            let Some(attempt) = reports
                .values()
                .map(|report| report.attempt)
                .next()
                .filter(|_| all)
            else {
                break; // in order: what is removed with a round is not needed by an earlier one
            };
            let (Some(contributors), Some(seats)) = (
                self.contributors.get(&(*round, attempt)),
                self.seats.get(&(*round, attempt)),
            ) else {
                if !over {
                    break;
                }
                self.equal.insert(*round, false); // no evidence is no proof
                compared.push(*round);
                continue;
            };
            let openers: Vec<u16> = (1..)
                .zip(seats)
                .filter(|(_, member)| member.is_some_and(|member| reports.contains_key(&member)))
                .map(|(seat, _)| seat)
                .collect();
            let one_attempt = reports.values().all(|report| report.attempt == attempt);
            let equal = one_attempt
                && openers.len() == reports.len()
                && compare::sums_equal(plaintext, (*round, attempt), contributors, &openers)?;
            self.equal.insert(*round, equal);
            compared.push(*round);
        }
        if let Some(last) = compared.last() {
            compare::forget(plaintext, *last)?;
        }
        Ok(compared)
    }
}
