//! One direction of one LSTM layer, in f32.

use std::collections::HashMap;

use candle_core::{Device, Tensor, Var};

use super::super::variable;
use crate::backbone::kernels::activation::exp;
use crate::backbone::kernels::row::add_product;
use crate::backbone::kernels::{fma, vectorised};
use crate::error::{Error, Result};
use crate::random::SplitMix;
use crate::tensors::{floats, joined};

/// (i, f, g, o) = (σ, σ, tanh, σ)(W_ih·x_t + b_ih + W_hh·h + b_hh); c ← f∘c + i∘g; h ← o∘tanh(c), with h = c = 0 before the
/// first step (torch's `nn.LSTM`). Cloning shares the variables.
#[derive(Clone)]
pub(super) struct Direction {
    /// W_ih `[4M, I]`.
    weight_ih: Var,
    /// W_hh `[4M, M]`.
    weight_hh: Var,
    bias_ih: Var,
    bias_hh: Var,
    /// Whether the last position is read first.
    pub(super) reverse: bool,
}

/// What a pass keeps for the way back, each row a position.
pub(super) struct Trace {
    /// h `[V, M]`.
    hidden: Tensor,
    /// (i, f, g, o) `[V, 4M]`.
    gates: Vec<f32>,
    /// c `[V, M]`.
    cells: Vec<f32>,
}

impl Trace {
    pub(super) fn hidden(&self) -> &Tensor {
        &self.hidden
    }
}

/// The tensor's name in PEFT's `state_dict`.
pub(super) fn name(part: &str, layer: usize, reverse: bool) -> String {
    let suffix = if reverse { "_reverse" } else { "" };
    format!("encoder.lstm_head.{part}_l{layer}{suffix}")
}

impl Direction {
    pub(super) fn random(
        inputs: usize,
        inner: usize,
        reverse: bool,
        random: &mut SplitMix,
        device: &Device,
    ) -> Result<Self> {
        let bound = 1.0 / (inner as f64).sqrt();
        let mut matrix = |columns: usize| -> Result<Var> {
            let values = random.uniform(4 * inner * columns, bound);
            Ok(Var::from_vec(values, (4 * inner, columns), device)?)
        };
        let (weight_ih, weight_hh) = (matrix(inputs)?, matrix(inner)?);
        let mut bias = || -> Result<Var> {
            Ok(Var::from_vec(
                random.uniform(4 * inner, bound),
                4 * inner,
                device,
            )?)
        };
        Ok(Self {
            weight_ih,
            weight_hh,
            bias_ih: bias()?,
            bias_hh: bias()?,
            reverse,
        })
    }

    pub(super) fn from_tensors(
        tensors: &HashMap<String, Tensor>,
        layer: usize,
        inputs: usize,
        reverse: bool,
    ) -> Result<Self> {
        let take = |part, rank| variable(tensors, &name(part, layer, reverse), rank);
        let direction = Self {
            weight_ih: take("weight_ih", 2)?,
            weight_hh: take("weight_hh", 2)?,
            bias_ih: take("bias_ih", 1)?,
            bias_hh: take("bias_hh", 1)?,
            reverse,
        };
        let inner = direction.inner();
        for (part, variable, shape) in [
            ("weight_ih", &direction.weight_ih, &[4 * inner, inputs][..]),
            ("weight_hh", &direction.weight_hh, &[4 * inner, inner]),
            ("bias_ih", &direction.bias_ih, &[4 * inner]),
            ("bias_hh", &direction.bias_hh, &[4 * inner]),
        ] {
            if variable.dims() != shape {
                return Err(Error::Malformed(format!(
                    "{} has shape {:?}, not {shape:?}",
                    name(part, layer, reverse),
                    variable.dims()
                )));
            }
        }
        Ok(direction)
    }

    /// M.
    pub(super) fn inner(&self) -> usize {
        self.weight_hh.dims().get(1).copied().unwrap_or(0)
    }

    /// I.
    pub(super) fn inputs(&self) -> usize {
        self.weight_ih.dims().get(1).copied().unwrap_or(0)
    }

    /// Number of parameters.
    pub(super) fn dimension(&self) -> usize {
        4 * self.inner() * (self.inputs() + self.inner() + 2)
    }

    /// In the order of torch's `state_dict`.
    pub(super) fn parameters(&self, layer: usize) -> [(String, Var); 4] {
        let named = |part, variable: &Var| (name(part, layer, self.reverse), variable.clone());
        [
            named("weight_ih", &self.weight_ih),
            named("weight_hh", &self.weight_hh),
            named("bias_ih", &self.bias_ih),
            named("bias_hh", &self.bias_hh),
        ]
    }

    /// x `[V, I]` → h `[V, M]` and what the way back needs.
    pub(super) fn forward(&self, x: &Tensor) -> Result<Trace> {
        let (length, inner) = (x.dims2()?.0, self.inner());
        let bias = (self.bias_ih.as_tensor() + self.bias_hh.as_tensor())?.detach();
        let weight = self.weight_ih.as_detached_tensor();
        let mut gates = joined(&[x.matmul(&weight.t()?)?.broadcast_add(&bias)?])?;
        let (weight, layout) = self.weight_hh.storage_and_layout();
        let weight = floats(&weight, layout)?;
        let mut cells = vec![0_f32; length * inner];
        let mut hidden = vec![0_f32; length * inner];
        let nothing = vec![0_f32; inner];
        for (t, before) in steps(length, self.reverse) {
            let gates = &mut gates[t * 4 * inner..(t + 1) * 4 * inner];
            if let Some(before) = before {
                add_product(weight, &hidden[before * inner..(before + 1) * inner], gates);
            }
            let carried = match before {
                Some(before) => cells[before * inner..(before + 1) * inner].to_vec(),
                None => nothing.clone(),
            };
            let row = t * inner..(t + 1) * inner;
            step(gates, &carried, &mut cells[row.clone()], &mut hidden[row]);
        }
        Ok(Trace {
            hidden: Tensor::from_vec(hidden, (length, inner), x.device())?,
            gates,
            cells,
        })
    }

    /// From the slope of h `[V, M]`: that of x, and of W_ih, W_hh, b_ih, b_hh.
    pub(super) fn pull_back(
        &self,
        x: &Tensor,
        trace: &Trace,
        slope: &Tensor,
    ) -> Result<(Tensor, Vec<Tensor>)> {
        let (length, inner) = (x.dims2()?.0, self.inner());
        let (slope, layout) = slope.storage_and_layout();
        let slope = floats(&slope, layout)?;
        let (weight, layout) = self.weight_hh.storage_and_layout();
        let weight = floats(&weight, layout)?;
        let mut slopes = vec![0_f32; length * 4 * inner];
        let (mut d_hidden, mut d_cell) = (vec![0_f32; inner], vec![0_f32; inner]);
        let nothing = vec![0_f32; inner];
        for (t, before) in steps(length, self.reverse).rev() {
            let row = t * inner..(t + 1) * inner;
            (d_hidden.iter_mut().zip(&slope[row.clone()])).for_each(|(d, s)| *d += s);
            let carried = match before {
                Some(before) => &trace.cells[before * inner..(before + 1) * inner],
                None => &nothing,
            };
            let wide = t * 4 * inner..(t + 1) * 4 * inner;
            let gates = &trace.gates[wide.clone()];
            step_back(
                gates,
                carried,
                &trace.cells[row],
                &d_hidden,
                &mut d_cell,
                &mut slopes[wide.clone()],
            );
            d_hidden.fill(0.0);
            add_transposed_product(weight, &slopes[wide], &mut d_hidden);
        }
        let slopes = Tensor::from_vec(slopes, (length, 4 * inner), x.device())?;
        let across = slopes.t()?;
        let bias = slopes.sum(0)?;
        let gradient = vec![
            across.matmul(x)?,
            across.matmul(&self.before(trace)?)?,
            bias.clone(),
            bias,
        ];
        let input = slopes.matmul(&self.weight_ih.as_detached_tensor())?;
        Ok((input, gradient))
    }

    /// What each position was given of the one read before it, `[V, M]`.
    fn before(&self, trace: &Trace) -> Result<Tensor> {
        let (length, _) = trace.hidden.dims2()?;
        let nothing = trace.hidden.narrow(0, 0, 1)?.zeros_like()?;
        let parts = match self.reverse {
            false => [nothing, trace.hidden.narrow(0, 0, length - 1)?],
            true => [trace.hidden.narrow(0, 1, length - 1)?, nothing],
        };
        Ok(Tensor::cat(&parts, 0)?)
    }
}

/// Positions in the order they are read, each with the one read before it.
pub(super) fn steps(
    length: usize,
    reverse: bool,
) -> impl DoubleEndedIterator<Item = (usize, Option<usize>)> {
    (0..length).map(move |step| match (reverse, step) {
        (false, 0) => (0, None),
        (true, 0) => (length - 1, None),
        (false, _) => (step, Some(step - 1)),
        (true, _) => (length - 1 - step, Some(length - step)),
    })
}

vectorised! {
    /// y ← y + Wᵀ·x, W `[x, y]` row-major; four rows a pass.
    fn add_transposed_product<'a>(weight: &'a [f32], x: &'a [f32], y: &'a mut [f32]) {
        let width = y.len();
        for (rows, x) in weight.chunks(4 * width).zip(x.chunks(4)) {
            if let [a, b, c, d] = *x {
                let (first, rest) = rows.split_at(width);
                let (second, rest) = rest.split_at(width);
                let (third, fourth) = rest.split_at(width);
                let pairs = first.iter().zip(second).zip(third.iter().zip(fourth));
                for (y, ((p, q), (r, s))) in y.iter_mut().zip(pairs) {
                    let low = fma::<FMA>(a, *p, fma::<FMA>(b, *q, *y));
                    *y = fma::<FMA>(c, *r, fma::<FMA>(d, *s, low));
                }
            } else {
                for (row, x) in rows.chunks_exact(width).zip(x) {
                    y.iter_mut().zip(row).for_each(|(y, w)| *y = fma::<FMA>(*x, *w, *y));
                }
            }
        }
    }
}

vectorised! {
    /// Gates before their activation become gates; c and h follow.
    fn step<'a>(gates: &'a mut [f32], carried: &'a [f32], cells: &'a mut [f32], hidden: &'a mut [f32]) {
        let inner = carried.len();
        let (input, rest) = gates.split_at_mut(inner);
        let (forget, rest) = rest.split_at_mut(inner);
        let (candidate, output) = rest.split_at_mut(inner);
        for gate in input.iter_mut().chain(forget.iter_mut()).chain(output.iter_mut()) {
            *gate = sigmoid::<FMA>(*gate);
        }
        for gate in candidate.iter_mut() {
            *gate = tanh::<FMA>(*gate);
        }
        for at in 0..inner {
            cells[at] = fma::<FMA>(forget[at], carried[at], input[at] * candidate[at]);
            hidden[at] = output[at] * tanh::<FMA>(cells[at]);
        }
    }
}

vectorised! {
    /// `d_cell` comes from the step after and goes to the one before; `out` gets the slope of the gates before their
    /// activation.
    fn step_back<'a>(gates: &'a [f32], carried: &'a [f32], cells: &'a [f32], d_hidden: &'a [f32], d_cell: &'a mut [f32], out: &'a mut [f32]) {
        let inner = carried.len();
        let (input, rest) = gates.split_at(inner);
        let (forget, rest) = rest.split_at(inner);
        let (candidate, output) = rest.split_at(inner);
        let (d_input, rest) = out.split_at_mut(inner);
        let (d_forget, rest) = rest.split_at_mut(inner);
        let (d_candidate, d_output) = rest.split_at_mut(inner);
        for at in 0..inner {
            let (i, f, g, o) = (input[at], forget[at], candidate[at], output[at]);
            let tanh = tanh::<FMA>(cells[at]);
            let d = fma::<FMA>(d_hidden[at] * o, 1.0 - tanh * tanh, d_cell[at]);
            d_cell[at] = d * f;
            d_input[at] = d * g * i * (1.0 - i);
            d_forget[at] = d * carried[at] * f * (1.0 - f);
            d_candidate[at] = d * i * (1.0 - g * g);
            d_output[at] = d_hidden[at] * tanh * o * (1.0 - o);
        }
    }
}

#[inline(always)]
fn sigmoid<const FMA: bool>(x: f32) -> f32 {
    1.0 / (1.0 + exp::<FMA>(-x))
}

#[inline(always)]
fn tanh<const FMA: bool>(x: f32) -> f32 {
    2.0 * sigmoid::<FMA>(2.0 * x) - 1.0
}
