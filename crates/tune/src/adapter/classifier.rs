//! The layer of a sequence classifier, as an adapter holds it.

use candle_core::{DType, Tensor};

use super::settled;
use crate::error::Result;
use crate::head::Classifier;

/// scores = features · Wᵀ + b.
#[derive(Clone, Debug)]
pub struct ClassifierWeights {
    /// W, `[L, H]`.
    pub weight: Tensor,
    /// b, `[L]`: BERT's `classifier` has it, the `score` of decoders has not.
    pub bias: Option<Tensor>,
}

impl ClassifierWeights {
    /// The values of a classifier that was trained here.
    pub fn of(classifier: &Classifier) -> Self {
        Self {
            weight: classifier.weight().detach(),
            bias: Some(classifier.bias().detach()),
        }
    }

    /// A classifier that starts from these values, its bias at zero where there is none.
    ///
    /// # Errors
    /// [`crate::Error::Misuse`] for shapes that do not fit together.
    pub fn classifier(&self) -> Result<Classifier> {
        let zeros = || Tensor::zeros(self.weight.dim(0)?, DType::F32, self.weight.device());
        let bias = self.bias.clone().map_or_else(zeros, Ok)?;
        Classifier::from_tensors(&self.weight, &bias)
    }

    pub(super) fn settled(&self) -> Result<Self> {
        Ok(Self {
            weight: settled(&self.weight)?,
            bias: self.bias.as_ref().map(settled).transpose()?,
        })
    }
}
