//! Accuracy against ε.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{cells::Cells, level::Level, options::PrivacyOptions};
use crate::error::Result;

/// A finished cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Cell {
    epsilon: String,
    seed: u64,
    epsilon_spent: Option<f64>,
    noise_multiplier: String,
    accuracy: f64,
    loss: f64,
    majority_class: f64,
    rounds: usize,
    seconds: f64,
}

/// `experiment privacy`.
///
/// # Errors
/// Those of a run; finished cells are kept.
pub fn run(options: &PrivacyOptions) -> Result<bool> {
    let mut cells = Cells::open(
        &options.common,
        &json!({ "per_member": options.per_member }),
    )?;
    let mut found = Vec::new();
    for level in &options.epsilon {
        for seed in 1..=options.seeds {
            let name = format!("epsilon-{level}-seed-{seed}");
            found.push(cells.cell(&name, |cells, folder| {
                let summary = cells
                    .run(folder, level, seed, options.per_member, |_| Ok(()))?
                    .summary;
                let last = summary.last_validation()?;
                Ok(Cell {
                    epsilon: level.to_string(),
                    seed,
                    epsilon_spent: summary.privacy.epsilon,
                    noise_multiplier: summary.privacy.noise_multiplier.clone(),
                    accuracy: last.accuracy,
                    loss: last.loss,
                    majority_class: summary.majority_class,
                    rounds: summary.rounds.len(),
                    seconds: summary.seconds,
                })
            })?);
        }
    }
    cells.tell(&table(options, &found), &json!({ "cells": found }))?;
    Ok(true)
}

/// A row an ε: its seeds' accuracies, mean and spread.
fn table(options: &PrivacyOptions, cells: &[Cell]) -> String {
    let mut text = String::from("| ε |");
    for seed in 1..=options.seeds {
        let _ = write!(text, " seed {seed} |");
    }
    text.push_str(" mean | spread | loss | noise multiplier | majority class |\n|---|");
    text.push_str(&"---|".repeat(options.seeds as usize + 5));
    text.push('\n');
    for level in &options.epsilon {
        let row: Vec<&Cell> = cells
            .iter()
            .filter(|cell| cell.epsilon == level.to_string())
            .collect();
        let mean = |of: fn(&Cell) -> f64| {
            row.iter().map(|cell| of(cell)).sum::<f64>() / row.len().max(1) as f64
        };
        let accuracies = || row.iter().map(|cell| cell.accuracy);
        let spread = accuracies().fold(0.0, f64::max) - accuracies().fold(1.0, f64::min);
        let _ = write!(text, "| {} |", shown(level));
        for accuracy in accuracies() {
            let _ = write!(text, " {:.1} % |", 100.0 * accuracy);
        }
        let _ = writeln!(
            text,
            " **{:.1} %** | {:.1} | {:.3} | {} | {:.1} % |",
            100.0 * mean(|cell| cell.accuracy),
            100.0 * spread,
            mean(|cell| cell.loss),
            row.first().map_or("", |cell| &cell.noise_multiplier),
            100.0 * mean(|cell| cell.majority_class),
        );
    }
    text
}

fn shown(level: &Level) -> String {
    match level {
        Level::Infinite => "∞".into(),
        level => level.to_string(),
    }
}
