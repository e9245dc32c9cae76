//! Who of a committee may collude and be missing, and how often a worse one is drawn.

use std::fmt;

use ciphertune_client::{Error, Result};
use ciphertune_policy::{BAD_COMMITTEE_LOG2, Sharing, odds_of_more_log2};
use serde::Serialize;

/// A committee's thresholds.
#[derive(Serialize)]
pub struct Committee {
    manifest: usize,
    colluders: usize,
    size: usize,
    colluders_within: usize,
    threshold: usize,
    may_be_missing: usize,
    /// log₂ of the probability that more collude than are reckoned with; `null` when it is 0.
    bad_log2: Option<f64>,
    bad_at_most_log2: i32,
}

impl Committee {
    /// k drawn among the M of a manifest, c of whom collude, for a cohort of n.
    pub fn among(manifest: usize, cohort: usize, colluders: usize, size: usize) -> Result<Self> {
        let refused = |error: ciphertune_policy::Error| Error::Refused(error.to_string());
        if cohort > manifest {
            return Err(Error::Misuse(format!(
                "a cohort of {cohort} in a federation of {manifest} members"
            )));
        }
        let sharing = Sharing::among_committee(manifest, colluders, size).map_err(refused)?;
        let within = sharing.colluders;
        Ok(Self {
            manifest,
            colluders,
            size,
            colluders_within: within,
            threshold: sharing.least_threshold(),
            may_be_missing: size - sharing.least_threshold(),
            bad_log2: odds_of_more_log2(manifest, colluders, size, within).map_err(refused)?,
            bad_at_most_log2: -i32::try_from(BAD_COMMITTEE_LOG2).unwrap_or(i32::MAX),
        })
    }

    /// k.
    pub fn size(&self) -> usize {
        self.size
    }
}

impl fmt::Display for Committee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let odds = match self.bad_log2 {
            Some(log2) => format!("with probability at most 2^{log2:.1}"),
            None => "never".into(),
        };
        writeln!(
            f,
            "committee\n  drawn        k = {} of the manifest's M = {} members, c = {} of whom help the server\n  \
             colluders    c_k = {} among the k; more are drawn {odds} (2^{} is what decides)\n  \
             threshold    t = {} of the k open a sum; {} may be missing, those without a seat in the round among them",
            self.size,
            self.manifest,
            self.colluders,
            self.colluders_within,
            self.bad_at_most_log2,
            self.threshold,
            self.may_be_missing,
        )
    }
}
