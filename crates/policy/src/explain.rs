//! A policy in sentences.

use std::fmt::Write as _;

use crate::committee::BAD_COMMITTEE_LOG2;
use crate::policy::{Aggregation, Policy};
use crate::setting::{Adjacency, Placement, Unit, listed};

impl Policy {
    /// The policy in sentences, one a line.
    #[must_use]
    pub fn explain(&self) -> String {
        let names: Vec<&str> = self.names().collect();
        let mut said = format!("Policy: {}.\n", names.join(" + "));
        let mut say = |line: std::fmt::Arguments<'_>| {
            let _ = writeln!(said, "{line}");
        };
        match &self.privacy {
            None => say(format_args!(
                "NO DIFFERENTIAL PRIVACY is asked for (unit = \"none\"); every report will say so. A job may draw batches so \
                 small that a sum is one record's."
            )),
            Some(promise) => {
                let unit = match promise.unit {
                    Unit::Record => "each single training example",
                    _ => "each institution's whole update",
                };
                let adjacency = match promise.adjacency {
                    Adjacency::ZeroOut => "being replaced by nothing",
                    Adjacency::ReplaceOne => "being replaced by any other",
                };
                say(format_args!(
                    "Differential privacy hides {unit} against {adjacency}."
                ));
                say(format_args!(
                    "One job may cost at most ε = {} at δ = {}.",
                    promise.job.epsilon, promise.job.delta
                ));
                let budget = promise.budget;
                say(format_args!(
                    "A dataset may cost at most ε = {} at δ = {} over its whole life.",
                    budget.epsilon, budget.delta
                ));
                match promise.placement {
                    Placement::Distributed => say(format_args!(
                        "The members share the noise: the sum carries all of it."
                    )),
                    Placement::Local => {
                        say(format_args!("Each member adds all of the noise itself."))
                    }
                }
            }
        }
        say(format_args!(
            "Updates are clipped to an L2 norm of at most {}; a job has at most {} rounds.",
            self.clip_norm, self.rounds
        ));
        let Aggregation {
            min_contributors,
            colluders,
            threshold,
            committee,
            min_cohort,
        } = self.aggregation;
        say(format_args!(
            "A round starts with at least {min_cohort} members and is opened for at least {min_contributors} contributors."
        ));
        say(format_args!(
            "Up to {colluders} members may help the server and learn no single update."
        ));
        match committee {
            Some(committee) => say(format_args!(
                "Shares of keys may go to a committee of at least {committee} members, drawn by a hash, in which more \
                 colluders than its threshold withstands are found with a probability of at most 2^-{BAD_COMMITTEE_LOG2}."
            )),
            None => say(format_args!(
                "Every member of a round holds a share of each key: there is no committee."
            )),
        }
        match threshold {
            Some(threshold) => say(format_args!(
                "At least {threshold} of those who hold shares together open a sum."
            )),
            None => say(format_args!(
                "⌊(n + c)/2⌋ + 1 of n who hold shares together open a sum, c of them colluding{}.",
                committee
                    .map(|least| format!(": of a committee of {least}, at least {}", least / 2 + 1))
                    .unwrap_or_default()
            )),
        }
        for (what, allowed) in [
            ("Backbones", &self.backbones),
            ("Prompt encoders", &self.encoders),
            ("Tasks", &self.tasks),
        ] {
            say(format_args!("{what}: {}.", allowed.items().join(", ")));
        }
        if self.metrics.is_empty() {
            say(format_args!("No metric leaves a member."));
        } else {
            say(format_args!(
                "Of each round's batch, all members' together, may be released: {}; {}.",
                listed(&self.metrics),
                match self.privacy {
                    Some(_) => "noised within the sealed sum, at no further cost",
                    None => "WITHOUT NOISE",
                }
            ));
        }
        said
    }
}
