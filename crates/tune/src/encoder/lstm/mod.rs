//! PEFT's `PromptEncoder` with `encoder_reparameterization_type = LSTM`.

mod direction;
mod plain;

use std::collections::HashMap;

use candle_core::{Device, Tensor, Var};

use super::perceptron::Perceptron;
use super::{Encoder, Prompt, check_lengths, variable};
use crate::error::{Error, Result};
use crate::random::SplitMix;
use direction::{Direction, Trace};

/// P(θ) = W₂·ReLU(W₀·S + b₀) + b₂, row by row over S `[V, 2M]`, what a bidirectional LSTM of L layers (Hochreiter,
/// Schmidhuber 1997, with forget gates) gives for E `[V, H]` read as a sequence; W₀ `[2M, 2M]`, W₂ `[H, 2M]` (Liu et al.,
/// "GPT understands, too", 2021; PEFT 0.21 `PromptEncoder`, whose dropout between layers is none here).
pub struct Lstm {
    embedding: Var,
    layers: Vec<Layer>,
    head: Perceptron,
}

/// What reads its input from the start, and what reads it from the end.
#[derive(Clone)]
struct Layer([Direction; 2]);

/// What one pass of the layers left: of each layer, what went in and what its directions kept.
type Traces = Vec<(Tensor, [Trace; 2])>;

const EMBEDDING: &str = "encoder.embedding.weight";

impl Lstm {
    /// A start as torch gives it, from `seed`: E ~ N(0, 1), all of the LSTM ~ U(−1/√M, 1/√M), the head as
    /// [`super::mlp::Mlp`]'s. The generator fills them in the order of [`Encoder::parameters`].
    ///
    /// # Errors
    /// [`Error::Misuse`] for a zero dimension.
    pub fn random(
        virtual_tokens: usize,
        hidden: usize,
        inner: usize,
        layers: usize,
        seed: u64,
        device: &Device,
    ) -> Result<Self> {
        if virtual_tokens == 0 || hidden == 0 || inner == 0 || layers == 0 {
            return Err(Error::Misuse(format!(
                "an LSTM prompt encoder of {virtual_tokens} × {hidden}, {layers} layers of inner width {inner}"
            )));
        }
        let mut random = SplitMix::new(seed);
        let values = random.normal(virtual_tokens * hidden, 1.0);
        let embedding = Var::from_vec(values, (virtual_tokens, hidden), device)?;
        let mut stack = Vec::with_capacity(layers);
        for at in 0..layers {
            let width = if at == 0 { hidden } else { 2 * inner };
            let mut direction =
                |reverse| Direction::random(width, inner, reverse, &mut random, device);
            stack.push(Layer([direction(false)?, direction(true)?]));
        }
        let head = Perceptron::random(&[2 * inner, 2 * inner, hidden], &mut random, device)?;
        Ok(Self {
            embedding,
            layers: stack,
            head,
        })
    }

    /// θ from tensors named as PEFT names them: `encoder.embedding.weight`,
    /// `encoder.lstm_head.{weight_ih,weight_hh,bias_ih,bias_hh}_l{0,1,…}{,_reverse}`,
    /// `encoder.mlp_head.{0,2}.{weight,bias}`.
    ///
    /// # Errors
    /// [`Error::Malformed`] naming the tensor that is missing or does not fit.
    pub fn from_tensors(tensors: &HashMap<String, Tensor>) -> Result<Self> {
        let embedding = variable(tensors, EMBEDDING, 2)?;
        let hidden = embedding.dims2()?.1;
        let mut layers: Vec<Layer> = Vec::new();
        let mut width = hidden;
        loop {
            let forward = Direction::from_tensors(tensors, layers.len(), width, false)?;
            let reverse = Direction::from_tensors(tensors, layers.len(), width, true)?;
            if forward.inner() != reverse.inner() {
                return Err(Error::Malformed(format!(
                    "layer {} of encoder.lstm_head is {} wide forwards and {} in reverse",
                    layers.len(),
                    forward.inner(),
                    reverse.inner()
                )));
            }
            width = 2 * forward.inner();
            layers.push(Layer([forward, reverse]));
            if !tensors.contains_key(&direction::name("weight_ih", layers.len(), false)) {
                break;
            }
        }
        Ok(Self {
            embedding,
            layers,
            head: Perceptron::from_tensors(tensors, width, hidden)?,
        })
    }

    fn dimension(&self) -> usize {
        let layers = self.layers.iter().flat_map(|layer| &layer.0);
        self.embedding.elem_count()
            + layers.map(Direction::dimension).sum::<usize>()
            + self.head.dimension()
    }
}

impl Layer {
    /// `[V, I]` → `[V, 2M]`; the directions run side by side.
    fn forward(&self, x: &Tensor) -> Result<(Tensor, [Trace; 2])> {
        let [forward, reverse] = &self.0;
        let (a, b) = rayon::join(|| forward.forward(x), || reverse.forward(x));
        let (a, b) = (a?, b?);
        Ok((Tensor::cat(&[a.hidden(), b.hidden()], 1)?, [a, b]))
    }

    /// From the slope of what came out `[V, 2M]`: that of x, and of the parameters.
    fn pull_back(
        &self,
        x: &Tensor,
        traces: &[Trace; 2],
        slope: &Tensor,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let [forward, reverse] = &self.0;
        let inner = forward.inner();
        let half = |at| slope.narrow(1, at * inner, inner)?.contiguous();
        let (first, second) = (half(0)?, half(1)?);
        let (a, b) = rayon::join(
            || forward.pull_back(x, &traces[0], &first),
            || reverse.pull_back(x, &traces[1], &second),
        );
        let ((dx, mut gradient), (other, rest)) = (a?, b?);
        gradient.extend(rest);
        Ok(((dx + other)?, gradient))
    }
}

impl Encoder for Lstm {
    fn kind(&self) -> &'static str {
        "lstm"
    }

    fn virtual_tokens(&self) -> usize {
        self.embedding.dims().first().copied().unwrap_or(0)
    }

    fn forward(&self) -> Result<Prompt> {
        let mut traces: Traces = Vec::with_capacity(self.layers.len());
        let mut x = self.embedding.as_detached_tensor().copy()?;
        for layer in &self.layers {
            let (y, kept) = layer.forward(&x)?;
            traces.push((x, kept));
            x = y;
        }
        let (prompt, inputs) = self.head.forward(x)?;
        let (layers, head) = (self.layers.clone(), self.head.clone());
        Ok(Prompt::new(prompt, move |gradient| {
            let (mut slope, rest) = head.pull_back(&inputs, gradient)?;
            let mut reversed = vec![rest];
            for (layer, (x, kept)) in layers.iter().zip(&traces).rev() {
                let (dx, gradient) = layer.pull_back(x, kept, &slope)?;
                reversed.push(gradient);
                slope = dx;
            }
            reversed.push(vec![slope]);
            reversed.reverse();
            Ok(reversed.concat())
        }))
    }

    fn pull_back(&self, parameters: &[f32], gradient: &[f32]) -> Result<Vec<f32>> {
        let prompt = self.virtual_tokens() * self.head.out();
        check_lengths(parameters, self.dimension(), gradient, prompt)?;
        let (embedding, mut rest) = parameters.split_at(self.embedding.elem_count());
        let mut inputs = vec![super::plain::wide(embedding)];
        let mut layers = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let [forward, reverse] = layer.0.each_ref().map(|direction| {
                let (head, tail) = rest.split_at(direction.dimension());
                rest = tail;
                plain::Direction::new(direction, head)
            });
            let layer = plain::Layer::run(forward, reverse, &inputs[inputs.len() - 1]);
            inputs.push(layer.hidden());
            layers.push(layer);
        }
        let read = inputs.pop().unwrap_or_default();
        let head = self.head.plain(rest);
        let (mut slope, gradient) = head.pull_back(read, &super::plain::wide(gradient));
        let mut reversed = vec![gradient];
        for (layer, x) in layers.iter().zip(&inputs).rev() {
            let (dx, gradient) = layer.pull_back(x, &slope);
            reversed.push(gradient);
            slope = dx;
        }
        reversed.push(slope);
        let pulled = reversed.into_iter().rev().flatten();
        Ok(pulled.map(|x| x as f32).collect())
    }

    fn parameters(&self) -> Vec<(String, Var)> {
        let mut named = vec![(EMBEDDING.to_owned(), self.embedding.clone())];
        for (at, layer) in self.layers.iter().enumerate() {
            for direction in &layer.0 {
                named.extend(direction.parameters(at));
            }
        }
        named.extend(self.head.parameters());
        named
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{flat, slopes_agree};
    use super::*;

    fn encoder(layers: usize) -> Lstm {
        Lstm::random(4, 6, 5, layers, 1, &Device::Cpu).expect("an encoder")
    }

    #[test]
    fn tensors_go_out_and_come_back_and_slopes_agree() {
        for layers in 1..=3 {
            let encoder = encoder(layers);
            let again = Lstm::from_tensors(&encoder.tensors().expect("tensors")).expect("the same");
            assert_eq!(flat(&encoder), flat(&again));
            assert_eq!(flat(&encoder).len(), encoder.dimension());
            assert_eq!((again.kind(), again.virtual_tokens()), ("lstm", 4));
            slopes_agree(&encoder);
        }
    }

    #[test]
    fn names_stand_in_the_order_of_torchs_state_dict() {
        let names: Vec<String> = (encoder(2).parameters().into_iter())
            .map(|(name, _)| name)
            .collect();
        assert_eq!(names.len(), 1 + 2 * 8 + 4);
        assert_eq!(names[1], "encoder.lstm_head.weight_ih_l0");
        assert_eq!(names[4], "encoder.lstm_head.bias_hh_l0");
        assert_eq!(names[5], "encoder.lstm_head.weight_ih_l0_reverse");
        assert_eq!(names[9], "encoder.lstm_head.weight_ih_l1");
        assert_eq!(names[17], "encoder.mlp_head.0.weight");
    }

    #[test]
    fn what_is_pulled_back_has_these_bits_on_every_machine() {
        let encoder = Lstm::random(3, 2, 2, 1, 1, &Device::Cpu).expect("an encoder");
        let theta: Vec<f32> = (0..encoder.dimension())
            .map(|at| (at * 7 % 23) as f32 / 23.0 - 0.4)
            .collect();
        let gradient: Vec<f32> = (0..6).map(|at| (at * 5 % 11) as f32 / 11.0 - 0.5).collect();
        let pulled = encoder.pull_back(&theta, &gradient).expect("a gradient");
        let bits = [0, 3, 6, 20, 39, 47, 60, 86, 100, 113].map(|at: usize| pulled[at].to_bits());
        assert_eq!(bits, EXPECTED, "{bits:#010X?}");
    }

    /// Worked out in Python's doubles, operation by operation in the same order (`math.exp`, `math.tanh`).
    const EXPECTED: [u32; 10] = [
        0xBBB5_C6A9,
        0xBC13_F6DD,
        0x3822_0041,
        0xBB79_B9EB,
        0x3B05_973F,
        0x3B05_973F,
        0xBA8D_BB0F,
        0x3B3C_D5F8,
        0x3B4C_AC69,
        0xBA94_47CA,
    ];

    #[test]
    fn a_missing_or_ill_fitting_tensor_is_named() {
        let tensors = encoder(2).tensors().expect("tensors");
        let mut missing = tensors.clone();
        missing.remove("encoder.lstm_head.bias_hh_l1_reverse");
        let mut wide = tensors;
        let rows = Tensor::zeros((20, 7), candle_core::DType::F32, &Device::Cpu).expect("a tensor");
        wide.insert("encoder.lstm_head.weight_ih_l0".into(), rows);
        for (tensors, name) in [(missing, "bias_hh_l1_reverse"), (wide, "weight_ih_l0")] {
            let refused = Lstm::from_tensors(&tensors).err().expect("a refusal");
            assert!(
                matches!(&refused, Error::Malformed(what) if what.contains(name)),
                "{refused}"
            );
        }
    }
}
