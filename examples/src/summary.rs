//! Every figure of a run: `summary.json`.

use std::{collections::BTreeMap, path::PathBuf};

use ciphertune_client::report::{RoundReport, Seconds};
use ciphertune_policy::Unit;
use ciphertune_round::Job;
use serde::Serialize;

use crate::{
    error::{Error, Result},
    tally::Tally,
};

/// A run in figures.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    /// Whether every round ended with a model.
    pub completed: bool,
    /// How it ended, in the server's words.
    pub reason: String,
    /// Whether this was only a smoke run, on embedded sentences or a model that was never trained.
    pub smoke_run: bool,
    /// Digest of the job.
    pub job: String,
    /// What was tuned.
    pub backbone: Backbone,
    /// d: numbers that were trained and sent.
    pub parameters: u64,
    /// Where the records come from, and how many there are.
    pub data: Data,
    /// Accuracy of always answering the commonest label.
    pub majority_class: f64,
    /// The untrained model on the validation set.
    pub start: Option<Validation>,
    /// A row a round. Bytes and seconds are means over the members that finished it.
    pub rounds: Vec<Round>,
    /// What was promised and spent.
    pub privacy: Privacy,
    /// Bytes: the server's process; the largest of the members'.
    pub peak_memory: PeakMemory,
    /// Name of the parameter set of the sealing.
    pub sealing: Option<String>,
    /// The job's model, as the first member keeps it.
    pub model: Option<PathBuf>,
    /// Seconds from the job's submission to its end.
    pub seconds: f64,
}

impl Summary {
    /// Whether every round ended with a model and every opened sum was the plain one.
    pub fn holds(&self) -> bool {
        self.completed && self.rounds.iter().all(|round| round.sum_equals_plaintext)
    }

    /// The final model on the validation set.
    ///
    /// # Errors
    /// [`Error::Fault`] where the last round was not measured.
    pub fn last_validation(&self) -> Result<Validation> {
        let last = self.rounds.last();
        last.and_then(|round| Some((round.validation_loss?, round.validation_accuracy?)))
            .map(|(loss, accuracy)| Validation { loss, accuracy })
            .ok_or_else(|| Error::Fault("the last round was not measured".into()))
    }
}

/// The frozen model.
#[derive(Clone, Debug, Serialize)]
pub struct Backbone {
    /// Its folder.
    pub folder: String,
    /// Its architecture.
    pub kind: String,
    /// Its digest.
    pub digest: String,
}

/// The records.
#[derive(Clone, Debug, Serialize)]
pub struct Data {
    /// The file.
    pub source: String,
    /// The labels.
    pub labels: Vec<String>,
    /// Repeated lines that were left out.
    pub duplicates: usize,
    /// Members.
    pub members: usize,
    /// Records of each.
    pub per_member: usize,
    /// Records of the common validation set.
    pub validation: usize,
}

/// A measurement.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Validation {
    /// Mean loss.
    pub loss: f64,
    /// Share of right answers.
    pub accuracy: f64,
}

/// A round.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// From 1.
    pub round: u32,
    /// From 1.
    pub attempt: u32,
    /// Members in the sum.
    pub contributors: usize,
    /// The opened model on the common validation set.
    pub validation_loss: Option<f64>,
    /// Likewise.
    pub validation_accuracy: Option<f64>,
    /// Mean over members of their mean training loss.
    pub training_loss: Option<f64>,
    /// What was released beside the model, noised: of all members' batches together.
    pub released: BTreeMap<String, f64>,
    /// Mean over members of what each sent, TLS included.
    pub bytes_up: f64,
    /// Mean over members of what each received.
    pub bytes_down: f64,
    /// Mean over members.
    pub seconds: Seconds,
    /// Mean over members of the update's length before clipping, at record level of the longest gradient's.
    pub update_norm: Option<f64>,
    /// Mean over members of the share of what was clipped that was longer than the clip norm: updates, or at record level
    /// the batch's gradients.
    pub clipped_share: Option<f64>,
    /// Mean over members of the share of coordinates that were quantised to 0.
    pub zeroed_share: Option<f64>,
    /// The opened sum of every member is, bit for bit, the plain sum of what was sealed.
    pub sum_equals_plaintext: bool,
    /// ε spent so far, worst case over members; none without differential privacy.
    pub epsilon: Option<f64>,
    /// Every member's own report.
    pub members: BTreeMap<String, RoundReport>,
}

/// What was promised, and what was spent of it.
#[derive(Clone, Debug, Serialize)]
pub struct Privacy {
    /// Whose presence is hidden.
    pub unit: Unit,
    /// ε spent at `delta`; none without differential privacy.
    pub epsilon: Option<f64>,
    /// δ.
    pub delta: Option<String>,
    /// ε that the job may cost, every attempt counted.
    pub job_epsilon: Option<String>,
    /// σ over the sensitivity.
    pub noise_multiplier: String,
    /// C.
    pub clip_norm: String,
    /// Against which change.
    pub adjacency: Option<String>,
    /// Who adds the noise.
    pub placement: Option<String>,
    /// Fewest contributors.
    pub min_contributors: usize,
    /// Members assumed to help the server.
    pub colluders: usize,
    /// The policy's name.
    pub policy: String,
    /// In words.
    pub said: String,
}

/// Bytes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct PeakMemory {
    /// The server's process.
    pub server: Option<u64>,
    /// The largest of the members'.
    pub member: Option<u64>,
}

/// The rounds of a tally, in order.
pub fn rounds(tally: &Tally, names: &[String]) -> Vec<Round> {
    let round = |(round, reports): (&u32, &BTreeMap<usize, RoundReport>)| {
        let first = reports.values().next()?;
        let mean = |of: &dyn Fn(&RoundReport) -> Option<f64>| {
            let values: Vec<f64> = reports.values().filter_map(of).collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
        };
        let seconds =
            |of: fn(&Seconds) -> f64| mean(&|report| Some(of(&report.seconds))).unwrap_or(0.0);
        let validation = reports.values().find_map(|report| report.validation);
        Some(Round {
            round: *round,
            attempt: first.attempt,
            contributors: first.contributors,
            validation_loss: validation.map(|validation| validation.loss),
            validation_accuracy: validation.map(|validation| validation.accuracy),
            training_loss: mean(&|report| report.training_loss),
            released: first.released.clone(),
            bytes_up: mean(&|report| Some(report.bytes_up as f64)).unwrap_or(0.0),
            bytes_down: mean(&|report| Some(report.bytes_down as f64)).unwrap_or(0.0),
            seconds: Seconds {
                train: seconds(|s| s.train),
                privatise: seconds(|s| s.privatise),
                seal: seconds(|s| s.seal),
                send: seconds(|s| s.send),
                wait: seconds(|s| s.wait),
                open: seconds(|s| s.open),
            },
            update_norm: mean(&|report| report.update_norm),
            clipped_share: mean(&|report| report.clipped_share),
            zeroed_share: mean(&|report| report.zeroed_share),
            sum_equals_plaintext: tally.equal.get(round).copied().unwrap_or(false),
            epsilon: reports
                .values()
                .filter_map(|report| report.epsilon)
                .reduce(f64::max),
            members: reports
                .iter()
                .filter_map(|(member, report)| Some((names.get(*member)?.clone(), report.clone())))
                .collect(),
        })
    };
    tally.reports.iter().filter_map(round).collect()
}

/// What a job promises; `spent` is the ε of its last round.
pub fn privacy(job: &Job, policy: &str, spent: Option<f64>) -> Privacy {
    let stated = &job.mechanism;
    let private = stated.unit != Unit::None;
    let said = match (private, spent, stated.delta) {
        (false, ..) => "NO DIFFERENTIAL PRIVACY: updates were clipped and sealed and only sums were opened, but a sum \
                        without noise can give single records away"
            .to_owned(),
        (true, Some(epsilon), Some(delta)) => format!(
            "ε = {epsilon:.4} at δ = {delta} per {}, worst case, held against {} colluding members",
            stated.unit, job.colluders
        ),
        _ => "nothing was released, nothing spent".to_owned(),
    };
    Privacy {
        unit: stated.unit,
        epsilon: spent,
        delta: stated.delta.map(|delta| delta.to_string()),
        job_epsilon: stated.epsilon.map(|epsilon| epsilon.to_string()),
        noise_multiplier: stated.noise_multiplier.to_string(),
        clip_norm: stated.clip_norm.to_string(),
        adjacency: private.then(|| stated.adjacency.to_string()),
        placement: private.then(|| stated.placement.to_string()),
        min_contributors: job.min_contributors,
        colluders: job.colluders,
        policy: policy.to_owned(),
        said,
    }
}
