//! The table at the end.

use std::fmt::Write as _;

use ciphertune_policy::Unit;

use crate::summary::{Round, Summary};

const COLUMNS: [(&str, usize); 13] = [
    ("round", 5),
    ("val. loss", 9),
    ("accuracy", 8),
    ("up", 9),
    ("down", 9),
    ("train", 7),
    ("privat.", 7),
    ("seal", 7),
    ("send", 7),
    ("wait", 7),
    ("open", 7),
    ("ε spent", 8),
    ("sum = plain", 11),
];

/// The rounds, and what is to be said of the whole.
pub fn render(summary: &Summary) -> String {
    let mut text = line(COLUMNS.map(|(title, _)| title.to_owned()));
    text.push_str(&line(COLUMNS.map(|(_, width)| "-".repeat(width))));
    for round in &summary.rounds {
        text.push_str(&line(row(round)));
    }
    let bytes = |bytes: Option<u64>| bytes.map_or("unknown".into(), |bytes| size(bytes as f64));
    let _ = writeln!(
        text,
        "\nBytes and seconds are a member's, mean over members; bytes include TLS. Majority class {:.1} %{}.\n\
         Backbone {} ({} numbers trained), {} members × {} records, {} for validation.\n\
         Peak memory: server {}, member {}. {:.1} s from the job to its end.\n\
         {}{}Privacy: {}.",
        100.0 * summary.majority_class,
        summary.start.map_or(String::new(), |start| format!(
            ", untrained model {:.1} %",
            100.0 * start.accuracy
        )),
        summary.backbone.kind,
        summary.parameters,
        summary.data.members,
        summary.data.per_member,
        summary.data.validation,
        bytes(summary.peak_memory.server),
        bytes(summary.peak_memory.member),
        summary.seconds,
        clipping(summary),
        released(summary),
        summary.privacy.said,
    );
    text
}

/// What clipping did to single records, over all rounds; these figures stay with the members in production.
fn clipping(summary: &Summary) -> String {
    let mean = |of: fn(&Round) -> Option<f64>| {
        let shares: Vec<f64> = summary.rounds.iter().filter_map(of).collect();
        100.0 * shares.iter().sum::<f64>() / shares.len().max(1) as f64
    };
    match summary.privacy.unit {
        Unit::Record => format!(
            "Of the records' gradients {:.1} % were clipped, and {:.1} % of their coordinates rounded to 0.\n",
            mean(|round| round.clipped_share),
            mean(|round| round.zeroed_share),
        ),
        _ => String::new(),
    }
}

/// The metrics that were released, at the end: single rounds are noisy.
fn released(summary: &Summary) -> String {
    const LAST: usize = 10;
    let last = &summary.rounds[summary.rounds.len().saturating_sub(LAST)..];
    let names = last.first().map(|round| round.released.keys());
    let mean = |name: &String| {
        let values = last.iter().filter_map(|round| round.released.get(name));
        format!("{name} {:.3}", values.sum::<f64>() / last.len() as f64)
    };
    let means: Vec<String> = names.into_iter().flatten().map(mean).collect();
    match means.as_slice() {
        [] => String::new(),
        means => format!(
            "Released with the sums, over the last {} rounds: {}.\n",
            last.len(),
            means.join(", ")
        ),
    }
}

fn row(round: &Round) -> [String; 13] {
    let number = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
    };
    let percent = round.validation_accuracy.map(|share| 100.0 * share);
    let s = &round.seconds;
    let seconds = |value: f64| format!("{value:.2}");
    [
        round.round.to_string(),
        number(round.validation_loss, 4),
        percent.map_or_else(|| "–".to_owned(), |percent| format!("{percent:.1} %")),
        size(round.bytes_up),
        size(round.bytes_down),
        seconds(s.train),
        seconds(s.privatise),
        seconds(s.seal),
        seconds(s.send),
        seconds(s.wait),
        seconds(s.open),
        number(round.epsilon, 3),
        if round.sum_equals_plaintext {
            "yes"
        } else {
            "NO"
        }
        .to_owned(),
    ]
}

fn line(cells: [String; 13]) -> String {
    let mut text = String::new();
    for (cell, (_, width)) in cells.iter().zip(COLUMNS) {
        let _ = write!(text, "{cell:>width$}  ");
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// Bytes for people: kB = 1000.
fn size(bytes: f64) -> String {
    match bytes {
        bytes if bytes < 1e6 => format!("{:.1} kB", bytes / 1e3),
        bytes if bytes < 1e9 => format!("{:.1} MB", bytes / 1e6),
        bytes => format!("{:.2} GB", bytes / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_powers_of_a_thousand() {
        assert_eq!(size(1_234.0), "1.2 kB");
        assert_eq!(size(56_780_000.0), "56.8 MB");
        assert_eq!(size(3.2e9), "3.20 GB");
    }

    #[test]
    fn columns_line_up() {
        let titles = line(COLUMNS.map(|(title, _)| title.to_owned()));
        let rule = line(COLUMNS.map(|(_, width)| "-".repeat(width)));
        assert_eq!(
            titles.trim_end().chars().count(),
            rule.trim_end().chars().count()
        );
    }
}
