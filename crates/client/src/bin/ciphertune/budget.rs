//! `ciphertune budget`: what a member's datasets have left, what each round cost, what would still fit.

use std::{path::PathBuf, process::ExitCode};

use ciphertune_client::{
    Error, Result,
    budget::{self, Asked, Budgets, Dataset, Fit, Spent},
    draft::Draft,
    learner::Start,
    mechanism::Reckoned,
    site::Site,
};
use ciphertune_dp::{FrozenSchedule, SamplingRate, rdp::Curve};
use ciphertune_ledger::Cost;
use ciphertune_policy::{Adjacency, Decimal, Loss, Policy};
use ciphertune_round::Digest;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::{Common, output};

/// Subcommands of `ciphertune budget`.
#[derive(Subcommand)]
pub enum Command {
    /// What each dataset has left of its budget.
    Show {
        /// This dataset alone.
        #[arg(long, value_name = "NAME")]
        dataset: Option<String>,
    },
    /// What each round cost, and why: what was charged before anything left, and what it was settled to by which roster.
    History {
        /// This dataset alone.
        #[arg(long, value_name = "NAME")]
        dataset: Option<String>,
    },
    /// How many rounds of a job still fit; every attempt that a round may take is paid for.
    #[command(after_help = "Examples:\n  ciphertune budget plan --job job.toml\n  \
        ciphertune budget plan --noise-multiplier 8 --rounds 50 --members 5")]
    Plan(Plan),
}

/// Flags of `ciphertune budget plan`.
#[derive(Args)]
pub struct Plan {
    /// The dataset.
    #[arg(long, value_name = "NAME", default_value = "default")]
    dataset: String,
    /// The job's TOML file, as `ciphertune job submit` takes it.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["noise_multiplier", "sampling_rate", "rounds", "max_attempts"])]
    job: Option<PathBuf>,
    /// Instead of a job: z, the standard deviation of the summed noise over the sensitivity, when the fewest members answer.
    #[arg(long, value_name = "Z", required_unless_present = "job")]
    noise_multiplier: Option<Decimal>,
    /// With --noise-multiplier: q, the probability with which each record enters a batch, above 0 and up to 1.
    #[arg(long, value_name = "Q", default_value = "1")]
    sampling_rate: Decimal,
    /// With --noise-multiplier: rounds.
    #[arg(long, value_name = "N", default_value = "1")]
    rounds: u32,
    /// With --noise-multiplier: attempts that a round may take.
    #[arg(long, value_name = "N", default_value = "1")]
    max_attempts: u32,
    /// Members that contribute: shows what a round costs after all when they all do. [default: the job's]
    #[arg(long, value_name = "N")]
    members: Option<usize>,
    /// The policy's TOML file; several: the strictest of them. Left out: the policies in this home.
    #[arg(long, value_name = "FILE")]
    policy: Vec<PathBuf>,
}

impl Command {
    pub async fn run(self, common: &Common) -> Result<ExitCode> {
        let budgets = Budgets::read(&common.home).await?;
        match self {
            Self::Show { dataset } => {
                for (budgets, name) in asked_for(budgets.as_ref(), dataset)? {
                    let shown = budgets.show(&name)?;
                    if common.json {
                        output::json(&shown)?;
                    } else {
                        print!("{}", in_words(&shown));
                    }
                }
            }
            Self::History { dataset } => {
                for (budgets, name) in asked_for(budgets.as_ref(), dataset)? {
                    let (shown, spent) = (budgets.show(&name)?, budgets.history(&name)?);
                    if common.json {
                        for one in &spent {
                            let mut line = json!(one);
                            line["dataset"] = json!(name);
                            line["allowed"] = json!(shown.budget.as_ref().map(|all| all.allowed));
                            output::json(&line)?;
                        }
                    } else {
                        print!("{}{}", in_words(&shown), chart(&shown, &spent));
                    }
                }
            }
            Self::Plan(plan) => {
                let fit = plan.fit(budgets.as_ref(), common)?;
                if common.json {
                    output::json(&fit)?;
                } else {
                    print!("{}", fit_in_words(&fit));
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The datasets to speak of.
fn asked_for(
    budgets: Option<&Budgets>,
    dataset: Option<String>,
) -> Result<Vec<(&Budgets, String)>> {
    let known = |budgets: &Budgets| -> Vec<String> {
        budgets.names().into_iter().map(str::to_owned).collect()
    };
    match (budgets, dataset) {
        (Some(budgets), None) => Ok(known(budgets)
            .into_iter()
            .map(|one| (budgets, one))
            .collect()),
        (Some(budgets), Some(name)) if known(budgets).contains(&name) => Ok(vec![(budgets, name)]),
        (Some(budgets), Some(name)) => Err(Error::Misuse(format!(
            "nothing was ever charged to dataset \"{name}\" here; known: {}",
            known(budgets).join(", ")
        ))),
        (None, Some(name)) => Err(Error::Misuse(format!(
            "nothing was ever charged to dataset \"{name}\" here: this home has no ledger"
        ))),
        (None, None) => Ok(Vec::new()),
    }
}

impl Plan {
    fn fit(&self, budgets: Option<&Budgets>, common: &Common) -> Result<Fit> {
        let policy = self.policy(common)?;
        let loss = policy.budget().ok_or_else(|| {
            Error::Refused(
                "the policy is without privacy: nothing is charged, and everything fits".into(),
            )
        })?;
        let asked = match &self.job {
            Some(file) => {
                let draft = Draft::from_toml(&output::read(file)?)?;
                of_draft(&draft, &policy, self.members)?
            }
            None => self.of_noise(&policy)?,
        };
        if asked.rounds == 0 || asked.max_attempts == 0 {
            return Err(Error::Misuse(
                "a job has at least one round, and one attempt at it".into(),
            ));
        }
        budget::plan(budgets, &self.dataset, loss, &asked)
    }

    fn policy(&self, common: &Common) -> Result<Policy> {
        let read = |file: &PathBuf| -> Result<Policy> { Ok(Policy::parse(&output::read(file)?)?) };
        let policies = self.policy.iter().map(read).collect::<Result<Vec<_>>>()?;
        match policies.as_slice() {
            [] => Site::policy_of(&common.home),
            policies => Ok(Policy::merge(&policies.iter().collect::<Vec<_>>())?),
        }
    }

    fn of_noise(&self, policy: &Policy) -> Result<Asked> {
        let rate = SamplingRate::new(self.sampling_rate)?;
        let step = |multiplier: &Decimal| -> Result<Cost> {
            let step = FrozenSchedule::planned(rate, multiplier, 1, Adjacency::ZeroOut)?;
            Ok(Cost::of(&Curve::of(&step))?)
        };
        let multiplier = self.noise_multiplier.unwrap_or(Decimal::ZERO);
        let settled = match self.members {
            Some(members) => Some(step(&grown(&multiplier, policy, members)?)?),
            None => None,
        };
        Ok(Asked {
            attempt: step(&multiplier)?,
            settled,
            rounds: self.rounds,
            max_attempts: self.max_attempts,
        })
    }
}

/// What a job costs that is drafted under a policy.
fn of_draft(draft: &Draft, policy: &Policy, members: Option<usize>) -> Result<Asked> {
    // The cost does not hang on the model.
    let any = Start::of_updates(vec![0.0; 1_000]);
    let job = draft.job("plan", policy, Digest::sha256(b""), &any)?;
    let reckoned = Reckoned::of(&job, job.min_contributors, job.colluders)?;
    let contributors = members.unwrap_or(draft.members);
    Ok(Asked {
        attempt: reckoned.attempt_cost()?,
        settled: Some(reckoned.cost_with(contributors, job.colluders)?),
        rounds: job.rounds,
        max_attempts: job.max_attempts,
    })
}

/// z with so many contributors, rounded down: z·√(m/m_min), m the honest ones.
fn grown(multiplier: &Decimal, policy: &Policy, members: usize) -> Result<Decimal> {
    let subtracting = policy.colluders().max(1) as usize;
    let fewest = policy.min_contributors() as usize;
    if members < fewest {
        return Err(Error::Refused(format!(
            "{members} members contribute, and the policy opens no sum of fewer than {fewest}"
        )));
    }
    let share = (members - subtracting) as f64 / (fewest - subtracting) as f64;
    let millionths = (multiplier.to_f64_down() * share.sqrt() * 1e6 * (1.0 - 1e-12)).floor();
    Ok(Decimal::new(millionths as i128, 6)?)
}

/// The mark that every report on a dataset repeats.
const WITHOUT_PRIVACY: &str =
    "  WITHOUT PRIVACY: it was used so too, and no promise covers what was released then\n";

fn in_words(shown: &Dataset) -> String {
    let mut words = match &shown.budget {
        None => format!("{}: no job has opened its budget\n", shown.dataset),
        Some(budget) => {
            let Loss { epsilon, delta } = budget.loss;
            let share = |units: u64| percent(units, budget.allowed);
            format!(
                "{}: epsilon = {epsilon} at delta = {delta} for its whole life; {} of it left\n  \
                 {}  {} spent, {} reserved by running jobs\n  \
                 bookkeeping  epsilon {:.4} at delta {delta} spent so far, at Rényi order {}; what is promised is the budget\n",
                shown.dataset,
                share(budget.left),
                stacked(budget.spent, budget.reserved, budget.allowed),
                share(budget.spent),
                share(budget.reserved),
                (budget.spent_epsilon * 1e4).ceil() / 1e4,
                budget.order,
            )
        }
    };
    if let Some(hides) = &shown.hides {
        words.push_str(&format!("  hides  {hides}\n"));
    }
    match shown.data.as_slice() {
        [] => {}
        [file] => words.push_str(&format!("  data  SHA-256 {file}\n")),
        [.., last] => words.push_str(&format!(
            "  data  SHA-256 {last} now; {} files were used under this name, all at the cost of this one budget\n",
            shown.data.len()
        )),
    }
    if shown.without_privacy {
        words.push_str(WITHOUT_PRIVACY);
    }
    words
}

/// One line an attempt: when, what, how much of the budget, and as a bar beside the dearest.
fn chart(shown: &Dataset, spent: &[Spent]) -> String {
    let allowed = shown.budget.as_ref().map(|budget| budget.allowed);
    let dearest = spent
        .iter()
        .filter_map(|one| one.charged)
        .max()
        .unwrap_or(0);
    spent
        .iter()
        .map(|one| line(one, allowed, dearest))
        .collect()
}

fn line(one: &Spent, allowed: Option<u64>, dearest: u64) -> String {
    let place = match (one.round, one.attempt) {
        (Some(round), Some(attempt)) => format!("round {round}, attempt {attempt}"),
        _ => format!("context {}", &one.context[..8]),
    };
    let start = format!("  {}  job {}  {place}:", date(one.time), &one.job[..8]);
    if one.without_privacy {
        return format!("{start} without privacy\n");
    }
    let (Some(charged), Some(allowed)) = (one.charged, allowed) else {
        return format!("{start} charged while no budget was open\n");
    };
    let cost = one.settled.unwrap_or(charged);
    let why = match (&one.roster, one.settled) {
        (Some(roster), Some(settled)) => format!(
            "{} charged, settled to {} by roster {}",
            percent(charged, allowed),
            percent(settled, allowed),
            &roster[..8]
        ),
        _ => format!("{} charged, the worst case", percent(charged, allowed)),
    };
    format!("{start} {} {why}\n", bar(cost, dearest))
}

fn fit_in_words(fit: &Fit) -> String {
    let share = |units: u64| percent(units, fit.allowed);
    let settled = fit.settled.map_or(String::new(), |settled| {
        format!(
            ", {} once it is settled with all of its members",
            share(settled)
        )
    });
    let verdict = if fit.fits {
        "it fits"
    } else {
        "it does not fit"
    };
    let mark = if fit.without_privacy {
        WITHOUT_PRIVACY
    } else {
        ""
    };
    format!(
        "{}: epsilon = {} at delta = {} for its whole life; {} of it left\n{mark}  \
         one attempt  {} at the worst case{settled}\n  \
         the job      {} attempts, {} at the worst case: {verdict}\n  \
         room for     {} such attempts, {} such rounds with all their attempts\n",
        fit.dataset,
        fit.loss.epsilon,
        fit.loss.delta,
        share(fit.left),
        share(fit.attempt),
        fit.attempts,
        share(fit.attempt.saturating_mul(fit.attempts)),
        fit.attempts_that_fit,
        fit.rounds_that_fit,
    )
}

/// Columns of a bar.
const WIDTH: u64 = 24;

/// `part` of `whole` in eighths of a column.
fn bar(part: u64, whole: u64) -> String {
    let eighths = u128::from(part) * u128::from(8 * WIDTH) / u128::from(whole.max(1));
    let eighths = (eighths as u64).min(8 * WIDTH);
    let rest = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"][(eighths % 8) as usize];
    let drawn = format!("{}{rest}", "█".repeat((eighths / 8) as usize));
    format!("{drawn:<width$}", width = WIDTH as usize)
}

/// What is spent, and what is reserved, of all.
fn stacked(spent: u64, reserved: u64, allowed: u64) -> String {
    let columns = |units: u64| {
        (u128::from(units) * u128::from(WIDTH)).div_ceil(u128::from(allowed.max(1))) as usize
    };
    let (full, width) = (columns(spent), WIDTH as usize);
    let both = columns(spent.saturating_add(reserved)).min(width);
    let (full, held) = (full.min(width), both.saturating_sub(full));
    format!(
        "{}{}{}",
        "█".repeat(full),
        "▒".repeat(held),
        "·".repeat(width - full - held)
    )
}

/// Of a hundred, to two decimals, rounded to nearest.
fn percent(units: u64, allowed: u64) -> String {
    format!("{:.2} %", units as f64 / allowed.max(1) as f64 * 100.0)
}

/// Milliseconds after 1970 as a date and a time of day, UTC: civil-from-days (Hinnant, "chrono-compatible low-level date
/// algorithms").
fn date(milliseconds: i64) -> String {
    let seconds = milliseconds.div_euclid(1_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let (era, day_of_era) = (z.div_euclid(146_097), z.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!(
        "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{:02}",
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_date() {
        assert_eq!(date(0), "1970-01-01 00:00:00");
        assert_eq!(date(1_700_000_000_123), "2023-11-14 22:13:20");
        assert_eq!(date(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(date(-1), "1969-12-31 23:59:59");
    }

    #[test]
    fn bars_are_as_wide_as_their_share() {
        assert_eq!(bar(0, 8), " ".repeat(24));
        assert_eq!(bar(8, 8), "█".repeat(24));
        assert_eq!(bar(1, 48).trim_end(), "▌");
        assert_eq!(bar(9, 8), "█".repeat(24), "no wider");
        assert_eq!(bar(u64::MAX, u64::MAX).chars().count(), 24);
        let drawn = stacked(1, 1, 24);
        assert!(
            drawn.starts_with("█▒·") && drawn.chars().count() == 24,
            "{drawn}"
        );
        assert_eq!(stacked(0, 0, 24), "·".repeat(24));
        assert_eq!(stacked(30, 5, 24), "█".repeat(24));
    }
}
