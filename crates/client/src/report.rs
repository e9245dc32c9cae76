//! What a member tells the person who runs it. Losses and counts are for that person's eyes: nothing of this leaves
//! the machine; what was released says so.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::learner::Evaluation;

/// Seconds spent in each step of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    /// Local training; at record level, clipping of each gradient included.
    pub train: f64,
    /// Clipping, quantising, noise and the ledger.
    pub privatise: f64,
    /// Sealing body and shares.
    pub seal: f64,
    /// Sending them.
    pub send: f64,
    /// Waiting for others until the roster was echoed by enough.
    pub wait: f64,
    /// Releasing, rebuilding the key, opening and checking the sum.
    pub open: f64,
}

/// One finished round, as one member saw it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RoundReport {
    /// Round, from 1.
    pub round: u32,
    /// Attempt, from 1.
    pub attempt: u32,
    /// Members whose updates are in the sum.
    pub contributors: usize,
    /// Mean training loss at home.
    pub training_loss: Option<f64>,
    /// The opened model on the member's own validation data; `None` without any, or in a round whose turn it is not.
    pub validation: Option<Evaluation>,
    /// What was released of the round beside the model, noised: of all members' batches together, and alike for all.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub released: BTreeMap<String, f64>,
    /// L2 norm of the update before clipping, at record level of the longest gradient; `None` for a contribution that was
    /// sealed in an earlier life.
    pub update_norm: Option<f64>,
    /// Share of what was clipped that was longer than the clip norm: 0 or 1 of one update, at record level of the batch's
    /// gradients. Likewise.
    pub clipped_share: Option<f64>,
    /// Share of coordinates that were quantised to 0, likewise.
    pub zeroed_share: Option<f64>,
    /// Bytes that left this machine in the round, TLS included.
    pub bytes_up: u64,
    /// Bytes that came in.
    pub bytes_down: u64,
    /// Where the time went.
    pub seconds: Seconds,
    /// The block that tfhe opened as well, and how many there are.
    pub second_opening: (usize, usize),
    /// Digest of the new model.
    pub model: String,
    /// Digest of the roster.
    pub roster: String,
    /// ε at the job's δ of this job's attempts so far, at their worst case; `None` without differential privacy.
    pub epsilon: Option<f64>,
    /// The share of the dataset's budget that is neither spent nor set aside for running jobs; `None` without a budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_left: Option<f64>,
    /// Most memory that this process has held, bytes.
    pub peak_memory: u64,
}

/// What happens, as it happens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happening {
    /// The server cannot be reached; it is tried again, for ever. Told once a minute at most.
    Waiting {
        /// What is wrong, in words.
        reason: String,
        /// Until the next try.
        seconds: f64,
    },
    /// Connected to the server.
    Connected {
        /// Its address.
        server: String,
    },
    /// A job came and was admitted or refused.
    Considered {
        /// The job's name.
        job: String,
        /// Why it was refused; `None`: admitted.
        refusal: Option<String>,
    },
    /// The first model's quality.
    Started {
        /// On the member's own validation data.
        validation: Option<Evaluation>,
    },
    /// A round was missed: a fellow member is asked for its model.
    CatchingUp {
        /// The last round that this member finished.
        from: u32,
        /// The round whose model it asks for.
        to: u32,
    },
    /// A plan was accepted.
    Planned {
        /// Round, from 1.
        round: u32,
        /// Rounds in all.
        rounds: u32,
        /// Attempt, from 1.
        attempt: u32,
        /// Members in the cohort.
        cohort: usize,
        /// Name of the parameter set.
        parameters: String,
    },
    /// Training goes on.
    Training {
        /// Steps done.
        step: usize,
        /// Steps in all.
        steps: usize,
        /// Loss of the last batch.
        loss: f64,
    },
    /// A warning about numbers that make success unlikely.
    Warning {
        /// In words.
        said: String,
    },
    /// An attempt ended without a model.
    Voided {
        /// In words.
        reason: String,
    },
    /// A round ended with a model.
    Finished(Box<RoundReport>),
    /// The job ended.
    Ended {
        /// Whether every round ended with a model.
        completed: bool,
        /// Rounds that did.
        rounds: u32,
        /// In words.
        reason: String,
    },
}

/// Most memory that this process has held, bytes; 0 where the system does not say.
pub fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .and_then(|kilobytes| kilobytes.trim().parse::<u64>().ok())
        .map_or(0, |kilobytes| kilobytes * 1024)
}
