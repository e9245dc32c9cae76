//! What a run of tuning tells: what it trains on, and how good what it left is.

use std::path::Path;

use ciphertune_client::{
    Result,
    local::{Counted, Finished},
    tuning::Tuning,
};
use ciphertune_tune::evaluate::Evaluation;
use serde_json::json;

use crate::{Common, output};

/// What the data hold, in words.
pub fn told(counted: &Counted, tuning: &Tuning) -> String {
    let mut text = format!(
        "{} records to train on, {} held out; {} duplicates left out; {} cut to the backbone's context\ntemplate {}",
        counted.training,
        counted.validation,
        counted.duplicates,
        counted.truncated,
        tuning.template
    );
    for (label, (training, validation)) in &counted.labels {
        text += &format!("\n  {label:<20} {training:>7} {validation:>7}");
    }
    text
}

pub fn report(finished: &Finished, folder: &Path, common: &Common) -> Result<()> {
    let about = &finished.tuned.about;
    let without_peft = finished.without_peft.map(|reason| reason.to_string());
    if common.json {
        return output::json(&json!({
            "digest": about.digest,
            "before": finished.before,
            "validation": about.validation,
            "folder": folder,
            "without_peft": without_peft,
        }));
    }
    if let (Some(before), Some(after)) = (&finished.before, &about.validation) {
        output::say(&format!("before: {}", summary(before)))?;
        output::say(&format!(
            "after:  {}\n{}",
            summary(after),
            table(after, &about.tuning.labels)
        ))?;
    }
    output::say(&format!(
        "θ {}\nsaved in {}",
        about.digest,
        folder.display()
    ))?;
    match without_peft {
        Some(reason) => output::say(&format!("no PEFT adapter beside it: {reason}")),
        None => output::say("PeftModel.from_pretrained loads it, too"),
    }
}

/// An evaluation in one line.
pub fn summary(found: &Evaluation) -> String {
    let rest = match (found.macro_f1, found.token_accuracy) {
        (Some(f1), _) => format!("macro F1 {f1:.3}"),
        (_, Some(tokens)) => format!("{:.1} % of the answers' tokens right", 100.0 * tokens),
        _ => String::new(),
    };
    format!(
        "loss {:.4}, accuracy {:.1} %, {rest}, of {} records",
        found.loss,
        100.0 * found.accuracy,
        found.examples
    )
}

/// The confusion table: a row a true label, a column a predicted one.
pub fn table(found: &Evaluation, labels: &[String]) -> String {
    if found.confusion.is_empty() {
        return String::new();
    }
    let wide = labels
        .iter()
        .map(|label| label.chars().count())
        .max()
        .unwrap_or(0)
        .max(8);
    let mut text = format!("{:wide$}  predicted\n{:wide$}", "", "true");
    for label in labels {
        text += &format!("  {label:>wide$}");
    }
    for (label, row) in labels.iter().zip(&found.confusion) {
        text += &format!("\n{label:wide$}");
        for count in row {
            text += &format!("  {count:>wide$}");
        }
    }
    text + "\n"
}
