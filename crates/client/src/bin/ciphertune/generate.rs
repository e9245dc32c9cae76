//! `ciphertune generate`: text behind a tuned prompt.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use ciphertune_client::{Result, tuned::Tuned};
use ciphertune_tune::{
    backbone::Options,
    data::Record,
    generate::{Sampling, Writer},
};
use clap::Args;
use serde_json::json;

use crate::{Common, backbone::BackboneFlags, output, question};

/// Flags of `ciphertune generate`.
#[derive(Args)]
pub struct Generate {
    /// The tuned folder.
    #[arg(long, value_name = "DIR")]
    adapter: PathBuf,
    #[command(flatten)]
    backbone: BackboneFlags,
    /// Texts; none: standard input, one a line. A text that is a JSON object gives the template's columns by name.
    #[arg(value_name = "TEXT")]
    texts: Vec<String>,
    /// Tokens at most.
    #[arg(long, value_name = "N", default_value_t = 64)]
    most_tokens: usize,
    /// 0: always the likeliest token; above: draws, the more widely the higher.
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Draw only from the likeliest tokens that together reach this probability.
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// Decides what is drawn.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

impl Generate {
    pub fn run(self, common: &Common) -> Result<ExitCode> {
        let sampling = Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            most_tokens: self.most_tokens,
            seed: self.seed,
        };
        sampling.check()?;
        let opened = self.backbone.open(Options::default())?;
        let (tuned, trainer) = Tuned::read(&self.adapter, &opened)?;
        let writer = trainer.writer(&tuned.parameters)?;
        let template = trainer.task().template();
        let numbered = (1..).zip(self.texts.iter().cloned()).map(Ok);
        let questions: Box<dyn Iterator<Item = Result<(usize, String)>>> =
            match self.texts.is_empty() {
                true => Box::new(question::lines()),
                false => Box::new(numbered),
            };
        for question in questions {
            let (number, text) = question?;
            if text.is_empty() {
                continue;
            }
            let record = question::parse(&text, template, number)?;
            let sampling = Sampling {
                // Each text draws on its own.
                seed: sampling.seed.wrapping_add(number as u64 - 1),
                ..sampling
            };
            tell(&writer, number, &record, &sampling, common)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Writes the answer: token by token for people, whole for machines.
fn tell(
    writer: &Writer<'_>,
    number: usize,
    record: &Record,
    sampling: &Sampling,
    common: &Common,
) -> Result<()> {
    let mut out = std::io::stdout();
    let written = writer.write(record, sampling, &mut |new| {
        common.json || write!(out, "{new}").and_then(|()| out.flush()).is_ok()
    })?;
    if common.json {
        return output::json(&json!({
            "number": number,
            "text": written.text,
            "tokens": written.tokens.len(),
            "ending": written.ending,
            "truncated": written.truncated,
        }));
    }
    output::say("")?;
    if written.truncated {
        eprintln!("note: the text before the answer was cut to the backbone's context");
    }
    Ok(())
}
