//! Steps of every side in turn, so that what else this machine does falls on all alike.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use serde::Serialize;
use serde_json::Value;

use super::{case::Case, shape::Shape};
use crate::{
    Error, Result,
    bench::{options::TuneOptions, samples::Samples},
};

/// One shape at one number of threads.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// Which.
    pub shape: Shape,
    /// Threads of each side.
    pub threads: usize,
    /// Ours, activations kept.
    pub ours: Side,
    /// Ours, activations computed again.
    pub recompute: Side,
    /// PyTorch + PEFT, where it was asked for.
    pub torch: Option<Side>,
}

/// What a step of one side takes.
#[derive(Clone, Debug, Serialize)]
pub struct Side {
    /// Of a step, the first left out.
    pub seconds: Samples,
    /// The first step's, a token of the answer: ln of the vocabulary or of the classes, about, of a model that knows nothing.
    pub loss: f64,
    /// Resident with the model loaded.
    pub loaded_bytes: Option<u64>,
    /// Resident at most from then on, beyond that.
    pub extra_bytes: Option<u64>,
}

/// One step of each side to warm up, then as many rounds as are asked for.
pub fn measure(case: &Case, threads: usize, options: &TuneOptions) -> Result<Row> {
    let own =
        std::env::current_exe().map_err(|error| Error::fault("this program's path", error))?;
    let ours = |recompute: bool| {
        let mut command = Command::new(&own);
        command.arg("tune-worker").arg("--case").arg(&case.path);
        if recompute {
            command.arg("--recompute");
        }
        Peer::start("our side", command, threads)
    };
    let torch = |python: &Path| {
        let mut command = Command::new(python);
        command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/python/tune_torch.py"))
            .arg(&case.path)
            .arg(threads.to_string());
        Peer::start("PyTorch", command, threads)
    };
    let mut peers = vec![ours(false)?, ours(true)?];
    if let Some(python) = &options.torch {
        peers.push(torch(python)?);
    }
    for _ in 0..=options.repeats {
        for peer in &mut peers {
            peer.step()?;
        }
    }
    let mut sides = peers.into_iter().map(Peer::finish);
    let mut side = || sides.next().transpose();
    let missing = || Error::Fault("a side is missing".into());
    Ok(Row {
        shape: case.shape,
        threads,
        ours: side()?.ok_or_else(missing)?,
        recompute: side()?.ok_or_else(missing)?,
        torch: side()?,
    })
}

/// A process that takes a step when it is told to.
struct Peer {
    name: &'static str,
    process: Child,
    ask: Option<ChildStdin>,
    told: BufReader<ChildStdout>,
    loaded: Option<u64>,
    steps: Vec<f64>,
    losses: Vec<f64>,
}

impl Peer {
    /// Returns when its model is loaded.
    fn start(name: &'static str, mut command: Command, threads: usize) -> Result<Self> {
        let mut process = command
            .env("RAYON_NUM_THREADS", threads.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Error::fault(format_args!("starting {name}"), error))?;
        let (Some(ask), Some(told)) = (process.stdin.take(), process.stdout.take()) else {
            return Err(Error::Fault(format!("{name} has no pipes")));
        };
        let mut peer = Self {
            name,
            process,
            ask: Some(ask),
            told: BufReader::new(told),
            loaded: None,
            steps: Vec::new(),
            losses: Vec::new(),
        };
        peer.loaded = peer.hear()?["loaded_bytes"].as_u64();
        Ok(peer)
    }

    fn step(&mut self) -> Result<()> {
        if let Some(ask) = &mut self.ask {
            ask.write_all(b"step\n")
                .map_err(|error| Error::fault(self.name, error))?;
        }
        let told = self.hear()?;
        let (Some(seconds), Some(loss)) = (told["seconds"].as_f64(), told["loss"].as_f64()) else {
            return Err(Error::Fault(format!("{} said {told}", self.name)));
        };
        self.steps.push(seconds);
        self.losses.push(loss);
        Ok(())
    }

    fn finish(mut self) -> Result<Side> {
        self.ask = None;
        let peak = self.hear()?["peak_bytes"].as_u64();
        let ended = self.process.wait();
        if !ended.is_ok_and(|status| status.success()) {
            return Err(Error::Fault(format!("{} did not end well", self.name)));
        }
        Ok(Side {
            seconds: Samples::of(self.steps.get(1..).unwrap_or_default().to_vec()),
            loss: self.losses.first().copied().unwrap_or(f64::NAN),
            loaded_bytes: self.loaded,
            extra_bytes: peak
                .zip(self.loaded)
                .map(|(peak, loaded)| peak.saturating_sub(loaded)),
        })
    }

    fn hear(&mut self) -> Result<Value> {
        let mut line = String::new();
        let read = self.told.read_line(&mut line);
        read.map_err(|error| Error::fault(self.name, error))?;
        serde_json::from_str(&line)
            .map_err(|error| Error::fault(format_args!("{} said {line:?}", self.name), error))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // Where it has ended, there is nothing to end.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
