//! An LSTM layer in f64, one operation after the other: the same bits on every machine.

use super::super::plain::{add_scaled, wide};
use super::direction::{self, steps};

/// One direction's numbers, row-major.
pub(super) struct Direction {
    weight_ih: Vec<f64>,
    weight_hh: Vec<f64>,
    /// b_ih + b_hh.
    bias: Vec<f64>,
    inner: usize,
    inputs: usize,
    reverse: bool,
}

/// Both directions of a layer, run over its input.
pub(super) struct Layer([Run; 2]);

struct Run {
    direction: Direction,
    /// (i, f, g, o) a position.
    gates: Vec<f64>,
    cells: Vec<f64>,
    hidden: Vec<f64>,
}

impl Direction {
    /// From its part of a flat θ: W_ih, W_hh, b_ih, b_hh.
    pub(super) fn new(shape: &direction::Direction, parameters: &[f32]) -> Self {
        let (inner, inputs) = (shape.inner(), shape.inputs());
        let (weight_ih, rest) = parameters.split_at(4 * inner * inputs);
        let (weight_hh, rest) = rest.split_at(4 * inner * inner);
        let (bias_ih, bias_hh) = rest.split_at(4 * inner);
        let mut bias = wide(bias_ih);
        add_scaled(&mut bias, 1.0, &wide(bias_hh));
        Self {
            weight_ih: wide(weight_ih),
            weight_hh: wide(weight_hh),
            bias,
            inner,
            inputs,
            reverse: shape.reverse,
        }
    }

    /// Σ w·x from `start`, in index order.
    fn product(weight: &[f64], x: &[f64], start: f64) -> f64 {
        weight.iter().zip(x).fold(start, |sum, (w, x)| sum + w * x)
    }

    fn run(self, x: &[f64]) -> Run {
        let (inner, length) = (self.inner, x.len() / self.inputs);
        let mut gates = vec![0.0; length * 4 * inner];
        let (mut cells, mut hidden) = (vec![0.0; length * inner], vec![0.0; length * inner]);
        let nothing = vec![0.0; inner];
        for (t, before) in steps(length, self.reverse) {
            let of = |values: &[f64]| match before {
                Some(before) => values[before * inner..(before + 1) * inner].to_vec(),
                None => nothing.clone(),
            };
            let (carried, read) = (of(&cells), of(&hidden));
            let x = &x[t * self.inputs..(t + 1) * self.inputs];
            let gates = &mut gates[t * 4 * inner..(t + 1) * 4 * inner];
            for (at, gate) in gates.iter_mut().enumerate() {
                let row = &self.weight_ih[at * self.inputs..(at + 1) * self.inputs];
                let sum = Self::product(row, x, self.bias[at]);
                let row = &self.weight_hh[at * inner..(at + 1) * inner];
                let sum = Self::product(row, &read, sum);
                *gate = match at / inner {
                    2 => libm::tanh(sum),
                    _ => 1.0 / (1.0 + libm::exp(-sum)),
                };
            }
            for at in 0..inner {
                let [i, f, g, o] = [0, 1, 2, 3].map(|gate| gates[gate * inner + at]);
                cells[t * inner + at] = f * carried[at] + i * g;
                hidden[t * inner + at] = o * libm::tanh(cells[t * inner + at]);
            }
        }
        Run {
            direction: self,
            gates,
            cells,
            hidden,
        }
    }
}

impl Run {
    /// From the slope of h: adds that of x to `dx`; → that of W_ih, W_hh, b_ih, b_hh.
    fn pull_back(&self, x: &[f64], slope: &[f64], dx: &mut [f64]) -> Vec<f64> {
        let Direction {
            inner,
            inputs,
            ref weight_ih,
            ref weight_hh,
            reverse,
            ..
        } = self.direction;
        let length = x.len() / inputs;
        let mut d_ih = vec![0.0; weight_ih.len()];
        let mut d_hh = vec![0.0; weight_hh.len()];
        let mut d_bias = vec![0.0; 4 * inner];
        let (mut d_hidden, mut d_cell) = (vec![0.0; inner], vec![0.0; inner]);
        let mut d_gates = vec![0.0; 4 * inner];
        let nothing = vec![0.0; inner];
        for (t, before) in steps(length, reverse).rev() {
            add_scaled(&mut d_hidden, 1.0, &slope[t * inner..(t + 1) * inner]);
            let of = |values| match before {
                Some(before) => part(values, before, inner),
                None => &nothing,
            };
            let (carried, read) = (of(&self.cells), of(&self.hidden));
            for at in 0..inner {
                let [i, f, g, o] = [0, 1, 2, 3].map(|gate| self.gates[(4 * t + gate) * inner + at]);
                let tanh = libm::tanh(self.cells[t * inner + at]);
                let d = d_cell[at] + d_hidden[at] * o * (1.0 - tanh * tanh);
                d_cell[at] = d * f;
                d_gates[at] = d * g * i * (1.0 - i);
                d_gates[inner + at] = d * carried[at] * f * (1.0 - f);
                d_gates[2 * inner + at] = d * i * (1.0 - g * g);
                d_gates[3 * inner + at] = d_hidden[at] * tanh * o * (1.0 - o);
            }
            d_hidden.fill(0.0);
            let (x, dx) = (part(x, t, inputs), &mut dx[t * inputs..(t + 1) * inputs]);
            for (at, &d) in d_gates.iter().enumerate() {
                d_bias[at] += d;
                let (wide, narrow) = (at * inputs..(at + 1) * inputs, at * inner..(at + 1) * inner);
                add_scaled(&mut d_ih[wide.clone()], d, x);
                add_scaled(dx, d, &weight_ih[wide]);
                add_scaled(&mut d_hh[narrow.clone()], d, read);
                add_scaled(&mut d_hidden, d, &weight_hh[narrow]);
            }
        }
        [d_ih, d_hh, d_bias.clone(), d_bias].concat()
    }
}

/// Row `at` of rows of `width`.
fn part(values: &[f64], at: usize, width: usize) -> &[f64] {
    &values[at * width..(at + 1) * width]
}

impl Layer {
    /// Runs both over x `[V, I]`.
    pub(super) fn run(forward: Direction, reverse: Direction, x: &[f64]) -> Self {
        Self([forward.run(x), reverse.run(x)])
    }

    /// `[V, 2M]`.
    pub(super) fn hidden(&self) -> Vec<f64> {
        let [forward, reverse] = &self.0;
        let rows = |run: &'_ Run| {
            run.hidden
                .chunks_exact(run.direction.inner)
                .map(<[f64]>::to_vec)
                .collect::<Vec<_>>()
        };
        let pairs = rows(forward).into_iter().zip(rows(reverse));
        pairs.flat_map(|(a, b)| [a, b].concat()).collect()
    }

    /// From the slope of [`Layer::hidden`]: that of x, and of the parameters.
    pub(super) fn pull_back(&self, x: &[f64], slope: &[f64]) -> (Vec<f64>, Vec<f64>) {
        let inner = self.0[0].direction.inner;
        let half = |at: usize| -> Vec<f64> {
            let rows = slope.chunks_exact(2 * inner);
            rows.flat_map(|row| part(row, at, inner)).copied().collect()
        };
        let mut dx = vec![0.0; x.len()];
        let mut gradient = self.0[0].pull_back(x, &half(0), &mut dx);
        gradient.extend(self.0[1].pull_back(x, &half(1), &mut dx));
        (dx, gradient)
    }
}
