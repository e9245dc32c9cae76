//! The settings that are one word out of a few: what is protected, against which change, and who adds the noise.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// A word of the policy language: a closed set, each with one spelling.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident, $what:literal { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Every value, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// Every word, in the same order.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word as a policy writes it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self, Error> {
                Self::ALL.iter().copied().find(|value| value.as_str() == text).ok_or_else(|| {
                    let known: Vec<String> = Self::ALL.iter().map(|value| format!("\"{value}\"")).collect();
                    Error::Malformed(format!(
                        concat!($what, " is one of {}, not {:?}"),
                        known.join(", "),
                        text.chars().take(64).collect::<String>()
                    ))
                })
            }
        }
    };
}

words! {
    /// Whose presence differential privacy hides. A policy always writes it: there is no default.
    Unit, "the unit of privacy" {
        /// One member's whole update of a round.
        Institution = "institution",
        /// One training example.
        Record = "record",
        /// No differential privacy. Every report of a job that ran so says it.
        None = "none",
    }
}

words! {
    /// Which two inputs count as neighbours.
    Adjacency, "the adjacency" {
        /// One unit's vector is replaced by 0 (at record level under Poisson sampling: add or remove); Δ₂ = C.
        ZeroOut = "zero-out",
        /// One unit's vector is replaced by another one; Δ₂ = 2·C.
        ReplaceOne = "replace-one",
    }
}

words! {
    /// Who adds how much of the noise.
    Placement, "the placement of the noise" {
        /// Each member adds a share; the sum carries the target noise.
        Distributed = "distributed",
        /// Each member adds all of it.
        Local = "local",
    }
}

words! {
    /// What may be released of each round beside the model: a mean over the records of its batch, which rides in the sealed
    /// sum, inside the same clip and under the same noise, and so costs nothing more. An estimate: the sum is divided by the
    /// nominal batch, however many records were drawn.
    Metric, "a metric" {
        /// Mean loss, each record's held to 0 … 4.
        TrainingLoss = "training-loss",
        /// Share of right answers.
        TrainingAccuracy = "training-accuracy",
    }
}

words! {
    /// What a party does in a federation, as its certificate says.
    Role, "a role" {
        /// An institution that contributes updates and opens sums.
        Member = "member",
        /// Adds what it cannot open.
        Server = "server",
        /// Signs policies.
        Officer = "officer",
        /// Signs jobs.
        Researcher = "researcher",
        /// Reads and verifies logs.
        Auditor = "auditor",
    }
}

impl Role {
    /// "a member", "an officer".
    #[must_use]
    pub fn with_article(self) -> String {
        let article = match self {
            Self::Officer | Self::Auditor => "an",
            Self::Member | Self::Server | Self::Researcher => "a",
        };
        format!("{article} {self}")
    }
}

/// Words, a comma between; `none` for none.
pub(crate) fn listed<T: fmt::Display>(words: &BTreeSet<T>, none: &str) -> String {
    if words.is_empty() {
        return none.to_owned();
    }
    let words: Vec<String> = words.iter().map(ToString::to_string).collect();
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_reads_back_as_its_value() {
        for unit in Unit::ALL {
            assert_eq!(unit.to_string().parse::<Unit>().unwrap(), *unit);
        }
        for adjacency in Adjacency::ALL {
            assert_eq!(
                adjacency.to_string().parse::<Adjacency>().unwrap(),
                *adjacency
            );
        }
        for metric in Metric::ALL {
            assert_eq!(metric.to_string().parse::<Metric>().unwrap(), *metric);
        }
        for placement in Placement::ALL {
            assert_eq!(
                placement.to_string().parse::<Placement>().unwrap(),
                *placement
            );
        }
    }

    #[test]
    fn an_unknown_word_is_refused_with_the_known_ones() {
        let said = "Record".parse::<Unit>().unwrap_err().to_string();
        assert!(
            said.contains("\"institution\", \"record\", \"none\""),
            "{said}"
        );
        assert!("".parse::<Placement>().is_err());
    }
}
