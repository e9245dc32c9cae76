//! What a trained prompt shows of its own ε.
//!
//! A canary is one word, said over and over, with a label drawn at random, so that little but the record itself tells
//! which. Canaries that the final model finds likeliest are guessed to have been in the data, those it
//! finds least likely to have been left out; on the rest the auditor abstains. See [`ciphertune_dp::canary`].
//!
//! So many guesses can refute no claim above a certain ε, however good they are; and how good they are is what the run
//! without noise tells: where that shows nothing, nothing was tested.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use candle_core::Device;
use ciphertune_client::{model::Model, tuning::Tuning};
use ciphertune_dp::canary::Guesses;
use ciphertune_gauss::Entropy;
use ciphertune_tune::{
    backbone, data::Record, random::SplitMix, tokenizer::Tokenizer, trainer::Trainer,
};
use rand_core::Rng as _;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{cells::Cells, level::Level, options::CanaryOptions};
use crate::{
    corpus::Corpus,
    demo::Finished,
    error::{Error, Result},
    setup::write,
    summary::Summary,
};

/// Sentences a member unless the command line says otherwise, with `--data`: the fewer, the more a canary weighs.
const PER_MEMBER: usize = 200;
/// One canary in three is guessed, decided before any run was looked at.
const GUESSED: usize = 3;
/// How often a canary says its word.
const TIMES: usize = 8;
/// Letters of a canary's word, at least.
const LETTERS: usize = 4;
const CONFIDENCE: f64 = 0.95;

/// A record that may be in the data.
struct Canary {
    record: Record,
    /// Whether its coin let it in.
    present: bool,
}

/// A finished cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Cell {
    epsilon: String,
    /// By the ledgers.
    epsilon_spent: Option<f64>,
    delta: f64,
    /// With confidence 0.95.
    epsilon_at_least: f64,
    /// What it would be, were every guess right: no ε above it can be refuted.
    refutable_up_to: f64,
    canaries: u64,
    guessed: u64,
    right: u64,
    accuracy: f64,
    seconds: f64,
}

/// What is to be said of a cell.
#[derive(Clone, Copy, PartialEq)]
enum Verdict {
    /// The bound is above what was spent.
    Refuted,
    /// It is not, and could have been.
    NotRefuted,
    /// No guesses as few as these could have refuted it.
    OutOfReach,
    /// Without privacy: guesses are better than chance.
    Powerful,
    /// Without privacy, and no better than chance: what the other cells say is worth nothing.
    Powerless,
}

impl Cell {
    fn verdict(&self) -> Verdict {
        match self.epsilon_spent {
            Some(spent) if self.epsilon_at_least > spent => Verdict::Refuted,
            Some(spent) if self.refutable_up_to <= spent => Verdict::OutOfReach,
            Some(_) => Verdict::NotRefuted,
            None if self.epsilon_at_least > 0.0 => Verdict::Powerful,
            None => Verdict::Powerless,
        }
    }
}

/// `experiment canaries`. False when a bound refutes what was claimed, or the guesses are worth nothing.
///
/// # Errors
/// Those of a run; finished cells are kept.
pub fn run(options: &CanaryOptions) -> Result<bool> {
    let per_member = options
        .per_member
        .or(options.common.data.is_some().then_some(PER_MEMBER));
    let settings = json!({
        "per_member": per_member, "canaries": options.canaries, "seed": options.seed,
    });
    let mut cells = Cells::open(&options.common, &settings)?;
    let mut found = Vec::new();
    for level in &options.epsilon {
        found.push(cells.cell(&format!("epsilon-{level}"), |cells, folder| {
            let mut canaries = Vec::new();
            let finished = cells.run(folder, level, options.seed, per_member, |corpus| {
                canaries = draw(corpus, options.canaries as usize, options.seed)?;
                for (at, canary) in canaries.iter().enumerate().filter(|(_, it)| it.present) {
                    let member = at % corpus.members.len();
                    corpus.members[member].push(canary.record.clone());
                }
                write(&folder.join("canaries.jsonl"), &told(&canaries))
            })?;
            let losses = losses(&finished, &canaries)?;
            judge(level, &canaries, &losses, &finished.summary, cells.delta()?)
        })?);
    }
    cells.tell(
        &table(&found),
        &json!({ "confidence": CONFIDENCE, "cells": found }),
    )?;
    let fails = |cell: &Cell| matches!(cell.verdict(), Verdict::Refuted | Verdict::Powerless);
    Ok(!found.iter().any(fails))
}

/// Every canary, a JSON object a line.
fn told(canaries: &[Canary]) -> String {
    let line = |canary: &Canary| {
        let (fields, label) = (&canary.record.fields, &canary.record.label);
        format!(
            "{}\n",
            json!({ "fields": fields, "label": label, "present": canary.present })
        )
    };
    canaries.iter().map(line).collect()
}

/// Words of the corpus, none twice, each with a random label and a fair coin of its own.
fn draw(corpus: &Corpus, count: usize, seed: u64) -> Result<Vec<Canary>> {
    let everywhere = corpus.members.iter().flatten().chain(&corpus.validation);
    let words: BTreeSet<String> = everywhere
        .flat_map(|record| record.fields.values())
        .flat_map(|text| text.split_whitespace())
        .filter(|word| word.len() >= LETTERS && word.bytes().all(|byte| byte.is_ascii_lowercase()))
        .map(str::to_owned)
        .collect();
    if words.len() < count {
        return Err(Error::Refused(format!(
            "{} has {} different words to make canaries of: ask for that many at most",
            corpus.source,
            words.len()
        )));
    }
    let mut random = SplitMix::new(seed);
    let mut words: Vec<String> = words.into_iter().collect();
    random.shuffle(&mut words);
    let mut coins =
        Entropy::from_os().map_err(|error| Error::fault("drawing the canaries' coins", error))?;
    let column = corpus.template.trim_matches(['{', '}']);
    Ok(words
        .into_iter()
        .take(count)
        .map(|word| Canary {
            record: Record {
                fields: [(column.to_owned(), vec![word; TIMES].join(" "))].into(),
                label: corpus.labels[(random.unit() * corpus.labels.len() as f64) as usize].clone(),
            },
            present: coins.next_u64() & 1 == 1,
        })
        .collect())
}

/// The final model's loss on each.
fn losses(Finished { summary, job, .. }: &Finished, canaries: &[Canary]) -> Result<Vec<f64>> {
    let lost = |what: &str| Error::Fault(format!("the run left no {what}"));
    let path = summary.model.as_ref().ok_or_else(|| lost("model"))?;
    let model = Model::read(path)?.ok_or_else(|| lost("model"))?;
    let folder = Path::new(&summary.backbone.folder);
    let backbone = backbone::load(folder, &Device::Cpu)?;
    let tokenizer = Tokenizer::load(&folder.join("tokenizer.json"))?;
    let tuning = Tuning::from_json(&job.tuning)?;
    let task = tuning.task()?;
    let mut trainer = Trainer::new(&*backbone, tuning.training, tokenizer, task)?;
    let parameters = model
        .state
        .get(..trainer.dimension())
        .ok_or_else(|| lost("whole model"))?;
    let loss = |canary: &Canary| {
        let alone = trainer.encode(std::slice::from_ref(&canary.record))?;
        Ok(trainer.evaluate(parameters, &alone)?.loss)
    };
    canaries.iter().map(loss).collect()
}

/// Guesses the coins of those with the least and the greatest loss, and counts what was right.
fn judge(
    level: &Level,
    canaries: &[Canary],
    losses: &[f64],
    summary: &Summary,
    delta: f64,
) -> Result<Cell> {
    let mut order: Vec<usize> = (0..canaries.len()).collect();
    order.sort_by(|a, b| losses[*a].total_cmp(&losses[*b]));
    let each = canaries.len() / GUESSED / 2;
    let (inside, outside) = (&order[..each], &order[order.len() - each..]);
    let right = inside.iter().filter(|at| canaries[**at].present).count()
        + outside.iter().filter(|at| !canaries[**at].present).count();
    if summary.privacy.epsilon.is_none() && *level != Level::Infinite {
        return Err(Error::Fault("a private run spent no epsilon".into()));
    }
    let guesses = Guesses {
        canaries: canaries.len() as u64,
        guessed: 2 * each as u64,
        right: right as u64,
    };
    Ok(Cell {
        epsilon: level.to_string(),
        epsilon_spent: summary.privacy.epsilon,
        delta,
        epsilon_at_least: guesses.epsilon_ruled_out(delta, CONFIDENCE)?,
        refutable_up_to: guesses.most_ruled_out(delta, CONFIDENCE)?,
        canaries: guesses.canaries,
        guessed: guesses.guessed,
        right: guesses.right,
        accuracy: summary.last_validation()?.accuracy,
        seconds: summary.seconds,
    })
}

fn table(cells: &[Cell]) -> String {
    let mut text = String::from(
        "| ε of the policy | ε spent | ε at least (95 %) | refutable up to | canaries guessed right | accuracy | verdict |\n|---|---|---|---|---|---|---|\n",
    );
    for cell in cells {
        let verdict = match cell.verdict() {
            Verdict::Refuted => "**REFUTED**",
            Verdict::NotRefuted => "not refuted",
            Verdict::OutOfReach => "out of reach of so few guesses",
            Verdict::Powerful => "better than chance",
            Verdict::Powerless => "**NO BETTER THAN CHANCE: nothing was tested**",
        };
        let _ = writeln!(
            text,
            "| {} | {} | {:.2} | {:.2} | {} of {} | {:.1} % | {verdict} |",
            cell.epsilon,
            cell.epsilon_spent
                .map_or("–".into(), |spent| format!("{spent:.3}")),
            cell.epsilon_at_least,
            cell.refutable_up_to,
            cell.right,
            cell.guessed,
            100.0 * cell.accuracy,
        );
    }
    text
}
