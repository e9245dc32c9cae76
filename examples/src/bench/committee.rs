//! Sharing keys among a whole cohort and among a committee, as the cohort grows: what one member does, and what all do.
//!
//! One member's vector is small: bodies are measured by `bench seal`. Every call is production's; of each kind one is timed.

use std::num::NonZeroUsize;

use ciphertune_policy::Sharing;
use ciphertune_round::{Context, Digest, Roster, ShareIndex};
use ciphertune_seal::{
    KeySum, KeySumShare, OneTimeKey, SEALED_SHARE_BYTES, SealingKey, contribute_on, every_seat,
    sum_shares,
};
use ciphertune_sum::{CohortSize, Parameters, ValueBound};
use serde::Serialize;

use super::{
    options::CommitteeOptions,
    round::{fresh_context, one_time_keys, seat},
    samples::timed,
};
use crate::{Error, Result};

/// What sharing costs for one cohort, with everybody or a committee holding the shares.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// n = M: everybody of the federation takes part and contributes.
    pub members: usize,
    /// c.
    pub colluders: usize,
    /// Who holds shares: n, or k.
    pub holders: usize,
    /// c, or c_k.
    pub colluders_within: usize,
    /// t.
    pub threshold: usize,
    /// How many holders may be missing.
    pub may_be_missing: usize,
    /// A contributor: its key shared, each share sealed, and one block of body.
    pub contribute_seconds: f64,
    /// A holder: n shares opened and added.
    pub add_seconds: f64,
    /// A holder: its share of the sum sealed to n.
    pub release_seconds: f64,
    /// A member: the holders' shares opened, the sum of keys rebuilt.
    pub rebuild_seconds: f64,
    /// All members together: n contributions, the holders' work, n rebuildings.
    pub all_seconds: f64,
    /// Of keys and of their sum: 2·n·holders.
    pub seals: u64,
    /// Of sealed shares, that a holder sends; it fetches as many.
    pub bytes_of_holder: u64,
    /// Another member's.
    pub bytes_of_others: u64,
    /// The roster, which everybody is told, at most.
    pub roster_bytes: usize,
}

/// All rows.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// k wished for; a smaller cohort is its own.
    pub committee: usize,
    /// One member in so many colludes; 0: none.
    pub colluding_one_in: usize,
    /// Everybody holds a share.
    pub whole_cohort: Vec<Row>,
    /// Cohorts whose row was left out of the above, as larger than asked for.
    pub whole_cohort_left_out: Vec<usize>,
    /// A committee does.
    pub with_committee: Vec<Row>,
}

/// Measures every cohort both ways.
pub fn measure(options: &CommitteeOptions) -> Result<Report> {
    let mut report = Report {
        committee: options.committee,
        colluding_one_in: options.colluding,
        whole_cohort: Vec::new(),
        whole_cohort_left_out: Vec::new(),
        with_committee: Vec::new(),
    };
    for &members in &options.members {
        let colluders = members.checked_div(options.colluding).unwrap_or(0);
        if members <= options.whole_up_to {
            let sharing = Sharing::among_all(members, colluders);
            report.whole_cohort.push(row(members, colluders, sharing)?);
        } else {
            report.whole_cohort_left_out.push(members);
        }
        let size = options.committee.min(members);
        let sharing = Sharing::among_committee(members, colluders, size)
            .map_err(|error| Error::Usage(error.to_string()))?;
        report
            .with_committee
            .push(row(members, colluders, sharing)?);
    }
    Ok(report)
}

fn row(members: usize, colluders: usize, sharing: Sharing) -> Result<Row> {
    let scene = Scene::of(members, sharing)?;
    let [contribute, add, release, rebuild] = scene.timed()?;
    let (n, holders) = (members as f64, sharing.holders);
    let bytes = |shares: usize| (shares * SEALED_SHARE_BYTES) as u64;
    Ok(Row {
        members,
        colluders,
        holders,
        colluders_within: sharing.colluders,
        threshold: scene.threshold,
        may_be_missing: holders - scene.threshold,
        contribute_seconds: contribute,
        add_seconds: add,
        release_seconds: release,
        rebuild_seconds: rebuild,
        all_seconds: n * (contribute + rebuild) + holders as f64 * (add + release),
        seals: 2 * (members * holders) as u64,
        bytes_of_holder: bytes(holders + members),
        bytes_of_others: bytes(holders),
        roster_bytes: Roster::most_bytes(members, holders),
    })
}

/// A cohort in one context. The holders are its first seats: a draw's would cost the same.
struct Scene {
    parameters: Parameters,
    context: Context,
    roster: Digest,
    keys: Vec<OneTimeKey>,
    seats: Vec<SealingKey>,
    holders: Vec<(ShareIndex, SealingKey)>,
    threshold: usize,
}

impl Scene {
    fn of(members: usize, sharing: Sharing) -> Result<Self> {
        let derived = CohortSize::new(members)
            .and_then(|size| Parameters::derive(size, ValueBound::new(2047)?));
        let (keys, seats) = one_time_keys(members)?;
        let mut holders = every_seat(&seats).map_err(fault)?;
        holders.truncate(sharing.holders);
        Ok(Self {
            parameters: derived.map_err(|error| Error::Usage(error.to_string()))?,
            context: fresh_context()?,
            roster: Digest::sha256(b"the roster of a benchmark"),
            keys,
            seats,
            holders,
            threshold: sharing.least_threshold(),
        })
    }

    /// Seconds of a contribution, of adding, of a release, and of rebuilding.
    fn timed(&self) -> Result<[f64; 4]> {
        let (sealed, contribute) = timed(|| self.contribute(0, self.threshold, &self.holders));
        let sealed = sealed?;

        // One share from everybody for the first holder: who else each shares with does not matter to it.
        let pair = &self.holders[..2];
        let to_first = (0..self.seats.len())
            .map(|from| {
                let mut shares = self.contribute(from, 2, pair)?;
                Ok((seat(from)?, shares.swap_remove(0)))
            })
            .collect::<Result<Vec<_>>>()?;
        let first = self.holders[0].0;
        let (context, roster) = (&self.context, &self.roster);
        let (share, add) = timed(|| sum_shares(&self.keys[0], context, first, &to_first));
        let share = share.map_err(fault)?;
        let (released, release) = timed(|| share.seal_to(context, roster, first, &self.seats));
        released.map_err(fault)?;

        // What the holders release to the first member of the sum of one key: as large as that of many.
        let released = self
            .holders
            .iter()
            .zip(sealed)
            .map(|((holder, _), sealed)| {
                let key = &self.keys[holder.position()];
                let share = sum_shares(key, context, *holder, &[(first, sealed)])?;
                let mut to_first = share.seal_to(context, roster, *holder, &self.seats[..1])?;
                Ok((*holder, to_first.swap_remove(0)))
            })
            .collect::<Result<Vec<_>, ciphertune_seal::Error>>()
            .map_err(fault)?;
        let (rebuilt, rebuild) = timed(|| {
            let open = |(holder, sealed): &(ShareIndex, Vec<u8>)| {
                KeySumShare::open(&self.keys[0], context, roster, *holder, first, sealed)
            };
            let shares = released.iter().map(open).collect::<Result<_, _>>()?;
            KeySum::rebuild(&self.parameters, shares, self.threshold, 1)
        });
        let rebuilt = rebuilt.map_err(fault)?;
        if !rebuilt.disagreeing().is_empty() {
            return Err(Error::Refused("shares of one key disagree".into()));
        }
        Ok([contribute, add, release, rebuild].map(|taken| taken.as_secs_f64()))
    }

    /// The shares of a fresh key, sealed to `holders`.
    fn contribute(
        &self,
        from: usize,
        threshold: usize,
        holders: &[(ShareIndex, SealingKey)],
    ) -> Result<Vec<Vec<u8>>> {
        let sealed = contribute_on(
            NonZeroUsize::MIN,
            &self.parameters,
            &self.context,
            seat(from)?,
            threshold,
            holders,
            &[1],
            std::io::sink(),
        );
        Ok(sealed.map_err(fault)?.sealed_shares)
    }
}

fn fault(error: ciphertune_seal::Error) -> Error {
    Error::fault("sharing a key", error)
}

impl Report {
    /// As one JSON object.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// As tables.
    pub fn to_table(&self) -> String {
        let collusion = match self.colluding_one_in {
            0 => "nobody colludes".to_owned(),
            one_in => format!("one member in {one_in} colludes"),
        };
        let mut text =
            format!("Sharing keys; {collusion}; everybody contributes; seconds on one thread\n");
        text += "\nEverybody holds a share\n";
        text += &rows(&self.whole_cohort);
        if !self.whole_cohort_left_out.is_empty() {
            let left_out: Vec<String> = self
                .whole_cohort_left_out
                .iter()
                .map(ToString::to_string)
                .collect();
            text += &format!(
                "(not measured for {} members: --whole-up-to)\n",
                left_out.join(", ")
            );
        }
        text += &format!("\nA committee of {} holds the shares\n", self.committee);
        text + &rows(&self.with_committee)
    }
}

fn rows(rows: &[Row]) -> String {
    let mut text = format!(
        "{:>6} {:>7} {:>4} {:>4} {:>7} {:>11} {:>9} {:>9} {:>9} {:>11} {:>11} {:>12} {:>12} {:>10}\n",
        "n",
        "holders",
        "c_k",
        "t",
        "missing",
        "contribute",
        "add",
        "release",
        "rebuild",
        "all",
        "seals",
        "MB holder",
        "MB others",
        "MB roster"
    );
    let mut last: Option<&Row> = None;
    for row in rows {
        let mb = |bytes: u64| bytes as f64 / 1e6;
        text += &format!(
            "{:>6} {:>7} {:>4} {:>4} {:>7} {:>9.3} s {:>7.3} s {:>7.3} s {:>7.3} s {:>9.1} s {:>11} {:>12.1} {:>12.1} {:>10.2}",
            row.members,
            row.holders,
            row.colluders_within,
            row.threshold,
            row.may_be_missing,
            row.contribute_seconds,
            row.add_seconds,
            row.release_seconds,
            row.rebuild_seconds,
            row.all_seconds,
            row.seals,
            mb(row.bytes_of_holder),
            mb(row.bytes_of_others),
            mb(row.roster_bytes as u64),
        );
        if let Some(last) = last {
            text += &format!(
                "  n x {:.1}: seals x {:.1}, all x {:.1}",
                row.members as f64 / last.members as f64,
                row.seals as f64 / last.seals as f64,
                row.all_seconds / last.all_seconds,
            );
        }
        text.push('\n');
        last = Some(row);
    }
    text
}
