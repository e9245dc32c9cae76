//! How long one p-tuning step takes: forward and backward through a backbone, on batches of
//! sentences of made-up tokens.
//!
//! ```text
//! step MODEL_DIR [batch=32] [words=45] [virtual=16] [steps=5] [recompute]
//! ```

use std::path::Path;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use ciphertune_tune::backbone::{self, Backbone, Options};
use ciphertune_tune::encoder::Encoder;
use ciphertune_tune::encoder::mlp::Mlp;
use ciphertune_tune::head::{Classifier, Pooling};
use ciphertune_tune::{Error, Result};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let usage = || Error::Misuse("step MODEL_DIR [key=value …] [recompute]".into());
    let dir = arguments.first().ok_or_else(usage)?;
    let number = |key: &str, default: usize| {
        let value = arguments
            .iter()
            .find_map(|a| a.strip_prefix(key)?.strip_prefix('='));
        value.and_then(|v| v.parse().ok()).unwrap_or(default)
    };
    let options = Options {
        recompute: arguments.iter().any(|a| a == "recompute"),
    };
    let device = Device::Cpu;
    let start = Instant::now();
    let backbone = backbone::load_with(Path::new(dir), &device, options)?;
    println!(
        "loaded {} in {:.2} s",
        backbone.kind(),
        start.elapsed().as_secs_f64()
    );

    let (batch, words, prompts) = (
        number("batch", 32),
        number("words", 45),
        number("virtual", 16),
    );
    let encoder = Mlp::random(prompts, backbone.hidden(), backbone.hidden(), 1, &device)?;
    let classifier = Classifier::random(3, backbone.hidden(), 1, &device)?;
    let (mut forward, mut backward) = (0.0, 0.0);
    let steps = number("steps", 5);
    for step in 0..=steps {
        let start = Instant::now();
        let loss = loss(
            backbone.as_ref(),
            &encoder,
            &classifier,
            (batch, words, prompts),
        )?;
        let middle = Instant::now();
        let gradients = loss.backward()?;
        if step > 0 {
            forward += (middle - start).as_secs_f64();
            backward += middle.elapsed().as_secs_f64();
        }
        let (name, first) = encoder.parameters().swap_remove(0);
        if gradients.get(&first).is_none() {
            return Err(Error::Fault(format!("no gradient for {name}")));
        }
    }
    let tokens = (batch * (words + prompts)) as f64;
    let (forward, backward) = (forward / steps as f64, backward / steps as f64);
    println!(
        "batch {batch} × ({prompts} + {words}): forward {:.1} ms, backward {:.1} ms, {:.0} tokens/s, \
         peak memory {}",
        1e3 * forward,
        1e3 * backward,
        tokens / (forward + backward),
        peak_memory()
    );
    Ok(())
}

fn loss(
    backbone: &dyn Backbone,
    encoder: &Mlp,
    classifier: &Classifier,
    (batch, words, prompts): (usize, usize, usize),
) -> Result<Tensor> {
    let ids: Vec<u32> = (0..batch * words)
        .map(|i| (i * 7919 % backbone.vocabulary()) as u32)
        .collect();
    let words = backbone.embed(&Tensor::from_vec(ids, (batch, words), backbone.device())?)?;
    let prompt = encoder
        .forward()?
        .broadcast_as((batch, prompts, backbone.hidden()))?;
    let embeds = Tensor::cat(&[&prompt, &words], 1)?;
    let mask = Tensor::ones(
        embeds.dims3().map(|(b, t, _)| (b, t))?,
        DType::F32,
        backbone.device(),
    )?;
    let hidden = backbone.forward(&embeds, &mask)?;
    let features = Pooling::Mean.features(backbone, &hidden, &mask)?;
    Ok(classifier.forward(&features)?.sqr()?.sum_all()?)
}

/// VmHWM of this process, where Linux tells it.
fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.map_or_else(|| "unknown".into(), |kib| kib.trim().to_owned())
}
