//! What was measured, for machines and for people.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    shape::{EncoderKind, Shape},
    steps::{Row, Side},
};

/// One run of `bench tune`.
pub struct Tuned {
    /// What made the prompt.
    pub encoder: EncoderKind,
    /// Every shape at every number of threads.
    pub rows: Vec<Row>,
    /// What there was no model for.
    pub skipped: Vec<Shape>,
}

/// Ours / theirs: seconds of a step, and extra memory.
struct Ratios {
    seconds: f64,
    memory: Option<f64>,
}

impl Tuned {
    /// One object; ratios are ours over PyTorch's, of medians.
    pub fn to_json(&self) -> Value {
        let rows = self.rows.iter().map(|row| {
            let ratio = |ours: &Side| {
                let ratios = row.torch.as_ref().map(|torch| ratios(ours, torch));
                ratios.map(|r| json!({ "seconds": r.seconds, "extra_bytes": r.memory }))
            };
            let batch = row.shape.batch();
            json!({
                "shape": row.shape,
                "threads": row.threads,
                "examples": batch.examples,
                "virtual_tokens": batch.virtual_tokens,
                "text_tokens": batch.text_tokens,
                "tokens_per_second": batch.positions() as f64 / row.ours.seconds.median,
                "ours": row.ours,
                "recompute": row.recompute,
                "torch": row.torch,
                "ratio": ratio(&row.ours),
                "ratio_recompute": ratio(&row.recompute),
            })
        });
        json!({
            "encoder": self.encoder,
            "rows": rows.collect::<Vec<_>>(),
            "skipped": self.skipped,
        })
    }

    /// For people.
    pub fn to_table(&self) -> String {
        let mut text = String::from(
            "One p-tuning step; extra memory is the peak of the steps over the loaded model.\n",
        );
        for row in &self.rows {
            let batch = row.shape.batch();
            let _ = writeln!(
                text,
                "\n{:?}, {} thread(s): {} × ({} + {}) tokens",
                row.shape, row.threads, batch.examples, batch.virtual_tokens, batch.text_tokens
            );
            let mut line = |name: &str, side: &Side| {
                let extra = side.extra_bytes.map_or("unknown".into(), |bytes| {
                    format!("{:.1} MB", bytes as f64 / 1e6)
                });
                let _ = write!(
                    text,
                    "  {name:<16} {:>8.1} ms {:>9.0} tokens/s  + {extra:>9}",
                    1e3 * side.seconds.median,
                    batch.positions() as f64 / side.seconds.median
                );
                if let (Some(torch), false) = (&row.torch, name == TORCH) {
                    let ratios = ratios(side, torch);
                    let _ = write!(text, "   {:.2} × its time", ratios.seconds);
                    if let Some(memory) = ratios.memory {
                        let _ = write!(text, ", {memory:.2} × its memory");
                    }
                }
                text.push('\n');
            };
            line("ours", &row.ours);
            line("ours, recompute", &row.recompute);
            if let Some(torch) = &row.torch {
                line(TORCH, torch);
            }
        }
        for shape in &self.skipped {
            let _ = writeln!(text, "\n{shape:?}: SKIPPED, no --model");
        }
        text
    }
}

const TORCH: &str = "PyTorch + PEFT";

fn ratios(ours: &Side, torch: &Side) -> Ratios {
    let memory = ours.extra_bytes.zip(torch.extra_bytes);
    Ratios {
        seconds: ours.seconds.median / torch.seconds.median,
        memory: memory
            .filter(|(_, torch)| *torch > 0)
            .map(|(ours, torch)| ours as f64 / torch as f64),
    }
}
