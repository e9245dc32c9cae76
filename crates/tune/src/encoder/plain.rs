//! Encoders in f64, one operation after the other: the same bits on every machine.
//!
//! Sums run in index order; there is no fused multiply–add, and exponentials are `libm`'s. Results are rounded to f32 at the
//! end.

/// Widens f32 numbers.
pub(super) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&x| x.into()).collect()
}

/// A layer's numbers, row-major: W `[outputs, inputs]`, b `[outputs]`.
pub(super) struct Layer {
    pub(super) weight: Vec<f64>,
    pub(super) bias: Vec<f64>,
}

/// Gradients of a layer: of its weight and bias, and of what went in.
pub(super) struct LayerGradient {
    pub(super) weight: Vec<f64>,
    pub(super) bias: Vec<f64>,
    pub(super) input: Vec<f64>,
}

impl Layer {
    fn inputs(&self) -> usize {
        self.weight.len() / self.bias.len()
    }

    /// a·Wᵀ + b, for each row of a.
    pub(super) fn forward(&self, a: &[f64]) -> Vec<f64> {
        let mut out = Vec::with_capacity(a.len() / self.inputs() * self.bias.len());
        for a in a.chunks_exact(self.inputs()) {
            for (w, b) in self.weight.chunks_exact(self.inputs()).zip(&self.bias) {
                out.push(a.iter().zip(w).fold(*b, |sum, (a, w)| sum + a * w));
            }
        }
        out
    }

    /// With G the slope of what came out: Gᵀ·a, Σ G over rows, and G·W.
    pub(super) fn pull_back(&self, a: &[f64], g: &[f64]) -> LayerGradient {
        let (outputs, inputs) = (self.bias.len(), self.inputs());
        let mut bias = vec![0.0; outputs];
        let mut weight = vec![0.0; self.weight.len()];
        let mut input = vec![0.0; a.len()];
        let rows = g.chunks_exact(outputs).zip(a.chunks_exact(inputs));
        for ((g, a), input) in rows.zip(input.chunks_exact_mut(inputs)) {
            for (output, &g) in g.iter().enumerate() {
                bias[output] += g;
                let run = output * inputs..(output + 1) * inputs;
                add_scaled(&mut weight[run.clone()], g, a);
                add_scaled(input, g, &self.weight[run]);
            }
        }
        LayerGradient {
            weight,
            bias,
            input,
        }
    }
}

/// y ← y + a·x.
pub(super) fn add_scaled(y: &mut [f64], a: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}
