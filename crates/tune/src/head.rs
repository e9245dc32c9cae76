//! From hidden states to class scores: pooling, and the one trained layer after it.

use candle_core::{D, DType, Device, Tensor, Var};

use crate::backbone::Backbone;
use crate::error::{Error, Result};
use crate::random::SplitMix;

/// How a sequence of hidden states becomes one feature vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// The model's own pooler over the first position (the first virtual token, as in PEFT's
    /// sequence classification): tanh(W·h₀ + b).
    First,
    /// Mean over all positions that the mask keeps, virtual tokens included.
    Mean,
}

impl Pooling {
    /// `hidden` `[B, T, H]` and `mask` `[B, T]` (f32, 1 or 0) → features `[B, H]`,
    /// differentiable in `hidden`.
    ///
    /// # Errors
    /// [`Error::Misuse`] for [`Pooling::First`] on a backbone without a pooler.
    pub fn features(
        self,
        backbone: &dyn Backbone,
        hidden: &Tensor,
        mask: &Tensor,
    ) -> Result<Tensor> {
        match self {
            Self::First => backbone.pool(&hidden.narrow(1, 0, 1)?.squeeze(1)?),
            Self::Mean => {
                let mask = mask.to_dtype(DType::F32)?;
                let weights = mask.broadcast_div(&mask.sum_keepdim(1)?)?;
                Ok(weights.unsqueeze(1)?.matmul(hidden)?.squeeze(1)?)
            }
        }
    }
}

/// features · length / ‖features‖₂, row by row, `[B, H]`: bounds what one example can do to the
/// classifier's gradient. A row of zeros stays zero.
///
/// # Errors
/// [`Error::Misuse`] for a length that is not positive.
pub fn normalise(features: &Tensor, length: f64) -> Result<Tensor> {
    if !(length.is_finite() && length > 0.0) {
        return Err(Error::Misuse(format!(
            "features cannot be scaled to length {length}"
        )));
    }
    let squared = features.sqr()?.sum_keepdim(D::Minus1)?;
    let norms = (squared + 1e-12)?.sqrt()?;
    Ok((features.broadcast_div(&norms)? * length)?)
}

/// scores = features · Wᵀ + b, with W `[L, H]` and b `[L]` both trained.
#[derive(Clone)]
pub struct Classifier {
    weight: Var,
    bias: Var,
}

impl Classifier {
    /// W = 0, b = 0: every label equally likely, and the start that noise-limited training
    /// needs.
    ///
    /// # Errors
    /// [`Error::Fault`] if memory cannot be had.
    pub fn zeros(labels: usize, hidden: usize, device: &Device) -> Result<Self> {
        Ok(Self {
            weight: Var::zeros((labels, hidden), DType::F32, device)?,
            bias: Var::zeros(labels, DType::F32, device)?,
        })
    }

    /// W ~ N(0, 0.02²), b = 0, as transformers starts BERT's classifier.
    ///
    /// # Errors
    /// [`Error::Fault`] if memory cannot be had.
    pub fn random(labels: usize, hidden: usize, seed: u64, device: &Device) -> Result<Self> {
        let weight = SplitMix::new(seed).normal(labels * hidden, 0.02);
        Ok(Self {
            weight: Var::from_vec(weight, (labels, hidden), device)?,
            bias: Var::zeros(labels, DType::F32, device)?,
        })
    }

    /// A classifier from given values: `weight` `[L, H]`, `bias` `[L]`.
    ///
    /// # Errors
    /// [`Error::Misuse`] for shapes that do not fit together.
    pub fn from_tensors(weight: &Tensor, bias: &Tensor) -> Result<Self> {
        if weight.rank() != 2 || bias.rank() != 1 || weight.dims().first() != bias.dims().first() {
            return Err(Error::Misuse(format!(
                "classifier weight {:?} and bias {:?}",
                weight.dims(),
                bias.dims()
            )));
        }
        Ok(Self {
            weight: Var::from_tensor(&weight.to_dtype(DType::F32)?)?,
            bias: Var::from_tensor(&bias.to_dtype(DType::F32)?)?,
        })
    }

    /// W, `[L, H]`.
    pub fn weight(&self) -> &Tensor {
        &self.weight
    }

    /// b, `[L]`.
    pub fn bias(&self) -> &Tensor {
        &self.bias
    }

    /// Number of labels L.
    pub fn labels(&self) -> usize {
        self.bias.elem_count()
    }

    /// `[B, H]` → `[B, L]`, differentiable in the features, W and b.
    ///
    /// # Errors
    /// [`Error::Fault`] for features of another length than H.
    pub fn forward(&self, features: &Tensor) -> Result<Tensor> {
        Ok(features
            .matmul(&self.weight.t()?)?
            .broadcast_add(&self.bias)?)
    }

    /// `classifier.weight`, then `classifier.bias`.
    pub fn parameters(&self) -> Vec<(String, Var)> {
        vec![
            ("classifier.weight".to_owned(), self.weight.clone()),
            ("classifier.bias".to_owned(), self.bias.clone()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_rows_have_the_length_asked_for_and_zero_stays_zero() {
        let features = Tensor::new(&[[3f32, 4.0], [0.0, 0.0]], &Device::Cpu).expect("features");
        let rows = normalise(&features, 8.0)
            .and_then(|t| Ok(t.to_vec2::<f32>()?))
            .expect("rows");
        assert!((rows[0][0] - 4.8).abs() < 1e-5 && (rows[0][1] - 6.4).abs() < 1e-5);
        assert_eq!(rows[1], [0.0, 0.0]);
        assert!(matches!(normalise(&features, 0.0), Err(Error::Misuse(_))));
    }

    #[test]
    fn a_classifier_of_zeros_scores_every_label_alike() {
        let classifier = Classifier::zeros(3, 2, &Device::Cpu).expect("a classifier");
        let features = Tensor::new(&[[3f32, 4.0]], &Device::Cpu).expect("features");
        let scores = classifier.forward(&features).expect("scores");
        assert_eq!(scores.to_vec2::<f32>().expect("rows"), [[0.0; 3]]);
        assert_eq!(classifier.labels(), 3);
    }
}
