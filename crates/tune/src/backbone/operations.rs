//! The steps of a layer between its products with frozen matrices.
//!
//! On the CPU they are this crate's own kernels ([`super::vectorised`]); anywhere else they are
//! candle's operations ([`super::portable`]), which compute the same on any device.

use candle_core::{Device, Tensor};

use super::Options;
use super::frozen::Pass;
use super::kernels::activation::Gelu;
use super::kernels::attention::Attention;
use super::kernels::rope::Rope;
use super::portable::Portable;
use super::rows::Rows;
use super::vectorised::Vectorised;
use super::weights::Weights;
use crate::error::Result;

/// γ, β `[H]` and ε of a layer norm: y = γ ∘ (x − mean x)/√(var x + ε) + β.
pub(super) struct LayerNorm {
    pub(super) gamma: Tensor,
    pub(super) beta: Tensor,
    pub(super) epsilon: f32,
}

impl LayerNorm {
    /// The norm `name`.weight, `name`.bias of `width` numbers; `gamma` and `beta` in BERTs that came from TensorFlow.
    pub(super) fn load(weights: &Weights, name: &str, width: usize, epsilon: f32) -> Result<Self> {
        let (gamma, beta) = match weights.has(&format!("{name}.gamma")) {
            true => ("gamma", "beta"),
            false => ("weight", "bias"),
        };
        Ok(Self {
            gamma: weights.vector(&format!("{name}.{gamma}"), width)?,
            beta: weights.vector(&format!("{name}.{beta}"), width)?,
            epsilon,
        })
    }
}

/// γ `[H]` and ε of a root-mean-square norm: y = γ ∘ x/√(mean x² + ε).
pub(super) struct RmsNorm {
    pub(super) gamma: Tensor,
    pub(super) epsilon: f32,
}

/// Steps on packed rows `[N, ·]`, f32. What a step takes by value it may overwrite: nobody else
/// may still need it. What it keeps for its vector–Jacobian product is its own business.
pub(super) trait Operations: Send + Sync {
    /// x + y.
    fn add(&self, x: Tensor, y: &Tensor) -> Result<Tensor>;

    /// x + b on every row.
    fn add_bias(&self, x: Tensor, bias: &Tensor) -> Result<Tensor>;

    /// x + p: `table` `[positions, H]` gives each row that of its position.
    fn add_positions(&self, x: &Tensor, table: &Tensor, rows: &Rows) -> Result<Tensor>;

    /// x ∘ y.
    fn multiply(&self, x: Tensor, y: &Tensor) -> Result<Tensor>;

    /// tanh x.
    fn tanh(&self, x: Tensor) -> Result<Tensor>;

    /// → y, x̂, scales `[N, 1]`.
    fn layer_norm(&self, norm: &LayerNorm, x: Tensor) -> Result<(Tensor, Tensor, Tensor)>;

    /// dx of [`Operations::layer_norm`], from the x̂ and the scales it left.
    fn layer_norm_vjp(
        &self,
        norm: &LayerNorm,
        normed: &Tensor,
        scales: &Tensor,
        grad: &Tensor,
    ) -> Result<Tensor>;

    /// → y, scales `[N, 1]`.
    fn rms_norm(&self, norm: &RmsNorm, x: &Tensor) -> Result<(Tensor, Tensor)>;

    /// `sum` + dx of [`Operations::rms_norm`], from its x and the scales it left.
    fn add_rms_norm_vjp(
        &self,
        norm: &RmsNorm,
        x: &Tensor,
        scales: &Tensor,
        grad: &Tensor,
        sum: Tensor,
    ) -> Result<Tensor>;

    /// Rotates q and k by their positions, forwards (`turn` = 1) or back (`turn` = −1, which is
    /// the vector–Jacobian product).
    fn rotate(
        &self,
        rope: &Rope,
        shape: &Attention,
        qkv: Tensor,
        rows: &Rows,
        turn: f32,
    ) -> Result<Tensor>;

    /// c = softmax(s·q·kᵀ)·v of rows q, k, v side by side: → c `[N, h·D]`, and the weights P, which
    /// are empty where the rows extend a sequence.
    fn attend(
        &self,
        shape: &Attention,
        qkv: &Tensor,
        rows: &Rows,
        pass: &mut Pass<'_>,
    ) -> Result<(Tensor, Tensor)>;

    /// The gradient for q, k, v from that for c and what [`Operations::attend`] read and left.
    fn attend_vjp(
        &self,
        shape: &Attention,
        qkv: &Tensor,
        weights: &Tensor,
        grad: &Tensor,
        rows: &Rows,
    ) -> Result<Tensor>;

    /// → gelu(x + b), and gelu′(x + b) where it is wanted.
    fn gelu(
        &self,
        gelu: Gelu,
        x: Tensor,
        bias: &Tensor,
        wanted: bool,
    ) -> Result<(Tensor, Option<Tensor>)>;

    /// Rows (g, u) `[N, 2·I]` → silu(g) ∘ u `[N, I]`, and both derivatives
    /// (silu′(g) ∘ u, silu(g)) `[N, 2·I]`.
    fn swiglu(&self, gated: Tensor) -> Result<(Tensor, Tensor)>;

    /// The gradient for (g, u) from that of [`Operations::swiglu`]'s output and its derivatives.
    fn swiglu_vjp(&self, slopes: &Tensor, grad: &Tensor) -> Result<Tensor>;

    /// log softmax of each row of `[R, C]` at its column: → `[R]`, and what the gradient needs.
    fn log_likelihood(&self, logits: &Tensor, columns: &[u32]) -> Result<(Tensor, Tensor)>;

    /// The gradient for the logits from that of [`Operations::log_likelihood`]'s output and what
    /// it left.
    fn log_likelihood_vjp(
        &self,
        logits: &Tensor,
        columns: &[u32],
        sums: &Tensor,
        grad: &Tensor,
    ) -> Result<Tensor>;
}

/// What steps on `device` are computed with.
pub(super) fn on(device: &Device, options: Options) -> &'static dyn Operations {
    match device {
        Device::Cpu if !options.portable => &Vectorised,
        _ => &Portable,
    }
}
