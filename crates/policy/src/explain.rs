//! A policy in plain language, for whoever signs it and for whoever is asked to trust it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::allowed::Allowed;
use crate::committee::{BAD_COMMITTEE_LOG2, Sharing};
use crate::policy::{Aggregation, Policy, Privacy};
use crate::setting::{Adjacency, Placement, Role, Unit, listed};

impl Policy {
    /// The policy in sentences under headings: what is promised, what can leave a member, who can see what, what happens
    /// when one drops out, what may run, and when.
    #[must_use]
    pub fn explain(&self) -> String {
        let mut text = Text::default();
        let names: Vec<&str> = self.names().collect();
        text.line(format_args!("Policy: {}.", names.join(" + ")));
        self.explain_promise(&mut text);
        self.explain_releases(&mut text);
        self.explain_views(&mut text);
        self.explain_drop_outs(&mut text);
        self.explain_jobs(&mut text);
        self.explain_records(&mut text);
        self.explain_times(&mut text);
        text.0
    }

    fn explain_promise(&self, text: &mut Text) {
        text.heading("What is promised");
        let Some(promise) = &self.privacy else {
            text.say(format_args!(
                "NO DIFFERENTIAL PRIVACY is asked for (unit = \"none\"); every report will say so. Whoever sees the sums can \
                 test for single records, and a job may draw batches so small that a sum is one record's."
            ));
            self.explain_rate(text);
            return;
        };
        promise.explain(text);
        self.explain_rate(text);
    }

    fn explain_rate(&self, text: &mut Text) {
        match self.max_sampling_rate {
            Some(rate) if self.unit() == Unit::None => text.say(format_args!(
                "Where a job draws records into batches, each is drawn with a probability of at most {rate}; a job need not."
            )),
            Some(rate) => text.say(format_args!(
                "In each round a record is drawn with a probability of at most {rate}."
            )),
            None if self.unit() == Unit::Institution => {}
            None => text.say(format_args!(
                "Where records are drawn into batches, a job chooses their probability."
            )),
        }
    }

    fn explain_releases(&self, text: &mut Text) {
        text.heading("What can leave a member");
        let what = match self.unit() {
            Unit::Record => "the sum of single examples' gradients, each",
            Unit::Institution => "one update,",
            Unit::None => "one update, or one sum of gradients, each",
        };
        text.say(format_args!(
            "Each round, {what} clipped to an L2 norm of at most {}{}, encrypted under a key that is made for the round and \
             shared among members. Never a record, a label, a count or a file's name.",
            self.clip_norm,
            match self.privacy {
                Some(_) => " and noised",
                None => ", WITHOUT NOISE",
            }
        ));
        if self.metrics.is_empty() {
            text.say(format_args!("No metric leaves a member."));
        } else {
            text.say(format_args!(
                "Of each round's batch, all members' together, may be released: {}; {}.",
                listed(&self.metrics, "none"),
                match self.privacy {
                    Some(_) => "noised within the sealed sum, at no further cost",
                    None => "WITHOUT NOISE",
                }
            ));
        }
    }

    fn explain_views(&self, text: &mut Text) {
        text.heading("Who can see what");
        text.say(format_args!(
            "The server sees who takes part, when, and how many bytes: no update, no sum, no model."
        ));
        match self.aggregation.min_contributors {
            2 => text.say(format_args!(
                "Members see the sum over at least 2 contributors, and so the model: of two, each may take its own away and \
                 see the other's update, noise and all."
            )),
            least => text.say(format_args!(
                "Members see the sum over at least {least} contributors, and so the model; no single update of another."
            )),
        }
        match self.aggregation.colluders {
            0 => text.say(format_args!(
                "No member is assumed to help the server (colluders = 0): one that does may have two \
                 sums opened, whose difference is another's update."
            )),
            colluders => text.say(format_args!(
                "Of the members, {colluders} may help the server: even so none learns a single update of another."
            )),
        }
        if let Some(committee) = self.aggregation.committee {
            text.say(format_args!(
                "Shares of keys may go to a committee of at least {committee} members, drawn by a hash, in which more \
                 colluders than its threshold withstands are found with a probability of at most 2^-{BAD_COMMITTEE_LOG2}."
            ));
        } else {
            text.say(format_args!(
                "Every member of a round holds a share of each key: there is no committee."
            ));
        }
    }

    fn explain_drop_outs(&self, text: &mut Text) {
        text.heading("When a member drops out");
        let Aggregation {
            min_contributors,
            colluders,
            threshold,
            committee,
            min_cohort,
        } = self.aggregation;
        text.say(format_args!(
            "A round starts with at least {min_cohort} members. Fewer than {min_contributors} contributions: nothing is \
             opened, what was charged stays charged, and the round is tried again as often as its job says."
        ));
        match threshold {
            Some(threshold) => text.say(format_args!(
                "At least {threshold} of those who hold shares together open a sum, and never fewer than ⌊(n + c)/2⌋ + 1 of n, c \
                 of them colluding."
            )),
            None => text.say(format_args!(
                "⌊(n + c)/2⌋ + 1 of n who hold shares together open a sum, c of them colluding{}.",
                committee
                    .map(|least| format!(": of a committee of {least}, at least {}", least / 2 + 1))
                    .unwrap_or_default()
            )),
        }
        let least = Sharing::among_all(min_cohort as usize, colluders as usize).least_threshold();
        let needed = least.max(threshold.unwrap_or(0) as usize);
        match (min_cohort as usize).checked_sub(needed) {
            None => text.say(format_args!(
                "A round of {min_cohort} members could never be opened: it takes {needed} of them."
            )),
            Some(0) => text.say(format_args!(
                "In a round of {min_cohort} members all must stay until it is opened: one that drops out voids it."
            )),
            Some(missing) => text.say(format_args!(
                "In a round of {min_cohort} members {needed} open the sum: {missing} may drop out after contributing."
            )),
        }
    }

    fn explain_jobs(&self, text: &mut Text) {
        text.heading("What may run");
        text.say(format_args!(
            "Jobs of at most {} rounds, signed by {}; beside the signer, {} may stop one.",
            self.rounds,
            either(&self.roles.submit_job),
            either(&self.roles.abort_job)
        ));
        for (what, allowed) in [
            ("Backbones", &self.backbones),
            ("Prompt encoders", &self.encoders),
            ("Tasks", &self.tasks),
            ("Datasets", &self.datasets),
        ] {
            text.say(format_args!(
                "{what}: {}.",
                match allowed {
                    Allowed::Any => "any".to_owned(),
                    Allowed::Only(_) => format!("only {}", allowed.items().join(", ")),
                }
            ));
        }
    }

    fn explain_records(&self, text: &mut Text) {
        text.heading("What is kept, and who may change this");
        match self.retention_days {
            None => text.say(format_args!(
                "Every node keeps its audit log and the signed objects that it rests on for ever."
            )),
            Some(days) => text.say(format_args!(
                "Every node keeps its audit log for ever, and the signed objects that it rests on for {days} days after their job \
                 ended: what an auditor can recompute ends there."
            )),
        }
        text.say(format_args!(
            "The server's log may be asked for over the network by {}.",
            either(&self.roles.read_log)
        ));
        match self.may_be_replaced() {
            true => text.say(format_args!(
                "An officer may sign another policy in this one's place; a weaker one only into homes where it was moved away by hand."
            )),
            false => text.say(format_args!(
                "Nobody may put another federation policy in this one's place until there is another manifest."
            )),
        }
    }

    fn explain_times(&self, text: &mut Text) {
        text.heading("When it holds");
        match (self.time.valid_from, self.time.valid_until) {
            (None, None) => text.say(format_args!("Always: nothing runs out.")),
            _ => text.say(format_args!(
                "Only {}: outside, no job is admitted and no round begun, in mid-job either.",
                self.time
            )),
        }
        if let Some(days) = self.max_age_days.certificate {
            text.say(format_args!(
                "A party's certificate must not have been issued more than {days} days ago."
            ));
        }
        if let Some(days) = self.max_age_days.revocation_list {
            text.say(format_args!(
                "The authority's revocation list must have been issued at most {days} days ago, or no round begins."
            ));
        }
    }
}

impl Privacy {
    fn explain(&self, text: &mut Text) {
        let unit = match self.unit {
            Unit::Record => "each single training example",
            _ => "each institution's whole update",
        };
        let adjacency = match self.adjacency {
            Adjacency::ZeroOut => "being replaced by nothing",
            Adjacency::ReplaceOne => "being replaced by any other",
        };
        text.say(format_args!(
            "Differential privacy hides {unit} against {adjacency}."
        ));
        text.say(format_args!(
            "One job may cost at most ε = {} at δ = {}.",
            self.job.epsilon, self.job.delta
        ));
        // (ε, 0) holds the posterior odds to e^ε times the prior ones: from even odds, to a probability of e^ε/(1 + e^ε).
        let epsilon = self.job.epsilon.to_f64_up();
        text.say(format_args!(
            "That is: who sees everything that a job releases, and took it for as likely as not that {} was in it, may be \
             {:.2} % sure afterwards, and not more, but for cases of a probability of {}.",
            match self.unit {
                Unit::Record => "one example",
                _ => "one institution's update",
            },
            (100.0 / (1.0 + (-epsilon).exp()) * 100.0).ceil() / 100.0,
            self.job.delta
        ));
        if self.unit == Unit::Record {
            text.say(format_args!(
                "A person with several examples, or at several members, is hidden less: ε adds up."
            ));
        }
        text.say(format_args!(
            "A dataset may cost at most ε = {} at δ = {} over its whole life.",
            self.budget.epsilon, self.budget.delta
        ));
        match self.placement {
            Placement::Distributed => text.say(format_args!(
                "The members share the noise: the sum carries all of it."
            )),
            Placement::Local => {
                text.say(format_args!("Each member adds all of the noise itself."));
            }
        }
    }
}

/// Roles as a sentence says them: "a member or a researcher".
fn either(roles: &BTreeSet<Role>) -> String {
    if roles.is_empty() {
        return "nobody".into();
    }
    let words: Vec<String> = roles.iter().map(|role| role.with_article()).collect();
    words.join(" or ")
}

/// Lines, one a sentence, under headings.
#[derive(Default)]
struct Text(String);

impl Text {
    fn heading(&mut self, words: &str) {
        self.line(format_args!("\n{words}"));
    }

    fn say(&mut self, sentence: std::fmt::Arguments<'_>) {
        self.line(format_args!("  {sentence}"));
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        let _ = writeln!(self.0, "{line}");
    }
}
