//! What was measured, for machines and for people.

use std::{fmt::Write as _, num::NonZeroU8};

use ciphertune_sum::N;
use serde_json::{Value, json};

use super::{
    memory::PeakMemory, options::Shape, reference::Reference, round::Timed, samples::Samples,
    stages::Stages,
};

/// One run of `bench seal`.
pub struct Report {
    /// What was sealed.
    pub shape: Shape,
    /// Threads of a member.
    pub threads: NonZeroU8,
    /// What bounds it.
    pub reference: Reference,
    /// A block, stage by stage.
    pub stages: Stages,
    /// The round.
    pub round: Timed,
    /// What each party held.
    pub peak_memory: PeakMemory,
}

impl Report {
    /// One object. Rates are parameters a second, from the medians.
    pub fn to_json(&self) -> Value {
        let round = &self.round;
        json!({
            "seal_per_second": self.rate(&round.seal),
            "add_per_second": self.add_rate(),
            "check_per_second": self.rate(&round.check),
            "open_per_second": self.rate(&round.open),
            "open_fresh_per_second": self.rate(&round.open_fresh),
            "bytes_per_parameter_up": self.per_parameter(round.bytes_up),
            "bytes_per_parameter_down": self.per_parameter(round.bytes_down),
            "bytes_per_parameter_spot_check": self.per_parameter(round.bytes_spot_check),
            "threads": self.threads.get(),
            "peak_memory": self.peak_memory,
            "parameters": self.shape.length,
            "members": self.shape.members(),
            "value_bound": self.shape.parameters.value_bound(),
            "parameter_set": self.shape.parameters.name(),
            "sum_equals_plaintext": true,
            "seal_seconds": round.seal,
            "add_seconds": round.add,
            "check_seconds": round.check,
            "open_seconds": round.open,
            "open_fresh_seconds": round.open_fresh,
            "key_sum_seconds": round.key_sum,
            "reference": self.reference,
            "stages_ns_per_block": self.stages,
        })
    }

    /// For people.
    pub fn to_table(&self) -> String {
        let (round, shape, memory) = (&self.round, &self.shape, &self.peak_memory);
        let mut text = format!(
            "{} members × {} parameters, {}, {} thread(s), bodies in memory. The opened sum is the plain sum.\n\n",
            shape.members(),
            shape.length,
            shape.parameters.name(),
            self.threads
        );
        let mut phase = |name: &str, rate: f64, samples: &Samples| {
            let _ = writeln!(
                text,
                "{name:<10} {:>9.1} M parameters/s   median {:.4} s, least {:.4} s of {}",
                rate / 1e6,
                samples.median,
                samples.least,
                samples.samples.len()
            );
        };
        phase("seal", self.rate(&round.seal), &round.seal);
        phase("add", self.add_rate(), &round.add);
        phase("check", self.rate(&round.check), &round.check);
        phase("open", self.rate(&round.open), &round.open);
        phase(
            "open fresh",
            self.rate(&round.open_fresh),
            &round.open_fresh,
        );
        let bytes = |peak: Option<u64>| {
            peak.map_or("unknown".into(), |peak| {
                format!("{:.1} MB", peak as f64 / 1e6)
            })
        };
        let _ = writeln!(
            text,
            "\nadd counts the parameters of all {} bodies. open has a vector whose memory was in use before; open fresh asks the\n\
             system for it. Rebuilding the sum of the keys: {:.4} s.\n\
             Bytes a parameter: {:.3} up, {:.3} down, {:.3} more down for the spot check.\n\
             Peak memory: seal {}, add {}, open {}; a vector is {}.\n",
            shape.members(),
            round.key_sum,
            self.per_parameter(round.bytes_up),
            self.per_parameter(round.bytes_down),
            self.per_parameter(round.bytes_spot_check),
            bytes(memory.seal),
            bytes(memory.add),
            bytes(memory.open),
            bytes(Some(memory.vector)),
        );
        let stages = &self.stages;
        for (name, nanoseconds) in [
            ("mask", stages.mask),
            ("product", stages.product),
            ("errors", stages.errors),
            ("pack", stages.pack),
            ("unpack", stages.unpack),
            ("check", stages.check),
            ("sha-256", stages.sha256),
        ] {
            let per_word = nanoseconds / N as f64;
            let _ = writeln!(
                text,
                "  {name:<8} {:>8.1} µs a block, {per_word:>6.2} ns a word",
                nanoseconds / 1e3
            );
        }
        let reference = &self.reference;
        let _ = writeln!(
            text,
            "\nOne core: ChaCha12 {:.2} GB/s (rand_chacha), SHA-256 {:.2} GB/s, copying {:.2} GB/s, fresh memory {:.2} GB/s.",
            reference.chacha12_bytes_per_second / 1e9,
            reference.sha256_bytes_per_second / 1e9,
            reference.memcpy_bytes_per_second / 1e9,
            reference.fresh_memory_bytes_per_second / 1e9,
        );
        text
    }

    fn rate(&self, samples: &Samples) -> f64 {
        self.shape.length as f64 / samples.median
    }

    fn add_rate(&self) -> f64 {
        self.rate(&self.round.add) * self.shape.members() as f64
    }

    fn per_parameter(&self, bytes: u64) -> f64 {
        bytes as f64 / self.shape.length as f64
    }
}
