//! `ciphertune privacy`: the accountants, for officers and scripts.

use std::{fmt, process::ExitCode};

use ciphertune_client::{Error, Result};
use ciphertune_dp::{
    FrozenSchedule, SamplingRate, Standing,
    accounting::{self, Account, Accountant, Basis},
    pld::Interval,
};
use ciphertune_policy::{Adjacency, Decimal};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::{Common, output};

/// Subcommands of `ciphertune privacy`.
#[derive(Subcommand)]
pub enum Command {
    /// The epsilon of a schedule of Gaussian noise, rounded up.
    #[command(
        after_help = "Example, one training run of 937 batches of 32 out of 600 records:\n  \
        ciphertune privacy epsilon --sampling-rate 0.0533 --noise-multiplier 3.637 --steps 937 --delta 1e-5 --accountant pld"
    )]
    Epsilon {
        /// z, the noise multiplier: the standard deviation of the summed noise over the sensitivity, which is the clip
        /// under zero-out and twice the clip under replace-one.
        #[arg(long, value_name = "Z")]
        noise_multiplier: Decimal,
        #[command(flatten)]
        schedule: Schedule,
    },
    /// The least noise multiplier that keeps an epsilon, a multiple of 1/1000.
    #[command(
        after_help = "Example, an institution that contributes to 50 rounds:\n  \
        ciphertune privacy calibrate --epsilon 8 --delta 1e-5 --steps 50 --accountant zcdp"
    )]
    Calibrate {
        /// The epsilon to keep.
        #[arg(long, value_name = "E")]
        epsilon: Decimal,
        #[command(flatten)]
        schedule: Schedule,
    },
}

/// What both are about.
#[derive(Args)]
pub struct Schedule {
    /// q, the probability with which each record enters a batch (Poisson sampling), above 0 and up to 1. 1: whole batches,
    /// and every institution in every round.
    #[arg(long, value_name = "Q", default_value = "1")]
    sampling_rate: Decimal,
    /// T, steps of the whole schedule: 1 to 1,000,000.
    #[arg(long, value_name = "T")]
    steps: u32,
    /// delta, strictly between 0 and 1.
    #[arg(long, value_name = "D")]
    delta: Decimal,
    /// Who accounts: zcdp (whole batches alone), rdp (what a budget is kept in, as a schedule may adapt), or pld (the
    /// tightest, of a schedule that is fixed beforehand alone).
    #[arg(long, value_name = "NAME", default_value = "rdp")]
    accountant: Accountant,
    /// Which datasets are neighbours: zero-out (a record or an institution is there or not) or replace-one.
    #[arg(long, value_name = "NAME", default_value = "zero-out")]
    adjacency: Adjacency,
    /// The grid interval of pld: 1e-9 to 0.1. A finer one is tighter, which shows at sampling rates of a thousandth and
    /// less. [default: 1e-4]
    #[arg(long, value_name = "H")]
    discretization: Option<Decimal>,
}

impl Command {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        let report = match self {
            Self::Epsilon {
                noise_multiplier,
                schedule,
            } => schedule.account(noise_multiplier)?,
            Self::Calibrate { epsilon, schedule } => {
                let multiplier = accounting::calibrate(
                    schedule.accountant()?,
                    &epsilon,
                    &schedule.delta,
                    SamplingRate::new(schedule.sampling_rate)?,
                    schedule.steps,
                    schedule.adjacency,
                )?;
                schedule.account(multiplier)?
            }
        };
        if common.json {
            output::json(&report)?;
        } else {
            print!("{report}");
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Schedule {
    fn accountant(&self) -> Result<Accountant> {
        match (self.accountant, &self.discretization) {
            (Accountant::Pld(_), Some(interval)) => Ok(Accountant::Pld(Interval::new(interval)?)),
            (_, Some(_)) => Err(Error::Misuse("--discretization goes with pld alone".into())),
            (accountant, None) => Ok(accountant),
        }
    }

    fn account(&self, noise_multiplier: Decimal) -> Result<Report> {
        let accountant = self.accountant()?;
        let schedule = FrozenSchedule::planned(
            SamplingRate::new(self.sampling_rate)?,
            &noise_multiplier,
            self.steps,
            self.adjacency,
        )?;
        let account = accounting::epsilon(accountant, &schedule, &self.delta)?;
        let coarse = match accountant {
            Accountant::Pld(interval) => interval.is_coarse_for(&schedule),
            Accountant::Zcdp | Accountant::Rdp => false,
        };
        Ok(Report::new(
            self,
            noise_multiplier,
            &account,
            schedule.standing(),
            coarse,
        ))
    }
}

/// A schedule and its cost.
#[derive(Serialize)]
struct Report {
    epsilon: f64,
    delta: f64,
    noise_multiplier: f64,
    sampling_rate: f64,
    steps: u32,
    adjacency: &'static str,
    accountant: &'static str,
    /// Whether a theorem carries it, or numerical evidence alone.
    proved: bool,
    #[serde(flatten)]
    basis: Shown,
    #[serde(skip)]
    words: Words,
}

/// What the accountant rests on.
#[derive(Serialize)]
#[serde(untagged)]
enum Shown {
    Zcdp {
        rho: f64,
    },
    Rdp {
        order: u32,
        rounding: f64,
    },
    Pld {
        discretization: f64,
        rounding: f64,
        coarse: bool,
    },
}

/// Exact decimals as they were written, and ε rounded up as policies print it.
struct Words {
    epsilon: String,
    delta: Decimal,
    noise_multiplier: Decimal,
    sampling_rate: Decimal,
}

impl Report {
    fn new(
        asked: &Schedule,
        noise_multiplier: Decimal,
        account: &Account,
        standing: Standing,
        coarse: bool,
    ) -> Self {
        let basis = match account.basis {
            Basis::Zcdp { rho } => Shown::Zcdp { rho: rho.get() },
            Basis::Rdp { order, rounding } => Shown::Rdp { order, rounding },
            Basis::Pld { interval, rounding } => Shown::Pld {
                discretization: interval,
                rounding,
                coarse,
            },
        };
        Self {
            epsilon: account.epsilon.get(),
            delta: asked.delta.to_f64_nearest(),
            noise_multiplier: noise_multiplier.to_f64_nearest(),
            sampling_rate: asked.sampling_rate.to_f64_nearest(),
            steps: asked.steps,
            adjacency: asked.adjacency.as_str(),
            accountant: asked.accountant.name(),
            proved: standing == Standing::Proved,
            basis,
            words: Words {
                epsilon: account.epsilon.to_string(),
                delta: asked.delta,
                noise_multiplier,
                sampling_rate: asked.sampling_rate,
            },
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = &self.words;
        writeln!(
            f,
            "epsilon {} at delta {}, {}\n  \
             noise        multiplier z = {}\n  \
             schedule     {} steps, sampling rate {}",
            words.epsilon,
            words.delta,
            self.adjacency,
            words.noise_multiplier,
            self.steps,
            words.sampling_rate,
        )?;
        match self.basis {
            Shown::Zcdp { rho } => writeln!(
                f,
                "  accountant   zcdp: rho = {rho:.6}, converted by opendp"
            )?,
            Shown::Rdp { order, rounding } => writeln!(
                f,
                "  accountant   rdp: order {order}; rounding adds at most {rounding:.1e}"
            )?,
            Shown::Pld {
                discretization,
                rounding,
                coarse,
            } => {
                writeln!(
                    f,
                    "  accountant   pld: grid interval {discretization}; rounding adds at most {rounding:.1e}\n  \
                     valid for    a schedule that is fixed beforehand; a budget that adapts is kept in rdp or zcdp"
                )?;
                if coarse {
                    writeln!(
                        f,
                        "  note         a step's loss spreads over few grid intervals: a finer --discretization is tighter"
                    )?;
                }
            }
        }
        if !self.proved {
            writeln!(
                f,
                "  note         replace-one under sampling: supported numerically, no theorem is known"
            )?;
        }
        Ok(())
    }
}
