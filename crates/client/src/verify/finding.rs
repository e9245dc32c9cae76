//! What does not hold: which rule, in whose log, at which entry, since when.

use std::fmt;

use serde::Serialize;

/// What an entry, or a log, breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// The log itself: a line edited, deleted, reordered, inserted or back-dated.
    Chain,
    /// A checkpoint that its log does not lead to, or that its owner did not sign.
    Checkpoint,
    /// Two histories of one log, or one that others have signed otherwise.
    Fork,
    /// An object that an entry rests on is missing, was changed, or is another than the entry says.
    Evidence,
    /// A signature, or who may sign what.
    Signature,
    /// Who is who: authority, manifest, certificates, and their dates.
    Certificate,
    /// Revocation lists, and what they name.
    Revocation,
    /// A policy that is not signed, not the strictest, or weaker than before.
    Policy,
    /// A plan that its job or the policies do not allow.
    Plan,
    /// A roster that its plan does not allow, or a second one.
    Roster,
    /// What was released before enough members had echoed one roster, or for another one.
    Release,
    /// What left without being charged for, or at another price.
    Charge,
    /// A ledger that is not what its log says.
    Ledger,
    /// Models that were not agreed on.
    Agreement,
    /// What one log says and another one must know, and does not.
    Missing,
    /// Times of two logs that cannot both be right.
    Time,
}

/// One thing that does not hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it breaks.
    pub rule: Rule,
    /// Whose log: `ROLE NAME`, or the folder where that is not known.
    pub node: String,
    /// The entry's sequence number, from 0, where it is one entry's.
    pub entry: Option<u64>,
    /// When that was written, UTC.
    pub time: Option<String>,
    /// What is known to hold before it.
    pub since: Option<String>,
    /// What is wrong.
    pub detail: String,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chain => "chain",
            Self::Checkpoint => "checkpoint",
            Self::Fork => "fork",
            Self::Evidence => "evidence",
            Self::Signature => "signature",
            Self::Certificate => "certificate",
            Self::Revocation => "revocation",
            Self::Policy => "policy",
            Self::Plan => "plan",
            Self::Roster => "roster",
            Self::Release => "release",
            Self::Charge => "charge",
            Self::Ledger => "ledger",
            Self::Agreement => "agreement",
            Self::Missing => "missing",
            Self::Time => "time",
        })
    }
}

impl Finding {
    /// Without anything that moves a terminal's cursor: names and words come from whoever wrote the log.
    pub(super) fn printable(mut self) -> Self {
        for text in [&mut self.node, &mut self.detail] {
            *text = printable(text);
        }
        self
    }
}

/// A text without control characters but for line ends, and not endless.
pub(super) fn printable(text: &str) -> String {
    let shown = text.chars().take(4_000);
    shown
        .map(|c| {
            if c.is_control() && c != '\n' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.rule, self.node)?;
        if let Some(entry) = self.entry {
            write!(f, ", entry {entry}")?;
        }
        if let Some(time) = &self.time {
            write!(f, " ({time})")?;
        }
        write!(f, ": {}", self.detail)?;
        match &self.since {
            Some(since) => write!(f, "; {since}"),
            None => Ok(()),
        }
    }
}

/// What a check of one entry came to: the rule that it breaks, and how.
pub(super) struct Wrong(pub Rule, pub String);

/// A check.
pub(super) type Check<T = ()> = Result<T, Wrong>;

/// Says which rule an error breaks.
pub(super) trait Breaks<T> {
    /// The error as [`Wrong`].
    fn breaks(self, rule: Rule) -> Check<T>;
}

impl<T, E: fmt::Display> Breaks<T> for Result<T, E> {
    fn breaks(self, rule: Rule) -> Check<T> {
        self.map_err(|error| Wrong(rule, error.to_string()))
    }
}

/// Breaks a rule unless `holds`.
pub(super) fn demand(holds: bool, rule: Rule, said: impl FnOnce() -> String) -> Check {
    if holds {
        Ok(())
    } else {
        Err(Wrong(rule, said()))
    }
}
