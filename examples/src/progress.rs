//! What is told while it happens: bars on a terminal, lines elsewhere, JSON on request.

use std::io::{self, IsTerminal as _, Write as _};

use ciphertune_client::report::Happening;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

/// Where progress goes.
pub struct Progress {
    json: bool,
    bars: Option<Bars>,
}

struct Bars {
    all: MultiProgress,
    members: Vec<ProgressBar>,
}

impl Progress {
    /// For these members; `json`: events on standard output.
    pub fn new(members: &[String], json: bool) -> Self {
        let bars = io::stderr().is_terminal().then(|| Bars::new(members));
        Self { json, bars }
    }

    /// A line for people.
    pub fn note(&self, text: &str) {
        match &self.bars {
            Some(bars) => {
                let _ = bars.all.println(text);
            }
            None => {
                let _ = writeln!(io::stderr(), "{text}");
            }
        }
    }

    /// An object for machines, if they listen.
    pub fn event(&self, event: &Value) {
        if self.json {
            let mut out = io::stdout().lock();
            let _ = writeln!(out, "{event}").and_then(|()| out.flush());
        }
    }

    /// What a member said.
    pub fn happening(&self, member: usize, name: &str, happening: &Happening) {
        if self.json && !matches!(happening, Happening::Training { .. }) {
            let mut event = serde_json::to_value(happening).unwrap_or_default();
            if let Some(object) = event.as_object_mut() {
                object.insert("party".into(), name.into());
            }
            self.event(&event);
        }
        if let Some(bar) = self.bars.as_ref().and_then(|bars| bars.members.get(member)) {
            show(bar, happening);
        }
        match happening {
            Happening::Considered {
                refusal: Some(reason),
                ..
            } => {
                self.note(&format!("{name} refuses the job: {reason}"));
            }
            Happening::Started {
                validation: Some(start),
            } => self.note(&format!(
                "before training: loss {:.4}, accuracy {:.1} % on {} validation records",
                start.loss,
                100.0 * start.accuracy,
                start.examples
            )),
            Happening::CatchingUp { from, to } => self.note(&format!(
                "{name} stands after round {from} and asks for the model of round {to}"
            )),
            Happening::Planned {
                round,
                rounds,
                attempt,
                cohort,
                parameters,
            } if member == 0 => {
                let again = if *attempt > 1 {
                    format!(", attempt {attempt}")
                } else {
                    String::new()
                };
                self.note(&format!(
                    "round {round}/{rounds}{again}: {cohort} members, sealed as {parameters}"
                ));
            }
            Happening::Warning { said } => self.note(&format!("{name}: {said}")),
            Happening::Voided { reason } => self.note(&format!(
                "{name}: an attempt ended without a model: {reason}"
            )),
            Happening::Finished(report) => {
                if let Some(validation) = report.validation {
                    self.note(&format!(
                        "round {}: validation loss {:.4}, accuracy {:.1} %; {} updates summed unseen",
                        report.round,
                        validation.loss,
                        100.0 * validation.accuracy,
                        report.contributors
                    ));
                }
            }
            _ => {}
        }
    }

    /// A round's sums were compared.
    pub fn compared(&self, round: u32, equal: bool) {
        self.event(&json!({ "event": "compared", "round": round, "sum_equals_plaintext": equal }));
        if !equal {
            self.note(&format!(
                "round {round}: AN OPENED SUM IS NOT THE PLAIN SUM"
            ));
        }
    }

    /// Takes the bars away.
    pub fn finish(&self) {
        if let Some(bars) = &self.bars {
            let _ = bars.all.clear();
        }
    }
}

impl Bars {
    fn new(members: &[String]) -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10));
        let style = ProgressStyle::with_template("  {prefix:10} {bar:24} {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar());
        let members = members
            .iter()
            .map(|name| {
                let bar = all.add(ProgressBar::new(1)).with_style(style.clone());
                bar.set_prefix(name.clone());
                bar.set_message("starting");
                bar
            })
            .collect();
        Self { all, members }
    }
}

fn show(bar: &ProgressBar, happening: &Happening) {
    match happening {
        Happening::Connected { .. } => bar.set_message("connected"),
        Happening::Considered { refusal: None, .. } => bar.set_message("admitted the job"),
        Happening::Considered { .. } => bar.set_message("refused the job"),
        Happening::Planned { round, .. } => {
            bar.set_position(0);
            bar.set_message(format!("round {round}"));
        }
        Happening::Training { step, steps, loss } => {
            bar.set_length(*steps as u64);
            bar.set_position(*step as u64);
            let doing = if step == steps {
                "sealing, sending, waiting"
            } else {
                "training"
            };
            bar.set_message(format!("{doing}, loss {loss:.3}"));
        }
        Happening::Finished(report) => bar.set_message(format!("round {} done", report.round)),
        Happening::Ended { .. } => bar.finish_with_message("done"),
        _ => {}
    }
}
