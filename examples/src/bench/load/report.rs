//! What is told of loads.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    phases::{PHASES, Quantiles, Timed, quantiles, to_json, upload_seconds},
    shape::Shape,
};

/// All loads of one run.
pub struct Loads {
    /// In the order in which they were asked for.
    pub loads: Vec<Load>,
}

/// One load.
pub struct Load {
    /// Who sent how much.
    pub shape: Shape,
    /// Parameters that were asked for.
    pub asked_parameters: usize,
    /// Why there were fewer.
    pub halved: Option<String>,
    /// All connections.
    pub connect_seconds: f64,
    /// From the first job submitted to the last member that knows that its last one ended.
    pub seconds: f64,
    /// The plain copy.
    pub copy_seconds: f64,
    /// Each member's part in each job.
    pub timed: Vec<Timed>,
    /// What all members sent, TLS included.
    pub bytes_up: u64,
    /// What all members got.
    pub bytes_down: u64,
    /// Most memory of the server before the first job.
    pub connected_memory: Option<u64>,
    /// Most memory of the server.
    pub peak_memory: Option<u64>,
    /// Most that its data folder held.
    pub peak_disk: u64,
    /// Seconds of processors that the jobs took the server.
    pub cpu_seconds: Option<f64>,
}

impl Load {
    /// Bytes of one body.
    pub fn body_bytes(&self) -> u64 {
        self.shape.body_bytes().unwrap_or(0)
    }

    /// Contributions a second, all members together, bytes.
    pub fn throughput(&self) -> f64 {
        self.uploaded() / upload_seconds(&self.timed)
    }

    /// Those of the plain copy.
    pub fn copy_throughput(&self) -> f64 {
        self.uploaded() / self.copy_seconds
    }

    /// Ours over the plain copy's.
    pub fn ratio(&self) -> f64 {
        self.throughput() / self.copy_throughput()
    }

    fn uploaded(&self) -> f64 {
        self.shape.upload_bytes().unwrap_or(0) as f64
    }

    fn bodies(&self) -> f64 {
        (self.body_bytes() * (self.shape.members * self.shape.jobs) as u64) as f64
    }

    fn to_json(&self) -> Value {
        let body = self.body_bytes();
        json!({
            "members": self.shape.members,
            "jobs": self.shape.jobs,
            "parameters": self.shape.length,
            "asked_parameters": self.asked_parameters,
            "halved": self.halved,
            "holders": self.shape.holders(),
            "bytes": {
                "body": body,
                "contributions": self.uploaded(),
                "up": self.bytes_up,
                "down": self.bytes_down,
            },
            "seconds": {
                "connect": self.connect_seconds,
                "upload": upload_seconds(&self.timed),
                "copy": self.copy_seconds,
                "all": self.seconds,
                "phases": to_json(&self.timed),
            },
            "bytes_per_second": {
                "ours": self.throughput(),
                "copy": self.copy_throughput(),
                "ratio": self.ratio(),
            },
            "server": {
                "connected_memory": self.connected_memory,
                "peak_memory": self.peak_memory,
                "memory_over_body": self.peak_memory.map(|peak| peak as f64 / body as f64),
                "peak_disk": self.peak_disk,
                "disk_over_bodies": self.peak_disk as f64 / self.bodies(),
                "disk_over_contributions": self.peak_disk as f64 / self.uploaded(),
                "cpu_seconds": self.cpu_seconds,
            },
            "sum_equals_plaintext": true,
        })
    }

    fn tell(&self, text: &mut String) -> std::fmt::Result {
        let megabytes = |bytes: f64| format!("{:.1} MB", bytes / 1e6);
        let memory =
            |bytes: Option<u64>| bytes.map_or("unknown".into(), |bytes| megabytes(bytes as f64));
        let (shape, body) = (&self.shape, self.body_bytes() as f64);
        if let Some(said) = &self.halved {
            writeln!(text, "{said}")?;
        }
        writeln!(
            text,
            "{} members × {} parameters, {} job(s), {} hold shares; a body is {}. Every sum is the plain one.\n",
            shape.members,
            shape.length,
            shape.jobs,
            shape.holders(),
            megabytes(body)
        )?;
        writeln!(text, "  seconds      half of the members   99 of 100")?;
        for (name, of) in PHASES {
            let Quantiles { p50, p99 } = quantiles(&self.timed, of);
            writeln!(text, "  {name:<12} {p50:>19.3} {p99:>11.3}")?;
        }
        writeln!(
            text,
            "\n  all: {:.1} s; connecting before it {:.1} s\n  \
             contributions: {} in {:.2} s, {}/s; a plain copy over the same TLS {:.2} s, {}/s: ratio {:.2}\n  \
             all traffic: {} up, {} down\n  \
             server: memory {} with everybody connected, {} at most ({:.2} of a body); disk {} ({:.2} of the bodies, {:.2} with their shares); \
             {:.1} s of processors",
            self.seconds,
            self.connect_seconds,
            megabytes(self.uploaded()),
            upload_seconds(&self.timed),
            megabytes(self.throughput()),
            self.copy_seconds,
            megabytes(self.copy_throughput()),
            self.ratio(),
            megabytes(self.bytes_up as f64),
            megabytes(self.bytes_down as f64),
            memory(self.connected_memory),
            memory(self.peak_memory),
            self.peak_memory.map_or(f64::NAN, |peak| peak as f64 / body),
            megabytes(self.peak_disk as f64),
            self.peak_disk as f64 / self.bodies(),
            self.peak_disk as f64 / self.uploaded(),
            self.cpu_seconds.unwrap_or(f64::NAN),
        )
    }
}

impl Loads {
    /// One object.
    pub fn to_json(&self) -> Value {
        json!({ "loads": self.loads.iter().map(Load::to_json).collect::<Vec<_>>() })
    }

    /// For people.
    pub fn to_table(&self) -> String {
        let mut text = String::new();
        for load in &self.loads {
            // Writing to a string does not fail.
            let _ = load.tell(&mut text);
            text.push('\n');
        }
        text
    }
}
