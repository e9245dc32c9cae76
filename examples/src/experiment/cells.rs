//! Cells: runs that are kept once they are finished.

use std::{fs, num::NonZeroU32, path::Path};

use ciphertune_client::{learner::Learner as _, tuning::Tuner};
use ciphertune_policy::{Policy, Unit};
use ciphertune_round::Digest;
use serde::{Serialize, de::DeserializeOwned};

use super::{level::Level, options::Common};
use crate::{
    corpus::Corpus,
    demo::{self, Finished},
    error::{Error, Result},
    federation,
    options::{DEADLINE, Options},
    setup::{SAMPLING_RATE, policy_text, write},
};

/// The policy when none is named.
const POLICY: &str = include_str!("../../../policies/record-epsilon-8.toml");
/// What a finished cell has.
const CELL: &str = "cell.json";
const SETTINGS: &str = "settings.json";

/// The cells of one folder, all run with the same settings.
pub struct Cells<'a> {
    common: &'a Common,
    policy: toml::Table,
    kept: usize,
}

impl<'a> Cells<'a> {
    /// Opens the folder, or makes it. `settings` is what else the cells depend on.
    ///
    /// # Errors
    /// A folder of other settings, and a policy that hides no single records, are refused.
    pub fn open(common: &'a Common, settings: &serde_json::Value) -> Result<Self> {
        let policy = policy_text(common.policy.as_deref(), POLICY)?;
        let unit = Policy::parse(&policy)?.unit();
        if unit != Unit::Record {
            return Err(Error::Usage(format!(
                "these experiments are at record level; the policy's unit is {unit}"
            )));
        }
        let settings = serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "data_sha256": common.data.as_deref().map(sha256_of).transpose()?,
            "backbone": common.model.as_deref().map(digest_of).transpose()?,
            "rounds": common.rounds,
            "members": common.members,
            "policy": policy,
            "cells": settings,
        });
        federation::folder(&common.out)?;
        let path = common.out.join(SETTINGS);
        match read::<serde_json::Value>(&path)? {
            None => write(&path, &pretty(&settings)?)?,
            Some(earlier) if earlier == settings => {}
            Some(_) => {
                return Err(Error::Usage(format!(
                    "{} holds cells that were run with other options (see {SETTINGS} there): choose another --out",
                    common.out.display()
                )));
            }
        }
        Ok(Self {
            common,
            policy: toml::from_str(&policy)
                .map_err(|error| Error::Usage(format!("policy: {error}")))?,
            kept: 0,
        })
    }

    /// The cell of this name: read, or worked out by `work` in a folder that is begun anew.
    pub fn cell<T: Serialize + DeserializeOwned>(
        &mut self,
        name: &str,
        work: impl FnOnce(&Self, &Path) -> Result<T>,
    ) -> Result<T> {
        let folder = self.common.out.join(name);
        let path = folder.join(CELL);
        if let Some(finished) = read(&path)? {
            self.kept += 1;
            return Ok(finished);
        }
        if folder.exists() {
            fs::remove_dir_all(&folder).map_err(|error| {
                Error::fault(format_args!("clearing {}", folder.display()), error)
            })?;
        }
        eprintln!("cell {name}");
        federation::folder(&folder)?;
        let cell = work(self, &folder).inspect_err(|error| {
            if matches!(error, Error::Stopped) {
                eprintln!("finished cells are kept: the same command goes on with {name}");
            }
        })?;
        // Whole or not at all.
        let part = folder.join("cell.part");
        write(&part, &pretty(&cell)?)?;
        fs::rename(&part, &path)
            .map_err(|error| Error::fault(format_args!("finishing {}", path.display()), error))?;
        Ok(cell)
    }

    /// Runs a federation at a level, in the folder `run` of its cell.
    ///
    /// # Errors
    /// A run that did not end with every round's model and every sum the plain one is refused: it is no cell.
    pub fn run(
        &self,
        folder: &Path,
        level: &Level,
        seed: u64,
        per_member: Option<usize>,
        changed: impl FnOnce(&mut Corpus) -> Result<()>,
    ) -> Result<Finished> {
        let policy = folder.join("policy.toml");
        let text = toml::to_string(&level.applied_to(&self.policy))
            .map_err(|error| Error::fault("writing a policy", error))?;
        write(&policy, &text)?;
        let options = Options {
            data: self.common.data.clone(),
            model: self.common.model.clone(),
            rounds: Some(self.common.rounds),
            members: self.common.members,
            per_member,
            policy: Some(policy),
            sampling_rate: Some(SAMPLING_RATE.parse()?),
            metrics: Vec::new(),
            aggregation: Default::default(),
            measure_every: NonZeroU32::new(self.common.rounds),
            out: Some(folder.join("run")),
            seed,
            json: false,
            deadline: DEADLINE,
        };
        let mut corpus = Corpus::of(&options)?;
        changed(&mut corpus)?;
        let finished = demo::run(&options, corpus)?;
        eprint!("\n{}", finished.words);
        if !finished.summary.holds() {
            return Err(Error::Refused(format!(
                "{}: the run did not end as it should: {}",
                folder.display(),
                finished.summary.reason
            )));
        }
        Ok(finished)
    }

    /// δ of the policy.
    pub fn delta(&self) -> Result<f64> {
        let delta = self.policy.get("privacy").and_then(|it| it.get("delta"));
        delta
            .and_then(toml::Value::as_str)
            .and_then(|delta| delta.parse().ok())
            .ok_or_else(|| Error::Usage("the policy states no delta".into()))
    }

    /// Says what came of it: a table for people, or JSON. `table.md` and `table.json` in the folder have both.
    pub fn tell(&self, markdown: &str, json: &serde_json::Value) -> Result<()> {
        let out = &self.common.out;
        write(&out.join("table.md"), markdown)?;
        write(&out.join("table.json"), &pretty(json)?)?;
        if self.common.json {
            println!("{json}");
        } else {
            let kept = match self.kept {
                0 => String::new(),
                kept => format!(" ({kept} cells were finished before)"),
            };
            print!(
                "\n{markdown}\n{}/table.md and table.json{kept}\n",
                out.display()
            );
        }
        Ok(())
    }
}

fn sha256_of(file: &Path) -> Result<String> {
    let bytes = fs::read(file)
        .map_err(|error| Error::Usage(format!("data file {}: {error}", file.display())))?;
    Ok(Digest::sha256(&bytes).to_string())
}

fn digest_of(model: &Path) -> Result<String> {
    Ok(Tuner::for_draft(model)?.backbone().to_string())
}

fn pretty(value: &impl Serialize) -> Result<String> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| Error::fault("writing JSON", error))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(Error::fault(
                format_args!("reading {}", path.display()),
                error,
            ));
        }
    };
    serde_json::from_str(&text)
        .map(Some)
        .map_err(|error| Error::fault(format_args!("{} is damaged", path.display()), error))
}
